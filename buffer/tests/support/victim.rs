//! A program that works on a buffer until something happens to it, and says what it has done: one line
//! for each thing, written before or after it in the way that makes the line a promise.

#![allow(dead_code, clippy::unwrap_used)] // each test uses what it needs; helpers of tests are tests

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::time::Instant;

use fastrand::Rng;
use millrace_buffer::{Budget, Buffer, Item, OfferId, Outbox, Ticket};
use millrace_tags::{DropReason, LogKind, Moment, Sample, StreamId, Value};

use crate::receiver::{LONG, Receiver, drain, drain_empty, event, line_name, register};

pub(crate) const UPLINK: &str = "cloud";
const SOURCES: [&str; 2] = ["boiler", "pump"];

/// Works and says so to `out`, a line a write.
pub(crate) struct Victim<W> {
    out: W,
    pub(crate) random: Rng,
    /// The first value of all, and the next one of each line. Values go up, whatever was lost.
    from: u64,
    next: BTreeMap<String, u64>,
    /// What was appended and is not known to be durable: ticket, line, first and last value.
    open: Vec<(Ticket, String, u64, u64)>,
    /// What was sent and not acked: the line, first value, count; none for a gap.
    in_flight: Vec<(OfferId, Option<Sent>)>,
    /// Every value that was sent, by line.
    sent: BTreeSet<(String, u64)>,
}

/// Line, first value, count.
type Sent = (String, u64, u64);

impl<W: Write> Victim<W> {
    pub(crate) fn new(out: W, seed: u64, from: u64) -> Self {
        Self {
            out,
            random: Rng::with_seed(seed),
            from,
            next: BTreeMap::new(),
            open: Vec::new(),
            in_flight: Vec::new(),
            sent: BTreeSet::new(),
        }
    }

