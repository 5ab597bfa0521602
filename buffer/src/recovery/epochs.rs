//! The epochs in a log's directory: taken by their manifests, or scanned.

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};

use super::{FoundEpoch, LogRecovery, QUARANTINED_MAX};
use crate::epoch::StoreError;
use crate::manifest::{Manifest, Summary, seal};
use crate::scan::Found;

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
        let entries = fs::read_dir(&self.dir).map_err(StoreError::io("cannot read", &self.dir))?;
        let mut paths: Vec<PathBuf> = entries
            .flatten()
            .map(|e| e.path())
            .filter(|p| p.extension().is_some_and(|e| e == extension))
            .collect();
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
            let summary = Summary::read(&dir).filter(|s| s.first == first);
            if let Some(summary) = &summary {
                self.superseded(summary, &mut firsts);
            }
            let bound = firsts.front().map_or(u64::MAX, |next| next.0);
            if let Some(epoch) = self.find_epoch(summary, first, bound, dir) {
                epochs.push(epoch);
            }
        }
        Ok(epochs)
    }

    pub(super) fn find_epoch(
        &mut self,
        summary: Option<Summary>,
        first: u64,
        bound: u64,
        dir: PathBuf,
    ) -> Option<FoundEpoch> {
        let removed = &self.state.log(self.kind).removed;
        if let Some(summary) = summary.filter(|s| s.last < bound) {
            if removed.covers(first, summary.last) {
                // The state says that it is gone; only the deletion was interrupted.
                let _ = fs::remove_dir_all(&dir);
                return None;
            }
            return Some(FoundEpoch {
                dir,
                summary,
                lost: Vec::new(),
                broken_newer: false,
            });
        }
        let before = Manifest::read(&dir).filter(|m| m.summary.first == first);
        let (manifest, scan) = match seal(&dir, first, bound, self.kind) {
            Ok(sealed) => sealed,
            Err(error) => {
                self.quarantine(&dir, &format!("it cannot be read ({error})"));
                return None;
            }
        };
        let name = dir
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if manifest.summary.chunks == 0 {
            if before.is_none() && scan.broken == 0 {
                // Created, and nothing was committed before the end.
                let _ = fs::remove_dir_all(&dir);
            } else {
                self.quarantine(&dir, "no chunk of it is intact");
            }
            return None;
        }
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
        Some(FoundEpoch {
            dir,
            summary: manifest.summary,
            lost,
            broken_newer: scan.broken_newer,
        })
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
