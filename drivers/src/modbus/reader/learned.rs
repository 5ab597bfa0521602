//! What a poll group learned of its device. It outlives the session: a device that was lost has the same holes
//! when it is back.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use millrace_tags::Moment;

use crate::modbus::plan::{Barrier, Limits, Taught};

/// How long an illegal address is left out before it is tried again: often enough that a device whose
/// program was changed is whole within a coffee break, too seldom to cost anything.
pub(crate) const ILLEGAL_RETRY: Duration = Duration::from_secs(600);

/// How long a taught maximum and a place that must not be read across are believed. To learn them again costs a
/// few requests that fail.
pub(crate) const RELEARN: Duration = Duration::from_secs(24 * 3600);

/// What is known of a device.
#[derive(Debug, Clone)]
pub(super) struct Learned {
    pub(super) limits: Limits,
    /// Places that the device does not allow to read across.
    pub(super) barriers: Vec<Barrier>,
    /// Items that it does not have.
    pub(super) excluded: Vec<Excluded>,
    /// Points whose value and scale are asked for by themselves.
    pub(super) apart: BTreeSet<usize>,
    /// When limits and barriers are forgotten.
    pub(super) forget_at: Option<Moment>,
}

/// An item that the device does not have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Excluded {
    pub(super) item: usize,
    pub(super) since: Moment,
    pub(super) retry_at: Moment,
}

impl Learned {
    pub(super) fn new(limits: Limits, apart: BTreeSet<usize>) -> Self {
        Self {
            limits,
            barriers: Vec::new(),
            excluded: Vec::new(),
            apart,
            forget_at: None,
        }
    }

    /// Forgets what has been believed for long enough; whether that was anything.
    pub(super) fn forget(&mut self, now: Moment) -> bool {
        let is_due = self.forget_at.is_some_and(|at| at <= now);
        if is_due {
            self.limits.taught = Taught::default();
            self.barriers.clear();
            self.forget_at = None;
        }
        is_due
    }

    /// Sees to it that what was learned now is forgotten in time.
    pub(super) fn believe(&mut self, now: Moment) {
        if !self.barriers.is_empty() || self.limits.taught.has_refused() {
            self.forget_at.get_or_insert(now + RELEARN);
        }
    }
}

/// What all sessions of a device know together: each takes over what another has learned since.
#[derive(Debug, Clone)]
pub(super) struct Memory(Arc<Mutex<(u64, Learned)>>);

impl Memory {
    pub(super) fn new(learned: Learned) -> Self {
        Self(Arc::new(Mutex::new((0, learned))))
    }

    /// What was learned since this version, with its own.
    pub(super) fn newer(&self, version: u64) -> Option<(u64, Learned)> {
        let known = self.lock();
        (known.0 != version).then(|| known.clone())
    }

    /// Keeps this for others; its version.
    pub(super) fn keep(&self, learned: &Learned) -> u64 {
        let mut known = self.lock();
        *known = (known.0 + 1, learned.clone());
        known.0
    }

    fn lock(&self) -> MutexGuard<'_, (u64, Learned)> {
        // Replaced as a whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
