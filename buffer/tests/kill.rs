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

/// Lets a victim live for a while and listens to it.
fn live(dir: &Path, account: &mut Account, random: &mut Rng) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["victim", "--exact", "--nocapture", "--test-threads=1"])
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
    let sign = if early { "begins" } else { "durable" };
    for line in output.lines() {
        // A line is one write, which a kill does not divide.
        let Ok(line) = line else { break };
        if line.contains(sign) {
            let _ = alive.send(());
        }
        account.hear(&line);
    }
    drop(alive);
    killer.join().unwrap();
}

#[test]
fn killed_at_random_times() {
    let rounds: u64 = std::env::var("MILLRACE_KILL_ROUNDS").map_or(8, |n| n.parse().unwrap());
    let seed: u64 = std::env::var("MILLRACE_SEED").map_or(1, |n| n.parse().unwrap());
    let mut random = Rng::with_seed(seed);
    let (mut durable, mut kills, mut round) = (0, rounds, 0);
    while round < rounds {
        let dir = tempfile::tempdir().unwrap();
        let mut account = Account::default();
        for _ in 0..ROUNDS_PER_BUFFER.min(rounds - round) {
            round += 1;
            live(dir.path(), &mut account, &mut random);
            if random.u8(..4) == 0 {
                // Another one opens what this one left, and is killed as well.
                live(dir.path(), &mut account, &mut random);
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
    println!(
        "kill: seed {seed}: {rounds} rounds, {kills} kills, {durable} samples durable: 0 lost"
    );
}
