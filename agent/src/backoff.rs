//! Growing, jittered pauses between attempts.

use std::time::Duration;

/// How long to wait before the next attempt. Full jitter: gateways that lost the same device or core at
/// the same time do not come back at the same time.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    first: Duration,
    longest: Duration,
    refused: Duration,
    current: Duration,
}

impl Backoff {
    /// For devices: a rebooted one is back within seconds, a dead one is asked twice a minute.
    pub(crate) fn for_devices() -> Self {
        Self::new(
            Duration::from_millis(500),
            Duration::from_secs(30),
            Duration::from_secs(120),
        )
    }

    fn new(first: Duration, longest: Duration, refused: Duration) -> Self {
        Self {
            first,
            longest,
            refused,
            current: first,
        }
    }

    /// The pause after a failure: between half and all of a span that doubles each time.
    pub(crate) fn next(&mut self) -> Duration {
        let span = self.current;
        self.current = (span * 2).min(self.longest);
        span.mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    /// The pause after a refusal, which only a person can end.
    pub(crate) fn next_refused(&self) -> Duration {
        self.refused.mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    /// The other side works: the next failure starts from the shortest pause.
    pub(crate) fn reset(&mut self) {
        self.current = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_longest_and_start_again() {
        let mut backoff = Backoff::for_devices();
        for _ in 0..10 {
            backoff.next();
        }
        let pause = backoff.next();
        assert!(
            pause >= Duration::from_secs(15) && pause <= Duration::from_secs(30),
            "{pause:?}"
        );
        backoff.reset();
        assert!(backoff.next() <= Duration::from_millis(500));
    }
}