    fn say(&mut self, line: &str) {
        self.out.write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    /// What was said so far.
    pub(crate) fn said(&mut self) -> &mut W {
        &mut self.out
    }

    /// While the disk refuses, what is appended reaches the uplink all the same.
    pub(crate) fn deliver_from_memory(&mut self, buffer: &Buffer, outbox: &mut Outbox) {
        self.append(buffer);
        let _ = buffer.commit();
        self.note_durable(buffer);
        let open = self.open.iter().flat_map(|(_, line, first, last)| {
            let values = *first..=*last;
            values.map(move |v| (line.clone(), v))
        });
        let mut awaited: BTreeSet<(String, u64)> = open.collect();
        for _ in 0..1_000 {
            awaited.retain(|value| !self.sent.contains(value));
            if awaited.is_empty() {
                break;
            }
            self.take(outbox);
        }
        assert!(
            awaited.is_empty(),
            "not delivered from memory: {} of {:?}",
            awaited.len(),
            awaited.first()
        );
    }

    /// Another life of the buffer begins: what was open or in flight before means nothing any more.
    pub(crate) fn reborn(&mut self) {
        self.open.clear();
        self.in_flight.clear();
    }

    /// One random step.
    pub(crate) fn step(&mut self, buffer: &Buffer, outbox: &mut Outbox) {
        match self.random.u8(..16) {
            0..6 => self.append(buffer),
            6 => self.append_event(buffer),
            7..10 => self.take(outbox),
            10..12 => self.ack(outbox),
            12..15 => self.commit(buffer),
            // Saves the state.
            _ => buffer.retain_uplinks(&[UPLINK]),
        }
        self.note_durable(buffer);
    }

    /// One random step while nobody takes anything: many small chunks.
    pub(crate) fn outage_step(&mut self, buffer: &Buffer) {
        match self.random.u8(..16) {
            0..7 => self.append(buffer),
            7 => self.append_event(buffer),
            8 => buffer.retain_uplinks(&[UPLINK]),
            _ => self.commit(buffer),
        }
        self.note_durable(buffer);
    }

    /// The next values of a line.
    fn values(&mut self, line: &str, count: u64) -> (u64, u64) {
        let next = self.next.entry(line.to_owned()).or_insert(self.from);
        let from = *next;
        *next += count;
        self.say(&format!("append {line} {from} {}", from + count - 1));
        (from, from + count - 1)
    }

    pub(crate) fn append(&mut self, buffer: &Buffer) {
        for source in SOURCES {
            let (id, tag) = register(buffer, source);
            let count = match (source, self.random.u8(..40)) {
                ("boiler", 0) => self.random.u64(5_000..20_000),
                ("boiler", _) => self.random.u64(1..400),
                _ => self.random.u64(1..10),
            };
            let line = line_name(source, LogKind::Data);
            let (from, last) = self.values(&line, count);
            let samples = (from..=last)
                .map(|v| {
                    let moment = Moment((v * 1_000 + self.random.u64(..1_000)) as i64);
                    Sample::good(tag, Value::U64(v), moment)
                })
                .collect();
            let ticket = buffer.append(id, samples);
            self.open.push((ticket, line, from, last));
        }
    }

    fn append_event(&mut self, buffer: &Buffer) {
        let (id, _) = register(buffer, "boiler");
        let line = line_name("boiler", LogKind::Alarm);
        let (number, _) = self.values(&line, 1);
        let ticket = buffer.append_event(id, event(number));
        self.open.push((ticket, line, number, number));
    }

    /// Commits; whether it worked.
    pub(crate) fn commit(&mut self, buffer: &Buffer) {
        let done = buffer.commit().is_ok();
        self.note_durable(buffer);
        if done {
            assert!(self.open.is_empty(), "a commit left something open");
        }
    }

    /// Says what became durable: after the fact.
    pub(crate) fn note_durable(&mut self, buffer: &Buffer) {
        let open = std::mem::take(&mut self.open);
        for (ticket, line, first, last) in open {
            if buffer.durable(ticket) {
                self.say(&format!("durable {line} {first} {last}"));
            } else {
                self.open.push((ticket, line, first, last));
            }
        }
    }

    /// Sends some of what there is.
    pub(crate) fn take(&mut self, outbox: &mut Outbox) {
        let budget = Budget {
            records: self.random.usize(1..500),
            backlog: self.random.bool(),
        };
        for _ in 0..self.random.u8(1..8) {
            let Some(offer) = outbox.next(budget) else {
                return;
            };
            let mut receiver = Receiver::default();
            receiver.take(&offer);
            let mut content = None;
            for ((stream, line), values) in &receiver.lines {
                let (seq, value) = values.iter().next().unwrap();
                let count = values.len() as u64;
                assert_eq!(*values.values().last().unwrap(), value + count - 1);
                self.say(&format!("sent {stream} {line} {seq} {value} {count}"));
                self.sent
                    .extend((*value..value + count).map(|v| (line.clone(), v)));
                content = Some((line.clone(), *value, count));
            }
            for ((stream, line), holes) in &receiver.holes {
                for (first, last) in holes {
                    self.say(&format!("hole {stream} {line} {first} {last}"));
                }
            }
            debug_assert!(content.is_some() || matches!(offer.item, Item::Gap(_)));
            self.in_flight.push((offer.id, content));
        }
    }

    /// Acks some of what was sent: said before the fact, because it may count from then on.
    pub(crate) fn ack(&mut self, outbox: &mut Outbox) {
        for _ in 0..self.random.usize(..=self.in_flight.len()) {
            let at = self.random.usize(..self.in_flight.len());
            let (id, content) = self.in_flight.swap_remove(at);
            if let Some((line, value, count)) = content {
                self.say(&format!("acked {line} {value} {count}"));
            }
            outbox.acked(id);
        }
    }
}

/// What a victim has said.
#[derive(Default)]
pub(crate) struct Account {
    pub(crate) receiver: Receiver,
    durable: BTreeMap<String, BTreeSet<u64>>,
    acked: BTreeMap<String, BTreeSet<u64>>,
    /// Above every value.
    pub(crate) next: u64,
}

impl Account {
    /// Takes a line; one that is cut off or foreign says nothing.
    pub(crate) fn hear(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| words.get(at).and_then(|w| w.parse::<u64>().ok());
        match words.as_slice() {
            ["append", _, _, last] => {
                let last: u64 = last.parse().unwrap_or(0);
                self.next = self.next.max(last + 1);
            }
            ["durable", line, first, _] => {
                if let (Ok(first), Some(last)) = (first.parse(), number(3)) {
                    self.durable
                        .entry((*line).to_owned())
                        .or_default()
                        .extend(first..=last);
                }
            }
            ["acked", line, value, _] => {
                if let (Ok(value), Some(count)) = (value.parse::<u64>(), number(3)) {
                    self.acked
                        .entry((*line).to_owned())
                        .or_default()
                        .extend(value..value + count);
                }
            }
            ["sent", stream, line, seq, value, count] => {
                let numbers = (seq.parse::<u64>(), value.parse::<u64>(), count.parse());
                let (Ok(seq), Ok(value), Ok(count)) = numbers else {
                    return;
                };
                let key = (StreamId(stream.parse().unwrap()), (*line).to_owned());
                let numbers = self.receiver.lines.entry(key).or_default();
                for i in 0..count {
                    let before = numbers.insert(seq + i, value + i);
                    let same = before.is_none_or(|v| v == value + i);
                    assert!(same, "number {} was used twice: {line}", seq + i);
                }
            }
            ["hole", stream, line, first, last] => {
                if let (Ok(first), Ok(last)) = (first.parse(), last.parse()) {
                    let key = (StreamId(stream.parse().unwrap()), (*line).to_owned());
                    let holes = self.receiver.holes.entry(key).or_default();
                    holes.push((first, last));
                }
            }
            _ => {}
        }
    }

