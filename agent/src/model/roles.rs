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

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use millrace_inference::{Calibration, NotScored, Output};
use millrace_tags::{Clock, Event, EventDetail, EventState, Moment};
use tokio::sync::oneshot;

use super::feed::Feeds;
use super::publish::Publisher;
use super::shadow::Comparison;
use super::slot::{Done, Limit, Slot, Turn};
use super::trial::{Bounds, Trial};
use super::{Model, Swapped, VersionId};
use crate::report::{CalibrationStatus, ModelStatus, NextStatus, TakenBackStatus, TrialStatus};

/// A version that fails so many windows one after the other outside a trial is stopped.
const FAILURES_MAX: u32 = 10;

/// What a version that takes over may have said before its turn comes.
const PENDING_MAX: usize = 4_096;

/// A version and what is known of it.
pub(super) struct Seat {
    pub(super) id: VersionId,
    pub(super) slot: Arc<Slot>,
    done: Done,
    is_full: bool,
    /// The newest record of the event that it is in.
    event: Option<Event>,
    /// Failed windows, one after the other.
    failures: u32,
    /// What it said and nobody was told of yet.
    pending: Vec<Output>,
    windows_shed: u64,
    /// Processor time of a window, the newest counting most.
    window_mean: Option<Duration>,
    /// How far learning is; `None` where it has nothing to learn, or had no turn yet.
    calibration: Option<Calibration>,
}

impl Seat {
    pub(super) fn new(id: VersionId, slot: Arc<Slot>) -> Self {
        Self {
            id,
            slot,
            done: Done::NOTHING,
            is_full: false,
            event: None,
            failures: 0,
            pending: Vec::new(),
            windows_shed: 0,
            window_mean: None,
            calibration: None,
        }
    }

    fn take_note(&mut self, turn: &Turn) {
        self.done = turn.done;
        self.is_full = turn.is_full;
        self.windows_shed += turn.windows_shed;
        self.calibration = turn.calibration;
        for spent in &turn.spent {
            let mean = self
                .window_mean
                .map_or(*spent, |mean| (mean * 15 + *spent) / 16);
            self.window_mean = Some(mean);
        }
    }

    fn follow(&mut self, event: &Event) {
        self.event = (event.state != EventState::End).then(|| event.clone());
    }
}

/// A version that is to take over.
struct Incoming {
    seat: Seat,
    /// The newest feed of those that it begins with.
    from: u64,
    on_trial: bool,
    answer: Option<oneshot::Sender<Result<Swapped, String>>>,
}

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

    /// Tells what the live version said. Where it must not go on, why.
    fn tell(&mut self, outputs: Vec<Output>) -> Option<String> {
        let before = self.reached;
        for output in outputs {
            let at = time(&output);
            if at <= before {
                continue;
            }
            if let Some(why) = self.trial.as_mut().and_then(|trial| trial.judge(&output)) {
                return Some(why);
            }
            let live = self.live.as_mut()?;
            match &output {
                Output::Score { .. } => live.failures = 0,
                Output::NotScored { reason, .. } if is_failure(reason) => {
                    live.failures += 1;
                    if live.failures >= FAILURES_MAX {
                        return Some(format!("{FAILURES_MAX} windows in a row failed: {reason}"));
                    }
                }
                Output::NotScored { .. } => {}
                Output::Event(event) => live.follow(event),
            }
            if let Some((_, comparison)) = &mut self.shadow {
                comparison.live(&output);
            }
            self.reached = self.reached.max(at);
            self.publisher.tell(output, &self.model);
        }
        None
    }

    fn incoming_turn(&mut self, turn: Turn) {
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
    fn refuse_incoming(&mut self, why: String) {
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
    fn try_hand_over(&mut self) {
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

    /// The event that lasted ends, since its version goes on no more.
    fn end_event(&mut self, event: Option<Event>) {
        let Some(event) = event else {
            return;
        };
        let at = self.reached.max(event.at);
        let end = Event {
            state: EventState::End,
            at,
            end: Some(at),
            ..event
        };
        self.publisher.tell(Output::Event(end), &self.model);
    }

    /// The event that the live version is in already begins for whoever hears of it.
    fn begin_event(&mut self) {
        let Some(event) = self.live.as_ref().and_then(|live| live.event.clone()) else {
            return;
        };
        let begin = Event {
            state: EventState::Begin,
            at: self.reached.max(event.at),
            end: None,
            ..event
        };
        self.publisher.tell(Output::Event(begin), &self.model);
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

    /// Tells that a version is taken back, and has it kept.
    pub(super) fn taken_back(
        &mut self,
        failed: VersionId,
        goes_on: Option<VersionId>,
        reason: String,
    ) {
        let name = &self.name;
        let before = goes_on
            .as_ref()
            .map_or("no version", |id| id.version.as_str());
        tracing::error!(target: "audit", who = "the trial", model = %name, version = %failed.version, goes_on = %before, error = %reason, "a promoted version is taken back");
        let message = format!(
            "version {} of model {name} is taken back, {before} goes on: {reason}",
            failed.version
        );
        self.alarm(message);
        let now = self.clock.timebase().utc(self.clock.now());
        let told = TakenBackStatus {
            version: failed.version.clone(),
            sha256: failed.sha256.clone(),
            reason: reason.clone(),
            t: now.map(|now| now.unix_ms()),
        };
        self.model.update(|status| {
            status.taken_back = Some(told);
            "warming-up".clone_into(&mut status.state);
            status.error = None;
        });
        self.verdicts.push(Verdict::TakenBack {
            failed,
            goes_on,
            reason,
        });
    }

    /// Something that an operator should know.
    fn alarm(&mut self, message: String) {
        let at = self.clock.now();
        let event = Event {
            state: EventState::End,
            at,
            start: at,
            end: Some(at),
            detail: EventDetail::alarm(message),
        };
        self.publisher.event(event);
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

    /// Brings what the local API shows up to date.
    pub(super) fn show(&mut self) {
        let now = self.clock.now();
        let trial = self.trial.as_ref().map(|trial| TrialStatus {
            left_s: trial.until.since(now).as_secs(),
            previous: self.standby.as_ref().map(|it| it.id.version.clone()),
        });
        let next = self.incoming.as_ref().map(|incoming| NextStatus {
            version: incoming.seat.id.version.clone(),
            sha256: incoming.seat.id.sha256.clone(),
        });
        let shadow = self.shadow.as_ref().map(|(seat, comparison)| {
            let mut shown = comparison.report();
            shown.version.clone_from(&seat.id.version);
            shown.sha256.clone_from(&seat.id.sha256);
            shown.windows_shed_total = seat.windows_shed;
            shown
        });
        let live = self.live.as_ref();
        self.model.update(|status: &mut ModelStatus| {
            status.trial = trial;
            status.next = next;
            status.shadow = shadow;
            if let Some(live) = live {
                status.version = Some(live.id.version.clone());
                status.sha256 = Some(live.id.sha256.clone());
                status.window_ms = live.window_mean.map(|mean| mean.as_secs_f64() * 1e3);
                status.anomaly = live.event.is_some();
                status.calibration = live.calibration.map(CalibrationStatus::from);
            }
        });
        if let Some(live) = &mut self.live {
            let windows = std::mem::take(&mut live.windows_shed);
            let samples = live.slot.samples_shed.swap(0, Ordering::Relaxed);
            self.model.update(|status| {
                status.windows_shed_total += windows;
                status.samples_shed_total += samples;
            });
        }
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
