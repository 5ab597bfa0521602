//! The epochs of one log: the one that is written, and the sealed ones.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use millrace_tags::{
    BootId, LogKind, Moment, SourceId, SourceKind, StreamId, TagInfo, TagTable, Timebase, Timestamp,
};

use crate::boots::Boots;
use crate::catalogue::{Catalogue, Registry, SourceInfo, StoredSource};
use crate::chunk::{FRAME_BYTES_MAX, Frame};
use crate::commit::Packed;
use crate::epoch::{self, Epoch, StoreError, disk_bytes, log_file, sync_directory};
use crate::growth::Growth;
use crate::log::{LineKey, Log};
use crate::manifest::{self, Manifest, Summary, Table, seal};
use crate::patience::{Trouble, patiently};
use crate::scan::{Found, Unreadable};
use crate::uplink::Directory;

/// Sealed epochs that are kept open for reading: one for each lane that can lag.
const OPEN_EPOCHS_MAX: usize = 2;

/// The epoch that is being written.
struct Active {
    epoch: Epoch,
    first: u64,
    /// The last durable chunk; below `first` while there is none.
    last: u64,
    chunks: u64,
    /// How much of the catalogue it has.
    sources: usize,
    tags: usize,
    since: Moment,
    /// When something was last written.
    written: Moment,
    /// What its directory takes on the disk: sled's log as of the last write, and the rest as it began.
    bytes: u64,
    beside: u64,
}

/// An epoch that is complete.
#[derive(Debug, Clone)]
pub(crate) struct Sealed {
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) chunks: u64,
    pub(crate) bytes: u64,
    pub(crate) newest: Option<Timestamp>,
    /// What was stored before a clock was set that has never become known.
    pub(crate) undated: Vec<(BootId, Moment)>,
    /// When its newest record was written, if this process did it: no step of the wall clock touches that.
    pub(crate) written: Option<Moment>,
    /// How many numbers it holds; none in an epoch that only says where the lines stand.
    pub(crate) numbers: u64,
    /// Since when every uplink has settled it, as far as this process knows.
    pub(crate) settled_since: Option<Moment>,
    pub(crate) records: u64,
    /// It was made of other epochs, or must not be: it is left as it is.
    pub(crate) merged: bool,
}

impl Sealed {
    /// What is kept in memory of an epoch.
    pub(crate) fn of(summary: &Summary, bytes: u64) -> Self {
        Self {
            first: summary.first,
            last: summary.last,
            chunks: summary.chunks,
            bytes,
            newest: summary.newest,
            undated: summary.undated(),
            written: None,
            numbers: summary.numbers(),
            settled_since: None,
            records: summary.records(),
            merged: summary.merged,
        }
    }

    /// Brings in what has become known of its boots.
    fn date(&mut self, boots: &Boots) {
        let newest = &mut self.newest;
        self.undated.retain(|&(boot, moment)| {
            let unset = Timebase {
                boot,
                offset_ns: None,
            };
            let time = boots.complete(unset).utc(moment);
            *newest = (*newest).max(time);
            time.is_none()
        });
    }
}

/// A sealed epoch that is open for reading.
struct OpenEpoch {
    first: u64,
    file: File,
    /// Chunk number, span, offset, length.
    chunks: Vec<(u64, u32, u64, u32)>,
    catalogue: Catalogue,
    /// The sources in the directories of its chunks.
    used: BTreeSet<SourceId>,
    /// The catalogue in terms of the registry, once somebody asked.
    names: Option<Arc<EpochNames>>,
}

/// The catalogue of an epoch in terms of the registry.
#[derive(Debug, Default)]
pub(crate) struct EpochNames {
    sources: HashMap<SourceId, SourceId>,
    /// `None` where the registry's own table says the same.
    pub(crate) tags: Option<Arc<TagTable>>,
}

