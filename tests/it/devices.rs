//! Devices beside each other: an operator pauses one, a sick one harms only itself.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use millrace_tests::agent::Gateway;
use millrace_tests::broker::Broker;
use millrace_tests::sim::SimModbus;
use millrace_tests::subscriber::Subscriber;
use millrace_tests::wait::{STEP, wait_for};
use serde_json::Value;

use crate::plant;

const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// A simulated device's table in the configuration: ten counters.
fn table(name: &str, port: u16) -> String {
    let mut text = format!(
        "[[device]]\nname = \"{name}\"\ndriver = \"modbus-tcp\"\naddress = \"127.0.0.1:{port}\"\nunit_id = 1\n\
         poll_interval = \"{}ms\"\ntimeout = \"500ms\"\n\n",
        POLL_INTERVAL.as_millis()
    );
    for index in 0..10 {
        text.push_str(&format!(
            "[[device.tag]]\nname = \"t{index}\"\naddress = \"holding:{}\"\ntype = \"u32\"\n\n",
            2 * index
        ));
    }
    text
}

fn sim(directory: &Path) -> Result<SimModbus> {
    SimModbus::start(&["--tags", "10"], directory)
}

fn device(gateway: &Gateway, name: &str) -> Option<Value> {
    let status = gateway.json(&["status"]).ok()?;
    let mut devices = status["devices"].as_array()?.iter();
    devices.find(|device| device["name"] == name).cloned()
}

fn reads(gateway: &Gateway, name: &str) -> Result<u64> {
    let device = device(gateway, name).with_context(|| format!("{name} in status"))?;
    device["reads_total"].as_u64().context("reads_total")
}

#[test]
fn a_paused_device_is_silent_until_it_is_resumed() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let broker = Broker::start(directory.path())?;
    let subscriber = Subscriber::start(broker.port)?;
    let pump = sim(directory.path())?;
    let mut gateway = Gateway::new(directory.path());
    gateway.configure(&(plant::uplink_config(broker.port) + &table("pump", pump.port)))?;
    gateway.start()?;
    subscriber.wait("live data", STEP, |got| got.count("pump") > 100)?;

    let paused = gateway.json(&["device", "pause", "pump"])?;
    assert!(paused.to_string().contains("paused"), "{paused}");
    subscriber.wait("a sample that says so", STEP, |got| {
        got.of_tag("pump", "t9")
            .last()
            .is_some_and(|sample| sample.reason.as_deref() == Some("paused"))
    })?;
    let before = reads(&gateway, "pump")?;
    std::thread::sleep(10 * POLL_INTERVAL);
    assert_eq!(reads(&gateway, "pump")?, before);
    assert_eq!(device(&gateway, "pump").context("pump")?["state"], "paused");

    gateway.json(&["device", "resume", "pump"])?;
    wait_for("an online device", STEP, || {
        device(&gateway, "pump").filter(|pump| pump["state"] == "online" && pump["tags_good"] == 10)
    })?;
    subscriber.wait("live data again", STEP, |got| {
        got.of_tag("pump", "t9")
            .last()
            .is_some_and(|sample| sample.quality.is_none())
    })?;
    let got = subscriber.stop();
    assert_eq!(got.violations, Vec::<String>::new());
    assert_eq!(got.line("pump")?.holes(), []);
    // A person did it: the device was never lost.
    assert_eq!(got.events_of("pump").count(), 0);
    let bad = gateway.cli(&["device", "pause", "pumpe"])?;
    let said = String::from_utf8_lossy(&bad.stderr).into_owned();
    assert!(!bad.status.success() && said.contains("pump"), "{said}");
    Ok(())
}

#[test]
fn sick_devices_harm_only_themselves() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let well = sim(directory.path())?;
    let slow = SimModbus::start(
        &["--tags", "10", "--fault", "latency 300ms"],
        directory.path(),
    )?;
    let hung = sim(directory.path())?;
    let mut dead = sim(directory.path())?;
    let mut gateway = Gateway::new(directory.path());
    gateway.configure(
        &[
            ("well", well.port),
            ("slow", slow.port),
            ("hung", hung.port),
            ("dead", dead.port),
        ]
        .map(|(name, port)| table(name, port))
        .concat(),
    )?;
    gateway.start()?;
    wait_for("four devices", STEP, || {
        let all = ["well", "slow", "hung", "dead"];
        all.iter()
            .all(|name| device(&gateway, name).is_some_and(|device| device["state"] == "online"))
            .then_some(())
    })?;
    hung.signal("STOP")?;
    dead.kill();
    wait_for("two lost devices", STEP, || {
        ["hung", "dead"]
            .iter()
            .all(|name| device(&gateway, name).is_some_and(|device| device["state"] == "offline"))
            .then_some(())
    })?;

    let (began, before) = (Instant::now(), reads(&gateway, "well")?);
    std::thread::sleep(Duration::from_secs(3));
    let after = reads(&gateway, "well")?;
    let wanted = began.elapsed().as_secs_f64() / POLL_INTERVAL.as_secs_f64();
    // Half is far below what it does, and above what waiting for any of the others would leave.
    assert!(
        (after - before) as f64 > wanted / 2.0,
        "{} of {wanted} reads",
        after - before
    );
    let well = device(&gateway, "well").context("well")?;
    assert_eq!(well["tags_good"], 10, "{well}");
    assert_eq!(well["read_errors_total"], 0, "{well}");
    let slow = device(&gateway, "slow").context("slow")?;
    assert_eq!(slow["state"], "online", "{slow}");
    assert!(slow["overruns_total"].as_u64() > Some(5), "{slow}");

    hung.signal("CONT")?;
    wait_for("a healed device", STEP, || {
        device(&gateway, "hung").filter(|hung| hung["tags_good"] == 10)
    })?;
    hung.signal("STOP")?;
    // A device that hangs in the middle of a read does not hold up the stop.
    let status = gateway.terminate()?;
    assert!(status.success(), "{status}");
    hung.signal("CONT")?;
    Ok(())
}
