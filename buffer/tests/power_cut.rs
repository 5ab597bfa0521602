//! The power fails at any instant: whatever a strict disk may then hold, the buffer opens, nothing that
//! was committed is lost, and no number is used twice.
//!
//! `MILLRACE_CUTS` sets the number of instants, `MILLRACE_SEED` which ones and what the program does. A
//! failure names the directory that it left for a look. Half as many once more fall
//! into merging after a long outage, at each step of it.

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

use disk::{Disk, Op, Unsynced, marks, paths, read_log, under_shim};
use fastrand::Rng;
use millrace_buffer::{Buffer, Settings, Start};
use receiver::{clock, register, samples};
use victim::{Account, UPLINK, Victim};

const SEED: &str = "MILLRACE_CUT_VICTIM";
const MERGING: &str = "MILLRACE_CUT_MERGING";
const LIVES: u64 = 5;
const STEPS: u64 = 40;

/// Of the program with merging.
const OUTAGE_LIVES: u64 = 5;
const OUTAGE_LIVES_MAX: u64 = 20;
const OUTAGE_STEPS: u64 = 60;

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

/// The same with merging: lives in which nobody takes anything until enough of them was merged, and one more.
#[test]
fn merging_program() {
    let Ok(seed) = std::env::var(MERGING) else {
        return;
    };
    let seed: u64 = seed.parse().unwrap();
    let root = PathBuf::from(std::env::var_os("MILLRACE_DISK_ROOT").unwrap());
    let marks = std::fs::File::create(marks(&root)).unwrap();
    let mut victim = Victim::new(marks, seed, 1);
    let dir = root.join("data/buffer");
    let mut merged = 0;
    for life in 0..OUTAGE_LIVES_MAX {
        let outage = life < OUTAGE_LIVES || merged == 0;
        let settings = Settings {
            epoch_bytes: [12 * 1024, 32 * 1024][victim.random.usize(..2)],
            max_bytes: 1 << 30,
            rechunk_interval: std::time::Duration::from_secs(3600),
            ..settings(&dir, &mut victim.random)
        };
        let buffer = Buffer::open_exactly(settings, clock()).unwrap();
        let mut outbox = buffer.outbox(UPLINK, Start::Oldest);
        for _ in 0..OUTAGE_STEPS {
            match outage {
                true => victim.outage_step(&buffer),
                false => victim.step(&buffer, &mut outbox),
            }
            if victim.random.u8(..40) == 0 {
                merged += buffer.rechunk();
            }
        }
        if outage {
            merged += buffer.rechunk();
        }
        if victim.random.bool() {
            buffer.close().unwrap();
            victim.note_durable(&buffer);
        } else {
            buffer.crash();
        }
        victim.reborn();
        if !outage {
            break;
        }
    }
    assert!(merged > 0, "seed {seed}: nothing was merged");
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
fn rare(ops: &[Op], count: usize, random: &mut Rng) -> BTreeSet<usize> {
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

/// The steps of merging: what happens, by the operation and the name of what it is done to.
fn steps_of_merging(ops: &[Op]) -> Vec<(&'static str, Vec<usize>)> {
    let paths = paths(ops);
    let ends = |end: &'static str| move |path: &str| path.ends_with(end);
    let within = |part: &'static str| move |path: &str| path.contains(part);
    let at = |is: &dyn Fn(&Op) -> bool, of: &dyn Fn(&str) -> bool| -> Vec<usize> {
        let all = ops.iter().zip(&paths).enumerate();
        let these = all.filter(|(_, (op, path))| is(op) && of(path));
        these.map(|(time, _)| time).collect()
    };
    let create = |op: &Op| matches!(op, Op::Create { .. });
    let write = |op: &Op| matches!(op, Op::Write { .. });
    let sync = |op: &Op| matches!(op, Op::Sync { .. });
    let remove = |op: &Op| matches!(op, Op::Remove { .. });
    let rename = |op: &Op| matches!(op, Op::Rename { .. });
    let renamed = |a: &'static str, b: &'static str| move |op: &Op| matches!(op, Op::Rename { from, to, .. } if from.ends_with(a) && to.ends_with(b));
    // The first sync after each.
    let synced = |times: Vec<usize>| -> Vec<usize> {
        let next = |time: usize| (time + 1..ops.len()).find(|t| sync(&ops[*t]));
        times.into_iter().filter_map(next).collect()
    };
    let any = |_: &str| true;
    vec![
        ("begun", at(&create, &ends(".new"))),
        ("written", at(&write, &within(".new/db"))),
        ("made durable", at(&sync, &within(".new/db"))),
        ("manifest written", at(&write, &ends(".new/manifest.new"))),
        ("manifest named", at(&rename, &ends(".new/manifest"))),
        ("directory synced", at(&sync, &ends(".new"))),
        ("first part aside", at(&renamed(".ep", ".old"), &any)),
        ("aside for good", synced(at(&renamed(".ep", ".old"), &any))),
        ("in place", at(&renamed(".new", ".ep"), &any)),
        (
            "in place for good",
            synced(at(&renamed(".new", ".ep"), &any)),
        ),
        ("part renamed", at(&renamed(".ep", ".del"), &any)),
        ("first part renamed", at(&renamed(".old", ".del"), &any)),
        ("part being deleted", at(&remove, &within(".del/"))),
        ("part deleted", at(&remove, &ends(".del"))),
    ]
}

/// Instants at each step of merging, `count` in all or one a step.
fn merging(ops: &[Op], count: usize, random: &mut Rng) -> BTreeSet<usize> {
    let mut steps = steps_of_merging(ops);
    let mut chosen = BTreeSet::new();
    let share = count.div_ceil(steps.len());
    for (name, times) in &mut steps {
        assert!(!times.is_empty(), "nothing was ever {name}");
        random.shuffle(times);
        chosen.extend(times.iter().take(share));
    }
    chosen
}

/// Which instants to cut at.
type Instants = fn(&[Op], usize, &mut Rng) -> BTreeSet<usize>;

/// A directory that costs no real disk where there is such a place: what is read here was made by hand.
fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    tempfile::tempdir_in(memory).unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

/// Cuts the life of a program at `count` instants; returns how many they were, and disks looked at.
fn cut(
    (program, variable): (&str, &str),
    seed: u64,
    instants: Instants,
    count: usize,
) -> (usize, usize) {
    let home = tempfile::tempdir().unwrap();
    let root = home.path().join("disk");
    let log = home.path().join("log");
    std::fs::create_dir(&root).unwrap();
    let root = root.canonicalize().unwrap();
    let status = under_shim(program, &root, Some(&log))
        .env(variable, seed.to_string())
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

/// Cuts at `count` instants, in as many programs as that takes.
fn cuts(program: (&str, &str), instants: Instants, count: usize) {
    let seed: u64 = std::env::var("MILLRACE_SEED").map_or(1, |n| n.parse().unwrap());
    // A program's life is long enough for this many.
    let (mut done, mut disks, mut programs) = (0, 0, 0);
    while done < count {
        let share = (count - done).min(if count < 50 { 12 } else { 50 });
        let (instants, looked) = cut(program, seed.wrapping_add(programs), instants, share);
        done += instants;
        disks += looked;
        programs += 1;
    }
    println!(
        "power cut, {}: seed {seed}: {done} instants in {programs} programs, {disks} disks: 0 lost",
        program.0
    );
}

fn count() -> usize {
    std::env::var("MILLRACE_CUTS").map_or(24, |n| n.parse().unwrap())
}

#[test]
fn power_cuts() {
    cuts(("program", SEED), rare, count());
}

#[test]
fn power_cuts_while_chunks_are_merged() {
    cuts(("merging_program", MERGING), merging, count().div_ceil(2));
}
