//! The epoch that is being written.

use millrace_tags::{LogKind, Moment, SourceId, TagInfo};

use super::Names;
use crate::catalogue::{Catalogue, StoredSource};
use crate::epoch::{Epoch, StoreError};

/// The epoch that is being written.
pub(super) struct Active {
    pub(super) epoch: Epoch,
    pub(super) first: u64,
    /// The last durable chunk; below `first` while there is none.
    pub(super) last: u64,
    pub(super) chunks: u64,
    /// How much of the catalogue it has.
    pub(super) sources: usize,
    pub(super) tags: usize,
    pub(super) since: Moment,
    /// When something was last written.
    pub(super) written: Moment,
    /// What its directory takes on the disk: sled's log as of the last write, and the rest as it began.
    pub(super) bytes: u64,
    pub(super) beside: u64,
}

impl Active {
    /// Writes what the epoch's catalogue lacks: all of it at first.
    pub(super) fn put_catalogue(
        &mut self,
        log: LogKind,
        names: &Names,
        positions: &[(u64, u64)],
    ) -> Result<(), StoreError> {
        let tags = match log {
            LogKind::Data => names.tags.len(),
            LogKind::Alarm => 0,
        };
        if self.sources == names.sources.len() && self.tags == tags {
            return Ok(());
        }
        let mut catalogue = Catalogue::default();
        for (at, source) in names.sources.iter().enumerate().skip(self.sources) {
            let (last, limit) = positions.get(at).copied().unwrap_or_default();
            catalogue.sources.push(StoredSource {
                id: SourceId(at as u32),
                kind: source.kind,
                name: source.name.clone(),
                last,
                limit,
            });
        }
        for (id, tag) in names.tags.iter().take(tags).skip(self.tags) {
            catalogue.tags.push((id, TagInfo::clone(tag)));
        }
        for frame in catalogue.frames(log, names.stream) {
            self.epoch.put_catalogue(&frame)?;
        }
        self.sources = names.sources.len();
        self.tags = tags;
        Ok(())
    }
}
