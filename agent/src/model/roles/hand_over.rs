//! The turn from one version to the next: when the one that was promoted is ready, and what is told of its events.

use millrace_inference::Output;
use tokio::sync::oneshot;

use super::seat::Seat;
use super::{Roles, is_failure, reply, time};
use crate::model::Swapped;
use crate::model::slot::{Limit, Turn};
use crate::model::trial::Trial;

/// What a version that takes over may have said before its turn comes.
const PENDING_MAX: usize = 4_096;

/// A version that is to take over.
pub(super) struct Incoming {
    pub(super) seat: Seat,
    /// The newest feed of those that it begins with.
    pub(super) from: u64,
    pub(super) on_trial: bool,
    pub(super) answer: Option<oneshot::Sender<Result<Swapped, String>>>,
}

impl Roles {
    pub(super) fn incoming_turn(&mut self, turn: Turn) {
        let Some(incoming) = &mut self.incoming else {
            return;
        };
        incoming.seat.take_note(&turn);
        let failed = turn.outputs.iter().find_map(|output| match output {
            Output::NotScored { reason, .. } if is_failure(reason) => Some(reason.to_string()),
            _ => None,
        });
        let panic = turn.panic.map(|it| format!("it failed by a panic: {it}"));
        let no_room = (incoming.seat.pending.len() > PENDING_MAX)
            .then(|| "the version before it did not come to an end".to_owned());
        incoming.seat.pending.extend(turn.outputs);
        if let Some(why) = failed.or(panic).or(no_room) {
            self.refuse_incoming(why);
        }
    }

    /// The version that was to take over does not.
    pub(super) fn refuse_incoming(&mut self, why: String) {
        let Some(incoming) = self.incoming.take() else {
            return;
        };
        let failed = incoming.seat.id.clone();
        self.leave(incoming.seat);
        self.watch(self.standby.is_some());
        match incoming.answer {
            Some(answer) => reply(Some(answer), Err(why)),
            None => {
                let goes_on = self.live.as_ref().map(|live| live.id.clone());
                self.taken_back(failed, goes_on, why);
            }
        }
    }

    /// Hands over to the version that was promoted, where it is ready.
    pub(super) fn try_hand_over(&mut self) {
        let Some(incoming) = &mut self.incoming else {
            return;
        };
        if self.live.is_none() {
            if let Some(incoming) = self.incoming.take() {
                self.hand_over(incoming);
            }
            return;
        }
        let seat = &incoming.seat;
        let has_window = self.live.as_ref().is_some_and(|live| live.is_full);
        let is_caught_up = seat.done.feed >= incoming.from;
        if !is_caught_up || (has_window && !seat.is_full) {
            if is_caught_up {
                reply(incoming.answer.take(), Ok(Swapped::Filling));
            }
            return;
        }
        let first = seat.pending.iter().map(time).find(|at| *at > self.reached);
        let is_level = self.live.as_ref().is_none_or(|live| {
            live.done.feed >= seat.done.feed || first.is_some_and(|first| self.reached >= first)
        });
        if is_level && let Some(incoming) = self.incoming.take() {
            self.hand_over(incoming);
        }
    }

    fn hand_over(&mut self, incoming: Incoming) {
        let Incoming {
            mut seat,
            on_trial,
            answer,
            ..
        } = incoming;
        let pending = std::mem::take(&mut seat.pending);
        let (past, to_come): (Vec<Output>, Vec<Output>) = pending
            .into_iter()
            .partition(|output| time(output) <= self.reached);
        for output in &past {
            if let Output::Event(event) = output {
                seat.follow(event);
            }
        }
        if let Some(standby) = self.standby.take() {
            self.leave(standby);
        }
        self.trial = None;
        let now = self.clock.now();
        let done = seat.done;
        tracing::info!(model = %self.name, version = %seat.id.version, on_trial, "this version scores from now on");
        if let Some(before) = self.live.replace(seat) {
            self.end_event(before.event.clone());
            if on_trial {
                before.slot.limit(Limit::Behind(done));
                self.standby = Some(before);
            } else {
                self.leave(before);
            }
        }
        if on_trial {
            self.trial = Some(Trial::new(self.bounds, now));
        }
        self.watch(on_trial);
        self.begin_event();
        self.model.update(|status| {
            status.taken_back = None;
            "warming-up".clone_into(&mut status.state);
            status.error = None;
        });
        reply(answer, Ok(Swapped::Scores));
        if let Some(why) = self.tell(to_come) {
            self.fail(why);
        }
    }
}
