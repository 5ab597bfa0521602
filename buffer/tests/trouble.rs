//! What cannot be read, and is not lost: a reading that fails for a while, one page that fails for good,
//! names that are damaged, epochs of a newer program.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

#[path = "support/disk.rs"]
mod disk;
#[path = "support/receiver.rs"]
mod receiver;

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use disk::{marks, under_shim};
use millrace_buffer::{Buffer, Settings, Start};
use receiver::{LONG, Receiver, clock, drain_empty, event, register, samples, settings, take_all};

const EIO: i32 = 5;
const ENOMEM: i32 = 12;
const EMFILE: i32 = 24;

fn open(dir: &Path) -> Buffer {
    let settings = Settings {
        read_retry: Duration::from_millis(20),
        ..settings(dir, 1 << 30)
    };
    Buffer::open_exactly(settings, clock()).unwrap()
}

/// Everything that comes, and all that is announced; the recount agrees.
fn drain(buffer: &Buffer) -> Receiver {
    let receiver = take_everything(buffer);
    assert_eq!(buffer.verify().unwrap(), buffer.ledger());
    receiver
}

fn take_everything(buffer: &Buffer) -> Receiver {
    let mut outbox = buffer.outbox("cloud", Start::Oldest);
    let mut receiver = Receiver::default();
    drain_empty(buffer, &mut outbox, &mut receiver);
    // Gaps are no part of what is queued.
    for id in take_all(&mut outbox, &mut receiver, u64::MAX) {
        outbox.acked(id);
    }
    receiver.check_lines();
    receiver
}

/// Commits `chunks` chunks of 300 samples, values from 1, and closes.
fn store(dir: &Path, chunks: u64) {
    let buffer = open(dir);
    let (source, tag) = register(&buffer, "boiler");
    // From before the first sample: it wants all of them.
    drop(buffer.outbox("cloud", Start::Oldest));
    for chunk in 0..chunks {
        buffer.append(source, samples(tag, 1 + 300 * chunk, 300));
        buffer.commit().unwrap();
    }
    buffer.close().unwrap();
}

fn all(chunks: u64) -> Vec<u64> {
    (1..=300 * chunks).collect()
}

/// The only epoch of a log.
fn epoch(dir: &Path, log: &str) -> PathBuf {
    let entries = fs::read_dir(dir.join(log)).unwrap();
    let epochs = entries.map(|entry| entry.unwrap().path());
    let mut epochs = epochs.filter(|path| path.extension().is_some_and(|e| e == "ep"));
    let epoch = epochs.next().unwrap();
    assert_eq!(epochs.next(), None);
    epoch
}

/// Where frames with this magic begin.
fn frames(db: &Path, magic: &[u8]) -> Vec<usize> {
    let bytes = fs::read(db).unwrap();
    let places = bytes.windows(magic.len()).enumerate();
    places
        .filter(|(_, window)| *window == magic)
        .map(|(at, _)| at)
        .collect()
}

