//! nats-server with JetStream: delivery over drops, restarts, kills and a consumer that is away, and subjects that it acknowledges
//! and discards, from the start or from some moment on.

use anyhow::{Context, Result};
use millrace_tests::agent::Gateway;
use millrace_tests::cutter::Cutter;
use millrace_tests::nats::{EVERYTHING, Nats};
use millrace_tests::sim::SimModbus;
use millrace_tests::subscriber::Subscriber;
use millrace_tests::wait::{STEP, wait_for};
use serde_json::Value;

use crate::ledger::{self, Row};
use crate::plant;

/// A gateway with the devices `pump`, `tank` and `fan`, which are one simulated device.
fn gateway(directory: &std::path::Path, port: u16) -> Result<(Gateway, SimModbus)> {
    let gateway = Gateway::new(directory);
    gateway.write(
        "map.csv",
        "name,address,type,signal\na,holding:0,u32,counter\n",
    )?;
    let sim = SimModbus::start(&["--map", "map.csv"], directory)?;
    gateway.write("nats.password", "gateway")?;
    let pump = plant::small_pump_config(sim.port, &[0]);
    let (tank, fan) = (pump.replace("pump", "tank"), pump.replace("pump", "fan"));
    gateway.configure(&format!(
        "[[uplink]]\nname = \"cloud\"\nprofile = \"nats\"\nurl = \"mqtt://127.0.0.1:{port}\"\nusername = \"gateway\"\n\
         password_file = \"nats.password\"\n\n{pump}{tank}{fan}"
    ))?;
    Ok((gateway, sim))
}

fn row(gateway: &Gateway, source: &str) -> Option<Row> {
    ledger::verified(gateway).ok()?.get(source).cloned()
}

fn uplink(gateway: &Gateway) -> Result<Value> {
    Ok(gateway.json(&["status"])?["uplinks"][0].clone())
}

/// Neither the tank nor the fan.
const PUMP_ONLY: &str =
    "publish: { deny: [\"millrace.gw-1.data.tank\", \"millrace.gw-1.data.fan\"] }";

/// Waits until both sources that may not publish are in `status`, with their topics.
fn both_are_named(gateway: &Gateway) -> Result<()> {
    let named = wait_for("both topics in status", STEP, || {
        let uplink = uplink(gateway).ok()?;
        let topics = uplink["unproven_topics"].to_string();
        let all = ["fan", "tank"]
            .iter()
            .all(|source| topics.contains(&format!("millrace/gw-1/data/{source}: ")));
        (all && uplink["refused_sources"] == serde_json::json!(["fan", "tank"])).then_some(())
    });
    named.with_context(|| format!("{:?}", uplink(gateway)))
}

#[test]
fn forbidden_subjects_are_found_and_nothing_of_them_is_settled() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut nats = Nats::start(directory.path())?;
    // What NATS acknowledges and throws away.
    nats.allow(PUMP_ONLY)?;
    let subscriber = Subscriber::start_as(nats.mqtt_port, Some("reader"))?;
    let (mut gateway, _sim) = gateway(directory.path(), nats.mqtt_port)?;
    gateway.start()?;
    subscriber.wait("what is permitted", STEP, |got| got.count("pump") > 10)?;
    both_are_named(&gateway)?;
    let said = String::from_utf8(gateway.cli(&["status"])?.stdout)?;
    for words in ["millrace/gw-1/data/fan", "(1 more topics are not"] {
        assert!(said.contains(words), "{said}");
    }
    let refused = ["tank", "fan"].map(|source| row(&gateway, source));
    for row in &refused {
        let row = row.as_ref().context("a row")?;
        assert!(row.acked == 0 && row.queued > 0, "{row:?}");
    }
    wait_for("the pump goes on", STEP, || {
        (row(&gateway, "pump")?.acked > 20).then_some(())
    })?;

    // The right is given; a new start tries at once, a running agent within the minute.
    nats.allow(EVERYTHING)?;
    gateway.terminate()?;
    gateway.start()?;
    for (source, before) in ["tank", "fan"].into_iter().zip(refused) {
        let before = before.context("a row")?.queued;
        subscriber.wait("all of it", STEP * 2, |got| {
            got.count(source) as u64 > before
                && got.line(source).is_ok_and(|line| line.holes().is_empty())
        })?;
        wait_for("a settled source", STEP, || {
            (row(&gateway, source)?.acked > before).then_some(())
        })?;
    }
    wait_for("nothing unproven", STEP, || {
        (uplink(&gateway).ok()?["unproven_topics"] == serde_json::json!([])).then_some(())
    })?;
    gateway.terminate()?;
    let got = subscriber.stop();
    assert_eq!(got.violations, Vec::<String>::new());
    assert_eq!(got.line("pump")?.holes(), []);
    Ok(())
}

