//! A link that is paid by the byte: a budget a day, samples in batches, alarms at once.
//!
//! Of a day's budget a tenth is kept for alarms. What is left is earned hour by hour, so that a backlog does not use up in the
//! morning what the evening needs; samples wait while it is spent, alarms until the whole budget is. Days are those of UTC.
//! What counts is what the session moves in either direction, with an allowance for the headers of TCP and IP, for TLS and for connecting:
//! an estimate, a little too high rather than too low.
//!
//! What was used is kept in a small file, so that a restart does not begin a new budget.

use std::path::PathBuf;
use std::time::Duration;

use millrace_tags::{Moment, Timestamp};

use crate::config::Metered as Settings;
use crate::durable;

const HEAD: &str = "millrace-metered 1";
const DAY_S: i64 = 24 * 3600;
/// Samples may use so much of the budget.
const FOR_SAMPLES: f64 = 0.9;
/// What is not written yet is lost by a power cut: so much of the budget at most.
const UNSAVED_SHARE: u64 = 200;

/// What may be sent now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum May {
    /// Everything.
    Everything,
    /// Alarms, and numbers that will never come.
    Alarms,
    /// Nothing.
    Nothing,
}

impl May {
    /// What it is called in the status.
    pub(super) fn word(self) -> &'static str {
        match self {
            May::Everything => "everything",
            May::Alarms => "alarms",
            May::Nothing => "nothing",
        }
    }
}

/// The meter of one uplink.
#[derive(Debug)]
pub(super) struct Meter {
    settings: Settings,
    file: PathBuf,
    /// Days since 1970; `None` before the clock is known.
    day: Option<i64>,
    began: Moment,
    used: u64,
    saved: u64,
    /// The session's counter at the last look.
    seen: u64,
    /// The next batch begins then; `None`: one is under way.
    batch: Option<Moment>,
    /// Since when there is nothing to send.
    idle: Option<Moment>,
    /// When something was sent last.
    last: Moment,
}

impl Meter {
    /// Goes on where an earlier run stopped.
    pub(super) fn open(settings: Settings, file: PathBuf, seen: u64, now: Moment) -> Self {
        let kept = std::fs::read_to_string(&file)
            .ok()
            .and_then(|text| read(&text));
        let (day, used) = kept.unwrap_or((None, 0));
        Self {
            settings,
            file,
            day,
            began: now,
            used,
            saved: used,
            seen,
            batch: None,
            idle: None,
            last: now,
        }
    }

    /// What may be sent, when the session has moved `traffic` bytes in all.
    pub(super) fn may(&mut self, traffic: u64, now: Moment, utc: Option<Timestamp>) -> May {
        self.count(traffic, utc);
        let Some(budget) = self.settings.bytes_per_day else {
            return self.by_batch(now);
        };
        if self.used >= budget {
            return May::Nothing;
        }
        if self.used >= self.earned(budget, now, utc) {
            return May::Alarms;
        }
        self.by_batch(now)
    }

    fn count(&mut self, traffic: u64, utc: Option<Timestamp>) {
        self.used += traffic.saturating_sub(self.seen);
        self.seen = traffic;
        if let Some(today) = utc.map(|utc| utc.0.div_euclid(1_000_000_000).div_euclid(DAY_S)) {
            // Never back: a clock that is set back brings no second budget.
            if self.day.is_some_and(|day| today > day) {
                self.used = 0;
            }
            if self.day.is_none_or(|day| today > day) {
                self.day = Some(today);
                self.save();
            }
        }
        let step = self.settings.bytes_per_day.unwrap_or(u64::MAX) / UNSAVED_SHARE;
        if self.used > self.saved.saturating_add(step) {
            self.save();
        }
    }

    /// What samples may have used by now: an hour's share ahead.
    fn earned(&self, budget: u64, now: Moment, utc: Option<Timestamp>) -> u64 {
        let of_day = match utc {
            Some(utc) => utc.0.div_euclid(1_000_000_000).rem_euclid(DAY_S) as f64,
            None => now.since(self.began).as_secs_f64(),
        };
        let share = ((of_day + 3600.0) / DAY_S as f64).min(1.0);
        (budget as f64 * FOR_SAMPLES * share) as u64
    }

    fn by_batch(&mut self, now: Moment) -> May {
        match self.batch {
            Some(next) if now < next => May::Alarms,
            _ => {
                self.batch = None;
                May::Everything
            }
        }
    }

    /// Something was sent.
    pub(super) fn sent(&mut self, now: Moment) {
        self.idle = None;
        self.last = now;
    }

    /// There is nothing to send. Where that lasts, the batch ends, and the next is an interval away: what is read from the
    /// disk takes a moment.
    pub(super) fn nothing(&mut self, now: Moment) {
        let (None, Some(interval)) = (self.batch, self.settings.batch_interval) else {
            return;
        };
        let idle = *self.idle.get_or_insert(now);
        if now >= idle + BATCH_IDLE {
            self.idle = None;
            self.batch = Some(self.last.max(idle) + interval);
        }
    }

    /// When to look again, where samples wait.
    pub(super) fn wait(&self, now: Moment) -> Duration {
        match self.batch {
            Some(next) => next.since(now).min(LOOK),
            None if self.idle.is_some() => BATCH_IDLE,
            None => LOOK,
        }
    }

