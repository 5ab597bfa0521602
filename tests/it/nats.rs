//! nats-server with JetStream: delivery over drops, restarts and kills, and a subject that it acknowledges and discards.

use anyhow::{Context, Result};
use millrace_tests::agent::Gateway;
use millrace_tests::nats::{EVERYTHING, Nats};
use millrace_tests::sim::SimModbus;
use millrace_tests::subscriber::Subscriber;
use millrace_tests::wait::{STEP, wait_for};
use serde_json::Value;

use crate::ledger::{self, Row};
use crate::plant;

/// A gateway with the devices `pump` and `tank`, which are one simulated device.
fn gateway(directory: &std::path::Path, nats: &Nats, more: &str) -> Result<(Gateway, SimModbus)> {
    let gateway = Gateway::new(directory);
    gateway.write(
        "map.csv",
        "name,address,type,signal\na,holding:0,u32,counter\n",
    )?;
    let sim = SimModbus::start(&["--map", "map.csv"], directory)?;
    gateway.write("nats.password", "gateway")?;
    let pump = plant::small_pump_config(sim.port, &[0]);
    let tank = pump.replace("\"pump\"", "\"tank\"");
    gateway.configure(&format!(
        "[[uplink]]\nname = \"cloud\"\nprofile = \"nats\"\nurl = \"mqtt://127.0.0.1:{}\"\nusername = \"gateway\"\n\
         password_file = \"nats.password\"\n{more}\n{pump}{tank}",
        nats.mqtt_port
    ))?;
    Ok((gateway, sim))
}

fn row(gateway: &Gateway, source: &str) -> Option<Row> {
    ledger::verified(gateway).ok()?.get(source).cloned()
}

fn uplink(gateway: &Gateway) -> Result<Value> {
    Ok(gateway.json(&["status"])?["uplinks"][0].clone())
}

#[test]
fn a_forbidden_subject_is_found_and_nothing_of_it_is_settled() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut nats = Nats::start(directory.path())?;
    // What NATS acknowledges and throws away.
    nats.allow("publish: { deny: [\"millrace.gw-1.data.tank\"] }")?;
    let subscriber = Subscriber::start_as(nats.mqtt_port, Some("reader"))?;
    let (mut gateway, _sim) = gateway(directory.path(), &nats, "")?;
    gateway.start()?;
    subscriber.wait("what is permitted", STEP, |got| got.count("pump") > 10)?;
    wait_for("the topic in status", STEP, || {
        let uplink = uplink(&gateway).ok()?;
        let topic = uplink["unproven_topics"][0].as_str()?;
        let source = uplink["refused_sources"][0].as_str()?;
        (topic.starts_with("millrace/gw-1/data/tank:") && source == "tank").then_some(())
    })?;
    let said = String::from_utf8(gateway.cli(&["status"])?.stdout)?;
    assert!(said.contains("millrace/gw-1/data/tank"), "{said}");
    let tank = row(&gateway, "tank").context("the tank")?;
    assert!(tank.acked == 0 && tank.queued > 0, "{tank:?}");
    wait_for("the pump goes on", STEP, || {
        (row(&gateway, "pump")?.acked > 20).then_some(())
    })?;

    // The right is given; a new start tries at once, a running agent within the minute.
    nats.allow(EVERYTHING)?;
    gateway.terminate()?;
    gateway.start()?;
    subscriber.wait("all of the tank", STEP * 2, |got| {
        got.count("tank") as u64 > tank.queued
            && got.line("tank").is_ok_and(|line| line.holes().is_empty())
    })?;
    wait_for("a settled tank", STEP, || {
        (row(&gateway, "tank")?.acked > tank.queued).then_some(())
    })?;
    assert_eq!(uplink(&gateway)?["unproven_topics"], serde_json::json!([]));
    gateway.terminate()?;
    let got = subscriber.stop();
    assert_eq!(got.violations, Vec::<String>::new());
    assert_eq!(got.line("pump")?.holes(), []);
    Ok(())
}

#[test]
fn where_we_may_not_subscribe_nothing_is_thrown_away_and_the_way_out_is_named() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut nats = Nats::start(directory.path())?;
    nats.allow("subscribe: { deny: [\"millrace.gw-1.data.>\"] }")?;
    let subscriber = Subscriber::start_as(nats.mqtt_port, Some("reader"))?;
    let (mut gateway, _sim) = gateway(directory.path(), &nats, "")?;
    gateway.start()?;
    wait_for("the way out in status", STEP, || {
        let uplink = uplink(&gateway).ok()?;
        let topics = uplink["unproven_topics"].as_array()?.clone();
        let all = topics.len() == 2
            && topics.iter().all(|topic| {
                topic
                    .as_str()
                    .is_some_and(|said| said.contains("verify = \"puback\""))
            });
        all.then_some(())
    })?;
    assert_eq!(row(&gateway, "pump").context("the pump")?.acked, 0);
    assert_eq!(subscriber.look(|got| got.count("pump")), 0);
    gateway.terminate()?;
    let config = std::fs::read_to_string(gateway.config_path())?;
    let trusting = config.replace(
        "profile = \"nats\"",
        "profile = \"nats\"\nverify = \"puback\"",
    );
    std::fs::write(gateway.config_path(), trusting)?;
    gateway.start()?;
    subscriber.wait("all of it", STEP * 2, |got| {
        got.count("pump") > 10 && got.line("pump").is_ok_and(|line| line.holes().is_empty())
    })?;
    Ok(())
}

#[test]
fn restarts_and_kills_of_the_server_lose_nothing() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut nats = Nats::start(directory.path())?;
    let subscriber = Subscriber::start_as(nats.mqtt_port, Some("reader"))?;
    let (mut gateway, sim) = gateway(directory.path(), &nats, "")?;
    gateway.start()?;
    let mut before = 0;
    for round in 0..2 {
        subscriber.wait("new data", STEP * 2, |got| got.count("pump") > before + 10)?;
        before = subscriber.look(|got| got.count("pump"));
        match round % 2 {
            0 => nats.stop()?,
            _ => nats.kill(),
        }
        nats.restart()?;
    }
    drop(sim);
    let rows = wait_for("an empty queue", STEP * 3, || {
        let rows = ledger::verified(&gateway).ok()?;
        rows.values().all(|row| row.queued <= 2).then_some(rows)
    })?;
    // What a killed server had acknowledged and not yet passed on is the server's loss: custody, no delivery.
    gateway.json(&["buffer", "replay", "--since", "1h"])?;
    subscriber.wait("what counts as delivered", STEP * 2, |got| {
        rows.iter().all(|(source, row)| {
            let whole = got.line(source).is_ok_and(|line| line.holes().is_empty());
            whole && got.count(source) as u64 >= row.acked
        })
    })?;
    gateway.terminate()?;
    assert_eq!(subscriber.stop().violations, Vec::<String>::new());
    Ok(())
}
