//! Tells systemd that the agent is alive, where the unit asks for it (`WatchdogSec`).
//!
//! A beat proves two things: the main loop turns, and a worker of the runtime takes up a task, so
//! pollers and uplinks can move, too. A device, a core or a disk that is in trouble does not stop the
//! beats: a restart would not heal it.

use std::time::Duration;

use tokio::time::{Instant, Interval, MissedTickBehavior};

/// Twice as often as systemd asks for, as its manual says.
const BEATS_PER_LIMIT: u32 = 2;

/// Stopping and starting everything: models are built in 20 s each, a damaged store is opened in some more.
/// What takes longer hangs.
const WORK_MAX: Duration = Duration::from_secs(300);

/// The first opening of a store may have to read all of it, from slow flash.
const OPENING_MAX: Duration = Duration::from_secs(3600);

/// The beat, or nothing where nobody listens.
pub(super) struct Watchdog {
    beats: Option<Interval>,
}

impl Watchdog {
    /// As systemd asks for it in the environment.
    pub(super) fn new() -> Self {
        let mut limit_us = 0;
        let asked = sd_notify::watchdog_enabled(false, &mut limit_us) && limit_us > 0;
        Self {
            beats: asked.then(|| beats(Duration::from_micros(limit_us) / BEATS_PER_LIMIT)),
        }
    }

    /// Waits for the next beat and makes it. For ever where nobody listens.
    ///
    /// # Cancel safety
    /// A beat that was dropped is made up for by the next one.
    pub(super) async fn beat(&mut self) {
        let Some(beats) = &mut self.beats else {
            return std::future::pending().await;
        };
        beats.tick().await;
        if tokio::spawn(async {}).await.is_ok() {
            super::run::notify(&[sd_notify::NotifyState::Watchdog]);
        }
    }

    /// Goes on beating while the main loop does something long, but not for ever.
    pub(super) async fn during<T>(&mut self, work: impl Future<Output = T>) -> T {
        self.within(WORK_MAX, work).await
    }

    /// The same while the store is opened for the first time.
    pub(super) async fn during_opening<T>(&mut self, work: impl Future<Output = T>) -> T {
        self.within(OPENING_MAX, work).await
    }

    async fn within<T>(&mut self, limit: Duration, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        let hangs_at = Instant::now() + limit;
        loop {
            tokio::select! {
                done = &mut work => return done,
                () = self.beat(), if Instant::now() < hangs_at => {}
            }
        }
    }
}

fn beats(every: Duration) -> Interval {
    let mut beats = tokio::time::interval(every.max(Duration::from_millis(1)));
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    beats
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nobody_listens_and_work_goes_on() {
        let mut watchdog = Watchdog { beats: None };
        assert_eq!(watchdog.during(async { 7 }).await, 7);
    }

    #[tokio::test]
    async fn beats_while_work_goes_on() {
        let mut watchdog = Watchdog {
            beats: Some(beats(Duration::from_millis(1))),
        };
        watchdog
            .during(tokio::time::sleep(Duration::from_millis(20)))
            .await;
        watchdog.beat().await;
    }
}
