//! A full store: the oldest samples go, the hole is announced, and the ledger still balances. A full disk, and one
//! that is read-only: polling and delivery go on, and so does storing once it can.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use millrace_tests::agent::Gateway;
use millrace_tests::broker::Broker;
use millrace_tests::sim::SimModbus;
use millrace_tests::small_disk::SmallDisk;
use millrace_tests::subscriber::Subscriber;
use millrace_tests::wait::{STEP, wait_for};

use crate::ledger;
use crate::plant;

/// Values that no codec makes small, so that the smallest store is soon full.
const TAGS: usize = 4_000;

/// Filling and draining 16 MiB on a slow, loaded machine.
const FILL: Duration = Duration::from_secs(300);

#[test]
fn the_oldest_samples_give_way_and_the_gap_is_announced() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut broker = Broker::start(directory.path())?;
    let subscriber = Subscriber::start(broker.port)?;
    let mut gateway = Gateway::new(directory.path());
    let noise = noise(&gateway)?;
    let common = format!(
        "[buffer]\nmax_bytes = \"16MiB\"\n\n{}",
        plant::uplink_config(broker.port)
    );
    let device = format!(
        "[[device]]\nname = \"noise\"\ndriver = \"modbus-tcp\"\naddress = \"127.0.0.1:{}\"\nunit_id = 1\n\
         poll_interval = \"100ms\"\ntimeout = \"5s\"\ntags_file = \"noise.csv\"\n\n",
        noise.port
    );
    gateway.configure(&format!("{common}{device}"))?;
    gateway.start()?;
    subscriber.wait("live data", STEP, |got| got.count("noise") > TAGS)?;
    broker.stop()?;
    wait_for("a full store", FILL, || {
        let rows = ledger::verified(&gateway).ok()?;
        (rows.get("noise")?.lost() > 0).then_some(())
    })?;
    let buffer = gateway.json(&["buffer", "status"])?;
    let bytes = buffer["bytes"].as_u64().context("bytes")?;
    ensure!(bytes <= 20 << 20, "{buffer}");

    // Without the device the rest is drained, and can be compared number by number.
    gateway.terminate()?;
    gateway.configure(&common)?;
    gateway.start()?;
    broker.restart()?;
    subscriber.wait("the gap", STEP, |got| got.gaps_of("noise").count() > 0)?;
    let row = wait_for("an empty queue", FILL, || {
        let rows = ledger::verified(&gateway).ok()?;
        rows.get("noise").filter(|row| row.queued == 0).cloned()
    })?;
    subscriber.wait("everything acknowledged", FILL, |got| {
        got.count("noise") as u64 >= row.acked
    })?;

    let got = subscriber.stop();
    assert_eq!(got.violations, Vec::<String>::new());
    let mut void = BTreeSet::new();
    for gap in got.gaps_of("noise") {
        assert_eq!(gap.reason, "full", "{gap:?}");
        void.extend(gap.first..=gap.last.context("the stream goes on")?);
    }
    assert_eq!(row.dropped.get("full"), Some(&row.lost()), "{row:?}");
    assert_eq!(void.len() as u64, row.lost(), "{row:?}");
    let line = got.line("noise")?;
    for hole in line.holes() {
        assert!(
            hole.clone().all(|seq| void.contains(&seq)),
            "{hole:?} is not announced"
        );
    }
    let came = line.samples.keys().filter(|seq| !void.contains(seq));
    assert_eq!(came.count() as u64, row.acked, "{row:?}");
    println!("noise: {row:?}, {} copies", line.copies);
    Ok(())
}

/// A device of random numbers, and its tags in `noise.csv`.
fn noise(gateway: &Gateway) -> Result<SimModbus> {
    let mut tags = String::from("name,address,type\n");
    let mut map = String::from("name,address,type,signal\n");
    for index in 0..TAGS {
        let _ = writeln!(tags, "n{index},holding:{},f64", 4 * index);
        let _ = writeln!(map, "n{index},holding:{},f64,sine 50 10 30s 5", 4 * index);
    }
    gateway.write("noise.csv", &tags)?;
    gateway.write("map.csv", &map)?;
    let directory = gateway.config_path();
    let directory = directory.parent().context("a directory")?;
    SimModbus::start(&["--map", "map.csv"], directory)
}

