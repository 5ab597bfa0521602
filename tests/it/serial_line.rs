//! A serial line from end to end: three units on a pseudo-terminal, one of which is dead.

use std::time::Duration;

use anyhow::{Context, Result};
use millrace_tests::agent::Gateway;
use millrace_tests::sim::SimModbus;
use millrace_tests::wait::{STEP, wait_for};
use serde_json::Value;

const UNITS: [&str; 3] = ["one", "two", "three"];

fn config(port: &str) -> String {
    let mut text = format!("[[line]]\nname = \"bus\"\nport = \"{port}\"\nbaud = 115200\n\n");
    for (unit, name) in (1..).zip(UNITS) {
        text.push_str(&format!(
            "[[device]]\nname = \"{name}\"\ndriver = \"modbus-rtu\"\naddress = \"bus\"\nunit_id = {unit}\n\
             poll_interval = \"100ms\"\ntimeout = \"200ms\"\n\n\
             [[device.tag]]\nname = \"t0\"\naddress = \"holding:0\"\ntype = \"u32\"\nwritable = true\n\n\
             [[device.tag]]\nname = \"t1\"\naddress = \"holding:2\"\ntype = \"u32\"\n\n"
        ));
    }
    text
}

fn device(status: &Value, name: &str) -> Result<Value> {
    let mut devices = status["devices"].as_array().context("devices")?.iter();
    let device = devices.find(|device| device["name"] == name).cloned();
    device.with_context(|| format!("{name} in {status}"))
}

fn reads(gateway: &Gateway, name: &str) -> Result<u64> {
    let device = device(&gateway.json(&["status"])?, name)?;
    device["reads_total"].as_u64().context("reads_total")
}

#[test]
fn a_dead_unit_leaves_the_line_to_its_neighbours() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let dead = [
        "--units",
        "1-3",
        "--tags",
        "4",
        "--fault",
        "unit 3: silent every 1",
    ];
    let (_line, port) = SimModbus::start_line(&dead, directory.path())?;
    let mut gateway = Gateway::new(directory.path());
    gateway.configure(&config(&port))?;
    gateway.start()?;
    wait_for("two units online, one offline", STEP, || {
        let status = gateway.json(&["status"]).ok()?;
        let state = |name| Some(device(&status, name).ok()?["state"].clone());
        let states = UNITS.map(state).map(Option::unwrap_or_default);
        (states == ["online", "online", "offline"]).then_some(())
    })?;
    let before = [reads(&gateway, "one")?, reads(&gateway, "two")?];
    wait_for("twenty more reads of both", STEP, || {
        let more = [reads(&gateway, "one").ok()?, reads(&gateway, "two").ok()?];
        let both = more
            .iter()
            .zip(before)
            .all(|(now, before)| now - before >= 20);
        both.then_some(())
    })?;

    // A write has its turn beside the reads.
    let written = gateway.json(&["write", "two/t0", "4711"])?;
    assert_eq!(written["read_back"], 4711, "{written}");
    wait_for("the written value", STEP, || {
        let rows = gateway.json(&["tags", "two/t0"]).ok()?;
        (rows[0]["value"] == 4711).then_some(())
    })?;
    let offline = gateway.cli(&["write", "three/t0", "1"])?;
    assert_eq!(offline.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&offline.stderr).contains("offline"));

    // What is wrong has a name, and is the dead unit's alone.
    let status = gateway.json(&["status"])?;
    let timeouts = device(&status, "three")?["faults"]["timeout"].as_u64();
    assert!(timeouts.is_some_and(|count| count > 0), "{status}");
    assert_eq!(device(&status, "one")?["faults"]["timeout"], Value::Null);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(device(&status, "one")?["read_errors_total"], 0, "{status}");
    Ok(())
}

/// The broken meter is found with one command: which, since when, what it does, what to look at.
#[test]
fn status_says_what_is_wrong_with_each_unit() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let faulty = [
        "--units",
        "1-3",
        "--tags",
        "4",
        "--fault",
        "unit 1: hole holding:2+2",
        "--fault",
        "unit 2: crc every 5",
        "--fault",
        "unit 3: silent every 1",
    ];
    let (_line, port) = SimModbus::start_line(&faulty, directory.path())?;
    let mut gateway = Gateway::new(directory.path());
    gateway.configure(&config(&port))?;
    gateway.start()?;
    let sentences = [
        "device one: 1 of 2 tags are not good (illegal-address 1): the device has no holding:2-3 since ",
        "checksum",
        "check cable, shield, termination and earth",
        "device three is offline since ",
        "check its power, its wires, its unit id",
    ];
    let said = wait_for("every sentence", STEP, || {
        let output = gateway.cli(&["status"]).ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        // Lines are broken between words.
        let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let all = sentences.iter().all(|sentence| flat.contains(sentence));
        all.then_some(text)
    })?;
    println!("{said}");

    // The same in JSON, for scripts.
    let status = gateway.json(&["status"])?;
    let excluded = &device(&status, "one")?["excluded"][0];
    assert_eq!(excluded["addresses"], "holding:2-3", "{status}");
    assert!(excluded["since"]["t"].is_f64(), "{status}");
    let trouble = &device(&status, "two")?["trouble"];
    assert!(trouble["faults"]["checksum"].as_u64() > Some(0), "{status}");
    Ok(())
}
