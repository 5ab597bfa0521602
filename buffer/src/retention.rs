//! What goes, and when: first what every uplink has settled and nobody may ask for again, then what is
//! too old, then, where there is no room, what [`WhenFull`] says.

use std::time::Duration;

use millrace_tags::{DropReason, LogKind};

use crate::core::Core;
use crate::disk::bytes_aside;
use crate::epoch::StoreError;
use crate::keeper::{Keeper, LOGS, self_store};
use crate::ranges::Ranges;
use crate::scan::{Found, Unreadable};
use crate::settings::WhenFull;
use crate::store::Sealed;
use crate::uplink::Directory;

/// Events never need large epochs.
const ALARM_EPOCH_BYTES: u64 = 4 * 1024 * 1024;

/// A log is divided into at least this many epochs, so that dropping one does not drop most of it.
const EPOCHS_MIN: u64 = 4;

/// Settled epochs that are kept for a replay take at most this part of their log's room.
const KEPT_SHARE: u64 = 4;

/// An epoch is sealed at this age at the latest, and no sooner than that because of its age: each one
/// costs half a megabyte, however little is in it.
const EPOCH_AGE_MAX: Duration = Duration::from_secs(3600);
const EPOCH_AGE_MIN: Duration = Duration::from_secs(60);

/// What a log lacks.
#[derive(Clone, Copy)]
struct Shortage {
    /// Of the room that the settings give it.
    cap: u64,
    /// Of the file system's reserve.
    disk: u64,
}

impl Shortage {
    fn is_over(self) -> bool {
        self.cap == 0 && self.disk == 0
    }

    fn less(self, freed: u64) -> Self {
        Self {
            cap: self.cap.saturating_sub(freed),
            disk: self.disk.saturating_sub(freed),
        }
    }
}

impl Keeper {
    /// The size at which an epoch of the log is sealed.
    pub(crate) fn epoch_bytes(&self, kind: LogKind) -> u64 {
        let bytes = match kind {
            LogKind::Alarm => self.settings.epoch_bytes.min(ALARM_EPOCH_BYTES),
            LogKind::Data => self.settings.epoch_bytes,
        };
        bytes
            .min(self.settings.log_bytes_max(kind) / EPOCHS_MIN)
            .max(1)
    }

    /// Removes what need not stay, and what does not fit.
    pub(crate) fn retain(&mut self, kind: LogKind) {
        self.remove_aged(kind);
        self.remove_settled(kind);
        let full = match self.make_room(kind) {
            true => None,
            false => Some(self.settings.when_full(kind)),
        };
        self.shared.lock().set_full(kind, full);
    }

    /// Removes settled epochs that have been kept long enough, or that are too many.
    fn remove_settled(&mut self, kind: LogKind) {
        let now = self.shared.clock.now();
        let keep = self.settings.keep;
        self.note_settled(kind);
        let share = match keep.is_zero() {
            true => 0,
            false => self.settings.log_bytes_max(kind) / KEPT_SHARE,
        };
        let kept = self.store(kind).sealed.iter();
        let kept = kept.filter(|e| e.settled_since.is_some());
        let mut bytes: u64 = kept.map(|e| e.bytes).sum();
        while let Some(epoch) = self.oldest_settled(kind) {
            let over = epoch.settled_since.map(|since| now.since(since)) >= Some(keep);
            if !over && bytes <= share {
                return;
            }
            bytes = bytes.saturating_sub(epoch.bytes);
            if !self.remove(kind, &epoch, None) {
                return;
            }
        }
    }

    /// Notes since when each sealed epoch is settled by everyone.
    fn note_settled(&mut self, kind: LogKind) {
        let now = self.shared.clock.now();
        let shared = self.shared.clone();
        let core = shared.lock();
        for epoch in &mut self.store(kind).sealed {
            epoch.settled_since = core
                .is_settled(kind, epoch.first, epoch.last)
                .then(|| epoch.settled_since.unwrap_or(now));
        }
    }

    /// The oldest epoch that is settled and may go.
    fn oldest_settled(&mut self, kind: LogKind) -> Option<Sealed> {
        // Somebody has to remember where the lines stand: the newest epoch's catalogue does.
        let keep = usize::from(self.store(kind).active().is_none());
        let sealed = &self.store(kind).sealed;
        let len = sealed.len().saturating_sub(keep);
        let mut settled = sealed.iter().take(len);
        settled.find(|e| e.settled_since.is_some()).cloned()
    }

