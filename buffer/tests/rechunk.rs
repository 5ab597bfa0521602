//! A long outage: small chunks become large ones, and nothing else changes.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

#[path = "support/receiver.rs"]
mod receiver;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fastrand::Rng;
use millrace_buffer::{Budget, Buffer, Item, Settings, Start, TagSpec};
use millrace_tags::{
    DropReason, Moment, Reason, Records, Sample, SourceKind, TagId, Value, ValueType,
};
use receiver::{Receiver, clock, drain_empty, register, samples, settings, take_all};

const MIB: u64 = 1024 * 1024;
const ROOM: u64 = 1 << 30;

/// What a directory takes on the disk; what goes meanwhile takes nothing.
fn disk(path: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(path) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => disk(&entry.path()),
            Ok(meta) => meta.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

fn epochs(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir.join("data")).unwrap().flatten();
    let mut found: Vec<PathBuf> = entries
        .map(|e| e.path())
        .filter(|p| p.extension().is_some_and(|e| e == extension))
        .collect();
    found.sort();
    found
}

/// What a mid-sized plant says: 60 % analog values in steps of 0.1 with noise, 15 % readings of a 12-bit
/// converter, 10 % counters, 10 % bools, 5 % setpoints; one in a thousand is bad; scans every second, late
/// by some milliseconds.
struct Plant {
    random: Rng,
    tags: Vec<TagId>,
    counters: Vec<u64>,
    scan: i64,
}

impl Plant {
    fn new(seed: u64, tags: Vec<TagId>) -> Self {
        let mut random = Rng::with_seed(seed);
        Self {
            counters: tags.iter().map(|_| random.u64(..1_000_000)).collect(),
            random,
            tags,
            scan: 0,
        }
    }

    fn scan(&mut self) -> Vec<Sample> {
        self.scan += 1;
        let random = &mut self.random;
        let at = Moment((self.scan * 1000 + random.i64(0..6)) * 1_000_000);
        let angle = self.scan as f64 / 143.0;
        let mut samples = Vec::new();
        for (i, (tag, counter)) in self.tags.iter().zip(&mut self.counters).enumerate() {
            if random.u32(..1000) == 0 {
                samples.push(Sample::bad(*tag, Reason::Timeout, at));
                continue;
            }
            // About normal, deviation 1.
            let noise = (0..12).map(|_| random.f64()).sum::<f64>() - 6.0;
            let swing = (angle + i as f64).sin();
            let value = match i % 20 {
                0..12 => {
                    let value = 20.0 + i as f64 + 5.0 * swing + 0.1 * noise;
                    Value::F64((value * 10.0).round() / 10.0)
                }
                12..15 => Value::U64((2000.0 + 200.0 * swing + noise) as u64),
                15..17 => {
                    *counter += random.u64(..=4);
                    Value::U64(*counter)
                }
                17..19 => {
                    *counter ^= u64::from(random.u32(..300) == 0);
                    Value::Bool(*counter % 2 == 0)
                }
                _ => Value::F64(i as f64),
            };
            samples.push(Sample::good(*tag, value, at));
        }
        samples
    }
}

/// Settings under which a few commits make an epoch. Merging is left to the test.
fn small(dir: &Path) -> Settings {
    Settings {
        epoch_bytes: 12 * 1024,
        rechunk_interval: Duration::from_secs(3600),
        ..settings(dir, ROOM)
    }
}

/// Settings under which only a stop ends an epoch.
fn lasting(dir: &Path) -> Settings {
    Settings {
        epoch_bytes: 8 * MIB,
        ..small(dir)
    }
}

/// Fills a store with small chunks of two sources in many short lives, so that there are eleven epochs.
/// Returns the next value of each source.
fn outage(dir: &Path) -> [u64; 2] {
    let mut next = [1, 1];
    for life in 0..11 {
        let buffer = Buffer::open_exactly(lasting(dir), clock()).unwrap();
        drop(buffer.outbox("cloud", Start::Oldest));
        for round in 0..6 {
            for (at, source) in ["boiler", "pump"].into_iter().enumerate() {
                let count = if at == 0 { 300 } else { 1 + round % 9 };
                let (source, tag) = register(&buffer, source);
                buffer.append(source, samples(tag, next[at], count));
                next[at] += count;
            }
            buffer.commit().unwrap();
        }
        match life % 3 {
            1 => buffer.close().unwrap(),
            _ => buffer.crash(),
        }
    }
    next
}

