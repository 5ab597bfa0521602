//! A version beside the one that scores: what both say of the same windows.

use std::collections::BTreeMap;

use millrace_inference::{NotScored, Output};
use millrace_tags::{EventState, Moment};

use crate::report::ShadowStatus;

/// Windows that wait for what the other version says of them; of one that is this far behind nothing more is expected.
const WAITING_MAX: usize = 256;

/// What was compared so far.
#[derive(Default)]
pub(super) struct Comparison {
    live: BTreeMap<Moment, Said>,
    shadow: BTreeMap<Moment, Said>,
    /// Sums and largest of the differences of scores and of ratios.
    score: Difference,
    ratio: Difference,
    /// Windows where only this one is over its threshold.
    only_live: u64,
    only_shadow: u64,
    events_live: u64,
    events_shadow: u64,
    windows: u64,
    failures: u64,
    newest: Option<Said>,
    error: Option<String>,
}

#[derive(Clone, Copy)]
struct Said {
    score: f64,
    ratio: Option<f64>,
}

#[derive(Default)]
struct Difference {
    count: u64,
    sum: f64,
    max: f64,
}

impl Difference {
    fn take(&mut self, a: f64, b: f64) {
        let difference = (a - b).abs();
        self.count += 1;
        self.sum += difference;
        self.max = self.max.max(difference);
    }

    fn mean(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / self.count as f64)
    }

    fn max(&self) -> Option<f64> {
        (self.count > 0).then_some(self.max)
    }
}

impl Comparison {
    /// What the version says that scores.
    pub(super) fn live(&mut self, output: &Output) {
        match output {
            Output::Score {
                at, score, ratio, ..
            } => {
                let said = Said {
                    score: *score,
                    ratio: *ratio,
                };
                match self.shadow.remove(at) {
                    Some(shadow) => self.compare(said, shadow),
                    None => wait(&mut self.live, *at, said),
                }
            }
            Output::Event(event) if event.state == EventState::Begin => self.events_live += 1,
            Output::Event(_) | Output::NotScored { .. } => {}
        }
    }

    /// What the version says that stands beside it.
    pub(super) fn shadow(&mut self, output: &Output) {
        match output {
            Output::Score {
                at, score, ratio, ..
            } => {
                let said = Said {
                    score: *score,
                    ratio: *ratio,
                };
                self.windows += 1;
                self.newest = Some(said);
                self.error = None;
                match self.live.remove(at) {
                    Some(live) => self.compare(live, said),
                    None => wait(&mut self.shadow, *at, said),
                }
            }
            Output::NotScored {
                reason: NotScored::Held,
                ..
            } => {}
            Output::NotScored { reason, .. } => {
                if super::roles::is_failure(reason) {
                    self.failures += 1;
                }
                self.error = Some(reason.to_string());
            }
            Output::Event(event) if event.state == EventState::Begin => self.events_shadow += 1,
            Output::Event(_) => {}
        }
    }

    fn compare(&mut self, live: Said, shadow: Said) {
        self.score.take(live.score, shadow.score);
        if let (Some(live), Some(shadow)) = (live.ratio, shadow.ratio) {
            self.ratio.take(live, shadow);
            self.only_live += u64::from(live > 1.0 && shadow <= 1.0);
            self.only_shadow += u64::from(shadow > 1.0 && live <= 1.0);
        }
    }

    /// For the local API; who it is, is filled in by the caller.
    pub(super) fn report(&self) -> ShadowStatus {
        ShadowStatus {
            error: self.error.clone(),
            score: self.newest.map(|said| said.score),
            ratio: self.newest.and_then(|said| said.ratio),
            windows_total: self.windows,
            windows_compared: self.score.count,
            score_difference_mean: self.score.mean(),
            score_difference_max: self.score.max(),
            ratio_difference_mean: self.ratio.mean(),
            ratio_difference_max: self.ratio.max(),
            alarms_only_live: self.only_live,
            alarms_only_shadow: self.only_shadow,
            events_live: self.events_live,
            events_shadow: self.events_shadow,
            failures_total: self.failures,
            ..ShadowStatus::default()
        }
    }
}

fn wait(waiting: &mut BTreeMap<Moment, Said>, at: Moment, said: Said) {
    waiting.insert(at, said);
    if waiting.len() > WAITING_MAX {
        waiting.pop_first();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(at: i64, score: f64) -> Output {
        Output::Score {
            at: Moment(at),
            window_start: Moment(at),
            score,
            ratio: Some(score / 10.0),
            share: Vec::new(),
            values: Vec::new(),
            good: 1.0,
        }
    }

    #[test]
    fn the_same_windows_are_compared_whoever_is_first() {
        let mut comparison = Comparison::default();
        comparison.live(&score(1, 8.0));
        comparison.shadow(&score(1, 9.0));
        comparison.shadow(&score(2, 12.0));
        comparison.live(&score(2, 9.0));
        comparison.live(&score(3, 1_000.0));
        comparison.shadow(&score(4, 5.0));
        let report = comparison.report();
        assert_eq!((report.windows_total, report.windows_compared), (3, 2));
        assert_eq!(report.score_difference_mean, Some(2.0));
        assert_eq!(report.score_difference_max, Some(3.0));
        assert!((report.ratio_difference_max.unwrap() - 0.3).abs() < 1e-9);
        assert_eq!((report.alarms_only_live, report.alarms_only_shadow), (0, 1));
        for at in 0..1_000 {
            comparison.live(&score(100 + at, 1.0));
        }
        assert_eq!(comparison.live.len(), WAITING_MAX);
    }
}