    /// How many values are known to be durable.
    pub(crate) fn durable(&self) -> usize {
        self.durable.values().map(BTreeSet::len).sum()
    }

    /// Drains the buffer and compares: nothing durable is lost or reordered, no number was used twice,
    /// and the ledger, counted again from the disk, says what was counted here.
    pub(crate) fn settle(&mut self, buffer: &Buffer, outbox: &mut Outbox) {
        self.settle_but(buffer, outbox, false);
    }

    /// The same; `forgotten`: a crash took the memory in which samples had been delivered past a disk that
    /// refused them, so the ledger cannot know of those.
    pub(crate) fn settle_but(&mut self, buffer: &Buffer, outbox: &mut Outbox, forgotten: bool) {
        let before: BTreeMap<String, BTreeSet<u64>> = std::mem::take(&mut self.acked);
        let mut fresh = Receiver::default();
        outbox.reconnected();
        drain_empty(buffer, outbox, &mut fresh);
        let came: BTreeMap<&String, BTreeSet<u64>> = self
            .durable
            .keys()
            .map(|line| (line, fresh.values(line)))
            .collect();
        let mut given_up: BTreeMap<String, u64> = BTreeMap::new();
        for (line, durable) in &self.durable {
            let acked = before.get(line);
            let lost: Vec<u64> = durable
                .iter()
                .filter(|v| !came[line].contains(v) && !acked.is_some_and(|a| a.contains(v)))
                .copied()
                .collect();
            given_up.insert(line.clone(), lost.len() as u64);
        }
        self.receiver.add(fresh);
        let until = Instant::now() + LONG;
        while !self.receiver.is_told(buffer) && Instant::now() < until {
            // Gaps are not queued: on a busy machine the last ones are still being read.
            let mut late = Receiver::default();
            drain(outbox, &mut late);
            self.receiver.add(late);
        }
        self.receiver.check_lines();
        let ledger = buffer.verify().unwrap();
        assert_eq!(ledger, buffer.ledger());
        let rows = ledger.devices.iter().map(|(name, row)| (name.clone(), row));
        let events = ledger.events.iter();
        let events = events.map(|(name, row)| (line_name(name, LogKind::Alarm), row));
        for (line, row) in rows.chain(events) {
            assert!(row.balances(), "{line}: {row:?}");
            // By policy, never by a fault: the store is small.
            let by_limit: u64 = [DropReason::Full, DropReason::Age]
                .iter()
                .filter_map(|reason| row.dropped.get(reason))
                .sum();
            let lost = given_up.remove(&line).unwrap_or(0);
            assert!(
                lost <= by_limit,
                "{line}: {lost} committed samples are lost: {row:?}"
            );
            let (kept, void) = self.receiver.counts(&line);
            assert_eq!(row.queued, 0, "{line}: {row:?}");
            let as_counted = row.acked == kept || forgotten && row.acked < kept;
            assert!(as_counted, "{line}: {kept} came for good: {row:?}");
            let dropped: u64 = row.dropped.values().sum();
            assert_eq!(dropped, void, "{line}: {row:?}");
        }
        assert!(given_up.values().all(|lost| *lost == 0), "{given_up:?}");
        self.acked = came.into_iter().map(|(l, v)| (l.clone(), v)).collect();
        for (line, values) in before {
            self.acked.entry(line).or_default().extend(values);
        }
    }
}
