//! A forecast model in the agent: predicted values and residuals come to the broker with the times of their rows, and stored samples
//! give the same.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use millrace_tests::agent::Gateway;
use millrace_tests::broker::Broker;
use millrace_tests::bundle::Bundle;
use millrace_tests::received::Received;
use millrace_tests::sim::SimModbus;
use millrace_tests::subscriber::Subscriber;
use millrace_tests::wait::{STEP, wait_for};
use serde_json::Value;

use crate::plant;

const GRID_MS: i64 = 200;

/// Two inputs that stay where they are until somebody writes them.
fn device(port: u16) -> String {
    let mut text = format!(
        "[[device]]\nname = \"pump\"\ndriver = \"modbus-tcp\"\naddress = \"127.0.0.1:{port}\"\nunit_id = 1\n\
         poll_interval = \"200ms\"\ntimeout = \"1s\"\n\n"
    );
    for (name, address) in [("a", 0), ("b", 2)] {
        text.push_str(&format!(
            "[[device.tag]]\nname = \"{name}\"\naddress = \"holding:{address}\"\ntype = \"f32\"\nwritable = true\n\n"
        ));
    }
    text + "[[model]]\nname = \"ahead\"\nbundle = \"line\"\n[model.inputs]\na = \"pump/a\"\nb = \"pump/b\"\n"
}

/// A model that predicts that both inputs go on along the line through their newest two rows.
fn bundle(directory: &Path) -> Result<()> {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../inference/tests/models");
    let model = std::fs::read(models.join("line.onnx"))?;
    let bundle = Bundle::write(&directory.join("line"), "1.0.0", &model)?;
    bundle.edit(
        "[output]\nscore = \"score\"",
        "[forecast]\noutput = \"predicted\"\nroles = [\"a\", \"b\"]\nsigma = [0.5, 2]",
    )?;
    bundle.edit("value = 1e12", "value = 10")?;
    // No row is made without a sample that a slow machine brings late.
    bundle.edit("max_gap", "lateness = \"2s\"\nmax_gap")
}

/// Predicted value and residual of a role, by the time in ms.
fn told(got: &Received, role: &str) -> BTreeMap<i64, (f64, f64)> {
    let of = |what: &str| -> BTreeMap<i64, f64> {
        let tag = format!("{what}/{role}");
        let samples = got.of_tag("ahead", &tag);
        samples
            .filter_map(|it| Some((it.at_ms.round() as i64, it.value.as_f64()?)))
            .collect()
    };
    let residuals = of("residual");
    let predicted = of("predicted").into_iter();
    predicted
        .filter_map(|(at, value)| Some((at, (value, *residuals.get(&at)?))))
        .collect()
}

#[test]
fn predicted_values_and_residuals_are_tags() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let place = directory.path();
    std::fs::write(
        place.join("map.csv"),
        "name,address,type,order,signal\na,holding:0,f32,,constant 5\nb,holding:2,f32,,constant 7\n",
    )?;
    let sim = SimModbus::start(&["--map", "map.csv"], place)?;
    let broker = Broker::start(place)?;
    let subscriber = Subscriber::start(broker.port)?;
    bundle(place)?;
    let mut gateway = Gateway::new(place);
    let uplink = plant::uplink_config(broker.port);
    gateway.configure(&format!("{uplink}{}", device(sim.port)))?;
    gateway.start()?;
    let counted = |least: usize| move |got: &Received| told(got, "b").len() >= least;
    subscriber
        .wait("residuals", STEP, counted(5))
        .with_context(|| gateway.log())?;
    gateway.json(&["write", "pump/a", "25"])?;
    let begin = || {
        subscriber.look(|got| {
            let mut events = got.events_of("ahead").filter(|it| it["state"] == "begin");
            events.next().cloned()
        })
    };
    let event = wait_for("the step as an anomaly", STEP, begin)?;
    assert_eq!(event["top"][0]["role"], "a", "{event}");
    let rows = subscriber.look(|got| told(got, "b").len());
    subscriber.wait("rows after it", STEP, counted(rows + 5))?;

    let (a, b) = subscriber.look(|got| (told(got, "a"), told(got, "b")));
    assert!(b.values().all(|pair| *pair == (7.0, 0.0)), "{b:?}");
    let measured = |at: &i64| a.get(at).map(|(predicted, residual)| predicted + residual);
    assert!(
        a.keys()
            .all(|at| [5.0, 25.0].map(Some).contains(&measured(at))),
        "{a:?}"
    );
    // Each prediction is of the two rows before, which is told by the times.
    let mut checked = 0;
    for (at, (predicted, _)) in &a {
        if let (Some(before), Some(last)) =
            (measured(&(at - 2 * GRID_MS)), measured(&(at - GRID_MS)))
        {
            assert_eq!(*predicted, 2.0 * last - before, "{at} {a:?}");
            checked += 1;
        }
    }
    assert!(
        checked > 8 && a.values().any(|pair| *pair == (5.0, 20.0)),
        "{a:?}"
    );

    // The samples that were stored give the same.
    let config = place.join("millrace.toml").display().to_string();
    let eval = ["model", "eval", "ahead", "--config", &config];
    let report = gateway.json(&[&eval[..], &["--from-buffer", "--windows"]].concat())?;
    let windows = report["windows"].as_array().context("windows")?;
    let mut same = 0;
    for window in windows {
        let at = window["end"].as_f64().context("end")?.round() as i64;
        if let Some((predicted, residual)) = a.get(&at) {
            let values = &window["values"];
            let pair = [&values["predicted/a"], &values["residual/a"]].map(Value::as_f64);
            ensure!(pair == [Some(*predicted), Some(*residual)], "{window}");
            same += 1;
        }
    }
    // The newest rows may not be stored yet.
    ensure!(same > 8, "{same} rows: {report}");
    Ok(())
}
