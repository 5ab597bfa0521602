//! What an operator throws away.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

#[path = "support/receiver.rs"]
mod receiver;

use std::time::Duration;

use millrace_buffer::{Buffer, Purge, Start};
use millrace_tags::{DropReason, LogKind, Moment, Sample, Timestamp, Value};
use receiver::{Receiver, clock, drain, drain_empty, fill, register, samples, settings, take_all};

const BOOT: i64 = 1_763_690_000_000_000_000;

#[test]
fn everything_goes_and_is_announced_and_the_line_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path(), 1 << 30);
    let buffer = Buffer::open_exactly(settings.clone(), clock()).unwrap();
    let (source, tag) = register(&buffer, "boiler");
    let mut outbox = buffer.outbox("cloud", Start::Oldest);
    let mut next = 1;
    fill(&buffer, source, tag, &mut next, 60);
    let mut receiver = Receiver::default();
    // Some are on their way, some are still live in memory, some are not even committed.
    take_all(&mut outbox, &mut receiver, 3);
    buffer.append(source, samples(tag, 1 << 50, 10));
    let row = buffer.ledger().devices["boiler"].clone();
    let purged = buffer.purge(Purge::default()).unwrap();
    assert!(purged.epochs >= 2 && purged.bytes > 500_000, "{purged:?}");
    assert_eq!(purged.unsent["cloud"], row.queued);
    let ledger = buffer.verify().unwrap();
    assert_eq!(ledger, buffer.ledger());
    let row = &ledger.devices["boiler"];
    assert_eq!((row.queued, row.dropped[&DropReason::Purged]), (0, 120_010));
    assert!(row.balances() && buffer.status().bytes < 1 << 20);
    // Once more: nothing is left to go.
    let purged = buffer.purge(Purge::default()).unwrap();
    assert_eq!((purged.epochs, purged.unsent["cloud"]), (0, 0));

    let mut receiver = Receiver::default();
    drain(&mut outbox, &mut receiver);
    assert!(receiver.values("boiler").is_empty());
    let holes: Vec<_> = receiver.holes.values().flatten().copied().collect();
    assert_eq!(holes, [(1, 120_010)]);

    buffer.close().unwrap();
    let buffer = Buffer::open_exactly(settings, clock()).unwrap();
    assert_eq!(buffer.recovery().notes, Vec::<String>::new());
    assert_eq!(buffer.verify().unwrap(), ledger);
    let (source, tag) = register(&buffer, "boiler");
    outbox = buffer.outbox("cloud", Start::Oldest);
    buffer.append(source, samples(tag, 1 << 51, 1));
    drain_empty(&buffer, &mut outbox, &mut receiver);
    let line = receiver.lines.values().next().unwrap();
    assert_eq!(line.keys().copied().collect::<Vec<_>>(), [120_011]);
}

#[test]
fn what_is_older_than_a_time_goes() {
    let dir = tempfile::tempdir().unwrap();
    let clock = clock();
    let settings = millrace_buffer::Settings {
        max_age: Some(Duration::from_secs(1 << 30)),
        ..settings(dir.path(), 1 << 30)
    };
    let buffer = Buffer::open_exactly(settings, clock.clone()).unwrap();
    let (source, tag) = register(&buffer, "boiler");
    let _outbox = buffer.outbox("cloud", Start::Oldest);
    let hour = 3_600_000_000_000;
    for at in 0..5 {
        let sample = Sample::good(tag, Value::U64(1), Moment(at * hour));
        buffer.append(source, vec![sample]);
        buffer.commit().unwrap();
        clock.advance(Duration::from_secs(3600));
        // Sealed by age.
        buffer.retain_uplinks(&["cloud"]);
    }
    let purge = |before, log| {
        let before = Some(Timestamp(BOOT + before));
        buffer.purge(Purge { before, log }).unwrap()
    };
    assert_eq!(purge(2 * hour, Some(LogKind::Alarm)).epochs, 0);
    let purged = purge(2 * hour, None);
    assert_eq!((purged.epochs, purged.unsent["cloud"]), (2, 2));
    assert_eq!(purge(2 * hour, Some(LogKind::Data)).epochs, 0);
    let row = buffer.verify().unwrap().devices["boiler"].clone();
    assert_eq!((row.queued, row.dropped[&DropReason::Purged]), (3, 2));
}

/// What was written before the clock was set is of no known age; what is newer goes, and the line goes on.
#[test]
fn what_is_newer_than_data_of_unknown_age_goes_without_ending_the_stream() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path(), 1 << 30);
    let purge = Purge {
        before: Some(Timestamp(BOOT + 3_600_000_000_000)),
        log: None,
    };
    for boot in [1u128, 2] {
        let utc = (boot == 2).then_some(Timestamp(BOOT));
        let clock = std::sync::Arc::new(millrace_tags::TestClock::new(boot, utc));
        let buffer = Buffer::open_exactly(settings.clone(), clock).unwrap();
        let (source, tag) = register(&buffer, "boiler");
        let _outbox = buffer.outbox("cloud", Start::Oldest);
        buffer.append(source, samples(tag, 1 + u64::from(boot == 2), 1));
        buffer.commit().unwrap();
        if boot == 2 {
            let purged = buffer.purge(purge).unwrap();
            assert_eq!((purged.epochs, purged.unsent["cloud"]), (1, 1));
            assert_eq!(buffer.purge(purge).unwrap().epochs, 0);
        }
        buffer.close().unwrap();
    }
    let buffer = Buffer::open_exactly(settings, clock()).unwrap();
    assert_eq!(buffer.recovery().notes, Vec::<String>::new());
    let (source, tag) = register(&buffer, "boiler");
    buffer.append(source, samples(tag, 3, 1));
    let mut receiver = Receiver::default();
    drain_empty(
        &buffer,
        &mut buffer.outbox("cloud", Start::Oldest),
        &mut receiver,
    );
    let numbers: Vec<_> = receiver
        .lines
        .values()
        .map(|l| l.keys().copied().collect::<Vec<_>>())
        .collect();
    assert_eq!(numbers, [[1, 3]]);
    let holes: Vec<_> = receiver.holes.values().flatten().copied().collect();
    assert_eq!(holes, [(2, 2)]);
}

/// Nobody could have sent it: it is not counted as if somebody had.
#[test]
fn without_an_uplink_it_counts_as_purged_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path(), 1 << 30);
    let buffer = Buffer::open_exactly(settings.clone(), clock()).unwrap();
    let (source, tag) = register(&buffer, "boiler");
    buffer.append(source, samples(tag, 1, 100));
    buffer.purge(Purge::default()).unwrap();
    buffer.append(source, samples(tag, 101, 10));
    buffer.close().unwrap();
    let buffer = Buffer::open_exactly(settings, clock()).unwrap();
    let row = buffer.verify().unwrap().devices["boiler"].clone();
    assert_eq!(
        (row.acked, row.queued, row.dropped[&DropReason::Purged]),
        (0, 10, 100)
    );
    assert!(row.balances());
    let _outbox = buffer.outbox("cloud", Start::Oldest);
    let row = buffer.verify().unwrap().devices["boiler"].clone();
    assert_eq!((row.queued, row.dropped[&DropReason::Purged]), (10, 100));
    assert!(row.balances(), "{row:?}");
}
