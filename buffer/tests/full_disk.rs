//! A disk that refuses: full, read-only, broken, at every operation that the buffer does on it. Nothing
//! committed is lost, delivery goes on from memory, storing resumes without a restart.
//!
//! `MILLRACE_FAULT_STRIDE` says which operations fail (every how-manieth; 1: each), `MILLRACE_SEED` what
//! the program does. A failure prints its rounds; `MILLRACE_FAULT_ONLY` with such a line runs one again.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

#[path = "support/disk.rs"]
mod disk;
#[path = "support/receiver.rs"]
mod receiver;
#[path = "support/victim.rs"]
mod victim;

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use disk::{marks, under_shim};
use millrace_buffer::{Buffer, Outbox, Settings, Start};
use receiver::{MIB, clock, settings};
use victim::{Account, UPLINK, Victim};

const ORDERS: &str = "MILLRACE_FAULT_ORDERS";
const SMALL_DISK: &str = "MILLRACE_SMALL_DISK";
const ENOSPC: i32 = 28;
const EIO: i32 = 5;
const EROFS: i32 = 30;

/// Steps that are taken while the disk refuses.
const STEPS: u64 = 14;

fn open(dir: &Path) -> (Buffer, Outbox) {
    let settings = Settings {
        // Every commit ends an epoch: many kinds of operations in a short life.
        epoch_bytes: 1,
        keep: std::time::Duration::ZERO,
        ..settings(dir, 1 << 30)
    };
    let buffer = Buffer::open_exactly(settings, clock()).unwrap();
    let outbox = buffer.outbox(UPLINK, Start::Oldest);
    (buffer, outbox)
}

fn account(victim: &mut Victim<Vec<u8>>) -> Account {
    let mut account = Account::default();
    listen(&mut account, victim);
    account
}

fn listen(account: &mut Account, victim: &mut Victim<Vec<u8>>) {
    let said = std::mem::take(victim.said());
    for line in String::from_utf8(said).unwrap().lines() {
        account.hear(line);
    }
}

/// One life on a disk whose `at`-th operation fails; `false`: it has not come that far.
fn round(dir: &Path, orders: &mut File, at: u64, errno: i32, how: &str, seed: u64) -> bool {
    let mut order = |text: String| orders.write(text.as_bytes()).is_ok();
    let mut victim = Victim::new(Vec::new(), seed, 1);
    let (mut buffer, mut outbox) = open(dir);
    for _ in 0..4 {
        victim.step(&buffer, &mut outbox);
        victim.append(&buffer);
        victim.commit(&buffer);
    }
    if victim.random.bool() {
        // It fails while the buffer opens after a crash.
        buffer.crash();
        victim.reborn();
        order(format!("fail {at} {errno} {how}"));
        let settings = Settings {
            epoch_bytes: 1,
            ..settings(dir, 1 << 30)
        };
        if Buffer::open_exactly(settings, clock())
            .map(|b| b.crash())
            .is_err()
        {
            order("fail off".into());
        }
        drop(outbox);
        (buffer, outbox) = match Buffer::open_exactly(receiver::settings(dir, 1 << 30), clock()) {
            Ok(buffer) => {
                let outbox = buffer.outbox(UPLINK, Start::Oldest);
                (buffer, outbox)
            }
            Err(_) => {
                order("fail off".into());
                open(dir)
            }
        };
    } else {
        order(format!("fail {at} {errno} {how}"));
    }
    for _ in 0..STEPS {
        victim.step(&buffer, &mut outbox);
    }
    victim.deliver_from_memory(&buffer, &mut outbox);
    victim.ack(&mut outbox);
    let hit = order("hit?".into());
    let forgotten = victim.random.u8(..4) == 0;
    if forgotten {
        buffer.crash();
        order("fail off".into());
    } else {
        order("fail off".into());
        buffer.commit().unwrap();
        assert!(buffer.status().durable);
        victim.commit(&buffer);
        for _ in 0..3 {
            victim.step(&buffer, &mut outbox);
        }
        match victim.random.u8(..3) {
            0 => buffer.close().unwrap(),
            1 => buffer.crash(),
            _ => {
                account(&mut victim).settle(&buffer, &mut outbox);
                return hit;
            }
        }
        victim.note_durable(&buffer);
    }
    drop(outbox);
    let (buffer, mut outbox) = open(dir);
    account(&mut victim).settle_but(&buffer, &mut outbox, forgotten);
    hit
}

/// What runs under the shim.
#[test]
fn program() {
    let Ok(words) = std::env::var(ORDERS) else {
        return;
    };
    let root = PathBuf::from(std::env::var_os("MILLRACE_DISK_ROOT").unwrap());
    let mut orders = File::create(marks(&root)).unwrap();
    if let Ok(one) = std::env::var("MILLRACE_FAULT_ONLY") {
        // As the round that failed was announced: operation, errno, how, seed.
        let words: Vec<&str> = one.split(' ').collect();
        let number = |at: usize| words[at].parse().unwrap();
        let errno = words[1].parse().unwrap();
        round(
            &root.join("only"),
            &mut orders,
            number(0),
            errno,
            words[2],
            number(3),
        );
        println!("rounds 1");
        return;
    }
    let mut words = words.split(' ').map(|w| w.parse::<u64>().unwrap());
    let (stride, seed) = (words.next().unwrap(), words.next().unwrap());
    let mut rounds = 0;
    for errno in [ENOSPC, EIO, EROFS] {
        for how in ["once", "on"] {
            let mut at = 1 + (seed + rounds) % stride;
            loop {
                let dir = root.join(format!("{errno}-{how}-{at}"));
                let of = seed.wrapping_mul(1_000_003) + at;
                eprintln!("{at} {errno} {how} {of}");
                let hit = round(&dir, &mut orders, at, errno, how, of);
                fs::remove_dir_all(&dir).unwrap();
                if !hit {
                    break;
                }
                rounds += 1;
                at += stride;
            }
        }
    }
    println!("rounds {rounds}");
}

