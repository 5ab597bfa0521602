//! The buffer and its model side by side.

mod checks;
mod restart;
mod stored;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use millrace_buffer::{
    Archive, Budget, Buffer, Ledger, Offer, Order, Outbox, Purge, Registration, Replay, Replayed,
    Row, Selection, Start, TagSpec,
};
use millrace_tags::{Clock, DropReason, LogKind, SourceKind, TestClock, Timestamp};

use super::line::{Boots, Content, Entry, Line, LineId, Record, TAGS, event, sample};
use super::peer::{AsideOf, Flight, Mark, Peer, see};
use super::step::{SOURCES, Setup, Step, UPLINKS};

const NAMES: [&str; SOURCES] = ["boiler", "pump", "press"];
const PEERS: [&str; UPLINKS] = ["always", "second", "third"];
const LOGS: [LogKind; 2] = [LogKind::Alarm, LogKind::Data];

/// The machine's first start, in UTC nanoseconds.
const EPOCH: i64 = 1_763_690_000_000_000_000;
const HOUR: i64 = 3_600_000_000_000;

/// How long a drain may stand still.
const STUCK: Duration = Duration::from_secs(3);

pub(crate) fn source_at(name: &str) -> usize {
    NAMES.iter().position(|n| *n == name).unwrap()
}

fn ids() -> impl Iterator<Item = LineId> {
    (0..SOURCES).flat_map(|source| LOGS.map(|log| (source, log)))
}

pub(crate) struct World {
    dir: tempfile::TempDir,
    setup: Setup,
    clock: Arc<TestClock>,
    boots: Boots,
    /// Boots so far.
    boot: u128,
    buffer: Buffer,
    lines: BTreeMap<LineId, Line>,
    peers: Vec<Option<Peer>>,
    /// Records so far.
    nth: u64,
    /// Nothing was ever removed.
    complete: bool,
}