fn flip(path: &Path, at: u64) {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

/// What runs under the shim: each case in a directory of its own.
#[test]
fn program() {
    let Some(root) = std::env::var_os("MILLRACE_DISK_ROOT").map(PathBuf::from) else {
        return;
    };
    let mut orders = File::create(marks(&root)).unwrap();
    let mut order = |text: String| orders.write(text.as_bytes()).is_ok();

    // A reading that fails now and works later: nothing is lost.
    for (how, errno) in [
        ("open", EMFILE),
        ("open", EIO),
        ("read", ENOMEM),
        ("read", EIO),
    ] {
        let dir = root.join(format!("{how}-{errno}"));
        store(&dir, 5);
        let buffer = open(&dir);
        assert!(order(format!("read {how} db {errno} 3 0 0")));
        let got = drain(&buffer);
        assert!(order("hit?".into()), "{how} {errno}");
        assert!(got.values("boiler").iter().eq(&all(5)), "{how} {errno}");
        assert!(got.holes.values().all(Vec::is_empty), "{how} {errno}");
    }

    // One that fails for long is said, and tried for as long as it takes.
    let dir = root.join("long");
    store(&dir, 5);
    let buffer = open(&dir);
    assert!(order(format!("read open db {EMFILE} -1 0 0")));
    let mut outbox = buffer.outbox("cloud", Start::Oldest);
    let until = Instant::now() + LONG;
    while !buffer
        .status()
        .unread
        .iter()
        .any(|s| s.contains("tried 8 times"))
    {
        assert!(Instant::now() < until, "{:?}", buffer.status().unread);
        let taken = take_all(&mut outbox, &mut Receiver::default(), 1);
        assert!(taken.is_empty());
    }
    order("read off".into());
    drop(outbox);
    assert!(drain(&buffer).values("boiler").iter().eq(&all(5)));
    assert!(buffer.status().unread.is_empty());
    buffer.close().unwrap();

    // A page that is lost for good costs its chunk and no other; it is announced.
    let dir = root.join("page");
    store(&dir, 5);
    let db = epoch(&dir, "data").join("db");
    let third = frames(&db, b"\xF1MRc")[2];
    let buffer = open(&dir);
    assert!(order(format!("read read db {EIO} -1 {third} 8")));
    let got = take_everything(&buffer);
    let expected: Vec<u64> = all(5)
        .into_iter()
        .filter(|v| !(601..=900).contains(v))
        .collect();
    assert!(got.values("boiler").iter().eq(&expected));
    let holes: Vec<_> = got.holes.values().flatten().collect();
    assert_eq!(holes, [&(601, 900)]);
    order("read off".into());
    buffer.close().unwrap();

    // The same while the buffer opens after a crash, with an epoch that has to be scanned.
    let dir = root.join("scan");
    let buffer = open(&dir);
    let (source, tag) = register(&buffer, "boiler");
    drop(buffer.outbox("cloud", Start::Oldest));
    for chunk in 0..30 {
        buffer.append(source, samples(tag, 1 + 300 * chunk, 300));
        buffer.commit().unwrap();
    }
    buffer.crash();
    let db = epoch(&dir, "data").join("db");
    let third = frames(&db, b"\xF1MRc")[2];
    assert!(order(format!("read read db {EIO} 3 {third} 8")));
    let buffer = open(&dir);
    assert!(order("hit?".into()));
    let got = drain(&buffer);
    assert!(
        got.values("boiler").iter().eq(&all(30)),
        "a passing failure"
    );
    buffer.crash();

    // While nothing can be opened at all, the buffer does not open; later it has everything.
    for (how, end) in [
        ("open", "manifest"),
        ("open", "state.0"),
        ("open", "state.1"),
        ("open", "mark"),
        ("open", "clean"),
        ("open", "format"),
        ("open", "data"),
        ("open", "db"),
    ] {
        let dir = root.join(format!("closed-{end}"));
        store(&dir, 3);
        if end == "db" {
            fs::remove_file(epoch(&dir, "data").join("manifest")).unwrap();
        }
        assert!(order(format!("read {how} /{end} {EMFILE} -1 0 0")));
        let refused = Buffer::open_exactly(settings(&dir, 1 << 30), clock());
        let hit = order("hit?".into());
        assert_eq!(refused.is_err(), hit, "{end}");
        order("read off".into());
        drop(refused);
        let buffer = open(&dir);
        assert!(buffer.recovery().clean, "{end}: {:?}", buffer.recovery());
        let got = drain(&buffer);
        assert!(got.values("boiler").iter().eq(&all(3)), "{end}");
        assert!(got.holes.values().all(Vec::is_empty), "{end}");
    }
    println!("troubles: done");
}

#[test]
fn what_cannot_be_read_now_is_read_later() {
    let home = tempfile::tempdir().unwrap();
    let root = home.path().join("disk");
    fs::create_dir(&root).unwrap();
    let output = under_shim("program", &root.canonicalize().unwrap(), None)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{errors}");
    assert!(said.contains("troubles: done"), "{said}{errors}");
}

#[test]
fn a_name_that_is_damaged_in_one_log_is_known_from_the_other() {
    let home = tempfile::tempdir().unwrap();
    let buffer = open(home.path());
    register(&buffer, "boiler");
    let (pump, tag) = register(&buffer, "pump");
    drop(buffer.outbox("cloud", Start::Oldest));
    buffer.append(pump, samples(tag, 1, 10));
    buffer.append_event(pump, event(7));
    buffer.commit().unwrap();
    buffer.crash();
    let db = epoch(home.path(), "alarm").join("db");
    flip(&db, frames(&db, b"\xF1MRk")[0] as u64 + 40);
    let got = drain(&open(home.path()));
    assert!(got.values("pump!").iter().eq(&[7]), "{:?}", got.lines);
    assert_eq!(got.values("pump").len(), 10);
}

#[test]
fn what_has_lost_its_name_everywhere_is_sent_under_its_number() {
    let home = tempfile::tempdir().unwrap();
    let buffer = open(home.path());
    register(&buffer, "boiler");
    let (pump, _) = register(&buffer, "pump");
    drop(buffer.outbox("cloud", Start::Oldest));
    buffer.append_event(pump, event(7));
    buffer.commit().unwrap();
    buffer.crash();
    let db = epoch(home.path(), "alarm").join("db");
    flip(&db, frames(&db, b"\xF1MRk")[0] as u64 + 40);
    let buffer = open(home.path());
    let got = drain(&buffer);
    assert!(got.values("source-1!").iter().eq(&[7]), "{:?}", got.lines);
    let notes = buffer.recovery().notes.join("\n");
    assert!(notes.contains("sent as source-1"), "{notes}");
    // The name stays its own: no other source gets it.
    let (source, tag) = register(&buffer, "mixer");
    buffer.append(source, samples(tag, 1, 3));
    buffer.append_event(source, event(8));
    buffer.commit().unwrap();
    let got = drain(&buffer);
    assert!(got.values("mixer!").iter().eq(&[8]), "{:?}", got.lines);
}

/// Makes a frame one of the next version: version byte and checksum as a newer program would write them.
fn newer(db: &Path, at: usize) {
    let mut bytes = fs::read(db).unwrap();
    let length = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let len = 86 + length(at + 70) + length(at + 78);
    let frame = &mut bytes[at..at + len];
    frame[4] = 2;
    frame[82..86].fill(0);
    let checksum = crc32c::crc32c(frame);
    frame[82..86].copy_from_slice(&checksum.to_le_bytes());
    fs::write(db, bytes).unwrap();
}

#[test]
fn an_epoch_of_a_newer_program_is_kept_and_its_numbers_are_not_used_again() {
    for upgraded_at_chunk in [0, 2] {
        let home = tempfile::tempdir().unwrap();
        store(home.path(), 3);
        let before = epoch(home.path(), "data");
        let old = before.join("db");
        for at in frames(&old, b"\xF1MRc").into_iter().skip(upgraded_at_chunk) {
            newer(&old, at);
        }
        fs::remove_file(before.join("manifest")).unwrap();
        let bytes = fs::read(&old).unwrap();

        let mut life = Receiver::default();
        for next in [10_000, 20_000] {
            let buffer = open(home.path());
            assert_eq!(buffer.recovery().newer_epochs, 1, "{:?}", buffer.recovery());
            let notes = buffer.recovery().notes.join("\n");
            assert!(
                notes.contains("a newer millrace wrote 1 epochs of the data log"),
                "{notes}"
            );
            let (source, tag) = register(&buffer, "boiler");
            buffer.append(source, samples(tag, next, 5));
            buffer.commit().unwrap();
            let mut outbox = buffer.outbox("cloud", Start::Oldest);
            drain_empty(&buffer, &mut outbox, &mut life);
            assert_eq!(buffer.verify().unwrap(), buffer.ledger());
            buffer.close().unwrap();
        }
        // Nothing that is known was lost, and the new numbers are of a stream of their own.
        let known = 300 * upgraded_at_chunk as u64;
        let expected: Vec<u64> = (1..=known)
            .chain(10_000..10_005)
            .chain(20_000..20_005)
            .collect();
        assert!(life.values("boiler").iter().eq(&expected));
        let streams: Vec<_> = life
            .lines
            .keys()
            .filter(|(_, name)| name == "boiler")
            .collect();
        assert_eq!(streams.len(), 1 + usize::from(known > 0), "{streams:?}");
        let kept = before.with_extension("newer").join("db");
        assert_eq!(fs::read(kept).unwrap(), bytes);
    }
}
