//! The time in which a promoted version must prove itself, and what takes it back.

use std::collections::VecDeque;
use std::time::Duration;

use millrace_inference::Output;
use millrace_tags::{EventState, Moment};

use super::roles::is_failure;

/// Of the newest windows so many are looked at, and so many may be slow: one can be slow because of the machine.
const WINDOWS_SEEN: usize = 10;
const WINDOWS_SLOW: usize = 3;

/// What a version on trial is held to: keys of `[[model]]`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// How long it is on trial; zero: not at all.
    pub(crate) trial: Duration,
    /// Processor time of one window.
    pub(crate) window_budget: Duration,
    /// Events that it may begin meanwhile.
    pub(crate) events: u64,
}

/// A trial that goes on.
pub(super) struct Trial {
    bounds: Bounds,
    pub(super) until: Moment,
    slow: VecDeque<bool>,
    events: u64,
}

impl Trial {
    pub(super) fn new(bounds: Bounds, now: Moment) -> Self {
        Self {
            bounds,
            until: now + bounds.trial,
            slow: VecDeque::new(),
            events: 0,
        }
    }

    /// Why the version is taken back for what it says, if it is.
    pub(super) fn judge(&mut self, output: &Output) -> Option<String> {
        match output {
            Output::NotScored { reason, .. } if is_failure(reason) => Some(reason.to_string()),
            Output::Event(event) if event.state == EventState::Begin => {
                self.events += 1;
                (self.events > self.bounds.events).then(|| {
                    format!(
                        "it began {} events within its trial; trial_events is {}",
                        self.events, self.bounds.events
                    )
                })
            }
            _ => None,
        }
    }

    /// Why the version is taken back for what a window took, if it is.
    pub(super) fn time(&mut self, spent: Duration) -> Option<String> {
        if self.slow.len() == WINDOWS_SEEN {
            self.slow.pop_front();
        }
        self.slow.push_back(spent > self.bounds.window_budget);
        let slow = self.slow.iter().filter(|slow| **slow).count();
        (slow >= WINDOWS_SLOW).then(|| {
            format!(
                "{slow} of its newest {} windows took longer than window_budget, {} ms; the newest took {} ms",
                self.slow.len(),
                self.bounds.window_budget.as_millis(),
                spent.as_millis()
            )
        })
    }
}
