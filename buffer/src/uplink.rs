//! One uplink's view of the logs: what it has settled, what is in flight, what it gets next.

mod again;
mod marks;
mod reader;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use millrace_tags::{
    DropReason, Gap, Hole, Lane, LogKind, Parcel, Records, TagTable, Timebase, Timestamp,
};

use crate::aside::{Aside, Asides};
use crate::chunk::Run;
use crate::log::{LineKey, Log};
use crate::outbox::{Item, OfferId};
use crate::owed::{Owed, OwedKey};
use crate::ranges::Ranges;
use crate::routes::Routes;

pub(crate) use reader::{Reader, Unread};

/// Names to put on a parcel.
pub(crate) struct Names<'a> {
    pub(crate) sources: &'a [crate::catalogue::SourceInfo],
    pub(crate) tags: &'a Arc<TagTable>,
}

impl Names<'_> {
    pub(crate) fn source(&self, line: LineKey) -> Arc<str> {
        let source = self.sources.get(line.source.0 as usize);
        source.map_or_else(|| "".into(), |s| s.name.clone())
    }
}

/// After so many live offers in a row one of the backlog has its turn, so that a plant that fills the link
/// with live data does not starve it for ever.
const LIVE_RUN_MAX: u32 = 16;

/// An uplink.
#[derive(Default)]
pub(crate) struct Uplink {
    pub(crate) alarm: Reader,
    pub(crate) data: Reader,
    pub(crate) owed: Owed,
    pub(crate) aside: Asides,
    pub(crate) routes: Routes,
    pub(crate) wake: Option<Arc<dyn Fn() + Send + Sync>>,
    /// Its outbox came back empty-handed: wake it when there is something.
    pub(crate) idle: bool,
    /// Which outbox is the valid one; 0: none was made since the buffer was opened.
    pub(crate) generation: u64,
    next_offer: u64,
    /// Live offers in a row while backlog was asked for, too.
    live_run: u32,
    in_flight: HashMap<u64, InFlight>,
}

/// An offer that is on its way.
enum InFlight {
    Numbers {
        log: LogKind,
        line: LineKey,
        first: u64,
        last: u64,
        void: bool,
        /// The batch that it was taken from; 0 for a chunk.
        batch: u64,
        /// The chunk that it was taken from; 0 for a batch.
        chunk: u64,
    },
    Owed {
        key: OwedKey,
        first: u64,
        last: u64,
    },
}

/// What is known of a refusal.
pub(crate) struct Refused {
    pub(crate) id: u64,
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) reason: String,
    pub(crate) tries: u32,
    pub(crate) since: Option<Timestamp>,
}

/// A chunk's directory in terms of lines.
#[derive(Debug, Clone)]
pub(crate) struct Directory {
    pub(crate) number: u64,
    pub(crate) last: u64,
    pub(crate) entries: Vec<(LineKey, u64, u64, Option<DropReason>)>,
}

/// A chunk that was read from the disk, on its way to the uplink.
pub(crate) struct Loaded {
    pub(crate) directory: Directory,
    pub(crate) timebase: Timebase,
    pub(crate) tags: Arc<TagTable>,
    /// As the entries; `None` for voids.
    pub(crate) runs: VecDeque<Option<Run>>,
    /// The entry that comes next.
    pub(crate) at: usize,
}

/// Numbers that an uplink has not got and will not get; a reason where they were void all along.
pub(crate) type Lost = (LineKey, u64, u64, Option<DropReason>);

/// What a reader hands out.
pub(crate) struct Taken {
    line: LineKey,
    first: u64,
    last: u64,
    batch: u64,
    chunk: u64,
    timebase: Timebase,
    tags: Option<Arc<TagTable>>,
    records: Result<Records, DropReason>,
}

impl Uplink {
    pub(crate) fn owing(owed: Owed) -> Self {
        Self {
            owed,
            ..Self::default()
        }
    }

    pub(crate) fn reader(&self, kind: LogKind) -> &Reader {
        match kind {
            LogKind::Alarm => &self.alarm,
            LogKind::Data => &self.data,
        }
    }

