//! One uplink's view of the logs: what it has settled, what is in flight, what it gets next.

mod again;
mod marks;
mod reader;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use millrace_tags::{DropReason, Gap, Hole, Lane, LogKind, Parcel, Records, TagTable, Timebase};

use crate::chunk::Run;
use crate::log::{LineKey, Log};
use crate::outbox::{Item, OfferId};
use crate::owed::{Owed, OwedKey};

pub(crate) use reader::Reader;

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

/// An uplink.
#[derive(Default)]
pub(crate) struct Uplink {
    pub(crate) alarm: Reader,
    pub(crate) data: Reader,
    pub(crate) owed: Owed,
    pub(crate) wake: Option<Arc<dyn Fn() + Send + Sync>>,
    /// Its outbox came back empty-handed: wake it when there is something.
    pub(crate) idle: bool,
    /// Which outbox is the valid one; 0: none was made since the buffer was opened.
    pub(crate) generation: u64,
    next_offer: u64,
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
    }

    /// The next thing to send, in the order owed gaps, alarm, live, backlog.
    pub(crate) fn next(
        &mut self,
        alarm: &Log,
        data: &Log,
        names: &Names<'_>,
        budget: usize,
        backlog: bool,
    ) -> Option<(OfferId, Lane, Item)> {
        if let Some((key, at, first, last)) = self.owed.next() {
            let lane = match key.log {
                LogKind::Alarm => Lane::Alarm,
                LogKind::Data => Lane::Backlog,
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
        if let Some(taken) = self.alarm.next_loaded(budget) {
            return Some(self.offer(alarm, names, Lane::Alarm, taken));
        }
        if let Some(taken) = self.alarm.next_live(alarm, budget) {
            return Some(self.offer(alarm, names, Lane::Alarm, taken));
        }
        if let Some(taken) = self.data.next_live(data, budget) {
            return Some(self.offer(data, names, Lane::Live, taken));
        }
        if backlog && let Some(taken) = self.data.next_loaded(budget) {
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

    /// Forgets offers of numbers that are gone: their acks come too late.
    pub(crate) fn cancel(&mut self, kind: LogKind, gone: &[Lost]) {
        if gone.is_empty() {
            return;
        }
        self.in_flight.retain(|_, flight| match flight {
            InFlight::Numbers {
                log,
                line,
                first,
                last,
                ..
            } => {
                *log != kind
                    || !gone
                        .iter()
                        .any(|(l, a, b, _)| l == line && a <= last && b >= first)
            }
            InFlight::Owed { .. } => true,
        });
    }
}