    /// When the next batch of samples begins, from now.
    pub(super) fn next_batch(&self, now: Moment) -> Option<Duration> {
        self.batch.map(|next| next.since(now))
    }

    /// Bytes used today, and what the day has.
    pub(super) fn used(&self) -> (u64, Option<u64>) {
        (self.used, self.settings.bytes_per_day)
    }

    fn save(&mut self) {
        let day = self.day.map_or("unset".to_owned(), |day| day.to_string());
        let text = format!("{HEAD}\n{day} {}\n", self.used);
        match durable::write(&self.file, text.as_bytes(), 0o644) {
            Ok(()) => self.saved = self.used,
            Err(error) => {
                tracing::warn!(file = %self.file.display(), %error, "the used budget cannot be written down");
            }
        }
    }
}

/// A batch has ended when there was nothing more for so long.
const BATCH_IDLE: Duration = Duration::from_secs(2);
/// Budgets are earned while nothing happens.
const LOOK: Duration = Duration::from_secs(60);

impl Drop for Meter {
    fn drop(&mut self) {
        if self.used != self.saved {
            self.save();
        }
    }
}

/// Day and use of a kept file; of a newer one, or of a damaged one, none.
fn read(text: &str) -> Option<(Option<i64>, u64)> {
    let mut lines = text.lines();
    if lines.next() != Some(HEAD) {
        return None;
    }
    let (day, used) = lines.next()?.split_once(' ')?;
    Some((day.parse().ok(), used.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn utc(day: i64, hour: i64) -> Option<Timestamp> {
        Some(Timestamp((day * DAY_S + hour * 3600) * 1_000_000_000))
    }

    fn settings(bytes: Option<u64>, interval: Option<Duration>) -> Settings {
        Settings {
            bytes_per_day: bytes,
            batch_interval: interval,
        }
    }

    #[test]
    fn samples_have_what_the_day_has_earned_and_alarms_all_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("metered/cloud");
        let open = |seen| Meter::open(settings(Some(24_000), None), file.clone(), seen, Moment(0));
        let mut meter = open(0);
        let now = Moment(0);
        assert_eq!(meter.may(0, now, utc(1, 0)), May::Everything);
        assert_eq!(meter.may(899, now, utc(1, 0)), May::Everything);
        assert_eq!(
            meter.may(900, now, utc(1, 0)),
            May::Alarms,
            "an hour's share"
        );
        assert_eq!(meter.may(900, now, utc(1, 1)), May::Everything);
        assert_eq!(meter.may(21_600, now, utc(1, 23)), May::Alarms);
        drop(meter);
        let mut meter = open(50_000);
        assert_eq!(
            meter.may(52_399, now, utc(1, 23)),
            May::Alarms,
            "kept over a restart"
        );
        assert_eq!(meter.may(52_400, now, utc(1, 23)), May::Nothing);
        assert_eq!(meter.used(), (24_000, Some(24_000)));
        assert_eq!(meter.may(52_400, now, utc(0, 5)), May::Nothing, "set back");
        assert_eq!(meter.may(52_400, now, utc(2, 0)), May::Everything);
        assert_eq!(meter.used().0, 0);
    }

    #[test]
    fn without_a_clock_there_is_one_budget() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("cloud");
        let mut meter = Meter::open(settings(Some(24_000), None), file, 0, Moment(0));
        assert_eq!(meter.may(1_000, Moment(0), None), May::Alarms);
        assert_eq!(meter.may(1_000, Moment(0) + HOUR, None), May::Everything);
        assert_eq!(meter.may(24_000, Moment(0) + 48 * HOUR, None), May::Nothing);
        assert_eq!(
            meter.may(24_000, Moment(0), utc(9, 0)),
            May::Nothing,
            "the day becomes known"
        );
        assert_eq!(meter.may(24_000, Moment(0), utc(10, 0)), May::Everything);
    }

    #[test]
    fn batches_begin_an_interval_after_the_last_one_ended() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("cloud");
        let mut meter = Meter::open(settings(None, Some(HOUR)), file, 0, Moment(0));
        assert_eq!(meter.may(0, Moment(0), None), May::Everything);
        meter.sent(Moment(0));
        meter.nothing(Moment(0));
        assert_eq!(meter.wait(Moment(0)), BATCH_IDLE);
        assert_eq!(meter.may(0, Moment(0), None), May::Everything, "not yet");
        meter.sent(Moment(0));
        meter.nothing(Moment(0));
        let later = Moment(0) + BATCH_IDLE;
        meter.nothing(later);
        assert_eq!(meter.may(0, later, None), May::Alarms);
        assert_eq!(meter.wait(later), LOOK);
        assert_eq!(meter.next_batch(later), Some(HOUR - BATCH_IDLE));
        assert_eq!(meter.may(0, Moment(0) + HOUR, None), May::Everything);
    }

    #[test]
    fn a_damaged_file_is_no_budget() {
        assert_eq!(
            read("millrace-metered 1\n20000 12\n"),
            Some((Some(20_000), 12))
        );
        assert_eq!(read("millrace-metered 1\nunset 12\n"), Some((None, 12)));
        for bad in [
            "",
            "millrace-metered 2\n1 1\n",
            "millrace-metered 1\n",
            "millrace-metered 1\n1\n",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