    /// Removes what has passed `max_age`: by the monotonic clock where this process wrote it or it is of
    /// this boot, otherwise by the wall clock where both ends are known, otherwise not at all.
    fn remove_aged(&mut self, kind: LogKind) {
        let Some(max_age) = self.settings.max_age else {
            return;
        };
        let now = self.shared.clock.now();
        let boot = self.shared.clock.timebase().boot;
        let utc = self.shared.utc();
        let age = |epoch: &Sealed| {
            if let Some(written) = epoch.written {
                return Some(now.since(written));
            }
            if let Some(newest) = epoch.undated.iter().map(|(_, moment)| *moment).max() {
                let ours = epoch.undated.iter().all(|(of, _)| *of == boot);
                return ours.then(|| now.since(newest));
            }
            let passed = utc?.0.saturating_sub(epoch.newest?.0);
            Some(Duration::from_nanos(u64::try_from(passed).unwrap_or(0)))
        };
        // An epoch of unknown age is older than those behind it.
        while let Some(age) = self.store(kind).sealed.iter().find_map(age)
            && age > max_age
        {
            if self.is_alone(kind) {
                if self.store(kind).sealed.iter().all(|e| e.numbers == 0) {
                    return;
                }
                self.anchor(kind);
            }
            if !self.drop_oldest(kind, DropReason::Age) {
                return;
            }
        }
    }

    /// Sees that the log may grow by one more epoch. `false`: it may not, and what there is stays.
    fn make_room(&mut self, kind: LogKind) -> bool {
        let mut shortage = self.shortage(kind);
        if !shortage.is_over() {
            // What merging has left over, or has in the making, is nobody's history.
            self.rechunk_yield(shortage.disk > 0);
            self.measure_aside();
            shortage = self.shortage(kind);
        }
        while !shortage.is_over() {
            let freed = match self.give_way(kind, shortage) {
                Some(freed) => freed,
                None => return self.settings.when_full(kind) == WhenFull::DropOldest,
            };
            shortage = shortage.less(freed);
        }
        true
    }

    fn shortage(&mut self, kind: LogKind) -> Shortage {
        let growth = self.epoch_bytes(kind);
        let bytes = self.log_bytes(kind);
        let cap = (bytes + growth).saturating_sub(self.settings.log_bytes_max(kind));
        // The alarm log is small: it does not give way to what others put on the disk.
        let disk = match kind {
            LogKind::Data => self.lacking(),
            LogKind::Alarm => 0,
        };
        Shortage { cap, disk }
    }

    /// What the file system lacks of its reserve.
    fn lacking(&mut self) -> u64 {
        self.space = (self.gauge)();
        let reserve = self.reserve();
        let free = self.space.map_or(u64::MAX, |space| space.free);
        reserve.saturating_sub(free)
    }

    /// How much of the file system has to stay free.
    pub(crate) fn reserve(&self) -> u64 {
        let epoch = self.epoch_bytes(LogKind::Data);
        let asked = self.settings.reserve;
        self.space.map_or(0, |space| space.reserve(asked, epoch))
    }

    /// Removes what may go first; the bytes that this gave. `None`: nothing may go.
    fn give_way(&mut self, kind: LogKind, shortage: Shortage) -> Option<u64> {
        let set_aside = self.remove_bad(kind);
        if set_aside > 0 {
            return Some(set_aside);
        }
        // What is short of disk only is nobody's own: the other log's kept epochs go too.
        let logs: &[LogKind] = match shortage.cap {
            0 => &LOGS,
            _ => std::slice::from_ref(match kind {
                LogKind::Alarm => &LogKind::Alarm,
                LogKind::Data => &LogKind::Data,
            }),
        };
        for &log in logs {
            if let Some(epoch) = self.oldest_settled(log) {
                let bytes = epoch.bytes.max(1);
                return self.remove(log, &epoch, None).then_some(bytes);
            }
        }
        if self.anchor_settled(kind) {
            return Some(0);
        }
        if self.settings.when_full(kind) != WhenFull::DropOldest {
            return None;
        }
        if shortage.cap > 0 && self.store(kind).sealed.is_empty() {
            self.seal(kind);
        }
        let bytes = self.store(kind).sealed.front().map(|e| e.bytes.max(1));
        self.drop_oldest(kind, DropReason::Full).then_some(bytes?)
    }

    /// Where all that a log has is one settled epoch, begins another one, so that it may go: nothing else
    /// would ever make room. `false`: it is not so, or it is no larger than what a new one takes.
    fn anchor_settled(&mut self, kind: LogKind) -> bool {
        if !self.is_alone(kind) {
            return false;
        }
        let epoch_bytes = self.epoch_bytes(kind);
        let front = self.store(kind).sealed.front();
        let goes = front.is_some_and(|e| e.settled_since.is_some() && e.bytes > epoch_bytes);
        if goes {
            self.anchor(kind);
        }
        goes && !self.is_alone(kind)
    }

