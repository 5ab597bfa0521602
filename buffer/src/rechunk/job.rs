//! Epochs on their way to one: read, merged, written beside them, made durable and read back.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use millrace_tags::LogKind;

use super::RechunkError;
use super::merge::{Merged, Merger, Part};
use crate::catalogue::Catalogue;
use crate::chunk::{FRAME_BYTES_MAX, Frame};
use crate::epoch::{self, Epoch, StoreError, disk_bytes, log_file};
use crate::manifest::{Manifest, summarise};
use crate::scan::{Found, Unreadable};
use crate::store::{LogStore, Sealed, read_catalogue};

/// What was put is made durable in portions of this size, so that no sync takes long.
const SYNC_BYTES: usize = 256 * 1024;

/// Frames that are read back in one step.
const CHECK_FRAMES: usize = 16;

/// Chunks are taken for so long in one step: a commit may wait for it.
const SLICE: Duration = Duration::from_millis(5);

/// After this many parts' bytes it is clear whether merging gains anything.
const TRIAL_BYTES: usize = 512 * 1024;

/// A merged epoch takes no more parts at this share of the size of an epoch,
pub(super) const FULL: (u64, u64) = (3, 4);
/// and none that is likely to bring it beyond this.
const FULL_MAX: (u64, u64) = (7, 8);

