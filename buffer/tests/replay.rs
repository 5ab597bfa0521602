//! Settled records that are asked for again.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

#[path = "support/receiver.rs"]
mod receiver;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use millrace_buffer::{
    Budget, Buffer, Item, Outbox, Replay, ReplayError, Replayed, ReplayedTo, Row, Settings, Start,
};
use millrace_tags::{
    DropReason, Lane, Moment, Sample, SourceId, StreamId, TagId, TestClock, Timestamp, Value,
};
use receiver::{Receiver, clock, drain_empty, fill, register, samples, settings};

fn keeping(dir: &Path) -> Settings {
    Settings {
        keep: Duration::from_secs(24 * 3600),
        ..settings(dir, 1 << 30)
    }
}

struct Plant {
    clock: Arc<TestClock>,
    settings: Settings,
    buffer: Buffer,
    outbox: Outbox,
    receiver: Receiver,
    boiler: (SourceId, TagId),
    pump: (SourceId, TagId),
}

impl Plant {
    /// Two sources whose samples 1..=1000 are delivered, in ten chunks.
    fn delivered(dir: &Path) -> Self {
        let (clock, settings) = (clock(), keeping(dir));
        let buffer = Buffer::open_exactly(settings.clone(), clock.clone()).unwrap();
        let outbox = buffer.outbox("cloud", Start::Oldest);
        let (boiler, pump) = (register(&buffer, "boiler"), register(&buffer, "pump"));
        for chunk in 0..10 {
            for (source, tag) in [boiler, pump] {
                buffer.append(source, samples(tag, 1 + chunk * 100, 100));
            }
            buffer.commit().unwrap();
        }
        let mut plant = Plant {
            clock,
            settings,
            buffer,
            outbox,
            receiver: Receiver::default(),
            boiler,
            pump,
        };
        plant.drain();
        plant
    }

    fn drain(&mut self) {
        drain_empty(&self.buffer, &mut self.outbox, &mut self.receiver);
    }

    fn stream(&self, source: &str) -> StreamId {
        let mut keys = self.receiver.lines.keys();
        keys.find(|(_, name)| name == source).unwrap().0
    }

    fn numbers(&self, source: &str, first_seq: u64, last_seq: u64) -> Replay {
        Replay::Numbers {
            source: source.into(),
            stream: self.stream(source),
            first_seq,
            last_seq,
        }
    }

    fn replay(&self, replay: Replay) -> ReplayedTo {
        let mut replayed = self.buffer.replay(Some("cloud"), replay).unwrap();
        replayed.uplinks.remove("cloud").unwrap()
    }

    /// The row of a source, counted twice.
    fn row(&self, source: &str) -> Row {
        let ledger = self.buffer.ledger();
        assert_eq!(self.buffer.verify().unwrap(), ledger);
        let row = ledger.devices[source].clone();
        assert!(row.balances(), "{row:?}");
        row
    }

    fn crash(&mut self) {
        self.buffer.crash();
        self.buffer = Buffer::open_exactly(self.settings.clone(), self.clock.clone()).unwrap();
        self.outbox = self.buffer.outbox("cloud", Start::Oldest);
    }
}

fn ranges(spans: &[millrace_buffer::Span]) -> Vec<(u64, u64)> {
    spans.iter().map(|s| (s.first_seq, s.last_seq)).collect()
}

