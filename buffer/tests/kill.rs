//! A real process is killed at random times, again and again: nothing that it committed is lost or
//! reordered, no number is given twice, and the ledger, counted again from the disk, says each time what
//! the process had said of itself.
//!
//! `MILLRACE_KILL_ROUNDS` sets how often, `MILLRACE_SEED` what the process does and how long it lives.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

#[path = "support/receiver.rs"]
mod receiver;
#[path = "support/victim.rs"]
mod victim;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use millrace_buffer::{Buffer, Settings, Start};
use millrace_tags::SystemClock;
use victim::{Account, UPLINK, Victim};

const DIR: &str = "MILLRACE_KILL_DIR";
const SEED: &str = "MILLRACE_KILL_VICTIM";
const FROM: &str = "MILLRACE_KILL_FROM";
const MERGING: &str = "MILLRACE_KILL_MERGING";

/// A buffer is used for this many rounds: what the receiver knows of it is compared as a whole.
const ROUNDS_PER_BUFFER: u64 = 20;

fn settings(dir: &Path) -> Settings {
    Settings {
        commit_interval: Duration::from_millis(20),
        keep: Duration::ZERO,
        epoch_bytes: 600 * 1024,
        ..Settings::new(dir)
    }
}

/// Many small epochs, and merging as soon as there are two.
fn merging_settings(dir: &Path) -> Settings {
    Settings {
        epoch_bytes: 12 * 1024,
        rechunk_interval: Duration::from_millis(1),
        ..settings(dir)
    }
}

/// Whether something is just being merged, or was when the process ended.
fn is_merging(dir: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(dir.join("data")) else {
        return false;
    };
    let mut paths = entries.flatten().map(|e| e.path());
    paths.any(|p| {
        p.extension()
            .is_some_and(|e| e == "new" || e == "old" || e == "del")
    })
}

fn open(dir: &Path) -> Buffer {
    Buffer::open_exactly(settings(dir), Arc::new(SystemClock::new())).unwrap()
}

/// The victim: works until it is killed, and prints what is durable and what is sent.
///
/// It is this test binary once more, told by the environment what it is.
#[test]
fn victim() {
    let Some(dir) = std::env::var_os(DIR) else {
        return;
    };
    let number = |name| std::env::var(name).unwrap().parse().unwrap();
    println!("begins");
    let buffer = open(&PathBuf::from(dir));
    let mut outbox = buffer.outbox(UPLINK, Start::Oldest);
    let mut victim = Victim::new(std::io::stdout(), number(SEED), number(FROM));
    loop {
        victim.step(&buffer, &mut outbox);
    }
}

/// A victim from which nobody takes anything, so that its chunks are merged all the time.
#[test]
fn merging_victim() {
    let Some(dir) = std::env::var_os(DIR).filter(|_| std::env::var_os(MERGING).is_some()) else {
        return;
    };
    let dir = PathBuf::from(dir);
    let number = |name| std::env::var(name).unwrap().parse().unwrap();
    println!("begins");
    let clock = Arc::new(SystemClock::new());
    let buffer = Buffer::open_exactly(merging_settings(&dir), clock).unwrap();
    drop(buffer.outbox(UPLINK, Start::Oldest));
    let mut victim = Victim::new(std::io::stdout(), number(SEED), number(FROM));
    loop {
        victim.outage_step(&buffer);
        if is_merging(&dir) {
            println!("merges");
        }
    }
}

/// Lets a victim live for a while and listens to it. `true`: something was merged meanwhile.
fn live(dir: &Path, account: &mut Account, random: &mut Rng, merging: bool) -> bool {
    let name = if merging { "merging_victim" } else { "victim" };
    let mut command = Command::new(std::env::current_exe().unwrap());
    if merging {
        command.env(MERGING, "1");
    }
    let mut child = command
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(DIR, dir)
        .env(SEED, random.u64(..).to_string())
        .env(FROM, account.next.max(1).to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    // Now and then it does not come far: it is killed while it opens what the last one left.
    let (early, life) = match random.u8(..4) {
        0 => (true, Duration::from_micros(random.u64(..30_000))),
        // While one epoch after the other is merged.
        _ if merging => (false, Duration::from_micros(random.u64(..100_000))),
        _ => (false, Duration::from_millis(random.u64(..300))),
    };
    let (alive, lives) = std::sync::mpsc::channel();
    let killer = std::thread::spawn(move || {
        // Its life is counted from its first word: a loaded machine may be slow to start it.
        let _ = lives.recv();
        std::thread::sleep(life);
        child.kill().unwrap();
        child.wait().unwrap();
    });
    let sign = match (early, merging) {
        (true, _) => "begins",
        (false, true) => "merges",
        (false, false) => "durable",
    };
    let mut merged = false;
    for line in output.lines() {
        // A line is one write, which a kill does not divide.
        let Ok(line) = line else { break };
        if line.contains(sign) {
            let _ = alive.send(());
        }
        merged |= line == "merges";
        account.hear(&line);
    }
    drop(alive);
    killer.join().unwrap();
    merged
}

fn rounds() -> u64 {
    std::env::var("MILLRACE_KILL_ROUNDS").map_or(8, |n| n.parse().unwrap())
}

fn seed() -> u64 {
    std::env::var("MILLRACE_SEED").map_or(1, |n| n.parse().unwrap())
}

#[test]
fn killed_at_random_times() {
    kill(rounds(), false);
}

#[test]
fn killed_while_chunks_are_merged() {
    kill(rounds().div_ceil(2), true);
}

fn kill(rounds: u64, merging: bool) {
    let seed = seed();
    let mut random = Rng::with_seed(seed);
    let (mut durable, mut kills, mut round) = (0, rounds, 0);
    let (mut merged, mut amid) = (0, 0);
    while round < rounds {
        let dir = tempfile::tempdir().unwrap();
        let mut account = Account::default();
        for _ in 0..ROUNDS_PER_BUFFER.min(rounds - round) {
            round += 1;
            let mut live = |account: &mut Account, random: &mut Rng| {
                merged += u64::from(live(dir.path(), account, random, merging));
                amid += u64::from(is_merging(dir.path()));
            };
            live(&mut account, &mut random);
            if random.u8(..4) == 0 {
                // Another one opens what this one left, and is killed as well.
                live(&mut account, &mut random);
                kills += 1;
            }
            println!("round {round}: {} samples are durable", account.durable());
            let buffer = open(dir.path());
            assert_eq!(buffer.recovery().damaged, 0, "{:?}", buffer.recovery());
            let mut outbox = buffer.outbox(UPLINK, Start::Oldest);
            account.settle(&buffer, &mut outbox);
            if random.bool() {
                buffer.close().unwrap();
            } else {
                buffer.crash();
            }
        }
        durable += account.durable();
    }
    assert!(!merging || rounds < 4 || merged > 0, "nothing was merged");
    let while_merging = match merging {
        true => format!(" {merged} of them after merging, {amid} amid it,"),
        false => String::new(),
    };
    println!(
        "kill: seed {seed}: {rounds} rounds, {kills} kills,{while_merging} {durable} samples durable: 0 lost"
    );
}
