//! Seeded damage to any file: the buffer opens, loses no more than the damaged chunks, says exactly what
//! it has lost, and goes on.
//!
//! `MILLRACE_DAMAGE_ROUNDS` sets how many, `MILLRACE_SEED` the first seed; each round has the next one.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

#[path = "support/receiver.rs"]
mod receiver;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use fastrand::Rng;
use millrace_buffer::{Buffer, Start};
use receiver::{Receiver, clock, drain_empty, event, register, samples, settings, take_all};

const ROOM: u64 = 1 << 30;

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for entry in fs::read_dir(dir).unwrap().flatten() {
        match entry.path() {
            path if path.is_dir() => out.extend(files(&path)),
            path => out.push(path),
        }
    }
    out.sort();
    out
}

/// Does something to a file; says what.
fn damage(files: &[PathBuf], random: &mut Rng) -> String {
    let there: Vec<&PathBuf> = files.iter().filter(|f| f.exists()).collect();
    let path = there[random.usize(..there.len())];
    let len = fs::metadata(path).unwrap().len();
    let at = random.u64(..len.max(1));
    let write = |at: u64, bytes: &[u8]| {
        let mut file = OpenOptions::new().write(true).open(path).unwrap();
        file.seek(SeekFrom::Start(at)).unwrap();
        file.write_all(bytes).unwrap();
    };
    let noise = |random: &mut Rng| -> Vec<u8> {
        let len = random.usize(1..5_000);
        (0..len).map(|_| random.u8(..)).collect()
    };
    let what = match random.u8(..8) {
        0 | 1 if len > 0 => {
            let byte = fs::read(path).unwrap()[at as usize];
            write(at, &[byte ^ (1 << random.u8(..8))]);
            format!("flipped at {at}")
        }
        2 => {
            write(at / 4096 * 4096, &[0; 4096]);
            format!("a page of zeroes at {}", at / 4096 * 4096)
        }
        3 => {
            let file = OpenOptions::new().write(true).open(path).unwrap();
            file.set_len(at).unwrap();
            format!("cut at {at}")
        }
        4 => {
            write(at, &noise(random));
            format!("noise at {at}")
        }
        5 => {
            write(len, &noise(random));
            "noise at its end".into()
        }
        6 => {
            let other = there[random.usize(..there.len())];
            let (a, b) = (fs::read(path).unwrap(), fs::read(other).unwrap());
            fs::write(path, b).unwrap();
            fs::write(other, a).unwrap();
            format!("swapped with {}", other.display())
        }
        _ => {
            fs::remove_file(path).unwrap();
            "removed".into()
        }
    };
    format!("{}: {what}", path.display())
}

/// What a frame says of itself: bytes 18 to 34 are its stream, then see the crate's documentation.
struct Frame {
    file: PathBuf,
    bytes: Vec<u8>,
    at: usize,
    /// Source, first and last number; not the voids.
    entries: Vec<(u64, u64, u64)>,
    stream: Vec<u8>,
}

fn varint(bytes: &[u8], at: &mut usize) -> u64 {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = bytes[*at];
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            break;
        }
    }
    value
}

/// The chunk frames of a file, read by the format's description and nothing else.
fn frames(file: &Path) -> Vec<Frame> {
    let all = fs::read(file).unwrap();
    let u32_at = |at: usize| u32::from_le_bytes(all[at..at + 4].try_into().unwrap()) as usize;
    let mut found = Vec::new();
    for at in 0..all.len().saturating_sub(86) {
        if !all[at..].starts_with(b"\xF1MRc\x01") {
            continue;
        }
        let (count, directory, body) = (u32_at(at + 66), u32_at(at + 70), u32_at(at + 78));
        let end = at + 86 + directory + body;
        if end > all.len() {
            continue;
        }
        let mut place = at + 86;
        let mut entries = Vec::new();
        for _ in 0..count {
            let source = varint(&all, &mut place);
            let reason = all[place];
            place += 1;
            let (first, count) = (varint(&all, &mut place), varint(&all, &mut place));
            let _ahead = varint(&all, &mut place);
            if reason == 0 {
                entries.push((source, first, first + count - 1));
            }
        }
        found.push(Frame {
            file: file.to_owned(),
            bytes: all[at..end].to_vec(),
            at,
            entries,
            stream: all[at + 18..at + 34].to_vec(),
        });
    }
    found
}

