//! What the world is told: scores and events of the version that counts, alarms of the others, and the status.

use std::sync::atomic::Ordering;

use millrace_inference::Output;
use millrace_tags::{Event, EventDetail, EventState};

use super::{Roles, Verdict, is_failure, time};
use crate::model::VersionId;
use crate::report::{CalibrationStatus, ModelStatus, NextStatus, TakenBackStatus, TrialStatus};

/// A version that fails so many windows one after the other outside a trial is stopped.
const FAILURES_MAX: u32 = 10;

impl Roles {
    /// Tells what the live version said. Where it must not go on, why.
    pub(super) fn tell(&mut self, outputs: Vec<Output>) -> Option<String> {
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

    /// The event that lasted ends, since its version goes on no more.
    pub(super) fn end_event(&mut self, event: Option<Event>) {
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
    pub(super) fn begin_event(&mut self) {
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

    /// Tells that a version is taken back, and has it kept.
    pub(in crate::model) fn taken_back(
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
    pub(super) fn alarm(&mut self, message: String) {
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

    /// Brings what the local API shows up to date.
    pub(in crate::model) fn show(&mut self) {
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
