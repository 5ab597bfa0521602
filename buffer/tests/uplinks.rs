//! Three uplinks on one store: one never connects, one is slow and has some of its messages refused, one is
//! removed and comes back. Crashes come at any step, also between the writing of the state, the renaming and
//! the removal of an epoch that had to go.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

#[path = "support/receiver.rs"]
mod receiver;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use millrace_buffer::{Budget, Buffer, Item, OfferId, Outbox, Purge, Settings, Start};
use millrace_tags::{DropReason, Timestamp};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use receiver::{Receiver, clock, register, samples, take_all};

const SOURCES: [&str; 2] = ["boiler", "pump"];
const NEVER: &str = "never";
const SLOW: &str = "slow";
const COMES_BACK: &str = "comes-back";

#[derive(Debug, Clone)]
enum Step {
    Append {
        source: usize,
        count: u64,
    },
    Commit,
    /// Takes so many offers and acks them all.
    Deliver {
        slow: bool,
        max: u64,
    },
    /// Takes so many and acks none.
    Take(u64),
    AckAll,
    /// The broker refuses a part of one offer of the slow uplink.
    Refuse(u64, u64),
    Retry(prop::sample::Index),
    Discard(prop::sample::Index),
    Reconnect,
    Remove,
    Add,
    Reopen,
    Crash(Torn),
}

/// What a crash finds of epochs that were about to go.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Torn {
    /// They are gone.
    Gone,
    /// The state was written, nothing was renamed.
    State,
    /// They were renamed, and part of their files removed.
    Renamed,
}

fn step() -> impl Strategy<Value = Step> {
    let torn = prop_oneof![Just(Torn::Gone), Just(Torn::State), Just(Torn::Renamed)];
    prop_oneof![
        8 => (0..SOURCES.len(), 1u64..300).prop_map(|(source, count)| Step::Append { source, count }),
        8 => Just(Step::Commit),
        3 => (any::<bool>(), 1u64..6).prop_map(|(slow, max)| Step::Deliver { slow, max }),
        2 => (1u64..4).prop_map(Step::Take),
        1 => Just(Step::AckAll),
        2 => (0u64..300, 1u64..40).prop_map(|(from, count)| Step::Refuse(from, count)),
        1 => any::<prop::sample::Index>().prop_map(Step::Retry),
        1 => any::<prop::sample::Index>().prop_map(Step::Discard),
        1 => Just(Step::Reconnect),
        1 => Just(Step::Remove),
        1 => Just(Step::Add),
        1 => Just(Step::Reopen),
        2 => torn.prop_map(Step::Crash),
    ]
}

/// Every commit seals an epoch, and some twenty of them fit.
fn settings(dir: &Path) -> Settings {
    Settings {
        epoch_bytes: 1,
        ..receiver::settings(dir, 220 * 1024)
    }
}

struct World {
    dir: tempfile::TempDir,
    buffer: Buffer,
    slow: Outbox,
    comes_back: Option<Outbox>,
    in_flight: Vec<OfferId>,
    receivers: BTreeMap<&'static str, Receiver>,
    next: [u64; SOURCES.len()],
}

