//! Looking into a store that others write, damage and clean up.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use millrace_buffer::{Archive, ArchiveError, Buffer, Order, Selection, Settings, TagSpec};
use millrace_tags::{
    Clock, Event, EventDetail, EventState, LogKind, Moment, Quality, Reason, Records, Sample,
    SourceId, SourceKind, TagId, TestClock, Timestamp, Value, ValueType,
};

const BOOT: Timestamp = Timestamp(1_763_690_000_000_000_000);

/// Small epochs, so that a test sees several; commits only when asked.
fn open(dir: &Path, clock: &Arc<TestClock>) -> Buffer {
    let settings = Settings {
        commit_interval: Duration::from_secs(3600),
        epoch_bytes: 64 * 1024,
        ..Settings::new(dir)
    };
    Buffer::open_exactly(settings, clock.clone()).unwrap()
}

fn register(buffer: &Buffer, source: &str) -> (SourceId, TagId) {
    let tag = TagSpec {
        name: "t".into(),
        value_type: ValueType::Any,
        unit: None,
    };
    let numbers = buffer.register(source, SourceKind::Device, &[tag]);
    (numbers.source, numbers.tags[0])
}

/// Hard to compress, so that epochs fill.
fn noise(seed: u64) -> Value {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let bytes: Vec<u8> = (0..2000)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect();
    Value::Bytes(bytes.into())
}

/// Fills the store with `count` numbers of `pump`, one commit each; number `n` has moment `n` seconds.
fn fill(buffer: &Buffer, clock: &TestClock, count: u64) {
    let (source, tag) = register(buffer, "pump");
    for n in 0..count {
        clock.advance(Duration::from_secs(1));
        buffer.append(source, vec![Sample::good(tag, noise(n), clock.now())]);
        buffer.commit().unwrap();
    }
}

fn everything(_: &str) -> bool {
    true
}

fn numbers_from(archive: &Archive, order: Order, from: Option<Timestamp>) -> Vec<u64> {
    let pieces = archive.read(Selection {
        log: LogKind::Data,
        order,
        source: &everything,
        from,
    });
    pieces
        .flat_map(|p| p.parcel.first_seq..=p.parcel.last_seq())
        .collect()
}

fn numbers(dir: &Path) -> Vec<u64> {
    numbers_from(&Archive::open(dir).unwrap(), Order::OldestFirst, None)
}

fn epochs(dir: &Path) -> Vec<PathBuf> {
    let mut epochs: Vec<PathBuf> = fs::read_dir(dir.join("data"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "ep"))
        .collect();
    epochs.sort();
    epochs
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        if entry.path().is_file() {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

#[test]
fn every_value_comes_back_exactly_with_quality_and_times() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(TestClock::new(1, None));
    let buffer = open(dir.path(), &clock);
    let (source, tag) = register(&buffer, "pump");
    let values = [
        Value::Bool(true),
        Value::I64(i64::MIN),
        Value::U64(u64::MAX),
        Value::F64(0.1 + 0.2),
        Value::F64(-0.0),
        Value::F32(0.1),
        Value::Text("a \"b\"\n".into()),
        Value::Bytes(vec![0, 255].into()),
        Value::Json("{\"a\":[1]}".into()),
    ];
    let mut samples: Vec<Sample> = (1..)
        .zip(values)
        .map(|(at, value)| Sample::good(tag, value, Moment(at)))
        .collect();
    samples[2].source_time = Some(Timestamp(BOOT.0 + 3));
    samples[3].quality = Quality::Uncertain(Reason::OutOfRange);
    samples.push(Sample::bad(tag, Reason::Timeout, Moment(20)));
    buffer.append(source, samples.clone());
    let event = Event {
        state: EventState::Begin,
        at: Moment(30),
        start: Moment(30),
        end: None,
        detail: EventDetail::Comms {
            message: "lost".into(),
        },
    };
    buffer.append_event(source, event.clone());
    buffer.commit().unwrap();
    clock.set_offset(BOOT);
    buffer.append(source, vec![Sample::bad(tag, Reason::Timeout, Moment(40))]);
    buffer.commit().unwrap();

    let look = |log| {
        let archive = Archive::open(dir.path()).unwrap();
        let selection = Selection {
            log,
            order: Order::OldestFirst,
            source: &everything,
            from: None,
        };
        archive
            .read(selection)
            .map(|p| p.parcel)
            .collect::<Vec<_>>()
    };
    // Beside the running writer, and after it.
    for _ in 0..2 {
        let parcels = look(LogKind::Data);
        assert_eq!(parcels.len(), 2);
        assert_eq!(parcels[0].records, Records::Samples(samples.clone()));
        assert_eq!(parcels[0].timebase.offset_ns, Some(BOOT.0), "known since");
        let name = &parcels[0].tags.get(tag).unwrap().name;
        assert_eq!((&*parcels[0].source, &**name), ("pump", "t"));
        assert_eq!((parcels[0].first_seq, parcels[1].first_seq), (1, 11));
        let events = look(LogKind::Alarm);
        assert_eq!(events[0].records, Records::Events(vec![event.clone()]));
        buffer.close().unwrap();
    }
}

#[test]
fn from_either_end_and_from_a_time_on() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(TestClock::new(1, Some(BOOT)));
    let buffer = open(dir.path(), &clock);
    fill(&buffer, &clock, 200);
    assert!(epochs(dir.path()).len() > 3);
    let archive = Archive::open(dir.path()).unwrap();
    let all: Vec<u64> = (1..=200).collect();
    assert_eq!(numbers_from(&archive, Order::OldestFirst, None), all);
    let newest: Vec<u64> = all.iter().rev().copied().collect();
    assert_eq!(numbers_from(&archive, Order::NewestFirst, None), newest);
    let from = Some(Timestamp(BOOT.0 + 150_000_000_000));
    assert_eq!(numbers_from(&archive, Order::OldestFirst, from), all[149..]);
    let chunks: Vec<_> = archive.chunks(LogKind::Data, Order::OldestFirst).collect();
    assert_eq!(chunks.iter().map(|c| c.records).sum::<u64>(), 200);
    assert_eq!(chunks[9].newest, Some(Timestamp(BOOT.0 + 10_000_000_000)));
    assert!(chunks.iter().all(|c| c.clock_set && c.bytes > 2000));

    let none = |name: &str| name == "fan";
    let selection = Selection {
        log: LogKind::Data,
        order: Order::OldestFirst,
        source: &none,
        from: None,
    };
    let mut reading = archive.read(selection);
    assert_eq!(reading.next(), None);
    let progress = reading.progress();
    assert_eq!(progress.done_bytes, progress.total_bytes);
}

