//! When to ask for an enrolment again. Pure: time and chance come from the caller.

use std::time::Duration;

/// What the last attempt brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// An enrolment.
    Ready,
    /// The core knows us and has nothing for us yet.
    Pending,
    /// The core does not know us, or its answer is unusable: a person has to act.
    Denied,
    /// The core or the network is down.
    Transient,
}

/// A fleet that was switched on together spreads its first requests over this.
const FIRST_SPREAD: Duration = Duration::from_secs(10);
/// A core that knows us will soon have something.
const PENDING_PAUSE: Duration = Duration::from_secs(30);
/// While somebody may be standing beside the machine, adding it to the core.
const DENIED_FIRST: Duration = Duration::from_secs(30);
/// Nobody is; it is asked for ever, but slowly.
const DENIED_LONGEST: Duration = Duration::from_secs(600);
/// The first pause after a network error.
const TRANSIENT_FIRST: Duration = Duration::from_secs(2);
/// A core that is down for a day is still found within minutes.
const TRANSIENT_LONGEST: Duration = Duration::from_secs(300);

/// Counts failures in a row and says how long to wait.
#[derive(Debug, Clone, Default)]
pub struct Cadence {
    last: Option<Outcome>,
    in_a_row: u32,
}

impl Cadence {
    /// Nothing was asked yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// How long to wait before the first attempt after a start; `draw` is uniform in 0..1. Not for an
    /// attempt that a person asked for.
    pub fn first(&self, draw: f64) -> Duration {
        FIRST_SPREAD.mul_f64(draw)
    }

    /// How long to wait before the next attempt; `None`: there is an enrolment, ask no more. `draw` is
    /// uniform in 0..1.
    pub fn after(&mut self, outcome: Outcome, draw: f64) -> Option<Duration> {
        if self.last == Some(outcome) {
            self.in_a_row = self.in_a_row.saturating_add(1);
        } else {
            self.last = Some(outcome);
            self.in_a_row = 0;
        }
        // A person's patience needs a regular rhythm; only network errors get full jitter.
        let regular = 0.8 + 0.4 * draw;
        match outcome {
            Outcome::Ready => None,
            Outcome::Pending => Some(PENDING_PAUSE.mul_f64(regular)),
            Outcome::Denied => Some(self.doubled(DENIED_FIRST, DENIED_LONGEST).mul_f64(regular)),
            Outcome::Transient => {
                let bound = self.doubled(TRANSIENT_FIRST, TRANSIENT_LONGEST);
                // Never a busy loop, whatever the dice say.
                Some(bound.mul_f64(draw).max(TRANSIENT_FIRST / 4))
            }
        }
    }

    fn doubled(&self, first: Duration, longest: Duration) -> Duration {
        (first * (1 << self.in_a_row.min(16))).min(longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(cadence: &mut Cadence, outcome: Outcome, draw: f64) -> u64 {
        cadence.after(outcome, draw).unwrap().as_secs()
    }

    #[test]
    fn ready_asks_no_more() {
        assert_eq!(Cadence::new().after(Outcome::Ready, 0.5), None);
    }

    #[test]
    fn denied_slows_down_and_never_stops() {
        let mut cadence = Cadence::new();
        let pauses: Vec<u64> = (0..20)
            .map(|_| seconds(&mut cadence, Outcome::Denied, 0.5))
            .collect();
        assert_eq!(pauses[..5], [30, 60, 120, 240, 480]);
        assert!(pauses[5..].iter().all(|s| *s == 600));
    }

    #[test]
    fn another_outcome_begins_anew() {
        let mut cadence = Cadence::new();
        for _ in 0..10 {
            cadence.after(Outcome::Transient, 1.0);
        }
        assert_eq!(seconds(&mut cadence, Outcome::Transient, 1.0), 300);
        assert_eq!(seconds(&mut cadence, Outcome::Denied, 0.5), 30);
        assert_eq!(seconds(&mut cadence, Outcome::Transient, 1.0), 2);
    }

    #[test]
    fn jitter_spreads_a_fleet_and_never_spins() {
        let mut cadence = Cadence::new();
        assert!(cadence.after(Outcome::Transient, 0.0).unwrap() >= Duration::from_millis(500));
        assert_eq!(cadence.first(0.0), Duration::ZERO);
        assert_eq!(cadence.first(0.9).as_secs(), 9);
        let mut cadence = Cadence::new();
        let early = cadence.after(Outcome::Pending, 0.0).unwrap();
        let late = cadence.after(Outcome::Pending, 1.0).unwrap();
        assert_eq!((early.as_secs(), late.as_secs()), (24, 36));
    }
}
