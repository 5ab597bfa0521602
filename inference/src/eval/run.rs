//! Runs: recorded samples through a monitor, with every output kept.

use std::mem::{Discriminant, discriminant};
use std::sync::Arc;

use millrace_tags::{Event, EventDetail, EventState, Moment, Sample, Share};

use crate::monitor::{Monitor, NotScored, Output};

/// A window that has a score.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoredWindow {
    /// Time of its newest row.
    pub at: Moment,
    /// Time of its oldest row.
    pub start: Moment,
    /// The score as the model gave it.
    pub score: f64,
    /// Score divided by threshold; `None` while there is no threshold yet.
    pub ratio: Option<f64>,
    /// Each input's share in the score; empty where the model does not tell.
    pub share: Vec<(Arc<str>, f64)>,
    /// What else the model says, by name; `None` where that is not known.
    pub values: Vec<(Arc<str>, Option<f64>)>,
    /// Share of good cells, 0 to 1.
    pub good: f64,
}

/// Windows in a row that have no score for the same reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unscored {
    /// The first of them.
    pub from: Moment,
    /// The last of them.
    pub to: Moment,
    /// How many.
    pub count: usize,
    /// What the last of them said.
    pub reason: String,
    kind: Discriminant<NotScored>,
}

/// An anomaly from its first record to its last.
#[derive(Debug, Clone, PartialEq)]
pub struct Episode {
    /// When it was told of: the end of the window that made it an event.
    pub told_at: Moment,
    /// When it began, as the event says.
    pub start: Moment,
    /// When it ended, as the event says; `None` where the data end before.
    pub end: Option<Moment>,
    /// When its end was told of.
    pub end_told_at: Option<Moment>,
    /// Highest smoothed score.
    pub peak: f64,
    /// The threshold that it was held against.
    pub threshold: f64,
    /// The inputs with the largest shares at the peak.
    pub top: Vec<Share>,
}

/// What came of a run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Evaluation {
    /// Every window that has a score, in order.
    pub windows: Vec<ScoredWindow>,
    /// Every anomaly, in order.
    pub episodes: Vec<Episode>,
    /// What was not scored, and why.
    pub unscored: Vec<Unscored>,
    /// The records of the anomalies, as they would have been sent.
    pub events: Vec<Event>,
}

impl Evaluation {
    /// The window that ends at this moment.
    pub fn window_at(&self, at: Moment) -> Option<&ScoredWindow> {
        let index = self
            .windows
            .binary_search_by_key(&at, |window| window.at)
            .ok()?;
        self.windows.get(index)
    }

    /// With all times later by so many nanoseconds: from moments of a boot to UTC.
    #[must_use]
    pub fn shifted(mut self, by_ns: i64) -> Self {
        let shift = |at: &mut Moment| at.0 = at.0.saturating_add(by_ns);
        for window in &mut self.windows {
            shift(&mut window.at);
            shift(&mut window.start);
        }
        for episode in &mut self.episodes {
            shift(&mut episode.told_at);
            shift(&mut episode.start);
            episode.end.as_mut().map(shift);
            episode.end_told_at.as_mut().map(shift);
        }
        for unscored in &mut self.unscored {
            shift(&mut unscored.from);
            shift(&mut unscored.to);
        }
        for event in &mut self.events {
            shift(&mut event.at);
            shift(&mut event.start);
            event.end.as_mut().map(shift);
            if let EventDetail::Anomaly { from, .. } = &mut event.detail {
                from.as_mut().map(shift);
            }
        }
        self
    }

    /// Adds what came of a later run.
    pub fn append(&mut self, later: Self) {
        self.windows.extend(later.windows);
        self.episodes.extend(later.episodes);
        self.unscored.extend(later.unscored);
        self.events.extend(later.events);
    }

    fn take(&mut self, output: Output) {
        match output {
            Output::Score {
                at,
                window_start,
                score,
                ratio,
                share,
                values,
                good,
            } => self.windows.push(ScoredWindow {
                at,
                start: window_start,
                score,
                ratio,
                share,
                values,
                good,
            }),
            Output::NotScored { at, reason } => self.take_unscored(at, &reason),
            Output::Event(event) => {
                self.take_event(&event);
                self.events.push(event);
            }
        }
    }

    /// Joins windows that lack a score for the same reason, with no score in between.
    fn take_unscored(&mut self, at: Moment, reason: &NotScored) {
        let scored_since = |moment: Moment| self.windows.last().is_some_and(|w| w.at > moment);
        let kind = discriminant(reason);
        let joins = |last: &Unscored| last.kind == kind && !scored_since(last.to);
        let last = self.unscored.pop_if(|last| joins(last));
        self.unscored.push(Unscored {
            from: last.as_ref().map_or(at, |last| last.from),
            to: at,
            count: last.map_or(1, |last| last.count + 1),
            reason: reason.to_string(),
            kind,
        });
    }

    fn take_event(&mut self, event: &Event) {
        let EventDetail::Anomaly {
            peak,
            threshold,
            top,
            ..
        } = &event.detail
        else {
            return;
        };
        if event.state == EventState::Begin {
            self.episodes.push(Episode {
                told_at: event.at,
                start: event.start,
                end: None,
                end_told_at: None,
                peak: *peak,
                threshold: *threshold,
                top: top.clone(),
            });
        } else if let Some(episode) = self.episodes.last_mut() {
            episode.peak = *peak;
            episode.top.clone_from(top);
            if event.state == EventState::End {
                episode.end = event.end;
                episode.end_told_at = Some(event.at);
            }
        }
    }
}

/// A monitor on recorded data. Samples are fed in the order of their times.
pub struct Run {
    monitor: Monitor,
    evaluation: Evaluation,
    newest: Moment,
}

impl Run {
    /// A run from the beginning: nothing was seen before.
    pub fn new(monitor: Monitor) -> Self {
        Self {
            monitor,
            evaluation: Evaluation::default(),
            newest: Moment(i64::MIN),
        }
    }

    /// Takes a sample for an input. The rows of a grid in time that lie before it are made first, so that none of
    /// them sees its future.
    pub fn feed(&mut self, input: usize, sample: &Sample) {
        let at = sample.gateway_time;
        if at > self.newest {
            if self.newest.0 != i64::MIN {
                let outputs = self.monitor.advance(Moment(at.0 - 1));
                self.keep(outputs);
            }
            self.newest = at;
        }
        self.monitor.feed(input, sample);
    }

    /// A poll cycle ends: with `grid = "scan"` what was fed is a row.
    pub fn end_scan(&mut self, at: Moment) {
        let outputs = self.monitor.end_scan(at);
        self.keep(outputs);
    }

    /// What came of it.
    pub fn finish(mut self) -> Evaluation {
        let outputs = self.monitor.advance(self.newest);
        self.keep(outputs);
        self.evaluation
    }

    fn keep(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            self.evaluation.take(output);
        }
    }
}