#[test]
fn every_operation_fails() {
    let stride: u64 = std::env::var("MILLRACE_FAULT_STRIDE").map_or(31, |n| n.parse().unwrap());
    let seed: u64 = std::env::var("MILLRACE_SEED").map_or(1, |n| n.parse().unwrap());
    let home = tempfile::tempdir().unwrap();
    let root = home.path().join("disk");
    fs::create_dir(&root).unwrap();
    let output = under_shim("program", &root.canonicalize().unwrap(), None)
        .env(ORDERS, format!("{stride} {seed}"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    let tail: Vec<&str> = errors.lines().rev().take(60).collect();
    let tail: Vec<&str> = tail.into_iter().rev().collect();
    assert!(output.status.success(), "seed {seed}: {}", tail.join("\n"));
    let rounds = said.lines().find_map(|l| Some(l.split_once("rounds ")?.1));
    let rounds = rounds.unwrap();
    println!("failing disk: seed {seed}: {rounds} operations failed, stride {stride}: 0 lost");
}

/// Fills the file system of `dir` to the last byte.
fn ballast(dir: &Path) -> PathBuf {
    let path = dir.join("ballast");
    let mut file = File::create(&path).unwrap();
    for block in [vec![1; 65_536], vec![1; 512]] {
        while file.write_all(&block).is_ok() {}
    }
    path
}

fn mount(args: &[&str], dir: &Path) {
    let mounted = Command::new("mount").args(args).arg(dir).status().unwrap();
    assert!(mounted.success(), "mount {args:?} {}", dir.display());
}

/// What runs on a small disk of its own: `dir` is a fresh tmpfs of four megabytes.
#[test]
fn on_a_small_disk() {
    let Some(disk) = std::env::var_os(SMALL_DISK).map(PathBuf::from) else {
        return;
    };
    let dir = disk.join("buffer");
    let mut victim = Victim::new(Vec::new(), 7, 1);
    let (buffer, mut outbox) = open(&dir);
    for _ in 0..10 {
        victim.step(&buffer, &mut outbox);
    }
    victim.commit(&buffer);

    // Somebody else fills the disk.
    let file = ballast(&disk);
    for _ in 0..200 {
        victim.append(&buffer);
        victim.ack(&mut outbox);
        victim.take(&mut outbox);
        victim.commit(&buffer);
        if !buffer.status().durable {
            break;
        }
        // What the buffer gave way with is taken, too.
        ballast(&disk);
    }
    assert!(!buffer.status().durable, "the disk is not full");
    for _ in 0..20 {
        victim.deliver_from_memory(&buffer, &mut outbox);
        victim.ack(&mut outbox);
    }
    fs::remove_file(file).unwrap();
    buffer.commit().unwrap();
    assert!(buffer.status().durable);
    victim.commit(&buffer);
    let mut account = account(&mut victim);
    account.settle(&buffer, &mut outbox);

    // The file system is mounted read-only, as after an error.
    mount(&["--bind", dir.to_str().unwrap()], &dir);
    mount(&["-o", "remount,bind,ro"], &dir);
    victim.reborn();
    for _ in 0..50 {
        victim.append(&buffer);
        victim.commit(&buffer);
        if !buffer.status().durable {
            break;
        }
    }
    assert!(!buffer.status().durable, "the disk is not read-only");
    for _ in 0..5 {
        victim.deliver_from_memory(&buffer, &mut outbox);
        victim.ack(&mut outbox);
    }
    let unmounted = Command::new("umount").arg("-l").arg(&dir).status().unwrap();
    assert!(unmounted.success());
    buffer.commit().unwrap();
    victim.commit(&buffer);
    assert!(buffer.status().durable);
    listen(&mut account, &mut victim);
    account.settle(&buffer, &mut outbox);
    buffer.crash();
    drop(outbox);
    let (buffer, mut outbox) = open(&dir);
    account.settle(&buffer, &mut outbox);
    assert!(buffer.status().bytes < 4 * MIB);
    println!("small disk: done");
}

#[test]
fn a_small_disk_and_a_read_only_one() {
    let home = tempfile::tempdir().unwrap();
    let own = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["-rm", "sh", "-c", script, "sh"]);
        command
            .arg(home.path())
            .arg(std::env::current_exe().unwrap());
        command.env(SMALL_DISK, home.path()).output()
    };
    if !own("mount -t tmpfs none \"$1\"").is_ok_and(|output| output.status.success()) {
        println!("not run: this machine lets nobody mount in a user namespace");
        return;
    }
    let script = "mount -t tmpfs -o size=4m none \"$1\" && \
                  exec \"$2\" on_a_small_disk --exact --nocapture --test-threads=1";
    let output = own(script).unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{errors}");
    assert!(said.contains("small disk: done"), "{said}{errors}");
}