/// Epochs on their way to one.
pub(super) struct Job {
    pub(super) kind: LogKind,
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

impl Job {
    pub(super) fn new(store: &LogStore, group: Vec<(u64, u64)>) -> Self {
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
    pub(super) fn range(&self) -> (u64, u64) {
        let (first, last) = (self.group.first(), self.group.last());
        (first.map_or(0, |e| e.0), last.map_or(0, |e| e.1))
    }

    /// The directory that the merged epoch is written in.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// What it takes while it is written.
    pub(super) fn bytes(&self) -> u64 {
        self.epoch.as_ref().map_or(0, Epoch::bytes)
    }

    /// The epochs that it is about, by their first and last chunk.
    pub(super) fn group(&self) -> &[(u64, u64)] {
        &self.group
    }

    /// Those among them that a doubt is about: the one that is read, or all where that is done.
    pub(super) fn doubtful(&self) -> &[(u64, u64)] {
        match self.group.get(self.done) {
            Some(epoch) => std::slice::from_ref(epoch),
            None => &self.group,
        }
    }

    /// Does the next small piece: no more than one sync, or a few milliseconds of work. What it returns is
    /// complete, durable and read back.
    pub(super) fn step(
        &mut self,
        store: &LogStore,
        epoch_bytes: u64,
    ) -> Result<Option<Sealed>, RechunkError> {
        let written = self.sealed.is_none() && self.written(store, epoch_bytes);
        match &mut self.sealed {
            None if self.unsynced >= SYNC_BYTES || written && self.unsynced > 0 => self.sync()?,
            None if written => self.seal()?,
            None => self.merge(store)?,
            Some((manifest, at)) if *at < manifest.table.chunks.len() => {
                let to = manifest.table.chunks.len().min(*at + CHECK_FRAMES);
                check(&self.dir, manifest, *at..to, &self.put)?;
                *at = to;
            }
            Some((manifest, _)) => {
                let bytes = disk_bytes(&self.dir);
                return Ok(Some(Sealed::of(&manifest.summary, bytes)));
            }
        }
        Ok(None)
    }

    /// Says what it came to.
    pub(super) fn report(&self) {
        tracing::info!(
            log = self.kind.name(),
            epochs = self.group.len(),
            before = self.bytes_before,
            after = self.bytes_after,
            "small chunks were merged"
        );
    }

    /// Whether everything is written that will be: all epochs, or so many that they fill one.
    fn written(&mut self, store: &LogStore, epoch_bytes: u64) -> bool {
        let share = |(part, whole): (u64, u64)| epoch_bytes * part / whole;
        if let Some(epoch) = &self.epoch
            && self.done > 0
            && self.source.is_none()
            && let Some((first, _)) = self.group.get(self.done)
        {
            let next = store.sealed.iter().find(|s| s.first == *first);
            let gain = self.bytes_after as f64 / self.bytes_before.max(1) as f64;
            let next = next.map_or(0.0, |next| next.bytes as f64 * gain) as u64;
            let bytes = epoch.bytes();
            if bytes >= share(FULL) || bytes + next > share(FULL_MAX) {
                self.group.truncate(self.done);
            }
        }
        self.done == self.group.len()
    }

    /// Merges until something was put, or for a while.
    fn merge(&mut self, store: &LogStore) -> Result<(), RechunkError> {
        if self.epoch.is_none() {
            self.epoch = Some(Epoch::create_at(&store.dir, self.dir.clone())?);
            return Ok(());
        }
        let mut source = match self.source.take() {
            Some(source) => source,
            None => return self.open(store),
        };
        let begun = Instant::now();
        while let Some(found) = source.chunks.pop_front() {
            let part = Part::read(source.read(&found)?)?;
            self.check_ids(&part)?;
            let merged = self.merger.push(part)?;
            if !merged.is_empty() {
                self.source = Some(source);
                return self.put(&merged);
            }
            if begun.elapsed() >= SLICE {
                self.source = Some(source);
                return Ok(());
            }
        }
        // No chunk goes across a boundary: as far as an original is there too, both say the same.
        self.done += 1;
        let merged = self.merger.flush()?;
        self.put(&merged)
    }

    /// Begins with the next epoch: opens it, and writes what of its catalogue is new.
    fn open(&mut self, store: &LogStore) -> Result<(), RechunkError> {
        let (first, last) = self.group[self.done];
        let dir = epoch::directory(&store.dir, first);
        let path = log_file(&dir);
        let file = File::open(&path).map_err(StoreError::io("cannot open", &path))?;
        let manifest = Manifest::read(&dir)?.ok_or(RechunkError::Doubt("it has no manifest"))?;
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
        let catalogue = read_catalogue(&file, &manifest.table, Unreadable::Fails);
        let catalogue = catalogue.map_err(StoreError::io("cannot read", &path))?;
        let Some(fresh) = added(&self.catalogue, &catalogue)? else {
            // Its numbers mean something else: it will be merged with those behind it.
            self.group.truncate(self.done);
            return Ok(());
        };
        let Some(epoch) = &mut self.epoch else {
            return Err(RechunkError::Doubt("there is nowhere to write"));
        };
        let stream = catalogue
            .stream
            .ok_or(RechunkError::Doubt("it has no catalogue"))?;
        if self.done == 0 || !fresh.sources.is_empty() || !fresh.tags.is_empty() {
            for frame in fresh.frames(self.kind, stream) {
                epoch.put_catalogue(&frame)?;
                self.unsynced += frame.len();
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
        Ok(())
    }

    fn sync(&mut self) -> Result<(), RechunkError> {
        if let Some(epoch) = &mut self.epoch {
            epoch.sync()?;
        }
        self.unsynced = 0;
        Ok(())
    }

    /// Closes the merged epoch, which is durable, and then writes its manifest.
    fn seal(&mut self) -> Result<(), RechunkError> {
        if self.put.is_empty() {
            return Err(RechunkError::Doubt("nothing was written"));
        }
        if let Some(epoch) = self.epoch.take() {
            epoch.close();
            return Ok(());
        }
        let (first, last) = self.range();
        let (mut manifest, _) =
            summarise(&self.dir, first, last + 1, self.kind, Unreadable::Fails)?;
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

    pub(super) fn abandon(self) {
        if let Some(epoch) = self.epoch {
            epoch.close();
        }
        // What stays is removed by the next job or the next start.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Reads merged frames back and compares them with what was put.
fn check(
    dir: &Path,
    manifest: &Manifest,
    frames: Range<usize>,
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
