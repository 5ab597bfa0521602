//! The power fails at any instant: whatever a strict disk may then hold, the buffer opens, nothing that
//! was committed is lost, and no number is used twice.
//!
//! `MILLRACE_CUTS` sets the number of instants, `MILLRACE_SEED` which ones and what the program does. A
//! failure names the directory that it left for a look.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

#[path = "support/disk.rs"]
mod disk;
#[path = "support/receiver.rs"]
mod receiver;
#[path = "support/victim.rs"]
mod victim;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use disk::{Disk, Op, Unsynced, marks, read_log, under_shim};
use fastrand::Rng;
use millrace_buffer::{Buffer, Settings, Start};
use receiver::{clock, register, samples};
use victim::{Account, UPLINK, Victim};

const SEED: &str = "MILLRACE_CUT_VICTIM";
const LIVES: u64 = 5;
const STEPS: u64 = 40;

/// Mixtures of what was not synced, for each instant.
const MIXTURES: usize = 3;

fn settings(dir: &Path, random: &mut Rng) -> Settings {
    Settings {
        // Every epoch has one commit, some, or many.
        epoch_bytes: [1, 100 * 1024, 600 * 1024][random.usize(..3)],
        // What is settled goes at once, or stays for a time.
        keep: std::time::Duration::from_secs([0, 3600][random.usize(..2)]),
        // Sometimes the oldest have to go.
        max_bytes: [1 << 30, 6 << 20][random.usize(..2)],
        ..receiver::settings(dir, 1 << 30)
    }
}

/// What runs under the shim: several lives of a buffer, ended in every way but a power cut.
#[test]
fn program() {
    let Ok(seed) = std::env::var(SEED) else {
        return;
    };
    let seed: u64 = seed.parse().unwrap();
    let root = PathBuf::from(std::env::var_os("MILLRACE_DISK_ROOT").unwrap());
    let marks = std::fs::File::create(marks(&root)).unwrap();
    let mut victim = Victim::new(marks, seed, 1);
    let dir = root.join("data/buffer");
    for _ in 0..LIVES {
        let settings = settings(&dir, &mut victim.random);
        let buffer = Buffer::open_exactly(settings, clock()).unwrap();
        let mut outbox = buffer.outbox(UPLINK, Start::Oldest);
        for _ in 0..victim.random.u64(1..STEPS) {
            victim.step(&buffer, &mut outbox);
        }
        if victim.random.bool() {
            buffer.close().unwrap();
            victim.note_durable(&buffer);
        } else {
            buffer.crash();
        }
        victim.reborn();
    }
}

/// Opens what is left and looks at everything that was promised until then.
fn check(dir: &Path, said: &[&str], random: &mut Rng) {
    let mut account = Account::default();
    for line in said {
        account.hear(line);
    }
    let settings = Settings {
        max_bytes: 1 << 30,
        ..settings(dir, random)
    };
    let mut next = account.next + 1_000_000;
    // Sometimes once more after a plain crash: what the first start made of the cut has to last.
    for _ in 0..1 + u8::from(random.u8(..4) == 0) {
        let buffer = Buffer::open_exactly(settings.clone(), clock()).unwrap();
        let mut outbox = buffer.outbox(UPLINK, Start::Oldest);
        let (source, tag) = register(&buffer, "boiler");
        let ticket = buffer.append(source, samples(tag, next, 10));
        buffer.commit().unwrap();
        assert!(buffer.durable(ticket));
        account.hear(&format!("durable boiler {next} {}", next + 9));
        next += 10;
        account.settle(&buffer, &mut outbox);
        buffer.crash();
    }
}

/// The instants to cut at: half of them next to what is rare, directory changes and syncs.
fn instants(ops: &[Op], count: usize, random: &mut Rng) -> BTreeSet<usize> {
    let mut rare: Vec<usize> = (0..ops.len()).filter(|at| ops[*at].is_rare()).collect();
    let mut any: Vec<usize> = (0..ops.len()).collect();
    random.shuffle(&mut rare);
    random.shuffle(&mut any);
    let mut chosen: BTreeSet<usize> = rare.into_iter().take(count / 2).collect();
    for at in any {
        if chosen.len() >= count {
            break;
        }
        chosen.insert(at);
    }
    chosen
}

/// A directory that costs no real disk where there is such a place: what is read here was made by hand.
fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    tempfile::tempdir_in(memory).unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

/// Cuts one program's life at `count` instants; returns how many disks were looked at.
fn cut(seed: u64, count: usize) -> (usize, usize) {
    let home = tempfile::tempdir().unwrap();
    let root = home.path().join("disk");
    let log = home.path().join("log");
    std::fs::create_dir(&root).unwrap();
    let root = root.canonicalize().unwrap();
    let status = under_shim("program", &root, Some(&log))
        .env(SEED, seed.to_string())
        .stdout(std::process::Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "seed {seed}: the program: {status}");
    let ops = read_log(&log);
    let mut random = Rng::with_seed(seed);
    let instants = instants(&ops, count, &mut random);
    let mut disk = Disk::default();
    let mut said: Vec<&str> = Vec::new();
    let mut disks = 0;
    for (time, op) in ops.iter().enumerate() {
        disk.advance(op);
        if let Op::Mark(line) = op {
            said.push(line.trim_end());
        }
        if !instants.contains(&time) {
            continue;
        }
        for variant in 0..=MIXTURES {
            let unsynced = match variant {
                0 => Unsynced::Before(random.usize(disk.oldest_unsynced()..=disk.time())),
                _ => Unsynced::Mixture,
            };
            let left = scratch();
            let fork = random.u64(..);
            disk.restore(left.path(), unsynced, &mut Rng::with_seed(fork));
            let before = left.path().to_owned();
            let look = || {
                check(
                    &before.join("data/buffer"),
                    &said,
                    &mut Rng::with_seed(fork),
                )
            };
            if catch_unwind(AssertUnwindSafe(look)).is_err() {
                let kept = left.keep();
                std::fs::remove_dir_all(&kept).unwrap();
                disk.restore(&kept, unsynced, &mut Rng::with_seed(fork));
                std::fs::write(kept.join("said"), said.join("\n")).unwrap();
                panic!(
                    "seed {seed}, instant {time} of {}, {unsynced:?} with seed {fork}, after {op:?}: the disk is in {}",
                    ops.len(),
                    kept.display()
                );
            }
            disks += 1;
        }
    }
    (instants.len(), disks)
}

#[test]
fn power_cuts() {
    let count: usize = std::env::var("MILLRACE_CUTS").map_or(24, |n| n.parse().unwrap());
    let seed: u64 = std::env::var("MILLRACE_SEED").map_or(1, |n| n.parse().unwrap());
    // A program's life is long enough for this many.
    let (mut done, mut disks, mut programs) = (0, 0, 0);
    while done < count {
        let share = (count - done).min(if count < 50 { 12 } else { 50 });
        let (instants, looked) = cut(seed.wrapping_add(programs), share);
        done += instants;
        disks += looked;
        programs += 1;
    }
    println!(
        "power cut: seed {seed}: {done} instants in {programs} programs, {disks} disks: 0 lost"
    );
}
