//! What a commit takes of a log, and what becomes of the log with it or without: a stream whose commit failed is left.

use std::collections::HashMap;
use std::time::Instant;

use millrace_tags::{DropReason, SourceId, StreamId};
use uuid::Uuid;

use super::{Batch, Content, LineKey, Log, Numbers};

/// Numbers that a source may be ahead of its last commit at least: idle sources start at once.
const AHEAD_MIN: u64 = 256;

/// How many times its last commit a source may be ahead: room for a slow disk.
const AHEAD_COMMITS: u64 = 4;

/// What a commit takes.
pub(crate) struct Snapshot {
    pub(crate) batches: Vec<Batch>,
    /// The last batch of it.
    pub(crate) through: u64,
    /// The limit of each line once it is durable.
    pub(crate) limits: HashMap<LineKey, u64>,
    /// The stream has existed in memory only: where each of its lines stood before the snapshot and what
    /// may have been offered, since no commit has said so yet.
    pub(crate) unsaid: Option<Vec<(SourceId, u64, u64)>>,
}

impl Log {
    /// Hands everything that is open to a commit.
    ///
    /// From here on no line may be offered further than both its old and its new limit: whether the
    /// commit becomes durable or not, the numbers after a restart begin above both.
    pub(crate) fn snapshot(&mut self) -> Snapshot {
        let batches: Vec<Batch> = self.open().cloned().collect();
        let unsaid = self.volatile.then(|| self.hold());
        let mut sums: HashMap<LineKey, (u64, u64)> = HashMap::new();
        for batch in &batches {
            let (count, end) = sums.entry(batch.line).or_default();
            *end = batch.last;
            // What a crash took says nothing about the rate of the source.
            if !matches!(batch.content, Content::Void(DropReason::Crash)) {
                *count += batch.count();
            }
        }
        let mut limits = HashMap::with_capacity(sums.len());
        for (line, (count, end)) in sums {
            let ahead = match count {
                0 => 0,
                _ => AHEAD_MIN.max(count.saturating_mul(AHEAD_COMMITS)),
            };
            let limit = end.saturating_add(ahead);
            limits.insert(line, limit);
            if line.stream == self.current {
                let numbers = self.numbers(line.source);
                numbers.limit = numbers.limit.min(limit);
            }
        }
        self.taken = self.newest();
        self.open_voids.clear();
        Snapshot {
            batches,
            through: self.taken,
            limits,
            unsaid,
        }
    }

    /// Ends the freedom of a stream that is in memory only: from here on nothing is offered beyond what
    /// the coming commit says. Returns where the lines stand on the disk until then, and what may have
    /// been offered.
    fn hold(&mut self) -> Vec<(SourceId, u64, u64)> {
        self.volatile = false;
        let mut lines = Vec::new();
        for at in 0..self.numbers.len() {
            let source = SourceId(at as u32);
            let numbers = &mut self.numbers[at];
            numbers.limit = numbers.last;
            let given = numbers.last;
            let mut open = self.open();
            let open = open.find(|b| b.line.stream == self.current && b.line.source == source);
            let last = open.map_or(given, |batch| batch.first - 1);
            if given > 0 {
                lines.push((source, last, given));
            }
        }
        lines
    }

    /// Notes that a snapshot could not be written. `traces`: what was tried may be found on the disk
    /// after a crash, so no number beyond what it says may be offered.
    pub(crate) fn failed(&mut self, snapshot: &Snapshot, traces: bool) {
        match snapshot.unsaid.is_some() && !traces {
            true => self.volatile = true,
            false => self.leave_stream(),
        }
    }

    /// Notes that a snapshot is durable. `chunk_of` names the chunk of each batch, in order.
    pub(crate) fn committed(&mut self, snapshot: &Snapshot, chunk_of: &[u64], last_chunk: u64) {
        let now = Instant::now();
        for (batch, chunk) in snapshot.batches.iter().zip(chunk_of) {
            let Some(at) = batch.no.checked_sub(self.first_no) else {
                continue;
            };
            if let Some(batch) = self.tail.get_mut(at as usize) {
                batch.chunk = *chunk;
                batch.committed_at = Some(now);
                self.open_bytes -= batch.bytes;
                self.committed_bytes += batch.bytes;
                if matches!(batch.content, Content::Records(_)) {
                    self.open_records -= batch.count();
                }
            }
        }
        for (line, limit) in &snapshot.limits {
            if line.stream == self.current {
                self.numbers(line.source).limit = *limit;
            } else {
                self.old_limits.insert(*line, *limit);
            }
        }
        self.volatile = false;
        self.durable = snapshot.through;
        self.last_chunk = last_chunk;
    }

    /// Nothing is known of what a commit has begun.
    pub(crate) fn broke_down(&mut self) {
        if !self.volatile {
            self.leave_stream();
        }
    }

    /// Goes on in a fresh stream that is in memory only, because the disk refuses.
    ///
    /// What nobody can have seen, numbers beyond the limit, moves to the fresh stream, so that it can be
    /// offered.
    fn leave_stream(&mut self) {
        let old = self.current;
        let mut limits: Vec<Numbers> = std::mem::take(&mut self.numbers);
        for batch in self.open() {
            // What a crash took belongs to this stream, and may be said at any time: it never comes.
            if batch.line.stream == old
                && matches!(batch.content, Content::Void(DropReason::Crash))
                && let Some(numbers) = limits.get_mut(batch.line.source.0 as usize)
            {
                numbers.limit = numbers.limit.max(batch.last);
            }
        }
        for (source, numbers) in limits.iter().enumerate() {
            let line = LineKey {
                stream: old,
                source: SourceId(source as u32),
            };
            self.old_limits.insert(line, numbers.limit);
        }
        self.streams.push(StreamId(Uuid::new_v4()));
        self.current = self.streams.len() as u32 - 1;
        self.volatile = true;
        self.open_voids.clear();
        let from = (self.durable + 1).saturating_sub(self.first_no) as usize;
        let open = self.tail.split_off(from.min(self.tail.len()));
        for batch in open {
            let limit = match batch.line.stream == old {
                true => limits
                    .get(batch.line.source.0 as usize)
                    .map_or(0, |n| n.limit),
                false => u64::MAX,
            };
            self.move_beyond(batch, limit);
        }
    }

    /// Puts a batch back; what of it lies beyond `limit` goes to the current stream.
    fn move_beyond(&mut self, batch: Batch, limit: u64) {
        if batch.last <= limit {
            let no = self.newest() + 1;
            self.tail.push_back(Batch { no, ..batch });
            return;
        }
        let kept = (limit + 1).saturating_sub(batch.first);
        let mut moved = batch.clone();
        if kept > 0 {
            let no = self.newest() + 1;
            let kept_bytes = batch.bytes / 2;
            moved.bytes -= kept_bytes;
            self.tail.push_back(Batch {
                no,
                last: limit,
                bytes: kept_bytes,
                ..batch
            });
        }
        let count = moved.count() - kept;
        moved.skip += kept as usize;
        moved.line.stream = self.current;
        let numbers = self.numbers(moved.line.source);
        moved.first = numbers.last + 1;
        numbers.last += count;
        moved.last = numbers.last;
        moved.no = self.newest() + 1;
        self.tail.push_back(moved);
    }
}
