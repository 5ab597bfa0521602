//! How long to wait before connecting again.

use std::time::Duration;

/// Limits of the pauses between connection attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReconnectPolicy {
    /// Upper bound of the first pause; it doubles with each failure.
    pub first: Duration,
    /// Upper bound of every pause.
    pub longest: Duration,
    /// The pause after a refusal that only a person can lift: asking often may lock the account.
    pub refused: Duration,
    /// A connection counts as good after this long and one acknowledgement; only then do pauses begin short again.
    pub proven: Duration,
}

impl Default for ReconnectPolicy {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(500),
            longest: Duration::from_secs(60),
            refused: Duration::from_secs(300),
            proven: Duration::from_secs(30),
        }
    }
}

/// What the last attempt ended with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// No network, no broker, a broken connection.
    Transient,
    /// The broker will not have us.
    Refused,
}

/// Full-jitter exponential back-off: each pause is drawn between zero and a bound that doubles.
#[derive(Debug)]
pub(crate) struct Backoff {
    policy: ReconnectPolicy,
    failures: u32,
}

impl Backoff {
    pub(crate) fn new(policy: ReconnectPolicy) -> Self {
        Self {
            policy,
            failures: 0,
        }
    }

    /// The connection was good: the next pause is a short one.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }

    /// The pause after one more failure. `draw` is uniform in 0..1.
    pub(crate) fn pause(&mut self, failure: Failure, draw: f64) -> Duration {
        self.failures = self.failures.saturating_add(1);
        match failure {
            // Four fifths at least: a refusal is not tried again early, and a fleet still spreads.
            Failure::Refused => self.policy.refused.mul_f64(0.8 + 0.2 * draw),
            Failure::Transient => self.bound().mul_f64(draw),
        }
    }

    fn bound(&self) -> Duration {
        let doublings = self.failures.saturating_sub(1).min(16);
        (self.policy.first * (1u32 << doublings)).min(self.policy.longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_double_up_to_the_longest() {
        let mut backoff = Backoff::new(ReconnectPolicy::default());
        let bounds: Vec<u128> = (0..10)
            .map(|_| backoff.pause(Failure::Transient, 1.0).as_millis())
            .collect();
        assert_eq!(bounds[..4], [500, 1000, 2000, 4000]);
        assert_eq!(bounds[9], 60_000);
        assert_eq!(backoff.pause(Failure::Transient, 0.0), Duration::ZERO);
        backoff.reset();
        assert_eq!(backoff.pause(Failure::Transient, 1.0).as_millis(), 500);
    }

    #[test]
    fn never_overflows() {
        let mut backoff = Backoff::new(ReconnectPolicy::default());
        for _ in 0..10_000 {
            assert!(backoff.pause(Failure::Transient, 1.0) <= Duration::from_secs(60));
        }
    }

    #[test]
    fn refusals_wait_minutes() {
        let mut backoff = Backoff::new(ReconnectPolicy::default());
        assert_eq!(backoff.pause(Failure::Refused, 0.0).as_secs(), 240);
        assert_eq!(backoff.pause(Failure::Refused, 1.0).as_secs(), 300);
    }
}
