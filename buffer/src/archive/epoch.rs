//! One epoch of an archive: where it is, what is in it.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use millrace_tags::{LogKind, SourceId, TagTable};

use crate::catalogue::unnamed;
use crate::chunk::FRAME_BYTES_MAX;
use crate::epoch::log_file;
use crate::manifest::{Manifest, Summary};
use crate::scan::{Found, Unreadable};

/// Endings of directories that are epochs; `old` is one that a merged one takes the place of just now.
const ENDINGS: [&str; 2] = ["ep", "old"];

/// Where an epoch is.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) first: u64,
    dir: PathBuf,
    /// Chunks from here on are not its own.
    bound: u64,
    pub(super) bytes: u64,
}

/// An epoch, open for reading.
pub(super) struct Opened {
    pub(super) place: Place,
    file: File,
    /// By ascending number.
    pub(super) chunks: Vec<Found>,
    names: HashMap<SourceId, Arc<str>>,
    pub(super) tags: Arc<TagTable>,
}

/// The epochs of a log, by first chunk.
pub(super) fn places(log_dir: &Path) -> Vec<Place> {
    let entries = fs::read_dir(log_dir).into_iter().flatten().flatten();
    let mut places: Vec<Place> = entries
        .filter_map(|entry| {
            let dir = entry.path();
            let ending = dir.extension()?.to_str()?;
            let first = u64::from_str_radix(dir.file_stem()?.to_str()?, 16).ok()?;
            ENDINGS.contains(&ending).then_some(())?;
            let bytes = fs::metadata(log_file(&dir)).map_or(0, |meta| meta.len());
            Some(Place {
                first,
                dir,
                bound: u64::MAX,
                bytes,
            })
        })
        .collect();
    places.sort_by(|a, b| (a.first, &a.dir).cmp(&(b.first, &b.dir)));
    let firsts: Vec<u64> = places.iter().map(|p| p.first).collect();
    for place in &mut places {
        let behind = firsts.partition_point(|first| *first <= place.first);
        place.bound = firsts.get(behind).copied().unwrap_or(u64::MAX);
    }
    places
}

impl Place {
    /// The directory's name.
    pub(super) fn name(&self) -> &str {
        self.dir
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or("")
    }

    /// What its manifest sums up, if that is intact.
    pub(super) fn summary(&self) -> Option<Summary> {
        Summary::read(&self.dir)
            .ok()?
            .filter(|s| s.first == self.first)
    }

    /// Opens it: by its manifest or, where that is missing or damaged, by a scan. `None` where it is
    /// gone.
    pub(super) fn open(&self, log: LogKind) -> Option<Opened> {
        let path = log_file(&self.dir);
        let file = File::open(&path).ok()?;
        let manifest = self.summary().and_then(|_| Manifest::read(&self.dir).ok()?);
        let (chunks, catalogue, lines) = match manifest {
            Some(manifest) => {
                let catalogue =
                    crate::store::read_catalogue(&file, &manifest.table, Unreadable::IsLost)
                        .ok()?;
                (manifest.table.chunks, catalogue, manifest.summary.lines)
            }
            None => {
                let mut scan = crate::scan::scan(&path, log, Unreadable::IsLost).ok()?;
                let own = self.first..self.bound;
                scan.chunks.retain(|c| own.contains(&c.number));
                (scan.chunks, scan.catalogue, Vec::new())
            }
        };
        let mut names: HashMap<SourceId, Arc<str>> = HashMap::new();
        for line in lines.into_iter().filter(|l| !l.name.is_empty()) {
            names.insert(line.source, line.name);
        }
        for source in &catalogue.sources {
            names.insert(source.id, source.name.clone());
        }
        Some(Opened {
            place: self.clone(),
            file,
            chunks,
            names,
            tags: Arc::new(catalogue.table()),
        })
    }
}

impl Opened {
    /// The name of a source; its number where the catalogue is lost.
    pub(super) fn source(&self, id: SourceId) -> Arc<str> {
        let known = self.names.get(&id).cloned();
        known.unwrap_or_else(|| unnamed(id))
    }

    /// The bytes of a chunk's frame, not checked yet.
    pub(super) fn frame(&self, chunk: &Found) -> Option<Vec<u8>> {
        let mut bytes = vec![0; (chunk.len as usize).min(FRAME_BYTES_MAX)];
        self.file.read_exact_at(&mut bytes, chunk.offset).ok()?;
        Some(bytes)
    }
}
