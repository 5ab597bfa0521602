//! The epochs in a log's directory: taken by their manifests, or scanned.

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};

use super::{FoundEpoch, LogRecovery, QUARANTINED_MAX};
use crate::disk::NEWER;
use crate::epoch::{StoreError, log_file, sync_directory};
use crate::manifest::{Manifest, Summary, summarise};
use crate::scan::{Found, Scan, Unreadable};

/// How many chunk numbers a newer program's epoch may hold: a claim beyond is not a number.
const NEWER_NUMBERS: u64 = 1 << 20;

impl LogRecovery<'_> {
    /// Completes what an interrupted removal has begun.
    pub(super) fn finish_removals(&self) -> Result<(), StoreError> {
        for path in self.paths("del")? {
            // It has been accounted for; if it cannot be deleted now, the next start tries again.
            let _ = fs::remove_dir_all(path);
        }
        Ok(())
    }

    pub(super) fn paths(&self, extension: &str) -> Result<Vec<PathBuf>, StoreError> {
        let unreadable = || StoreError::io("cannot read", &self.dir);
        let mut paths = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(unreadable())? {
            let path = entry.map_err(unreadable())?.path();
            if path.extension().is_some_and(|e| e == extension) {
                paths.push(path);
            }
        }
        paths.sort();
        Ok(paths)
    }

    pub(super) fn find_epochs(&mut self) -> Result<Vec<FoundEpoch>, StoreError> {
        let mut firsts: Vec<(u64, PathBuf)> = self
            .paths("ep")?
            .into_iter()
            .filter_map(|path| {
                let stem = path.file_stem()?.to_str()?;
                Some((u64::from_str_radix(stem, 16).ok()?, path.clone()))
            })
            .collect();
        firsts.sort();
        let mut epochs: Vec<FoundEpoch> = Vec::new();
        let mut firsts = VecDeque::from(firsts);
        while let Some((first, dir)) = firsts.pop_front() {
            let summary = Summary::read(&dir)?.filter(|s| s.first == first);
            if let Some(summary) = &summary {
                self.superseded(summary, &mut firsts);
            }
            let bound = firsts.front().map_or(u64::MAX, |next| next.0);
            epochs.extend(self.find_epoch(summary, first, bound, dir)?);
        }
        Ok(epochs)
    }

    pub(super) fn find_epoch(
        &mut self,
        summary: Option<Summary>,
        first: u64,
        bound: u64,
        dir: PathBuf,
    ) -> Result<Option<FoundEpoch>, StoreError> {
        let removed = &self.state.log(self.kind).removed;
        if let Some(summary) = summary.filter(|s| s.last < bound) {
            if removed.covers(first, summary.last) {
                // The state says that it is gone; only the deletion was interrupted.
                let _ = fs::remove_dir_all(&dir);
                return Ok(None);
            }
            return Ok(Some(FoundEpoch {
                dir,
                summary,
                lost: Vec::new(),
                broken_newer: false,
            }));
        }
        let before = Manifest::read(&dir)?.filter(|m| m.summary.first == first);
        let (manifest, scan) = summarise(&dir, first, bound, self.kind, Unreadable::IsLost)?;
        if scan.newer > 0 {
            self.keep_newer(&dir, first, &scan, manifest.summary.chunks == 0)?;
        }
        let name = dir
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if manifest.summary.chunks == 0 {
            if scan.newer > 0 {
                // It has its own place now.
            } else if before.is_none() && scan.broken == 0 {
                // Created, and nothing was committed before the end.
                let _ = fs::remove_dir_all(&dir);
            } else {
                self.quarantine(&dir, "no chunk of it is intact");
            }
            return Ok(None);
        }
        manifest.write_or_warn(&dir);
        let intact = &manifest.table.chunks;
        let lost: Vec<Found> = before
            .map(|m| m.table.chunks)
            .unwrap_or_default()
            .into_iter()
            .filter(|c| {
                intact
                    .binary_search_by_key(&c.number, |i| i.number)
                    .is_err()
            })
            .filter(|c| c.number < bound)
            .collect();
        if !lost.is_empty() {
            self.recovery.damaged_epochs += 1;
            let kind = self.kind.name();
            self.recovery.note(format!(
                "epoch {name} of the {kind} log is damaged: {} of its chunks are lost, {} are intact",
                lost.len(),
                intact.len()
            ));
        }
        Ok(Some(FoundEpoch {
            dir,
            summary: manifest.summary,
            lost,
            broken_newer: scan.broken_newer,
        }))
    }

    /// Keeps what a newer program wrote for the day when that version comes back: `whole` moves the epoch
    /// to a name of its own, otherwise its file gets a second one before this program removes the first.
    fn keep_newer(
        &mut self,
        dir: &Path,
        first: u64,
        scan: &Scan,
        whole: bool,
    ) -> Result<(), StoreError> {
        let claimed =
            Some(scan.newer_last).filter(|last| last.saturating_sub(first) < NEWER_NUMBERS);
        self.newer_last = self.newer_last.max(first).max(claimed.unwrap_or(0));
        let names = (1..).map(|count| match count {
            1 => NEWER.to_owned(),
            _ => format!("{count}.{NEWER}"),
        });
        let mut places = names.map(|name| dir.with_extension(name));
        // There is always one more number.
        let Some(place) = places.find(|place| !place.exists()) else {
            return Ok(());
        };
        if whole {
            fs::rename(dir, &place).map_err(StoreError::io("cannot rename", dir))?;
        } else {
            let (file, kept) = (log_file(dir), log_file(&place));
            fs::create_dir(&place)
                .and_then(|()| fs::hard_link(&file, &kept))
                .map_err(StoreError::io("cannot keep", &file))?;
            sync_directory(&place)?;
        }
        sync_directory(&self.dir)
    }

    /// Says what newer programs have left.
    pub(super) fn note_newer(&mut self) -> Result<(), StoreError> {
        let kept = self.paths(NEWER)?.len() as u64;
        self.recovery.newer_epochs += kept;
        if kept > 0 {
            let kind = self.kind.name();
            self.recovery.note(format!(
                "a newer millrace wrote {kept} epochs of the {kind} log: they are kept as .{NEWER}, and nothing in them is sent"
            ));
        }
        Ok(())
    }

    pub(super) fn quarantine(&mut self, dir: &Path, why: &str) {
        let name = dir
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let bad = dir.with_extension("bad");
        let _ = fs::remove_dir_all(&bad);
        if fs::rename(dir, &bad).is_err() {
            let _ = fs::remove_dir_all(dir);
        }
        self.recovery.quarantined_epochs += 1;
        let kind = self.kind.name();
        self.recovery.note(format!(
            "epoch {name} of the {kind} log was set aside: {why}"
        ));
        let mut kept = self.paths("bad").unwrap_or_default();
        while kept.len() > QUARANTINED_MAX {
            let _ = fs::remove_dir_all(kept.remove(0));
        }
    }
}
