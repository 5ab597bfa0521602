//! The few threads that score for all models.
//!
//! Versions that have samples wait in one queue and take turns; a turn is short (`slot.rs`). The threads stand back behind
//! all others of the program. One that is in a window without an end is given up: it runs on behind everybody, since nobody
//! can end it from outside, and another takes its place.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedSender;

use super::desk::Message;
use super::priority;
use super::slot::{Next, Slot};

/// Threads where nothing is stuck. Two, so that one slow window does not hold everybody up.
const WORKERS: usize = 2;

/// Threads where windows take long; those that were given up are not counted.
const WORKERS_MAX: usize = 4;

/// All threads are busy for this long while others wait: one more is started.
const BUSY_MAX: Duration = Duration::from_millis(500);

const IDLE: u8 = 0;
const QUEUED: u8 = 1;
const RUNNING: u8 = 2;
const RUNNING_AND_QUEUED: u8 = 3;

/// The threads, and who waits for them.
pub(super) struct Pool {
    state: Mutex<State>,
    wake: Condvar,
    told: UnboundedSender<Message>,
}

#[derive(Default)]
struct State {
    ready: VecDeque<Arc<Slot>>,
    timers: BTreeMap<(Instant, u64), Arc<Slot>>,
    /// When each slot's timer ends.
    timed: HashMap<u64, Instant>,
    workers: HashMap<u64, Worker>,
    next_worker: u64,
    is_stopping: bool,
    /// Why threads run at normal priority.
    at_normal_priority: Option<String>,
}

struct Worker {
    thread: i32,
    slot: Option<Arc<Slot>>,
    since: Instant,
}

impl Pool {
    /// A pool that tells of each turn.
    pub(super) fn new(told: UnboundedSender<Message>) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            wake: Condvar::new(),
            told,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The slot has something to do.
    pub(super) fn schedule(self: &Arc<Self>, slot: &Arc<Slot>) {
        let mut state = self.lock();
        if state.ready_up(slot) {
            drop(state);
            self.wake.notify_one();
        }
    }

    /// Starts the threads.
    ///
    /// # Errors
    /// Where the system gives none.
    pub(super) fn start(self: &Arc<Self>) -> std::io::Result<()> {
        let mut state = self.lock();
        while state.workers.len() < WORKERS {
            self.spawn(&mut state)?;
        }
        Ok(())
    }

    fn spawn(self: &Arc<Self>, state: &mut State) -> std::io::Result<()> {
        let id = state.next_worker;
        let pool = self.clone();
        std::thread::Builder::new()
            .name(format!("models-{id}"))
            .spawn(move || pool.work(id))?;
        state.next_worker += 1;
        let worker = Worker {
            thread: 0,
            slot: None,
            since: Instant::now(),
        };
        state.workers.insert(id, worker);
        Ok(())
    }

    /// Why the threads run at normal priority, where they do.
    pub(super) fn at_normal_priority(&self) -> Option<String> {
        self.lock().at_normal_priority.clone()
    }

    fn work(self: Arc<Self>, id: u64) {
        let stood_back = priority::stand_back();
        let thread = priority::thread_id();
        let mut state = self.lock();
        if let Err(error) = stood_back
            && state.at_normal_priority.is_none()
        {
            tracing::warn!(error = %error, "the system does not let models run at low priority; their share of the processor is limited all the same");
            state.at_normal_priority = Some(error.to_string());
        }
        if let Some(worker) = state.workers.get_mut(&id) {
            worker.thread = thread;
        }
        while let Some((slot, left)) = self.next(state) {
            state = left;
            slot.turn.store(RUNNING, Ordering::Relaxed);
            if let Some(worker) = state.workers.get_mut(&id) {
                worker.slot = Some(slot.clone());
                worker.since = Instant::now();
            }
            drop(state);
            let (turn, next) = slot.run();
            if let Some(turn) = turn
                && !slot.is_given_up.load(Ordering::Acquire)
            {
                // The desk goes last.
                let _ = self.told.send(Message::Turn(turn));
            }
            state = self.lock();
            let Some(worker) = state.workers.get_mut(&id) else {
                // It was given up meanwhile, and has a successor.
                return;
            };
            worker.slot = None;
            state.turn_over(&slot, &next);
        }
        self.lock().workers.remove(&id);
        self.wake.notify_all();
    }

