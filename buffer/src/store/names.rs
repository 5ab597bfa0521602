//! What the source and tag numbers of an epoch stand for.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use millrace_tags::{SourceId, SourceKind, TagTable};

use crate::catalogue::{Catalogue, Registry, StoredSource};
use crate::chunk::FRAME_BYTES_MAX;
use crate::log::{LineKey, Log};
use crate::manifest::{Manifest, Table};
use crate::patience::{Trouble, patiently};
use crate::scan::{Found, Unreadable};
use crate::uplink::Directory;

/// The catalogue of an epoch in terms of the registry.
#[derive(Debug, Default)]
pub(crate) struct EpochNames {
    sources: HashMap<SourceId, SourceId>,
    /// `None` where the registry's own table says the same.
    pub(crate) tags: Option<Arc<TagTable>>,
}

impl EpochNames {
    /// Takes over what the epoch says; sources that the registry has lost get a number, and those whose
    /// names are lost the one that recovery gave them.
    pub(crate) fn resolve(
        catalogue: &Catalogue,
        used: &BTreeSet<SourceId>,
        registry: &mut Registry,
    ) -> Self {
        let mut sources = HashMap::new();
        for source in &catalogue.sources {
            let id = registry.source(&source.name, source.kind);
            sources.insert(source.id, id);
        }
        for id in used {
            let meant = || registry.nameless(*id);
            sources.entry(*id).or_insert_with(meant);
        }
        let known = registry.tags();
        let same = registry.agrees()
            && catalogue
                .tags
                .iter()
                .all(|(id, tag)| known.get(*id).is_some_and(|t| **t == *tag));
        Self {
            sources,
            tags: (!same).then(|| Arc::new(catalogue.table())),
        }
    }

    /// The names of what was written since the buffer was opened.
    pub(crate) fn identity(registry: &Registry) -> Self {
        let ids = (0..registry.sources().len() as u32).map(SourceId);
        Self {
            sources: ids.map(|id| (id, id)).collect(),
            tags: None,
        }
    }

    /// The chunk's directory in terms of the log's lines; `None` where a source has no name.
    pub(crate) fn directory(&self, found: &Found, log: &mut Log) -> Option<Directory> {
        let stream = log.stream(found.stream);
        let entries = found.entries.iter().map(|e| {
            let source = *self.sources.get(&e.source)?;
            Some((LineKey { stream, source }, e.first, e.last(), e.void))
        });
        Some(Directory {
            number: found.number,
            last: found.last_number(),
            entries: entries.collect::<Option<_>>()?,
        })
    }
}

/// The catalogue of an epoch, as far as its frames are intact.
///
/// # Errors
/// One that says nothing of the file; of the file too, where `unreadable` says so.
pub(crate) fn read_catalogue(
    file: &File,
    table: &Table,
    unreadable: Unreadable,
) -> io::Result<Catalogue> {
    let mut catalogue = Catalogue::default();
    for &(offset, len) in &table.catalogues {
        let mut bytes = vec![0; (len as usize).min(FRAME_BYTES_MAX)];
        let mut read = || file.read_exact_at(&mut bytes, offset);
        let read = match unreadable {
            Unreadable::IsLost => patiently(read)?.is_some(),
            Unreadable::Fails => match read() {
                Err(error) if Trouble::of(&error) != Trouble::Gone => return Err(error),
                read => read.is_ok(),
            },
        };
        if read && let Ok((_, part, _)) = Catalogue::parse(&bytes) {
            catalogue.extend(part);
        }
    }
    Ok(catalogue)
}

/// [`read_catalogue`], and the names that only the manifest has.
pub(crate) fn read_names(
    file: &File,
    manifest: &Manifest,
    unreadable: Unreadable,
) -> io::Result<Catalogue> {
    let mut catalogue = read_catalogue(file, &manifest.table, unreadable)?;
    add_manifest_names(&mut catalogue, manifest);
    Ok(catalogue)
}

pub(super) fn add_manifest_names(catalogue: &mut Catalogue, manifest: &Manifest) {
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
}