/// Samples of the pump that come while the disk refuses, or after it.
fn come(subscriber: &Subscriber, what: &str) -> Result<()> {
    let before = subscriber.look(|got| got.count("pump"));
    subscriber.wait(what, STEP, |got| got.count("pump") > before + 20)
}

/// Waits until `status` says, or no longer says, that samples are only in memory.
fn wait_until_said(gateway: &Gateway, is_said: bool, mut meanwhile: impl FnMut()) -> Result<()> {
    wait_for("what status says of the disk", STEP, || {
        meanwhile();
        let problems = gateway.json(&["status"]).ok()?["problems"].to_string();
        (problems.contains("samples are not on disk") == is_said).then_some(())
    })
}

#[test]
fn a_disk_that_is_full_or_read_only_stops_neither_polling_nor_delivery() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut gateway = Gateway::new(directory.path());
    let Some(disk) = SmallDisk::mount(&gateway.data_dir(), 24)? else {
        return Ok(());
    };
    gateway.start_by(disk.prefix());
    let mut broker = Broker::start(directory.path())?;
    let subscriber = Subscriber::start(broker.port)?;
    let (_pump, port) = plant::start_pump(directory.path(), &[])?;
    let buffer = "[buffer]\ncommit_interval = \"200ms\"\n\n";
    let uplink = plant::uplink_config(broker.port);
    let device = plant::small_pump_config(port, &[0, 1, 2]);
    gateway.configure(&format!("{buffer}{uplink}{device}"))?;
    gateway.start()?;
    let pid = gateway.pid();
    come(&subscriber, "live data")?;

    // Somebody else takes all the room, and what the store gives way with, too.
    wait_until_said(&gateway, true, || drop(disk.fill()))?;
    come(&subscriber, "samples from memory")?;
    disk.relieve()?;
    wait_until_said(&gateway, false, || ())?;
    come(&subscriber, "samples after the full disk")?;

    // Read-only: the file that is being written stays open, and the next one cannot be made.
    disk.make_read_only("buffer")?;
    let seal = ["buffer", "purge", "--before", "3650d", "--yes"];
    wait_until_said(&gateway, true, || drop(gateway.cli(&seal)))?;
    come(&subscriber, "samples from memory")?;
    disk.make_writable("buffer")?;
    wait_until_said(&gateway, false, || ())?;
    assert_eq!(gateway.pid(), pid, "it was not restarted");

    // What is stored now survives a kill.
    broker.stop()?;
    let before = ledger::verified(&gateway)?["pump"].acquired;
    wait_for("a backlog", STEP, || {
        let row = ledger::verified(&gateway).ok()?["pump"].clone();
        (row.queued > 50 && row.acquired > before + 50).then_some(())
    })?;
    gateway.kill();
    gateway.configure(&format!("{buffer}{uplink}"))?;
    gateway.start()?;
    broker.restart()?;
    let row = wait_for("an empty queue", FILL, || {
        let rows = ledger::verified(&gateway).ok()?;
        rows.get("pump").filter(|row| row.queued == 0).cloned()
    })?;
    gateway.terminate()?;
    let got = subscriber.stop();
    assert_eq!(got.violations, Vec::<String>::new());
    // Each stream is whole but for what was announced, and nothing else is counted as lost.
    let (mut announced, mut came) = (0, 0);
    for ((source, stream), line) in &got.lines {
        let gaps = got.gaps_of(source).filter(|gap| gap.stream == *stream);
        let void: BTreeSet<u64> = gaps
            .filter_map(|gap| Some(gap.first..=gap.last?))
            .flatten()
            .collect();
        for hole in line.holes() {
            ensure!(
                hole.clone().all(|seq| void.contains(&seq)),
                "{stream}: {hole:?} is not announced"
            );
        }
        announced += void.len() as u64;
        came += line
            .samples
            .keys()
            .filter(|seq| !void.contains(seq))
            .count() as u64;
    }
    let reasons: Vec<&str> = row.dropped.keys().map(String::as_str).collect();
    ensure!(reasons.iter().all(|reason| *reason == "crash"), "{row:?}");
    assert_eq!(announced, row.lost(), "{row:?}");
    assert_eq!(came, row.acked, "{row:?}");
    println!("pump: {row:?} in {} streams", got.lines.len());
    Ok(())
}
