//! What stands at the other end of an uplink: it believes numbers, and checks them.

#![allow(dead_code, clippy::unwrap_used)] // each test uses what it needs; helpers of tests are tests

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use millrace_buffer::{Budget, Buffer, Item, Offer, OfferId, Outbox, Settings, TagSpec};
use millrace_tags::{
    Event, EventDetail, EventState, LogKind, Moment, Records, Sample, SourceId, SourceKind,
    StreamId, TagId, TestClock, Timestamp, Value, ValueType,
};

pub(crate) const MIB: u64 = 1024 * 1024;

/// Nothing that a test waits for takes this long.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// Settings that rotate often and commit only when told.
pub(crate) fn settings(dir: &Path, max_bytes: u64) -> Settings {
    Settings {
        commit_interval: Duration::from_secs(3600),
        max_bytes,
        keep: Duration::ZERO,
        epoch_bytes: 600 * 1024,
        ..Settings::new(dir)
    }
}

pub(crate) fn clock() -> Arc<TestClock> {
    let offset = Timestamp(1_763_690_000_000_000_000);
    Arc::new(TestClock::new(1, Some(offset)))
}

pub(crate) fn register(buffer: &Buffer, source: &str) -> (SourceId, TagId) {
    let tag = TagSpec {
        name: "count".into(),
        value_type: ValueType::U64,
        unit: None,
    };
    let registration = buffer.register(source, SourceKind::Device, &[tag]);
    (registration.source, registration.tags[0])
}

/// Samples whose values are `from..from + count`.
pub(crate) fn samples(tag: TagId, from: u64, count: u64) -> Vec<Sample> {
    (from..from + count)
        .map(|v| Sample::good(tag, Value::U64(v), Moment(v as i64)))
        .collect()
}

/// Commits chunks that do not compress, so that epochs fill up. The values go on from `next`.
pub(crate) fn fill(buffer: &Buffer, source: SourceId, tag: TagId, next: &mut u64, commits: u64) {
    let mut random = fastrand::Rng::with_seed(*next);
    for _ in 0..commits {
        let batch: Vec<Sample> = (0..2000)
            .map(|_| {
                *next += 1 + random.u64(..1 << 40);
                Sample::good(tag, Value::U64(*next), Moment(random.i64(..)))
            })
            .collect();
        let mut times: Vec<Moment> = batch.iter().map(|s| s.gateway_time).collect();
        times.sort();
        let timed = batch.into_iter().zip(times);
        let batch = timed.map(|(s, gateway_time)| Sample { gateway_time, ..s });
        buffer.append(source, batch.collect());
        buffer.commit().unwrap();
    }
}

/// An event that is known by its number.
pub(crate) fn event(number: u64) -> Event {
    let at = Moment(number as i64);
    Event {
        state: EventState::Begin,
        at,
        start: at,
        end: None,
        detail: EventDetail::alarm(number.to_string()),
    }
}

fn number_of(event: &Event) -> Option<u64> {
    match &event.detail {
        EventDetail::Alarm { message, .. } => message.parse().ok(),
        _ => None,
    }
}

/// The lines of a source in the two logs are two lines.
pub(crate) fn line_name(source: &str, log: LogKind) -> String {
    match log {
        LogKind::Data => source.to_owned(),
        LogKind::Alarm => format!("{source}!"),
    }
}

/// What was delivered.
#[derive(Default)]
pub(crate) struct Receiver {
    /// Values by number, for each line.
    pub(crate) lines: BTreeMap<(StreamId, String), BTreeMap<u64, u64>>,
    /// Numbers that were announced as holes.
    pub(crate) holes: BTreeMap<(StreamId, String), Vec<(u64, u64)>>,
    pub(crate) duplicates: u64,
}

impl Receiver {
    /// Takes over what another one got of the same buffer. Panics where a number has two values.
    pub(crate) fn add(&mut self, other: Receiver) {
        for (key, line) in other.lines {
            let known = self.lines.entry(key.clone()).or_default();
            for (number, value) in line {
                let before = known.insert(number, value);
                let same = before.is_none_or(|v| v == value);
                assert!(same, "number {number} of {key:?} was used twice");
            }
        }
        for (key, holes) in other.holes {
            self.holes.entry(key).or_default().extend(holes);
        }
    }

    /// Whether every number that is counted as dropped was announced.
    pub(crate) fn is_told(&self, buffer: &Buffer) -> bool {
        let ledger = buffer.ledger();
        let lines = [
            (LogKind::Data, &ledger.devices),
            (LogKind::Alarm, &ledger.events),
        ];
        lines.into_iter().all(|(log, rows)| {
            rows.iter().all(|(name, row)| {
                self.counts(&line_name(name, log)).1 >= row.dropped.values().sum()
            })
        })
    }

