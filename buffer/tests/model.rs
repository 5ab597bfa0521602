//! Random sequences of what can happen, against what must hold whatever happens.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

#[path = "support/receiver.rs"]
mod receiver;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use millrace_buffer::{Buffer, OfferId, Outbox, Replay, Settings, Start};
use proptest::prelude::*;
use receiver::{Receiver, clock, drain_empty, register, samples, settings, take_all};

#[derive(Debug, Clone)]
enum Step {
    Append {
        source: usize,
        count: u64,
    },
    Commit,
    Take(u64),
    Ack(prop::sample::Index),
    AckAll,
    Fail(prop::sample::Index),
    Reconnect,
    Replay {
        source: usize,
        first: u64,
        count: u64,
    },
    Crash,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..SOURCES.len(), 1u64..700).prop_map(|(source, count)| Step::Append { source, count }),
        4 => Just(Step::Commit),
        3 => (1u64..6).prop_map(Step::Take),
        3 => any::<prop::sample::Index>().prop_map(Step::Ack),
        1 => Just(Step::AckAll),
        2 => any::<prop::sample::Index>().prop_map(Step::Fail),
        1 => Just(Step::Reconnect),
        2 => (0..SOURCES.len(), 1u64..2000, 1u64..1000)
            .prop_map(|(source, first, count)| Step::Replay { source, first, count }),
        1 => Just(Step::Crash),
        1 => Just(Step::Reopen),
    ]
}

const SOURCES: [&str; 3] = ["boiler", "pump", "press"];

/// What was settled stays for a replay.
fn keeping(dir: &Path) -> Settings {
    Settings {
        keep: Duration::from_secs(24 * 3600),
        ..settings(dir, 1 << 30)
    }
}

struct World<'a> {
    dir: &'a Path,
    buffer: Buffer,
    outbox: Outbox,
    receiver: Receiver,
    in_flight: Vec<OfferId>,
    /// The next value of each source.
    next: [u64; SOURCES.len()],
    committed: BTreeMap<usize, BTreeSet<u64>>,
    open: Vec<(usize, u64)>,
}

impl<'a> World<'a> {
    fn new(dir: &'a Path) -> Self {
        let buffer = Buffer::open_exactly(keeping(dir), clock()).unwrap();
        let outbox = buffer.outbox("cloud", Start::Oldest);
        Self {
            dir,
            buffer,
            outbox,
            receiver: Receiver::default(),
            in_flight: Vec::new(),
            next: [1; SOURCES.len()],
            committed: BTreeMap::new(),
            open: Vec::new(),
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Append { source, count } => {
                let (id, tag) = register(&self.buffer, SOURCES[*source]);
                let from = self.next[*source];
                self.buffer.append(id, samples(tag, from, *count));
                self.next[*source] += count;
                self.open.extend((from..from + count).map(|v| (*source, v)));
            }
            Step::Commit => self.commit(),
            Step::Take(max) => {
                let taken = take_all(&mut self.outbox, &mut self.receiver, *max);
                self.in_flight.extend(taken);
            }
            Step::Ack(at) if !self.in_flight.is_empty() => {
                let at = at.index(self.in_flight.len());
                self.outbox.acked(self.in_flight.swap_remove(at));
            }
            Step::AckAll => {
                for id in self.in_flight.drain(..) {
                    self.outbox.acked(id);
                }
            }
            Step::Fail(at) if !self.in_flight.is_empty() => {
                let at = at.index(self.in_flight.len());
                self.outbox.failed(self.in_flight.swap_remove(at));
            }
            Step::Ack(_) | Step::Fail(_) => {}
            Step::Reconnect => {
                self.outbox.reconnected();
                self.in_flight.clear();
            }
            Step::Replay {
                source,
                first,
                count,
            } => self.replay(SOURCES[*source], *first, *count),
            Step::Crash => {
                self.buffer.crash();
                self.open.clear();
                self.open_again();
                assert!(!self.buffer.recovery().clean);
            }
            Step::Reopen => {
                self.buffer.close().unwrap();
                self.note_committed();
                let before = self.buffer.ledger();
                self.open_again();
                assert!(self.buffer.recovery().clean);
                // What was acked of a chunk that is not settled is sent again.
                for (name, row) in &self.buffer.ledger().devices {
                    let before = &before.devices[name];
                    assert_eq!(row.acquired, before.acquired);
                    assert!(row.acked <= before.acked);
                }
            }
        }
        self.check_ledger();
    }

    /// Asks for the numbers in every stream; what is sent again must be as many as have been acked.
    fn replay(&mut self, source: &str, first_seq: u64, count: u64) {
        let keys = self.receiver.lines.keys();
        let streams: Vec<_> = keys.filter(|k| k.1 == source).map(|k| k.0).collect();
        for stream in streams {
            let before = self.buffer.ledger();
            let replay = Replay::Numbers {
                source: source.into(),
                stream,
                first_seq,
                last_seq: first_seq + count - 1,
            };
            let replayed = self.buffer.replay(None, replay).unwrap();
            self.note_committed();
            let again = replayed.uplinks["cloud"].records;
            let after = self.buffer.ledger();
            let (before, after) = (&before.devices[source], &after.devices[source]);
            assert_eq!(before.acked - again, after.acked);
            assert_eq!(before.queued + again, after.queued);
        }
    }

    fn commit(&mut self) {
        self.buffer.commit().unwrap();
        self.note_committed();
    }

    fn note_committed(&mut self) {
        for (source, value) in self.open.drain(..) {
            self.committed.entry(source).or_default().insert(value);
        }
    }

    fn open_again(&mut self) {
        self.in_flight.clear();
        self.buffer = Buffer::open_exactly(keeping(self.dir), clock()).unwrap();
        assert_eq!(self.buffer.recovery().damaged, 0);
        assert_eq!(self.buffer.recovery().quarantined_epochs, 0);
        self.outbox = self.buffer.outbox("cloud", Start::Oldest);
    }

    fn check_ledger(&self) {
        let running = self.buffer.ledger();
        for (name, row) in &running.devices {
            assert!(row.balances(), "{name}: {row:?}");
        }
        assert_eq!(self.buffer.verify().unwrap(), running);
    }

    fn finish(mut self) {
        self.commit();
        self.outbox.reconnected();
        drain_empty(&self.buffer, &mut self.outbox, &mut self.receiver);
        self.check_ledger();
        self.receiver.check_lines();
        for (source, name) in SOURCES.iter().enumerate() {
            let received = self.receiver.values(name);
            let committed = self.committed.remove(&source).unwrap_or_default();
            let lost: Vec<_> = committed.difference(&received).collect();
            assert!(lost.is_empty(), "{name} lost {lost:?}");
        }
    }
}

/// `MILLRACE_MODEL_CASES` asks for more than a quick run.
fn config() -> ProptestConfig {
    let cases = std::env::var("MILLRACE_MODEL_CASES").map_or(24, |n| n.parse().unwrap());
    ProptestConfig {
        cases,
        max_shrink_iters: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn nothing_is_lost_or_numbered_twice(steps in prop::collection::vec(step(), 1..40)) {
        let dir = tempfile::tempdir().unwrap();
        let mut world = World::new(dir.path());
        for step in &steps {
            world.step(step);
        }
        world.finish();
    }
}