    pub(crate) fn reader_mut(&mut self, kind: LogKind) -> &mut Reader {
        match kind {
            LogKind::Alarm => &mut self.alarm,
            LogKind::Data => &mut self.data,
        }
    }

    /// Forgets what is in flight; it is offered again.
    pub(crate) fn restart(&mut self, alarm: &Log, data: &Log) {
        self.in_flight.clear();
        self.owed.restart();
        self.alarm.restart(alarm);
        self.data.restart(data);
        for aside in self.aside.iter() {
            let reader = match aside.log {
                LogKind::Alarm => &mut self.alarm,
                LogKind::Data => &mut self.data,
            };
            reader.keep_aside(aside.line, &aside.numbers);
        }
    }

    /// The next owed gap, or what is next of the alarm log.
    pub(crate) fn next_alarm(
        &mut self,
        alarm: &Log,
        names: &Names<'_>,
        budget: usize,
    ) -> Option<(OfferId, Lane, Item)> {
        if let Some((key, at, first, last)) = self.owed.next() {
            let lane = match key.log {
                LogKind::Alarm => Lane::Alarm,
                LogKind::Data => Lane::Live,
            };
            let gap = Gap {
                stream: key.stream,
                log: key.log,
                reason: key.reason,
                at,
                holes: vec![Hole {
                    source: key.source.clone(),
                    first_seq: first,
                    last_seq: (last != u64::MAX).then_some(last),
                }],
            };
            let id = self.fly(InFlight::Owed { key, first, last });
            return Some((id, lane, Item::Gap(gap)));
        }
        if let Some(taken) = self.alarm.next_loaded(&self.routes, budget) {
            return Some(self.offer(alarm, names, Lane::Alarm, taken));
        }
        let taken = self.alarm.next_live(alarm, &self.routes, budget)?;
        Some(self.offer(alarm, names, Lane::Alarm, taken))
    }

    /// The next samples, live before backlog; where live never ends, backlog has a turn now and then.
    pub(crate) fn next_samples(
        &mut self,
        data: &Log,
        names: &Names<'_>,
        budget: usize,
        backlog: bool,
    ) -> Option<(OfferId, Lane, Item)> {
        if backlog
            && self.live_run >= LIVE_RUN_MAX
            && let Some(taken) = self.data.next_loaded(&self.routes, budget)
        {
            self.live_run = 0;
            return Some(self.offer(data, names, Lane::Backlog, taken));
        }
        if let Some(taken) = self.data.next_live(data, &self.routes, budget) {
            self.live_run = self.live_run.saturating_add(1);
            return Some(self.offer(data, names, Lane::Live, taken));
        }
        self.live_run = 0;
        if backlog && let Some(taken) = self.data.next_loaded(&self.routes, budget) {
            return Some(self.offer(data, names, Lane::Backlog, taken));
        }
        None
    }

    fn fly(&mut self, what: InFlight) -> OfferId {
        self.next_offer += 1;
        self.in_flight.insert(self.next_offer, what);
        OfferId(self.next_offer)
    }

    fn offer(
        &mut self,
        log: &Log,
        names: &Names<'_>,
        lane: Lane,
        taken: Taken,
    ) -> (OfferId, Lane, Item) {
        let id = self.fly(InFlight::Numbers {
            log: log.kind,
            line: taken.line,
            first: taken.first,
            last: taken.last,
            void: taken.records.is_err(),
            batch: taken.batch,
            chunk: taken.chunk,
        });
        let source = names.source(taken.line);
        let stream = log.stream_of(taken.line);
        let item = match taken.records {
            Ok(records) => Item::Parcel(Parcel {
                source,
                stream,
                log: log.kind,
                lane,
                first_seq: taken.first,
                timebase: taken.timebase,
                tags: taken.tags.unwrap_or_else(|| names.tags.clone()),
                records,
            }),
            Err(reason) => Item::Gap(Gap {
                stream,
                log: log.kind,
                reason,
                at: None,
                holes: vec![Hole {
                    source,
                    first_seq: taken.first,
                    last_seq: Some(taken.last),
                }],
            }),
        };
        (id, lane, item)
    }

