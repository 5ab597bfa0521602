//! Which epochs are merged next.

use millrace_tags::LogKind;

use super::job::FULL;
use crate::chunk::{CHUNK_BYTES_MAX, RECORDS_MAX};
use crate::keeper::Keeper;
use crate::store::{LogStore, Sealed};

/// Merging begins with this many epochs' worth of bytes, and takes no more than
const EPOCHS_WORTH_MIN: u64 = 2;
/// this: mixed plant signals become one epoch's worth.
const EPOCHS_WORTH_MAX: u64 = 4;

/// So many neighbours are merged even where they are tiny: rotation by age and restarts leave such.
const EPOCHS_MANY: usize = 8;

/// Chunks of more records, or more bytes, would gain little.
const SMALL_RECORDS: u64 = RECORDS_MAX as u64 / 4;
const SMALL_BYTES: u64 = CHUNK_BYTES_MAX as u64 / 4;

/// At most this share of a log is merged at once: for a while it is there twice.
const LOG_SHARE: u64 = 4;

impl Keeper {
    /// The next epochs to be merged, oldest first.
    pub(super) fn plan(&self, kind: LogKind) -> Option<Vec<(u64, u64)>> {
        let epoch_bytes = self.epoch_bytes(kind);
        let log_share = self.settings.log_bytes_max(kind) / LOG_SHARE;
        let alarm = kind == LogKind::Alarm;
        let rechunk = &self.rechunk.left;
        let store = self.log_store(kind);
        if self.room_to_merge(kind) < epoch_bytes * FULL.0 / FULL.1 {
            return None;
        }
        let core = self.shared.lock();
        let mut group: Vec<&Sealed> = Vec::new();
        let bytes = |group: &[&Sealed]| group.iter().map(|e| e.bytes).sum::<u64>();
        let enough = |group: &[&Sealed]| {
            group.len() >= EPOCHS_MANY
                || group.len() > 1 && bytes(group) >= EPOCHS_WORTH_MIN * epoch_bytes
        };
        // The newest stays: it may be read soon.
        let epochs = store.sealed.len().saturating_sub(1);
        for epoch in store.sealed.iter().take(epochs) {
            let chunks = epoch.chunks.max(1);
            let small =
                epoch.records / chunks <= SMALL_RECORDS && epoch.bytes / chunks <= SMALL_BYTES;
            let fits = small
                && !epoch.merged
                && !rechunk.contains(&(alarm, epoch.first))
                && core.untouched(kind, epoch.first, epoch.last);
            let joins = group.last().is_none_or(|g| g.last + 1 == epoch.first);
            let bytes = bytes(&group) + epoch.bytes;
            let room = bytes <= log_share
                && group.len() < EPOCHS_MANY
                && (group.len() < 2 || bytes <= EPOCHS_WORTH_MAX * epoch_bytes);
            if fits && joins && room {
                group.push(epoch);
                continue;
            }
            if enough(&group) {
                break;
            }
            group.clear();
            if fits {
                group.push(epoch);
            }
        }
        enough(&group).then(|| group.iter().map(|e| (e.first, e.last)).collect())
    }

    /// What a merged epoch may take until its parts go: of the log's room, of which an epoch's worth
    /// always stays free, and of the disk.
    pub(super) fn room_to_merge(&self, kind: LogKind) -> u64 {
        let used = self.log_store(kind).bytes() + self.aside(kind);
        let cap = self.settings.log_bytes_max(kind).saturating_sub(used);
        let free = self.space.map_or(u64::MAX, |space| space.free);
        cap.min(free.saturating_sub(self.reserve()))
    }

    fn log_store(&self, kind: LogKind) -> &LogStore {
        match kind {
            LogKind::Alarm => &self.alarm,
            LogKind::Data => &self.data,
        }
    }
}
