//! One uplink as it must be: what became of each number on the other side.

use std::collections::BTreeMap;

use millrace_buffer::{Offer, OfferId, Outbox, Row};
use millrace_tags::DropReason;

use super::line::{Boots, Line, LineId};

/// A number of a line.
pub(crate) type Number = (LineId, u64);

/// What is known of a number that was offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    /// On its way, as a record.
    Flying(OfferId),
    /// On its way, as lost.
    Telling(OfferId),
    /// Acked: never offered again.
    Acked,
    /// Known to the other side as lost: never offered again.
    Told,
    /// Given up without a word.
    GivenUp,
    /// Set aside.
    Aside,
    /// Set aside and then given up: the other side has still to be told.
    Poison,
    /// Was set aside, and is gone.
    Lost,
    /// Settled before a restart, which may have forgotten it.
    Maybe,
}

/// An offer that is on its way.
pub(crate) struct Flight {
    pub(crate) id: OfferId,
    pub(crate) line: LineId,
    pub(crate) numbers: Vec<u64>,
    pub(crate) gap: bool,
}

/// What was set aside together.
#[derive(Debug, Clone)]
pub(crate) struct AsideOf {
    pub(crate) id: u64,
    pub(crate) line: LineId,
    pub(crate) numbers: Vec<u64>,
    /// All of it was durable when it was set aside.
    pub(crate) durable: bool,
}

pub(crate) struct Peer {
    pub(crate) outbox: Outbox,
    pub(crate) marks: BTreeMap<Number, Mark>,
    /// What it was told of each number that never comes.
    pub(crate) heard: BTreeMap<Number, DropReason>,
    pub(crate) flights: Vec<Flight>,
    pub(crate) asides: Vec<AsideOf>,
    /// A source that it does not send.
    pub(crate) without: Option<usize>,
    /// Whether it ever had a route.
    pub(crate) routed: bool,
    /// It was there before the first record.
    pub(crate) from_the_start: bool,
}

impl Peer {
    pub(crate) fn new(outbox: Outbox, from_the_start: bool) -> Self {
        Self {
            outbox,
            marks: BTreeMap::new(),
            heard: BTreeMap::new(),
            flights: Vec::new(),
            asides: Vec::new(),
            without: None,
            routed: false,
            from_the_start,
        }
    }

    /// Records came. `again`: others of their offer may have been removed meanwhile, which ended it.
    pub(crate) fn take(&mut self, id: OfferId, line: LineId, numbers: Vec<u64>, again: bool) {
        assert_ne!(Some(line.0), self.without, "a source that is not routed");
        for &number in &numbers {
            let at = (line, number);
            let heard = self.heard.get(&at);
            assert_eq!(heard, None, "{at:?} came after it was called lost");
            let before = self.marks.insert(at, Mark::Flying(id));
            let fits = match before {
                None | Some(Mark::Maybe) => true,
                Some(Mark::Flying(_)) => again,
                _ => false,
            };
            assert!(fits, "{at:?} came again: it was {before:?}");
        }
        self.fly(id, line, numbers, false);
    }

    /// Numbers were called lost. `again`: the numbers may have been removed meanwhile. An ack of what the log
    /// said of them comes too late to count then, and the removal announces them anew.
    pub(crate) fn hear(
        &mut self,
        id: OfferId,
        line: LineId,
        numbers: Vec<u64>,
        reason: DropReason,
        again: bool,
    ) {
        for &number in &numbers {
            let at = (line, number);
            let before = self.marks.insert(at, Mark::Telling(id));
            let wrong = match before {
                Some(Mark::Told | Mark::Telling(_)) => !again,
                Some(Mark::Acked | Mark::GivenUp) => true,
                _ => false,
            };
            assert!(
                !wrong,
                "{at:?} is called lost ({reason:?}): it was {before:?}"
            );
            self.heard.insert(at, reason);
        }
        self.fly(id, line, numbers, true);
    }

    fn fly(&mut self, id: OfferId, line: LineId, numbers: Vec<u64>, gap: bool) {
        self.flights.push(Flight {
            id,
            line,
            numbers,
            gap,
        });
    }

