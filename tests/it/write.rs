//! Writes: read back, granted by local files only, told with the old value, and kept in the log.

use anyhow::{Context, Result};
use millrace_tests::agent::Gateway;
use millrace_tests::broker::Broker;
use millrace_tests::commander::Commander;
use millrace_tests::sim::SimModbus;
use millrace_tests::wait::{STEP, wait_for};
use serde_json::{Value, json};

use crate::plant;

/// Three tags of a simulated device: a scaled one, one that the cloud may not write, one that nobody may.
fn device_config(port: u16) -> String {
    let mut text = format!(
        "[local]\ncommands = [\"read\", \"write\", \"status\"]\nwrite_tags = [\"pump/set*\", \"pump/fixed\"]\n\n\
         [[device]]\nname = \"pump\"\ndriver = \"modbus-tcp\"\naddress = \"127.0.0.1:{port}\"\nunit_id = 1\n\
         poll_interval = \"100ms\"\ntimeout = \"1s\"\n\n"
    );
    for (name, address, more) in [
        ("setpoint", 0, "scale = 0.1\nwritable = true"),
        ("local", 2, "writable = true"),
        ("fixed", 4, "writable = false"),
    ] {
        text.push_str(&format!(
            "[[device.tag]]\nname = \"{name}\"\naddress = \"holding:{address}\"\ntype = \"u32\"\n{more}\n\n"
        ));
    }
    text
}

fn online(gateway: &Gateway, tags: u64) -> Result<()> {
    wait_for("good values", STEP, || {
        let status = gateway.json(&["status"]).ok()?;
        (status["devices"][0]["tags_good"] == tags).then_some(())
    })
}

/// The last value of a tag becomes this one.
fn becomes(gateway: &Gateway, tag: &str, value: &Value) -> Result<()> {
    wait_for("the written value", STEP, || {
        let rows = gateway.json(&["tags", tag]).ok()?;
        (rows[0]["value"].as_f64() == value.as_f64()).then_some(())
    })
}

fn refused(gateway: &Gateway, tag: &str, value: &str) -> Result<String> {
    let output = gateway.cli(&["write", tag, value])?;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn an_operator_writes_writable_tags_and_sees_old_and_new() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let pump = SimModbus::start(&["--tags", "10"], directory.path())?;
    let mut gateway = Gateway::new(directory.path());
    gateway.configure(&device_config(pump.port))?;
    gateway.start()?;
    online(&gateway, 3)?;

    let first = gateway.json(&["write", "pump/setpoint", "42.5"])?;
    assert_eq!(first["read_back"], 42.5, "{first}");
    let second = gateway.json(&["write", "pump/setpoint", "7"])?;
    assert_eq!(second["old"], 42.5, "{second}");
    becomes(&gateway, "pump/setpoint", &json!(7.0))?;
    let text = gateway.cli(&["write", "pump/local", "12"])?;
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(
        text.starts_with("pump/local is 12, read back; it was"),
        "{text}"
    );

    assert!(refused(&gateway, "pump/fixed", "1")?.contains("writable = true"));
    assert!(refused(&gateway, "pump/none", "1")?.contains("pump/none"));
    let range = refused(&gateway, "pump/local", "-1")?;
    assert!(range.contains("0 to 4294967295"), "{range}");
    let inexact = refused(&gateway, "pump/setpoint", "0.05")?;
    assert!(inexact.contains("0.5"), "{inexact}");

    gateway.json(&["device", "pause", "pump"])?;
    assert!(refused(&gateway, "pump/local", "3")?.contains("resume"));

    let log = gateway.log();
    let audited = log
        .lines()
        .filter(|line| line.contains("audit"))
        .collect::<Vec<_>>();
    let second = audited
        .iter()
        .find(|line| line.contains("42.5") && line.contains("old"));
    assert!(
        second.is_some_and(|line| line.contains("uid")),
        "{audited:?}"
    );
    assert!(
        audited.iter().any(|line| line.contains("pump/fixed")),
        "{audited:?}"
    );
    Ok(())
}

