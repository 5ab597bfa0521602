//! Samples that were taken before the clock was set get their time when it is known.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

use std::sync::Arc;
use std::time::Duration;

use millrace_buffer::{Budget, Buffer, Item, Outbox, Settings, Start, TagSpec};
use millrace_tags::{
    Clock, Lane, Records, Sample, SourceKind, TestClock, Timestamp, Value, ValueType,
};

/// Where the test's first boot stands in UTC.
const BOOT: Timestamp = Timestamp(1_763_690_000_000_000_000);
const SECOND: Duration = Duration::from_secs(1);

fn open(dir: &std::path::Path, clock: &Arc<TestClock>) -> Buffer {
    let settings = Settings {
        commit_interval: Duration::from_secs(3600),
        ..Settings::new(dir)
    };
    Buffer::open(settings, clock.clone()).unwrap()
}

/// One sample that says how many there were before it.
fn sample(buffer: &Buffer, clock: &TestClock, value: i64) {
    let tag = TagSpec {
        name: "count".into(),
        value_type: ValueType::I64,
        unit: None,
    };
    let numbers = buffer.register("pump", SourceKind::Device, &[tag]);
    clock.advance(SECOND);
    let sample = Sample::good(numbers.tags[0], Value::I64(value), clock.now());
    buffer.append(numbers.source, vec![sample]);
}

/// The next `count` samples of the outbox: number, lane, time in seconds after `BOOT` (`None`: unset).
fn received(outbox: &mut Outbox, count: usize) -> Vec<(u64, Lane, Option<f64>)> {
    let budget = Budget {
        records: 100,
        backlog: true,
    };
    let mut out = Vec::new();
    let give_up = std::time::Instant::now() + Duration::from_secs(60);
    while out.len() < count {
        assert!(std::time::Instant::now() < give_up, "{out:?}");
        let Some(offer) = outbox.next(budget) else {
            std::thread::sleep(Duration::from_millis(5));
            continue;
        };
        let Item::Parcel(parcel) = offer.item else {
            continue;
        };
        let Records::Samples(samples) = &parcel.records else {
            continue;
        };
        for (seq, sample) in (parcel.first_seq..).zip(samples) {
            assert_eq!(sample.value, Some(Value::I64(seq as i64)));
            let utc = parcel.timebase.utc(sample.gateway_time);
            let seconds = utc.map(|t| (t.0 - BOOT.0) as f64 / 1e9);
            out.push((seq, offer.lane, seconds));
        }
    }
    out
}

#[test]
fn set_stepped_and_read_in_the_same_boot() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(TestClock::new(1, None));
    let buffer = open(dir.path(), &clock);
    sample(&buffer, &clock, 1);
    buffer.commit().unwrap();
    sample(&buffer, &clock, 2);
    let mut outbox = buffer.outbox("cloud", Start::Oldest);
    // Number 1 is on the disk, number 2 in memory, and nobody knows the time.
    assert_eq!(
        received(&mut outbox, 2),
        [(2, Lane::Live, None), (1, Lane::Backlog, None)]
    );
    assert_eq!(outbox.late_clocks(), []);

    clock.set_offset(BOOT);
    sample(&buffer, &clock, 3);
    // A step back by an hour: order and distance stay, what has a time keeps it.
    clock.set_offset(Timestamp(BOOT.0 - 3_600_000_000_000));
    sample(&buffer, &clock, 4);
    outbox.reconnected();
    assert_eq!(
        received(&mut outbox, 4),
        [
            (2, Lane::Live, Some(2.0)),
            (3, Lane::Live, Some(3.0)),
            (4, Lane::Live, Some(4.0 - 3600.0)),
            (1, Lane::Backlog, Some(1.0)),
        ]
    );
    assert_eq!(outbox.late_clocks()[0].offset_ns, Some(BOOT.0));
    let ledger = buffer.verify().unwrap();
    assert_eq!(ledger.devices["pump"].queued, 4);
}

#[test]
fn an_offer_asks_the_clock_although_nothing_was_appended_since() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(TestClock::new(1, None));
    let buffer = open(dir.path(), &clock);
    sample(&buffer, &clock, 1);
    buffer.commit().unwrap();
    clock.set_offset(BOOT);
    let mut outbox = buffer.outbox("cloud", Start::Oldest);
    assert_eq!(received(&mut outbox, 1), [(1, Lane::Backlog, Some(1.0))]);
}

