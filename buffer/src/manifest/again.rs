//! Manifests from an epoch's file: when it is sealed, and when its manifest is lost or damaged.

use std::fs;
use std::path::Path;

use millrace_tags::{BootId, LogKind, Moment, StreamId, Timebase};
use uuid::Uuid;

use super::{Manifest, Summary};
use crate::chunk::Entry;
use crate::epoch::{StoreError, log_file};
use crate::ranges::Ranges;
use crate::scan::{Found, Scan, Unreadable};

/// Seals an epoch: scans its file and writes the manifest. Chunks from `bound` on are not its own: a
/// failed commit left them, and a later epoch has them.
pub(crate) fn seal(
    epoch_dir: &Path,
    first: u64,
    bound: u64,
    log: LogKind,
    unreadable: Unreadable,
) -> Result<(Manifest, Scan), StoreError> {
    let (manifest, scan) = summarise(epoch_dir, first, bound, log, unreadable)?;
    manifest.write_or_warn(epoch_dir);
    Ok((manifest, scan))
}

/// What an epoch's manifest has to say, from a scan of its file.
pub(crate) fn summarise(
    epoch_dir: &Path,
    first: u64,
    bound: u64,
    log: LogKind,
    unreadable: Unreadable,
) -> Result<(Manifest, Scan), StoreError> {
    let path = log_file(epoch_dir);
    let len = fs::metadata(&path).map_or(0, |meta| meta.len());
    let scan = crate::scan::scan(&path, log, unreadable);
    let mut scan = scan.map_err(StoreError::io("cannot read", &path))?;
    scan.chunks
        .retain(|c| c.number >= first && c.last_number() < bound);
    let manifest = Manifest::of(&scan, first, len);
    Ok((manifest, scan))
}

/// What a sealed epoch holds: from its manifest or, where one of the sections is damaged, made again.
///
/// Chunks that the summary counts and the file does not hold any more get a place of no length. Which of
/// them held which numbers is not known: all of them are laid to the first.
pub(crate) fn restored(
    epoch_dir: &Path,
    first: u64,
    bound: u64,
    log: LogKind,
    unreadable: Unreadable,
) -> Result<Manifest, StoreError> {
    if let Some(manifest) = Manifest::read(epoch_dir)? {
        return Ok(manifest);
    }
    let summary = Summary::read(epoch_dir)?;
    let (mut manifest, _) = seal(epoch_dir, first, bound, log, unreadable)?;
    if let Some(summary) = summary.filter(|s| s.chunks > manifest.summary.chunks) {
        manifest.add_lost(summary);
        manifest.write_or_warn(epoch_dir);
    }
    Ok(manifest)
}

impl Manifest {
    fn add_lost(&mut self, summary: Summary) {
        let mut present = Ranges::default();
        for chunk in &self.table.chunks {
            present.insert(chunk.number, chunk.last_number());
        }
        let mut lost: Vec<Found> = Vec::new();
        for (first, last) in present.free(summary.first, summary.last) {
            lost.extend((first..=last).map(|number| Found {
                number,
                span: 1,
                offset: 0,
                len: 0,
                stream: summary.stream.unwrap_or(StreamId(Uuid::nil())),
                timebase: Timebase {
                    boot: BootId(Uuid::nil()),
                    offset_ns: None,
                },
                newest: Moment(0),
                entries: Vec::new(),
            }));
        }
        if let Some(place) = lost.first_mut() {
            place.entries = self.holes(&summary, place.stream);
        }
        self.table.chunks.extend(lost);
        self.table.chunks.sort_by_key(|c| c.number);
        self.summary = summary;
    }

    /// Numbers of the summary's lines that no chunk holds.
    fn holes(&self, summary: &Summary, stream: StreamId) -> Vec<Entry> {
        let mut holes = Vec::new();
        for line in summary.lines.iter().filter(|l| l.stream == stream) {
            let mut held = Ranges::default();
            for chunk in self.table.chunks.iter().filter(|c| c.stream == stream) {
                for entry in chunk.entries.iter().filter(|e| e.source == line.source) {
                    held.insert(entry.first, entry.last());
                }
            }
            let free = held.free(line.base + 1, line.end);
            holes.extend(free.into_iter().map(|(first, last)| Entry {
                source: line.source,
                first,
                count: last - first + 1,
                ahead: 0,
                void: None,
            }));
        }
        holes
    }
}