impl EpochNames {
    /// Takes over what the epoch says; sources that the registry has lost get a number, and those whose
    /// names are lost the one that recovery gave them.
    pub(crate) fn resolve(
        catalogue: &Catalogue,
        used: &BTreeSet<SourceId>,
        registry: &mut Registry,
    ) -> Self {
        let mut sources = HashMap::new();
        for source in &catalogue.sources {
            let id = registry.source(&source.name, source.kind);
            sources.insert(source.id, id);
        }
        for id in used {
            let meant = || registry.nameless(*id);
            sources.entry(*id).or_insert_with(meant);
        }
        let known = registry.tags();
        let same = registry.agrees()
            && catalogue
                .tags
                .iter()
                .all(|(id, tag)| known.get(*id).is_some_and(|t| **t == *tag));
        Self {
            sources,
            tags: (!same).then(|| Arc::new(catalogue.table())),
        }
    }

    /// The names of what was written since the buffer was opened.
    pub(crate) fn identity(registry: &Registry) -> Self {
        let ids = (0..registry.sources().len() as u32).map(SourceId);
        Self {
            sources: ids.map(|id| (id, id)).collect(),
            tags: None,
        }
    }

    /// The chunk's directory in terms of the log's lines; `None` where a source has no name.
    pub(crate) fn directory(&self, found: &Found, log: &mut Log) -> Option<Directory> {
        let stream = log.stream(found.stream);
        let entries = found.entries.iter().map(|e| {
            let source = *self.sources.get(&e.source)?;
            Some((LineKey { stream, source }, e.first, e.last(), e.void))
        });
        Some(Directory {
            number: found.number,
            last: found.last_number(),
            entries: entries.collect::<Option<_>>()?,
        })
    }
}

/// What asking for a chunk brought.
pub(crate) enum Read {
    Frame(Vec<u8>),
    /// It is not where it should be; what it held, if that is known.
    Lost(Option<Found>),
    /// It cannot be read now.
    Failed(StoreError),
}

/// What a new epoch's catalogue needs.
pub(crate) struct Names {
    pub(crate) sources: Vec<SourceInfo>,
    pub(crate) tags: Arc<TagTable>,
    /// The stream that numbers are given in.
    pub(crate) stream: StreamId,
    /// When it is written.
    pub(crate) now: Moment,
}

/// The epochs of one log.
pub(crate) struct LogStore {
    pub(crate) kind: LogKind,
    pub(crate) dir: PathBuf,
    active: Option<Active>,
    pub(crate) sealed: VecDeque<Sealed>,
    /// Where each line of `stream` stands on the disk: last number and limit.
    positions: Vec<(u64, u64)>,
    stream: Option<StreamId>,
    open: Vec<OpenEpoch>,
    pub(crate) growth: Growth,
}

impl LogStore {
    pub(crate) fn new(kind: LogKind, dir: PathBuf, sealed: VecDeque<Sealed>) -> Self {
        Self {
            kind,
            dir,
            active: None,
            sealed,
            positions: Vec::new(),
            stream: None,
            open: Vec::new(),
            growth: Growth::default(),
        }
    }

    /// Sets where a line stands on the disk.
    pub(crate) fn set_position(
        &mut self,
        stream: StreamId,
        source: SourceId,
        last: u64,
        limit: u64,
    ) {
        if self.stream != Some(stream) {
            self.stream = Some(stream);
            self.positions.clear();
        }
        let at = source.0 as usize;
        if at >= self.positions.len() {
            self.positions.resize(at + 1, (0, 0));
        }
        self.positions[at] = (last, limit);
    }

    /// Writes chunks durably, in the active epoch or a new one.
    pub(crate) fn write(&mut self, names: &Names, chunks: &[Packed]) -> Result<(), StoreError> {
        let Some(first) = chunks.first() else {
            return Ok(());
        };
        if self.stream != Some(names.stream) {
            self.stream = Some(names.stream);
            self.positions.clear();
        }
        let active = match &mut self.active {
            Some(active) => active,
            slot => {
                let epoch = Epoch::create(&self.dir, first.directory.number)?;
                let bytes = disk_bytes(epoch.dir());
                let beside = bytes.saturating_sub(epoch.bytes());
                slot.insert(Active {
                    epoch,
                    first: first.directory.number,
                    last: first.directory.number - 1,
                    chunks: 0,
                    sources: 0,
                    tags: 0,
                    since: names.now,
                    written: names.now,
                    bytes,
                    beside,
                })
            }
        };
        active.put_catalogue(self.kind, names, &self.positions)?;
        for chunk in chunks {
            active.epoch.put(chunk.directory.number, &chunk.frame)?;
        }
        active.epoch.sync()?;
        active.last = chunks.last().map_or(active.last, |c| c.directory.last);
        active.chunks += chunks.len() as u64;
        active.written = names.now;
        active.bytes = active.epoch.bytes() + active.beside;
        Ok(())
    }