impl World {
    pub(crate) fn new(setup: Setup) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(TestClock::new(1, Some(Timestamp(EPOCH))));
        let buffer = Buffer::open_exactly(setup.settings(dir.path()), clock.clone()).unwrap();
        let peer = |at: usize| Peer::new(buffer.outbox(PEERS[at], Start::Oldest), true);
        let peers = vec![Some(peer(0)), Some(peer(1)), None];
        let mut world = Self {
            dir,
            setup,
            clock,
            boots: Boots::new(),
            boot: 1,
            buffer,
            lines: ids().map(|id| (id, Line::default())).collect(),
            peers,
            nth: 0,
            complete: setup.keeps_all(),
        };
        world.note_clock();
        world
    }

    pub(crate) fn step(&mut self, step: &Step) {
        self.act(step);
        self.check();
    }

    fn act(&mut self, step: &Step) {
        match *step {
            Step::Append {
                source,
                count,
                held,
            } => self.append(source, count, held),
            Step::Events { source, count } => {
                for _ in 0..count {
                    self.event(source);
                }
            }
            Step::Commit => self.buffer.commit().unwrap(),
            Step::Take {
                peer,
                offers,
                records,
                backlog,
                shorten,
            } => {
                for _ in 0..offers {
                    if self
                        .take(peer, Budget { records, backlog }, shorten)
                        .is_none()
                    {
                        break;
                    }
                }
            }
            Step::Ack(peer, at) => {
                if let Some(flight) = self.flight(peer, at) {
                    self.ack(peer, &flight);
                }
            }
            Step::AckAll(peer) => self.ack_all(peer),
            Step::Fail(peer, at) => {
                if let Some(flight) = self.flight(peer, at) {
                    let peer = self.peers[peer].as_mut().unwrap();
                    peer.outbox.failed(flight.id);
                    peer.land(&flight, None);
                }
            }
            Step::GiveUp(peer, at) => {
                if let Some(flight) = self.flight(peer, at) {
                    self.give_up(peer, &flight);
                }
            }
            Step::Refuse(peer, at, from, count) => {
                if let Some(flight) = self.flight(peer, at) {
                    self.refuse(peer, &flight, from, count);
                }
            }
            Step::Retry(at) | Step::Discard(at) => {
                let all: usize = self.peers().map(|(_, p)| p.asides.len()).sum();
                if all > 0 {
                    self.resolve(at.index(all), matches!(step, Step::Retry(_)));
                }
            }
            Step::Reconnect(peer) => {
                if let Some(peer) = &mut self.peers[peer] {
                    peer.outbox.reconnected();
                    peer.reconnected();
                }
            }
            Step::Attach(at) => {
                if let Some(peer) = &mut self.peers[at] {
                    let first = std::mem::replace(
                        &mut peer.outbox,
                        self.buffer.outbox(PEERS[at], Start::Now),
                    );
                    peer.reconnected();
                    peer.without = None;
                    assert_eq!(next_of(first), None);
                }
            }
            Step::Add { peer, oldest } => {
                if self.peers[peer].is_none() {
                    let start = match oldest {
                        true => Start::Oldest,
                        false => Start::Now,
                    };
                    let outbox = self.buffer.outbox(PEERS[peer], start);
                    self.peers[peer] = Some(Peer::new(outbox, false));
                }
            }
            Step::Remove(peer) => {
                self.peers[peer] = None;
                self.retain_uplinks();
            }
            Step::Route(peer, source) => {
                if let Some(peer) = &mut self.peers[peer] {
                    let without = NAMES[source];
                    peer.outbox
                        .set_routes(Box::new(move |name| name != without));
                    peer.without = Some(source);
                    peer.routed = true;
                }
            }
            Step::Replay {
                peer,
                source,
                log,
                first,
                count,
            } => self.replay_numbers(peer, (source, log), first, first + count - 1),
            Step::ReplaySince { peer, minutes } => {
                if let Some(now) = self.clock.timebase().utc(self.clock.now()) {
                    let since = Timestamp(now.0 - minutes as i64 * 60_000_000_000);
                    self.replay(peer, Replay::Since(since));
                }
            }
            Step::Purge { log, minutes } => self.purge(log, minutes),
            Step::Look(log) => self.look(log),
            Step::Pass(time) => self.clock.advance(time),
            Step::SetClock(hours) => {
                self.clock.set_offset(Timestamp(EPOCH + hours * HOUR));
                self.note_clock();
            }
            Step::Restart {
                crash,
                reboot,
                setup,
            } => self.restart(crash, reboot, setup),
        }
    }

    fn peers(&self) -> impl Iterator<Item = (usize, &Peer)> {
        let peers = self.peers.iter().enumerate();
        peers.filter_map(|(at, peer)| Some((at, peer.as_ref()?)))
    }

    fn note_clock(&mut self) {
        let timebase = self.clock.timebase();
        let known = self.boots.entry(timebase.boot).or_default();
        known.extend(timebase.offset_ns);
    }

    fn retain_uplinks(&self) {
        let names: Vec<&str> = self.peers().map(|(at, _)| PEERS[at]).collect();
        self.buffer.retain_uplinks(&names);
    }

    fn register(&self, source: usize) -> Registration {
        let tags = TAGS.map(|(name, value_type)| TagSpec {
            name: name.into(),
            value_type,
            unit: None,
        });
        self.buffer
            .register(NAMES[source], SourceKind::Device, &tags)
    }

    fn append(&mut self, source: usize, count: u64, held: bool) {
        let ids = self.register(source);
        let id = (source, LogKind::Data);
        let mut batch = Vec::new();
        for _ in 0..count {
            self.nth += 1;
            batch.push(sample(self.nth, &ids.tags, self.clock.now()));
        }
        let refused = self.dropped(id, DropReason::Newest);
        let samples = batch.iter().map(|(sample, _)| sample.clone()).collect();
        let ticket = match held {
            true => self.buffer.append_held(ids.source, samples),
            false => self.buffer.append(ids.source, samples),
        };
        let refused = self.dropped(id, DropReason::Newest) - refused;
        batch.sort_by_key(|(sample, _)| (sample.gateway_time, sample.tag));
        let contents = batch
            .into_iter()
            .map(|(sample, tag)| Content::Sample(sample, tag));
        self.appended(id, contents.collect(), ticket, refused);
    }

    fn event(&mut self, source: usize) {
        let ids = self.register(source);
        let id = (source, LogKind::Alarm);
        self.nth += 1;
        let event = event(self.nth, self.clock.now());
        let refused = self.dropped(id, DropReason::Newest);
        let ticket = self.buffer.append_event(ids.source, event.clone());
        let refused = self.dropped(id, DropReason::Newest) - refused;
        self.appended(id, vec![Content::Event(event)], ticket, refused);
    }

    fn appended(
        &mut self,
        id: LineId,
        contents: Vec<Content>,
        ticket: millrace_buffer::Ticket,
        refused: u64,
    ) {
        let timebase = self.clock.timebase();
        assert!(refused == 0 || refused == contents.len() as u64);
        let line = self.lines.get_mut(&id).unwrap();
        line.entries
            .extend(contents.into_iter().map(|content| match refused {
                0 => Entry::Record(Record {
                    content,
                    timebase,
                    ticket: Some(ticket),
                }),
                _ => Entry::Void(DropReason::Newest),
            }));
    }

    fn row(&self, ledger: &Ledger, peer: usize, (source, log): LineId) -> Row {
        let uplink = ledger.uplinks.get(PEERS[peer]);
        let rows = uplink.map(|uplink| match log {
            LogKind::Data => &uplink.devices,
            LogKind::Alarm => &uplink.events,
        });
        let row = rows.and_then(|rows| rows.get(NAMES[source]));
        row.cloned().unwrap_or_default()
    }

    fn dropped(&self, id: LineId, reason: DropReason) -> u64 {
        let row = self.row(&self.buffer.ledger(), 0, id);
        row.dropped.get(&reason).copied().unwrap_or(0)
    }

    /// Takes the next offer; `None`: there is none now.
    fn take(&mut self, peer: usize, budget: Budget, shorten: Option<usize>) -> Option<()> {
        let to = self.peers[peer].as_mut()?;
        let mut offer = next(&mut to.outbox, budget)?;
        if let Some(records) = shorten {
            to.outbox.shorten(&mut offer, records);
        }
        let (line, numbers, lost) = see(&offer, &mut self.lines, &self.boots);
        match lost {
            None => {
                assert!(numbers.len() <= budget.records);
                to.take(offer.id, line, numbers, !self.complete);
            }
            Some(reason) => to.hear(offer.id, line, numbers, reason, !self.complete),
        }
        Some(())
    }

    fn flight(&mut self, peer: usize, at: proptest::sample::Index) -> Option<Flight> {
        let flights = &mut self.peers[peer].as_mut()?.flights;
        (!flights.is_empty()).then(|| flights.swap_remove(at.index(flights.len())))
    }

    fn ack_all(&mut self, peer: usize) {
        let flights = self.peers[peer]
            .as_mut()
            .map(|p| std::mem::take(&mut p.flights));
        for flight in flights.into_iter().flatten() {
            self.ack(peer, &flight);
        }
    }

    /// An ack counts all of an offer, or nothing where numbers of it are gone meanwhile.
    fn ack(&mut self, at: usize, flight: &Flight) {
        let before = self.row(&self.buffer.ledger(), at, flight.line);
        let peer = self.peers[at].as_mut().unwrap();
        peer.outbox.acked(flight.id);
        if flight.gap {
            peer.land(flight, Some(Mark::Told));
            return;
        }
        let after = self.row(&self.buffer.ledger(), at, flight.line);
        let counted = after.acked - before.acked;
        let mark = match counted {
            0 => None,
            _ => Some(Mark::Acked),
        };
        assert!(counted == 0 || counted == flight.numbers.len() as u64);
        self.peers[at].as_mut().unwrap().land(flight, mark);
    }

    fn give_up(&mut self, at: usize, flight: &Flight) {
        let of = |row: &Row| row.dropped.get(&DropReason::Poison).copied().unwrap_or(0);
        let before = self.row(&self.buffer.ledger(), at, flight.line);
        let peer = self.peers[at].as_mut().unwrap();
        peer.outbox.give_up(flight.id, DropReason::Poison);
        if flight.gap {
            peer.land(flight, Some(Mark::Told));
            return;
        }
        let after = self.row(&self.buffer.ledger(), at, flight.line);
        let mark = (of(&after) > of(&before)).then_some(Mark::GivenUp);
        self.peers[at].as_mut().unwrap().land(flight, mark);
    }

    fn refuse(&mut self, at: usize, flight: &Flight, from: u64, count: u64) {
        let (low, high) = (flight.numbers[0], *flight.numbers.last().unwrap());
        let first = low + from % (high - low + 1);
        let last = first + count - 1;
        let durable = (first..=last.min(high)).all(|n| self.is_durable(flight.line, n));
        let known: Vec<u64> = self.buffer.set_aside().iter().map(|row| row.id).collect();
        let peer = self.peers[at].as_mut().unwrap();
        peer.outbox.refused(flight.id, first, last, "not liked", 3);
        if flight.gap {
            peer.land(flight, Some(Mark::Told));
            return;
        }
        let rows = self.buffer.set_aside();
        let new = rows.iter().find(|row| !known.contains(&row.id));
        if let Some(row) = new {
            assert_eq!((&*row.uplink, row.tries), (PEERS[at], 3));
            assert_eq!((row.first_seq, row.last_seq), (first, last.min(high)));
            let numbers: Vec<u64> = (row.first_seq..=row.last_seq).collect();
            for number in &numbers {
                peer.set_if_flying((flight.line, *number), flight.id, Some(Mark::Aside));
            }
            peer.asides.push(AsideOf {
                id: row.id,
                line: flight.line,
                numbers,
                durable,
            });
        }
        peer.land(flight, None);
    }

    fn is_durable(&self, id: LineId, number: u64) -> bool {
        match self.lines[&id].get(number) {
            Entry::Record(record) => record.ticket.is_none_or(|t| self.buffer.durable(t)),
            Entry::Void(_) => false,
        }
    }

    /// Retries or discards the `nth` of all that is set aside.
    fn resolve(&mut self, nth: usize, retry: bool) {
        let mut nth = nth;
        for at in 0..UPLINKS {
            let Some(peer) = self.peers[at].as_mut() else {
                continue;
            };
            if nth >= peer.asides.len() {
                nth -= peer.asides.len();
                continue;
            }
            let aside = peer.asides.remove(nth);
            let rows = self.buffer.set_aside();
            let row = rows.iter().find(|row| row.id == aside.id);
            let there = match retry {
                true => self.buffer.retry(aside.id),
                false => self.buffer.discard(aside.id),
            };
            assert_eq!(there, row.is_some());
            let all = row.is_some_and(|row| row.records == aside.numbers.len() as u64);
            for number in aside.numbers {
                let mark = peer.marks.get_mut(&(aside.line, number));
                let Some(mark) = mark.filter(|mark| **mark == Mark::Aside) else {
                    continue;
                };
                match (retry, all) {
                    (true, _) => drop(peer.marks.remove(&(aside.line, number))),
                    (false, true) => *mark = Mark::Poison,
                    (false, false) => *mark = Mark::Lost,
                }
            }
            return;
        }
    }
}

/// The next offer; chunks that are read ahead have a moment to come.
fn next(outbox: &mut Outbox, budget: Budget) -> Option<Offer> {
    for _ in 0..5 {
        let offer = outbox.next(budget);
        if offer.is_some() {
            return offer;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    None
}

fn next_of(mut outbox: Outbox) -> Option<Offer> {
    outbox.next(Budget {
        records: 1,
        backlog: true,
    })
}
