//! How many backlog messages may be under way: as many as the broker acknowledges without delay.
//!
//! The window grows by one for each round of it that is acknowledged as quickly as the best of the last
//! minute, and halves when a round is slower, or when the broker refuses. It stays between one message,
//! so that backlog is never starved for ever, and half of the in-flight window, which is live's own.

use std::time::Duration;

use tokio::time::Instant;

/// A round may take twice as long as the best acknowledgement, and this much more: below it, what delays
/// an ack is the scheduler of either machine and not a queue.
const LATENCY_SLACK: Duration = Duration::from_millis(5);

/// The best acknowledgement is remembered for one to two of these: routes and brokers change.
const BEST_KEPT: Duration = Duration::from_secs(30);

/// The backlog's window. It outlives connections: a broker that closes one has not become faster.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    window: usize,
    /// Backlog acks of this round.
    acks: usize,
    /// Acks of this round, of any lane: backlog must not slow live down either.
    samples: u32,
    sum: Duration,
    best: Best,
}

/// The shortest latency of the last one to two spans.
#[derive(Debug, Clone, Copy, Default)]
struct Best {
    since: Option<Instant>,
    now: Option<Duration>,
    before: Option<Duration>,
}

impl Best {
    fn add(&mut self, now: Instant, latency: Duration) {
        match self.since {
            Some(since) if now < since + BEST_KEPT => {}
            _ => {
                self.since = Some(now);
                self.before = self.now.take();
            }
        }
        self.now = Some(self.now.map_or(latency, |best| best.min(latency)));
    }

    fn get(&self) -> Option<Duration> {
        self.now.into_iter().chain(self.before).min()
    }
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            window: 1,
            acks: 0,
            samples: 0,
            sum: Duration::ZERO,
            best: Best::default(),
        }
    }
}

impl Pace {
    /// A window that is open from the start.
    #[cfg(test)]
    pub(super) fn open() -> Self {
        Self {
            window: usize::MAX,
            ..Self::default()
        }
    }

    /// Messages of backlog that may be under way, out of at most `half`.
    pub(super) fn window(&self, half: usize) -> usize {
        self.window.min(half).max(1)
    }

    /// A message was acknowledged after `latency`.
    pub(super) fn acked(&mut self, now: Instant, latency: Duration, backlog: bool, half: usize) {
        self.best.add(now, latency);
        self.samples += 1;
        self.sum += latency;
        self.acks += usize::from(backlog);
        if self.acks < self.window(half) {
            return;
        }
        let mean = self.sum / self.samples;
        let best = self.best.get().unwrap_or(mean);
        if mean <= best * 2 + LATENCY_SLACK {
            self.window = self.window(half).saturating_add(1).min(half.max(1));
            self.begin_round();
        } else {
            self.halve();
        }
    }

    /// The broker ended the connection while messages waited: with MQTT 3.1.1 that is how it says that its
    /// quota is used up.
    pub(super) fn refused(&mut self) {
        self.halve();
    }

    fn halve(&mut self) {
        self.window = (self.window / 2).max(1);
        self.begin_round();
    }

    fn begin_round(&mut self) {
        self.acks = 0;
        self.samples = 0;
        self.sum = Duration::ZERO;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALF: usize = 50;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// One round: as many backlog acks as the window asks for.
    fn round(pace: &mut Pace, now: &mut Instant, latency: Duration) {
        for _ in 0..pace.window(HALF) {
            *now += ms(1);
            pace.acked(*now, latency, true, HALF);
        }
    }

    #[test]
    fn grows_by_one_a_round_up_to_half_of_the_window() {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        for expected in 1..=HALF {
            assert_eq!(pace.window(HALF), expected);
            round(&mut pace, &mut now, ms(20));
        }
        round(&mut pace, &mut now, ms(20));
        assert_eq!(pace.window(HALF), HALF);
    }

    #[test]
    fn halves_when_acks_become_slow_and_recovers_when_they_do() {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        for _ in 0..20 {
            round(&mut pace, &mut now, ms(20));
        }
        assert_eq!(pace.window(HALF), 21);
        round(&mut pace, &mut now, ms(46));
        assert_eq!(pace.window(HALF), 10);
        round(&mut pace, &mut now, ms(44));
        assert_eq!(
            pace.window(HALF),
            11,
            "twice the best and the slack is well"
        );
    }

    #[test]
    fn slow_live_acks_slow_the_backlog_down() {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        for _ in 0..3 {
            round(&mut pace, &mut now, ms(10));
        }
        for _ in 0..40 {
            pace.acked(now, ms(60), false, HALF);
        }
        assert_eq!(pace.window(HALF), 4, "a round ends with backlog only");
        round(&mut pace, &mut now, ms(10));
        assert_eq!(pace.window(HALF), 2);
    }

    #[test]
    fn a_refusal_halves_and_one_message_always_remains() {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        for _ in 0..6 {
            round(&mut pace, &mut now, ms(10));
        }
        for expected in [3, 1, 1] {
            pace.refused();
            assert_eq!(pace.window(HALF), expected);
        }
        assert_eq!(pace.window(0), 1);
    }

    #[test]
    fn a_route_that_became_longer_is_accepted_in_the_end() {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        for _ in 0..10 {
            round(&mut pace, &mut now, ms(10));
        }
        for _ in 0..10 {
            round(&mut pace, &mut now, ms(100));
        }
        assert_eq!(pace.window(HALF), 1);
        now += BEST_KEPT;
        round(&mut pace, &mut now, ms(100));
        now += BEST_KEPT;
        for _ in 0..5 {
            round(&mut pace, &mut now, ms(100));
        }
        assert_eq!(pace.window(HALF), 6);
    }
}