    /// The numbers of an offer that nothing else happened to meanwhile become `mark`, or free.
    pub(crate) fn land(&mut self, flight: &Flight, mark: Option<Mark>) {
        for &number in &flight.numbers {
            self.set_if_flying((flight.line, number), flight.id, mark);
        }
    }

    pub(crate) fn set_if_flying(&mut self, at: Number, id: OfferId, mark: Option<Mark>) {
        let now = self.marks.get(&at);
        if now == Some(&Mark::Flying(id)) || now == Some(&Mark::Telling(id)) {
            match mark.or_else(|| self.still(at)) {
                Some(mark) => self.marks.insert(at, mark),
                None => self.marks.remove(&at),
            };
        }
    }

    /// What a number stays although nobody was told: given up.
    fn still(&self, at: Number) -> Option<Mark> {
        let told = matches!(self.marks.get(&at), Some(Mark::Telling(_)));
        let poison = told && self.heard.get(&at) == Some(&DropReason::Poison);
        poison.then_some(Mark::Poison)
    }

    /// Whatever is on its way is offered again.
    pub(crate) fn reconnected(&mut self) {
        for flight in std::mem::take(&mut self.flights) {
            self.land(&flight, None);
        }
    }

    /// The buffer was opened again; what is settled may have been forgotten.
    pub(crate) fn restarted(&mut self, outbox: Outbox, crash: bool) {
        self.outbox = outbox;
        self.without = None;
        self.reconnected();
        for mark in self.marks.values_mut() {
            match mark {
                Mark::Acked | Mark::Told | Mark::GivenUp => *mark = Mark::Maybe,
                Mark::Poison if crash => *mark = Mark::Maybe,
                _ => {}
            }
        }
    }

    /// A crash took what was above `kept` of a line: these are void now.
    pub(crate) fn cut(&mut self, line: LineId, kept: u64, last: u64) {
        let above = (line, kept + 1)..=(line, u64::MAX);
        let seen = self.marks.range(above.clone()).map(|(at, _)| at.1);
        let heard = self.heard.range(above).map(|(at, _)| at.1);
        let seen = seen.chain(heard).max().unwrap_or(0);
        assert!(
            seen <= last,
            "{line:?}: {seen} was seen, {} comes next",
            last + 1
        );
        self.marks.retain(|at, _| at.0 != line || at.1 <= kept);
        self.heard.retain(|at, _| at.0 != line || at.1 <= kept);
        for aside in self.asides.iter_mut().filter(|a| a.line == line) {
            aside.numbers.retain(|n| *n <= kept);
        }
        self.asides.retain(|aside| !aside.numbers.is_empty());
    }

