//! One version of a model at work: its monitor, the samples that wait for it, and what it may take of the processor.
//!
//! A thread of the pool takes the monitor out while it works, so that a version whose window never ends keeps nothing but
//! itself: the desk gives it up, and the others have their samples.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use millrace_inference::{Calibration, Monitor, Output};
use millrace_tags::{Clock, Moment};

use super::budget::{Account, Budget};
use super::feed::{Feed, What};
use super::learned::Keeper;
use super::priority;

/// Feeds that may wait for a version: some seconds of a fast poll cycle.
const WAITING_MAX: usize = 256;

/// What one turn takes at most, so that a version that is behind does not keep the others waiting.
const TURN_MAX: usize = 16;

/// How often a row that is due is tried again: a line waits for its far end.
const ROW_RETRY: Duration = Duration::from_millis(50);

/// One version at work.
pub(super) struct Slot {
    /// Never given twice in one run.
    pub(super) id: u64,
    /// The model's place at the desk.
    pub(super) model: usize,
    /// A turn that neither scores nor fails is told of, too.
    pub(super) is_watched: AtomicBool,
    /// Samples that it could not take.
    pub(super) samples_shed: AtomicU64,
    /// Its thread does not come back: nothing that it says counts.
    pub(super) is_given_up: AtomicBool,
    /// The most that one window may take before it counts as endless.
    pub(super) window_max: Duration,
    /// It is to forget what it has learned.
    pub(super) learns_anew: AtomicBool,
    /// The pool's.
    pub(super) turn: AtomicU8,
    valve: Arc<Valve>,
    clock: Arc<dyn Clock>,
    inbox: Mutex<Inbox>,
    /// `None` while a thread has it.
    work: Mutex<Option<Work>>,
}

struct Inbox {
    waiting: VecDeque<Arc<Feed>>,
    limit: Limit,
}

/// How far a version may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Limit {
    /// As far as there are samples.
    None,
    /// Not past what another version has done: it can go on from there then.
    Behind(Done),
}

/// How far a version is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Done {
    /// The newest feed that it has taken.
    pub(super) feed: u64,
    /// Up to where its rows are made.
    pub(super) rows: Moment,
}

impl Done {
    pub(super) const NOTHING: Done = Done {
        feed: 0,
        rows: Moment(i64::MIN),
    };
}

struct Work {
    monitor: Monitor,
    /// The input of this version that each role of the configuration is.
    inputs: Vec<Option<usize>>,
    /// How long after its time a row may still get samples.
    lateness: Duration,
    done: Done,
    keeper: Option<Keeper>,
}

impl Drop for Work {
    fn drop(&mut self) {
        if let Some(keeper) = &mut self.keeper {
            keeper.save(&self.monitor);
        }
    }
}

/// What came of a turn.
#[derive(Debug)]
pub(super) struct Turn {
    pub(super) slot: u64,
    pub(super) model: usize,
    pub(super) outputs: Vec<Output>,
    /// What the windows took, of those that were scored or tried.
    pub(super) spent: Vec<Duration>,
    /// Windows that were not scored for want of budget.
    pub(super) windows_shed: u64,
    /// A whole window has been there.
    pub(super) is_full: bool,
    pub(super) done: Done,
    /// It has forgotten what it had learned before this turn.
    pub(super) learns_anew: bool,
    /// How far learning is; `None` where there is nothing to learn.
    pub(super) calibration: Option<Calibration>,
    /// It can do nothing more, and why.
    pub(super) panic: Option<String>,
}

/// When the slot's next turn is.
pub(super) enum Next {
    /// At once.
    Now,
    /// After so much time, unless samples come.
    In(Duration),
    /// When samples come.
    Fed,
}