fn open(dir: &Path) -> Buffer {
    let buffer = Buffer::open_exactly(settings(dir), clock()).unwrap();
    let recovery = buffer.recovery();
    assert_eq!(
        (recovery.damaged, recovery.quarantined_epochs),
        (0, 0),
        "{recovery:?}"
    );
    buffer
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let buffer = open(dir.path());
        buffer.outbox(NEVER, Start::Oldest);
        let slow = buffer.outbox(SLOW, Start::Oldest);
        let comes_back = Some(buffer.outbox(COMES_BACK, Start::Oldest));
        let receivers = [SLOW, COMES_BACK].map(|name| (name, Receiver::default()));
        Self {
            dir,
            buffer,
            slow,
            comes_back,
            in_flight: Vec::new(),
            receivers: receivers.into(),
            next: [1; SOURCES.len()],
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Append { source, count } => self.append(*source, *count),
            Step::Commit => self.buffer.commit().unwrap(),
            Step::Deliver { slow: true, max } => {
                let receiver = self.receivers.get_mut(SLOW).unwrap();
                for id in take_all(&mut self.slow, receiver, *max) {
                    self.slow.acked(id);
                }
            }
            Step::Deliver { slow: false, max } => {
                if let Some(outbox) = &mut self.comes_back {
                    let receiver = self.receivers.get_mut(COMES_BACK).unwrap();
                    for id in take_all(outbox, receiver, *max) {
                        outbox.acked(id);
                    }
                }
            }
            Step::Take(max) => {
                let receiver = self.receivers.get_mut(SLOW).unwrap();
                let taken = take_all(&mut self.slow, receiver, *max);
                self.in_flight.extend(taken);
            }
            Step::AckAll => {
                for id in self.in_flight.drain(..) {
                    self.slow.acked(id);
                }
            }
            Step::Refuse(from, count) => self.refuse(*from, *count),
            Step::Retry(at) | Step::Discard(at) => {
                let rows = self.buffer.set_aside();
                if rows.is_empty() {
                    return;
                }
                let id = rows[at.index(rows.len())].id;
                let found = match step {
                    Step::Retry(_) => self.buffer.retry(id),
                    _ => self.buffer.discard(id),
                };
                assert!(found && !self.buffer.retry(id));
            }
            Step::Reconnect => {
                self.slow.reconnected();
                self.in_flight.clear();
            }
            Step::Remove => {
                self.comes_back = None;
                self.buffer.retain_uplinks(&[NEVER, SLOW]);
            }
            Step::Add => {
                if self.comes_back.is_none() {
                    self.receivers.insert(COMES_BACK, Receiver::default());
                    self.comes_back = Some(self.buffer.outbox(COMES_BACK, Start::Now));
                }
            }
            Step::Reopen => {
                self.buffer.close().unwrap();
                let before = self.buffer.set_aside();
                self.open_again();
                assert_eq!(self.buffer.set_aside(), before);
            }
            Step::Crash(torn) => self.crash(*torn),
        }
        self.check();
    }

    fn append(&mut self, source: usize, count: u64) {
        let (id, tag) = register(&self.buffer, SOURCES[source]);
        let from = self.next[source];
        self.buffer.append(id, samples(tag, from, count));
        self.next[source] += count;
    }

    /// The broker refuses some numbers of the next parcel; it never has them.
    fn refuse(&mut self, from: u64, count: u64) {
        let mut unseen = Receiver::default();
        let mut refused = Vec::new();
        let budget = millrace_buffer::Budget {
            records: 100,
            backlog: true,
        };
        if let Some(offer) = self.slow.next(budget) {
            unseen.take(&offer);
            refused.push(offer);
        }
        for offer in refused {
            match &offer.item {
                Item::Parcel(parcel) => {
                    let first = parcel.first_seq + from % parcel.records.len() as u64;
                    let last = first + count - 1;
                    self.slow.refused(offer.id, first, last, "not liked", 3);
                }
                // Gaps are never refused here: the receiver has to hear them.
                Item::Gap(_) => self.slow.failed(offer.id),
            }
        }
    }

    fn crash(&mut self, torn: Torn) {
        // What is on the disk before the state is saved once more and epochs may go.
        let copy = tempfile::tempdir().unwrap();
        let log = self.dir.path().join("data");
        for epoch in epochs(&log) {
            copy_while_there(&log.join(&epoch), &copy.path().join(&epoch));
        }
        // Another commit makes room, where there is none.
        self.append(0, 20);
        self.buffer.commit().unwrap();
        self.buffer.crash();
        for epoch in epochs(copy.path()) {
            let (kept, gone) = (copy.path().join(&epoch), log.join(&epoch));
            if gone.exists() || torn == Torn::Gone {
                continue;
            }
            let back = match torn {
                Torn::Renamed => gone.with_extension("del"),
                _ => gone,
            };
            copy_dir(&kept, &back).unwrap();
            if torn == Torn::Renamed {
                std::fs::remove_file(back.join("manifest")).unwrap();
            }
        }
        self.open_again();
        for left in std::fs::read_dir(&log).unwrap() {
            let left = left.unwrap().path();
            assert_ne!(left.extension(), Some("del".as_ref()), "{left:?}");
        }
    }

    fn open_again(&mut self) {
        self.in_flight.clear();
        let dir = self.dir.path().to_owned();
        let back = self.comes_back.take().is_some();
        self.buffer = open(&dir);
        self.slow = self.buffer.outbox(SLOW, Start::Oldest);
        if back {
            self.comes_back = Some(self.buffer.outbox(COMES_BACK, Start::Now));
        } else {
            // A crash may come before the removal was saved; the agent says it again at each start.
            self.buffer.retain_uplinks(&[NEVER, SLOW]);
        }
    }

    fn check(&self) {
        // The recount waits until what was asked for before is saved, and room was made; the state is saved
        // now and then without being asked for, which makes room, too.
        let mut running = self.buffer.ledger();
        let recounted = loop {
            let recounted = self.buffer.verify().unwrap();
            let before = std::mem::replace(&mut running, self.buffer.ledger());
            if recounted == running || before == running {
                break recounted;
            }
        };
        for (name, uplink) in &running.uplinks {
            for (source, row) in &uplink.devices {
                assert!(row.balances(), "{name} {source}: {row:?}");
            }
        }
        assert_eq!(recounted, running);
        let never = &running.uplinks[NEVER].devices;
        assert!(never.values().all(|row| row.acked == 0), "{never:?}");
        let aside: u64 = self.buffer.set_aside().iter().map(|row| row.records).sum();
        let slow = &running.uplinks[SLOW].devices;
        let queued: u64 = slow.values().map(|row| row.queued).sum();
        assert!(aside <= queued, "{aside} of {queued} are set aside");
    }

    /// Everything that is left goes out, then what was set aside; each number came or was announced.
    fn finish(mut self) {
        self.append(0, 1);
        self.append(1, 1);
        self.buffer.commit().unwrap();
        self.slow.reconnected();
        self.drain(SLOW);
        let rows = self.buffer.set_aside();
        for (nth, row) in rows.iter().enumerate() {
            let found = match nth % 2 {
                0 => self.buffer.retry(row.id),
                _ => self.buffer.discard(row.id),
            };
            assert!(found);
        }
        self.drain(SLOW);
        self.receivers[SLOW].check_lines();
        if self.comes_back.is_some() {
            self.drain(COMES_BACK);
            self.receivers[COMES_BACK].check_from_the_first();
        }
        self.check();
        let ledger = self.buffer.ledger();
        let slow = &ledger.uplinks[SLOW].devices;
        assert!(slow.values().all(|row| row.queued == 0), "{slow:?}");
    }

    /// Until nothing is queued but what is set aside.
    fn drain(&mut self, name: &'static str) {
        let until = std::time::Instant::now() + std::time::Duration::from_secs(5);
        loop {
            let outbox = match name {
                SLOW => &mut self.slow,
                _ => self.comes_back.as_mut().unwrap(),
            };
            receiver::drain(outbox, self.receivers.get_mut(name).unwrap());
            let aside = self.buffer.set_aside();
            let aside = aside.iter().filter(|row| &*row.uplink == name);
            let aside: u64 = aside.map(|row| row.records).sum();
            let ledger = self.buffer.ledger();
            let rows = ledger.uplinks[name].devices.values();
            if rows.map(|row| row.queued).sum::<u64>() == aside {
                return;
            }
            assert!(std::time::Instant::now() < until, "{name}: {ledger:?}");
        }
    }
}

