//! Throwing stored data away, because an operator says so.
//!
//! Whole epochs go. What an uplink has not settled is counted as `purged` and announced, like every other
//! loss; where the lines stand stays known.

use std::collections::BTreeMap;

use millrace_tags::{DropReason, LogKind, Timestamp};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::keeper::{Keeper, LOGS};
use crate::store::Sealed;

/// What is to go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Purge {
    /// Only epochs whose records are all older than this.
    pub before: Option<Timestamp>,
    /// Only this log.
    pub log: Option<LogKind>,
}

/// What went.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Purged {
    /// Epochs.
    pub epochs: u64,
    /// What they took on the disk.
    pub bytes: u64,
    /// Records that an uplink had still to send, by uplink.
    pub unsent: BTreeMap<String, u64>,
}

/// Why not all of it went.
#[derive(Debug, Clone, Error)]
pub enum PurgeError {
    /// An epoch could not be removed; the log says why. Ask again when the disk can be written.
    #[error("an epoch of the {} log cannot be removed; {} are gone", log.name(), done.epochs)]
    Stuck {
        /// Which log.
        log: LogKind,
        /// What went before that.
        done: Purged,
    },
    /// The buffer is closed.
    #[error("the buffer is closed")]
    Closed,
}

impl Keeper {
    /// Removes whole epochs, settled or not.
    pub(crate) fn purge(&mut self, purge: Purge) -> Result<Purged, PurgeError> {
        // Where the disk refuses, what is only in memory stays: a purge may be what helps.
        let _ = self.commit();
        let before = self.purged_so_far();
        let mut purged = Purged::default();
        let mut stuck = None;
        for kind in LOGS {
            if purge.log.is_some_and(|log| log != kind) {
                continue;
            }
            self.seal(kind);
            if !self.purge_log(kind, purge.before, &mut purged) {
                stuck = Some(kind);
            }
            self.retain(kind);
            self.publish_figures(kind);
        }
        self.tell_room();
        for (name, count) in self.purged_so_far() {
            let earlier = before.get(&name).copied().unwrap_or(0);
            purged.unsent.insert(name, count - earlier);
        }
        let wakes = self.shared.lock().wakes();
        for wake in wakes {
            wake();
        }
        match stuck {
            None => Ok(purged),
            Some(log) => Err(PurgeError::Stuck { log, done: purged }),
        }
    }

    fn purge_log(&mut self, kind: LogKind, before: Option<Timestamp>, purged: &mut Purged) -> bool {
        let older = |epoch: &Sealed| match before {
            None => true,
            Some(before) => {
                epoch.undated.is_empty() && epoch.newest.is_some_and(|newest| newest < before)
            }
        };
        // The newest epoch says where the lines stand; without records it has nothing that could go.
        let goes = |keeper: &mut Self| {
            let newest = keeper.last_sealed(kind);
            let mut sealed = keeper.store(kind).sealed.iter();
            sealed
                .find(|e| older(e) && (e.numbers > 0 || Some(e.first) != newest))
                .cloned()
        };
        while let Some(epoch) = goes(self) {
            if self.last_sealed(kind) == Some(epoch.first) {
                self.anchor(kind);
                if self.last_sealed(kind) == Some(epoch.first) {
                    return false;
                }
            }
            if !self.remove(kind, &epoch, Some(DropReason::Purged)) {
                return false;
            }
            purged.epochs += 1;
            purged.bytes += epoch.bytes;
        }
        true
    }

    /// Records that were purged before each uplink had them.
    fn purged_so_far(&self) -> BTreeMap<String, u64> {
        let core = self.shared.lock();
        let uplinks = core.uplinks.iter().map(|(name, uplink)| {
            let readers = [&uplink.alarm, &uplink.data];
            let counts = readers.into_iter().flat_map(|reader| &reader.counts);
            let purged = counts.map(|c| c.dropped.of(DropReason::Purged)).sum();
            (name.to_string(), purged)
        });
        uplinks.collect()
    }
}
