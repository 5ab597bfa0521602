//! Seeded damage to any file: the buffer opens, says what is lost, and goes on.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

#[path = "support/receiver.rs"]
mod receiver;

use std::fs::{self, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use fastrand::Rng;
use millrace_buffer::{Buffer, Start};
use millrace_tags::DropReason;
use receiver::{Receiver, clock, drain_empty, register, samples, settings, take_all};

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

fn damage(path: &Path, random: &mut Rng) -> String {
    let len = fs::metadata(path).unwrap().len();
    let at = random.u64(..len.max(1));
    let write = |bytes: &[u8]| {
        let mut file = OpenOptions::new().write(true).open(path).unwrap();
        file.seek(SeekFrom::Start(at)).unwrap();
        file.write_all(bytes).unwrap();
    };
    match random.u8(..5) {
        0 if len > 0 => {
            let byte = fs::read(path).unwrap()[at as usize];
            write(&[byte ^ (1 << random.u8(..8))]);
            format!("flip at {at}")
        }
        1 => {
            write(&vec![0; random.usize(1..65_536)]);
            format!("zeroes at {at}")
        }
        2 => {
            let file = OpenOptions::new().write(true).open(path).unwrap();
            file.set_len(at).unwrap();
            format!("cut at {at}")
        }
        3 => {
            let noise: Vec<u8> = (0..random.usize(1..5_000)).map(|_| random.u8(..)).collect();
            write(&noise);
            format!("noise at {at}")
        }
        _ => {
            fs::remove_file(path).unwrap();
            "removed".into()
        }
    }
}

fn round(seed: u64) {
    let mut random = Rng::with_seed(seed);
    let dir = tempfile::tempdir().unwrap();
    let mut receiver = Receiver::default();
    let mut next = 1;
    // Several lives, so that there are sealed epochs and one that a crash has left.
    for life in 0..3 {
        let buffer = Buffer::open_exactly(settings(dir.path(), ROOM), clock()).unwrap();
        let (source, tag) = register(&buffer, "boiler");
        let (pump, pump_tag) = register(&buffer, "pump");
        let mut outbox = buffer.outbox("cloud", Start::Oldest);
        for _ in 0..random.u64(2..12) {
            buffer.append(source, samples(tag, next, 300));
            buffer.append(pump, samples(pump_tag, next, 5));
            next += 300;
            buffer.commit().unwrap();
            if random.bool() {
                for id in take_all(&mut outbox, &mut receiver, 3) {
                    outbox.acked(id);
                }
            }
        }
        if life < 2 && random.bool() {
            buffer.close().unwrap();
        } else {
            buffer.crash();
        }
    }
    let files = files(dir.path());
    let mut done = Vec::new();
    for _ in 0..random.usize(1..4) {
        let path = &files[random.usize(..files.len())];
        if path.exists() {
            done.push(format!("{}: {}", path.display(), damage(path, &mut random)));
        }
    }

    let buffer = Buffer::open_exactly(settings(dir.path(), ROOM), clock())
        .unwrap_or_else(|e| panic!("seed {seed}, {done:?}: {e}"));
    let context = format!("seed {seed}, {done:?}, {:?}", buffer.recovery());
    let (source, tag) = register(&buffer, "boiler");
    let ticket = buffer.append(source, samples(tag, 1_000_000, 10));
    buffer.commit().unwrap_or_else(|e| panic!("{context}: {e}"));
    assert!(buffer.durable(ticket), "{context}");
    let mut outbox = buffer.outbox("cloud", Start::Oldest);
    drain_empty(&buffer, &mut outbox, &mut receiver);
    let got = receiver.values("boiler");
    assert!(
        (1_000_000..1_000_010).all(|v| got.contains(&v)),
        "{context}"
    );
    let verified = buffer.verify().unwrap();
    assert_eq!(verified, buffer.ledger(), "{context}");
    for (name, row) in &verified.devices {
        assert!(row.balances(), "{context}: {name} {row:?}");
    }
    // Nothing vanishes silently: without a word in the report or the ledger, all that was committed is
    // there. Damage inside a sealed epoch is found when it is read.
    let quiet = buffer.recovery().notes.iter().all(|n| n.contains("clean"));
    let row = &verified.devices["boiler"];
    if quiet && !row.dropped.contains_key(&DropReason::Damage) {
        assert!((1..next).all(|v| got.contains(&v)), "{context}: {row:?}");
    }
}

#[test]
fn any_damage_is_survived() {
    let rounds = std::env::var("MILLRACE_DAMAGE_ROUNDS").map_or(25, |n| n.parse().unwrap());
    let seeds = match std::env::var("MILLRACE_DAMAGE_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => (0..rounds).collect(),
    };
    for seed in seeds {
        round(seed);
    }
}