    /// Waits for a slot; `None` once all is done and the pool stops.
    fn next<'s>(
        &'s self,
        mut state: MutexGuard<'s, State>,
    ) -> Option<(Arc<Slot>, MutexGuard<'s, State>)> {
        loop {
            let now = Instant::now();
            while let Some(entry) = state.timers.first_entry()
                && entry.key().0 <= now
            {
                let slot = entry.remove();
                state.timed.remove(&slot.id);
                state.ready_up(&slot);
            }
            if let Some(slot) = state.ready.pop_front() {
                if !state.ready.is_empty() {
                    self.wake.notify_one();
                }
                return Some((slot, state));
            }
            if state.is_stopping {
                return None;
            }
            let timer = state.timers.first_key_value().map(|((at, _), _)| *at);
            state = match timer {
                None => self
                    .wake
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(at) => {
                    self.wake
                        .wait_timeout(state, at.saturating_duration_since(now))
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
            };
        }
    }

    /// Looks at the threads: gives up those in a window without an end, and starts one more where all are in long ones.
    /// Returns the slots that were given up.
    pub(super) fn watch(self: &Arc<Self>) -> Vec<Arc<Slot>> {
        let mut state = self.lock();
        let stuck = |worker: &Worker| {
            let slot = worker.slot.as_ref()?;
            let began = slot.valve().began()?;
            let used = priority::used_by(worker.thread)?.saturating_sub(began);
            (used > slot.window_max).then(|| slot.clone())
        };
        let found: Vec<(u64, Arc<Slot>)> = state
            .workers
            .iter()
            .filter_map(|(id, worker)| Some((*id, stuck(worker)?)))
            .collect();
        for (id, slot) in &found {
            slot.is_given_up.store(true, Ordering::Release);
            if let Some(worker) = state.workers.remove(id) {
                priority::stand_last(worker.thread);
            }
        }
        let all_busy = state
            .workers
            .values()
            .all(|worker| worker.slot.is_some() && worker.since.elapsed() > BUSY_MAX);
        let wanted = match all_busy && !state.ready.is_empty() {
            true => (state.workers.len() + 1).min(WORKERS_MAX),
            false => WORKERS,
        };
        while state.workers.len() < wanted && !state.is_stopping {
            if let Err(error) = self.spawn(&mut state) {
                tracing::error!(error = %error, "no thread for models");
                break;
            }
        }
        found.into_iter().map(|(_, slot)| slot).collect()
    }

    /// Ends the threads once all that waits is done; `false` where that took too long.
    pub(super) fn stop(&self, most: Duration) -> bool {
        let until = Instant::now() + most;
        let mut state = self.lock();
        state.is_stopping = true;
        self.wake.notify_all();
        while !state.workers.is_empty() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self
                .wake
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        true
    }
}

impl State {
    /// Puts it into the queue once; whether somebody should wake up for it.
    fn ready_up(&mut self, slot: &Arc<Slot>) -> bool {
        match slot.turn.load(Ordering::Relaxed) {
            IDLE => {
                slot.turn.store(QUEUED, Ordering::Relaxed);
                self.ready.push_back(slot.clone());
                true
            }
            RUNNING => {
                slot.turn.store(RUNNING_AND_QUEUED, Ordering::Relaxed);
                false
            }
            _ => false,
        }
    }

    fn turn_over(&mut self, slot: &Arc<Slot>, next: &Next) {
        let again = slot.turn.load(Ordering::Relaxed) == RUNNING_AND_QUEUED;
        slot.turn.store(IDLE, Ordering::Relaxed);
        if let Some(before) = self.timed.remove(&slot.id) {
            self.timers.remove(&(before, slot.id));
        }
        match next {
            Next::Now => drop(self.ready_up(slot)),
            _ if again => drop(self.ready_up(slot)),
            Next::In(_) if self.is_stopping => {}
            Next::In(time) => {
                let at = Instant::now() + *time;
                self.timed.insert(slot.id, at);
                self.timers.insert((at, slot.id), slot.clone());
            }
            Next::Fed => {}
        }
    }
}