fn epochs(log: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(log).unwrap();
    let names = entries.map(|entry| PathBuf::from(entry.unwrap().file_name()));
    names
        .filter(|n| n.extension() == Some("ep".as_ref()))
        .collect()
}

/// Copies an epoch, unless it goes while that is done: it is renamed before its files are removed.
fn copy_while_there(epoch: &Path, to: &Path) {
    let copied = copy_dir(epoch, to);
    if epoch.exists() {
        copied.unwrap();
    } else if to.exists() {
        std::fs::remove_dir_all(to).unwrap();
    }
}

fn copy_dir(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => copy_dir(&entry.path(), &to)?,
            false => drop(std::fs::copy(entry.path(), to)?),
        }
    }
    Ok(())
}

/// `MILLRACE_MODEL_CASES` asks for more than a quick run, `MILLRACE_SEED` for other ones.
fn config() -> ProptestConfig {
    let cases = std::env::var("MILLRACE_MODEL_CASES").map_or(16, |n| n.parse().unwrap());
    let seed: u64 = std::env::var("MILLRACE_SEED").map_or(1, |n| n.parse().unwrap());
    println!("uplinks: seed {seed}, {cases} cases");
    ProptestConfig {
        cases,
        rng_seed: RngSeed::Fixed(seed),
        max_shrink_iters: 25,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn each_uplink_gets_every_number_or_hears_of_it(steps in prop::collection::vec(step(), 1..60)) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
        }
        world.finish();
    }
}

#[test]
fn what_was_sent_again_from_memory_is_not_sent_from_the_disk_too() {
    let dir = tempfile::tempdir().unwrap();
    let buffer = Buffer::open_exactly(receiver::settings(dir.path(), 1 << 30), clock()).unwrap();
    let mut receiver = Receiver::default();
    let mut one = |outbox: &mut Outbox| take_all(outbox, &mut receiver, 1).pop().unwrap();
    let (source, tag) = register(&buffer, "pump");
    let mut outbox = buffer.outbox(SLOW, Start::Oldest);
    buffer.append(source, samples(tag, 1, 5));
    buffer.commit().unwrap();
    let offer = one(&mut outbox);
    outbox.refused(offer, 1, 5, "no", 5);
    outbox.reconnected();
    assert!(buffer.retry(buffer.set_aside()[0].id));
    let offer = one(&mut outbox);
    outbox.acked(offer);

    // The next commit lets it go from memory, and its chunk is looked at on the disk.
    for first in [6, 11] {
        buffer.append(source, samples(tag, first, 5));
        let offer = one(&mut outbox);
        outbox.acked(offer);
        buffer.commit().unwrap();
    }
    // A recount comes after what the buffer's thread was asked to read ahead.
    for _ in 0..50 {
        let budget = Budget {
            records: 100,
            backlog: true,
        };
        assert_eq!(outbox.next(budget), None);
        buffer.verify().unwrap();
    }
    assert_eq!(buffer.ledger().devices["pump"].acked, 15);
}

