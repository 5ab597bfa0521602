//! Who is next. No I/O: the arbiter asks, and says what came of it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{Answered, Job, Lease, LineLink, PROBE_SHARE, WRITES_IN_A_ROW};
use crate::SessionError;

/// A unit rests after so many requests without an answer in a row: one alone may be noise.
const SILENT_MAX: u32 = 2;

/// The pause before a resting unit is first probed, and how far it grows.
const PROBE_PAUSE: Duration = Duration::from_secs(2);
const PROBE_PAUSE_MAX: Duration = Duration::from_secs(60);

/// So that a unit that is hardly ever read is not locked out by one that needs much.
const NEED_MIN: f64 = 1e-3;

/// What the arbiter does next.
pub(super) enum Turn {
    Exchange {
        seat: u64,
        job: Job,
    },
    Lease {
        granted: Granted,
        longest: Duration,
    },
    /// Until somebody asks, or this moment.
    Wait(Option<Instant>),
    /// Nobody is left.
    Leave,
}

type Granted = oneshot::Sender<Result<Lease, SessionError>>;

/// The seats of a line, and the health of its units.
#[derive(Default)]
pub(super) struct Turns {
    seats: BTreeMap<u64, Place>,
    next_seat: u64,
    leases: VecDeque<(Granted, Duration)>,
    /// The last turn was a lease: others come first.
    leased: bool,
    writes_in_a_row: u32,
    /// How much the seat had used that had the last turn, by need: who comes anew begins here.
    level: f64,
    units: HashMap<u8, Health>,
    /// No dead unit is probed before this, while another one lives.
    probes_from: Option<Instant>,
    running: bool,
}

/// A seat.
struct Place {
    unit: Option<u8>,
    need: f64,
    /// Time used, divided by need.
    used: f64,
    job: Option<Job>,
}

/// How a unit answers.
#[derive(Default)]
struct Health {
    /// Requests without an answer in a row.
    silent: u32,
    probe_at: Option<Instant>,
    pause: Duration,
}

impl Turns {
    /// A new seat.
    pub(super) fn sit(&mut self, need: f64) -> u64 {
        let id = self.next_seat;
        self.next_seat += 1;
        let place = Place {
            unit: None,
            need: need.max(NEED_MIN),
            used: self.level,
            job: None,
        };
        self.seats.insert(id, place);
        id
    }

    pub(super) fn leave(&mut self, seat: u64) {
        self.seats.remove(&seat);
    }

    /// A seat has one request at a time.
    pub(super) fn submit(&mut self, seat: u64, job: Job) {
        if let Some(place) = self.seats.get_mut(&seat) {
            // Nobody saves up turns by being idle.
            place.used = place.used.max(self.level);
            place.unit = Some(job.peer.unit);
            place.job = Some(job);
        }
    }

    pub(super) fn ask_lease(&mut self, granted: Granted, longest: Duration) {
        self.leases.push_back((granted, longest));
    }

    /// Whether the caller has to start the arbiter.
    pub(super) fn start(&mut self) -> bool {
        !std::mem::replace(&mut self.running, true)
    }

    /// Whether the arbiter may end: nobody came since it saw nobody.
    pub(super) fn stop(&mut self) -> bool {
        let idle = self.seats.is_empty() && self.leases.is_empty();
        self.running = !idle;
        idle
    }

    #[cfg(test)]
    pub(super) fn is_running(&self) -> bool {
        self.running
    }

    pub(super) fn stopped(&mut self) {
        self.running = false;
        // Whoever waits hears that it was for nothing.
        self.seats.values_mut().for_each(|place| place.job = None);
        self.leases.clear();
    }

