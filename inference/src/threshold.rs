//! Thresholds: the score that begins an event, given or learned from the first windows of an asset.
//!
//! A learned threshold is found from the scores that the decision compares with it, smoothed as those are, of the
//! first windows. Until it is found there are scores and no events. Only the largest scores are kept, as
//! many as the method needs, so that a long calibration costs little memory.

mod pot;
mod tail;

use serde::{Deserialize, Serialize};

use crate::bundle::Threshold;
use crate::learned::bits;
use tail::Tail;

/// Part of the windows whose scores are peaks: what lies above is fitted. A larger part is no tail any more, a
/// smaller one leaves too few peaks in a calibration of usual length.
const PEAKS_SHARE: f64 = 0.05;

/// How far a calibration has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Windows so far.
    pub windows: usize,
    /// Windows that are needed.
    pub needed: usize,
}

/// A threshold that is known, or on its way.
#[derive(Debug)]
pub(crate) enum Limit {
    /// Known from the start.
    Fixed(f64),
    /// Learned.
    Learned {
        rule: Threshold,
        needed: usize,
        state: Calibrating,
    },
}

/// What was learned so far; this is what is kept over restarts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Calibrating {
    windows: usize,
    tail: Tail,
    #[serde(with = "bits::option")]
    threshold: Option<f64>,
}

impl Limit {
    pub(crate) fn new(rule: Threshold) -> Self {
        let needed = match rule {
            Threshold::Fixed(value) => return Limit::Fixed(value),
            Threshold::Quantile(rule) | Threshold::Pot(rule) => rule.windows,
        };
        Limit::Learned {
            rule,
            needed,
            state: Calibrating::new(rule),
        }
    }

    /// The threshold, once it is known.
    pub(crate) fn value(&self) -> Option<f64> {
        match self {
            Limit::Fixed(value) => Some(*value),
            Limit::Learned { state, .. } => state.threshold,
        }
    }

    /// How far it is; `None` where the threshold is known.
    pub(crate) fn progress(&self) -> Option<Progress> {
        match self {
            Limit::Learned { needed, state, .. } if state.threshold.is_none() => Some(Progress {
                windows: state.windows,
                needed: *needed,
            }),
            _ => None,
        }
    }

    /// Takes the score of one window; gives the threshold where that was the last one needed.
    pub(crate) fn learn(&mut self, score: f64) -> Option<f64> {
        let Limit::Learned {
            rule,
            needed,
            state,
        } = self
        else {
            return None;
        };
        if state.threshold.is_some() {
            return None;
        }
        state.windows += 1;
        state.tail.push(score);
        if state.windows < *needed {
            return None;
        }
        // A threshold must be above zero: ratios are told in terms of it.
        let found = state.find(*rule).max(f64::MIN_POSITIVE);
        state.threshold = Some(found);
        state.tail.clear();
        Some(found)
    }

    /// Forgets what was learned.
    pub(crate) fn restart(&mut self) {
        if let Limit::Learned { rule, state, .. } = self {
            *state = Calibrating::new(*rule);
        }
    }

    /// What is kept over restarts.
    pub(crate) fn state(&self) -> Option<&Calibrating> {
        match self {
            Limit::Fixed(_) => None,
            Limit::Learned { state, .. } => Some(state),
        }
    }

    /// Goes on from what was kept, where that fits.
    pub(crate) fn restore(&mut self, kept: Calibrating) -> bool {
        let fits = match self {
            Limit::Fixed(_) => false,
            Limit::Learned { needed, state, .. } => {
                let is_whole = kept.windows <= *needed && kept.tail.fits(&state.tail, kept.windows);
                let is_known = |threshold: f64| threshold.is_finite() && threshold > 0.0;
                match kept.threshold {
                    Some(threshold) => is_known(threshold),
                    None => is_whole,
                }
            }
        };
        if let (true, Limit::Learned { state, .. }) = (fits, self) {
            *state = kept;
        }
        fits
    }
}

impl Calibrating {
    fn new(rule: Threshold) -> Self {
        let room = match rule {
            Threshold::Fixed(_) => 0,
            Threshold::Quantile(rule) => {
                rule.windows - tail::place(rule.q, rule.windows).floor() as usize
            }
            // One more than the peaks: it is what they lie above.
            Threshold::Pot(rule) => peaks(rule.windows) + 1,
        };
        Self {
            windows: 0,
            tail: Tail::new(room),
            threshold: None,
        }
    }

    fn find(&self, rule: Threshold) -> f64 {
        match rule {
            Threshold::Fixed(value) => value,
            Threshold::Quantile(rule) => self.tail.quantile(rule.q, self.windows) * rule.factor,
            Threshold::Pot(rule) => {
                let largest = self.tail.largest();
                let peaks = peaks(self.windows).min(largest.len().saturating_sub(1));
                let base = largest.get(peaks).copied().unwrap_or(0.0);
                let excesses: Vec<f64> =
                    largest[..peaks].iter().map(|score| score - base).collect();
                let above = pot::quantile(&excesses, (1.0 - rule.q) * self.windows as f64);
                (base + above) * rule.factor
            }
        }
    }
}

/// How many of so many scores are peaks.
fn peaks(windows: usize) -> usize {
    ((windows as f64 * PEAKS_SHARE) as usize).clamp(1, windows.max(1))
}

#[cfg(test)]
mod tests;
