//! Re-chunking: when an outage lasts, its small chunks become large ones, and the same disk holds about
//! three times the history.
//!
//! Neighbouring sealed epochs that no uplink has touched are merged into one, once. The merged epoch is
//! written beside them, read back and made durable; then it takes their place ([`exchange`]).
//! On any doubt the originals stay as they are. All of it runs on the buffer's thread in small steps,
//! half of the time at most, so that commits do not wait.

mod exchange;
mod job;
mod merge;
mod plan;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use millrace_tags::LogKind;
use thiserror::Error;

use crate::chunk::FrameError;
use crate::epoch::StoreError;
use crate::keeper::{Keeper, LOGS};
use job::Job;
use merge::MergeError;

/// How long it rests after a failure: most likely the disk is full.
const FAILURE_PAUSE: Duration = Duration::from_secs(600);

/// Why epochs are left as they are.
#[derive(Debug, Error)]
enum RechunkError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("an epoch is not what its manifest says: {0}")]
    Doubt(&'static str),
    #[error(transparent)]
    Merge(#[from] MergeError),
    #[error("merging gains nothing")]
    NoGain,
    #[error("there is no room to write the merged epoch")]
    NoRoom,
    #[error("an uplink has begun to read, or the epochs are gone")]
    Touched,
}

impl From<FrameError> for RechunkError {
    fn from(error: FrameError) -> Self {
        RechunkError::Merge(error.into())
    }
}

/// What the buffer's thread remembers of it.
pub(crate) struct Rechunk {
    job: Option<Job>,
    /// Directories of superseded epochs that are still to be deleted.
    superseded: VecDeque<PathBuf>,
    /// Epochs that are better left alone, by their first chunk.
    left: BTreeSet<(bool, u64)>,
    next_at: Instant,
}

impl Rechunk {
    /// Begins after one interval: there is enough to do at the start.
    pub(crate) fn new(interval: Duration) -> Self {
        Self {
            job: None,
            superseded: VecDeque::new(),
            left: BTreeSet::new(),
            next_at: Instant::now() + interval,
        }
    }

    /// The name of the directory that a merged epoch is written in just now.
    pub(crate) fn making(&self) -> Option<String> {
        let name = self.job.as_ref()?.dir().file_name()?;
        Some(name.to_string_lossy().into_owned())
    }
}

impl Keeper {
    /// When there may be something to do.
    pub(crate) fn rechunk_at(&self) -> Instant {
        self.rechunk.next_at
    }

    /// Does the next small piece. A panic costs no more than what was being merged.
    pub(crate) fn rechunk_quietly(&mut self) {
        if catch_unwind(AssertUnwindSafe(|| self.rechunk_step())).is_err() {
            tracing::error!("merging chunks panicked; the originals stay");
            self.rechunk.next_at = Instant::now() + FAILURE_PAUSE;
        }
    }

    /// Does the next small piece. `false`: there is nothing to do.
    fn rechunk_step(&mut self) -> bool {
        let begun = Instant::now();
        let worked = if let Some(dir) = self.rechunk.superseded.pop_front() {
            // It is accounted for elsewhere; if it cannot be deleted now, the next start tries again.
            let _ = fs::remove_dir_all(dir);
            for kind in LOGS {
                self.publish_figures(kind);
            }
            true
        } else if let Some(mut job) = self.rechunk.job.take() {
            match self.advance(&mut job) {
                Ok(true) => true,
                Ok(false) => {
                    self.rechunk.job = Some(job);
                    true
                }
                Err(error) => self.rechunk_failed(job, &error),
            }
        } else {
            let job = LOGS.into_iter().find_map(|kind| {
                let group = self.plan(kind)?;
                Some(Job::new(self.store(kind), group))
            });
            self.rechunk.job = job;
            self.rechunk.job.is_some()
        };
        let rest = match worked {
            true => begun.elapsed(),
            false => self.settings.rechunk_interval,
        };
        self.rechunk.next_at = self.rechunk.next_at.max(Instant::now() + rest);
        worked
    }

    fn rechunk_failed(&mut self, job: Job, error: &RechunkError) -> bool {
        let again = match error {
            RechunkError::Store(_) | RechunkError::NoRoom => {
                self.rechunk.next_at = Instant::now() + FAILURE_PAUSE;
                false
            }
            RechunkError::Touched => true,
            RechunkError::Doubt(_) | RechunkError::Merge(_) | RechunkError::NoGain => {
                let alarm = job.kind == LogKind::Alarm;
                let doubtful = match error {
                    RechunkError::NoGain => job.group(),
                    _ => job.doubtful(),
                };
                let doubtful = doubtful.iter().map(|(first, _)| (alarm, *first));
                self.rechunk.left.extend(doubtful);
                true
            }
        };
        let error = error as &dyn std::error::Error;
        tracing::debug!(error, log = job.kind.name(), "epochs are not merged");
        job.abandon();
        again
    }

    /// Deletes what was superseded, and where the disk is short gives up what is being merged.
    pub(crate) fn rechunk_yield(&mut self, disk_is_short: bool) {
        for dir in self.rechunk.superseded.drain(..) {
            // If it cannot be deleted now, the next start tries again.
            let _ = fs::remove_dir_all(dir);
        }
        if disk_is_short {
            self.rechunk_abandon();
        }
    }

    /// Gives up what is being merged: its room or the thread is needed.
    pub(crate) fn rechunk_abandon(&mut self) {
        if let Some(job) = self.rechunk.job.take() {
            job.abandon();
        }
    }

    /// Merges all that can be merged now, without rests. Returns how many epochs went into others, and
    /// how long each step took.
    pub(crate) fn rechunk_all(&mut self) -> (u64, Vec<Duration>) {
        let epochs = |keeper: &Self| (keeper.alarm.sealed.len() + keeper.data.sealed.len()) as u64;
        let before = epochs(self);
        let mut steps = Vec::new();
        let mut begun = Instant::now();
        while self.rechunk_step() {
            steps.push(begun.elapsed());
            begun = Instant::now();
        }
        (before.saturating_sub(epochs(self)), steps)
    }

    /// Does one step of a job. `true`: it is finished.
    fn advance(&mut self, job: &mut Job) -> Result<bool, RechunkError> {
        let kind = job.kind;
        let (first, last) = job.range();
        let store = self.store(kind);
        let there = |(first, last): &(u64, u64)| {
            store
                .sealed
                .iter()
                .any(|s| (s.first, s.last) == (*first, *last))
        };
        let whole = job.group().iter().all(there);
        if !whole || !self.shared.lock().untouched(kind, first, last) {
            return Err(RechunkError::Touched);
        }
        if self.room_to_merge(kind) < job.bytes() {
            return Err(RechunkError::NoRoom);
        }
        let epoch_bytes = self.epoch_bytes(kind);
        let store = self.store(kind);
        let Some(merged) = job.step(store, epoch_bytes)? else {
            return Ok(false);
        };
        let left = store.supersede(merged)?;
        let boots = self.shared.lock().boots.clone();
        self.store(kind).date(&boots);
        self.rechunk.superseded.extend(left);
        job.report();
        self.publish_figures(kind);
        Ok(true)
    }
}