/// Everything arrives, once and in order, and the recount agrees.
fn check_all(dir: &Path, next: [u64; 2]) {
    let buffer = Buffer::open_exactly(lasting(dir), clock()).unwrap();
    assert_eq!(buffer.recovery().damaged, 0, "{:?}", buffer.recovery());
    assert_eq!(buffer.recovery().quarantined_epochs, 0);
    for extension in ["new", "old", "del"] {
        assert_eq!(epochs(dir, extension), Vec::<PathBuf>::new());
    }
    let verified = buffer.verify().unwrap();
    assert_eq!(verified, buffer.ledger());
    for (row, next) in [("boiler", next[0]), ("pump", next[1])] {
        let row = &verified.devices[row];
        assert!(row.queued == next - 1 && row.balances(), "{row:?}");
    }
    let mut outbox = buffer.outbox("cloud", Start::Oldest);
    let mut receiver = Receiver::default();
    drain_empty(&buffer, &mut outbox, &mut receiver);
    receiver.check_lines();
    assert_eq!(receiver.duplicates, 0);
    for (source, next) in [("boiler", next[0]), ("pump", next[1])] {
        assert!(receiver.values(source).into_iter().eq(1..next), "{source}");
    }
    let verified = buffer.verify().unwrap();
    assert_eq!(verified, buffer.ledger());
    assert!(verified.devices.values().all(|r| r.queued == 0));
}

#[test]
fn a_long_outage_takes_a_third_of_the_disk() {
    const SCANS: i64 = 2200;
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings {
        epoch_bytes: MIB,
        rechunk_interval: Duration::from_secs(3600),
        ..settings(dir.path(), ROOM)
    };
    let buffer = Buffer::open_exactly(settings.clone(), clock()).unwrap();
    let spec = |i: usize| TagSpec {
        name: format!("area-{}/signal-{i}", i % 9).into(),
        value_type: ValueType::Any,
        unit: None,
    };
    let specs: Vec<TagSpec> = (0..500).map(spec).collect();
    let registration = buffer.register("plant", SourceKind::Device, &specs);
    drop(buffer.outbox("cloud", Start::Oldest));
    let mut plant = Plant::new(7, registration.tags);
    let mut sent = Vec::new();
    for _ in 0..SCANS {
        let samples = plant.scan();
        sent.extend(samples.iter().map(exact));
        buffer.append(registration.source, samples);
        buffer.commit().unwrap();
    }
    let sealed = epochs(dir.path(), "ep");
    let (before, first_kept) = (disk(&sealed[0]) + disk(&sealed[1]), number_of(&sealed[2]));
    let merged = buffer.rechunk();
    assert_eq!(merged, 1, "{sealed:?}");
    assert_eq!(buffer.rechunk(), 0, "once");
    let records = (first_kept - 1) as f64 * 500.0;
    let (before, after) = (before as f64 / records, disk(&sealed[0]) as f64 / records);
    println!("{before:.2} bytes a sample before, {after:.2} after");
    assert!(before > 2.0 && after <= 0.9, "{before} {after}");
    let ledger = buffer.verify().unwrap();
    assert_eq!(ledger, buffer.ledger());
    buffer.crash();

    let buffer = Buffer::open_exactly(settings, clock()).unwrap();
    assert_eq!(
        buffer.verify().unwrap().devices["plant"].queued,
        sent.len() as u64
    );
    let mut outbox = buffer.outbox("cloud", Start::Oldest);
    let mut received = Vec::new();
    let budget = Budget {
        records: 5000,
        backlog: true,
    };
    while received.len() < sent.len() {
        let Some(offer) = outbox.next(budget) else {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        };
        if let Item::Parcel(parcel) = &offer.item
            && let Records::Samples(samples) = &parcel.records
        {
            assert_eq!(parcel.first_seq, received.len() as u64 + 1);
            received.extend(samples.iter().map(exact));
        }
        outbox.acked(offer.id);
    }
    assert!(received == sent);
}