    /// Gives epochs that were stored before the clock was set the time that has become known since.
    pub(crate) fn date(&mut self, boots: &Boots) {
        for epoch in &mut self.sealed {
            epoch.date(boots);
        }
    }

    /// What the active epoch takes on the disk, and since when it is written.
    pub(crate) fn active(&self) -> Option<(u64, Moment)> {
        let active = self.active.as_ref()?;
        Some((active.bytes, active.since))
    }

    /// What the log takes on the disk.
    pub(crate) fn bytes(&self) -> u64 {
        let sealed: u64 = self.sealed.iter().map(|s| s.bytes).sum();
        sealed + self.active().map_or(0, |(bytes, _)| bytes)
    }

    pub(crate) fn figures(&self) -> crate::core::Figures {
        let active = self.active.as_ref();
        let kept = self.sealed.iter().filter(|s| s.settled_since.is_some());
        crate::core::Figures {
            bytes: self.bytes(),
            epochs: self.sealed.len() as u64 + u64::from(active.is_some()),
            chunks: self.sealed.iter().map(|s| s.chunks).sum::<u64>()
                + active.map_or(0, |a| a.chunks),
            oldest: self.sealed.front().and_then(|s| s.newest),
            kept: kept.map(|s| s.bytes).sum(),
            bytes_per_hour: self.growth.bytes_per_hour(),
            room: 0,
        }
    }

    /// Ends the active epoch. After a failure too: sled's handle does not recover from one.
    ///
    /// Returns the numbers of durable chunks that its file does not hold after all.
    pub(crate) fn seal(&mut self) -> Result<Vec<u64>, StoreError> {
        let Some(active) = self.active.take() else {
            return Ok(Vec::new());
        };
        let Active {
            epoch,
            first,
            last,
            written,
            ..
        } = active;
        let dir = epoch.dir().to_owned();
        epoch.close();
        if last < first {
            return self.discard(first).map(|()| Vec::new());
        }
        // The file is durable and complete: even if it cannot be read now, it stays on the list.
        let sealed = seal(&dir, first, last + 1, self.kind, Unreadable::Fails);
        let summary = sealed.as_ref().map(|(m, _)| m.summary.clone());
        self.sealed.push_back(Sealed {
            first,
            last,
            written: Some(written),
            numbers: summary.as_ref().map_or(u64::MAX, Summary::numbers),
            ..Sealed::of(&summary.unwrap_or_default(), disk_bytes(&dir))
        });
        let (manifest, _) = sealed?;
        let mut missing = Vec::new();
        let mut next = first;
        for chunk in &manifest.table.chunks {
            missing.extend(next..chunk.number);
            next = chunk.last_number() + 1;
        }
        missing.extend(next..=last);
        Ok(missing)
    }

    /// Sees that nothing is left of an attempt to begin an epoch with chunk `first`, for good.
    pub(crate) fn discard(&self, first: u64) -> Result<(), StoreError> {
        let dir = self.epoch_dir(first);
        match fs::remove_dir_all(&dir) {
            Ok(()) => sync_directory(&self.dir),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(StoreError::io("cannot remove", &dir)(error)),
        }
    }

    pub(crate) fn epoch_dir(&self, first: u64) -> PathBuf {
        epoch::directory(&self.dir, first)
    }

    /// Whether the active epoch has the chunk.
    pub(crate) fn is_active(&self, number: u64) -> bool {
        self.active.as_ref().is_some_and(|a| number >= a.first)
    }

