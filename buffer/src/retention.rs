//! What goes, and when: settled epochs at once, unsettled ones over a limit.

use millrace_tags::{DropReason, LogKind};

use crate::core::Core;
use crate::keeper::{Keeper, self_store};
use crate::ranges::Ranges;
use crate::store::Sealed;
use crate::uplink::Directory;

/// The alarm log's share of `max_bytes`: events are few and small.
const ALARM_SHARE: u64 = 8;

/// Events never need large epochs.
const ALARM_EPOCH_BYTES: u64 = 4 * 1024 * 1024;

/// A log is divided into at least this many epochs, so that dropping one does not drop most of it.
const EPOCHS_MIN: u64 = 4;

impl Keeper {
    /// What a log may take on the disk.
    pub(crate) fn log_bytes_max(&self, kind: LogKind) -> u64 {
        let alarm = self.settings.max_bytes / ALARM_SHARE;
        match kind {
            LogKind::Alarm => alarm,
            LogKind::Data => self.settings.max_bytes - alarm,
        }
    }

    /// The size at which an epoch of the log is sealed.
    pub(crate) fn epoch_bytes(&self, kind: LogKind) -> u64 {
        let bytes = match kind {
            LogKind::Alarm => self.settings.epoch_bytes.min(ALARM_EPOCH_BYTES),
            LogKind::Data => self.settings.epoch_bytes,
        };
        bytes.min(self.log_bytes_max(kind) / EPOCHS_MIN).max(1)
    }

    /// Removes what is settled, what is too old, and what does not fit.
    pub(crate) fn retain(&mut self, kind: LogKind) {
        self.remove_settled(kind);
        self.remove_aged(kind);
        let growth = self.epoch_bytes(kind);
        while self.store(kind).bytes() + growth > self.log_bytes_max(kind) {
            if self.store(kind).sealed.is_empty() && self.store(kind).active().is_some() {
                self.seal(kind);
            }
            if !self.drop_oldest(kind, DropReason::Full) {
                return;
            }
        }
    }

    fn remove_settled(&mut self, kind: LogKind) {
        // Somebody has to remember where the lines stand: the newest epoch's catalogue does.
        let keep = usize::from(self.store(kind).active().is_none());
        let sealed = &self.store(kind).sealed;
        let len = sealed.len().saturating_sub(keep);
        let candidates: Vec<Sealed> = sealed.iter().take(len).cloned().collect();
        for epoch in candidates {
            if self.shared.lock().is_settled(kind, epoch.first, epoch.last) {
                self.remove(kind, &epoch, None);
            }
        }
    }

    fn remove_aged(&mut self, kind: LogKind) {
        let Some(max_age) = self.settings.max_age else {
            return;
        };
        let Some(now) = self.shared.utc() else { return };
        let max_age = i64::try_from(max_age.as_nanos()).unwrap_or(i64::MAX);
        let oldest = now.0.saturating_sub(max_age);
        // An epoch of unknown time is older than those behind it.
        while let Some(newest) = self.store(kind).sealed.iter().find_map(|e| e.newest)
            && newest.0 < oldest
        {
            if !self.drop_oldest(kind, DropReason::Age) {
                return;
            }
        }
    }

    /// Removes the oldest sealed epoch, settled or not. `false`: there is none, or it did not work.
    pub(crate) fn drop_oldest(&mut self, kind: LogKind, reason: DropReason) -> bool {
        let alone = self.store(kind).sealed.len() == 1 && self.store(kind).active().is_none();
        if alone {
            // The lines' positions are in it; see `remove_settled`.
            return false;
        }
        match self.store(kind).sealed.front().cloned() {
            Some(epoch) => self.remove(kind, &epoch, Some(reason)),
            None => false,
        }
    }

    /// Removes an epoch in three steps, each of which recovery can finish: the state says that it is
    /// gone and what is owed for it, then it is renamed, then deleted.
    fn remove(&mut self, kind: LogKind, epoch: &Sealed, reason: Option<DropReason>) -> bool {
        let at = self.shared.utc();
        let chunks = self.store(kind).table(epoch.first).chunks;
        {
            let mut core = self.shared.lock();
            let core = &mut *core;
            for found in &chunks {
                if core
                    .log(kind)
                    .removed
                    .covers(found.number, found.last_number())
                {
                    continue;
                }
                let store = self_store(&mut self.alarm, &mut self.data, kind);
                let names = store.names(found.number, &mut core.registry);
                let directory = names.and_then(|n| n.directory(found, core.log_mut(kind)));
                let directory = directory.unwrap_or(Directory {
                    number: found.number,
                    last: found.last_number(),
                    entries: Vec::new(),
                });
                core.lose_chunk(kind, &directory, reason, at);
            }
            core.log_mut(kind).removed.insert(epoch.first, epoch.last);
        }
        if let Err(error) = self.save() {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "an epoch stays, because the state cannot be saved");
            return false;
        }
        if let Err(error) = self.store(kind).remove(epoch.first) {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(
                error,
                "an epoch cannot be removed; the next start removes it"
            );
        }
        true
    }
}

impl Core {
    /// Whether every uplink has settled the chunks.
    pub(crate) fn is_settled(&self, kind: LogKind, first: u64, last: u64) -> bool {
        let removed = &self.log(kind).removed;
        !self.uplinks.is_empty()
            && self
                .uplinks
                .values()
                .all(|u| covered(&u.reader(kind).settled, removed, first, last))
    }
}

/// Whether the two sets together hold all of `first..=last`.
pub(crate) fn covered(settled: &Ranges, removed: &Ranges, first: u64, last: u64) -> bool {
    let free = settled.free(first, last);
    free.iter().all(|&(a, b)| removed.covers(a, b))
}