/// A sample to the bit, and small.
fn exact(sample: &Sample) -> (u32, i64, bool, u64) {
    let value = match &sample.value {
        Some(Value::F64(f)) => f.to_bits(),
        Some(Value::U64(u)) => *u,
        Some(Value::Bool(b)) => u64::from(*b),
        _ => u64::MAX,
    };
    let good = sample.quality.is_good();
    (sample.tag.0, sample.gateway_time.0, good, value)
}

fn number_of(epoch: &Path) -> u64 {
    let name = epoch.file_stem().unwrap().to_str().unwrap();
    u64::from_str_radix(name, 16).unwrap()
}

/// Copies a directory.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        let to = to.join(entry.file_name());
        match entry.path() {
            path if path.is_dir() => copy(&path, &to),
            path => drop(fs::copy(path, to).unwrap()),
        }
    }
}

/// A store before and after merging.
struct Pair {
    before: tempfile::TempDir,
    after: tempfile::TempDir,
    next: [u64; 2],
}

impl Pair {
    fn new() -> Self {
        let before = tempfile::tempdir().unwrap();
        let next = outage(before.path());
        let after = tempfile::tempdir().unwrap();
        copy(before.path(), after.path());
        let buffer = Buffer::open_exactly(lasting(after.path()), clock()).unwrap();
        assert_eq!(buffer.rechunk(), 7);
        let ledger = buffer.verify().unwrap();
        assert_eq!(ledger, buffer.ledger());
        buffer.crash();
        Self {
            before,
            after,
            next,
        }
    }

    /// The first merged epoch, and the epochs that went into it.
    fn first_merged(&self) -> (PathBuf, Vec<PathBuf>) {
        let after = epochs(self.after.path(), "ep");
        let end = number_of(&after[1]);
        let mut parts = epochs(self.before.path(), "ep");
        parts.retain(|p| number_of(p) < end);
        assert!(parts.len() > 1, "{parts:?}");
        (after[0].clone(), parts)
    }
}

#[test]
fn nothing_changes_but_the_chunks() {
    let pair = Pair::new();
    let (merged, parts) = pair.first_merged();
    assert_eq!(parts.len(), 8);
    assert!(disk(&merged) * 3 < parts.iter().map(|p| disk(p)).sum());
    check_all(pair.after.path(), pair.next);
}

