//! A core that has lost what its broker acknowledged asks for it again; an operator throws the rest away.

use anyhow::{Context, Result, ensure};
use millrace_tests::agent::Gateway;
use millrace_tests::broker::Broker;
use millrace_tests::commander::Commander;
use millrace_tests::subscriber::Subscriber;
use millrace_tests::wait::{STEP, wait_for};
use serde_json::json;

use crate::ledger;
use crate::plant;

const WANTED: std::ops::RangeInclusive<u64> = 5..=14;

#[test]
fn what_a_core_has_lost_comes_again_until_it_is_purged() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut broker = Broker::start(directory.path())?;
    let (mut pump, port) = plant::start_pump(directory.path(), &[])?;
    let mut gateway = Gateway::new(directory.path());
    let local = "[local]\ncommands = [\"replay\"]\n\n";
    let uplink = plant::uplink_config(broker.port);
    let device = plant::small_pump_config(port, &[0, 1]);
    gateway.configure(&format!("{local}{uplink}{device}"))?;
    let first = Subscriber::start(broker.port)?;
    gateway.start()?;
    first.wait("values", STEP, |got| got.count("pump") >= 20)?;
    // No device, nothing new: what comes from now on is what was asked for.
    gateway.terminate()?;
    pump.kill();
    gateway.configure(&format!("{local}{uplink}"))?;
    gateway.start()?;
    wait_for("an empty queue", STEP, || {
        let rows = ledger::verified(&gateway).ok()?;
        (rows.get("pump")?.queued == 0).then_some(())
    })?;
    let before = ledger::verified(&gateway)?;
    let lost = first.stop();
    let (stream, line) = lost.lines.iter().next().context("no line")?;
    let (_, stream) = stream;

    // A core that knows nothing of all this gets the numbers it names, with the content they had.
    let core = Subscriber::start(broker.port)?;
    let commander = Commander::start(broker.port)?;
    let args = json!({
        "source": "pump", "stream": stream, "first_seq": WANTED.start(), "last_seq": WANTED.end()
    });
    let reply = commander.ask(&json!({"id": "again", "op": "replay", "args": args}))?;
    ensure!(reply["status"] == "done", "{reply}");
    ensure!(
        reply["result"]["uplinks"]["cloud"]["records"] == 10,
        "{reply}"
    );
    core.wait("the numbers", STEP, |got| got.count("pump") == 10)?;
    core.look(|got| {
        let came = got.lines.values().next().context("no line")?;
        for seq in WANTED {
            ensure!(came.samples.get(&seq) == line.samples.get(&seq), "{seq}");
        }
        Ok(())
    })?;
    settled(&gateway, before["pump"].acked, 0)?;

    // By time, from the command line, over a kill in between: all of it.
    broker.stop()?;
    let replayed = gateway.json(&["buffer", "replay", "--since", "1h"])?;
    let acked = before["pump"].acked;
    ensure!(
        replayed["uplinks"]["cloud"]["records"] == acked,
        "{replayed}"
    );
    gateway.kill();
    gateway.start()?;
    let row = ledger::verified(&gateway)?.remove("pump").context("pump")?;
    ensure!((row.queued, row.acked) == (acked, 0), "{row:?}");
    // A kill voids numbers that nobody has had: an upper bound, by design.
    let voided = row.lost();
    broker.restart()?;
    core.wait("everything", STEP, |got| got.count("pump") as u64 == acked)?;
    settled(&gateway, acked, voided)?;
    let got = core.stop();
    ensure!(got.violations.is_empty(), "{:?}", got.violations);

    // Thrown away: nothing is there to come again.
    let asked = gateway.cli(&["buffer", "purge"])?;
    ensure!(asked.status.code() == Some(2), "{asked:?}");
    let purged = gateway.json(&["buffer", "purge", "--yes"])?;
    ensure!(purged["epochs"].as_u64() > Some(0), "{purged}");
    let replayed = gateway.json(&["buffer", "replay", "--since", "1h"])?;
    ensure!(replayed["uplinks"]["cloud"]["records"] == 0, "{replayed}");
    gateway.terminate()?;
    // And so on a stopped agent.
    let data = gateway.data_dir();
    let stopped = [
        "buffer",
        "purge",
        "--yes",
        "--data-dir",
        &data.to_string_lossy(),
    ];
    let purged = gateway.cli(&stopped)?;
    ensure!(purged.status.success(), "{purged:?}");
    Ok(())
}

/// Waits until everything is acknowledged as it was, and no more is lost.
fn settled(gateway: &Gateway, acked: u64, lost: u64) -> Result<()> {
    wait_for("everything acknowledged", STEP, || {
        let rows = ledger::verified(gateway).ok()?;
        let row = rows.get("pump")?;
        (row.queued == 0 && row.acked == acked && row.lost() == lost).then_some(())
    })
}
