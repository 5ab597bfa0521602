//! Re-chunking: when an outage lasts, its small chunks become large ones, and the same disk holds about
//! three times the history.
//!
//! Neighbouring sealed epochs that no uplink has touched are merged into one, once. The merged epoch is
//! written beside them, read back and made durable; then it takes their place ([`LogStore::supersede`]).
//! On any doubt the originals stay as they are. All of it runs on the buffer's thread in small steps,
//! half of the time at most, so that commits do not wait.

mod merge;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, VecDeque};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use millrace_tags::LogKind;
use thiserror::Error;

use crate::catalogue::Catalogue;
use crate::chunk::{CHUNK_BYTES_MAX, FRAME_BYTES_MAX, Frame, FrameError, RECORDS_MAX};
use crate::epoch::{self, Epoch, StoreError, disk_bytes, log_file};
use crate::keeper::{Keeper, LOGS};
use crate::manifest::{Manifest, summarise};
use crate::scan::Found;
use crate::store::{LogStore, Sealed, read_catalogue};
use merge::{MergeError, Merged, Merger, Part};

/// Merging begins with this many epochs' worth of bytes, and takes no more than
const EPOCHS_WORTH_MIN: u64 = 2;
/// this: mixed plant signals become one epoch's worth.
const EPOCHS_WORTH_MAX: u64 = 4;

/// So many neighbours are merged even where they are tiny: rotation by age and restarts leave such.
const EPOCHS_MANY: usize = 8;

/// Chunks of more records, or more bytes, would gain little.
const SMALL_RECORDS: u64 = RECORDS_MAX as u64 / 4;
const SMALL_BYTES: u64 = CHUNK_BYTES_MAX as u64 / 4;

/// At most this share of a log is merged at once: for a while it is there twice.
const LOG_SHARE: u64 = 4;

/// What was put is made durable in portions of this size, so that no sync takes long.
const SYNC_BYTES: usize = 256 * 1024;

/// Frames that are read back in one step.
const CHECK_FRAMES: usize = 64;

/// After this many parts' bytes it is clear whether merging gains anything.
const TRIAL_BYTES: usize = 512 * 1024;

/// How long it rests after a failure: most likely the disk is full.
const FAILURE_PAUSE: Duration = Duration::from_secs(600);