#[test]
fn settled_numbers_come_again_under_their_old_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let mut plant = Plant::delivered(dir.path());
    assert_eq!(plant.row("boiler").acked, 1000);
    let to = plant.replay(plant.numbers("boiler", 150, 420));
    assert_eq!((ranges(&to.again), to.records), (vec![(150, 420)], 271));
    assert!(to.missing.is_empty() && to.waiting.is_empty());
    let row = plant.row("boiler");
    assert_eq!((row.acked, row.queued), (729, 271));
    assert_eq!(plant.row("pump").acked, 1000);

    // They travel beside what is live, as backlog.
    let (source, tag) = plant.boiler;
    plant.buffer.append(source, samples(tag, 1001, 5));
    plant.receiver.duplicates = 0;
    let budget = Budget {
        records: 100,
        backlog: true,
    };
    let mut lanes = Vec::new();
    let mut seen = 0;
    while seen < 276 {
        let Some(offer) = plant.outbox.next(budget) else {
            std::thread::yield_now();
            continue;
        };
        plant.receiver.take(&offer);
        let Item::Parcel(parcel) = &offer.item else {
            panic!("{offer:?}");
        };
        seen += parcel.records.len();
        lanes.push(offer.lane);
        plant.outbox.acked(offer.id);
    }
    assert_eq!(lanes[0], Lane::Live);
    assert!(
        lanes[1..].iter().all(|lane| *lane == Lane::Backlog),
        "{lanes:?}"
    );
    assert_eq!(plant.receiver.duplicates, 271);
    plant.receiver.check_lines();
    plant.buffer.commit().unwrap();
    let row = plant.row("boiler");
    assert_eq!((row.acked, row.queued), (1005, 0));
    // What is asked for twice is there twice.
    let to = plant.replay(plant.numbers("boiler", 150, 420));
    assert_eq!(to.records, 271);
}

#[test]
fn a_replay_outlives_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let mut plant = Plant::delivered(dir.path());
    plant.replay(plant.numbers("boiler", 150, 420));
    plant.crash();
    // Whole chunks come again: 101..=500 of both sources.
    let row = plant.row("boiler");
    assert_eq!((row.acked, row.queued), (600, 400));
    plant.receiver = Receiver::default();
    plant.drain();
    let got = plant.receiver.values("boiler");
    assert!((150..=420).all(|value| got.contains(&value)));
    assert_eq!(plant.row("boiler").acked, 1000);
    assert_eq!(plant.row("pump").acked, 1000);
}

#[test]
fn what_waits_and_what_is_gone_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let mut plant = Plant::delivered(dir.path());
    let (source, tag) = plant.boiler;
    plant.buffer.append(source, samples(tag, 1001, 100));
    let to = plant.replay(plant.numbers("boiler", 901, 2000));
    assert_eq!(ranges(&to.again), [(901, 1000)]);
    assert_eq!(ranges(&to.waiting), [(1001, 1100)]);
    assert_eq!(ranges(&to.missing), [(1101, 2000)]);
    // Once more: now they wait already.
    let to = plant.replay(plant.numbers("boiler", 901, 1100));
    assert_eq!((to.records, ranges(&to.waiting)), (0, vec![(901, 1100)]));

    plant.drain();
    let mut next = 1 << 32;
    while plant.buffer.status().data.epochs < 3 {
        fill(&plant.buffer, source, tag, &mut next, 1);
    }
    plant.drain();
    plant.clock.advance(Duration::from_secs(90_000));
    plant.buffer.retain_uplinks(&["cloud"]);
    plant.buffer.commit().unwrap();
    plant.clock.advance(Duration::from_secs(90_000));
    plant.buffer.retain_uplinks(&["cloud"]);
    let to = plant.replay(plant.numbers("boiler", 1, 1100));
    assert_eq!((to.records, ranges(&to.missing)), (0, vec![(1, 1100)]));

    let unknown = Replay::Numbers {
        source: "nobody".into(),
        stream: StreamId(uuid()),
        first_seq: 1,
        last_seq: 5,
    };
    assert_eq!(ranges(&plant.replay(unknown.clone()).missing), [(1, 5)]);
    let nowhere = plant.buffer.replay(Some("elsewhere"), unknown);
    assert!(matches!(nowhere, Err(ReplayError::Uplink(name)) if name == "elsewhere"));
}

fn uuid() -> uuid::Uuid {
    uuid::Uuid::from_u128(5)
}

