//! From scores to events: smoothing, threshold, hysteresis, cool-down.

use std::collections::VecDeque;

use millrace_tags::{Event, EventDetail, EventState, Moment, Share};

use crate::bundle::DecisionRule;

/// An update is worth its message when the peak has grown by a quarter since the last record. The
/// records of one event grow with the logarithm of its peak, whatever its length.
const PEAK_GROWTH: f64 = 1.25;

/// Inputs that an event names.
const TOP_MAX: usize = 3;

/// A score with what is known about its window.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Judged<'a> {
    /// End of the window.
    pub(crate) at: Moment,
    /// Its oldest row.
    pub(crate) from: Moment,
    pub(crate) score: f64,
    /// Share of each input, with its role.
    pub(crate) shares: &'a [Share],
    /// Share of good cells.
    pub(crate) good: f64,
}

/// Decides when an anomaly begins and ends.
#[derive(Debug)]
pub(crate) struct Decision {
    rule: DecisionRule,
    /// `None` while it is being learned: nothing begins.
    threshold: Option<f64>,
    version: String,
    sha256: String,
    /// Newest scores, for the median.
    scores: VecDeque<f64>,
    /// Newest windows: where they begin and end, and whether they were above the threshold.
    above: VecDeque<(Moment, Moment, bool)>,
    /// Windows in a row below the end of the hysteresis, and the end of the first.
    below: Option<(Moment, usize)>,
    open: Option<Open>,
    quiet_until: Option<Moment>,
}

/// The event that goes on.
#[derive(Debug)]
struct Open {
    start: Moment,
    /// The oldest row of its first window.
    from: Moment,
    threshold: f64,
    peak: f64,
    /// The peak in the last record.
    told_peak: f64,
    /// The severity in the last record.
    told_severity: Option<u8>,
    /// The top inputs at the peak.
    top: Vec<Share>,
    /// Share of good cells in the newest window.
    good: f64,
    /// The newest score.
    score: f64,
}

impl Decision {
    pub(crate) fn new(
        rule: DecisionRule,
        threshold: Option<f64>,
        version: &str,
        sha256: &str,
    ) -> Self {
        Self {
            rule,
            threshold,
            version: version.to_owned(),
            sha256: sha256.to_owned(),
            scores: VecDeque::new(),
            above: VecDeque::new(),
            below: None,
            open: None,
            quiet_until: None,
        }
    }

    /// Forgets the run of windows, since the next one does not follow on the last. An open event stays open.
    pub(crate) fn interrupt(&mut self) {
        self.scores.clear();
        self.above.clear();
        self.below = None;
    }

    /// The threshold is known now, or forgotten.
    pub(crate) fn set_threshold(&mut self, threshold: Option<f64>) {
        self.threshold = threshold;
        self.above.clear();
        self.below = None;
    }

    /// Ends the event that lasts, since nothing will be known of it any more.
    pub(crate) fn close(&mut self, at: Moment) -> Option<Event> {
        let open = self.open.take()?;
        Some(self.record(EventState::End, &open, at, Some(at)))
    }

    /// Takes the next score, smoothed; gives a record if an event begins, grows or ends by it.
    pub(crate) fn judge(&mut self, judged: Judged<'_>) -> Option<Event> {
        let threshold = self.threshold?;
        match self.open.take() {
            Some(open) => self.go_on(open, judged),
            None => self.begin(threshold, judged),
        }
    }

    /// The median of the newest scores; `None` until there are enough, so that one spike after a gap
    /// is no more than one spike elsewhere.
    pub(crate) fn smooth(&mut self, score: f64) -> Option<f64> {
        if self.scores.len() == self.rule.smoothing {
            self.scores.pop_front();
        }
        self.scores.push_back(score);
        if self.scores.len() < self.rule.smoothing {
            return None;
        }
        let mut sorted: Vec<f64> = self.scores.iter().copied().collect();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        Some(if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            (sorted[middle - 1] + sorted[middle]) / 2.0
        })
    }

    fn begin(&mut self, threshold: f64, judged: Judged<'_>) -> Option<Event> {
        if self.quiet_until.is_some_and(|until| judged.at < until) {
            return None;
        }
        if self.above.len() == self.rule.on_of {
            self.above.pop_front();
        }
        self.above
            .push_back((judged.from, judged.at, judged.score > threshold));
        let mut above = self.above.iter().filter(|(_, _, above)| *above);
        let (from, start, _) = *above.next()?;
        if 1 + above.count() < self.rule.on {
            return None;
        }
        self.above.clear();
        self.below = None;
        let mut open = Open {
            start,
            from,
            threshold,
            peak: judged.score,
            told_peak: judged.score,
            told_severity: None,
            top: top(judged.shares),
            good: judged.good,
            score: judged.score,
        };
        open.told_severity = self.severity(&open);
        let event = self.record(EventState::Begin, &open, judged.at, None);
        self.open = Some(open);
        Some(event)
    }

    fn go_on(&mut self, mut open: Open, judged: Judged<'_>) -> Option<Event> {
        if judged.score > open.peak {
            open.peak = judged.score;
            open.top = top(judged.shares);
        }
        (open.good, open.score) = (judged.good, judged.score);
        self.below = (judged.score < open.threshold * self.rule.off_ratio).then(|| {
            self.below
                .map_or((judged.at, 1), |(first, count)| (first, count + 1))
        });
        if let Some((first, count)) = self.below
            && count >= self.rule.off
        {
            self.quiet_until = Some(judged.at + self.rule.cooldown);
            return Some(self.record(EventState::End, &open, judged.at, Some(first)));
        }
        let severity = self.severity(&open);
        let grown = open.peak >= open.told_peak * PEAK_GROWTH || severity > open.told_severity;
        if grown {
            open.told_peak = open.peak;
            open.told_severity = severity;
        }
        let event = grown.then(|| self.record(EventState::Update, &open, judged.at, None));
        self.open = Some(open);
        event
    }

    /// How many steps of severity the peak has reached.
    fn severity(&self, open: &Open) -> Option<u8> {
        let ratio = open.peak / open.threshold;
        let reached = self.rule.severity.iter().filter(|step| ratio >= **step);
        let reached = u8::try_from(reached.count()).unwrap_or(u8::MAX);
        (!self.rule.severity.is_empty()).then_some(reached)
    }

    fn record(&self, state: EventState, open: &Open, at: Moment, end: Option<Moment>) -> Event {
        Event {
            state,
            at,
            start: open.start,
            end,
            detail: EventDetail::Anomaly {
                version: self.version.clone(),
                sha256: self.sha256.clone(),
                peak: open.peak,
                score: open.score,
                threshold: open.threshold,
                top: open.top.clone(),
                good: open.good,
                severity: self.severity(open),
                from: Some(open.from),
            },
        }
    }
}

/// The largest shares, largest first; of equal ones, in the order of the inputs.
fn top(shares: &[Share]) -> Vec<Share> {
    let mut top = shares.to_vec();
    top.sort_by(|a, b| b.share.total_cmp(&a.share));
    top.truncate(TOP_MAX);
    top
}

#[cfg(test)]
mod tests;
