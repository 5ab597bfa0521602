//! Everything in memory, behind one lock: the logs, the uplinks, and the work for the buffer's thread.

mod durable;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use millrace_tags::{DropReason, LogKind, Moment, SourceId, StreamId, Timebase, Timestamp};
use thiserror::Error;
use uuid::Uuid;

use crate::boots::Boots;
use crate::catalogue::Registry;
use crate::disk::Space;
use crate::epoch::StoreError;
use crate::ledger::{Counts, Ledger, Row, Totals, UplinkLedger};
use crate::log::{Content, Log, Snapshot};
use crate::outbox::Start;
use crate::owed::OwedKey;
use crate::purge::{Purge, PurgeError, Purged};
use crate::replay::{Replay, ReplayError, Replayed};
use crate::settings::WhenFull;
use crate::uplink::{Directory, Reader, Uplink};

/// Why a commit failed. What was appended is still in memory and is tried again.
#[derive(Debug, Clone, Error)]
pub enum CommitError {
    /// The store could not be written. Free the disk, or see what the file system says.
    #[error("the {} log cannot be written", log.name())]
    Store {
        /// Which log.
        log: LogKind,
        /// Why.
        #[source]
        source: Arc<StoreFailure>,
    },
    /// The buffer's thread panicked: a mistake of this program, which the log has. It goes on in memory,
    /// and tries again.
    #[error("the buffer's thread panicked")]
    Panicked,
    /// The buffer is closed.
    #[error("the buffer is closed")]
    Closed,
}

/// What the store says of its failure.
#[derive(Debug, Error)]
#[error(transparent)]
pub struct StoreFailure(#[from] pub(crate) StoreError);

/// Why a recount failed.
#[derive(Debug, Clone, Error)]
pub enum VerifyError {
    /// A file of the store could not be read.
    #[error("the {} log cannot be read", log.name())]
    Store {
        /// Which log.
        log: LogKind,
        /// Why.
        #[source]
        source: Arc<StoreFailure>,
    },
    /// The buffer is closed.
    #[error("the buffer is closed")]
    Closed,
}

/// Work that callers ask the buffer's thread for.
pub(crate) enum Request {
    Commit(Sender<Result<(), CommitError>>),
    Verify(Sender<Result<Ledger, VerifyError>>),
    /// Merges all epochs that can be now, and tells how many went into others.
    Rechunk(Sender<(u64, Vec<Duration>)>),
    NewUplink(Arc<str>, Start, Sender<()>),
    /// The clock of a boot has become known.
    ClockKnown,
    Save,
    Close(Sender<Result<(), CommitError>>),
    Replay(
        Option<Arc<str>>,
        Replay,
        Sender<Result<Replayed, ReplayError>>,
    ),
    Purge(Purge, Sender<Result<Purged, PurgeError>>),
    /// Ends the thread as a crash would.
    Crash,
}

/// What the files of a log amount to.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Figures {
    pub(crate) bytes: u64,
    pub(crate) epochs: u64,
    pub(crate) chunks: u64,
    /// Time of the newest record in the oldest epoch.
    pub(crate) oldest: Option<Timestamp>,
    /// Of the bytes: what every uplink has settled, kept for a replay.
    pub(crate) kept: u64,
    /// How fast it grows.
    pub(crate) bytes_per_hour: Option<u64>,
    /// How much it may grow before something has to give way; settled data do not count.
    pub(crate) room: u64,
}

pub(crate) struct Core {
    pub(crate) registry: Registry,
    pub(crate) alarm: Log,
    pub(crate) data: Log,
    pub(crate) uplinks: BTreeMap<Arc<str>, Uplink>,
    pub(crate) requests: VecDeque<Request>,
    /// A commit should not wait for its interval.
    pub(crate) commit_now: bool,
    /// Since when something waits for a commit.
    pub(crate) open_since: Option<Instant>,
    /// While the buffer's thread sleeps: it wakes in time by itself for what is appended after this.
    pub(crate) wakes_for: Option<Instant>,
    pub(crate) failure: Option<CommitError>,
    pub(crate) last_commit: Option<Moment>,
    pub(crate) closed: bool,
    /// Numbers that recovery found void and that no commit has written yet.
    pub(crate) pending_voids: Vec<(LogKind, SourceId, u64)>,
    pub(crate) alarm_figures: Figures,
    pub(crate) data_figures: Figures,
    /// Where boots stand in UTC.
    pub(crate) boots: Boots,
    /// What the file system said last, and how much of it stays free.
    pub(crate) space: Option<Space>,
    pub(crate) reserve: u64,
    /// The newest id of what was set aside.
    pub(crate) last_aside: u64,
}