    fn sealed_with(&self, number: u64) -> Option<&Sealed> {
        let at = self.sealed.partition_point(|s| s.last < number);
        self.sealed.get(at).filter(|s| s.first <= number)
    }

    /// Reads a chunk of the active epoch.
    pub(crate) fn read_active(&self, number: u64) -> Option<Vec<u8>> {
        let frame = self.active.as_ref()?.epoch.get(number).ok()??;
        Some(frame.to_vec())
    }

    /// Reads a chunk of a sealed epoch; the caller checks the frame.
    pub(crate) fn read_sealed(&mut self, number: u64, unreadable: Unreadable) -> Read {
        let Some(first) = self.sealed_with(number).map(|s| s.first) else {
            return Read::Lost(None);
        };
        let at = match self.open(first, unreadable) {
            Ok(Some(at)) => at,
            Ok(None) => return Read::Lost(None),
            Err(error) => return Read::Failed(error),
        };
        let open = &self.open[at];
        let place = open
            .chunks
            .partition_point(|&(n, span, ..)| n + u64::from(span) <= number);
        let Some(&(chunk, _, offset, len)) = open.chunks.get(place).filter(|c| c.0 <= number)
        else {
            return Read::Lost(None);
        };
        let mut bytes = vec![0; (len as usize).min(FRAME_BYTES_MAX)];
        let read = open.file.read_exact_at(&mut bytes, offset);
        if let Err(error) = read.as_ref().map_err(Trouble::of)
            && (error == Trouble::Passing
                || error == Trouble::Sick && unreadable == Unreadable::Fails)
        {
            // Its file may be gone with the device: the next attempt opens it again.
            self.open.remove(at);
            let path = log_file(&self.epoch_dir(first));
            let failed = |source| Read::Failed(StoreError::io("cannot read", &path)(source));
            return read.map_or_else(failed, |()| Read::Lost(None));
        }
        if read.is_ok() && Frame::parse(&bytes).is_ok_and(|f| f.header.number == chunk) {
            return Read::Frame(bytes);
        }
        match self.table(first, unreadable) {
            Ok(table) => Read::Lost(table.chunks.into_iter().find(|c| c.number == chunk)),
            Err(error) => Read::Failed(error),
        }
    }

    /// The names that a sealed epoch's source and tag numbers stand for. Reads nothing where a chunk of
    /// the epoch was read before.
    pub(crate) fn names(
        &mut self,
        number: u64,
        registry: &mut Registry,
        unreadable: Unreadable,
    ) -> Result<Option<Arc<EpochNames>>, StoreError> {
        let Some(first) = self.sealed_with(number).map(|s| s.first) else {
            return Ok(None);
        };
        let Some(at) = self.open(first, unreadable)? else {
            return Ok(None);
        };
        let open = &mut self.open[at];
        let names = open.names.get_or_insert_with(|| {
            Arc::new(EpochNames::resolve(&open.catalogue, &open.used, registry))
        });
        Ok(Some(names.clone()))
    }

    /// [`LogStore::names`], of the active epoch too.
    pub(crate) fn names_of(
        &mut self,
        number: u64,
        registry: &mut Registry,
        unreadable: Unreadable,
    ) -> Result<Option<Arc<EpochNames>>, StoreError> {
        match self.is_active(number) {
            true => Ok(Some(Arc::new(EpochNames::identity(registry)))),
            false => self.names(number, registry, unreadable),
        }
    }

    /// The chunks of the active epoch, as far as they can be read back.
    pub(crate) fn active_chunks(&self) -> Vec<Found> {
        let Some(active) = &self.active else {
            return Vec::new();
        };
        let frames = (active.first..=active.last).filter_map(|n| self.read_active(n));
        frames
            .filter_map(|bytes| Some(Found::of(&Frame::parse(&bytes).ok()?)))
            .collect()
    }