    /// Takes an offer in. Panics where a number has two values.
    pub(crate) fn take(&mut self, offer: &Offer) {
        match &offer.item {
            Item::Parcel(parcel) => {
                let values: Vec<u64> = match &parcel.records {
                    Records::Samples(samples) => samples
                        .iter()
                        .map(|sample| {
                            assert!(parcel.tags.get(sample.tag).is_some());
                            match sample.value {
                                Some(Value::U64(value)) => value,
                                _ => panic!("a foreign value: {sample:?}"),
                            }
                        })
                        .collect(),
                    Records::Events(events) => events.iter().filter_map(number_of).collect(),
                };
                assert_eq!(values.len(), parcel.records.len());
                let key = (parcel.stream, line_name(&parcel.source, parcel.log));
                let line = self.lines.entry(key).or_default();
                for (number, value) in (parcel.first_seq..).zip(values) {
                    if let Some(before) = line.insert(number, value) {
                        assert_eq!(before, value, "number {number} was used twice");
                        self.duplicates += 1;
                    }
                }
            }
            Item::Gap(gap) => {
                for hole in &gap.holes {
                    let key = (gap.stream, line_name(&hole.source, gap.log));
                    let last = hole.last_seq.unwrap_or(u64::MAX);
                    self.holes
                        .entry(key)
                        .or_default()
                        .push((hole.first_seq, last));
                }
            }
        }
    }

    /// All values of a source.
    pub(crate) fn values(&self, source: &str) -> BTreeSet<u64> {
        let lines = self.lines.iter().filter(|(key, _)| key.1 == source);
        lines.flat_map(|(_, line)| line.values().copied()).collect()
    }

    /// How many numbers of a source came for good, and how many were announced as never coming.
    pub(crate) fn counts(&self, source: &str) -> (u64, u64) {
        let (mut kept, mut void) = (0, 0);
        for (key, line) in self.lines.iter().filter(|(key, _)| key.1 == source) {
            let holes = self.holes.get(key).map_or(&[][..], Vec::as_slice);
            let open = |n: &u64| !holes.iter().any(|(a, b)| a <= n && n <= b);
            kept += line.keys().filter(|n| open(n)).count() as u64;
        }
        for (_, holes) in self.holes.iter().filter(|(key, _)| key.1 == source) {
            let numbers: BTreeSet<u64> = holes
                .iter()
                .filter(|(_, last)| *last != u64::MAX)
                .flat_map(|(first, last)| *first..=*last)
                .collect();
            void += numbers.len() as u64;
        }
        (kept, void)
    }

    /// Panics unless numbers and values ascend together, and every missing number was announced.
    pub(crate) fn check_lines(&self) {
        self.check_lines_from(|_| 1);
    }

    /// The same for who began late: from the first number that came.
    pub(crate) fn check_from_the_first(&self) {
        self.check_lines_from(|line| line.keys().next().copied().unwrap_or(1));
    }

    fn check_lines_from(&self, first: impl Fn(&BTreeMap<u64, u64>) -> u64) {
        for (key, line) in &self.lines {
            assert!(line.values().is_sorted(), "{key:?} is reordered");
            let empty = Vec::new();
            let holes = self.holes.get(key).unwrap_or(&empty);
            let last = line.keys().last().copied().unwrap_or(0);
            for number in first(line)..=last {
                let announced = || holes.iter().any(|&(a, b)| a <= number && number <= b);
                assert!(
                    line.contains_key(&number) || announced(),
                    "{key:?}: {number} is missing and was not announced ({holes:?})"
                );
            }
        }
    }
}

/// Takes everything there is, acking as it goes.
pub(crate) fn drain(outbox: &mut Outbox, receiver: &mut Receiver) {
    for id in take_all(outbox, receiver, u64::MAX) {
        outbox.acked(id);
    }
}

/// Takes up to `max` offers and acks none. Waits for chunks that are read ahead.
pub(crate) fn take_all(outbox: &mut Outbox, receiver: &mut Receiver, max: u64) -> Vec<OfferId> {
    let budget = Budget {
        records: 500,
        backlog: true,
    };
    let mut taken = Vec::new();
    let mut idle_since = Instant::now();
    while (taken.len() as u64) < max && idle_since.elapsed() < Duration::from_millis(60) {
        match outbox.next(budget) {
            Some(offer) => {
                receiver.take(&offer);
                taken.push(offer.id);
                idle_since = Instant::now();
            }
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    }
    taken
}

/// Drains until nothing is queued. A slow machine may take its time, as long as it gets on.
pub(crate) fn drain_empty(buffer: &Buffer, outbox: &mut Outbox, receiver: &mut Receiver) {
    let (mut least, mut until) = (u64::MAX, Instant::now() + LONG);
    loop {
        drain(outbox, receiver);
        let ledger = buffer.ledger();
        let queued = ledger.devices.values().map(|row| row.queued).sum();
        if queued == 0 {
            return;
        }
        if queued < least {
            (least, until) = (queued, Instant::now() + LONG);
        }
        assert!(
            Instant::now() < until,
            "the buffer does not drain: {ledger:?}"
        );
    }
}
