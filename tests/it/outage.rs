//! The main promise: a broker outage and two kill -9 in it cost at most one commit interval each, announced.

use std::collections::{BTreeMap, BTreeSet};
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use millrace_tests::agent::Gateway;
use millrace_tests::broker::Broker;
use millrace_tests::received::{Received, Sample};
use millrace_tests::served::{Served, TICK_FACTOR};
use millrace_tests::subscriber::Subscriber;
use millrace_tests::wait::{STEP, wait_for};

use crate::ledger::{self, Row};
use crate::plant::{self, MODBUS_RATE, OPCUA_RATE, TAGS};

const COMMIT_INTERVAL_S: f64 = 1.0;
const PUBLISH_INTERVAL_S: f64 = 0.5;
const READ_TIMEOUT_S: f64 = 1.0;

/// How late a commit may end on a loaded machine: it starts in time, then waits for the disk and a processor.
const LATE_S: f64 = 3.0;

const OUTAGE: Duration = Duration::from_secs(20);
const DRAIN: Duration = Duration::from_secs(180);

/// What was done to the agent, Unix seconds.
#[derive(Debug)]
struct Faults {
    kills: Vec<f64>,
    stop: f64,
}

#[test]
fn outage_and_two_kills_lose_one_commit_interval_each_and_say_so() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let directory = directory.path();
    let mut broker = Broker::start(directory)?;
    let subscriber = Subscriber::start(broker.port)?;
    let (mut pump, pump_port) = plant::start_pump(directory, &[])?;
    let (mut ticks, ticks_port) = plant::start_ticks(directory)?;

    let mut gateway = Gateway::new(directory);
    let common = format!(
        "[buffer]\ncommit_interval = \"1s\"\n\n{}",
        plant::uplink_config(broker.port)
    );
    let devices = plant::pump_config(&gateway, pump_port, "100ms")?
        + &plant::ticks_config(&gateway, ticks_port, directory)?;
    gateway.configure(&format!("{common}{devices}"))?;
    gateway.start()?;
    subscriber.wait("live data", STEP, |got| {
        got.count("pump") > 4000 && got.count("ticks") > 1000
    })?;

    let faults = break_and_heal(&mut broker, &mut gateway, &subscriber)?;
    pump.kill();
    ticks.kill();

    // Without devices nothing more is acquired: the ledger can be compared number by number.
    gateway.configure(&common)?;
    gateway.start()?;
    let rows = drained(&gateway)?;
    subscriber.wait("everything acknowledged at the subscriber", STEP, |got| {
        rows.iter()
            .all(|(source, row)| got.count(source) as u64 >= row.acked)
    })?;
    gateway.terminate()?;

    let got = subscriber.stop();
    assert_eq!(got.violations, Vec::<String>::new());
    let served = Served::read(&directory.join("served.jsonl"))?;
    let pump_start = pump.ready["start"].as_f64().context("start")?;
    values_are_right(&got, &served, pump_start)?;
    only_the_last_interval_before_a_fault_is_lost(&got, &served, &faults)?;
    let ticks_start = ticks.ready["start"].as_f64().context("start")?;
    notifications_are_right(&got, ticks_start)?;
    one_hole_a_kill(&got, &faults, ticks_start)?;
    for source in ["pump", "ticks"] {
        let row = rows
            .get(source)
            .with_context(|| format!("{source} is not in the ledger"))?;
        ledger_equals_subscriber(&got, source, row, faults.kills.len())?;
    }
    Ok(())
}

/// Broker away for 20 s, two kills meanwhile, then everything is well again; ends with a clean stop.
fn break_and_heal(
    broker: &mut Broker,
    gateway: &mut Gateway,
    subscriber: &Subscriber,
) -> Result<Faults> {
    broker.stop()?;
    let outage_end = SystemTime::now() + OUTAGE;
    let mut kills = Vec::new();
    for _ in 0..2 {
        sleep(OUTAGE / 4);
        ledger::verified(gateway)?;
        kills.push(unix_now());
        gateway.kill();
        gateway.start()?;
    }
    sleep(
        outage_end
            .duration_since(SystemTime::now())
            .unwrap_or_default(),
    );
    broker.restart()?;

    let healed_ms = unix_now() * 1000.0;
    subscriber.wait("live data after the outage", DRAIN, |got| {
        ["pump", "ticks"].iter().all(|source| {
            got.of_tag(source, "t0")
                .any(|sample| sample.at_ms > healed_ms)
        })
    })?;
    let stop = unix_now();
    let status = gateway.terminate()?;
    ensure!(status.success(), "SIGTERM: {status}");
    Ok(Faults { kills, stop })
}

fn drained(gateway: &Gateway) -> Result<BTreeMap<String, Row>> {
    wait_for("an empty queue", DRAIN, || {
        let rows = ledger::verified(gateway).ok()?;
        rows.values().all(|row| row.queued == 0).then_some(rows)
    })
}

/// Every value proves its tag, was really served, and was stamped when it was served.
fn values_are_right(got: &Received, served: &Served, start: f64) -> Result<()> {
    for sample in good_samples(got, "pump")? {
        let value = tick_value(sample)?;
        ensure!(
            served.values.contains_key(&value),
            "{sample:?} was never served"
        );
        let tick_at = start + (value / TICK_FACTOR) as f64 / MODBUS_RATE;
        let age_s = sample.at_ms / 1000.0 - tick_at;
        let tolerance_s = READ_TIMEOUT_S + 1.0 / MODBUS_RATE;
        ensure!(
            age_s.abs() <= tolerance_s,
            "{sample:?} is {age_s} s away from its time"
        );
    }
    Ok(())
}