#[test]
fn a_running_writer_loses_nothing_and_gives_nothing_twice() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(TestClock::new(1, Some(BOOT)));
    let buffer = open(dir.path(), &clock);
    fill(&buffer, &clock, 50);
    let stop = Arc::new(AtomicBool::new(false));
    let writer = {
        let (buffer, clock, stop) = (buffer.clone(), clock.clone(), stop.clone());
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                fill(&buffer, &clock, 5);
            }
        })
    };
    for _ in 0..20 {
        let committed = buffer.ledger().devices["pump"].acquired - 1;
        let seen = numbers(dir.path());
        assert!(seen.len() as u64 >= committed, "{} {committed}", seen.len());
        assert!(seen.iter().copied().eq(1..=seen.len() as u64));
    }
    stop.store(true, Ordering::Relaxed);
    writer.join().unwrap();
}

#[test]
fn epochs_come_and_go_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(TestClock::new(1, Some(BOOT)));
    let buffer = open(dir.path(), &clock);
    fill(&buffer, &clock, 200);
    buffer.close().unwrap();
    let epochs = epochs(dir.path());
    // Beside the merged epoch lies what it was made of.
    copy_dir(&epochs[1], &epochs[1].with_extension("old"));
    assert!(numbers(dir.path()).into_iter().eq(1..=200));

    let archive = Archive::open(dir.path()).unwrap();
    let mut reading = archive.read(Selection {
        log: LogKind::Data,
        order: Order::OldestFirst,
        source: &everything,
        from: None,
    });
    assert_eq!(reading.next().unwrap().parcel.first_seq, 1);
    fs::rename(&epochs[1], epochs[1].with_extension("del")).unwrap();
    fs::remove_dir_all(&epochs[2]).unwrap();
    let rest: Vec<u64> = reading.by_ref().map(|p| p.parcel.first_seq).collect();
    assert!(rest.is_sorted() && rest.len() > 100 && rest.len() < 199);
    assert_eq!(rest.last(), Some(&200));
    // The copy of the epoch that is gone was found.
    let second = u64::from_str_radix(epochs[1].file_stem().unwrap().to_str().unwrap(), 16).unwrap();
    assert!(rest.contains(&second), "{second} of {rest:?}");
    assert_eq!(reading.progress().damaged_chunks, 0);
}

#[test]
fn what_is_damaged_costs_itself() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(TestClock::new(1, Some(BOOT)));
    let buffer = open(dir.path(), &clock);
    fill(&buffer, &clock, 200);
    buffer.close().unwrap();
    let epochs = epochs(dir.path());
    let db = epochs[1].join("db");
    let mut bytes = fs::read(&db).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    fs::write(&db, bytes).unwrap();
    fs::write(epochs[2].join("manifest"), b"nothing").unwrap();
    fs::write(dir.path().join("state.0"), b"nothing").unwrap();
    let before: Vec<_> = fs::read_dir(dir.path().join("data")).unwrap().collect();
    let seen = numbers(dir.path());
    assert_eq!(seen.len(), 199);
    assert!(seen.is_sorted());
    // Nothing was repaired, moved or written.
    let after: Vec<_> = fs::read_dir(dir.path().join("data")).unwrap().collect();
    assert_eq!(before.len(), after.len());
    assert_eq!(fs::read(epochs[2].join("manifest")).unwrap(), b"nothing");
}

#[test]
fn no_store_is_an_error_that_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let nowhere = Archive::open(&dir.path().join("nowhere"));
    assert!(matches!(nowhere, Err(ArchiveError::Missing { .. })));
    let empty = Archive::open(dir.path());
    assert!(matches!(empty, Err(ArchiveError::Missing { .. })));
}