    /// An offer was taken over by the other side, or given up for a reason.
    pub(crate) fn settle(&mut self, id: OfferId, given_up: Option<DropReason>) {
        match self.in_flight.remove(&id.0) {
            Some(InFlight::Numbers {
                log,
                line,
                first,
                last,
                void,
                ..
            }) => self.reader_mut(log).ack(line, first, last, void, given_up),
            Some(InFlight::Owed { key, first, last }) => self.owed.settle(&key, first, last),
            None => {}
        }
    }

    /// An offer has to be made again.
    pub(crate) fn failed(&mut self, id: OfferId) {
        match self.in_flight.remove(&id.0) {
            Some(InFlight::Numbers {
                log,
                line,
                first,
                last,
                batch,
                chunk,
                ..
            }) => self
                .reader_mut(log)
                .give_back(line, first, last, batch, chunk),
            Some(InFlight::Owed { key, first, last }) => self.owed.give_back(&key, first, last),
            None => {}
        }
    }

    /// Keeps the numbers up to `last` in an offer; the others are offered again.
    pub(crate) fn shorten(&mut self, id: OfferId, last: u64) {
        let Some(InFlight::Numbers {
            log,
            line,
            first,
            last: end,
            batch,
            chunk,
            ..
        }) = self.in_flight.get_mut(&id.0)
        else {
            return;
        };
        if last < *first || last >= *end {
            return;
        }
        let rest = (*log, *line, last + 1, *end, *batch, *chunk);
        *end = last;
        let (log, line, first, last, batch, chunk) = rest;
        self.reader_mut(log)
            .give_back(line, first, last, batch, chunk);
    }

    /// Settles the numbers `first..=last` of an offer; it goes on for those before them, a new one for those after
    /// them. `Some`: that one.
    pub(crate) fn settle_part(&mut self, id: OfferId, first: u64, last: u64) -> Option<OfferId> {
        let InFlight::Numbers {
            log,
            line,
            first: begin,
            last: end,
            void,
            batch,
            chunk,
        } = self.in_flight.remove(&id.0)?
        else {
            // What is owed is told as a whole.
            return None;
        };
        let (first, last) = (first.max(begin), last.min(end));
        let part = |first, last| InFlight::Numbers {
            log,
            line,
            first,
            last,
            void,
            batch,
            chunk,
        };
        if first > last {
            self.in_flight.insert(id.0, part(begin, end));
            return None;
        }
        self.reader_mut(log).ack(line, first, last, void, None);
        if first > begin {
            self.in_flight.insert(id.0, part(begin, first - 1));
        }
        (last < end).then(|| self.fly(part(last + 1, end)))
    }

    /// Sets aside the numbers `first..=last` of an offer; its others are offered again. A gap cannot wait:
    /// it is taken for told. Returns what was set aside.
    pub(crate) fn set_aside(&mut self, id: OfferId, refused: Refused) -> Option<&Aside> {
        match self.in_flight.remove(&id.0)? {
            InFlight::Owed { key, first, last } => self.owed.settle(&key, first, last),
            InFlight::Numbers {
                log,
                line,
                first,
                last,
                void: true,
                ..
            } => self.reader_mut(log).ack(line, first, last, true, None),
            InFlight::Numbers {
                log,
                line,
                first,
                last,
                batch,
                chunk,
                ..
            } => {
                let (low, high) = (refused.first.max(first), refused.last.min(last));
                let reader = self.reader_mut(log);
                reader.give_back(line, first, last, batch, chunk);
                if low > high {
                    return None;
                }
                let mut numbers = Ranges::default();
                numbers.insert(low, high);
                reader.keep_aside(line, &numbers);
                self.aside.push(Aside {
                    id: refused.id,
                    log,
                    line,
                    numbers,
                    reason: refused.reason,
                    tries: refused.tries,
                    since: refused.since,
                });
                return self.aside.iter().last();
            }
        }
        None
    }

