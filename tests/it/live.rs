//! `millrace check --live`: what is wrong in the plant, and what to do, before and while the agent runs.

use std::net::TcpListener;

use anyhow::{Context, Result};
use millrace_tests::agent::Gateway;
use millrace_tests::sim::SimModbus;
use millrace_tests::wait::{STEP, wait_for};
use serde_json::Value;

fn config(line: &str, good: u16, nobody: u16, more: &str) -> String {
    let device = |name: &str, driver: &str, address: &str, unit: u8| {
        format!(
            "[[device]]\nname = \"{name}\"\ndriver = \"{driver}\"\naddress = \"{address}\"\nunit_id = {unit}\n\
             timeout = \"1s\"\npoll_interval = \"200ms\"\n\n\
             [[device.tag]]\nname = \"t0\"\naddress = \"holding:0\"\ntype = \"u32\"\n\n"
        )
    };
    let far = "[[device.tag]]\nname = \"far\"\naddress = \"holding:4000\"\ntype = \"u16\"\n\n";
    [
        format!("[[line]]\nname = \"bus\"\nport = \"{line}\"\nbaud = 19200\n\n"),
        device("well", "modbus-tcp", &format!("127.0.0.1:{good}"), 1),
        device("far", "modbus-tcp", &format!("127.0.0.1:{good}"), 1) + far,
        device("away", "modbus-tcp", &format!("127.0.0.1:{nobody}"), 1),
        device("two", "modbus-rtu", "bus", 2),
        device("silent", "modbus-rtu", "bus", 9),
        more.to_owned(),
    ]
    .concat()
}

fn trial<'t>(report: &'t Value, name: &str) -> Result<&'t Value> {
    let mut trials = report["live"].as_array().context("live")?.iter();
    let trial = trials.find(|trial| trial["name"] == name);
    trial.with_context(|| format!("{name} in {report}"))
}

fn check(gateway: &Gateway) -> Result<(Option<i32>, Value)> {
    let checked = gateway.cli(&["check", "--live", "--config", "millrace.toml", "--json"])?;
    let text = String::from_utf8_lossy(&checked.stdout).into_owned();
    let report = serde_json::from_str(&text);
    let report =
        report.with_context(|| format!("{text}{}", String::from_utf8_lossy(&checked.stderr)));
    Ok((checked.status.code(), report?))
}

#[test]
fn each_device_is_tried_and_each_cause_is_named() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let sim = SimModbus::start(&[], directory.path())?;
    let (_line, port) = SimModbus::start_line(&["--units", "2"], directory.path())?;
    // Bound and closed again: nobody listens there.
    let nobody = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let uplink = format!("[[uplink]]\nname = \"cloud\"\nurl = \"mqtt://127.0.0.1:{nobody}\"\n");
    let mut gateway = Gateway::new(directory.path());
    gateway.configure(&config(&port, sim.port, nobody, &uplink))?;

    for is_running in [false, true] {
        if is_running {
            gateway.start()?;
            wait_for("the agent on the line", STEP, || {
                let rows = gateway.json(&["tags", "two/t0"]).ok()?;
                (rows[0]["quality"] == "good").then_some(())
            })?;
        }
        let (code, report) = check(&gateway)?;
        assert_eq!(code, Some(1), "{report}");
        assert_eq!(report["ok"], false);
        let told = |name: &str, found: &str, fix: &str| -> Result<()> {
            let problem = &trial(&report, name)?["problems"][0];
            let has = |key: &str, part: &str| {
                problem[key]
                    .as_str()
                    .is_some_and(|text| text.contains(part))
            };
            assert!(
                has("found", found) && (fix.is_empty() || has("fix", fix)),
                "{problem}"
            );
            Ok(())
        };
        for well in ["well", "two"] {
            assert_eq!(trial(&report, well)?["ok"], true, "{report}");
            assert_eq!(trial(&report, well)?["tags_good"], 1, "{report}");
        }
        told("far", "illegal-address: far", "scan modbus")?;
        told("away", "refused", "nothing listens on this port")?;
        told("cloud", "127.0.0.1", "")?;
        match is_running {
            false => told("silent", "timeout", "unit_id")?,
            true => told("silent", "no answer", "unit")?,
        }
        let through = trial(&report, "two")?["through"].as_str();
        assert_eq!(
            through.is_some_and(|line| line.contains("line bus")),
            is_running
        );
    }

    // What is not as configured is said before anything is cut off.
    let other = config(&port, sim.port, nobody, "").replace("baud = 19200", "baud = 9600");
    gateway.configure(&other)?;
    let (_, report) = check(&gateway)?;
    let found = &trial(&report, "two")?["problems"][0]["found"];
    assert!(
        found.as_str().is_some_and(|found| found.contains("holds")),
        "{report}"
    );

    let text = gateway.cli(&["check", "--live", "--config", "millrace.toml"])?;
    let text = String::from_utf8(text.stdout)?;
    assert!(
        text.contains("device well at") && text.contains("4 of 5 failed"),
        "{text}"
    );
    gateway.write("millrace.toml", "[gateway]\nid = 7\n")?;
    let bad = gateway.cli(&["check", "--live", "--config", "millrace.toml"])?;
    assert_eq!(bad.status.code(), Some(2));
    Ok(())
}