/// What a power cut leaves between two steps of the exchange, and in the middle of one.
#[test]
fn a_crash_at_any_step_loses_nothing() {
    let pair = Pair::new();
    let (merged, parts) = pair.first_merged();
    type Step = (&'static str, fn(&Path, &Path, &[PathBuf]));
    let steps: [Step; 8] = [
        ("half written", |dir, merged, _| {
            let new = place(dir, merged).with_extension("new");
            fs::create_dir(&new).unwrap();
            let db = fs::read(merged.join("db")).unwrap();
            fs::write(new.join("db"), &db[..db.len() / 2]).unwrap();
        }),
        ("complete, not in place", |dir, merged, _| {
            copy(merged, &place(dir, merged).with_extension("new"));
        }),
        ("the first part moved aside", |dir, merged, parts| {
            copy(merged, &place(dir, merged).with_extension("new"));
            aside(dir, &parts[0], "old");
        }),
        ("in place, all parts there", |dir, merged, parts| {
            aside(dir, &parts[0], "old");
            copy(merged, &place(dir, merged));
        }),
        ("in place, a part renamed", |dir, merged, parts| {
            aside(dir, &parts[0], "old");
            aside(dir, &parts[1], "del");
            copy(merged, &place(dir, merged));
        }),
        ("in place, parts half deleted", |dir, merged, parts| {
            for part in parts {
                aside(dir, part, "del");
                fs::remove_file(place(dir, part).with_extension("del").join("db")).unwrap();
            }
            copy(merged, &place(dir, merged));
        }),
        (
            "in place, the first part left over",
            |dir, merged, parts| {
                for part in &parts[1..] {
                    fs::remove_dir_all(place(dir, part)).unwrap();
                }
                aside(dir, &parts[0], "old");
                copy(merged, &place(dir, merged));
            },
        ),
        (
            "in place, its manifest lost, all parts there",
            |dir, merged, parts| {
                aside(dir, &parts[0], "old");
                copy(merged, &place(dir, merged));
                fs::remove_file(place(dir, merged).join("manifest")).unwrap();
            },
        ),
    ];
    for (name, step) in steps {
        println!("{name}");
        let dir = tempfile::tempdir().unwrap();
        copy(pair.before.path(), dir.path());
        step(dir.path(), &merged, &parts);
        check_all(dir.path(), pair.next);
    }
}

fn place(dir: &Path, epoch: &Path) -> PathBuf {
    dir.join("data").join(epoch.file_name().unwrap())
}

fn aside(dir: &Path, part: &Path, extension: &str) {
    let part = place(dir, part);
    fs::rename(&part, part.with_extension(extension)).unwrap();
}

/// Every chunk frame in a file: where it begins, and how long it is.
fn frames(db: &[u8]) -> Vec<(usize, usize)> {
    let field = |at: usize| u32::from_le_bytes(db[at..at + 4].try_into().unwrap()) as usize;
    (0..db.len().saturating_sub(86))
        .filter(|&at| db[at..].starts_with(b"\xF1MRc"))
        .map(|at| (at, 86 + field(at + 70) + field(at + 78)))
        .filter(|(at, len)| at + len <= db.len())
        .collect()
}

#[test]
fn damage_to_a_merged_chunk_is_counted_exactly() {
    let pair = Pair::new();
    let (merged, _) = pair.first_merged();
    let mut db = fs::read(merged.join("db")).unwrap();
    let (at, len) = frames(&db).into_iter().max_by_key(|f| f.1).unwrap();
    db[at + len / 2] ^= 1;
    fs::write(merged.join("db"), db).unwrap();

    let buffer = Buffer::open_exactly(lasting(pair.after.path()), clock()).unwrap();
    let mut outbox = buffer.outbox("cloud", Start::Oldest);
    let mut receiver = Receiver::default();
    drain_empty(&buffer, &mut outbox, &mut receiver);
    receiver.check_lines();
    let verified = buffer.verify().unwrap();
    assert_eq!(verified, buffer.ledger());
    for (source, next) in [("boiler", pair.next[0]), ("pump", pair.next[1])] {
        let row = &verified.devices[source];
        let missing = next - 1 - receiver.values(source).len() as u64;
        assert!(missing > 0 && row.balances(), "{row:?}");
        assert_eq!(row.dropped[&DropReason::Damage], missing, "{row:?}");
    }
}

#[test]
fn a_merged_epoch_that_is_gone_is_counted_exactly() {
    let pair = Pair::new();
    let (merged, _) = pair.first_merged();
    let before = Buffer::open_exactly(lasting(pair.after.path()), clock()).unwrap();
    let queued = before.ledger().devices["boiler"].queued;
    before.crash();
    fs::remove_dir_all(&merged).unwrap();

    let buffer = Buffer::open_exactly(lasting(pair.after.path()), clock()).unwrap();
    let mut outbox = buffer.outbox("cloud", Start::Oldest);
    let mut receiver = Receiver::default();
    drain_empty(&buffer, &mut outbox, &mut receiver);
    receiver.check_lines();
    let verified = buffer.verify().unwrap();
    assert_eq!(verified, buffer.ledger());
    let row = &verified.devices["boiler"];
    let missing = queued - receiver.values("boiler").len() as u64;
    // Which of the numbers were voids of a crash is not known any more: each number was received or is
    // announced, once.
    let (key, received) = receiver
        .lines
        .iter()
        .find(|(key, _)| key.1 == "boiler")
        .unwrap();
    let announced = receiver.holes[key]
        .iter()
        .map(|(first, last)| last - first + 1);
    assert_eq!(row.acquired, received.len() as u64 + announced.sum::<u64>());
    assert!(row.balances() && row.queued == 0, "{row:?}");
    assert!(missing > 0 && row.dropped[&DropReason::Damage] >= missing);
}

#[test]
fn a_damaged_original_stays_as_it_is() {
    let pair = Pair::new();
    let (_, parts) = pair.first_merged();
    let db = parts[0].join("db");
    let mut bytes = fs::read(&db).unwrap();
    let (at, len) = frames(&bytes)[0];
    bytes[at + len - 1] ^= 1;
    fs::write(&db, &bytes).unwrap();
    let buffer = Buffer::open_exactly(lasting(pair.before.path()), clock()).unwrap();
    assert_eq!(buffer.rechunk(), 7);
    assert_eq!(buffer.rechunk(), 0);
    assert!(parts[0].exists());
    assert_eq!(fs::read(&db).unwrap(), bytes);
    assert_eq!(epochs(pair.before.path(), "new"), Vec::<PathBuf>::new());
    assert_eq!(buffer.verify().unwrap().devices["boiler"].acked, 0);
}

#[test]
fn what_an_uplink_has_begun_stays_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    outage(dir.path());
    let buffer = Buffer::open_exactly(lasting(dir.path()), clock()).unwrap();
    let before = epochs(dir.path(), "ep");
    let mut outbox = buffer.outbox("cloud", Start::Oldest);
    let mut receiver = Receiver::default();
    let taken = take_all(&mut outbox, &mut receiver, 1);
    assert_eq!(buffer.rechunk(), 7);
    let after = epochs(dir.path(), "ep");
    assert_eq!(after[..2], before[..2], "the first is being delivered");
    for id in taken {
        outbox.acked(id);
    }
    drain_empty(&buffer, &mut outbox, &mut receiver);
    receiver.check_lines();
    assert_eq!(buffer.verify().unwrap(), buffer.ledger());
}

