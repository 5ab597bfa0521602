//! A PUBACK is custody, not delivery: what a broker acknowledged and lost comes again by `replay`.

use anyhow::{Result, ensure};
use millrace_tests::agent::Gateway;
use millrace_tests::broker::Broker;
use millrace_tests::sim::SimModbus;
use millrace_tests::subscriber::Subscriber;
use millrace_tests::wait::{STEP, wait_for};

use crate::ledger;
use crate::plant;

#[test]
fn a_mosquitto_killed_after_its_acks_gets_what_it_lost_by_replay() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut broker = Broker::start(directory.path())?;
    let mut gateway = Gateway::new(directory.path());
    gateway.write(
        "map.csv",
        "name,address,type,signal\na,holding:0,u32,counter\n",
    )?;
    let sim = SimModbus::start(&["--map", "map.csv"], directory.path())?;
    let uplink = plant::uplink_config(broker.port);
    let device = plant::small_pump_config(sim.port, &[0]).replace("\"200ms\"", "\"20ms\"");
    gateway.configure(&format!("{uplink}{device}"))?;

    // A consumer with a session at the broker, which is away for now: what comes waits for it in the broker's memory.
    Subscriber::start(broker.port)?.stop();
    broker.stop()?;
    broker.restart()?;
    gateway.start()?;
    wait_for("acknowledged samples", STEP, || {
        let rows = ledger::verified(&gateway).ok()?;
        (rows.get("pump")?.acked > 200).then_some(())
    })?;
    drop(sim);
    let acked = wait_for("an empty queue", STEP, || {
        let rows = ledger::verified(&gateway).ok()?;
        let row = rows.get("pump")?;
        (row.queued == 0).then_some(row.acked)
    })?;
    broker.kill()?;
    broker.restart()?;
    let consumer = Subscriber::start(broker.port)?;
    wait_for("the agent at the broker again", STEP * 2, || {
        let status = gateway.json(&["status"]).ok()?;
        (status["uplinks"][0]["state"] == "connected").then_some(())
    })?;
    let before = consumer.look(|got| got.count("pump")) as u64;
    ensure!(before < acked, "mosquitto has lost nothing of {acked}");
    println!(
        "mosquitto acknowledged {acked} samples and lost {}",
        acked - before
    );

    gateway.json(&["buffer", "replay", "--since", "1h"])?;
    // Under their old numbers: every one that was acquired once, and no other.
    let acquired = wait_for("all of them", STEP * 2, || {
        let row = ledger::verified(&gateway).ok()?.remove("pump")?;
        let came = consumer.look(|got| got.count("pump")) as u64;
        (row.queued == 0 && came == row.acquired).then_some(row.acquired)
    })?;
    gateway.terminate()?;
    let got = consumer.stop();
    assert_eq!(got.violations, Vec::<String>::new());
    let line = got.line("pump")?;
    assert_eq!(line.holes(), []);
    assert_eq!(
        line.samples.last_key_value().map(|(seq, _)| *seq),
        Some(acquired)
    );
    // What it had not lost came twice, as it is.
    assert!(line.copies >= before, "{} copies of {before}", line.copies);
    Ok(())
}