#[test]
fn what_an_uplink_has_given_up_stays_so() {
    let dir = tempfile::tempdir().unwrap();
    let mut plant = Plant::delivered(dir.path());
    let (boiler, tag) = plant.boiler;
    let (pump, pump_tag) = plant.pump;
    plant.buffer.append(boiler, samples(tag, 1001, 10));
    plant.buffer.append(pump, samples(pump_tag, 1001, 10));
    plant.buffer.commit().unwrap();
    let budget = Budget {
        records: 100,
        backlog: true,
    };
    for _ in 0..2 {
        let offer = plant.outbox.next(budget).unwrap();
        let Item::Parcel(parcel) = &offer.item else {
            panic!("{offer:?}");
        };
        match &*parcel.source {
            "pump" => plant.outbox.give_up(offer.id, DropReason::NotRouted),
            _ => plant.outbox.acked(offer.id),
        }
    }
    for crash in [false, true] {
        if crash {
            plant.buffer.retain_uplinks(&["cloud"]);
            plant.buffer.commit().unwrap();
            plant.crash();
        }
        let to = plant.replay(plant.numbers("pump", 991, 1010));
        assert_eq!(ranges(&to.again), [(991, 1000)]);
        assert_eq!(ranges(&to.missing), [(1001, 1010)]);
        let row = plant.row("pump");
        assert_eq!((row.queued, row.dropped[&DropReason::NotRouted]), (10, 10));
        plant.drain();
        let row = plant.row("pump");
        assert_eq!((row.acked, row.dropped[&DropReason::NotRouted]), (1000, 10));
        assert!(!plant.receiver.values("pump").contains(&1001));
    }
}

#[test]
fn an_uplink_that_began_later_gets_nothing_from_before() {
    let dir = tempfile::tempdir().unwrap();
    let plant = Plant::delivered(dir.path());
    let mut late = plant.buffer.outbox("late", Start::Now);
    let (source, tag) = plant.boiler;
    plant.buffer.append(source, samples(tag, 1001, 5));
    plant.buffer.commit().unwrap();
    let replay = plant.numbers("boiler", 1, 1005);
    let all = |replayed: &Replayed, name: &str| ranges(&replayed.uplinks[name].again);
    let replayed = plant.buffer.replay(None, replay.clone()).unwrap();
    assert_eq!(all(&replayed, "cloud"), [(1, 1000)]);
    assert_eq!(all(&replayed, "late"), []);
    let mut receiver = Receiver::default();
    receiver::drain(&mut late, &mut receiver);
    assert_eq!(receiver.values("boiler"), (1001..=1005).collect());
    let replayed = plant.buffer.replay(Some("late"), replay).unwrap();
    assert_eq!(all(&replayed, "late"), [(1001, 1005)]);
    assert_eq!(replayed.uplinks.len(), 1);
    let ledger = plant.buffer.verify().unwrap();
    assert_eq!(ledger, plant.buffer.ledger());
    assert_eq!(ledger.uplinks["late"].devices["boiler"].queued, 5);
}

#[test]
fn everything_since_a_time_comes_again() {
    let dir = tempfile::tempdir().unwrap();
    let clock = clock();
    let buffer = Buffer::open_exactly(keeping(dir.path()), clock.clone()).unwrap();
    let (source, tag) = register(&buffer, "boiler");
    let mut outbox = buffer.outbox("cloud", Start::Oldest);
    let mut receiver = Receiver::default();
    let second = 1_000_000_000;
    for at in 0..20 {
        let sample = |v| Sample::good(tag, Value::U64(v), Moment(at as i64 * second));
        buffer.append(source, (at * 10..at * 10 + 10).map(sample).collect());
        buffer.commit().unwrap();
        if at == 12 {
            // Some of them lie in a sealed epoch.
            clock.advance(Duration::from_secs(4000));
            buffer.retain_uplinks(&["cloud"]);
        }
    }
    drain_empty(&buffer, &mut outbox, &mut receiver);
    assert!(buffer.status().data.epochs > 1);
    let boot = 1_763_690_000_000_000_000;
    let since = Replay::Since(Timestamp(boot + 11 * second));
    let replayed = buffer.replay(None, since).unwrap();
    let to = &replayed.uplinks["cloud"];
    assert_eq!((to.records, ranges(&to.again)), (90, vec![(111, 200)]));
    assert!(replayed.oldest.is_some());
    let mut receiver = Receiver::default();
    drain_empty(&buffer, &mut outbox, &mut receiver);
    assert_eq!(receiver.values("boiler"), (110..200).collect());
    let nothing = Replay::Since(Timestamp(boot + 20 * second));
    let replayed = buffer.replay(None, nothing).unwrap();
    assert_eq!(replayed.uplinks["cloud"].records, 0);
}