/// Compares what the device served with what came, value by value, with multiplicity.
fn only_the_last_interval_before_a_fault_is_lost(
    got: &Received,
    served: &Served,
    faults: &Faults,
) -> Result<()> {
    let mut delivered: BTreeMap<u64, u64> = BTreeMap::new();
    for sample in good_samples(got, "pump")? {
        *delivered.entry(tick_value(sample)?).or_default() += 1;
    }
    let mut lost = 0;
    for (value, serving) in &served.values {
        let times = delivered.get(value).copied().unwrap_or_default();
        ensure!(
            times <= serving.times,
            "{value} was served {} times and came {times} times",
            serving.times
        );
        if times < serving.times {
            lost += serving.times - times;
            let at = serving.at;
            let by_kill = faults
                .kills
                .iter()
                .any(|kill| within(at, kill - COMMIT_INTERVAL_S - LATE_S, kill + LATE_S));
            let by_stop = within(at, faults.stop - READ_TIMEOUT_S, faults.stop + LATE_S);
            ensure!(
                by_kill || by_stop,
                "{value}, served at {at}, is lost; {faults:?}"
            );
        }
    }
    println!("pump: served {}, lost {lost} to 2 kills", served.total());
    Ok(())
}

/// Value and source time of a notification prove each other.
fn notifications_are_right(got: &Received, start: f64) -> Result<()> {
    for sample in good_samples(got, "ticks")? {
        let tick = tick_value(sample)? / TICK_FACTOR;
        let source_ms = sample
            .source_ms
            .with_context(|| format!("{sample:?} has no source time"))?;
        let expected_ms = (start + tick as f64 / OPCUA_RATE) * 1000.0;
        ensure!(
            (source_ms - expected_ms).abs() < 1.0,
            "{sample:?} should be of {expected_ms}"
        );
    }
    Ok(())
}

/// A subscription delivers each change: what is missing lies in at most one run a kill, which begins within one commit
/// and one publishing interval before it.
fn one_hole_a_kill(got: &Received, faults: &Faults, start: f64) -> Result<()> {
    for index in 0..TAGS {
        let name = format!("t{index}");
        let mut ticks = BTreeSet::new();
        for sample in got
            .of_tag("ticks", &name)
            .filter(|sample| sample.quality.is_none())
        {
            ticks.insert(tick_value(sample)? / TICK_FACTOR);
        }
        let mut breaks = Vec::new();
        for (before, after) in ticks.iter().zip(ticks.iter().skip(1)) {
            if after - before > 1 {
                breaks.push(start + (before + 1) as f64 / OPCUA_RATE);
            }
        }
        ensure!(
            breaks.len() <= faults.kills.len(),
            "{name} has holes at {breaks:?}; {faults:?}"
        );
        for at in breaks {
            let earliest = COMMIT_INTERVAL_S + PUBLISH_INTERVAL_S + LATE_S;
            let explained = faults
                .kills
                .iter()
                .any(|kill| within(at, kill - earliest, kill + LATE_S));
            ensure!(explained, "{name} has a hole at {at}; {faults:?}");
        }
    }
    Ok(())
}

/// Every number either came, or lies in a gap of reason `crash`; the ledger says the same.
fn ledger_equals_subscriber(got: &Received, source: &str, row: &Row, kills: usize) -> Result<()> {
    let line = got.line(source)?;
    let gaps: Vec<_> = got.gaps_of(source).collect();
    ensure!(
        gaps.len() <= kills,
        "{source}: more gaps than kills: {gaps:?}"
    );
    let mut void = BTreeSet::new();
    for gap in &gaps {
        ensure!(gap.reason == "crash", "{gap:?}");
        void.extend(gap.first..=gap.last.context("a crash does not close the stream")?);
    }
    ensure!(
        line.holes().len() <= kills,
        "{source}: more holes than kills: {:?}",
        line.holes()
    );
    for hole in line.holes() {
        ensure!(
            hole.clone().all(|seq| void.contains(&seq)),
            "{source}: {hole:?} is not in {gaps:?}"
        );
    }
    let all: BTreeSet<u64> = line
        .samples
        .keys()
        .copied()
        .chain(void.iter().copied())
        .collect();
    ensure!(
        all.len() as u64 == row.acquired,
        "{source}: {} numbers for {row:?}",
        all.len()
    );
    ensure!(
        all.last() == Some(&row.acquired),
        "{source}: last number is {:?}, {row:?}",
        all.last()
    );
    ensure!(
        row.queued == 0 && row.lost() == void.len() as u64,
        "{source}: {row:?}, void {}",
        void.len()
    );
    let outside = line
        .samples
        .keys()
        .filter(|seq| !void.contains(seq))
        .count() as u64;
    ensure!(row.acked == outside, "{source}: {outside} came, {row:?}");
    println!("{source}: {row:?}, {} copies", line.copies);
    Ok(())
}

fn good_samples<'a>(got: &'a Received, source: &str) -> Result<impl Iterator<Item = &'a Sample>> {
    Ok(got
        .line(source)?
        .samples
        .values()
        .filter(|sample| sample.quality.is_none()))
}

/// The value, after the check that it belongs to the tag.
fn tick_value(sample: &Sample) -> Result<u64> {
    let value = sample
        .value
        .as_u64()
        .with_context(|| format!("{sample:?} is not a whole number"))?;
    ensure!(
        format!("t{}", value % TICK_FACTOR) == sample.name,
        "{sample:?} belongs to another tag"
    );
    Ok(value)
}

fn within(at: f64, first: f64, last: f64) -> bool {
    first <= at && at <= last
}

fn unix_now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}