impl Slot {
    pub(super) fn new(
        (id, model): (u64, usize),
        (mut monitor, inputs, lateness): (Monitor, Vec<Option<usize>>, Duration),
        keeper: Option<Keeper>,
        valve: Arc<Valve>,
        window_max: Duration,
    ) -> Arc<Self> {
        let gate = valve.clone();
        monitor.set_gate(Box::new(move |at| gate.lets_through(at)));
        Arc::new(Self {
            id,
            model,
            is_watched: AtomicBool::new(true),
            samples_shed: AtomicU64::new(0),
            is_given_up: AtomicBool::new(false),
            window_max,
            learns_anew: AtomicBool::new(false),
            turn: AtomicU8::new(0),
            clock: valve.clock.clone(),
            valve,
            inbox: Mutex::new(Inbox {
                waiting: VecDeque::new(),
                limit: Limit::None,
            }),
            work: Mutex::new(Some(Work {
                monitor,
                inputs,
                lateness,
                done: Done::NOTHING,
                keeper,
            })),
        })
    }

    pub(super) fn valve(&self) -> &Valve {
        &self.valve
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a feed at the end; sheds it where too many wait.
    pub(super) fn put(&self, feed: Arc<Feed>) {
        let mut inbox = self.inbox();
        if inbox.waiting.len() < WAITING_MAX {
            inbox.waiting.push_back(feed);
        } else if let What::Samples(samples) = &feed.what {
            let shed = samples.len() as u64;
            self.samples_shed.fetch_add(shed, Ordering::Relaxed);
        }
    }

    /// What it begins with, however much that is.
    pub(super) fn begin_with(&self, feeds: impl Iterator<Item = Arc<Feed>>) {
        self.inbox().waiting.extend(feeds);
    }

    /// How far it may go from now on.
    pub(super) fn limit(&self, limit: Limit) {
        self.inbox().limit = limit;
    }

    /// Takes what waits, as much as one turn may.
    fn take(&self) -> (Vec<Arc<Feed>>, Limit, bool) {
        let mut inbox = self.inbox();
        let limit = inbox.limit;
        let allowed = |feed: &Arc<Feed>| match limit {
            Limit::None => true,
            Limit::Behind(done) => feed.number <= done.feed,
        };
        let count = inbox
            .waiting
            .iter()
            .take(TURN_MAX)
            .take_while(|it| allowed(it));
        let count = count.count();
        let taken = inbox.waiting.drain(..count).collect();
        let more = inbox.waiting.front().is_some_and(allowed);
        (taken, limit, more)
    }

    /// Takes its turn, on the calling thread.
    pub(super) fn run(&self) -> (Option<Turn>, Next) {
        let work = self.lock_work().take();
        let Some(mut work) = work else {
            return (None, Next::Fed);
        };
        // Before the samples are taken: rows must not go past samples that come while these are at work.
        let begun = self.clock.now();
        let (feeds, limit, more) = self.take();
        let mut outputs = Vec::new();
        let learns_anew = self.learns_anew.swap(false, Ordering::Relaxed);
        let step = AssertUnwindSafe(|| {
            if learns_anew {
                // The desk ends the event that it told of.
                drop(work.monitor.restart_calibration(self.clock.now()));
            }
            for feed in &feeds {
                work.take(feed, &mut outputs);
            }
            if !more {
                let now = match limit {
                    Limit::None => work.late(begun),
                    Limit::Behind(done) => done.rows,
                };
                work.advance(now, &mut outputs);
            }
            if let Some(keeper) = &mut work.keeper {
                keeper.look(&work.monitor);
            }
        });
        let panic = std::panic::catch_unwind(step).err();
        let (spent, windows_shed, is_full) = self.valve.settle();
        let turn = Turn {
            slot: self.id,
            model: self.model,
            outputs,
            spent,
            windows_shed,
            is_full,
            done: work.done,
            learns_anew,
            calibration: work.monitor.learns().then(|| work.monitor.calibration()),
            panic: panic.map(|panic| message(&*panic)),
        };
        if turn.panic.is_some() {
            // Its monitor may be in any state: it goes, and with it what it has learned since it was kept last.
            work.keeper = None;
            return (Some(turn), Next::Fed);
        }
        let next = match (more, limit) {
            (true, _) => Next::Now,
            (false, Limit::None) => work.next(self.clock.now()),
            // The version before it wakes it.
            (false, Limit::Behind(_)) => Next::Fed,
        };
        *self.lock_work() = Some(work);
        let tell = self.is_watched.load(Ordering::Relaxed)
            || !turn.outputs.is_empty()
            || turn.learns_anew
            || turn.windows_shed > 0;
        (tell.then_some(turn), next)
    }

    fn lock_work(&self) -> MutexGuard<'_, Option<Work>> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without words".to_owned())
}

impl Work {
    fn take(&mut self, feed: &Feed, outputs: &mut Vec<Output>) {
        match &feed.what {
            What::Samples(samples) => {
                for (role, sample) in samples {
                    if let Some(input) = self.inputs.get(*role).copied().flatten() {
                        self.monitor.feed(input, sample);
                    }
                }
            }
            What::EndScan(at) => outputs.extend(self.monitor.end_scan(*at)),
        }
        self.done.feed = feed.number;
        // As it was when the feed came: whoever gets it later makes the same rows.
        self.advance(self.late(feed.came), outputs);
    }