#[test]
fn a_device_that_overwrites_a_value_is_told() -> Result<()> {
    let directory = tempfile::tempdir()?;
    // Its registers count, whatever is written.
    let (_pump, port) = plant::start_pump(directory.path(), &[])?;
    let mut gateway = Gateway::new(directory.path());
    let config = plant::small_pump_config(port, &[0, 1]);
    let config = config.replacen("type = \"u32\"", "type = \"u32\"\nwritable = true", 1);
    gateway.configure(&config)?;
    gateway.start()?;
    online(&gateway, 2)?;
    let error = refused(&gateway, "pump/t0", "77")?;
    assert!(error.contains("reads back as"), "{error}");
    // The session goes on.
    online(&gateway, 2)?;
    let status = gateway.json(&["status"])?;
    assert_eq!(status["devices"][0]["read_errors_total"], 0, "{status}");
    Ok(())
}

#[test]
fn the_cloud_writes_what_local_files_grant_and_once() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let broker = Broker::start(directory.path())?;
    let core = Commander::start(broker.port)?;
    let pump = SimModbus::start(&["--tags", "10"], directory.path())?;
    let mut gateway = Gateway::new(directory.path());
    gateway.configure(&(plant::uplink_config(broker.port) + &device_config(pump.port)))?;
    gateway.start()?;
    online(&gateway, 3)?;
    wait_for("a connected uplink", STEP, || {
        let status = gateway.json(&["status"]).ok()?;
        (status["uplinks"][0]["state"] == "connected").then_some(())
    })?;
    let write = |id: &str, tag: &str, value: f64| {
        core.ask(&json!({"id": id, "op": "write", "args": {"tag": tag, "value": value}}))
    };

    let done = write("w-1", "pump/setpoint", 12.5)?;
    assert_eq!(done["status"], "done", "{done}");
    assert_eq!(done["result"]["read_back"], 12.5, "{done}");
    becomes(&gateway, "pump/setpoint", &json!(12.5))?;

    // Somebody sets another value: the same command does not bring the old one back.
    gateway.json(&["write", "pump/setpoint", "3"])?;
    assert_eq!(write("w-1", "pump/setpoint", 12.5)?, done);
    becomes(&gateway, "pump/setpoint", &json!(3.0))?;
    let after = write("w-2", "pump/setpoint", 4.0)?;
    assert_eq!(after["result"]["old"], 3.0, "{after}");

    for (id, tag, grant) in [
        ("w-3", "pump/local", "write_tags"),
        ("w-4", "pump/fixed", "writable = true"),
        // Granted, but not there.
        ("w-5", "pump/setback", "there is no tag pump/setback"),
    ] {
        let refused = write(id, tag, 1.0)?;
        assert_eq!(refused["status"], "rejected", "{refused}");
        let error = refused["error"].as_str().context("no error")?;
        assert!(error.contains(grant), "{error}");
    }
    // Not this value: out of range, between two counts, no number.
    for (id, value) in [
        ("w-6", json!(-1)),
        ("w-7", json!(0.05)),
        ("w-8", json!("x")),
    ] {
        let args = json!({"tag": "pump/setpoint", "value": value});
        let refused = core.ask(&json!({"id": id, "op": "write", "args": args}))?;
        assert_eq!(refused["status"], "rejected", "{refused}");
    }
    gateway.json(&["device", "pause", "pump"])?;
    let not_now = write("w-9", "pump/setpoint", 1.0)?;
    assert_eq!(not_now["status"], "failed", "{not_now}");
    let log = gateway.log();
    let audited = |text: &str| {
        let mut lines = log.lines();
        lines.any(|line| {
            line.contains("audit") && line.contains("uplink cloud") && line.contains(text)
        })
    };
    assert!(
        audited("12.5") && audited("pump/local") && audited("pump/fixed"),
        "{log}"
    );
    Ok(())
}
