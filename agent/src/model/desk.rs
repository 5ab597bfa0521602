//! The task that knows which version of which model does what, and tells what they say.
//!
//! It runs at normal priority, so that what is shared with pollers (the buffer, the live table) is never held by a thread
//! that stands back.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::sync::oneshot;
use tokio::time::MissedTickBehavior;

use super::budget::Budget;
use super::feed::Feeds;
use super::pool::Pool;
use super::roles::{Roles, Seat, Verdict};
use super::slot::{Slot, Turn, Valve};
use super::{Built, Swapped, VersionId};

/// How often threads and trials are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// A window takes at most so many times what a version on trial may take; one that takes more has no end.
const WINDOW_BUDGETS_MAX: u32 = 20;
/// No window counts as endless before.
const WINDOW_MAX: Duration = Duration::from_millis(if cfg!(test) { 100 } else { 2_000 });

/// What the desk hears.
pub(super) enum Message {
    /// What came of a version's turn.
    Turn(Turn),
    /// What is asked of a model, by its place.
    Order(usize, Order),
    /// All is told; the task ends.
    Stop,
}

/// What is asked of a model.
pub(super) enum Order {
    /// This version is to score.
    Swap {
        built: Box<Built>,
        on_trial: bool,
        answer: Option<oneshot::Sender<Result<Swapped, String>>>,
    },
    /// This version is to score beside.
    Shadow { built: Box<Built> },
    /// The version that counts is to forget what it has learned.
    LearnAnew { answer: oneshot::Sender<bool> },
    /// A version was taken back before it began.
    TakeBack {
        failed: VersionId,
        goes_on: VersionId,
        reason: String,
    },
    /// None is to score beside any more.
    StopShadow {
        answer: oneshot::Sender<Option<VersionId>>,
    },
}

/// Takes what is to be kept on the shelves.
pub(crate) type TakeVerdict = Box<dyn Fn(&str, Verdict) + Send>;

pub(super) struct Desk {
    pub(super) models: Vec<(Roles, Vec<String>)>,
    pub(super) messages: UnboundedReceiver<Message>,
    pub(super) pool: Arc<Pool>,
    pub(super) budget: Arc<Budget>,
    pub(super) take_verdict: TakeVerdict,
    pub(super) slots: u64,
}

impl Desk {
    /// Runs until it is told to stop.
    pub(super) async fn run(mut self) {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                message = self.messages.recv() => match message {
                    Some(Message::Turn(turn)) => {
                        if let Some((roles, _)) = self.models.get_mut(turn.model) {
                            roles.turn(turn);
                        }
                    }
                    Some(Message::Order(model, order)) => self.order(model, order),
                    Some(Message::Stop) | None => return,
                },
                _ = looks.tick() => self.look(),
            }
            self.keep_verdicts();
        }
    }

    fn look(&mut self) {
        for slot in self.pool.watch() {
            if let Some((roles, _)) = self.models.get_mut(slot.model) {
                roles.given_up(&slot);
            }
        }
        let at_normal_priority = self.pool.at_normal_priority();
        for (roles, _) in &mut self.models {
            roles.look();
            if at_normal_priority.is_some() {
                let why = at_normal_priority.clone();
                roles.model.update(|status| status.at_normal_priority = why);
            }
        }
    }

    fn keep_verdicts(&mut self) {
        for (roles, _) in &mut self.models {
            for verdict in roles.take_verdicts() {
                (self.take_verdict)(&roles.name, verdict);
            }
        }
    }

    fn order(&mut self, model: usize, order: Order) {
        let Some((roles, names)) = self.models.get_mut(model) else {
            return;
        };
        match order {
            Order::Swap {
                built,
                on_trial,
                answer,
            } => {
                let (seat, from) = match roles.take_shadow(&built.id) {
                    Some(warm) => (warm, 0),
                    None => {
                        self.slots += 1;
                        let clock = roles.clock.clone();
                        let valve = Valve::new(self.budget.clone(), clock);
                        take_seat(*built, (self.slots, model), valve, (roles, names))
                    }
                };
                roles.swap(seat, from, on_trial, answer);
            }
            Order::Shadow { built } => {
                self.slots += 1;
                let clock = roles.clock.clone();
                let valve = Valve::new(self.budget.clone(), clock);
                let (seat, _) = take_seat(*built, (self.slots, model), valve, (roles, names));
                roles.set_shadow(seat);
            }
            Order::LearnAnew { answer } => {
                // They may have given up.
                let _ = answer.send(roles.learn_anew());
            }
            Order::TakeBack {
                failed,
                goes_on,
                reason,
            } => roles.taken_back(failed, Some(goes_on), reason),
            Order::StopShadow { answer } => {
                // They may have given up.
                let _ = answer.send(roles.stop_shadow());
            }
        }
    }
}

/// Gives a version its place, with what is kept of the samples. Also the newest feed of those.
fn take_seat(
    built: Built,
    ids: (u64, usize),
    valve: Arc<Valve>,
    (roles, names): (&Roles, &[String]),
) -> (Seat, u64) {
    let reach = built.reach();
    let Built {
        id,
        monitor,
        roles: inputs,
        lateness,
        keeper,
        ..
    } = built;
    let place = |name: &String| inputs.iter().position(|input| input == name);
    let inputs = names.iter().map(place).collect();
    let window_max = (roles.bounds.window_budget * WINDOW_BUDGETS_MAX).max(WINDOW_MAX);
    let slot = Slot::new(ids, (monitor, inputs, lateness), keeper, valve, window_max);
    // Before it gets samples: a thread may take them at once.
    slot.valve().open(roles.reached());
    let from = roles.feeds.attach(&slot, reach);
    (Seat::new(id, slot), from)
}

/// The way to the desk.
#[derive(Clone)]
pub(super) struct ToDesk(pub(super) UnboundedSender<Message>, pub(super) usize);

impl ToDesk {
    /// Asks; the desk lives as long as the models.
    pub(super) fn order(&self, order: Order) {
        // Where it is gone, the answer's end is, too.
        let _ = self.0.send(Message::Order(self.1, order));
    }
}

/// Feeds of one model, for its taps.
pub(super) type SharedFeeds = Arc<Feeds>;