    /// Chooses the next turn.
    pub(super) fn next(&mut self, now: Instant, link: Option<&LineLink>) -> Turn {
        self.leases.retain(|(granted, _)| !granted.is_closed());
        if self.seats.is_empty() && self.leases.is_empty() {
            return Turn::Leave;
        }
        self.dismiss(now);
        let fence = |job: &Job| link.and_then(|link| link.unanswered_until(job.peer.unit));
        let waiting = self.seats.iter().filter_map(|(seat, place)| {
            let job = place.job.as_ref()?;
            Some((*seat, place.used, job.writing, fence(job)))
        });
        let (ready, fenced): (Vec<_>, Vec<_>) = waiting.partition(|(.., fence)| fence.is_none());
        let writes_wait = ready.iter().any(|(_, _, writing, _)| *writing);
        let reads_wait = ready.iter().any(|(_, _, writing, _)| !*writing);
        let write = writes_wait && (self.writes_in_a_row < WRITES_IN_A_ROW || !reads_wait);
        let lease_turn = !write && (!self.leased || ready.is_empty());
        if lease_turn && let Some((granted, longest)) = self.leases.pop_front() {
            self.leased = true;
            return Turn::Lease { granted, longest };
        }
        let candidates = ready.iter().filter(|(_, _, writing, _)| *writing == write);
        let next = candidates.min_by(|(_, a, ..), (_, b, ..)| a.total_cmp(b));
        let Some(&(seat, used, ..)) = next else {
            return Turn::Wait(fenced.iter().filter_map(|(.., fence)| *fence).min());
        };
        let job = self.seats.get_mut(&seat).and_then(|place| place.job.take());
        let Some(job) = job else {
            return Turn::Wait(None);
        };
        self.leased = false;
        self.writes_in_a_row = if write { self.writes_in_a_row + 1 } else { 0 };
        if !write {
            self.level = self.level.max(used);
        }
        Turn::Exchange { seat, job }
    }

    /// Answers those that will not be sent: given up, too late, or to a unit that rests.
    fn dismiss(&mut self, now: Instant) {
        let units = &self.units;
        let probes_from = self.probes_from.filter(|_| self.any_lives());
        for place in self.seats.values_mut() {
            let Some(job) = &place.job else { continue };
            let resting = units
                .get(&job.peer.unit)
                .and_then(|health| health.probe_at)
                .map(|probe_at| probes_from.map_or(probe_at, |from| probe_at.max(from)))
                .filter(|probe_at| *probe_at > now);
            let error = if job.done.is_closed() {
                None
            } else if let Some(until) = resting {
                Some(SessionError::Resting {
                    device: job.peer.device.clone(),
                    wait: until.duration_since(now),
                })
            } else if job.until.is_some_and(|until| until <= now) {
                Some(SessionError::Timeout {
                    device: job.peer.device.clone(),
                    request: format!("{}: the line had no turn for it", job.request),
                    timeout: super::WRITE_WITHIN,
                })
            } else {
                continue;
            };
            if let (Some(job), Some(error)) = (place.job.take(), error) {
                // It is gone where nobody listens.
                let _ = job.done.send(Err(error));
            }
        }
    }

    /// Whether any unit with a seat is not known to be dead.
    fn any_lives(&self) -> bool {
        let mut units = self.seats.values().filter_map(|place| place.unit);
        units.any(|unit| {
            let health = self.units.get(&unit);
            health.is_none_or(|health| health.probe_at.is_none())
        })
    }

    /// What came of a turn: charges the seat, and notes how the unit answers.
    pub(super) fn settle(
        &mut self,
        seat: u64,
        unit: u8,
        begun: Instant,
        now: Instant,
        outcome: &Result<Answered, SessionError>,
    ) {
        let cost = now.duration_since(begun);
        if let Some(place) = self.seats.get_mut(&seat) {
            place.used += cost.as_secs_f64() / place.need;
        }
        match outcome {
            Err(SessionError::Timeout { .. }) => self.silent(unit, cost, now),
            // The unit has no part in it.
            Err(SessionError::Connect { .. } | SessionError::Lost { .. }) => {}
            // It answers, if badly.
            Ok(_) | Err(_) => self.answers(unit, now),
        }
    }

    fn silent(&mut self, unit: u8, cost: Duration, now: Instant) {
        let health = self.units.entry(unit).or_default();
        health.silent += 1;
        if health.silent < SILENT_MAX {
            return;
        }
        health.pause = (health.pause * 2).clamp(PROBE_PAUSE, PROBE_PAUSE_MAX);
        health.probe_at = Some(now + health.pause);
        let from = now + cost.mul_f64(1.0 / PROBE_SHARE);
        self.probes_from = Some(self.probes_from.map_or(from, |before| before.max(from)));
    }

    fn answers(&mut self, unit: u8, now: Instant) {
        let whole_line_was_dead = !self.any_lives();
        self.units.remove(&unit);
        if whole_line_was_dead {
            // A cable was plugged in: the others are back too.
            for health in self.units.values_mut() {
                health.probe_at = Some(now);
                health.pause = Duration::ZERO;
            }
            self.probes_from = None;
        }
    }
}