#[test]
fn a_full_store_drops_merged_epochs_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let limited = Settings {
        max_bytes: MIB,
        epoch_bytes: 64 * 1024,
        ..small(dir.path())
    };
    // The uplink is known, and nobody reads for it.
    let buffer = Buffer::open_exactly(limited.clone(), clock()).unwrap();
    drop(buffer.outbox("cloud", Start::Oldest));
    buffer.crash();
    let buffer = Buffer::open_exactly(limited, clock()).unwrap();
    let (source, tag) = register(&buffer, "boiler");
    let mut random = Rng::with_seed(3);
    let mut next = 1;
    let mut merged = 0;
    while !buffer
        .ledger()
        .devices
        .get("boiler")
        .is_some_and(|r| r.dropped.contains_key(&DropReason::Full))
    {
        for _ in 0..20 {
            let mut batch = Vec::new();
            for _ in 0..20 {
                next += 1 + random.u64(..1000);
                batch.extend(samples(tag, next, 1));
            }
            buffer.append(source, batch);
            buffer.commit().unwrap();
        }
        merged += buffer.rechunk();
    }
    assert!(merged > 5, "{merged}");
    assert!(disk(dir.path()) <= MIB);
    let ledger = buffer.verify().unwrap();
    assert_eq!(ledger, buffer.ledger());
    let row = ledger.devices["boiler"].clone();
    let mut outbox = buffer.outbox("cloud", Start::Oldest);
    let mut receiver = Receiver::default();
    drain_empty(&buffer, &mut outbox, &mut receiver);
    receiver.check_lines();
    assert_eq!(receiver.values("boiler").len() as u64, row.queued);
    let holes = receiver.holes.values().flatten();
    let holes: u64 = holes.map(|(first, last)| last - first + 1).sum();
    assert_eq!(holes, row.dropped[&DropReason::Full]);
}

/// A log has an epoch's worth of free room: merging takes place in that, and no epoch goes for it.
#[test]
fn nothing_goes_because_of_what_is_being_merged() {
    let dir = tempfile::tempdir().unwrap();
    let filled = Settings {
        max_bytes: MIB,
        alarm_max_bytes: Some(64 * 1024),
        epoch_bytes: 96 * 1024,
        ..small(dir.path())
    };
    let buffer = Buffer::open_exactly(filled.clone(), clock()).unwrap();
    drop(buffer.outbox("cloud", Start::Oldest));
    let (source, tag) = register(&buffer, "boiler");
    let mut random = Rng::with_seed(4);
    let mut next = 1;
    let room = |buffer: &Buffer| MIB - 64 * 1024 - 96 * 1024 - buffer.status().data.bytes;
    let gone = |buffer: &Buffer| {
        let ledger = buffer.ledger();
        ledger.devices["boiler"].dropped.values().sum::<u64>()
    };
    // The next commits would cost the oldest epoch.
    while room(&buffer) > 4096 {
        let mut batch = Vec::new();
        for _ in 0..60 {
            next += 1 + random.u64(..8);
            batch.extend(samples(tag, next, 1));
        }
        buffer.append(source, batch);
        buffer.commit().unwrap();
    }
    assert_eq!(gone(&buffer), 0);
    buffer.crash();
    // A sealed epoch takes less than one that is written: the limit is set so that it just fits.
    let buffer = Buffer::open_exactly(filled.clone(), clock()).unwrap();
    let (before, max_bytes) = (buffer.status().data.bytes, MIB + 8192 - room(&buffer));
    buffer.crash();

    let merging = Settings {
        rechunk_interval: Duration::from_millis(1),
        max_bytes,
        ..filled
    };
    let buffer = Buffer::open_exactly(merging, clock()).unwrap();
    drop(buffer.outbox("cloud", Start::Oldest));
    let lost = gone(&buffer);
    let begun = Instant::now();
    let mut making = 0;
    while buffer.status().data.bytes > before * 3 / 4 {
        assert!(begun.elapsed().as_secs() < 100, "nothing is merged");
        // Looks at the room, and removes what does not fit.
        buffer.retain_uplinks(&["cloud"]);
        making += usize::from(!epochs(dir.path(), "new").is_empty());
        assert!(disk(dir.path()) <= max_bytes, "more than it may");
        assert_eq!(gone(&buffer), lost, "an epoch went early");
    }
    assert!(making > 0, "nobody looked while it was being merged");
    assert_eq!(buffer.verify().unwrap(), buffer.ledger());
}

