//! A real process is killed at random times: nothing that it committed is lost, no number is given
//! twice.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

#[path = "support/receiver.rs"]
mod receiver;

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use millrace_buffer::{Buffer, Settings, Start};
use millrace_tags::SystemClock;
use receiver::{Receiver, drain, drain_empty, register, samples};

const DIR: &str = "MILLRACE_KILL_DIR";
const FROM: &str = "MILLRACE_KILL_FROM";

fn settings(dir: &std::path::Path) -> Settings {
    Settings {
        commit_interval: Duration::from_millis(20),
        epoch_bytes: 600 * 1024,
        ..Settings::new(dir)
    }
}

/// The victim: appends and commits until it is killed, and prints what is durable and what is sent.
///
/// It is this test binary once more, told by the environment what it is.
#[test]
fn victim() {
    let Some(dir) = std::env::var_os(DIR) else {
        return;
    };
    let mut next: u64 = std::env::var(FROM).unwrap().parse().unwrap();
    let dir = std::path::PathBuf::from(dir);
    let buffer = Buffer::open_exactly(settings(&dir), Arc::new(SystemClock::new())).unwrap();
    let (source, tag) = register(&buffer, "boiler");
    let mut outbox = buffer.outbox("cloud", Start::Oldest);
    let mut out = std::io::stdout();
    loop {
        let count = fastrand::u64(1..400);
        let ticket = buffer.append(source, samples(tag, next, count));
        next += count;
        let budget = millrace_buffer::Budget {
            records: 200,
            backlog: false,
        };
        while let Some(offer) = outbox.next(budget) {
            if let millrace_buffer::Item::Parcel(parcel) = &offer.item
                && let millrace_tags::Records::Samples(sent) = &parcel.records
            {
                let first = sent[0].value.as_ref().unwrap().as_f64().unwrap() as u64;
                let (seq, stream, len) = (parcel.first_seq, parcel.stream, sent.len());
                writeln!(out, "sent {stream} {seq} {first} {len}").unwrap();
            }
        }
        if fastrand::u8(..4) == 0 {
            buffer.commit().unwrap();
        }
        if buffer.durable(ticket) {
            writeln!(out, "durable {}", next - 1).unwrap();
        }
    }
}

#[test]
fn killed_at_random_times() {
    let dir = tempfile::tempdir().unwrap();
    let rounds = std::env::var("MILLRACE_KILL_ROUNDS").map_or(8, |n| n.parse().unwrap());
    let mut receiver = Receiver::default();
    let mut next = 1;
    for round in 0..rounds {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["victim", "--exact", "--nocapture", "--test-threads=1"])
            .env(DIR, dir.path())
            .env(FROM, next.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let life = Duration::from_millis(fastrand::u64(..300));
        let (alive, lives) = std::sync::mpsc::channel();
        let killer = std::thread::spawn(move || {
            // Its life is counted from its first commit: a loaded machine may be slow to start it.
            let _ = lives.recv();
            std::thread::sleep(life);
            child.kill().unwrap();
            child.wait().unwrap();
        });
        let mut durable = next - 1;
        let mut published = next - 1;
        for line in output.lines() {
            let Ok(line) = line else { break };
            let words: Vec<&str> = line.split(' ').collect();
            match words.as_slice() {
                ["durable", value] => {
                    durable = value.parse().unwrap_or(durable);
                    let _ = alive.send(());
                }
                ["sent", stream, seq, first, len] if len.parse::<u64>().is_ok() => {
                    let stream = millrace_tags::StreamId(stream.parse().unwrap());
                    let (seq, first): (u64, u64) = (seq.parse().unwrap(), first.parse().unwrap());
                    let key = (stream, "boiler".to_string());
                    let line = receiver.lines.entry(key).or_default();
                    for i in 0..len.parse::<u64>().unwrap() {
                        let before = line.insert(seq + i, first + i);
                        assert!(
                            before.is_none_or(|v| v == first + i),
                            "round {round}: twice"
                        );
                        published = published.max(first + i);
                    }
                }
                _ => {}
            }
        }
        drop(alive);
        killer.join().unwrap();
        assert!(durable > next, "round {round}: the victim did nothing");
        let first = next;
        next = durable.max(published) + 100_000; // far above all that was appended

        let clock = Arc::new(SystemClock::new());
        let buffer = Buffer::open_exactly(settings(dir.path()), clock).unwrap();
        assert_eq!(buffer.recovery().damaged, 0, "{:?}", buffer.recovery());
        let mut outbox = buffer.outbox("cloud", Start::Oldest);
        drain_empty(&buffer, &mut outbox, &mut receiver);
        drain(&mut outbox, &mut receiver);
        let ledger = buffer.verify().unwrap();
        assert_eq!(ledger, buffer.ledger());
        let got = receiver.values("boiler");
        assert!(
            (first..=durable).all(|v| got.contains(&v)),
            "round {round}: lost something of {first}..={durable}"
        );
        receiver.check_lines();
        buffer.close().unwrap();
    }
}