/// Why epochs are left as they are.
#[derive(Debug, Error)]
enum RechunkError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("an epoch is not what its manifest says: {0}")]
    Doubt(&'static str),
    #[error(transparent)]
    Merge(#[from] MergeError),
    #[error("merging gains nothing")]
    NoGain,
    #[error("an uplink has begun to read, or the epochs are gone")]
    Touched,
}

impl From<FrameError> for RechunkError {
    fn from(error: FrameError) -> Self {
        RechunkError::Merge(error.into())
    }
}

/// What the buffer's thread remembers of it.
pub(crate) struct Rechunk {
    job: Option<Job>,
    /// Directories of superseded epochs that are still to be deleted.
    superseded: VecDeque<PathBuf>,
    /// Epochs that are better left alone, by their first chunk.
    left: BTreeSet<(bool, u64)>,
    next_at: Instant,
}

impl Rechunk {
    /// Begins after one interval: there is enough to do at the start.
    pub(crate) fn new(interval: Duration) -> Self {
        Self {
            job: None,
            superseded: VecDeque::new(),
            left: BTreeSet::new(),
            next_at: Instant::now() + interval,
        }
    }
}

/// Epochs on their way to one.
struct Job {
    kind: LogKind,
    /// The epochs, by their first and last chunk.
    group: Vec<(u64, u64)>,
    /// How many of them are written.
    done: usize,
    source: Option<Source>,
    dir: PathBuf,
    epoch: Option<Epoch>,
    catalogue: Catalogue,
    merger: Merger,
    /// What was put: number, checksum and length of each frame.
    put: Vec<(u64, u32, u32)>,
    unsynced: usize,
    bytes_before: usize,
    bytes_after: usize,
    /// The manifest, once all is written, and how many frames were read back.
    sealed: Option<(Manifest, usize)>,
}

/// An epoch that is being read.
struct Source {
    file: File,
    chunks: VecDeque<Found>,
}

impl Source {
    fn read(&self, found: &Found) -> Result<Vec<u8>, RechunkError> {
        let mut bytes = vec![0; (found.len as usize).min(FRAME_BYTES_MAX)];
        let read = self.file.read_exact_at(&mut bytes, found.offset);
        read.map_err(|_| RechunkError::Doubt("a chunk cannot be read"))?;
        Ok(bytes)
    }
}

impl Keeper {
    /// When there may be something to do.
    pub(crate) fn rechunk_at(&self) -> Instant {
        self.rechunk.next_at
    }

    /// Does the next small piece. A panic costs no more than what was being merged.
    pub(crate) fn rechunk_quietly(&mut self) {
        if catch_unwind(AssertUnwindSafe(|| self.rechunk_step())).is_err() {
            tracing::error!("merging chunks panicked; the originals stay");
            self.rechunk.next_at = Instant::now() + FAILURE_PAUSE;
        }
    }

    /// Does the next small piece. `false`: there is nothing to do.
    fn rechunk_step(&mut self) -> bool {
        let begun = Instant::now();
        let worked = if let Some(dir) = self.rechunk.superseded.pop_front() {
            // It is accounted for elsewhere; if it cannot be deleted now, the next start tries again.
            let _ = fs::remove_dir_all(dir);
            for kind in LOGS {
                self.publish_figures(kind);
            }
            true
        } else if let Some(mut job) = self.rechunk.job.take() {
            match self.advance(&mut job) {
                Ok(true) => true,
                Ok(false) => {
                    self.rechunk.job = Some(job);
                    true
                }
                Err(error) => self.rechunk_failed(job, &error),
            }
        } else {
            let job = LOGS.into_iter().find_map(|kind| {
                let group = self.plan(kind)?;
                Some(Job::new(self.store(kind), group))
            });
            self.rechunk.job = job;
            self.rechunk.job.is_some()
        };
        let rest = match worked {
            true => begun.elapsed(),
            false => self.settings.rechunk_interval,
        };
        self.rechunk.next_at = self.rechunk.next_at.max(Instant::now() + rest);
        worked
    }

    fn rechunk_failed(&mut self, job: Job, error: &RechunkError) -> bool {
        let again = match error {
            RechunkError::Store(_) => {
                self.rechunk.next_at = Instant::now() + FAILURE_PAUSE;
                false
            }
            RechunkError::Touched => true,
            RechunkError::Doubt(_) | RechunkError::Merge(_) | RechunkError::NoGain => {
                let doubtful = match job.group.get(job.done) {
                    Some(epoch) if !matches!(error, RechunkError::NoGain) => {
                        std::slice::from_ref(epoch)
                    }
                    _ => &job.group,
                };
                let alarm = job.kind == LogKind::Alarm;
                let doubtful = doubtful.iter().map(|(first, _)| (alarm, *first));
                self.rechunk.left.extend(doubtful);
                true
            }
        };
        let error = error as &dyn std::error::Error;
        tracing::debug!(error, log = job.kind.name(), "epochs are not merged");
        job.abandon();
        again
    }

    /// Gives up what is being merged: its room or the thread is needed.
    pub(crate) fn rechunk_abandon(&mut self) {
        if let Some(job) = self.rechunk.job.take() {
            job.abandon();
        }
    }

    /// Merges all that can be merged now, without rests. Returns how many epochs went into others.
    pub(crate) fn rechunk_all(&mut self) -> u64 {
        let epochs = |keeper: &Self| (keeper.alarm.sealed.len() + keeper.data.sealed.len()) as u64;
        let before = epochs(self);
        while self.rechunk_step() {}
        before.saturating_sub(epochs(self))
    }

    /// The next epochs to be merged, oldest first.
    fn plan(&self, kind: LogKind) -> Option<Vec<(u64, u64)>> {
        let epoch_bytes = self.epoch_bytes(kind);
        let log_share = self.settings.log_bytes_max(kind) / LOG_SHARE;
        let alarm = kind == LogKind::Alarm;
        let rechunk = &self.rechunk.left;
        let store = match kind {
            LogKind::Alarm => &self.alarm,
            LogKind::Data => &self.data,
        };
        let core = self.shared.lock();
        let mut group: Vec<&Sealed> = Vec::new();
        let bytes = |group: &[&Sealed]| group.iter().map(|e| e.bytes).sum::<u64>();
        let enough = |group: &[&Sealed]| {
            group.len() >= EPOCHS_MANY
                || group.len() > 1 && bytes(group) >= EPOCHS_WORTH_MIN * epoch_bytes
        };
        // The newest stays: it may be read soon.
        let epochs = store.sealed.len().saturating_sub(1);
        for epoch in store.sealed.iter().take(epochs) {
            let chunks = epoch.chunks.max(1);
            let small =
                epoch.records / chunks <= SMALL_RECORDS && epoch.bytes / chunks <= SMALL_BYTES;
            let fits = small
                && !epoch.merged
                && !rechunk.contains(&(alarm, epoch.first))
                && core.untouched(kind, epoch.first, epoch.last);
            let joins = group.last().is_none_or(|g| g.last + 1 == epoch.first);
            let bytes = bytes(&group) + epoch.bytes;
            let room = bytes <= log_share
                && group.len() < EPOCHS_MANY
                && (group.len() < 2 || bytes <= EPOCHS_WORTH_MAX * epoch_bytes);
            if fits && joins && room {
                group.push(epoch);
                continue;
            }
            if enough(&group) {
                break;
            }
            group.clear();
            if fits {
                group.push(epoch);
            }
        }
        enough(&group).then(|| group.iter().map(|e| (e.first, e.last)).collect())
    }

    /// Does one step of a job. `true`: it is finished.
    fn advance(&mut self, job: &mut Job) -> Result<bool, RechunkError> {
        let (first, last) = job.range();
        let store = self.store(job.kind);
        let there = |(first, last): &(u64, u64)| {
            store
                .sealed
                .iter()
                .any(|s| (s.first, s.last) == (*first, *last))
        };
        let whole = job.group.iter().all(there);
        if !whole || !self.shared.lock().untouched(job.kind, first, last) {
            return Err(RechunkError::Touched);
        }
        let epoch_bytes = self.epoch_bytes(job.kind);
        let store = match job.kind {
            LogKind::Alarm => &mut self.alarm,
            LogKind::Data => &mut self.data,
        };
        let written = job.sealed.is_none() && job.written(epoch_bytes);
        match &mut job.sealed {
            None if written => job.seal()?,
            None => job.merge(store)?,
            Some((manifest, at)) if *at < manifest.table.chunks.len() => {
                let to = manifest.table.chunks.len().min(*at + CHECK_FRAMES);
                check(&job.dir, manifest, *at..to, &job.put)?;
                *at = to;
            }
            Some((manifest, _)) => {
                let bytes = disk_bytes(&job.dir);
                let left = store.supersede(Sealed::of(&manifest.summary, bytes))?;
                store.date(&self.shared.lock().boots);
                self.rechunk.superseded.extend(left);
                tracing::info!(
                    log = job.kind.name(),
                    epochs = job.group.len(),
                    before = job.bytes_before,
                    after = job.bytes_after,
                    "small chunks were merged"
                );
                self.publish_figures(job.kind);
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Job {
    fn new(store: &LogStore, group: Vec<(u64, u64)>) -> Self {
        let first = group.first().map_or(0, |e| e.0);
        Self {
            kind: store.kind,
            dir: epoch::directory(&store.dir, first).with_extension("new"),
            group,
            done: 0,
            source: None,
            epoch: None,
            catalogue: Catalogue::default(),
            merger: Merger::default(),
            put: Vec::new(),
            unsynced: 0,
            bytes_before: 0,
            bytes_after: 0,
            sealed: None,
        }
    }

    /// The chunk numbers of the epochs.
    fn range(&self) -> (u64, u64) {
        let (first, last) = (self.group.first(), self.group.last());
        (first.map_or(0, |e| e.0), last.map_or(0, |e| e.1))
    }

    /// Whether everything is written that will be: all epochs, or so many that they fill one.
    fn written(&mut self, epoch_bytes: u64) -> bool {
        let full = |epoch: &Epoch| epoch.bytes() >= epoch_bytes * 3 / 4;
        if self.source.is_none() && self.done > 0 && self.epoch.as_ref().is_some_and(full) {
            self.group.truncate(self.done);
        }
        self.done == self.group.len()
    }

    /// Merges until something was put.
    fn merge(&mut self, store: &mut LogStore) -> Result<(), RechunkError> {
        let mut source = match self.source.take() {
            Some(source) => source,
            None => return self.open(store),
        };
        while let Some(found) = source.chunks.pop_front() {
            let part = Part::read(source.read(&found)?)?;
            self.check_ids(&part)?;
            let merged = self.merger.push(part)?;
            if !merged.is_empty() {
                self.source = Some(source);
                return self.put(&merged);
            }
        }
        // No chunk goes across a boundary: as far as an original is there too, both say the same.
        self.done += 1;
        let merged = self.merger.flush()?;
        self.put(&merged)
    }

    /// Begins with the next epoch: opens it, and writes what of its catalogue is new.
    fn open(&mut self, store: &mut LogStore) -> Result<(), RechunkError> {
        let (first, last) = self.group[self.done];
        let dir = epoch::directory(&store.dir, first);
        let path = log_file(&dir);
        let file = File::open(&path).map_err(StoreError::io("cannot open", &path))?;
        let manifest = Manifest::read(&dir).ok_or(RechunkError::Doubt("it has no manifest"))?;
        let len = file
            .metadata()
            .map_err(StoreError::io("cannot read", &path))?
            .len();
        if len != manifest.summary.file_len {
            return Err(RechunkError::Doubt("the file has another length"));
        }
        let chunks = &manifest.table.chunks;
        let mut next = first;
        for chunk in chunks {
            if chunk.number != next || chunk.len == 0 {
                return Err(RechunkError::Doubt("a chunk is missing"));
            }
            next = chunk.last_number() + 1;
        }
        if next != last + 1 {
            return Err(RechunkError::Doubt("a chunk is missing"));
        }
        let catalogue = read_catalogue(&file, &manifest.table);
        let Some(fresh) = added(&self.catalogue, &catalogue)? else {
            // Its numbers mean something else: it will be merged with those behind it.
            self.group.truncate(self.done);
            return Ok(());
        };
        let epoch = match &mut self.epoch {
            Some(epoch) => epoch,
            slot => slot.insert(Epoch::create_at(&store.dir, self.dir.clone())?),
        };
        let stream = catalogue
            .stream
            .ok_or(RechunkError::Doubt("it has no catalogue"))?;
        if self.done == 0 || !fresh.sources.is_empty() || !fresh.tags.is_empty() {
            for frame in fresh.frames(self.kind, stream) {
                epoch.put_catalogue(&frame)?;
            }
        }
        self.catalogue.extend(Catalogue {
            stream: Some(stream),
            ..fresh
        });
        self.source = Some(Source {
            file,
            chunks: manifest.table.chunks.into(),
        });
        Ok(())
    }

    /// Every number in the chunk has to have a name.
    fn check_ids(&self, part: &Part) -> Result<(), RechunkError> {
        let sources = self.catalogue.sources.len();
        let tags = self.catalogue.tags.len();
        let named = part
            .entries()
            .iter()
            .all(|e| (e.source.0 as usize) < sources)
            && part.largest_tag().is_none_or(|tag| (tag as usize) < tags);
        named
            .then_some(())
            .ok_or(RechunkError::Doubt("a name is missing"))
    }

    fn put(&mut self, merged: &[Merged]) -> Result<(), RechunkError> {
        let Some(epoch) = &mut self.epoch else {
            return Ok(());
        };
        for chunk in merged {
            epoch.put_nth(self.put.len() as u64, chunk.number, &chunk.frame)?;
            let checksum = crc32c::crc32c(&chunk.frame);
            self.put
                .push((chunk.number, checksum, chunk.frame.len() as u32));
            self.unsynced += chunk.frame.len();
            self.bytes_before += chunk.before;
            self.bytes_after += chunk.frame.len();
        }
        if self.bytes_before >= TRIAL_BYTES && self.bytes_after * 5 > self.bytes_before * 4 {
            return Err(RechunkError::NoGain);
        }
        if self.unsynced >= SYNC_BYTES {
            epoch.sync()?;
            self.unsynced = 0;
        }
        Ok(())
    }

    /// Makes the merged epoch durable and writes its manifest.
    fn seal(&mut self) -> Result<(), RechunkError> {
        let Some(mut epoch) = self.epoch.take() else {
            return Err(RechunkError::Doubt("nothing was written"));
        };
        let synced = epoch.sync();
        epoch.close();
        synced?;
        let (first, last) = self.range();
        let (mut manifest, _) = summarise(&self.dir, first, last + 1, self.kind)?;
        let listed = manifest.table.chunks.iter().map(|c| (c.number, c.len));
        if manifest.summary.chunks != last - first + 1
            || !listed.eq(self.put.iter().map(|p| (p.0, p.2)))
        {
            return Err(RechunkError::Doubt("what was written is not complete"));
        }
        manifest.summary.merged = true;
        manifest.write(&self.dir)?;
        self.sealed = Some((manifest, 0));
        Ok(())
    }

    fn abandon(self) {
        if let Some(epoch) = self.epoch {
            epoch.close();
        }
        // What stays is removed by the next job or the next start.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Reads merged frames back and compares them with what was put.
fn check(
    dir: &std::path::Path,
    manifest: &Manifest,
    frames: std::ops::Range<usize>,
    put: &[(u64, u32, u32)],
) -> Result<(), RechunkError> {
    let path = log_file(dir);
    let file = File::open(&path).map_err(StoreError::io("cannot open", &path))?;
    let source = Source {
        file,
        chunks: VecDeque::new(),
    };
    let frames = manifest.table.chunks[frames.clone()]
        .iter()
        .zip(&put[frames]);
    for (found, (_, checksum, _)) in frames {
        let bytes = source.read(found)?;
        if crc32c::crc32c(&bytes) != *checksum || Frame::parse(&bytes)?.entries != found.entries {
            return Err(RechunkError::Doubt("what was written reads otherwise"));
        }
    }
    Ok(())
}

/// What a later epoch's catalogue says beyond an earlier one; `None` where they contradict each other.
fn added(known: &Catalogue, later: &Catalogue) -> Result<Option<Catalogue>, RechunkError> {
    let sources = later.sources.iter().zip(0u32..).all(|(s, id)| s.id.0 == id);
    let tags = later
        .tags
        .iter()
        .zip(0u32..)
        .all(|((tag, _), id)| tag.0 == id);
    if !sources || !tags {
        return Err(RechunkError::Doubt("its catalogue is not complete"));
    }
    let same_sources = known.sources.iter().zip(&later.sources);
    let same_tags = known.tags.iter().zip(&later.tags);
    if known.stream.is_some_and(|s| later.stream != Some(s))
        || same_sources
            .clone()
            .any(|(a, b)| (&a.name, a.kind) != (&b.name, b.kind))
        || same_tags.clone().any(|(a, b)| a != b)
    {
        return Ok(None);
    }
    Ok(Some(Catalogue {
        stream: later.stream,
        sources: later
            .sources
            .iter()
            .skip(known.sources.len())
            .cloned()
            .collect(),
        tags: later.tags.iter().skip(known.tags.len()).cloned().collect(),
    }))
}
