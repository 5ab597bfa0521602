//! A core that settles by itself: only its `ack` makes data delivered, over restarts of everybody.

use std::time::Duration;

use anyhow::{Context, Result};
use millrace_tests::agent::Gateway;
use millrace_tests::broker::Broker;
use millrace_tests::commander::Commander;
use millrace_tests::subscriber::Subscriber;
use millrace_tests::wait::{STEP, wait_for};
use serde_json::{Value, json};

use crate::plant;

/// The row of `pump` in the ledger.
fn row(gateway: &Gateway, of: &str) -> Option<u64> {
    gateway.json(&["ledger"]).ok()?["devices"]["pump"][of].as_u64()
}

/// Stream and last number of the pump's line that has come furthest.
fn furthest(subscriber: &Subscriber) -> Option<(String, u64)> {
    subscriber.look(|got| {
        let lines = got.lines.iter().filter(|((source, _), _)| source == "pump");
        let last = lines.filter_map(|((_, stream), line)| {
            let (last, _) = line.samples.last_key_value()?;
            Some((stream.clone(), *last))
        });
        last.max_by_key(|(_, last)| *last)
    })
}

fn copies(subscriber: &Subscriber) -> u64 {
    subscriber.look(|got| got.lines.values().map(|line| line.copies).sum())
}

#[test]
fn nothing_is_delivered_before_the_core_says_so() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut broker = Broker::start(directory.path())?;
    let subscriber = Subscriber::start(broker.port)?;
    let core = Commander::start(broker.port)?;
    let (_pump, port) = plant::start_pump(directory.path(), &[])?;
    let uplink = plant::uplink_config(broker.port);
    let uplink = uplink.trim_end().to_owned() + "\nsettle = \"core\"\nack_wait = \"3s\"\n\n";
    let mut gateway = Gateway::new(directory.path());
    gateway.configure(&(uplink + &plant::small_pump_config(port, &[0, 1])))?;
    gateway.start()?;

    // The broker acknowledges, and nothing is settled; what the core does not acknowledge comes again.
    subscriber.wait("ten samples", STEP, |got| got.count("pump") >= 10)?;
    wait_for("samples that come again", STEP, || {
        (copies(&subscriber) > 0).then_some(())
    })?;
    assert_eq!(row(&gateway, "acked"), Some(0));
    let status = gateway.json(&["status"])?;
    let shown = &status["uplinks"][0]["core"];
    assert!(shown["waiting"].as_u64() > Some(0), "{status}");
    assert!(shown["sent_again_total"].as_u64() > Some(0), "{status}");

    // Some of it is acknowledged, twice under two ids: the second settles nothing more.
    let (stream, _) = furthest(&subscriber).context("nothing came")?;
    let ack = |id: &str, stream: &str, seq: u64| json!({"id": id, "op": "ack", "args": {"source": "pump", "stream": stream, "seq": seq}});
    let mut asked = 0;
    let settled = wait_for("six settled samples", STEP, || {
        asked += 1;
        let told = core.ask(&ack(&format!("some-{asked}"), &stream, 6)).ok()?;
        (row(&gateway, "acked")? == 6).then_some(told)
    })?;
    assert_eq!(settled["status"], "done", "{settled}");
    let again = core.ask(&ack("again", &stream, 6))?;
    assert_eq!(again["result"]["settled"], 0, "{again}");

    // What the core cannot have.
    for (id, stream, seq, words) in [
        ("future", stream.as_str(), 1_000_000_000, "has got to"),
        ("foreign", "6f0c0000000000000000000000000001", 6, &stream),
    ] {
        let told = core.ask(&ack(id, stream, seq))?;
        assert_eq!(told["status"], "rejected", "{told}");
        assert!(told["error"].to_string().contains(words), "{told}");
    }

    // The core is away; broker and agent restart meanwhile. All but the six is still there, and comes again.
    broker.restart()?;
    gateway.kill();
    let before = copies(&subscriber);
    gateway.start()?;
    wait_for("samples of before the restart", STEP, || {
        (copies(&subscriber) > before + 5).then_some(())
    })?;
    let core = Commander::start(broker.port)?;

    // Back again it acknowledges whatever it has; the source falls silent, and everything settles.
    drop(_pump);
    let mut asked = 0;
    wait_for("an empty queue", Duration::from_secs(90), || {
        let lines: Vec<(String, u64)> = subscriber.look(|got| {
            let lines = got.lines.iter();
            let last = lines.filter_map(|((_, stream), line)| {
                Some((stream.clone(), *line.samples.last_key_value()?.0))
            });
            last.collect()
        });
        for (stream, last) in lines {
            asked += 1;
            let told: Value = core
                .ask(&ack(&format!("all-{asked}"), &stream, last))
                .ok()?;
            assert_eq!(told["status"], "done", "{told}");
        }
        (row(&gateway, "queued")? == 0).then_some(())
    })?;
    let ledger = gateway.json(&["ledger", "--verify"])?;
    let pump = &ledger["devices"]["pump"];
    assert!(pump["acked"].as_u64() > Some(10), "{ledger}");
    let test = gateway.cli(&["uplink", "test", "cloud"])?;
    let test = String::from_utf8_lossy(&test.stdout).replace("\n     ", "");
    assert!(test.contains("the core settles by itself"), "{test}");
    subscriber.look(|got| assert!(got.violations.is_empty(), "{:?}", got.violations));
    Ok(())
}