    /// Makes room on a disk that is full: one epoch of what may go.
    pub(crate) fn free_disk(&mut self) {
        let shortage = Shortage { cap: 0, disk: 1 };
        self.note_settled(LogKind::Data);
        let _ = self.give_way(LogKind::Data, shortage);
    }

    /// Removes the epochs that recovery has set aside; the bytes that this gave.
    fn remove_bad(&mut self, kind: LogKind) -> u64 {
        let before = self.aside(kind);
        if !self.store(kind).remove_bad() {
            return 0;
        }
        self.measure_aside();
        before.saturating_sub(self.aside(kind))
    }

    /// What a log takes on the disk. What belongs to neither log counts as the data log's.
    pub(crate) fn log_bytes(&mut self, kind: LogKind) -> u64 {
        self.store(kind).bytes() + self.aside(kind)
    }

    pub(crate) fn aside(&self, kind: LogKind) -> u64 {
        match kind {
            LogKind::Alarm => self.bytes_aside[0],
            LogKind::Data => self.bytes_aside[1],
        }
    }

    /// Looks what else than epochs is in the buffer's directory. A merged epoch in the making does not
    /// count: it takes what stays free for the rotation, and more will go than it takes.
    pub(crate) fn measure_aside(&mut self) {
        let dir = &self.settings.dir;
        let names = LOGS.map(LogKind::name);
        let making = self.rechunk.making();
        let making: Vec<&str> = making.iter().map(String::as_str).collect();
        self.bytes_aside = names.map(|name| bytes_aside(&dir.join(name), &making));
        self.bytes_aside[1] += bytes_aside(dir, &names);
    }

    /// Removes the oldest sealed epoch, settled or not. `false`: there is none, or it did not work.
    pub(crate) fn drop_oldest(&mut self, kind: LogKind, reason: DropReason) -> bool {
        if self.is_alone(kind) {
            // The lines' positions are in it; see `oldest_settled`.
            return false;
        }
        match self.store(kind).sealed.front().cloned() {
            Some(epoch) => self.remove(kind, &epoch, Some(reason)),
            None => false,
        }
    }

    /// Whether the log has but one epoch, and that a sealed one.
    pub(crate) fn is_alone(&mut self, kind: LogKind) -> bool {
        let store = self.store(kind);
        store.active().is_none() && store.sealed.len() == 1
    }

    /// The newest epoch of a log of which none is being written: where the lines stand is in it only.
    pub(crate) fn last_sealed(&mut self, kind: LogKind) -> Option<u64> {
        let store = self.store(kind);
        let last = store.sealed.back().map(|epoch| epoch.first);
        last.filter(|_| store.active().is_none())
    }

    /// An epoch that is being written is sealed by age, so that `keep` and `max_age` can act on it.
    pub(crate) fn epoch_age_max(&self) -> Duration {
        let keep = Some(self.settings.keep).filter(|keep| !keep.is_zero());
        let shortest = [self.settings.max_age, keep].into_iter().flatten().min();
        shortest.map_or(EPOCH_AGE_MAX, |age| {
            (age / 4).clamp(EPOCH_AGE_MIN, EPOCH_AGE_MAX)
        })
    }

    /// The chunks of an epoch, which is open for reading from then on.
    fn readable_chunks(&mut self, kind: LogKind, first: u64) -> Result<Vec<Found>, StoreError> {
        let chunks = self.store(kind).table(first, Unreadable::IsLost)?.chunks;
        self.store(kind).open(first, Unreadable::IsLost)?;
        Ok(chunks)
    }

    /// Removes an epoch in three steps, each of which recovery can finish: the state says that it is
    /// gone and what is owed for it, then it is renamed, then deleted.
    pub(crate) fn remove(
        &mut self,
        kind: LogKind,
        epoch: &Sealed,
        reason: Option<DropReason>,
    ) -> bool {
        let at = self.shared.utc();
        let chunks = match self.readable_chunks(kind, epoch.first) {
            Ok(chunks) => chunks,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "an epoch stays: what it holds cannot be said now");
                return false;
            }
        };
        {
            let mut core = self.shared.lock();
            let core = &mut *core;
            for uplink in core.uplinks.values_mut() {
                uplink.owed.hold();
            }
            if epoch.last >= core.log(kind).oldest_chunk() {
                // What is removed must not go out live any more.
                core.let_tail_go(kind);
            }
            for found in &chunks {
                if core
                    .log(kind)
                    .removed
                    .covers(found.number, found.last_number())
                {
                    continue;
                }
                let store = self_store(&mut self.alarm, &mut self.data, kind);
                // It was opened just now: there is nothing left to read.
                let names = store.names(found.number, &mut core.registry, Unreadable::IsLost);
                let names = names.unwrap_or_default();
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