/// Random lives of a store that is merged now and then.
fn life(seed: u64) {
    let mut random = Rng::with_seed(seed);
    let dir = tempfile::tempdir().unwrap();
    // In some lives it happens by itself, beside everything else.
    let by_itself = random.bool();
    let small = |dir: &Path| match by_itself {
        true => Settings {
            rechunk_interval: Duration::from_millis(1),
            ..small(dir)
        },
        false => small(dir),
    };
    let mut receiver = Receiver::default();
    let mut next = [1u64; 3];
    let mut merged = 0;
    for _ in 0..random.usize(2..5) {
        let buffer = Buffer::open_exactly(small(dir.path()), clock()).unwrap();
        assert_eq!(buffer.recovery().damaged, 0, "seed {seed}");
        let mut outbox = buffer.outbox("cloud", Start::Oldest);
        let mut in_flight = Vec::new();
        for _ in 0..random.usize(10..50) {
            for (at, source) in ["boiler", "pump", "press"].into_iter().enumerate() {
                if random.u8(..3) > 0 {
                    let count = random.u64(1..if at == 0 { 400 } else { 20 });
                    let (source, tag) = register(&buffer, source);
                    buffer.append(source, samples(tag, next[at], count));
                    next[at] += count;
                }
            }
            buffer.commit().unwrap();
            match random.u8(..25) {
                0 => merged += buffer.rechunk(),
                1 => in_flight.extend(take_all(&mut outbox, &mut receiver, random.u64(1..9))),
                2 => in_flight.drain(..).for_each(|id| outbox.acked(id)),
                3 => in_flight.drain(..).for_each(|id| outbox.failed(id)),
                4 => {
                    outbox.reconnected();
                    in_flight.clear();
                }
                _ => {}
            }
        }
        merged += buffer.rechunk();
        let verified = buffer.verify().unwrap();
        assert_eq!(verified, buffer.ledger(), "seed {seed}");
        assert!(
            verified.devices.values().all(|r| r.balances()),
            "seed {seed}"
        );
        match random.bool() {
            true => buffer.close().unwrap(),
            false => buffer.crash(),
        }
    }
    let buffer = Buffer::open_exactly(small(dir.path()), clock()).unwrap();
    let mut outbox = buffer.outbox("cloud", Start::Oldest);
    drain_empty(&buffer, &mut outbox, &mut receiver);
    receiver.check_lines();
    for (source, next) in ["boiler", "pump", "press"].into_iter().zip(next) {
        assert!(
            receiver.values(source).into_iter().eq(1..next),
            "seed {seed}, {merged} merged"
        );
    }
    assert_eq!(buffer.verify().unwrap(), buffer.ledger(), "seed {seed}");
}

/// `MILLRACE_RECHUNK_ROUNDS` asks for more than a quick run.
#[test]
fn merging_loses_and_repeats_nothing() {
    let rounds = std::env::var("MILLRACE_RECHUNK_ROUNDS").map_or(6, |n| n.parse().unwrap());
    (0..rounds).for_each(life);
}
