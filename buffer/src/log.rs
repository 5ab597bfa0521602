//! One of the two logs, as far as it is in memory: number lines and the tail.
//!
//! The tail holds what was appended lately: first what is committed and may still be sent live, then
//! what the next commit will write. Batches have numbers of their own, so that readers keep a position
//! while the tail moves.

mod snapshot;

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use millrace_tags::{DropReason, LogKind, SourceId, StreamId, Timebase};

use crate::chunk::Shared;
use crate::ledger::Totals;
use crate::ranges::Ranges;
use crate::settings::WhenFull;
pub(crate) use snapshot::Snapshot;

/// Committed data stay in memory for live sending this long and this large; beyond, they are backlog.
const LIVE_LAG_MAX: Duration = Duration::from_secs(2);
const LIVE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Uncommitted data beyond this are refused and counted: what a failing disk may cost in memory.
pub(crate) const OPEN_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A line in one stream; streams are numbered by their position in [`Log::streams`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct LineKey {
    pub(crate) stream: u32,
    pub(crate) source: SourceId,
}

/// What an appended batch holds.
#[derive(Debug, Clone)]
pub(crate) enum Content {
    Records(Shared),
    /// Numbers that never come.
    Void(DropReason),
}

/// Consecutive numbers of one source that were appended together.
#[derive(Debug, Clone)]
pub(crate) struct Batch {
    pub(crate) no: u64,
    pub(crate) line: LineKey,
    pub(crate) first: u64,
    pub(crate) last: u64,
    /// Position of number `first` in the records.
    pub(crate) skip: usize,
    pub(crate) content: Content,
    pub(crate) timebase: Timebase,
    pub(crate) bytes: usize,
    /// The chunk that its first number was committed in; 0 until then.
    pub(crate) chunk: u64,
    committed_at: Option<Instant>,
}

impl Batch {
    pub(crate) fn count(&self) -> u64 {
        self.last - self.first + 1
    }

    /// The positions of `first..=last` in the records.
    pub(crate) fn positions(&self, first: u64, last: u64) -> std::ops::Range<usize> {
        let from = self.skip + (first - self.first) as usize;
        from..from + (last - first + 1) as usize
    }
}

/// Where a source stands in the current stream.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Numbers {
    /// The last number given.
    pub(crate) last: u64,
    /// The last number that may be offered to uplinks.
    pub(crate) limit: u64,
}

/// One log.
pub(crate) struct Log {
    pub(crate) kind: LogKind,
    pub(crate) streams: Vec<StreamId>,
    /// The stream that numbers are given in.
    pub(crate) current: u32,
    /// The current stream exists in memory only: nothing of it can be given twice after a crash.
    pub(crate) volatile: bool,
    /// There is no room for more, and this gives way: not what is there already.
    pub(crate) full: Option<WhenFull>,
    numbers: Vec<Numbers>,
    /// Limits of lines in streams that are not current any more.
    old_limits: HashMap<LineKey, u64>,
    tail: VecDeque<Batch>,
    /// Number of the first batch in the tail.
    first_no: u64,
    /// The last batch that is durable.
    pub(crate) durable: u64,
    /// The last batch that a running commit has taken.
    taken: u64,
    /// The void that a line's refused numbers join, while no commit has taken it.
    open_voids: HashMap<LineKey, u64>,
    pub(crate) open_bytes: usize,
    pub(crate) open_records: u64,
    committed_bytes: usize,
    /// The last chunk that is durable.
    pub(crate) last_chunk: u64,
    /// Chunk numbers that are gone.
    pub(crate) removed: Ranges,
    /// Where lines stood when their chunks were removed.
    pub(crate) ends: HashMap<(StreamId, SourceId), u64>,
    /// Which of their numbers went with the chunks.
    pub(crate) gone: HashMap<(StreamId, SourceId), Ranges>,
    pub(crate) totals: Vec<Totals>,
}

