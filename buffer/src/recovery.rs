//! What opening the buffer finds, and what it makes of it.
//!
//! Opening never fails because of damage. Sealed epochs are taken by their manifests; an epoch without
//! a valid one is scanned frame by frame. What is missing is counted and announced as a gap. Where the
//! newest numbers cannot be known for certain, the stream ends and a new one begins, so that no number
//! is ever given twice.

mod aside;
mod counts;
mod epochs;
mod lines;
mod merges;
mod missing;

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use millrace_tags::{LogKind, SourceId, SourceKind, Timestamp};

use crate::catalogue::{Catalogue, StoredSource};
use crate::core::Core;
use crate::epoch::{StoreError, log_file, sync_directory};
use crate::manifest::{self, Line, Manifest, Summary};
use crate::scan::Found;
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
    /// What was found and done, one sentence each.
    pub notes: Vec<String>,
}

impl Recovery {
    fn note(&mut self, note: String) {
        tracing::warn!("{note}");
        self.notes.push(note);
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

/// Reads the clean mark and removes it durably.
pub(crate) fn take_clean_mark(dir: &Path) -> Result<Option<[u64; 2]>, StoreError> {
    let path = dir.join(CLEAN_MARK);
    let Ok(text) = fs::read_to_string(&path) else {
        return Ok(None);
    };
    fs::remove_file(&path).map_err(StoreError::io("cannot remove", &path))?;
    sync_directory(dir)?;
    let mut numbers = text.split_whitespace().map_while(|n| n.parse().ok());
    Ok(numbers.next().zip(numbers.next()).map(|(a, d)| [a, d]))
}

/// An epoch as it was found.
struct FoundEpoch {
    dir: PathBuf,
    summary: Summary,
    /// Chunks that an older manifest names and that are not there any more.
    lost: Vec<Found>,
    /// A frame that may be newer than all that was read is broken.
    broken_newer: bool,
}

impl FoundEpoch {
    /// Gives lines whose catalogue frame is lost the names that their numbers have elsewhere.
    fn name_lines(&mut self, core: &Core) {
        for line in self.summary.lines.iter_mut().filter(|l| l.name.is_empty()) {
            let same = core.registry.same(line.source);
            if let Some(name) = same.and_then(|s| core.registry.name(s)) {
                line.name = name.clone();
            }
        }
    }
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
    pub(crate) recovery: &'a mut Recovery,
}

impl LogRecovery<'_> {
    /// Fills the core with what is on the disk.
    pub(crate) fn run(&mut self, core: &mut Core) -> Result<LogStore, StoreError> {
        if !self.dir.exists() {
            fs::create_dir(&self.dir).map_err(StoreError::io("cannot create", &self.dir))?;
            // Its entry has to be durable before anything in it can be.
            if let Some(parent) = self.dir.parent() {
                sync_directory(parent)?;
            }
        }
        self.finish_merges()?;
        self.finish_removals()?;
        let mut epochs = self.find_epochs()?;
        for times in epochs.iter().flat_map(|e| &e.summary.boots) {
            core.boots.learn(times.first);
        }
        let mut named = false;
        for epoch in epochs.iter().rev() {
            named |= self.adopt_names(core, epoch, named);
        }
        for epoch in &mut epochs {
            epoch.name_lines(core);
        }
        let removed = self.state.log(self.kind).removed.clone();
        core.log_mut(self.kind).removed = removed;
        self.restore_counts(core);
        self.count_epochs(core, &epochs);
        let missing = self.missing_chunks(core, &epochs);
        let holes = match missing.is_empty() {
            true => Vec::new(),
            false => self.account_for_missing(core, &epochs, &missing),
        };
        self.restore_aside(core, &epochs);
        self.recovery.damaged += holes.iter().map(|h| h.2 - h.1 + 1).sum::<u64>();
        self.place_lines(core, &epochs, &missing)
    }

    /// Takes over the numbers of an epoch's sources and tags; `true` where its catalogue is there.
    ///
    /// The newest epoch comes first. Its catalogue has everything that older ones have, so of those
    /// (`named`) only the summary is looked at: reading all catalogues would take too long.
    fn adopt_names(&mut self, core: &mut Core, epoch: &FoundEpoch, named: bool) -> bool {
        let mut found = false;
        if !named {
            let catalogue = read_catalogue(&epoch.dir);
            // Where it contradicts, its numbers are translated by name whenever the epoch is read.
            core.registry.adopt(&catalogue);
            found = match self.kind {
                LogKind::Alarm => !catalogue.sources.is_empty(),
                LogKind::Data => !catalogue.tags.is_empty(),
            };
        }
        for line in epoch.summary.lines.iter().filter(|l| !l.name.is_empty()) {
            if core.registry.source(&line.name, SourceKind::Device) != line.source {
                core.registry.contradict();
            }
        }
        found
    }

    /// The last chunk that was durable, as far as anybody noted it down.
    fn witnessed_last(&self) -> u64 {
        let saved = self.state.log(self.kind).last_chunk;
        saved
            .max(self.mark.unwrap_or(0))
            .max(self.clean.unwrap_or(0))
    }
}

fn table(epoch: &FoundEpoch, kind: LogKind) -> Vec<Found> {
    let (first, last) = (epoch.summary.first, epoch.summary.last);
    manifest::table(&epoch.dir, first, last + 1, kind).chunks
}

fn read_catalogue(epoch_dir: &Path) -> Catalogue {
    let Some(manifest) = Manifest::read(epoch_dir) else {
        return Catalogue::default();
    };
    let Ok(file) = File::open(log_file(epoch_dir)) else {
        return Catalogue::default();
    };
    let mut catalogue = crate::store::read_catalogue(&file, &manifest.table);
    // A frame that was lost leaves the names that the manifest has.
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
    catalogue
}

fn source_of(core: &Core, line: &Line) -> Option<SourceId> {
    core.registry.find(&line.name)
}