    /// Opens a sealed epoch for reading; `None` where its file is lost.
    pub(crate) fn open(
        &mut self,
        first: u64,
        unreadable: Unreadable,
    ) -> Result<Option<usize>, StoreError> {
        if let Some(at) = self.open.iter().position(|o| o.first == first) {
            return Ok(Some(at));
        }
        let path = log_file(&self.epoch_dir(first));
        let file = match (File::open(&path), unreadable) {
            (Ok(file), _) => file,
            (Err(error), _) if Trouble::of(&error) == Trouble::Gone => return Ok(None),
            (Err(error), Unreadable::IsLost) if Trouble::of(&error) == Trouble::Sick => {
                return Ok(None);
            }
            (Err(error), _) => return Err(StoreError::io("cannot open", &path)(error)),
        };
        let manifest = self.manifest(first, unreadable)?;
        let catalogue = read_names(&file, &manifest, unreadable);
        let catalogue = catalogue.map_err(StoreError::io("cannot read", &path))?;
        let entries = manifest.table.chunks.iter().flat_map(|c| &c.entries);
        let used = entries.map(|entry| entry.source).collect();
        let mut chunks: Vec<_> = manifest
            .table
            .chunks
            .iter()
            .map(|c| (c.number, c.span, c.offset, c.len))
            .collect();
        chunks.sort_unstable();
        if self.open.len() >= OPEN_EPOCHS_MAX {
            self.open.remove(0);
        }
        self.open.push(OpenEpoch {
            first,
            file,
            chunks,
            catalogue,
            used,
            names: None,
        });
        Ok(Some(self.open.len() - 1))
    }

    /// What a sealed epoch holds: from its manifest, or by scanning it again.
    fn manifest(&self, first: u64, unreadable: Unreadable) -> Result<Manifest, StoreError> {
        let dir = self.epoch_dir(first);
        let bound = self.sealed.iter().find(|s| s.first == first);
        let bound = bound.map_or(u64::MAX, |s| s.last + 1);
        manifest::restored(&dir, first, bound, self.kind, unreadable)
    }

    /// The chunks of a sealed epoch.
    pub(crate) fn table(&self, first: u64, unreadable: Unreadable) -> Result<Table, StoreError> {
        Ok(self.manifest(first, unreadable)?.table)
    }

    /// Reads every chunk of the log and hands its directory out: nothing is taken from manifests.
    pub(crate) fn recount(
        &mut self,
        mut each: impl FnMut(Found, &Catalogue),
    ) -> Result<(), StoreError> {
        let mut dirs: Vec<(PathBuf, u64)> = self
            .sealed
            .iter()
            .map(|s| (self.epoch_dir(s.first), s.last))
            .collect();
        if let Some(active) = &self.active {
            dirs.push((active.epoch.dir().to_owned(), active.last));
        }
        for (dir, last) in dirs {
            let path = log_file(&dir);
            let scan = crate::scan::scan(&path, self.kind, Unreadable::Fails);
            let mut scan = scan.map_err(StoreError::io("cannot read", &path))?;
            if let Some(manifest) = Manifest::read(&dir)? {
                add_manifest_names(&mut scan.catalogue, &manifest);
            }
            for chunk in scan.chunks {
                if chunk.last_number() <= last {
                    each(chunk, &scan.catalogue);
                }
            }
        }
        Ok(())
    }

    /// Removes the epochs that were set aside because nothing of them could be read.
    pub(crate) fn remove_bad(&self) -> bool {
        let Ok(entries) = fs::read_dir(&self.dir) else {
            return false;
        };
        let bad = entries.flatten().map(|entry| entry.path());
        let bad = bad.filter(|path| path.extension().is_some_and(|e| e == "bad"));
        bad.fold(false, |any, path| any | fs::remove_dir_all(path).is_ok())
    }

    /// Puts an epoch on the list in the place of those within its range, which it was made of; returns
    /// those.
    pub(crate) fn replace(&mut self, mut merged: Sealed) -> Vec<Sealed> {
        let within = |s: &Sealed| merged.first <= s.first && s.last <= merged.last;
        let parts: Vec<Sealed> = self.sealed.iter().filter(|s| within(s)).cloned().collect();
        self.open
            .retain(|o| !parts.iter().any(|p| p.first == o.first));
        let at = self.sealed.partition_point(|s| s.first < merged.first);
        self.sealed.retain(|s| !within(s));
        merged.written = parts.last().and_then(|newest| newest.written);
        self.sealed.insert(at, merged);
        parts
    }

