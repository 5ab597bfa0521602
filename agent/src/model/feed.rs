//! What devices say, on its way to every version of a model; and the newest of it, for a version that comes later.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use millrace_tags::{Clock, Moment, Sample, TagId};

use super::pool::Pool;
use super::slot::Slot;

/// Samples that are kept of one model at most, so that memory stays bounded whatever a window takes.
const SAMPLES_KEPT_MAX: usize = 65_536;

/// One thing that a device said to a model.
#[derive(Debug)]
pub(super) struct Feed {
    /// Its number: all versions get the same feeds in the same order.
    pub(super) number: u64,
    /// When it came.
    pub(super) came: Moment,
    pub(super) what: What,
}

#[derive(Debug)]
pub(super) enum What {
    /// Samples with the role that each belongs to: its place in the model's `[model.inputs]`.
    Samples(Vec<(usize, Sample)>),
    /// A poll cycle of a device is over.
    EndScan(Moment),
}

/// How much of what was said makes a window: so much is kept.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Reach {
    /// Of a grid in time.
    pub(super) time: Duration,
    /// Of scans.
    pub(super) scans: usize,
}

impl Reach {
    pub(super) fn max(self, other: Reach) -> Reach {
        Reach {
            time: self.time.max(other.time),
            scans: self.scans.max(other.scans),
        }
    }
}

/// The way from a model's devices to its versions.
pub(super) struct Feeds {
    clock: Arc<dyn Clock>,
    pool: Arc<Pool>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Of the newest feed.
    number: u64,
    slots: Vec<Arc<Slot>>,
    kept: VecDeque<Arc<Feed>>,
    samples_kept: usize,
    scans_kept: usize,
    reach: Reach,
    /// A version gets what comes: what it needs is known. Devices are polled before the first one is built.
    has_begun: bool,
}

impl Feeds {
    pub(super) fn new(pool: Arc<Pool>, clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            clock,
            pool,
            state: Mutex::default(),
        })
    }

    /// Only pollers and the desk take this lock, never a thread that stands back: a poller that waited for one of those
    /// would wait for whatever keeps the processor busy.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn offer(&self, what: What) {
        let came = self.clock.now();
        let mut state = self.lock();
        state.number += 1;
        let number = state.number;
        let feed = Arc::new(Feed { number, came, what });
        for slot in &state.slots {
            slot.put(feed.clone());
            self.pool.schedule(slot);
        }
        state.keep(feed);
    }

    /// From now on the slot gets what comes, after what is kept; nothing is missed in between. Returns the newest feed's number.
    pub(super) fn attach(&self, slot: &Arc<Slot>, reach: Reach) -> u64 {
        let mut state = self.lock();
        state.reach = state.reach.max(reach);
        state.has_begun = true;
        slot.begin_with(state.kept.iter().cloned());
        state.slots.push(slot.clone());
        self.pool.schedule(slot);
        state.number
    }

    /// The slot may go on without a feed.
    pub(super) fn wake(&self, slot: &Arc<Slot>) {
        self.pool.schedule(slot);
    }

    /// The slot gets nothing more.
    pub(super) fn detach(&self, slot: &Slot) {
        self.lock().slots.retain(|other| other.id != slot.id);
    }
}

impl State {
    fn keep(&mut self, feed: Arc<Feed>) {
        let newest = feed.came;
        match &feed.what {
            What::Samples(samples) => self.samples_kept += samples.len(),
            What::EndScan(_) => self.scans_kept += 1,
        }
        self.kept.push_back(feed);
        while let Some(oldest) = self.kept.front() {
            let too_many = self.samples_kept > SAMPLES_KEPT_MAX;
            let needed = !self.has_begun
                || newest.since(oldest.came) <= self.reach.time
                || self.scans_kept <= self.reach.scans;
            if needed && !too_many {
                break;
            }
            match &oldest.what {
                What::Samples(samples) => self.samples_kept -= samples.len(),
                What::EndScan(_) => self.scans_kept -= 1,
            }
            self.kept.pop_front();
        }
    }
}

/// A device's connection to a model that uses some of its tags. It never waits.
pub(crate) struct ModelTap {
    /// The roles that each tag plays.
    pub(super) roles: HashMap<TagId, Vec<usize>>,
    pub(super) feeds: Arc<Feeds>,
}

impl ModelTap {
    /// Offers what the device just said.
    pub(crate) fn offer(&mut self, samples: &[Sample]) {
        let mut batch = Vec::new();
        for sample in samples {
            for role in self.roles.get(&sample.tag).into_iter().flatten() {
                batch.push((*role, sample.clone()));
            }
        }
        if !batch.is_empty() {
            self.feeds.offer(What::Samples(batch));
        }
    }

    /// Tells the model that a poll cycle of the device is over.
    pub(crate) fn end_scan(&mut self, at: Moment) {
        self.feeds.offer(What::EndScan(at));
    }
}
