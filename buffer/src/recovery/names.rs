//! Which names the stored numbers stand for.
//!
//! Both logs number their sources alike, and each epoch has the names in frames of its own and in its
//! manifest. All of that is read before any line is placed, so that a name that is damaged in one place
//! is known from another one. A source whose name is lost everywhere goes on under its number.

use std::collections::BTreeSet;
use std::fs::File;

use millrace_tags::{LogKind, SourceKind};

use super::{FoundEpoch, LogRecovery};
use crate::catalogue::unnamed;
use crate::core::Core;
use crate::epoch::{StoreError, log_file};
use crate::manifest::Manifest;
use crate::patience::patiently;
use crate::scan::Unreadable;
use crate::store::read_names;

/// One log with its epochs, oldest first.
type Found<'a> = (LogRecovery<'a>, Vec<FoundEpoch>);

/// Takes over the numbers of all sources and tags, and gives a name to every line.
pub(crate) fn adopt_names(core: &mut Core, logs: &mut [Found<'_>]) -> Result<(), StoreError> {
    for (log, epochs) in &*logs {
        // The newest catalogue has everything that older ones have: reading all takes too long.
        for epoch in epochs.iter().rev() {
            if log.adopt_catalogue(core, epoch)? {
                break;
            }
        }
    }
    for epoch in logs.iter().flat_map(|(_, epochs)| epochs.iter().rev()) {
        for line in epoch.summary.lines.iter().filter(|l| !l.name.is_empty()) {
            if core.registry.source(&line.name, SourceKind::Device) != line.source {
                core.registry.contradict();
            }
        }
    }
    for (log, epochs) in logs {
        log.name_lines(core, epochs);
    }
    Ok(())
}

impl LogRecovery<'_> {
    /// Takes over the numbers of an epoch's sources and tags; `true` where its catalogue is there.
    fn adopt_catalogue(&self, core: &mut Core, epoch: &FoundEpoch) -> Result<bool, StoreError> {
        let path = log_file(&epoch.dir);
        let Some(manifest) = Manifest::read(&epoch.dir)? else {
            return Ok(false);
        };
        let unreadable = || StoreError::io("cannot read", &path);
        let Some(file) = patiently(|| File::open(&path)).map_err(unreadable())? else {
            return Ok(false);
        };
        let catalogue = read_names(&file, &manifest, Unreadable::IsLost).map_err(unreadable())?;
        // Where it contradicts, its numbers are translated by name whenever the epoch is read.
        core.registry.adopt(&catalogue);
        Ok(match self.kind {
            LogKind::Alarm => !catalogue.sources.is_empty(),
            LogKind::Data => !catalogue.tags.is_empty(),
        })
    }

    /// Gives lines whose name is lost the one that their number has elsewhere, or says that it is lost.
    fn name_lines(&mut self, core: &mut Core, epochs: &mut [FoundEpoch]) {
        let mut lost = BTreeSet::new();
        let lines = epochs.iter_mut().flat_map(|e| &mut e.summary.lines);
        for line in lines.filter(|l| l.name.is_empty()) {
            let source = core.registry.nameless(line.source);
            if let Some(name) = core.registry.name(source) {
                line.name = name.clone();
            }
            if line.name == unnamed(line.source) {
                lost.insert(line.name.clone());
            }
        }
        for name in lost {
            self.recovery.note(format!(
                "the name of a source of the {} log is lost: what it left is sent as {name}",
                self.kind.name()
            ));
        }
    }
}
