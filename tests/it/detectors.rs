//! Detectors that need no bundle, from a simulated device to the broker: each finds what it is for and names the input.

use anyhow::{Context, Result, ensure};
use millrace_tests::agent::Gateway;
use millrace_tests::broker::Broker;
use millrace_tests::sim::SimModbus;
use millrace_tests::subscriber::Subscriber;
use millrace_tests::wait::{STEP, wait_for};
use serde_json::Value;

use crate::plant;

/// `level` changes with every poll; the twins go with it, but for some noise. Of two that go together and part nobody can
/// say which one left; of three, the one that left is beside two that still agree.
const MAP: &str = "name,address,type,order,signal\n\
                   level,holding:0,f32,,sine 50 10 7s\n\
                   twin,holding:2,f32,,sine 20 4 7s 0.2\n\
                   other,holding:4,f32,,sine 30 6 7s 0.3\n";

/// With a row a poll cycle, a slow machine makes no row that was not read.
const MODELS: &str = r#"
[[model]]
name = "stuck"
detector = "stuck"
rows = 10
grid = "scan"
on = 1
off = 1
[model.inputs]
level = "pump/level"

[[model]]
name = "rate"
detector = "rate"
grid = "scan"
on = 1
off = 1
[model.inputs]
level = "pump/level"
[model.limits]
level = 20

[[model]]
name = "pca"
detector = "pca"
train = 40
grid = "scan"
threshold_value = 20
[model.inputs]
level = "pump/level"
twin = "pump/twin"
other = "pump/other"

[[model]]
name = "missing"
detector = "missing"
rows = 5
grid = "200ms"
max_gap = "1s"
on = 1
off = 1
[model.inputs]
level = "pump/level"
twin = "pump/twin"
"#;

fn config(port: u16, broker: u16) -> String {
    let mut text = plant::uplink_config(broker);
    text.push_str(&format!(
        "[[device]]\nname = \"pump\"\ndriver = \"modbus-tcp\"\naddress = \"127.0.0.1:{port}\"\nunit_id = 1\n\
         poll_interval = \"200ms\"\ntimeout = \"500ms\"\n\n"
    ));
    for (name, address) in [("level", 0), ("twin", 2), ("other", 4)] {
        text.push_str(&format!(
            "[[device.tag]]\nname = \"{name}\"\naddress = \"holding:{address}\"\ntype = \"f32\"\nwritable = true\n\n"
        ));
    }
    text + MODELS
}

/// The events of a detector that came to the broker, in this state.
fn events(subscriber: &Subscriber, model: &str, state: &str) -> Vec<Value> {
    subscriber.look(|got| {
        let events = got.events_of(model).filter(|it| it["state"] == state);
        events.cloned().collect()
    })
}

/// Waits until a detector has one event of this state, and gives it.
fn one(subscriber: &Subscriber, model: &str, state: &str) -> Result<Value> {
    wait_for(&format!("{state} of {model}"), STEP, || {
        events(subscriber, model, state).pop()
    })?;
    let mut events = events(subscriber, model, state);
    ensure!(events.len() == 1, "{model}: {events:?}");
    Ok(events.remove(0))
}

/// The role with the largest share.
fn top(event: &Value) -> &str {
    event["top"][0]["role"].as_str().unwrap_or_default()
}

#[test]
fn each_detector_finds_its_fault_and_tells_the_broker() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let place = directory.path();
    std::fs::write(place.join("map.csv"), MAP)?;
    let sim = SimModbus::start(&["--map", "map.csv"], place)?;
    let broker = Broker::start(place)?;
    let subscriber = Subscriber::start(broker.port)?;
    let mut gateway = Gateway::new(place);
    gateway.configure(&config(sim.port, broker.port))?;
    gateway.start()?;

    wait_for("all detectors at work", STEP, || {
        let status = gateway.json(&["status"]).ok()?;
        let mut models = status["models"].as_array()?.iter();
        models.all(|it| it["state"] == "running").then_some(())
    })
    .with_context(|| gateway.log())?;
    for model in ["stuck", "rate", "pca", "missing"] {
        ensure!(events(&subscriber, model, "begin").is_empty(), "{model}");
    }

    // What was written stays: the twin leaves its place beside the others.
    gateway.json(&["write", "pump/twin", "60"])?;
    let event = one(&subscriber, "pca", "begin")?;
    assert_eq!((top(&event), &event["version"]), ("twin", &"pca".into()));
    assert!(event["score"].as_f64() > Some(20.0), "{event}");
    subscriber.wait("T² and Q", STEP, |got| {
        got.of_tag("pca", "t2").count() > 0 && got.of_tag("pca", "q").count() > 0
    })?;

    // The level jumps, and then does not change any more.
    gateway.json(&["write", "pump/level", "500"])?;
    let event = one(&subscriber, "rate", "begin")?;
    assert_eq!(top(&event), "level");
    one(&subscriber, "rate", "end")?;
    let event = one(&subscriber, "stuck", "begin")?;
    assert_eq!(top(&event), "level");
    assert!(event["score"].as_f64() > Some(1.0), "{event}");
    let shares = |got: &millrace_tests::received::Received| {
        let share = got.of_tag("stuck", "share/level");
        share.filter(|it| it.value == 1.0).count()
    };
    subscriber.wait("shares", STEP, |got| shares(got) > 0)?;
    gateway.json(&["write", "pump/level", "400"])?;
    one(&subscriber, "stuck", "end")?;

    // The device hangs, and is there again.
    sim.signal("STOP")?;
    let event = one(&subscriber, "missing", "begin")?;
    assert!(event["score"].as_f64() > Some(1.0), "{event}");
    let good = event["good"].as_f64();
    assert!(good < Some(0.5), "{event}");
    sim.signal("CONT")?;
    one(&subscriber, "missing", "end")?;
    Ok(())
}