#[test]
fn what_failed_late_does_not_hide_what_failed_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let buffer = Buffer::open_exactly(receiver::settings(dir.path(), 1 << 30), clock()).unwrap();
    let mut receiver = Receiver::default();
    let mut take = |outbox: &mut Outbox, count: u64| {
        let until = Instant::now() + receiver::LONG;
        let mut offers = Vec::new();
        while (offers.len() as u64) < count {
            assert!(Instant::now() < until, "{} of {count} came", offers.len());
            offers.extend(take_all(outbox, &mut receiver, count - offers.len() as u64));
        }
        offers
    };
    let mut outbox = buffer.outbox(SLOW, Start::Oldest);
    let sources = SOURCES.map(|name| register(&buffer, name));
    for first in [1, 6] {
        for (source, tag) in sources {
            buffer.append(source, samples(tag, first, 5));
        }
        buffer.commit().unwrap();
    }
    // Each of the two chunks holds five samples of either source.
    outbox.reconnected();
    let offers = take(&mut outbox, 4);
    outbox.failed(offers[0]);
    outbox.failed(offers[1]);
    // The lower chunk is read once more; half of it waits when the offers of the upper one fail.
    let again = take(&mut outbox, 1);
    outbox.failed(offers[2]);
    outbox.failed(offers[3]);

    let rest = take(&mut outbox, 3);
    for offer in again.into_iter().chain(rest) {
        outbox.acked(offer);
    }
    let ledger = buffer.ledger();
    assert_eq!(SOURCES.map(|name| ledger.devices[name].acked), [10, 10]);
}

#[test]
fn an_uplink_does_not_get_what_is_older_than_itself_when_something_is_sent_again() {
    let dir = tempfile::tempdir().unwrap();
    let buffer = Buffer::open_exactly(receiver::settings(dir.path(), 1 << 30), clock()).unwrap();
    // It has read nothing: all that follows stays in memory.
    let _never = buffer.outbox(NEVER, Start::Oldest);
    let (source, tag) = register(&buffer, "pump");
    buffer.append(source, samples(tag, 1, 5));
    buffer.commit().unwrap();
    let mut late = buffer.outbox(SLOW, Start::Now);
    buffer.append(source, samples(tag, 6, 5));
    let budget = Budget {
        records: 100,
        backlog: true,
    };
    let offer = late.next(budget).unwrap();
    late.refused(offer.id, 7, 7, "not liked", 3);
    let row = &buffer.set_aside()[0];
    assert!(buffer.retry(row.id));
    let mut receiver = Receiver::default();
    for id in take_all(&mut late, &mut receiver, 5) {
        late.acked(id);
    }
    assert_eq!(receiver.values("pump"), (6..=10).collect());
    assert_eq!(buffer.verify().unwrap(), buffer.ledger());
    let row = &buffer.ledger().uplinks[SLOW].devices["pump"];
    assert_eq!(
        (row.acked, row.queued, row.dropped[&DropReason::BeforeStart]),
        (5, 0, 5)
    );
}

#[test]
fn what_is_left_of_an_offer_of_which_a_part_was_removed_comes_again() {
    let dir = tempfile::tempdir().unwrap();
    let buffer = Buffer::open_exactly(settings(dir.path()), clock()).unwrap();
    let mut outbox = buffer.outbox(SLOW, Start::Oldest);
    let (source, tag) = register(&buffer, "pump");
    for first in [1, 6] {
        buffer.append(source, samples(tag, first, 5));
        buffer.commit().unwrap();
    }
    // One parcel of two chunks.
    let mut receiver = Receiver::default();
    let offers = take_all(&mut outbox, &mut receiver, 1);
    assert_eq!(receiver.values("pump"), (1..=10).collect());
    let before = Some(Timestamp(1_763_690_000_000_000_006));
    let purged = buffer.purge(Purge { before, log: None }).unwrap();
    assert_eq!((purged.epochs, purged.unsent[SLOW]), (1, 5));
    outbox.acked(offers[0]);
    let mut receiver = Receiver::default();
    receiver::drain_empty(&buffer, &mut outbox, &mut receiver);
    assert_eq!(receiver.values("pump"), (6..=10).collect());
    let row = &buffer.verify().unwrap().devices["pump"];
    assert_eq!((row.acked, row.dropped[&DropReason::Purged]), (5, 5));
}