/// Three boots: the first learns the time, the second never does, the third knows it from the start.
/// `state`: whether the state file outlives the first boot.
fn over_reboots(state: bool) {
    let dir = tempfile::tempdir().unwrap();
    let first = Arc::new(TestClock::new(1, None));
    let buffer = open(dir.path(), &first);
    sample(&buffer, &first, 1);
    buffer.commit().unwrap();
    first.set_offset(BOOT);
    sample(&buffer, &first, 2);
    buffer.close().unwrap();
    if !state {
        for slot in ["state.0", "state.1"] {
            std::fs::remove_file(dir.path().join(slot)).ok();
        }
    }

    let second = Arc::new(TestClock::new(2, None));
    let buffer = open(dir.path(), &second);
    sample(&buffer, &second, 3);
    buffer.close().unwrap();

    let third = Arc::new(TestClock::new(3, Some(Timestamp(BOOT.0 + 100_000_000_000))));
    let buffer = open(dir.path(), &third);
    sample(&buffer, &third, 4);
    let mut outbox = buffer.outbox("cloud", Start::Oldest);
    assert_eq!(
        outbox.late_clocks(),
        [],
        "nothing went out without its time"
    );
    let mut got = received(&mut outbox, 4);
    got.sort_by_key(|(seq, ..)| *seq);
    let times: Vec<_> = got.iter().map(|(seq, _, at)| (*seq, *at)).collect();
    assert_eq!(
        times,
        [(1, Some(1.0)), (2, Some(2.0)), (3, None), (4, Some(101.0))]
    );
    // The fourth is live, unless the first commit of this boot took it along before the uplink was there.
    assert!(got[..3].iter().all(|(_, lane, _)| *lane == Lane::Backlog));
}

#[test]
fn read_in_a_later_boot() {
    over_reboots(true);
}

#[test]
fn learned_again_from_chunks_where_the_state_is_lost() {
    over_reboots(false);
}

#[test]
fn a_clock_that_was_known_without_any_sample_after_it_is_remembered_over_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let first = Arc::new(TestClock::new(1, None));
    let buffer = open(dir.path(), &first);
    sample(&buffer, &first, 1);
    buffer.commit().unwrap();
    let mut outbox = buffer.outbox("cloud", Start::Oldest);
    assert_eq!(received(&mut outbox, 1), [(1, Lane::Backlog, None)]);
    first.set_offset(BOOT);
    outbox.reconnected();
    assert_eq!(received(&mut outbox, 1), [(1, Lane::Backlog, Some(1.0))]);
    // The thread serves requests in turn: when this one is answered, the state is saved.
    buffer.commit().unwrap();
    buffer.crash();

    let second = Arc::new(TestClock::new(2, None));
    let buffer = open(dir.path(), &second);
    let mut outbox = buffer.outbox("cloud", Start::Oldest);
    assert_eq!(received(&mut outbox, 1), [(1, Lane::Backlog, Some(1.0))]);
    let late = outbox.late_clocks();
    assert_eq!(late.len(), 1, "{late:?}");
    assert_eq!(late[0].boot, first.timebase().boot);
}

#[test]
fn data_from_before_the_clock_was_set_grow_old_too() {
    let dir = tempfile::tempdir().unwrap();
    let first = Arc::new(TestClock::new(1, None));
    let buffer = open(dir.path(), &first);
    sample(&buffer, &first, 1);
    buffer.close().unwrap();
    let oldest = |buffer: &Buffer| buffer.status().data.oldest;
    let buffer = open(dir.path(), &first);
    assert_eq!(oldest(&buffer), None);
    first.set_offset(BOOT);
    sample(&buffer, &first, 2);
    buffer.commit().unwrap();
    buffer.commit().unwrap();
    assert_eq!(oldest(&buffer), Some(Timestamp(BOOT.0 + 1_000_000_000)));
    buffer.close().unwrap();

    let settings = Settings {
        commit_interval: Duration::from_secs(3600),
        max_age: Some(Duration::from_secs(60)),
        ..Settings::new(dir.path())
    };
    let second = Arc::new(TestClock::new(
        2,
        Some(Timestamp(BOOT.0 + 3_600_000_000_000)),
    ));
    let buffer = Buffer::open(settings, second.clone()).unwrap();
    sample(&buffer, &second, 3);
    buffer.commit().unwrap();
    let row = buffer.ledger().devices["pump"].clone();
    assert_eq!((row.queued, row.acquired), (1, 3), "{row:?}");
}