impl Core {
    pub(crate) fn new() -> Self {
        Self {
            registry: Registry::default(),
            alarm: Log::new(LogKind::Alarm, StreamId(Uuid::new_v4())),
            data: Log::new(LogKind::Data, StreamId(Uuid::new_v4())),
            uplinks: BTreeMap::new(),
            requests: VecDeque::new(),
            commit_now: false,
            open_since: None,
            wakes_for: None,
            failure: None,
            last_commit: None,
            closed: false,
            pending_voids: Vec::new(),
            alarm_figures: Figures::default(),
            data_figures: Figures::default(),
            boots: Boots::default(),
            space: None,
            reserve: 0,
            last_aside: 0,
        }
    }

    pub(crate) fn log(&self, kind: LogKind) -> &Log {
        match kind {
            LogKind::Alarm => &self.alarm,
            LogKind::Data => &self.data,
        }
    }

    pub(crate) fn log_mut(&mut self, kind: LogKind) -> &mut Log {
        match kind {
            LogKind::Alarm => &mut self.alarm,
            LogKind::Data => &mut self.data,
        }
    }

    pub(crate) fn figures(&mut self, kind: LogKind) -> &mut Figures {
        match kind {
            LogKind::Alarm => &mut self.alarm_figures,
            LogKind::Data => &mut self.data_figures,
        }
    }

    /// Says what happens to what is appended now: `None`: it is taken.
    pub(crate) fn set_full(&mut self, kind: LogKind, full: Option<WhenFull>) {
        let log = self.log_mut(kind);
        if log.full == full {
            return;
        }
        log.full = full;
        match full {
            Some(_) => tracing::warn!(log = kind.name(), "the store has no room: data are refused"),
            None => tracing::info!(log = kind.name(), "the store has room again"),
        }
        // What was refused meanwhile is written down with the next commit.
        if full.is_none() && log.open().next().is_some() {
            self.open_since = self.open_since.or(Some(Instant::now()));
        }
    }

    /// Whether sources that can wait may go on.
    pub(crate) fn has_room(&self, when_full: WhenFull) -> bool {
        when_full != WhenFull::Block || (self.data.full.is_none() && self.failure.is_none())
    }

    /// Lets go of what is committed and still in memory: it is read from the disk from now on.
    pub(crate) fn let_tail_go(&mut self, kind: LogKind) {
        self.trim_through(kind, u64::MAX);
    }

    /// The wake functions of the uplinks that wait, to be called when the lock is gone.
    pub(crate) fn wakes(&mut self) -> Vec<Arc<dyn Fn() + Send + Sync>> {
        let idle = self.uplinks.values_mut().filter(|u| u.idle);
        idle.filter_map(|u| {
            u.idle = false;
            u.wake.clone()
        })
        .collect()
    }

    /// Takes note of where a boot stands in UTC. `true`: it has become known just now, and the buffer's
    /// thread has something to do.
    pub(crate) fn learn(&mut self, timebase: Timebase) -> bool {
        let news = self.boots.learn(timebase);
        if news {
            self.requests.push_back(Request::ClockKnown);
        }
        news
    }

    /// A snapshot has become durable as these chunks.
    pub(crate) fn committed(
        &mut self,
        kind: LogKind,
        snapshot: &Snapshot,
        chunk_of: &[u64],
        chunks: &[Directory],
    ) {
        let log = self.log_mut(kind);
        let last = chunks.last().map_or(log.last_chunk, |c| c.last);
        log.committed(snapshot, chunk_of, last);
        for uplink in self.uplinks.values_mut() {
            let attached = uplink.generation > 0;
            let reader = uplink.reader_mut(kind);
            for chunk in chunks {
                reader.track(chunk, attached);
            }
        }
        self.trim(kind);
    }

