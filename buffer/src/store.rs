//! The epochs of one log: the one that is written, and the sealed ones.

mod active;
mod names;
mod reading;
mod sealed;

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use millrace_tags::{LogKind, Moment, SourceId, StreamId, TagTable};

use crate::boots::Boots;
use crate::catalogue::SourceInfo;
use crate::commit::Packed;
use crate::epoch::{self, Epoch, StoreError, disk_bytes, sync_directory};
use crate::growth::Growth;
use crate::manifest::{Summary, seal};
use crate::scan::Unreadable;
use active::Active;
pub(crate) use names::{EpochNames, read_catalogue, read_names};
use reading::OpenEpoch;
pub(crate) use reading::Read;
pub(crate) use sealed::Sealed;

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
