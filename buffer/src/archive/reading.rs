//! Going through the chunks of a log, from either end, while the store changes.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use millrace_tags::{Lane, LogKind, Parcel, StreamId, Timestamp};

use super::epoch::{Opened, Place};
use super::{Archive, Order, Piece, Progress, Selection};
use crate::chunk::{Frame, unpack};
use crate::ranges::Ranges;
use crate::scan::Found;

/// The chunks of a log, each once.
pub(super) struct Walk<'a> {
    archive: &'a Archive,
    log: LogKind,
    order: Order,
    from: Option<Timestamp>,
    /// Epochs that are still to be opened, the next one in front.
    places: VecDeque<Place>,
    /// The epoch that is read, and the chunks of it that remain.
    open: Option<(Opened, VecDeque<Found>)>,
    /// The epoch that could not be opened last.
    failed: Option<u64>,
    /// Chunks up to this number are left out.
    after: u64,
    /// Chunk numbers that were handed out, and those that are gone for good.
    done: Ranges,
    pub(super) progress: Progress,
}

impl<'a> Walk<'a> {
    pub(super) fn new(
        archive: &'a Archive,
        log: LogKind,
        order: Order,
        from: Option<Timestamp>,
    ) -> Self {
        let mut walk = Self {
            archive,
            log,
            order,
            from,
            places: VecDeque::new(),
            open: None,
            failed: None,
            after: 0,
            done: archive.state.log(log).removed.clone(),
            progress: Progress::default(),
        };
        walk.list();
        walk
    }

    /// Lists the epochs as they are now.
    fn list(&mut self) {
        let mut places = self.archive.places(self.log);
        let begins = |place: &Place| place.first <= self.after + 1;
        let first = places.iter().filter(|place| begins(place)).map(|p| p.first);
        let first = first.max().unwrap_or(0);
        places.retain(|place| place.first >= first);
        self.places = places.into();
        if self.order == Order::NewestFirst {
            self.places.make_contiguous().reverse();
        }
        let left: u64 = self.places.iter().map(|p| p.bytes).sum();
        self.progress.total_bytes = self.progress.done_bytes + left;
    }

    /// The next chunk, and the epoch that it is in.
    pub(super) fn next(&mut self) -> Option<(&Place, Found)> {
        while self.open.as_ref().is_none_or(|(_, left)| left.is_empty()) {
            if let Some((done, _)) = self.open.take() {
                self.progress.done_bytes += done.place.bytes;
            }
            self.open_next()?;
        }
        let (opened, left) = self.open.as_mut()?;
        let found = left.pop_front()?;
        self.done.insert(found.number, found.last_number());
        Some((&opened.place, found))
    }

    /// Opens the next epoch that has something new; `None`: there is none.
    fn open_next(&mut self) -> Option<()> {
        let place = self.places.pop_front()?;
        let passed = place.summary().is_some_and(|s| {
            let boots = &self.archive.state.boots;
            let undated = s.undated();
            let mut times = undated.iter().map(|&(boot, at)| {
                let unset = millrace_tags::Timebase {
                    boot,
                    offset_ns: None,
                };
                boots.complete(unset).utc(at)
            });
            let early = |time: Option<Timestamp>| time.zip(self.from).is_some_and(|(t, f)| t < f);
            let too_early = early(s.newest) && times.all(early);
            too_early || self.done.covers(s.first, s.last)
        });
        if passed {
            self.progress.done_bytes += place.bytes;
            return Some(());
        }
        let Some(opened) = place.open(self.log) else {
            // It is gone: removed, or merged with others into one that is in the list now. What was
            // read already is passed over. One that fails twice is there and cannot be read.
            if self.failed.replace(place.first) != Some(place.first) {
                self.list();
            }
            return Some(());
        };
        let done = &self.done;
        let new = |c: &&Found| !done.covers(c.number, c.last_number());
        let mut chunks: VecDeque<Found> = opened.chunks.iter().filter(new).cloned().collect();
        if self.order == Order::NewestFirst {
            chunks.make_contiguous().reverse();
        }
        self.open = Some((opened, chunks));
        Some(())
    }
}

/// The records of a log; see [`Archive::read`].
pub struct Reading<'a> {
    walk: Walk<'a>,
    selection: Selection<'a>,
    /// Numbers that were handed out: merged chunks and those that they were made of can lie on the disk
    /// together.
    given: HashMap<(StreamId, Arc<str>), Ranges>,
    ready: VecDeque<Piece>,
}

impl<'a> Reading<'a> {
    pub(super) fn new(archive: &'a Archive, selection: Selection<'a>) -> Self {
        Self {
            walk: Walk::new(archive, selection.log, selection.order, selection.from),
            selection,
            given: HashMap::new(),
            ready: VecDeque::new(),
        }
    }

    /// Leaves out chunks up to this number, without a look at them.
    pub fn after(mut self, chunk: u64) -> Self {
        self.walk.after = chunk;
        self.walk.done.insert(0, chunk);
        self.walk.list();
        self
    }

    /// How far it has come.
    pub fn progress(&self) -> Progress {
        self.walk.progress
    }

    /// Unpacks a chunk; `None`: it is damaged.
    fn unpack(&mut self, found: &Found) -> Option<()> {
        let (opened, _) = self.walk.open.as_ref()?;
        let boots = &self.walk.archive.state.boots;
        let timebase = boots.complete(found.timebase);
        let early = |time: Timestamp| self.selection.from.is_some_and(|from| time < from);
        let wanted: Vec<(Arc<str>, bool)> = found
            .entries
            .iter()
            .map(|e| {
                let name = opened.source(e.source);
                let wanted = e.void.is_none() && (self.selection.source)(&name);
                (name, wanted)
            })
            .collect();
        let asked = wanted.iter().any(|(_, wanted)| *wanted);
        if found.len > 0 && (!asked || timebase.utc(found.newest).is_some_and(early)) {
            return Some(());
        }
        let bytes = opened.frame(found)?;
        let frame = Frame::parse(&bytes).ok()?;
        if frame.header.number != found.number || frame.entries != found.entries {
            return None;
        }
        let mut runs = unpack(&frame).ok()?.into_iter();
        for (entry, (source, wanted)) in found.entries.iter().zip(wanted) {
            if entry.void.is_some() {
                continue;
            }
            let run = runs.next()?;
            if !wanted {
                continue;
            }
            let line = (found.stream, source.clone());
            let given = self.given.entry(line).or_default();
            for (first, last) in given.free(entry.first, entry.last()) {
                let from = (first - entry.first) as usize;
                let to = (last - entry.first + 1) as usize;
                let records = run.cut(from..to)?;
                self.ready.push_back(Piece {
                    chunk: found.number,
                    parcel: Parcel {
                        source: source.clone(),
                        stream: found.stream,
                        log: self.selection.log,
                        lane: Lane::Backlog,
                        first_seq: first,
                        timebase,
                        tags: opened.tags.clone(),
                        records,
                    },
                });
            }
            given.insert(entry.first, entry.last());
        }
        Some(())
    }
}

impl Iterator for Reading<'_> {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        while self.ready.is_empty() {
            let (_, found) = self.walk.next()?;
            if self.unpack(&found).is_none() {
                self.walk.progress.damaged_chunks += 1;
            }
        }
        self.ready.pop_front()
    }
}
