//! One uplink's position in one log: which numbers are settled, in flight, next.

mod offer;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Instant;

use millrace_tags::{DropReason, SourceId};

use super::again::Refused;
use super::marks::{Marks, Pending};
use super::{Directory, Loaded, Lost};
use crate::ledger::Counts;
use crate::log::{Batch, Content, LineKey, Log};
use crate::ranges::Ranges;

/// Backlog chunks that are read ahead for one uplink and log.
const PREFETCH_CHUNKS: usize = 2;

/// One uplink's position in one log.
#[derive(Default)]
pub(crate) struct Reader {
    pub(crate) settled: Ranges,
    /// What it has given up in chunks that are settled.
    pub(crate) refused: Refused,
    /// The last chunk from before it was added.
    pub(crate) begins: u64,
    pub(super) marks: HashMap<LineKey, Marks>,
    pub(super) pending: BTreeMap<u64, Pending>,
    /// Settled chunks that are still in the tail: their marks say that they are not to be offered again.
    pub(super) in_tail: BTreeMap<u64, Pending>,
    /// The oldest chunk in the tail.
    tail_from: u64,
    pub(crate) loaded: VecDeque<Loaded>,
    /// The lowest chunk that may have to be loaded.
    pub(crate) scan: u64,
    /// The next batch of the tail.
    pub(crate) live: u64,
    /// The I/O thread is asked to load a chunk.
    pub(crate) wants_chunk: bool,
    /// The chunk that it wants and that cannot be read just now.
    pub(crate) unread: Option<Unread>,
    pub(crate) counts: Vec<Counts>,
}

/// A chunk that could not be read, and may be later.
#[derive(Debug)]
pub(crate) struct Unread {
    pub(crate) chunk: u64,
    pub(crate) tries: u32,
    pub(crate) again_at: Instant,
    /// Why, a sentence.
    pub(crate) error: String,
}

impl Reader {
    /// When the buffer's thread is to load a chunk for it; `None`: not at all.
    pub(crate) fn load_at(&self, now: Instant) -> Option<Instant> {
        let again_at = self.unread.as_ref().map(|unread| unread.again_at);
        self.wants_chunk.then(|| again_at.unwrap_or(now))
    }

    pub(crate) fn counts(&mut self, source: SourceId) -> &mut Counts {
        let at = source.0 as usize;
        if at >= self.counts.len() {
            self.counts.resize(at + 1, Counts::default());
        }
        &mut self.counts[at]
    }

