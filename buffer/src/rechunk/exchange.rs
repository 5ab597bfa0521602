//! The exchange on the disk: a merged epoch takes the place of those that it was made of.
//!
//! Each step can be finished or undone by the next start ([`crate::recovery`]): FIRST.ep becomes FIRST.old,
//! FIRST.new becomes FIRST.ep, and the parts become .del.

use std::fs;
use std::path::PathBuf;

use crate::epoch::{StoreError, sync_directory};
use crate::store::{LogStore, Sealed};

impl LogStore {
    /// Puts a merged epoch, complete and durable, in the place of those that it was made of; recovery
    /// finishes or undoes each step. Returns the directories that are left to be deleted, in that order.
    pub(crate) fn supersede(&mut self, merged: Sealed) -> Result<Vec<PathBuf>, StoreError> {
        let own = self.epoch_dir(merged.first);
        let (old, new) = (own.with_extension("old"), own.with_extension("new"));
        fs::rename(&own, &old).map_err(StoreError::io("cannot rename", &own))?;
        let placed = sync_directory(&self.dir)
            .and_then(|()| fs::rename(&new, &own).map_err(StoreError::io("cannot rename", &new)));
        if let Err(error) = placed {
            // If this fails too, the next start does it.
            let _ = fs::rename(&old, &own);
            return Err(error);
        }
        // From here on the merged epoch counts; what else fails is left to the next start.
        let parts = self.replace(merged);
        if sync_directory(&self.dir).is_err() {
            return Ok(Vec::new());
        }
        let later = parts[1..].iter().map(|part| self.epoch_dir(part.first));
        let mut left = Vec::new();
        for dir in later.chain([old]) {
            let gone = dir.with_extension("del");
            if fs::rename(&dir, &gone).is_ok() {
                left.push(gone);
            }
        }
        // Before this is durable nothing may be missing in them.
        match sync_directory(&self.dir) {
            Ok(()) => Ok(left),
            Err(_) => Ok(Vec::new()),
        }
    }
}
