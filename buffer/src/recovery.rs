//! What opening the buffer finds, and what it makes of it.
//!
//! Opening never fails because of damage. Sealed epochs are taken by their manifests; an epoch without
//! a valid one is scanned frame by frame. What is missing is counted and announced as a gap. Where the
//! newest numbers cannot be known for certain, the stream ends and a new one begins, so that no number
//! is ever given twice.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use millrace_tags::{DropReason, LogKind, SourceId, SourceKind, StreamId, Timestamp};
use uuid::Uuid;

use crate::catalogue::{Catalogue, StoredSource};
use crate::core::Core;
use crate::epoch::{StoreError, disk_bytes, log_file, sync_directory};
use crate::log::LineKey;
use crate::manifest::{Line, Manifest, Summary, seal};
use crate::owed::{Owed, OwedKey};
use crate::ranges::Ranges;
use crate::retention::covered;
use crate::scan::Found;
use crate::state::State;
use crate::store::{LogStore, Sealed};
use crate::uplink::{Directory, Uplink};

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
        }
        self.finish_removals()?;
        let epochs = self.find_epochs()?;
        for epoch in epochs.iter().rev() {
            self.adopt_names(core, epoch);
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
        self.recovery.damaged += holes.iter().map(|h| h.2 - h.1 + 1).sum::<u64>();
        self.place_lines(core, &epochs, &missing)
    }

    /// Completes what an interrupted removal has begun.
    fn finish_removals(&self) -> Result<(), StoreError> {
        for path in self.paths("del")? {
            // It has been accounted for; if it cannot be deleted now, the next start tries again.
            let _ = fs::remove_dir_all(path);
        }
        Ok(())
    }

    fn paths(&self, extension: &str) -> Result<Vec<PathBuf>, StoreError> {
        let entries = fs::read_dir(&self.dir).map_err(StoreError::io("cannot read", &self.dir))?;
        let mut paths: Vec<PathBuf> = entries
            .flatten()
            .map(|e| e.path())
            .filter(|p| p.extension().is_some_and(|e| e == extension))
            .collect();
        paths.sort();
        Ok(paths)
    }

    fn find_epochs(&mut self) -> Result<Vec<FoundEpoch>, StoreError> {
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
        for at in 0..firsts.len() {
            let (first, dir) = firsts[at].clone();
            let bound = firsts.get(at + 1).map_or(u64::MAX, |next| next.0);
            if let Some(epoch) = self.find_epoch(first, bound, dir) {
                epochs.push(epoch);
            }
        }
        Ok(epochs)
    }

    fn find_epoch(&mut self, first: u64, bound: u64, dir: PathBuf) -> Option<FoundEpoch> {
        let removed = &self.state.log(self.kind).removed;
        if let Some(summary) = Summary::read(&dir)
            && summary.first == first
            && summary.last < bound
        {
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

    fn quarantine(&mut self, dir: &Path, why: &str) {
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

    /// Takes over the numbers of an epoch's sources and tags. The newest epoch comes first.
    fn adopt_names(&mut self, core: &mut Core, epoch: &FoundEpoch) {
        let catalogue = read_catalogue(&epoch.dir);
        if !core.registry.adopt(&catalogue) {
            // The numbers of that epoch are translated by name whenever it is read.
            for source in &catalogue.sources {
                core.registry.source(&source.name, source.kind);
            }
        }
        for line in &epoch.summary.lines {
            if !line.name.is_empty() {
                core.registry.source(&line.name, SourceKind::Device);
            }
        }
    }

    /// What the state file says of removed chunks and of uplinks.
    fn restore_counts(&mut self, core: &mut Core) {
        let saved = self.state.log(self.kind);
        for (name, removed) in &saved.sources {
            let source = core.registry.source(name, SourceKind::Device);
            let totals = core.log_mut(self.kind).totals(source);
            totals.records += removed.records;
            totals.removed += removed.records;
            for (reason, count) in &removed.voids {
                totals.voids.add(*reason, *count);
                totals.removed_voids.add(*reason, *count);
            }
        }
        for end in &saved.ends {
            let source = core.registry.source(&end.source, SourceKind::Device);
            let ends = &mut core.log_mut(self.kind).ends;
            ends.insert((end.stream, source), end.end);
        }
        for (name, saved) in &self.state.uplinks {
            let name: std::sync::Arc<str> = name.as_str().into();
            let uplink = core
                .uplinks
                .entry(name)
                .or_insert_with(|| Uplink::owing(Owed::restore(saved.owed.clone())));
            let log = saved.log(self.kind);
            let reader = uplink.reader_mut(self.kind);
            reader.settled = log.settled.clone();
            for (source, dropped) in &log.dropped {
                let source = core.registry.source(source, SourceKind::Device);
                for (reason, count) in dropped {
                    reader.counts(source).dropped.add(*reason, *count);
                }
            }
        }
    }

    /// Adds what the epochs hold to the counts.
    fn count_epochs(&mut self, core: &mut Core, epochs: &[FoundEpoch]) {
        for epoch in epochs {
            let (first, last) = (epoch.summary.first, epoch.summary.last);
            let removed = core.log(self.kind).removed.clone();
            let nothing = Ranges::default();
            let whole = removed.within(first, last).next().is_none();
            let mut sets = vec![(None, &nothing)];
            sets.extend(self.state.uplinks.iter().map(|(name, uplink)| {
                let settled = &uplink.log(self.kind).settled;
                (Some(name.clone()), settled)
            }));
            for (uplink, settled) in sets {
                let lines = if whole && settled.within(first, last).next().is_none() {
                    epoch.summary.lines.clone()
                } else if covered(settled, &removed, first, last) {
                    continue;
                } else {
                    lines_without(epoch, settled, &removed)
                };
                self.count_lines(core, uplink.as_deref(), &lines);
            }
        }
        for name in self.state.uplinks.keys() {
            self.count_acked(core, name);
        }
    }

    fn count_lines(&self, core: &mut Core, uplink: Option<&str>, lines: &[Line]) {
        for line in lines {
            let Some(source) = source_of(core, line) else {
                continue;
            };
            match uplink {
                None => {
                    let totals = core.log_mut(self.kind).totals(source);
                    totals.records += line.records;
                    for (reason, count) in &line.voids {
                        totals.voids.add(*reason, *count);
                    }
                }
                Some(name) => {
                    if let Some(uplink) = core.uplinks.get_mut(name) {
                        uplink.reader_mut(self.kind).counts(source).queued += line.records;
                    }
                }
            }
        }
    }

    /// What is neither queued nor dropped was acked.
    fn count_acked(&self, core: &mut Core, uplink: &str) {
        let totals = core.log(self.kind).totals.clone();
        let Some(uplink) = core.uplinks.get_mut(uplink) else {
            return;
        };
        let reader = uplink.reader_mut(self.kind);
        for (source, totals) in (0u32..).map(SourceId).zip(totals) {
            let counts = reader.counts(source);
            let rest = counts.queued + counts.dropped.total();
            counts.acked = totals.records.saturating_sub(rest);
        }
    }

    /// Chunk numbers that neither an epoch nor the state accounts for.
    fn missing_chunks(&mut self, core: &Core, epochs: &[FoundEpoch]) -> Ranges {
        let mut present = core.log(self.kind).removed.clone();
        for epoch in epochs {
            let summary = &epoch.summary;
            if summary.chunks == summary.last - summary.first + 1 && epoch.lost.is_empty() {
                present.insert(summary.first, summary.last);
                continue;
            }
            for chunk in table(&epoch.dir) {
                present.insert(chunk.number, chunk.last_number());
            }
        }
        let begin = match (self.state_known, epochs.first()) {
            (true, _) => 1,
            (false, Some(oldest)) => oldest.summary.first,
            (false, None) => return Ranges::default(),
        };
        let end = epochs.last().map_or(0, |e| e.summary.last);
        let end = end.max(self.witnessed_last());
        let mut missing = Ranges::default();
        for (first, last) in present.free(begin, end.max(begin)) {
            if last <= end {
                missing.insert(first, last);
            }
        }
        missing
    }

    /// The last chunk that was durable, as far as anybody noted it down.
    fn witnessed_last(&self) -> u64 {
        let saved = self.state.log(self.kind).last_chunk;
        saved
            .max(self.mark.unwrap_or(0))
            .max(self.clean.unwrap_or(0))
    }

    /// Counts and announces what missing chunks held, as far as the numbers around them tell.
    fn account_for_missing(
        &mut self,
        core: &mut Core,
        epochs: &[FoundEpoch],
        missing: &Ranges,
    ) -> Vec<(LineKey, u64, u64)> {
        let kind = self.kind;
        let holes = self.holes(core, epochs);
        let (low, high) = (
            missing.iter().next().map_or(1, |r| r.0),
            missing.iter().last().map_or(1, |r| r.1),
        );
        // The lost chunks are treated as one: which of them held which numbers is not known.
        let entries = holes.iter().map(|&(l, a, b)| (l, a, b, None)).collect();
        let lost = Directory {
            number: low,
            last: high,
            entries,
        };
        for &(line, first, last) in &holes {
            let count = last - first + 1;
            core.log_mut(kind).totals(line.source).records += count;
            for uplink in core.uplinks.values_mut() {
                let reader = uplink.reader_mut(kind);
                let settled = missing.iter().all(|(a, b)| reader.settled.covers(a, b));
                let counts = reader.counts(line.source);
                match settled {
                    true => counts.acked += count,
                    false => counts.queued += count,
                }
            }
        }
        let before = core.log(kind).removed.clone();
        let settled_before: Vec<Ranges> = core
            .uplinks
            .values()
            .map(|u| u.reader(kind).settled.clone())
            .collect();
        // `lose_chunk` asks whether the uplink has settled the whole range.
        for (uplink, settled) in core.uplinks.values_mut().zip(&settled_before) {
            if missing.iter().all(|(a, b)| settled.covers(a, b)) {
                uplink.reader_mut(kind).settled.insert(low, high);
            }
        }
        core.lose_chunk(kind, &lost, Some(DropReason::Damage), self.at);
        for (uplink, settled) in core.uplinks.values_mut().zip(settled_before) {
            uplink.reader_mut(kind).settled = settled;
        }
        let log = core.log_mut(kind);
        log.removed = before;
        log.removed.union(missing);
        self.recovery.note(format!(
            "{} chunks of the {} log are missing; {} numbers are lost",
            missing.count(),
            kind.name(),
            holes.iter().map(|h| h.2 - h.1 + 1).sum::<u64>()
        ));
        holes
    }

    /// Numbers below each line's end that no chunk holds.
    fn holes(&self, core: &mut Core, epochs: &[FoundEpoch]) -> Vec<(LineKey, u64, u64)> {
        let mut held: BTreeMap<LineKey, (Ranges, u64)> = BTreeMap::new();
        let log = core.log_mut(self.kind);
        let ends: Vec<_> = log.ends.iter().map(|(k, e)| (*k, *e)).collect();
        for ((stream, source), end) in ends {
            let stream = log.stream(stream);
            let line = held.entry(LineKey { stream, source }).or_default();
            line.0.insert(1, end);
            line.1 = line.1.max(end);
        }
        for epoch in epochs {
            let names = names_of(core, epoch);
            for line in &epoch.summary.lines {
                let Some(source) = names.get(&line.source).copied() else {
                    continue;
                };
                let stream = core.log_mut(self.kind).stream(line.stream);
                let fresh = !held.contains_key(&LineKey { stream, source });
                let entry = held.entry(LineKey { stream, source }).or_default();
                if fresh && !self.state_known {
                    // What lies before the oldest epoch is unknown without the state.
                    entry.0.insert(1, line.base);
                }
                entry.1 = entry.1.max(line.end);
            }
            for chunk in table(&epoch.dir) {
                let stream = core.log_mut(self.kind).stream(chunk.stream);
                for entry in &chunk.entries {
                    let Some(source) = names.get(&entry.source).copied() else {
                        continue;
                    };
                    let line = held.entry(LineKey { stream, source }).or_default();
                    line.0.insert(entry.first, entry.last());
                    line.1 = line.1.max(entry.last());
                }
            }
        }
        let mut holes = Vec::new();
        for (line, (numbers, end)) in held {
            if end > 0 {
                holes.extend(numbers.free(1, end).into_iter().map(|(a, b)| (line, a, b)));
            }
        }
        holes
    }

    /// Decides where each line goes on: in the stream of the newest chunk, or in a new one.
    fn place_lines(
        &mut self,
        core: &mut Core,
        epochs: &[FoundEpoch],
        missing: &Ranges,
    ) -> Result<LogStore, StoreError> {
        let kind = self.kind;
        let sealed: VecDeque<Sealed> = epochs.iter().map(sealed).collect();
        let mut store = LogStore::new(kind, self.dir.clone(), sealed);
        let newest = epochs.last();
        let found_last = newest.map_or(0, |e| e.summary.last);
        let saved_last = self.witnessed_last();
        let removed_last = core.log(kind).removed.iter().last().map_or(0, |r| r.1);
        let known_last = found_last.max(saved_last).max(removed_last);
        core.log_mut(kind).last_chunk = known_last;
        for uplink in core.uplinks.values_mut() {
            uplink.reader_mut(kind).live = 1;
        }
        let Some(stream) = newest
            .and_then(|e| e.summary.stream)
            .or_else(|| self.state.log(kind).ends.first().map(|e| e.stream))
        else {
            return Ok(store);
        };
        let lines = self.line_positions(core, epochs, stream);
        let newest_first = newest.map_or(known_last, |e| e.summary.first);
        let doubtful = newest.is_none_or(|e| e.broken_newer)
            || found_last < known_last
            || missing.iter().any(|(_, last)| last >= newest_first)
            || match self.clean {
                Some(last) => last != known_last,
                None => self.mark.is_none(),
            };
        if doubtful {
            self.close_stream(core, stream, &lines);
            return Ok(store);
        }
        let at = core.log_mut(kind).stream(stream);
        core.log_mut(kind).current = at;
        for (source, (end, limit)) in lines {
            let numbers = core.log_mut(kind).numbers(source);
            numbers.last = end;
            numbers.limit = end;
            store.set_position(stream, source, end, limit.max(end));
            if self.clean.is_none() && limit > end {
                // Committed before anything else; see `Buffer::open`.
                self.recovery.crash_void += limit - end;
                core.pending_voids.push((kind, source, limit - end));
            }
        }
        Ok(store)
    }

    fn line_positions(
        &self,
        core: &mut Core,
        epochs: &[FoundEpoch],
        stream: StreamId,
    ) -> HashMap<SourceId, (u64, u64)> {
        let mut lines: HashMap<SourceId, (u64, u64)> = HashMap::new();
        for end in self.state.log(self.kind).ends.iter() {
            if end.stream == stream
                && let Some(source) = core.registry.find(&end.source)
            {
                lines.insert(source, (end.end, end.end));
            }
        }
        for epoch in epochs {
            for line in epoch.summary.lines.iter().filter(|l| l.stream == stream) {
                if let Some(source) = source_of(core, line) {
                    let known = lines.entry(source).or_default();
                    known.0 = known.0.max(line.end);
                    known.1 = line.limit.max(known.0);
                }
            }
        }
        lines
    }

    /// Ends a stream whose newest numbers are not known: every uplink is told that nothing more comes.
    fn close_stream(
        &mut self,
        core: &mut Core,
        stream: StreamId,
        lines: &HashMap<SourceId, (u64, u64)>,
    ) {
        let kind = self.kind;
        self.recovery.note(format!(
            "the newest data of the {} log are damaged: a new number stream begins",
            kind.name()
        ));
        let fresh = core.log_mut(kind).stream(StreamId(Uuid::new_v4()));
        core.log_mut(kind).current = fresh;
        for (source, (end, _)) in lines {
            let Some(name) = core.registry.name(*source).cloned() else {
                continue;
            };
            for uplink in core.uplinks.values_mut() {
                let key = OwedKey {
                    log: kind,
                    stream,
                    reason: DropReason::Damage,
                    source: name.clone(),
                };
                uplink.owed.add(key, self.at, end + 1, u64::MAX);
            }
        }
    }
}

fn sealed(epoch: &FoundEpoch) -> Sealed {
    Sealed {
        first: epoch.summary.first,
        last: epoch.summary.last,
        chunks: epoch.summary.chunks,
        bytes: disk_bytes(&epoch.dir),
        newest: epoch.summary.newest,
    }
}

fn table(epoch_dir: &Path) -> Vec<Found> {
    Manifest::read(epoch_dir).map_or_else(Vec::new, |m| m.table.chunks)
}

/// The sums over the chunks that are in neither set.
fn lines_without(epoch: &FoundEpoch, settled: &Ranges, removed: &Ranges) -> Vec<Line> {
    let mut lines: Vec<Line> = epoch.summary.lines.clone();
    for line in &mut lines {
        line.records = 0;
        line.voids.clear();
    }
    for chunk in table(&epoch.dir) {
        if covered(settled, removed, chunk.number, chunk.last_number()) {
            continue;
        }
        for entry in &chunk.entries {
            let line = lines
                .iter_mut()
                .find(|l| l.stream == chunk.stream && l.source == entry.source);
            let Some(line) = line else { continue };
            match entry.void {
                None => line.records += entry.count,
                Some(reason) => line.voids.push((reason, entry.count)),
            }
        }
    }
    lines
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

fn names_of(core: &Core, epoch: &FoundEpoch) -> HashMap<SourceId, SourceId> {
    let lines = epoch.summary.lines.iter();
    lines
        .filter_map(|l| Some((l.source, core.registry.find(&l.name)?)))
        .collect()
}