    /// Removes a sealed epoch: renamed first, so that a half removed one is never taken for a whole.
    pub(crate) fn remove(&mut self, first: u64) -> Result<(), StoreError> {
        self.open.retain(|o| o.first != first);
        self.sealed.retain(|s| s.first != first);
        remove_epoch(&self.dir, first)
    }
}

/// Renames the epoch and deletes it.
pub(crate) fn remove_epoch(log_dir: &Path, first: u64) -> Result<(), StoreError> {
    let dir = epoch::directory(log_dir, first);
    let gone = dir.with_extension("del");
    // Of a merged epoch the first part may still be there under this name.
    let _ = fs::remove_dir_all(&gone);
    fs::rename(&dir, &gone).map_err(StoreError::io("cannot rename", &dir))?;
    sync_directory(log_dir)?;
    fs::remove_dir_all(&gone).map_err(StoreError::io("cannot remove", &gone))
}

/// The catalogue of an epoch, as far as its frames are intact.
///
/// # Errors
/// One that says nothing of the file; of the file too, where `unreadable` says so.
pub(crate) fn read_catalogue(
    file: &File,
    table: &Table,
    unreadable: Unreadable,
) -> io::Result<Catalogue> {
    let mut catalogue = Catalogue::default();
    for &(offset, len) in &table.catalogues {
        let mut bytes = vec![0; (len as usize).min(FRAME_BYTES_MAX)];
        let mut read = || file.read_exact_at(&mut bytes, offset);
        let read = match unreadable {
            Unreadable::IsLost => patiently(read)?.is_some(),
            Unreadable::Fails => match read() {
                Err(error) if Trouble::of(&error) != Trouble::Gone => return Err(error),
                read => read.is_ok(),
            },
        };
        if read && let Ok((_, part, _)) = Catalogue::parse(&bytes) {
            catalogue.extend(part);
        }
    }
    Ok(catalogue)
}

/// [`read_catalogue`], and the names that only the manifest has.
pub(crate) fn read_names(
    file: &File,
    manifest: &Manifest,
    unreadable: Unreadable,
) -> io::Result<Catalogue> {
    let mut catalogue = read_catalogue(file, &manifest.table, unreadable)?;
    add_manifest_names(&mut catalogue, manifest);
    Ok(catalogue)
}

fn add_manifest_names(catalogue: &mut Catalogue, manifest: &Manifest) {
    for line in &manifest.summary.lines {
        if !line.name.is_empty() && !catalogue.sources.iter().any(|s| s.id == line.source) {
            catalogue.sources.push(StoredSource {
                id: line.source,
                kind: SourceKind::Device,
                name: line.name.clone(),
                last: line.base,
                limit: line.limit,
            });
        }
    }
    catalogue.sources.sort_by_key(|s| s.id);
}

impl Active {
    /// Writes what the epoch's catalogue lacks: all of it at first.
    fn put_catalogue(
        &mut self,
        log: LogKind,
        names: &Names,
        positions: &[(u64, u64)],
    ) -> Result<(), StoreError> {
        let tags = match log {
            LogKind::Data => names.tags.len(),
            LogKind::Alarm => 0,
        };
        if self.sources == names.sources.len() && self.tags == tags {
            return Ok(());
        }
        let mut catalogue = Catalogue::default();
        for (at, source) in names.sources.iter().enumerate().skip(self.sources) {
            let (last, limit) = positions.get(at).copied().unwrap_or_default();
            catalogue.sources.push(StoredSource {
                id: SourceId(at as u32),
                kind: source.kind,
                name: source.name.clone(),
                last,
                limit,
            });
        }
        for (id, tag) in names.tags.iter().take(tags).skip(self.tags) {
            catalogue.tags.push((id, TagInfo::clone(tag)));
        }
        for frame in catalogue.frames(log, names.stream) {
            self.epoch.put_catalogue(&frame)?;
        }
        self.sources = names.sources.len();
        self.tags = tags;
        Ok(())
    }
}
