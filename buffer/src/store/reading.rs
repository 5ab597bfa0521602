//! Reading chunks back: of the active epoch through sled, of sealed ones from their files.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use millrace_tags::SourceId;

use super::names::{EpochNames, add_manifest_names, read_names};
use super::{LogStore, Sealed};
use crate::catalogue::{Catalogue, Registry};
use crate::chunk::{FRAME_BYTES_MAX, Frame};
use crate::epoch::{StoreError, log_file};
use crate::manifest::{self, Manifest, Table};
use crate::patience::Trouble;
use crate::scan::{Found, Unreadable};

/// Sealed epochs that are kept open for reading: one for each lane that can lag.
const OPEN_EPOCHS_MAX: usize = 2;

/// A sealed epoch that is open for reading.
pub(super) struct OpenEpoch {
    pub(super) first: u64,
    file: File,
    /// Chunk number, span, offset, length.
    chunks: Vec<(u64, u32, u64, u32)>,
    catalogue: Catalogue,
    /// The sources in the directories of its chunks.
    used: BTreeSet<SourceId>,
    /// The catalogue in terms of the registry, once somebody asked.
    names: Option<Arc<EpochNames>>,
}

/// What asking for a chunk brought.
pub(crate) enum Read {
    Frame(Vec<u8>),
    /// It is not where it should be; what it held, if that is known.
    Lost(Option<Found>),
    /// It cannot be read now.
    Failed(StoreError),
}

impl LogStore {
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

    fn sealed_with(&self, number: u64) -> Option<&Sealed> {
        let at = self.sealed.partition_point(|s| s.last < number);
        self.sealed.get(at).filter(|s| s.first <= number)
    }
}
