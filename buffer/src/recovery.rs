//! What opening the buffer finds, and what it makes of it.
//!
//! Opening never fails because of damage; it fails where the system cannot read just now. Sealed epochs are taken by their manifests; an epoch without
//! a valid one is scanned frame by frame. What is missing is counted and announced as a gap. Where the
//! newest numbers cannot be known for certain, the stream ends and a new one begins, so that no number
//! is ever given twice.

mod aside;
mod counts;
mod epochs;
mod lines;
mod merges;
mod missing;
mod names;

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use millrace_tags::{LogKind, SourceId, Timestamp};

pub(crate) use self::names::adopt_names;

use crate::core::Core;
use crate::epoch::{StoreError, sync_directory};
use crate::manifest::{self, Line, Summary};
use crate::patience::patiently;
use crate::scan::{Found, Unreadable};
use crate::state::State;
use crate::store::LogStore;

/// Epochs that nothing could be read from are kept for a look, this many of each log.
const QUARANTINED_MAX: usize = 2;

const CLEAN_MARK: &str = "clean";

/// What opening the buffer has found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovery {
    /// The last stop was a clean one, or there was nothing yet.
    pub clean: bool,
    /// Numbers that a crash took, or may have taken: an upper bound.
    pub crash_void: u64,
    /// Numbers that damaged files held.
    pub damaged: u64,
    /// Epochs that were found damaged.
    pub damaged_epochs: u64,
    /// Epochs that nothing could be read from, set aside as `.bad`.
    pub quarantined_epochs: u64,
    /// Epochs that a newer program wrote, kept as `.newer`: nothing in them is sent.
    pub newer_epochs: u64,
    /// What was found and done, one sentence each.
    pub notes: Vec<String>,
}

impl Recovery {
    fn note(&mut self, note: String) {
        tracing::warn!("{note}");
        self.notes.push(note);
    }

    /// Adds what one log's recovery has found.
    pub(crate) fn add(&mut self, log: Recovery) {
        self.crash_void += log.crash_void;
        self.damaged += log.damaged;
        self.damaged_epochs += log.damaged_epochs;
        self.quarantined_epochs += log.quarantined_epochs;
        self.newer_epochs += log.newer_epochs;
        self.notes.extend(log.notes);
    }
}

/// Leaves the mark of a clean stop: the last chunks of the two logs.
pub(crate) fn leave_clean_mark(dir: &Path, alarm: u64, data: u64) -> Result<(), StoreError> {
    let path = dir.join(CLEAN_MARK);
    let text = format!("{alarm} {data}\n");
    File::create(&path)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        })
        .map_err(StoreError::io("cannot write", &path))?;
    sync_directory(dir)
}

/// Reads the clean mark.
pub(crate) fn read_clean_mark(dir: &Path) -> Result<Option<[u64; 2]>, StoreError> {
    let path = dir.join(CLEAN_MARK);
    let bytes = patiently(|| fs::read(&path)).map_err(StoreError::io("cannot read", &path))?;
    let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
    let text = text.unwrap_or_default();
    let mut numbers = text.split_whitespace().map_while(|n| n.parse().ok());
    Ok(numbers.next().zip(numbers.next()).map(|(a, d)| [a, d]))
}

/// Removes the clean mark durably: what follows changes the store.
pub(crate) fn remove_clean_mark(dir: &Path) -> Result<(), StoreError> {
    let path = dir.join(CLEAN_MARK);
    match fs::remove_file(&path) {
        Ok(()) => sync_directory(dir),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(StoreError::io("cannot remove", &path)(error)),
    }
}

/// An epoch as it was found.
pub(crate) struct FoundEpoch {
    dir: PathBuf,
    summary: Summary,
    /// Chunks that an older manifest names and that are not there any more.
    lost: Vec<Found>,
    /// A frame that may be newer than all that was read is broken.
    broken_newer: bool,
}

/// One log in the making.
pub(crate) struct LogRecovery<'a> {
    pub(crate) kind: LogKind,
    pub(crate) dir: PathBuf,
    pub(crate) state: &'a State,
    /// The state file was there.
    pub(crate) state_known: bool,
    /// The last chunk according to the clean mark.
    pub(crate) clean: Option<u64>,
    /// The last chunk according to the mark; `None` where it is missing or damaged.
    pub(crate) mark: Option<u64>,
    pub(crate) at: Option<Timestamp>,
    /// What was found in this log.
    pub(crate) recovery: Recovery,
    /// The last chunk that a newer program may have written; none: zero.
    pub(crate) newer_last: u64,
}

impl LogRecovery<'_> {
    /// Finds the log's epochs, and learns when their boots were.
    pub(crate) fn find(&mut self, core: &mut Core) -> Result<Vec<FoundEpoch>, StoreError> {
        if !self.dir.exists() {
            fs::create_dir(&self.dir).map_err(StoreError::io("cannot create", &self.dir))?;
            // Its entry has to be durable before anything in it can be.
            if let Some(parent) = self.dir.parent() {
                sync_directory(parent)?;
            }
        }
        self.finish_merges()?;
        self.finish_removals()?;
        let epochs = self.find_epochs()?;
        for times in epochs.iter().flat_map(|e| &e.summary.boots) {
            core.boots.learn(times.first);
        }
        self.note_newer()?;
        Ok(epochs)
    }

    /// Fills the core with what is on the disk; the names of both logs' epochs are known.
    pub(crate) fn fill(
        &mut self,
        core: &mut Core,
        epochs: &[FoundEpoch],
    ) -> Result<LogStore, StoreError> {
        let removed = self.state.log(self.kind).removed.clone();
        core.log_mut(self.kind).removed = removed;
        self.restore_counts(core);
        self.count_epochs(core, epochs)?;
        let missing = self.missing_chunks(core, epochs)?;
        let holes = match missing.is_empty() {
            true => Vec::new(),
            false => self.account_for_missing(core, epochs, &missing)?,
        };
        self.restore_aside(core, epochs)?;
        self.recovery.damaged += holes.iter().map(|h| h.2 - h.1 + 1).sum::<u64>();
        Ok(self.place_lines(core, epochs, &missing))
    }

    /// The last chunk that was durable, as far as anybody noted it down.
    fn witnessed_last(&self) -> u64 {
        let saved = self.state.log(self.kind).last_chunk;
        saved
            .max(self.mark.unwrap_or(0))
            .max(self.clean.unwrap_or(0))
            .max(self.newer_last)
    }
}

fn table(epoch: &FoundEpoch, kind: LogKind) -> Result<Vec<Found>, StoreError> {
    let (first, last) = (epoch.summary.first, epoch.summary.last);
    let whole = manifest::restored(&epoch.dir, first, last + 1, kind, Unreadable::IsLost)?;
    Ok(whole.table.chunks)
}

fn source_of(core: &Core, line: &Line) -> Option<SourceId> {
    core.registry.find(&line.name)
}
