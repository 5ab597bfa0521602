//! Epochs that were being merged when the buffer stopped: each step is undone or finished.
//!
//! FIRST.new is a merged epoch in the making; FIRST.old is the first of its parts, moved aside while the
//! merged one takes its name. From then on the merged epoch stands for all epochs within its range.

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};

use millrace_tags::LogKind;

use super::LogRecovery;
use crate::epoch::{StoreError, sync_directory};
use crate::manifest::{Summary, summarise};
use crate::scan::Unreadable;

impl LogRecovery<'_> {
    pub(super) fn finish_merges(&self) -> Result<(), StoreError> {
        for path in self.paths("new")? {
            // Its parts are still there. If it cannot be deleted now, the next start tries again.
            let _ = fs::remove_dir_all(path);
        }
        for old in self.paths("old")? {
            let own = old.with_extension("ep");
            if own.exists() && self.stands_for(&own, &old)? {
                let _ = fs::remove_dir_all(&old);
            } else {
                let _ = fs::remove_dir_all(&own);
                fs::rename(&old, &own).map_err(StoreError::io("cannot rename", &old))?;
                sync_directory(&self.dir)?;
            }
        }
        Ok(())
    }

    /// Whether a merged epoch may take the place of its first part. It was read back before it got its
    /// name; where it was damaged since, whichever of the two holds more stays.
    fn stands_for(&self, merged: &Path, part: &Path) -> Result<bool, StoreError> {
        Ok(Summary::read(merged)?.is_some_and(|s| s.merged)
            || numbers(merged, self.kind)? >= numbers(part, self.kind)?)
    }

    /// Takes epochs off the list that a merged one before them stands for.
    pub(super) fn superseded(&self, merged: &Summary, later: &mut VecDeque<(u64, PathBuf)>) {
        if !merged.merged {
            return;
        }
        later.retain(|(first, dir)| {
            let within = *first <= merged.last;
            if within {
                let gone = dir.with_extension("del");
                // Where this fails, the next start comes here again.
                let _ = fs::rename(dir, &gone).and_then(|()| fs::remove_dir_all(&gone));
            }
            !within
        });
    }
}

/// How many chunk numbers an epoch holds.
fn numbers(dir: &Path, log: LogKind) -> Result<u64, StoreError> {
    let (manifest, _) = summarise(dir, 0, u64::MAX, log, Unreadable::IsLost)?;
    Ok(manifest.summary.chunks)
}