impl Log {
    pub(crate) fn new(kind: LogKind, stream: StreamId) -> Self {
        Self {
            kind,
            streams: vec![stream],
            current: 0,
            volatile: false,
            full: None,
            numbers: Vec::new(),
            old_limits: HashMap::new(),
            tail: VecDeque::new(),
            first_no: 1,
            durable: 0,
            taken: 0,
            open_voids: HashMap::new(),
            open_bytes: 0,
            open_records: 0,
            committed_bytes: 0,
            last_chunk: 0,
            removed: Ranges::default(),
            ends: HashMap::new(),
            gone: HashMap::new(),
            totals: Vec::new(),
        }
    }

    pub(crate) fn stream_of(&self, line: LineKey) -> StreamId {
        self.streams[line.stream as usize]
    }

    /// The stream that numbers are given in.
    pub(crate) fn writes(&self) -> StreamId {
        self.streams[self.current as usize]
    }

    /// The last number that a source was given in it.
    pub(crate) fn last_of(&self, source: SourceId) -> u64 {
        let numbers = self.numbers.get(source.0 as usize);
        numbers.map_or(0, |numbers| numbers.last)
    }

    /// The position of a stream, given now if it has none.
    pub(crate) fn stream(&mut self, id: StreamId) -> u32 {
        if let Some(at) = self.streams.iter().rposition(|s| *s == id) {
            return at as u32;
        }
        self.streams.push(id);
        self.streams.len() as u32 - 1
    }

    pub(crate) fn numbers(&mut self, source: SourceId) -> &mut Numbers {
        let at = source.0 as usize;
        if at >= self.numbers.len() {
            self.numbers.resize(at + 1, Numbers::default());
        }
        &mut self.numbers[at]
    }

    pub(crate) fn totals(&mut self, source: SourceId) -> &mut Totals {
        let at = source.0 as usize;
        if at >= self.totals.len() {
            self.totals.resize(at + 1, Totals::default());
        }
        &mut self.totals[at]
    }

    /// The last number of a line that may be offered.
    pub(crate) fn limit(&self, line: LineKey) -> u64 {
        if line.stream == self.current {
            if self.volatile {
                return u64::MAX;
            }
            let numbers = self.numbers.get(line.source.0 as usize);
            numbers.map_or(0, |n| n.limit)
        } else {
            self.old_limits.get(&line).copied().unwrap_or(0)
        }
    }

    /// The last batch that was appended.
    pub(crate) fn newest(&self) -> u64 {
        self.first_no + self.tail.len() as u64 - 1
    }

    pub(crate) fn oldest(&self) -> u64 {
        self.first_no
    }

    pub(crate) fn batch(&self, no: u64) -> Option<&Batch> {
        self.tail.get(no.checked_sub(self.first_no)? as usize)
    }

    /// The oldest chunk that has something in the tail.
    pub(crate) fn oldest_chunk(&self) -> u64 {
        match self.tail.front() {
            Some(batch) if batch.chunk > 0 => batch.chunk,
            _ => self.last_chunk + 1,
        }
    }

    /// What is not committed yet.
    pub(crate) fn open(&self) -> impl Iterator<Item = &Batch> {
        let from = (self.durable + 1).saturating_sub(self.first_no) as usize;
        self.tail.range(from.min(self.tail.len())..)
    }

    /// Those of a line's numbers that no open batch holds.
    pub(crate) fn committed_of(&self, line: LineKey, numbers: &Ranges) -> Ranges {
        let mut committed = numbers.clone();
        for batch in self.open().filter(|batch| batch.line == line) {
            committed.remove(batch.first, batch.last);
        }
        committed
    }

    /// Whether all that is open is what was refused for lack of room: it need not be written soon, and it
    /// must not be, since every commit takes room.
    pub(crate) fn only_refused(&self) -> bool {
        let refused = |batch: &Batch| matches!(batch.content, Content::Void(DropReason::Newest));
        self.full.is_some() && self.open_records == 0 && self.open().all(refused)
    }

