//! The agent and its store: a store of a newer version does not keep it from starting, and after any
//! number of kills its ledger says what the broker's subscriber has.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use millrace_tests::agent::Gateway;
use millrace_tests::broker::Broker;
use millrace_tests::received::Line;
use millrace_tests::sim::SimModbus;
use millrace_tests::subscriber::Subscriber;
use millrace_tests::wait::{STEP, wait_for};

use crate::ledger;
use crate::plant;

const DRAIN: Duration = Duration::from_secs(180);

fn device(gateway: &Gateway, port: u16) -> Result<String> {
    gateway.write(
        "counts.csv",
        "name,address,type\na,holding:0,u32\nb,holding:2,u32\n",
    )?;
    Ok(format!(
        "[[device]]\nname = \"counts\"\ndriver = \"modbus-tcp\"\naddress = \"127.0.0.1:{port}\"\nunit_id = 1\n\
         poll_interval = \"20ms\"\ntimeout = \"5s\"\ntags_file = \"counts.csv\"\n\n"
    ))
}

fn sim(gateway: &Gateway) -> Result<SimModbus> {
    gateway.write(
        "map.csv",
        "name,address,type,signal\na,holding:0,u32,counter\nb,holding:2,u32,counter\n",
    )?;
    let config = gateway.config_path();
    SimModbus::start(
        &["--map", "map.csv"],
        config.parent().context("a directory")?,
    )
}

/// CRC-32C, bit by bit, so that no library is proved by itself.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0x82F6_3B78 & 0u32.wrapping_sub(crc & 1))
        })
    })
}

#[test]
fn a_store_of_a_newer_version_is_set_aside_and_said() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut gateway = Gateway::new(directory.path());
    let sim = sim(&gateway)?;
    gateway.configure(&device(&gateway, sim.port)?)?;
    gateway.start()?;
    gateway.terminate()?;
    let store = gateway.data_dir().join("buffer");
    let epochs = std::fs::read_dir(store.join("data"))?.count();
    let line = "millrace-buffer 99";
    let line = format!("{line} {:08x}\n", crc32c(line.as_bytes()));
    std::fs::write(store.join("format"), line)?;

    gateway.start()?;
    wait_for("samples in a fresh store", STEP, || {
        let rows = ledger::verified(&gateway).ok()?;
        rows.get("counts").filter(|row| row.acquired > 0).map(drop)
    })?;
    let status = String::from_utf8(gateway.cli(&["status"])?.stdout)?;
    ensure!(status.contains("buffer.newer"), "{status}");
    let said = gateway.json(&["buffer", "status"])?["set_aside"].to_string();
    ensure!(said.contains("newer millrace"), "{said}");
    // Nothing of it was touched, and it is said after the next start, too.
    let aside = gateway.data_dir().join("buffer.newer");
    assert_eq!(std::fs::read_dir(aside.join("data"))?.count(), epochs);
    gateway.kill();
    gateway.start()?;
    let status = String::from_utf8(gateway.cli(&["status"])?.stdout)?;
    ensure!(status.contains("buffer.newer"), "{status}");
    Ok(())
}

#[test]
fn without_a_data_directory_it_delivers_from_memory_and_stores_once_it_can() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let broker = Broker::start(directory.path())?;
    let subscriber = Subscriber::start(broker.port)?;
    let mut gateway = Gateway::new(directory.path());
    let sim = sim(&gateway)?;
    let uplink = plant::uplink_config(broker.port);
    gateway.configure(&format!("{uplink}{}", device(&gateway, sim.port)?))?;
    // A file where the directory has to be: not even root can make one.
    std::fs::write(gateway.data_dir(), "")?;
    gateway.start()?;
    subscriber.wait("samples from memory", STEP, |got| got.count("counts") > 50)?;
    let status = String::from_utf8(gateway.cli(&["status"])?.stdout)?;
    ensure!(status.contains("samples are not on disk"), "{status}");
    let memory = gateway.json(&["buffer", "status"])?["dir"].to_string();
    ensure!(!memory.contains("data/buffer"), "{memory}");

    // Killed and started again, it loses nothing of what it had committed.
    gateway.kill();
    gateway.start()?;
    let before = subscriber.look(|got| got.count("counts"));
    subscriber.wait("samples after a kill", STEP, |got| {
        got.count("counts") > before + 50
    })?;
    std::fs::remove_file(gateway.data_dir())?;
    wait_for("the store on the disk", STEP, || {
        let dir = gateway.json(&["buffer", "status"]).ok()?["dir"].to_string();
        dir.contains("data/buffer").then_some(())
    })?;
    let before = subscriber.look(|got| got.count("counts"));
    subscriber.wait("samples from the disk", STEP, |got| {
        got.count("counts") > before + 50
    })?;
    let status = String::from_utf8(gateway.cli(&["status"])?.stdout)?;
    ensure!(!status.contains("samples are not on disk"), "{status}");
    ensure!(
        !std::path::Path::new(memory.trim_matches('"')).exists(),
        "{memory}"
    );
    gateway.terminate()?;
    let got = subscriber.stop();
    assert_eq!(got.violations, Vec::<String>::new());
    Ok(())
}