    /// Up to where rows can be made.
    fn late(&self, now: Moment) -> Moment {
        let lateness = i64::try_from(self.lateness.as_nanos()).unwrap_or(i64::MAX);
        Moment(now.0.saturating_sub(lateness))
    }

    fn advance(&mut self, to: Moment, outputs: &mut Vec<Output>) {
        if to > self.done.rows {
            self.done.rows = to;
            outputs.extend(self.monitor.advance(to));
        }
    }

    fn next(&self, now: Moment) -> Next {
        match self.monitor.next_row() {
            None => Next::Fed,
            Some(row) => Next::In((row + self.lateness).since(now).max(ROW_RETRY)),
        }
    }
}

/// Lets windows through to be scored, and measures what they take.
pub(super) struct Valve {
    budget: Arc<Budget>,
    clock: Arc<dyn Clock>,
    state: Mutex<ValveState>,
}

#[derive(Default)]
struct ValveState {
    /// Windows after this one are scored; `None`: none is.
    open: Option<(Moment, Account)>,
    /// What the thread had used when the window began that it scores now.
    began: Option<Duration>,
    spent: Vec<Duration>,
    windows_shed: u64,
    is_full: bool,
}

impl Valve {
    /// A closed one.
    pub(super) fn new(budget: Arc<Budget>, clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            budget,
            clock,
            state: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, ValveState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Windows after this moment are scored.
    pub(super) fn open(&self, after: Moment) {
        let account = self.budget.open();
        self.lock().open = Some((after, account));
    }

    /// Windows are made, but not scored.
    pub(super) fn close(&self) {
        self.lock().open = None;
    }

    fn lets_through(&self, at: Moment) -> bool {
        let mut state = self.lock();
        state.end_window();
        state.is_full = true;
        let Some((after, account)) = &state.open else {
            return false;
        };
        if at <= *after {
            return false;
        }
        if !account.is_solvent(self.clock.now()) {
            state.windows_shed += 1;
            return false;
        }
        state.began = Some(priority::used());
        true
    }

    /// A turn is over.
    fn settle(&self) -> (Vec<Duration>, u64, bool) {
        let mut state = self.lock();
        state.end_window();
        let shed = std::mem::take(&mut state.windows_shed);
        (std::mem::take(&mut state.spent), shed, state.is_full)
    }

    /// What the thread had used when it began the window that it scores now.
    pub(super) fn began(&self) -> Option<Duration> {
        self.lock().began
    }
}

impl ValveState {
    fn end_window(&mut self) {
        let Some(began) = self.began.take() else {
            return;
        };
        let spent = priority::used().saturating_sub(began);
        if let Some((_, account)) = &self.open {
            account.charge(spent);
        }
        self.spent.push(spent);
    }
}