    /// Lets the tail go as far as every attached uplink has read, or further where it is too long.
    pub(crate) fn trim(&mut self, kind: LogKind) {
        let uplinks = &self.uplinks;
        let attached = uplinks.values().filter(|u| u.generation > 0);
        let passed = attached
            .map(|u| u.reader(kind).live.saturating_sub(1))
            .min();
        self.trim_through(kind, passed.unwrap_or(u64::MAX));
    }

    fn trim_through(&mut self, kind: LogKind, passed: u64) {
        let (log, uplinks) = match kind {
            LogKind::Alarm => (&mut self.alarm, &mut self.uplinks),
            LogKind::Data => (&mut self.data, &mut self.uplinks),
        };
        while let Some(batch) = log.trim(passed) {
            for uplink in uplinks.values_mut() {
                uplink.reader_mut(kind).trimmed(&batch);
            }
        }
        let oldest = log.oldest_chunk();
        for uplink in uplinks.values_mut() {
            uplink.reader_mut(kind).tail_begins(oldest);
        }
    }

    /// Frees memory while commits fail: what every uplink has taken over need not wait for the disk.
    pub(crate) fn release_delivered(&mut self, kind: LogKind) {
        let (log, uplinks) = match kind {
            LogKind::Alarm => (&mut self.alarm, &mut self.uplinks),
            LogKind::Data => (&mut self.data, &mut self.uplinks),
        };
        if uplinks.is_empty() {
            return;
        }
        while log.batch(log.oldest()).is_some_and(|batch| {
            let open = batch.no > log.durable;
            open && uplinks.values().all(|u| u.reader(kind).has_all(batch))
        }) {
            let Some(batch) = log.release() else { return };
            for uplink in uplinks.values_mut() {
                uplink.reader_mut(kind).released(&batch);
            }
        }
    }

    /// A chunk is gone: counts it, and notes what each uplink is owed.
    pub(crate) fn lose_chunk(
        &mut self,
        kind: LogKind,
        chunk: &Directory,
        reason: Option<DropReason>,
        at: Option<Timestamp>,
    ) {
        let nobody = self.uplinks.is_empty();
        for &(line, first, last, void) in &chunk.entries {
            let log = self.log_mut(kind);
            let count = last - first + 1;
            match void {
                None => {
                    let totals = log.totals(line.source);
                    totals.removed += count;
                    if let Some(reason) = reason.filter(|_| nobody) {
                        totals.unsent.add(reason, count);
                    }
                }
                Some(why) => log.totals(line.source).removed_voids.add(why, count),
            }
            let key = (log.stream_of(line), line.source);
            let end = log.ends.entry(key).or_default();
            *end = last.max(*end);
            log.gone.entry(key).or_default().insert(first, last);
        }
        self.log_mut(kind).removed.insert(chunk.number, chunk.last);
        let (log, uplinks) = match kind {
            LogKind::Alarm => (&self.alarm, &mut self.uplinks),
            LogKind::Data => (&self.data, &mut self.uplinks),
        };
        for uplink in uplinks.values_mut() {
            let lost = uplink.reader_mut(kind).drop_chunk(chunk);
            uplink.cancel(kind, &lost);
            for (line, first, last, void) in lost {
                let Some(why) = void.or(reason) else { continue };
                if void.is_none() {
                    let counts = uplink.reader_mut(kind).counts(line.source);
                    let count = last - first + 1;
                    counts.queued = counts.queued.saturating_sub(count);
                    counts.dropped.add(why, count);
                }
                let Some(source) = self.registry.name(line.source) else {
                    continue;
                };
                let key = OwedKey {
                    log: kind,
                    stream: log.stream_of(line),
                    reason: why,
                    source: source.clone(),
                };
                uplink.owed.add(key, at, first, last);
            }
        }
    }