/// How often the agent is killed; `MILLRACE_AGENT_KILLS` asks for more.
fn kills() -> u64 {
    let asked = std::env::var("MILLRACE_AGENT_KILLS").ok();
    asked.and_then(|n| n.parse().ok()).unwrap_or(3)
}

#[test]
fn the_ledger_of_a_killed_agent_is_what_the_subscriber_has() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let broker = Broker::start(directory.path())?;
    let subscriber = Subscriber::start(broker.port)?;
    let mut gateway = Gateway::new(directory.path());
    let sim = sim(&gateway)?;
    let common = format!(
        "[buffer]\ncommit_interval = \"100ms\"\n\n{}",
        plant::uplink_config(broker.port)
    );
    gateway.configure(&format!("{common}{}", device(&gateway, sim.port)?))?;
    let mut last = 0;
    for round in 0..kills() {
        gateway.start()?;
        subscriber.wait("samples of this life", STEP, |got| {
            got.count("counts") > last + 20
        })?;
        std::thread::sleep(Duration::from_millis(37 * (round % 11)));
        // Counted while it works: what it says of itself, and what is on its disk.
        let rows = ledger::verified(&gateway)?;
        ensure!(rows.contains_key("counts"), "{rows:?}");
        gateway.kill();
        let count = std::cell::Cell::new(last);
        subscriber.wait("nothing more", STEP, |got| {
            count.replace(got.count("counts")) == count.get()
        })?;
        last = count.get();
    }
    gateway.configure(&common)?;
    gateway.start()?;
    let row = wait_for("an empty queue", DRAIN, || {
        let rows = ledger::verified(&gateway).ok()?;
        rows.get("counts").filter(|row| row.queued == 0).cloned()
    })?;
    subscriber.wait("everything acknowledged", DRAIN, |got| {
        got.count("counts") as u64 >= row.acked
    })?;
    subscriber.wait("the gaps", DRAIN, |got| {
        let told: u64 = got
            .gaps_of("counts")
            .filter_map(|gap| Some(gap.last? - gap.first + 1))
            .sum();
        told >= row.lost()
    })?;
    gateway.terminate()?;
    let got = subscriber.stop();
    assert_eq!(got.violations, Vec::<String>::new());
    let mut void = std::collections::BTreeSet::new();
    for gap in got.gaps_of("counts") {
        assert_eq!(gap.reason, "crash", "{gap:?}");
        void.extend(gap.first..=gap.last.context("the stream goes on")?);
    }
    assert_eq!(void.len() as u64, row.lost(), "{row:?}");
    let line = got.line("counts")?;
    for hole in line.holes() {
        ensure!(
            hole.clone().all(|seq| void.contains(&seq)),
            "{hole:?} is not announced"
        );
    }
    let came = line.samples.keys().filter(|seq| !void.contains(seq));
    assert_eq!(came.count() as u64, row.acked, "{row:?}");
    let unseen = ["a", "b"].map(|tag| unseen(line, tag));
    for (from, count) in unseen.iter().flatten() {
        ensure!(*count > 0, "what was read {from} times came twice or late");
    }
    // A reply may be on its way at a kill, without a number yet.
    let missing: u64 = unseen.iter().flatten().map(|(_, count)| count).sum();
    ensure!(
        unseen.iter().all(|u| u.len() as u64 <= kills()) && missing <= row.lost() + 2 * kills(),
        "{} kills, {row:?}, but the device gave what never came: {unseen:?}",
        kills()
    );
    println!(
        "agent: {} kills, {row:?}, {missing} replies of the device went with them",
        kills()
    );
    Ok(())
}

/// Where the device's own count of its replies jumps, and by how many replies that never came; 0: it does not
/// rise.
fn unseen(line: &Line, tag: &str) -> Vec<(u64, u64)> {
    let samples = line.samples.values().filter(|sample| sample.name == tag);
    let counts: Vec<u64> = samples.filter_map(|s| s.value.as_u64()).collect();
    let steps = counts.windows(2);
    let jumps = steps.filter(|w| w[1] != w[0] + 1);
    jumps
        .map(|w| (w[0], w[1].saturating_sub(w[0] + 1)))
        .collect()
}
