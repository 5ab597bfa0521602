//! `when_full = "block"`: what a server sends by itself waits with the server while the store has no room, and nothing
//! of it is lost.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use millrace_tests::agent::Gateway;
use millrace_tests::broker::Broker;
use millrace_tests::small_disk::SmallDisk;
use millrace_tests::subscriber::Subscriber;
use millrace_tests::wait::{STEP, wait_for};
use serde_json::Value;

use crate::{ledger, plant};

/// What is left of the disk is less than the quarter that the store leaves free.
const DISK_MIB: u32 = 24;
const BALLAST_MIB: u32 = 19;

/// Longer than three keep-alives take, shorter than what the server's queues hold: 50 values at two a second.
const HELD: Duration = Duration::from_secs(20);

fn ticks(gateway: &Gateway) -> Option<Value> {
    let status = gateway.json(&["status"]).ok()?;
    let devices = status["devices"].as_array()?.iter();
    devices.into_iter().find(|d| d["name"] == "ticks").cloned()
}

fn wait_until_held(gateway: &Gateway, held: bool) -> Result<()> {
    wait_for("whether the server is left waiting", STEP, || {
        let remarks = ticks(gateway)?["remarks"].to_string();
        (remarks.contains("the buffer has no room") == held).then_some(())
    })
}

#[test]
fn an_opcua_server_is_left_waiting_while_there_is_no_room_and_loses_nothing() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let directory = directory.path();
    let mut gateway = Gateway::new(directory);
    let Some(disk) = SmallDisk::mount(&gateway.data_dir(), DISK_MIB)? else {
        return Ok(());
    };
    gateway.start_by(disk.prefix());
    let broker = Broker::start(directory)?;
    let subscriber = Subscriber::start(broker.port)?;
    let (mut peer, port) = plant::start_ticks(directory)?;
    let buffer = "[buffer]\ncommit_interval = \"200ms\"\nwhen_full = \"block\"\n\n";
    let common = format!("{buffer}{}", plant::uplink_config(broker.port));
    let device = plant::ticks_config(&gateway, port, directory)?;
    gateway.configure(&format!("{common}{device}"))?;
    gateway.start()?;
    subscriber.wait("notifications", STEP, |got| got.count("ticks") > 1000)?;

    disk.take(BALLAST_MIB)?;
    wait_until_held(&gateway, true)?;
    let problems = gateway.json(&["status"])?["problems"].to_string();
    ensure!(problems.contains("held back"), "{problems}");
    let acquired = || Ok::<u64, anyhow::Error>(ledger::verified(&gateway)?["ticks"].acquired);
    let before = acquired()?;
    std::thread::sleep(HELD);
    assert_eq!(acquired()?, before, "it was read although there is no room");

    disk.relieve()?;
    wait_until_held(&gateway, false)?;
    let count = subscriber.look(|got| got.count("ticks"));
    subscriber.wait("what had waited, and more", STEP, |got| {
        got.count("ticks") as u64 > count as u64 + plant::TAGS * 45
    })?;
    let device = ticks(&gateway).context("the device")?;
    ensure!(device["state"] == "online", "{device}");
    assert_eq!(device["read_errors_total"], 0, "{device}");
    ensure!(
        !device["remarks"].to_string().contains("ran over"),
        "{device}"
    );

    peer.kill();
    gateway.terminate()?;
    gateway.configure(&common)?;
    gateway.start()?;
    let row = wait_for("an empty queue", STEP, || {
        let rows = ledger::verified(&gateway).ok()?;
        rows.get("ticks").filter(|row| row.queued == 0).cloned()
    })?;
    gateway.terminate()?;
    assert_eq!(row.lost(), 0, "{row:?}");
    let got = subscriber.stop();
    assert_eq!(got.violations, Vec::<String>::new());
    assert_eq!(got.gaps_of("ticks").count(), 0);
    assert_eq!(got.line("ticks")?.holes(), []);
    // Each tick came, of every tag: the value says which one it is.
    for index in 0..plant::TAGS {
        let tag = format!("t{index}");
        let good = got.of_tag("ticks", &tag).filter(|s| s.quality.is_none());
        let values: Vec<u64> = good.filter_map(|s| s.value.as_u64()).collect();
        let first = values.first().context("a tick")? / 1000;
        let whole: Vec<u64> = (first..)
            .take(values.len())
            .map(|tick| tick * 1000 + index)
            .collect();
        assert_eq!(values, whole, "{tag}");
    }
    Ok(())
}