    fn of<'a>(&'a self, line: LineId) -> impl Iterator<Item = (u64, Mark)> + 'a {
        let marks = self.marks.range((line, 0)..=(line, u64::MAX));
        marks.map(|(at, mark)| (at.1, *mark))
    }

    /// Panics unless the row can be, after all that happened.
    pub(crate) fn check_row(&self, id: LineId, line: &Line, row: &Row) {
        let dropped = |reason| row.dropped.get(&reason).copied().unwrap_or(0);
        assert!(row.balances(), "{id:?}: {row:?}");
        assert_eq!(row.acquired, line.last(), "{id:?}: {row:?}");
        for reason in [DropReason::Crash, DropReason::Newest] {
            assert_eq!(
                dropped(reason),
                line.voids(reason),
                "{id:?} {reason:?}: {row:?}"
            );
        }
        let (mut acked, mut poison, mut maybe, mut lost) = (0, 0, 0, 0);
        for (number, mark) in self.of(id).filter(|(n, _)| line.is_record(*n)) {
            match mark {
                Mark::Acked => acked += 1,
                Mark::GivenUp | Mark::Poison => poison += 1,
                Mark::Telling(_) | Mark::Told
                    if self.heard.get(&(id, number)) == Some(&DropReason::Poison) =>
                {
                    poison += 1;
                }
                Mark::Maybe => maybe += 1,
                Mark::Lost => lost += 1,
                _ => {}
            }
        }
        let within = |low: u64, high: u64, is: u64| low <= is && is <= high;
        assert!(
            within(acked, acked + maybe, row.acked),
            "{id:?}: {acked} or up to {maybe} more are acked: {row:?}"
        );
        assert!(
            within(poison, poison + maybe + lost, dropped(DropReason::Poison)),
            "{id:?}: {poison} or up to {maybe} more were given up: {row:?}"
        );
    }

    /// The first number of which the other side knows nothing although it should. To be asked when nothing is
    /// queued.
    pub(crate) fn missing(&self, id: LineId, line: &Line, row: &Row) -> Option<String> {
        let mut uncounted = 0;
        for number in 1..=line.last() {
            let at = (id, number);
            let heard = self.heard.contains_key(&at);
            match self.marks.get(&at) {
                Some(Mark::Acked | Mark::GivenUp | Mark::Told | Mark::Maybe) => {}
                _ if heard => {}
                None if line.is_record(number) => uncounted += 1,
                None if self.routed || !self.from_the_start => {}
                mark => {
                    let lost = match line.get(number) {
                        super::line::Entry::Record(_) => None,
                        super::line::Entry::Void(reason) => Some(reason),
                    };
                    return Some(format!("{at:?} ({lost:?}) was {mark:?} and not announced"));
                }
            }
        }
        let dropped = |reason| row.dropped.get(&reason).copied().unwrap_or(0);
        let before = dropped(DropReason::BeforeStart);
        let unsent = before + dropped(DropReason::NotRouted);
        if uncounted > unsent || (!self.routed && uncounted != before) {
            return Some(format!("{id:?}: {uncounted} numbers never came: {row:?}"));
        }
        for reason in [DropReason::Full, DropReason::Age, DropReason::Purged] {
            let heard = self.heard.range((id, 0)..=(id, u64::MAX));
            let heard = heard.filter(|(_, r)| **r == reason).count() as u64;
            if heard != dropped(reason) {
                return Some(format!("{id:?}: {heard} were called {reason:?}: {row:?}"));
            }
        }
        None
    }
}

/// What an offer's item says, checked against the lines.
pub(crate) fn see(
    offer: &Offer,
    lines: &mut BTreeMap<LineId, Line>,
    boots: &Boots,
) -> (LineId, Vec<u64>, Option<DropReason>) {
    use millrace_buffer::Item;
    use millrace_tags::{Lane, LogKind};

    match &offer.item {
        Item::Parcel(parcel) => {
            let id = (super::world::source_at(&parcel.source), parcel.log);
            assert_eq!(parcel.lane, offer.lane);
            assert_eq!(parcel.log == LogKind::Alarm, offer.lane == Lane::Alarm);
            lines.entry(id).or_default().check(parcel, boots);
            let last = parcel.first_seq + parcel.records.len() as u64 - 1;
            (id, (parcel.first_seq..=last).collect(), None)
        }
        Item::Gap(gap) => {
            let [hole] = &gap.holes[..] else {
                panic!("one hole at a time: {gap:?}");
            };
            let id = (super::world::source_at(&hole.source), gap.log);
            let line = lines.entry(id).or_default();
            let stream = *line.stream.get_or_insert(gap.stream);
            assert_eq!(stream, gap.stream, "another stream");
            let last = hole.last_seq.expect("no stream is closed");
            for number in hole.first_seq..=last {
                let fits = match (gap.reason, line.get(number)) {
                    (DropReason::Crash | DropReason::Newest, super::line::Entry::Void(reason)) => {
                        *reason == gap.reason
                    }
                    (
                        DropReason::Full
                        | DropReason::Age
                        | DropReason::Purged
                        | DropReason::Poison,
                        super::line::Entry::Record(_),
                    ) => true,
                    _ => false,
                };
                assert!(fits, "{id:?} {number} is not lost by {:?}", gap.reason);
            }
            (id, (hole.first_seq..=last).collect(), Some(gap.reason))
        }
    }
}