impl Frame {
    fn is_intact(&self) -> bool {
        let now = fs::read(&self.file).unwrap_or_default();
        now.get(self.at..self.at + self.bytes.len()) == Some(&self.bytes[..])
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

type Lines = BTreeMap<(Vec<u8>, String), BTreeMap<u64, u64>>;

/// What a buffer still has to send.
fn rest(buffer: &Buffer, receiver: &mut Receiver) -> Lines {
    let mut outbox = buffer.outbox("cloud", Start::Oldest);
    let mut fresh = Receiver::default();
    drain_empty(buffer, &mut outbox, &mut fresh);
    // Gaps are no part of what is queued.
    for id in take_all(&mut outbox, &mut fresh, u64::MAX) {
        outbox.acked(id);
    }
    for (key, line) in &fresh.lines {
        let known = receiver.lines.entry(key.clone()).or_default();
        for (number, value) in line {
            let before = known.insert(*number, *value);
            let same = before.is_none_or(|v| v == *value);
            assert!(same, "number {number} of {key:?} was used twice");
        }
    }
    for (key, holes) in &fresh.holes {
        let known = receiver.holes.entry(key.clone()).or_default();
        known.extend(holes);
    }
    let lines = fresh.lines.into_iter();
    lines
        .map(|((stream, source), line)| ((stream.0.as_bytes().to_vec(), source), line))
        .collect()
}

fn round(seed: u64) -> u64 {
    let mut random = Rng::with_seed(seed);
    let home = tempfile::tempdir().unwrap();
    let (dir, twin) = (home.path().join("buffer"), home.path().join("twin"));
    let mut receiver = Receiver::default();
    let mut next = 1;
    // Several lives, so that there are sealed epochs and one that a crash has left.
    for life in 0..3 {
        let mut settings = settings(&dir, ROOM);
        settings.epoch_bytes = [1, 600 * 1024][random.usize(..2)];
        let buffer = Buffer::open_exactly(settings, clock()).unwrap();
        let (source, tag) = register(&buffer, "boiler");
        let (pump, pump_tag) = register(&buffer, "pump");
        let mut outbox = buffer.outbox("cloud", Start::Oldest);
        for _ in 0..random.u64(2..12) {
            buffer.append(source, samples(tag, next, 300));
            buffer.append(pump, samples(pump_tag, next, 5));
            if random.u8(..4) == 0 {
                buffer.append_event(pump, event(next));
            }
            next += 300;
            buffer.commit().unwrap();
            if random.bool() {
                for id in take_all(&mut outbox, &mut receiver, 3) {
                    outbox.acked(id);
                }
            }
        }
        if random.bool() {
            buffer.close().unwrap();
        } else {
            buffer.crash();
        }
        // Every life but the last leaves something that is acked and saved, or only acked.
        drop((outbox, life));
    }
    copy(&dir, &twin);
    let twin = Buffer::open_exactly(settings(&twin, ROOM), clock()).unwrap();
    let whole = rest(&twin, &mut Receiver::default());
    let names: Vec<String> = twin.ledger().devices.into_keys().collect();
    drop(twin);
    assert_eq!(names, ["boiler", "pump"]);

    let all = files(&dir);
    let logs = all.iter().filter(|f| f.ends_with("db"));
    let frames: Vec<Frame> = logs.flat_map(|f| frames(f)).collect();
    let slots: Vec<Vec<u8>> = [0, 1]
        .map(|slot| fs::read(dir.join(format!("state.{slot}"))).unwrap_or_default())
        .to_vec();
    let done: Vec<String> = (0..1 + random.usize(..5) / 3)
        .map(|_| damage(&all, &mut random))
        .collect();
    let state_intact = (0..2)
        .all(|slot| fs::read(dir.join(format!("state.{slot}"))).unwrap_or_default() == slots[slot]);
    let mut may_go: BTreeSet<(Vec<u8>, String, u64)> = BTreeSet::new();
    for frame in frames.iter().filter(|f| !f.is_intact()) {
        let alarm = frame.bytes[5] & 1 == 1;
        for (source, first, last) in &frame.entries {
            let name = ["boiler", "pump"][*source as usize];
            let name = if alarm {
                format!("{name}!")
            } else {
                name.to_owned()
            };
            may_go.extend((*first..=*last).map(|n| (frame.stream.clone(), name.clone(), n)));
        }
    }

    let buffer = Buffer::open_exactly(settings(&dir, ROOM), clock())
        .unwrap_or_else(|e| panic!("seed {seed}, {done:?}: {e}"));
    let context = format!("seed {seed}, {done:?}, {:?}", buffer.recovery());
    let (source, tag) = register(&buffer, "boiler");
    let ticket = buffer.append(source, samples(tag, 1_000_000, 10));
    buffer.commit().unwrap_or_else(|e| panic!("{context}: {e}"));
    assert!(buffer.durable(ticket), "{context}");
    let came = rest(&buffer, &mut receiver);
    let got = receiver.values("boiler");
    assert!(
        (1_000_000..1_000_010).all(|v| got.contains(&v)),
        "{context}"
    );
    let mut lost = 0;
    for ((stream, name), line) in &whole {
        let now = came.get(&(stream.clone(), name.clone()));
        for (number, value) in line {
            let there = now.and_then(|line| line.get(number));
            assert!(there.is_none_or(|v| v == value), "{context}");
            let expected = may_go.contains(&(stream.clone(), name.clone(), *number));
            assert!(
                there.is_some() || expected,
                "{context}: number {number} of {name} is lost, and its chunk is intact"
            );
            lost += u64::from(there.is_none());
        }
    }
    let verified = buffer.verify().unwrap();
    assert_eq!(verified, buffer.ledger(), "{context}");
    let rows = verified.devices.iter().map(|(n, row)| (n.clone(), row));
    let events = verified
        .events
        .iter()
        .map(|(n, row)| (format!("{n}!"), row));
    for (name, row) in rows.chain(events) {
        assert!(row.balances(), "{context}: {name} {row:?}");
        if state_intact {
            // What is said to be lost is what is counted as lost, number for number.
            let (kept, void) = receiver.counts(&name);
            let dropped: u64 = row.dropped.values().sum();
            // Where a stream had to end, what was delivered of its lost end is known to nobody here.
            let log = if name.ends_with('!') { "alarm" } else { "data" };
            let notes = &mut buffer.recovery().notes.iter();
            let ended = notes.any(|n| n.contains(log) && n.contains("a new number stream"));
            let counted = (row.acked, dropped) == (kept, void);
            // Whether a settled chunk held records or a gap is gone with it: it counts as acked.
            let notes = &mut buffer.recovery().notes.iter();
            let gone = notes.any(|n| n.contains(log) && n.contains("are missing"));
            let all = row.acked + dropped == kept + void && row.acked >= kept;
            assert!(
                counted || gone && all || ended && row.acked <= kept && dropped <= void,
                "{context}: {name}: {kept} kept, {void} announced: {row:?}"
            );
        }
    }
    if state_intact {
        receiver.check_lines();
    }
    lost
}

#[test]
fn any_damage_is_survived() {
    let rounds: u64 = std::env::var("MILLRACE_DAMAGE_ROUNDS").map_or(25, |n| n.parse().unwrap());
    let seed: u64 = std::env::var("MILLRACE_SEED").map_or(1, |n| n.parse().unwrap());
    let mut lost = 0;
    for round_seed in seed..seed + rounds {
        lost += round(round_seed);
    }
    println!(
        "damage: seed {seed}: {rounds} rounds, {lost} samples lost, all in damaged chunks, all announced"
    );
}
