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
pub const FIRST_SPREAD_DEFAULT: Duration = Duration::from_secs(10);
/// A core that knows us will soon have something.
const PENDING_PAUSE: Duration = Duration::from_secs(30);
/// However soon it says.
const PENDING_SHORTEST: Duration = Duration::from_secs(1);
/// While somebody may be standing beside the machine, adding it to the core.
const DENIED_FIRST: Duration = Duration::from_secs(30);
/// Nobody is; it is asked for ever, but slowly.
const DENIED_LONGEST: Duration = Duration::from_secs(600);
/// The first pause after a network error.
const TRANSIENT_FIRST: Duration = Duration::from_secs(2);
/// A core that is down for a day is still found within minutes.
const TRANSIENT_LONGEST: Duration = Duration::from_secs(300);

/// Where in the spread of first requests a gateway comes, 0..1: by its name, so that a plant that loses power again
/// and again sees the same even spread each time, and no two gateways draw alike by chance of a common seed.
pub fn first_draw(external_id: &str) -> f64 {
    let digest = ring::digest::digest(&ring::digest::SHA256, external_id.as_bytes());
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&digest.as_ref()[..8]);
    u64::from_be_bytes(bytes) as f64 / u64::MAX as f64
}

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

    /// How long to wait before the next attempt; `None`: there is an enrolment, ask no more. Never less than the
    /// core asks for by `retry_after`; `draw` is uniform in 0..1.
    pub fn after(
        &mut self,
        outcome: Outcome,
        retry_after: Option<Duration>,
        draw: f64,
    ) -> Option<Duration> {
        let pause = self.own(outcome, draw)?;
        // A fleet that was sent away at one moment must not come back at one moment.
        let asked = retry_after.map(|asked| asked.mul_f64(1.0 + 0.2 * draw));
        // One that knows us and says when it will be ready is asked then, also sooner than we would.
        match (outcome, asked) {
            (Outcome::Pending, Some(asked)) => Some(asked.max(PENDING_SHORTEST)),
            (_, asked) => Some(pause.max(asked.unwrap_or_default())),
        }
    }

    fn own(&mut self, outcome: Outcome, draw: f64) -> Option<Duration> {
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
        cadence.after(outcome, None, draw).unwrap().as_secs()
    }

    #[test]
    fn ready_asks_no_more() {
        assert_eq!(Cadence::new().after(Outcome::Ready, None, 0.5), None);
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
            cadence.after(Outcome::Transient, None, 1.0);
        }
        assert_eq!(seconds(&mut cadence, Outcome::Transient, 1.0), 300);
        assert_eq!(seconds(&mut cadence, Outcome::Denied, 0.5), 30);
        assert_eq!(seconds(&mut cadence, Outcome::Transient, 1.0), 2);
    }

    #[test]
    fn jitter_spreads_a_fleet_and_never_spins() {
        let mut cadence = Cadence::new();
        assert!(
            cadence.after(Outcome::Transient, None, 0.0).unwrap() >= Duration::from_millis(500)
        );
        let mut cadence = Cadence::new();
        let early = cadence.after(Outcome::Pending, None, 0.0).unwrap();
        let late = cadence.after(Outcome::Pending, None, 1.0).unwrap();
        assert_eq!((early.as_secs(), late.as_secs()), (24, 36));
    }

    #[test]
    fn what_the_core_asks_for_is_obeyed_and_spread() {
        let minutes = |n: u64| Some(Duration::from_secs(60 * n));
        let after = |outcome, asked, draw| {
            Cadence::new()
                .after(outcome, asked, draw)
                .unwrap()
                .as_secs()
        };
        assert_eq!(after(Outcome::Pending, minutes(5), 0.0), 300);
        assert_eq!(after(Outcome::Pending, minutes(5), 1.0), 360);
        assert_eq!(after(Outcome::Transient, minutes(5), 0.5), 330);
        assert_eq!(
            after(Outcome::Denied, Some(Duration::from_secs(1)), 0.5),
            30
        );
        // One that is about to be ready is not kept waiting for our own rhythm, and never hammered.
        assert_eq!(
            after(Outcome::Pending, Some(Duration::from_secs(3)), 0.0),
            3
        );
        assert_eq!(after(Outcome::Pending, Some(Duration::ZERO), 0.0), 1);
    }

    #[test]
    fn names_spread_a_fleet_evenly() {
        let mut draws: Vec<f64> = (0..1000).map(|n| first_draw(&format!("gw-{n}"))).collect();
        assert_eq!(first_draw("gw-7"), first_draw("gw-7"));
        draws.sort_by(f64::total_cmp);
        for (n, draw) in draws.iter().enumerate() {
            assert!((draw - n as f64 / 1000.0).abs() < 0.06, "{n}: {draw}");
        }
    }
}
