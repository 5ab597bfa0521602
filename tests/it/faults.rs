//! The whole agent against a broker that does everything wrong: what it counts as delivered was taken, all of it.
//!
//! `MILLRACE_FAULT_AGENT_MESSAGES=2000` is the full run (`make soak-uplink`), `MILLRACE_SEED` repeats one as far as a clock can.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use millrace_tests::agent::Gateway;
use millrace_tests::fault_broker::{FaultBroker, Script};
use millrace_tests::received::Received;
use millrace_tests::sim::SimModbus;

use crate::ledger;
use crate::plant;

/// The run must get on; how fast is the machine's affair.
const STILL_MAX: Duration = Duration::from_secs(180);

fn number(name: &str, default: u64) -> Result<u64> {
    Ok(std::env::var(name).map_or(Ok(default), |text| text.parse())?)
}

#[test]
fn the_agent_counts_what_a_faulty_broker_took_and_no_more() -> Result<()> {
    let messages = number("MILLRACE_FAULT_AGENT_MESSAGES", 300)?;
    let seed = number("MILLRACE_SEED", 6)?;
    // The agent waits longer and longer before it connects again, so that cuts are few.
    let broker = FaultBroker::start(Script::chaos(seed, 60_000))?;
    let received = Arc::<Mutex<Received>>::default();
    let seen = Arc::clone(&received);
    broker.tap(move |topic, payload| {
        let mut received = seen.lock().unwrap_or_else(PoisonError::into_inner);
        received.take(topic, payload);
    });
    let look = || received.lock().unwrap_or_else(PoisonError::into_inner);

    let directory = tempfile::tempdir()?;
    let mut gateway = Gateway::new(directory.path());
    gateway.write(
        "map.csv",
        "name,address,type,signal\na,holding:0,u32,counter\n",
    )?;
    let pump = SimModbus::start(&["--map", "map.csv"], directory.path())?;
    let uplink = plant::uplink_config(broker.port).replace("\n\n", "\nmax_message = \"1KiB\"\n\n");
    let devices = plant::small_pump_config(pump.port, &[0]).replace("\"200ms\"", "\"10ms\"");
    gateway.configure(&format!("{uplink}{devices}"))?;
    gateway.start()?;
    let (mut before, mut since) = (0, Instant::now());
    loop {
        std::thread::sleep(Duration::from_millis(200));
        let came = look().messages;
        if came >= messages {
            break;
        }
        if came > before {
            (before, since) = (came, Instant::now());
        }
        let tally = broker.tally();
        ensure!(since.elapsed() < STILL_MAX, "{came} messages, {tally:?}");
    }
    // Without the device nothing more is acquired, and the rest goes over the same bad broker.
    drop(pump);
    gateway.terminate()?;
    gateway.configure(&uplink)?;
    gateway.start()?;
    let (mut before, mut since) = (u64::MAX, Instant::now());
    let row = loop {
        std::thread::sleep(Duration::from_millis(200));
        let rows = ledger::verified(&gateway)?;
        let row = rows.get("pump").cloned().unwrap_or_default();
        if row.acquired > 0 && row.queued == 0 {
            break row;
        }
        if row.queued < before {
            (before, since) = (row.queued, Instant::now());
        }
        let tally = broker.tally();
        ensure!(since.elapsed() < STILL_MAX, "{row:?}, {tally:?}");
    };
    gateway.terminate()?;

    let (tally, got) = (broker.tally(), look());
    println!("seed {seed}: {} messages, {row:?}, {tally:?}", got.messages);
    ensure!(tally.violations == 0 && tally.cuts > 0, "{tally:?}");
    ensure!(got.violations.is_empty(), "{:?}", got.violations);
    let line = got.line("pump")?;
    ensure!(line.holes().is_empty(), "holes {:?}", line.holes());
    ensure!(row.acked == row.acquired, "{row:?}");
    ensure!(
        line.samples.len() as u64 == row.acked,
        "{} samples came, {row:?}",
        line.samples.len()
    );
    Ok(())
}