    /// The balance.
    pub(crate) fn ledger(&self) -> Ledger {
        let mut ledger = Ledger {
            devices: self.unsettled_rows(&self.data),
            events: self.unsettled_rows(&self.alarm),
            uplinks: BTreeMap::new(),
        };
        for (name, uplink) in &self.uplinks {
            let rows = UplinkLedger {
                devices: self.rows(&self.data, &uplink.data),
                events: self.rows(&self.alarm, &uplink.alarm),
            };
            furthest_behind(&mut ledger.devices, &rows.devices);
            furthest_behind(&mut ledger.events, &rows.events);
            ledger.uplinks.insert(name.to_string(), rows);
        }
        ledger
    }

    /// The rows as they are without any uplink: all that is there is queued, nothing was acked.
    ///
    /// What was removed had been acked by uplinks that are gone.
    fn unsettled_rows(&self, log: &Log) -> BTreeMap<String, Row> {
        if !self.uplinks.is_empty() {
            return BTreeMap::new();
        }
        self.named(log, |totals, _| {
            let counts = Counts {
                queued: totals.records - totals.removed,
                acked: totals.removed - totals.unsent.total(),
                dropped: totals.unsent,
            };
            counts.row(totals)
        })
    }

    fn rows(&self, log: &Log, reader: &Reader) -> BTreeMap<String, Row> {
        self.named(log, |totals, source| {
            let counts = reader.counts.get(source.0 as usize);
            counts.copied().unwrap_or_default().row(totals)
        })
    }

    fn named(&self, log: &Log, row: impl Fn(&Totals, SourceId) -> Row) -> BTreeMap<String, Row> {
        let sources = (0u32..).map(SourceId).zip(self.registry.sources());
        sources
            .filter_map(|(id, source)| {
                let totals = log.totals.get(id.0 as usize).copied().unwrap_or_default();
                let row = row(&totals, id);
                (row.acquired > 0).then(|| (source.name.to_string(), row))
            })
            .collect()
    }

    /// Adds an uplink; `from_now` leaves out what is there already.
    pub(crate) fn add_uplink(&mut self, name: Arc<str>, from_now: bool) {
        let mut uplink = Uplink::default();
        for kind in [LogKind::Alarm, LogKind::Data] {
            let log = self.log(kind);
            let reader = uplink.reader_mut(kind);
            reader.live = log.durable + 1;
            if from_now && log.last_chunk > 0 {
                reader.settled.insert(1, log.last_chunk);
                reader.begins = log.last_chunk;
            }
            let mut open: BTreeMap<SourceId, u64> = BTreeMap::new();
            for batch in log.open() {
                if matches!(batch.content, Content::Records(_)) {
                    *open.entry(batch.line.source).or_default() += batch.count();
                }
            }
            for (source, totals) in (0u32..).map(SourceId).zip(&log.totals) {
                let queued = match from_now {
                    true => open.get(&source).copied().unwrap_or(0),
                    false => totals.records - totals.removed,
                };
                let counts = reader.counts(source);
                counts.queued = queued;
                counts.dropped = totals.unsent;
                let before = totals.records - queued - totals.unsent.total();
                counts.dropped.add(DropReason::BeforeStart, before);
            }
        }
        self.uplinks.insert(name, uplink);
    }

    /// Whether these chunks are as they were committed, and no uplink has begun with them.
    pub(crate) fn untouched(&self, kind: LogKind, first: u64, last: u64) -> bool {
        let log = self.log(kind);
        last < log.oldest_chunk()
            && log.removed.within(first, last).next().is_none()
            && self
                .uplinks
                .values()
                .all(|u| u.reader(kind).untouched(first, last))
    }

    /// What a chunk held, as far as some uplink still knows.
    pub(crate) fn pending_directory(&self, kind: LogKind, number: u64) -> Option<Directory> {
        let mut uplinks = self.uplinks.values();
        uplinks.find_map(|u| u.reader(kind).pending_directory(number))
    }
}

/// Keeps, for each source, the row with more queued.
pub(crate) fn furthest_behind(rows: &mut BTreeMap<String, Row>, of_uplink: &BTreeMap<String, Row>) {
    for (name, row) in of_uplink {
        match rows.get(name) {
            Some(known) if known.queued >= row.queued => {}
            _ => {
                rows.insert(name.clone(), row.clone());
            }
        }
    }
}