    /// Gives numbers to records, or to their loss where there is no room for them or memory is full.
    /// `true`: they were taken. `held`: the source stops by itself where it is told to, so that what it
    /// has read before that is taken.
    pub(crate) fn append(
        &mut self,
        source: SourceId,
        records: Shared,
        bytes: usize,
        timebase: Timebase,
        held: bool,
    ) -> bool {
        let count = match &records {
            Shared::Samples(samples) => samples.len(),
            Shared::Events(events) => events.len(),
        } as u64;
        let refused = match self.full {
            None | Some(WhenFull::DropOldest) => false,
            Some(WhenFull::DropNewest) => true,
            Some(WhenFull::Block) => !held,
        };
        if refused || self.open_bytes.saturating_add(bytes) > OPEN_BYTES_MAX {
            self.void(source, count, DropReason::Newest, timebase);
            return false;
        }
        self.totals(source).records += count;
        self.push(source, count, Content::Records(records), bytes, timebase);
        self.open_records += count;
        true
    }

    /// Gives numbers that never come.
    pub(crate) fn void(
        &mut self,
        source: SourceId,
        count: u64,
        reason: DropReason,
        timebase: Timebase,
    ) {
        self.totals(source).voids.add(reason, count);
        let line = LineKey {
            stream: self.current,
            source,
        };
        let open = self.open_voids.get(&line).copied();
        if let Some(at) = open.filter(|no| *no > self.taken && *no >= self.first_no)
            && let Some(batch) = self.tail.get_mut((at - self.first_no) as usize)
            && matches!(batch.content, Content::Void(r) if r == reason)
        {
            batch.last += count;
            self.numbers(source).last += count;
            return;
        }
        self.push(source, count, Content::Void(reason), 0, timebase);
        let newest = self.newest();
        self.open_voids.insert(line, newest);
    }

    fn push(
        &mut self,
        source: SourceId,
        count: u64,
        content: Content,
        bytes: usize,
        timebase: Timebase,
    ) {
        let numbers = self.numbers(source);
        let first = numbers.last + 1;
        numbers.last += count;
        let line = LineKey {
            stream: self.current,
            source,
        };
        if !self.open_voids.is_empty() {
            self.open_voids.remove(&line);
        }
        self.tail.push_back(Batch {
            no: self.newest() + 1,
            line,
            first,
            last: first + count - 1,
            skip: 0,
            content,
            timebase,
            bytes,
            chunk: 0,
            committed_at: None,
        });
        self.open_bytes += bytes;
    }

    /// Takes the oldest committed batch off the tail, if it need not stay for live sending.
    pub(crate) fn trim(&mut self, passed: u64) -> Option<Batch> {
        let front = self.tail.front()?;
        let due = front.no <= passed
            || self.committed_bytes > LIVE_BYTES_MAX
            || front
                .committed_at
                .is_some_and(|at| at.elapsed() > LIVE_LAG_MAX);
        if front.no > self.durable || !due {
            return None;
        }
        let batch = self.tail.pop_front()?;
        self.first_no += 1;
        self.committed_bytes -= batch.bytes;
        Some(batch)
    }

    /// Takes the oldest batch off the tail although no commit has written it: every uplink has it.
    pub(crate) fn release(&mut self) -> Option<Batch> {
        let batch = self.tail.pop_front()?;
        self.first_no += 1;
        self.durable = self.durable.max(batch.no);
        self.open_bytes -= batch.bytes;
        let count = batch.count();
        match batch.content {
            Content::Records(_) => {
                self.open_records -= count;
                self.totals(batch.line.source).removed += count;
            }
            Content::Void(reason) => {
                self.totals(batch.line.source)
                    .removed_voids
                    .add(reason, count);
            }
        }
        Some(batch)
    }
}
