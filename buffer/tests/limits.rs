//! A store that is full, and a disk that refuses.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

#[path = "support/receiver.rs"]
mod receiver;

use std::time::Duration;

use millrace_buffer::{Buffer, Settings, Start};
use millrace_tags::{DropReason, Moment, Sample, Value};
use receiver::{MIB, Receiver, clock, drain, drain_empty, fill, register, samples, settings};

#[test]
fn a_full_store_drops_the_oldest_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path(), 8 * MIB);
    let buffer = Buffer::open_exactly(settings.clone(), clock()).unwrap();
    let (source, tag) = register(&buffer, "boiler");
    let mut outbox = buffer.outbox("cloud", Start::Oldest);
    let mut next = 1;
    fill(&buffer, source, tag, &mut next, 400);
    assert!(buffer.status().bytes <= 8 * MIB, "{:?}", buffer.status());
    let ledger = buffer.verify().unwrap();
    assert_eq!(ledger, buffer.ledger());
    let row = &ledger.devices["boiler"];
    assert_eq!(row.acquired, 800_000);
    assert!(
        row.dropped[&DropReason::Full] > 0 && row.balances(),
        "{row:?}"
    );

    // The debt outlives a crash.
    buffer.crash();
    let buffer = Buffer::open_exactly(settings, clock()).unwrap();
    drop(outbox);
    outbox = buffer.outbox("cloud", Start::Oldest);
    let reopened = buffer.verify().unwrap().devices["boiler"].clone();
    assert_eq!(
        reopened.dropped[&DropReason::Full],
        row.dropped[&DropReason::Full]
    );
    assert_eq!(reopened.queued, row.queued);
    let mut receiver = Receiver::default();
    drain_empty(&buffer, &mut outbox, &mut receiver);
    receiver.check_lines();
    let delivered = receiver.values("boiler").len() as u64;
    assert_eq!(delivered, reopened.queued);
    let holes: u64 = receiver
        .holes
        .values()
        .flatten()
        .filter(|(_, last)| *last <= 800_000)
        .map(|(first, last)| last - first + 1)
        .sum();
    assert_eq!(holes, reopened.dropped[&DropReason::Full]);
}

#[test]
fn settled_epochs_give_their_disk_back() {
    let dir = tempfile::tempdir().unwrap();
    let buffer = Buffer::open_exactly(settings(dir.path(), 1 << 30), clock()).unwrap();
    let (source, tag) = register(&buffer, "boiler");
    let mut outbox = buffer.outbox("cloud", Start::Oldest);
    let mut next = 1;
    fill(&buffer, source, tag, &mut next, 100);
    let full = buffer.status();
    assert!(full.data.epochs > 2, "{full:?}");
    let mut receiver = Receiver::default();
    drain_empty(&buffer, &mut outbox, &mut receiver);
    fill(&buffer, source, tag, &mut next, 1);
    let drained = buffer.status();
    assert!(
        drained.data.epochs <= 2 && drained.bytes < full.bytes / 2,
        "{drained:?}"
    );
    drain_empty(&buffer, &mut outbox, &mut receiver);
    let row = buffer.verify().unwrap().devices["boiler"].clone();
    assert_eq!(row.acked, row.acquired);
    buffer.close().unwrap();
    let buffer = Buffer::open_exactly(settings(dir.path(), 1 << 30), clock()).unwrap();
    assert_eq!(buffer.verify().unwrap().devices["boiler"], row);
}

#[test]
fn old_data_go_by_age() {
    let dir = tempfile::tempdir().unwrap();
    let clock = clock();
    let settings = Settings {
        max_age: Some(Duration::from_secs(60)),
        ..settings(dir.path(), 1 << 30)
    };
    let buffer = Buffer::open_exactly(settings, clock.clone()).unwrap();
    let (source, tag) = register(&buffer, "boiler");
    let _outbox = buffer.outbox("cloud", Start::Oldest);
    let mut next = 0;
    while buffer.status().data.epochs < 3 {
        let random = (0..2000).map(|_| fastrand::u64(..));
        let sample = |v| Sample::good(tag, Value::U64(v), Moment(0));
        next += 1;
        buffer.append(source, random.map(sample).collect());
        buffer.commit().unwrap();
    }
    clock.advance(Duration::from_secs(120));
    buffer.append(source, samples(tag, 200_000_000_000, 1));
    buffer.commit().unwrap();
    let row = buffer.verify().unwrap().devices["boiler"].clone();
    assert!(
        next > 1 && row.dropped[&DropReason::Age] > 0 && row.balances(),
        "{row:?}"
    );
}

/// Takes the log's directory away and puts a file there: creating an epoch fails, as on a full disk.
#[test]
fn a_refusing_disk_does_not_stop_the_flow() {
    let dir = tempfile::tempdir().unwrap();
    let buffer = Buffer::open_exactly(settings(dir.path(), 1 << 30), clock()).unwrap();
    let (source, tag) = register(&buffer, "boiler");
    let mut outbox = buffer.outbox("cloud", Start::Oldest);
    let data = dir.path().join("data");
    std::fs::remove_dir(&data).unwrap();
    std::fs::write(&data, "").unwrap();

    let mut receiver = Receiver::default();
    let mut next = 1;
    for _ in 0..20 {
        buffer.append(source, samples(tag, next, 500));
        next += 500;
        assert!(buffer.commit().is_err());
        drain(&mut outbox, &mut receiver);
    }
    let status = buffer.status();
    assert!(!status.durable && status.last_error.is_some());
    assert_eq!(receiver.values("boiler").len(), 10_000);
    assert!(status.uncommitted <= 500, "{status:?}");
    let row = buffer.verify().unwrap().devices["boiler"].clone();
    assert_eq!((row.acked, row.queued), (10_000, 0));

    // More than memory takes is refused, counted and announced.
    for _ in 0..100 {
        buffer.append(source, samples(tag, next, 5_000));
        next += 5_000;
    }
    let row = buffer.verify().unwrap().devices["boiler"].clone();
    assert!(
        row.dropped[&DropReason::Newest] > 0 && row.balances(),
        "{row:?}"
    );

    std::fs::remove_file(&data).unwrap();
    std::fs::create_dir(&data).unwrap();
    buffer.commit().unwrap();
    assert!(buffer.status().durable);
    buffer.append(source, samples(tag, next, 10));
    buffer.commit().unwrap();
    assert_eq!(buffer.status().uncommitted, 0);
    drain_empty(&buffer, &mut outbox, &mut receiver);
    receiver.check_lines();
    assert!(receiver.values("boiler").contains(&(next + 9)));
    buffer.commit().unwrap();
    let row = buffer.verify().unwrap().devices["boiler"].clone();
    assert!(row.balances() && row.queued == 0, "{row:?}");
    buffer.close().unwrap();
    let buffer = Buffer::open_exactly(settings(dir.path(), 1 << 30), clock()).unwrap();
    assert_eq!(buffer.verify().unwrap().devices["boiler"], row);
}