/// A proof lasts for one connection, and for ten minutes of it: what NATS threw away before is what `replay` is for.
#[test]
fn rights_that_are_taken_away_are_found_at_the_next_connection_and_replay_brings_the_rest()
-> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut nats = Nats::start(directory.path())?;
    let subscriber = Subscriber::start_as(nats.mqtt_port, Some("reader"))?;
    let way = Cutter::start(nats.mqtt_port)?;
    let (mut gateway, _sim) = gateway(directory.path(), way.port)?;
    gateway.start()?;
    subscriber.wait("all of them", STEP, |got| {
        ["pump", "tank", "fan"]
            .iter()
            .all(|source| got.count(source) > 5)
    })?;
    nats.allow(PUMP_ONLY)?;
    // A server that reloads may have done this itself.
    way.cut();
    both_are_named(&gateway)?;
    let withheld = row(&gateway, "tank").context("the tank")?;
    let before = subscriber.look(|got| got.count("pump"));
    subscriber.wait("the pump goes on", STEP, |got| {
        got.count("pump") > before + 10
    })?;
    let later = row(&gateway, "tank").context("the tank")?;
    assert_eq!(later.acked, withheld.acked, "nothing more is settled");
    assert!(later.queued > withheld.queued, "{later:?}");

    nats.allow(EVERYTHING)?;
    gateway.terminate()?;
    gateway.start()?;
    gateway.json(&["buffer", "replay", "--since", "1h"])?;
    for source in ["pump", "tank", "fan"] {
        subscriber.wait(source, STEP * 2, |got| {
            got.count(source) as u64 > later.acquired
                && got.line(source).is_ok_and(|line| line.holes().is_empty())
        })?;
    }
    gateway.terminate()?;
    assert_eq!(subscriber.stop().violations, Vec::<String>::new());
    Ok(())
}

#[test]
fn where_we_may_not_subscribe_nothing_is_thrown_away_and_the_way_out_is_named() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut nats = Nats::start(directory.path())?;
    nats.allow("subscribe: { deny: [\"millrace.gw-1.data.>\"] }")?;
    let subscriber = Subscriber::start_as(nats.mqtt_port, Some("reader"))?;
    let (mut gateway, _sim) = gateway(directory.path(), nats.mqtt_port)?;
    gateway.start()?;
    wait_for("the way out in status", STEP, || {
        let uplink = uplink(&gateway).ok()?;
        let topics = uplink["unproven_topics"].as_array()?.clone();
        let all = topics.len() == 3
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
    let (mut gateway, sim) = gateway(directory.path(), nats.mqtt_port)?;
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

/// Cuts the way again and again, while the consumer is away: its session is in JetStream.
#[test]
fn cut_links_and_a_consumer_that_is_away_lose_nothing() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let nats = Nats::start(directory.path())?;
    Subscriber::start_as(nats.mqtt_port, Some("reader"))?.stop();
    let way = Cutter::start(nats.mqtt_port)?;
    let (mut gateway, _sim) = gateway(directory.path(), way.port)?;
    gateway.start()?;
    let mut cut = 0;
    // An ack may be counted after its connection was cut, so that there is none to cut yet.
    for _ in 0..20 {
        if cut >= 5 {
            break;
        }
        let before = row(&gateway, "pump").map_or(0, |row| row.acked);
        wait_for("more acknowledged", STEP * 2, || {
            (row(&gateway, "pump")?.acked > before + 5).then_some(())
        })?;
        cut += way.cut();
    }
    assert!(cut >= 5, "{cut} connections were cut");
    gateway.terminate()?;
    gateway.start()?;
    let rows = wait_for("a short queue", STEP * 2, || {
        let rows = ledger::verified(&gateway).ok()?;
        let good = |row: &Row| row.acked > 30 && row.queued < 10 && row.lost() == 0;
        rows.values().all(good).then_some(rows)
    })?;
    let subscriber = Subscriber::start_as(nats.mqtt_port, Some("reader"))?;
    subscriber.wait("what was acknowledged", STEP * 2, |got| {
        rows.iter().all(|(source, row)| {
            let whole = got.line(source).is_ok_and(|line| line.holes().is_empty());
            whole && got.count(source) as u64 >= row.acked
        })
    })?;
    gateway.terminate()?;
    assert_eq!(subscriber.stop().violations, Vec::<String>::new());
    Ok(())
}
