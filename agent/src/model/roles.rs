//! Which version of a model does what: the one that scores, the one that is to take over, the one to go back to, and the
//! shadow.
//!
//! All of them get the same feeds in the same order. A version that is to take over is given what is kept of the samples;
//! once it has a whole window (or the one before has none either) and has seen what that one has, it goes on at the next
//! window. So each window is told once, by one of the two. An event belongs to the version that began it: it ends where that one
//! stops, and begins again where a version goes on that is in one.
//!
//! While a version is on trial, the one before stays one turn behind it, with its samples and its rows: where the trial
//! fails, it goes on from the last window that was told, and none is missing.

mod hand_over;
mod seat;
mod telling;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use millrace_inference::{NotScored, Output};
use millrace_tags::{Clock, Moment};
use tokio::sync::oneshot;

use super::feed::Feeds;
use super::publish::Publisher;
use super::shadow::Comparison;
use super::slot::{Limit, Slot, Turn};
use super::trial::{Bounds, Trial};
use super::{Model, Swapped, VersionId};
use hand_over::Incoming;
pub(super) use seat::Seat;

/// A version that was taken back or stopped: for whoever keeps the shelf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The version before goes on.
    TakenBack {
        /// The one that failed.
        failed: VersionId,
        /// The one that goes on; `None` where there was none.
        goes_on: Option<VersionId>,
        /// Why.
        reason: String,
    },
    /// It has proved itself.
    Proved(VersionId),
}

/// The versions of one model.
pub(super) struct Roles {
    pub(super) name: String,
    pub(super) bounds: Bounds,
    pub(super) model: Arc<Model>,
    pub(super) feeds: Arc<Feeds>,
    pub(super) publisher: Publisher,
    pub(super) clock: Arc<dyn Clock>,
    live: Option<Seat>,
    incoming: Option<Incoming>,
    standby: Option<Seat>,
    shadow: Option<(Seat, Comparison)>,
    trial: Option<Trial>,
    /// The newest window that was told of.
    reached: Moment,
    /// What is to be kept on the shelf.
    verdicts: Vec<Verdict>,
}