    /// How many records of a source were given up in chunks that are not settled, by reason.
    pub(crate) fn given_up(&self) -> impl Iterator<Item = (LineKey, DropReason, u64)> + '_ {
        self.marks.iter().flat_map(|(line, marks)| {
            let by_reason = marks.given_up.iter();
            by_reason.map(|(reason, ranges)| (*line, *reason, ranges.count()))
        })
    }

    /// What was given up as poison in chunks that are not settled.
    pub(crate) fn poison(&self) -> impl Iterator<Item = (LineKey, &Ranges)> {
        self.marks.iter().filter_map(|(line, marks)| {
            let numbers = marks.given_up.get(&DropReason::Poison)?;
            (!numbers.is_empty()).then_some((*line, numbers))
        })
    }

    /// Numbers of which an earlier run knew that they were given up as poison.
    pub(crate) fn restore_poison(&mut self, line: LineKey, first: u64, last: u64) {
        self.ack(line, first, last, false, Some(DropReason::Poison));
    }

    /// Numbers that are not to be offered, although nobody has them.
    pub(super) fn keep_aside(&mut self, line: LineKey, numbers: &Ranges) {
        self.marks.entry(line).or_default().taken.union(numbers);
    }

    /// Numbers that were set aside are to be offered again, from wherever they are.
    pub(super) fn offer_again(&mut self, line: LineKey, numbers: &Ranges, log: &Log) {
        if let Some(marks) = self.marks.get_mut(&line) {
            for (first, last) in numbers.iter() {
                marks.taken.remove(first, last);
            }
        }
        self.live = self.live.min(log.oldest());
        self.read_again_from(0);
    }

    /// Everything that is not acked is offered again; live begins with what is not committed.
    pub(super) fn restart(&mut self, log: &Log) {
        for marks in self.marks.values_mut() {
            marks.taken = marks.acked.clone();
        }
        self.read_again_from(0);
        self.wants_chunk = false;
        self.live = log.durable + 1;
        self.tail_begins(log.oldest_chunk());
        let marks = &self.marks;
        self.pending.retain(|_, p| touched(marks, &p.entries));
    }

    /// The chunk above which live data are served from the tail.
    fn backlog_end(&self, log: &Log) -> u64 {
        match log.batch(self.live) {
            Some(batch) if batch.chunk > 0 => batch.chunk - 1,
            _ => log.last_chunk,
        }
    }

    /// The next chunk that has to be loaded.
    pub(crate) fn next_chunk(&self, log: &Log) -> Option<u64> {
        let end = self.backlog_end(log);
        let mut from = self.scan.max(1);
        loop {
            let (first, last) = self.settled.first_free(from, end)?;
            match log.removed.first_free(first, last) {
                Some((number, _)) => return Some(number),
                None => from = last + 1,
            }
        }
    }

    /// Takes over a chunk that the I/O thread has read, if it is still the one that is wanted.
    pub(crate) fn load(&mut self, log: &Log, chunk: Loaded) {
        let (first, last) = (chunk.directory.number, chunk.directory.last);
        // A merged chunk of which a part was settled once is sent again as a whole.
        if self
            .next_chunk(log)
            .is_none_or(|next| next < first || next > last)
        {
            return;
        }
        self.scan = self.scan.max(chunk.directory.last + 1);
        self.track(&chunk.directory, true);
        // Where all of it is acked, it has just been settled, and its marks may be gone.
        if self.pending.contains_key(&first) {
            self.loaded.push_back(chunk);
        }
    }

    /// Follows a chunk until it is settled. Settles it at once where all of it is acked.
    pub(crate) fn track(&mut self, directory: &Directory, force: bool) {
        if self.settled.covers(directory.number, directory.last)
            || self.pending.contains_key(&directory.number)
        {
            return;
        }
        let mut entries: Vec<_> = directory
            .entries
            .iter()
            .map(|&(line, first, last, _)| (line, first, last))
            .collect();
        entries.sort_unstable();
        let mut remaining = 0;
        for &(line, first, last) in &entries {
            let acked = self.marks.get(&line).map(|m| m.acked.overlap(first, last));
            remaining += (last - first + 1) - acked.unwrap_or(0);
        }
        let pending = Pending {
            last: directory.last,
            entries,
            remaining,
        };
        if remaining == 0 {
            self.settle(directory.number, pending);
        } else if force || touched(&self.marks, &pending.entries) {
            self.pending.insert(directory.number, pending);
        }
    }

    fn settle(&mut self, number: u64, pending: Pending) {
        self.settled.insert(number, pending.last);
        self.loaded.retain(|l| l.directory.number != number);
        for &(line, first, last) in &pending.entries {
            if let Some(marks) = self.marks.get_mut(&line) {
                for (reason, numbers) in &marks.given_up {
                    for (a, b) in numbers.within(first, last) {
                        self.refused.insert(line, *reason, a, b);
                    }
                }
                marks.forget_given_up(first, last);
            }
        }
        if number >= self.tail_from {
            self.in_tail.insert(number, pending);
        } else {
            self.forget_marks(&pending);
        }
    }

    fn forget_marks(&mut self, pending: &Pending) {
        for &(line, first, last) in &pending.entries {
            if let Some(marks) = self.marks.get_mut(&line) {
                marks.forget(first, last);
            }
        }
    }

    pub(super) fn ack(
        &mut self,
        line: LineKey,
        first: u64,
        last: u64,
        void: bool,
        given_up: Option<DropReason>,
    ) {
        let marks = self.marks.entry(line).or_default();
        marks.acked.insert(first, last);
        let count = last - first + 1;
        if !void {
            if let Some(reason) = given_up {
                marks
                    .given_up
                    .entry(reason)
                    .or_default()
                    .insert(first, last);
            }
            let counts = self.counts(line.source);
            counts.queued = counts.queued.saturating_sub(count);
            match given_up {
                None => counts.acked += count,
                Some(reason) => counts.dropped.add(reason, count),
            }
        }
        let mut left = count;
        let mut done = Vec::new();
        for (number, pending) in &mut self.pending {
            let overlap = pending.overlap(line, first, last);
            pending.remaining = pending.remaining.saturating_sub(overlap);
            if pending.remaining == 0 {
                done.push(*number);
            }
            left = left.saturating_sub(overlap);
            if left == 0 {
                break;
            }
        }
        for number in done {
            if let Some(pending) = self.pending.remove(&number) {
                self.settle(number, pending);
            }
        }
    }

    pub(super) fn give_back(
        &mut self,
        line: LineKey,
        first: u64,
        last: u64,
        batch: u64,
        chunk: u64,
    ) {
        if let Some(marks) = self.marks.get_mut(&line) {
            marks.taken.remove(first, last);
        }
        if batch > 0 {
            self.live = self.live.min(batch);
        }
        // Where the batch has left the tail, its chunk is somewhere above the lowest unsettled one.
        self.read_again_from(chunk);
    }

    /// Chunks from `number` on are looked at again, and so is what was read ahead: it may lie below, and
    /// would be passed over.
    pub(super) fn read_again_from(&mut self, number: u64) {
        let loaded = self.loaded.drain(..).map(|l| l.directory.number);
        self.scan = loaded.chain([self.scan, number]).min().unwrap_or(0);
    }

    /// The tail lets go of a batch: what was not taken of it is backlog from now on.
    pub(crate) fn trimmed(&mut self, batch: &Batch) {
        if self.live <= batch.no {
            self.live = batch.no + 1;
            self.scan = self.scan.min(batch.chunk);
        }
    }

    /// The tail begins with chunk `oldest` now. Forgets chunks below it that are settled, and those that
    /// nothing was taken of: they are found again on the disk.
    pub(crate) fn tail_begins(&mut self, oldest: u64) {
        self.tail_from = oldest;
        while let Some(chunk) = self.in_tail.first_entry()
            && *chunk.key() < oldest
        {
            let chunk = chunk.remove();
            self.forget_marks(&chunk);
        }
        let (marks, loaded) = (&self.marks, &self.loaded);
        // What is still in the tail is not looked at: this runs with every commit.
        let gone = self.pending.range(..oldest).filter(|(number, p)| {
            !loaded.iter().any(|l| l.directory.number == **number) && !touched(marks, &p.entries)
        });
        let gone: Vec<u64> = gone.map(|(number, _)| *number).collect();
        for number in gone {
            self.pending.remove(&number);
        }
    }

    /// A chunk is gone: returns what this uplink has not got of each entry, and forgets the chunk.
    pub(crate) fn drop_chunk(&mut self, directory: &Directory) -> Vec<Lost> {
        self.refused.forget(directory);
        if self.settled.covers(directory.number, directory.last) {
            return Vec::new();
        }
        self.pending.remove(&directory.number);
        self.loaded
            .retain(|l| l.directory.number != directory.number);
        let mut lost = Vec::new();
        for &(line, first, last, void) in &directory.entries {
            let free = match self.marks.get_mut(&line) {
                None => vec![(first, last)],
                Some(marks) => {
                    let free = marks.acked.free(first, last);
                    marks.forget(first, last);
                    free
                }
            };
            lost.extend(free.into_iter().map(|(a, b)| (line, a, b, void)));
        }
        lost
    }

    /// Whether nothing of these chunks was settled, is being delivered, or is in memory.
    pub(crate) fn untouched(&self, first: u64, last: u64) -> bool {
        let apart = |chunk: Option<(&u64, &Pending)>| chunk.is_none_or(|(_, p)| p.last < first);
        let loaded = |l: &Loaded| l.directory.number <= last && l.directory.last >= first;
        self.settled.within(first, last).next().is_none()
            && apart(self.pending.range(..=last).next_back())
            && apart(self.in_tail.range(..=last).next_back())
            && !self.loaded.iter().any(loaded)
    }

    /// What a chunk held that is being delivered.
    pub(crate) fn pending_directory(&self, number: u64) -> Option<Directory> {
        let pending = self.pending.get(&number)?;
        let entries = pending.entries.iter();
        Some(Directory {
            number,
            last: pending.last,
            entries: entries.map(|&(l, a, b)| (l, a, b, None)).collect(),
        })
    }

    /// Whether every number of a batch is acked.
    pub(crate) fn has_all(&self, batch: &Batch) -> bool {
        let marks = self.marks.get(&batch.line);
        marks.is_some_and(|m| m.acked.covers(batch.first, batch.last))
    }

    /// Forgets the marks of a batch that leaves without ever being in a chunk.
    pub(crate) fn released(&mut self, batch: &Batch) {
        if let Some(marks) = self.marks.get_mut(&batch.line) {
            marks.forget(batch.first, batch.last);
        }
    }

    /// Asks for a chunk to be read ahead; `true` where the I/O thread has to be told.
    pub(crate) fn ask(&mut self, log: &Log) -> bool {
        if self.wants_chunk
            || self.loaded.len() >= PREFETCH_CHUNKS
            || self.next_chunk(log).is_none()
        {
            return false;
        }
        self.wants_chunk = true;
        true
    }

    /// All numbers that are acked although their chunk is not settled, by line.
    pub(crate) fn all_acked(&self) -> impl Iterator<Item = (LineKey, &Ranges)> {
        self.marks.iter().map(|(line, marks)| (*line, &marks.acked))
    }

    /// Records in the tail that wait to be sent live.
    pub(crate) fn live_records(&self, log: &Log) -> u64 {
        let tail = (self.live.max(log.oldest())..=log.newest()).map_while(|no| log.batch(no));
        let records = tail.filter(|batch| matches!(batch.content, Content::Records(_)));
        let waiting = |batch: &Batch| {
            let marks = self.marks.get(&batch.line);
            let taken = marks.map_or(0, |marks| marks.taken.overlap(batch.first, batch.last));
            batch.count() - taken
        };
        records.map(waiting).sum()
    }
}

fn touched(marks: &HashMap<LineKey, Marks>, entries: &[(LineKey, u64, u64)]) -> bool {
    entries.iter().any(|&(line, first, last)| {
        let marks = marks.get(&line);
        marks.is_some_and(|m| m.taken.within(first, last).next().is_some())
    })
}