    /// Sets aside all of an offer that holds records, together with what is withheld of its line already.
    /// With `gather`, what was refused of the line before joins it. `None`: the offer is no such one.
    pub(crate) fn withhold(&mut self, id: OfferId, new: Refused, gather: bool) -> Option<bool> {
        let InFlight::Numbers {
            log,
            line,
            first,
            last,
            void: false,
            ..
        } = *self.in_flight.get(&id.0)?
        else {
            return None;
        };
        self.in_flight.remove(&id.0);
        let is_new = self.aside.withheld(log, line).is_none();
        if is_new {
            self.aside.push(Aside {
                id: new.id,
                log,
                line,
                numbers: Ranges::default(),
                reason: new.reason,
                tries: 0,
                since: new.since,
            });
        }
        let tried = match gather {
            true => self.aside.take_tried(log, line),
            false => Vec::new(),
        };
        let withheld = self.aside.withheld(log, line)?;
        withheld.numbers.insert(first, last);
        for aside in tried {
            withheld.numbers.union(&aside.numbers);
        }
        Some(is_new)
    }

    /// Whether something is withheld of the line of an offer.
    pub(crate) fn withholds(&mut self, id: OfferId) -> bool {
        match self.in_flight.get(&id.0) {
            Some(InFlight::Numbers { log, line, .. }) => self.aside.withheld(*log, *line).is_some(),
            Some(InFlight::Owed { .. }) | None => false,
        }
    }

    /// Offers again what was set aside.
    pub(crate) fn retry(&mut self, aside: &Aside, log: &Log) {
        self.reader_mut(aside.log)
            .offer_again(aside.line, &aside.numbers, log);
    }

    /// Gives up what was set aside: counts it as poison, and owes a gap.
    pub(crate) fn discard(&mut self, aside: &Aside, key: &OwedKey, at: Option<Timestamp>) {
        for (first, last) in aside.numbers.iter() {
            let poison = Some(DropReason::Poison);
            self.reader_mut(aside.log)
                .ack(aside.line, first, last, false, poison);
            self.owed.add(key.clone(), at, first, last);
        }
        // A crash before the state is saved sets it aside again, and it may still be sent.
        self.owed.hold();
    }

    /// Samples that wait to be sent live, or are on their way.
    pub(crate) fn live_samples(&self, data: &Log) -> u64 {
        let on_the_way = self.in_flight.values().map(|flight| match flight {
            InFlight::Numbers {
                log: LogKind::Data,
                first,
                last,
                void: false,
                batch: 1..,
                ..
            } => last - first + 1,
            InFlight::Numbers { .. } | InFlight::Owed { .. } => 0,
        });
        self.data.live_records(data) + on_the_way.sum::<u64>()
    }

    /// Forgets offers of numbers that are gone: their acks come too late. What is left of such an offer is
    /// offered again.
    pub(crate) fn cancel(&mut self, kind: LogKind, gone: &[Lost]) {
        if gone.is_empty() {
            return;
        }
        self.aside.forget(kind, gone);
        let mut left = Vec::new();
        self.in_flight.retain(|_, flight| {
            let InFlight::Numbers {
                log,
                line,
                first,
                last,
                batch,
                chunk,
                ..
            } = *flight
            else {
                return true;
            };
            let meets = |&&(l, a, b, _): &&Lost| l == line && a <= last && b >= first;
            if log != kind || !gone.iter().any(|lost| meets(&lost)) {
                return true;
            }
            let mut rest = Ranges::default();
            rest.insert(first, last);
            for &(_, a, b, _) in gone.iter().filter(meets) {
                rest.remove(a, b);
            }
            left.push((line, rest, batch, chunk));
            false
        });
        let reader = self.reader_mut(kind);
        for (line, rest, batch, chunk) in left {
            for (first, last) in rest.iter() {
                reader.give_back(line, first, last, batch, chunk);
            }
        }
    }
}