impl Roles {
    pub(super) fn new(
        (name, bounds): (String, Bounds),
        model: Arc<Model>,
        feeds: Arc<Feeds>,
        publisher: Publisher,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            name,
            bounds,
            model,
            feeds,
            publisher,
            clock,
            live: None,
            incoming: None,
            standby: None,
            shadow: None,
            trial: None,
            reached: Moment(i64::MIN),
            verdicts: Vec::new(),
        }
    }

    /// The newest window that was told of.
    pub(super) fn reached(&self) -> Moment {
        self.reached
    }

    pub(super) fn take_verdicts(&mut self) -> Vec<Verdict> {
        std::mem::take(&mut self.verdicts)
    }

    /// A version is to score; `from` is the newest feed of those that it begins with.
    pub(super) fn swap(
        &mut self,
        seat: Seat,
        from: u64,
        on_trial: bool,
        answer: Option<oneshot::Sender<Result<Swapped, String>>>,
    ) {
        if let Some(before) = self.incoming.take() {
            self.leave(before.seat);
            let told = "another version was promoted before it could take over";
            reply(before.answer, Err(told.to_owned()));
        }
        self.watch(true);
        self.incoming = Some(Incoming {
            seat,
            from,
            on_trial: on_trial && !self.bounds.trial.is_zero(),
            answer,
        });
        self.try_hand_over();
        self.show();
    }

    /// The shadow, where it is of this version: it is warm.
    pub(super) fn take_shadow(&mut self, id: &VersionId) -> Option<Seat> {
        let (seat, _) = self.shadow.take_if(|(seat, _)| seat.id == *id)?;
        Some(seat)
    }

    /// A version scores beside the one that counts.
    pub(super) fn set_shadow(&mut self, seat: Seat) {
        self.stop_shadow();
        self.shadow = Some((seat, Comparison::default()));
        self.show();
    }

    /// No version scores beside any more; gives the one that did.
    pub(super) fn stop_shadow(&mut self) -> Option<VersionId> {
        let (seat, _) = self.shadow.take()?;
        let id = seat.id.clone();
        self.leave(seat);
        self.show();
        Some(id)
    }

    /// The version that counts forgets what it has learned.
    pub(super) fn learn_anew(&mut self) -> bool {
        let Some(live) = self.live.as_ref().filter(|it| it.calibration.is_some()) else {
            return false;
        };
        live.slot.learns_anew.store(true, Ordering::Relaxed);
        self.feeds.wake(&live.slot);
        true
    }

    fn leave(&self, seat: Seat) {
        self.feeds.detach(&seat.slot);
        seat.slot.valve().close();
    }

    /// Has the turns of those that hand over to each other told, even where nothing comes of them.
    fn watch(&self, watch: bool) {
        if let Some(live) = &self.live {
            live.slot.is_watched.store(watch, Ordering::Relaxed);
        }
    }

    /// Takes what came of a turn.
    pub(super) fn turn(&mut self, turn: Turn) {
        let is = |seat: &Seat| seat.slot.id == turn.slot;
        if self.live.as_ref().is_some_and(is) {
            self.live_turn(turn);
        } else if self.incoming.as_ref().is_some_and(|it| is(&it.seat)) {
            self.incoming_turn(turn);
        } else if let Some((seat, comparison)) = self.shadow.as_mut().filter(|(seat, _)| is(seat)) {
            seat.take_note(&turn);
            turn.outputs.iter().for_each(|it| comparison.shadow(it));
            for output in &turn.outputs {
                if let Output::Event(event) = output {
                    seat.follow(event);
                }
            }
            if let Some(panic) = turn.panic {
                self.lose_shadow(&panic);
            }
        } else if let Some(seat) = self.standby.as_mut().filter(|seat| is(seat)) {
            seat.take_note(&turn);
            // Scored before it heard that another goes on.
            let kept = turn.outputs.into_iter().filter(was_scored);
            seat.pending.extend(kept);
        }
        self.try_hand_over();
        self.show();
    }

    fn live_turn(&mut self, turn: Turn) {
        if let Some(live) = &mut self.live {
            live.take_note(&turn);
            let ended = live.event.take_if(|_| turn.learns_anew);
            self.end_event(ended);
        }
        let mut why = None;
        for spent in &turn.spent {
            why = why.or(self.trial.as_mut().and_then(|trial| trial.time(*spent)));
        }
        why = why.or(self.tell(turn.outputs));
        if let Some(panic) = turn.panic {
            why = why.or(Some(format!("it failed by a panic: {panic}")));
        }
        match why {
            Some(why) => self.fail(why),
            None => self.let_standby_follow(),
        }
    }

    /// The one to go back to goes as far as the one on trial has come.
    fn let_standby_follow(&mut self) {
        if let (Some(live), Some(standby)) = (&self.live, &mut self.standby) {
            standby.slot.valve().close();
            standby.pending.clear();
            standby.slot.limit(Limit::Behind(live.done));
            self.feeds.wake(&standby.slot);
        }
    }

    /// The live version cannot go on: the one before does, where there is one.
    fn fail(&mut self, why: String) {
        let Some(failed) = self.live.take() else {
            return;
        };
        self.end_event(failed.event.clone());
        let id = failed.id.clone();
        self.leave(failed);
        self.trial = None;
        if let Some(mut standby) = self.standby.take() {
            let pending = std::mem::take(&mut standby.pending);
            self.live = Some(standby);
            self.begin_event();
            self.watch(false);
            // What it had scored, nobody was told.
            if let Some(why) = self.tell(pending) {
                return self.fail(why);
            }
            if let Some(live) = &self.live {
                live.slot.valve().open(self.reached);
                live.slot.limit(Limit::None);
                self.feeds.wake(&live.slot);
            }
            let goes_on = self.live.as_ref().map(|live| live.id.clone());
            return self.taken_back(id, goes_on, why);
        }
        let name = &self.name;
        tracing::error!(target: "audit", model = %name, version = %id.version, error = %why, "a model is stopped");
        let message = format!("model {name} {} is stopped: {why}", id.version);
        self.alarm(message);
        self.model.fail(why);
    }

    fn lose_shadow(&mut self, why: &str) {
        if let Some((seat, _)) = self.shadow.take() {
            let (model, version) = (&self.name, &seat.id.version);
            tracing::error!(model = %model, version = %version, error = %why, "the shadow is stopped");
            self.alarm(format!(
                "shadow {} of model {} is stopped: {why}",
                seat.id.version, self.name
            ));
            self.leave(seat);
        }
    }

    /// A version is in a window without an end; its thread was given up.
    pub(super) fn given_up(&mut self, slot: &Slot) {
        let is = |seat: &Seat| seat.slot.id == slot.id;
        let why = format!(
            "a window took more than {} s of processor time and does not end; restart the agent to end its thread",
            slot.window_max.as_secs_f64()
        );
        if self.live.as_ref().is_some_and(is) {
            self.fail(why);
        } else if self.incoming.as_ref().is_some_and(|it| is(&it.seat)) {
            self.refuse_incoming(why);
        } else if self.shadow.as_ref().is_some_and(|(seat, _)| is(seat)) {
            self.lose_shadow(&why);
        } else if self.standby.as_ref().is_some_and(is) {
            self.standby = None;
        }
        self.show();
    }

    /// Ends a trial whose time is over.
    pub(super) fn look(&mut self) {
        let now = self.clock.now();
        if self.trial.as_ref().is_none_or(|trial| now < trial.until) {
            return;
        }
        self.trial = None;
        if let Some(standby) = self.standby.take() {
            self.leave(standby);
        }
        self.watch(false);
        if let Some(live) = &self.live {
            tracing::info!(target: "audit", who = "the trial", model = %self.name, version = %live.id.version, "a promoted version has proved itself");
            self.verdicts.push(Verdict::Proved(live.id.clone()));
        }
        self.show();
    }
}

/// The version is to blame, not its inputs.
pub(super) fn is_failure(reason: &NotScored) -> bool {
    matches!(reason, NotScored::Failed(_))
}

fn was_scored(output: &Output) -> bool {
    !matches!(output, Output::NotScored { .. })
}

/// The window that it is about.
fn time(output: &Output) -> Moment {
    match output {
        Output::Score { at, .. } | Output::NotScored { at, .. } => *at,
        Output::Event(event) => event.at,
    }
}

fn reply(answer: Option<oneshot::Sender<Result<Swapped, String>>>, told: Result<Swapped, String>) {
    if let Some(answer) = answer {
        // They may have given up.
        let _ = answer.send(told);
    }
}
