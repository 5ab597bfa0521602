//! How fast a log grows on the disk: the basis of how long its room will last.

use std::collections::VecDeque;
use std::time::Duration;

use millrace_tags::Moment;

/// The rate is that of the last hour.
const SPAN: Duration = Duration::from_secs(3600);

/// A point of the curve stands for this long at least.
const STEP: Duration = Duration::from_secs(30);

/// Before this, the first commits and the new epoch's own pages would say more than the data.
const SPAN_MIN: Duration = Duration::from_secs(60);

/// The growth of a log: what was added to it, whatever was removed meanwhile.
#[derive(Debug, Default)]
pub(crate) struct Growth {
    /// What the log took at the last look; `None` before the first.
    last: Option<u64>,
    added: u64,
    /// When, and what had been added by then.
    points: VecDeque<(Moment, u64)>,
}

impl Growth {
    /// Takes note of what the log takes on the disk now.
    pub(crate) fn note(&mut self, now: Moment, bytes: u64) {
        // What is there at the start was not added by now.
        let before = self.last.replace(bytes).unwrap_or(bytes);
        self.added += bytes.saturating_sub(before);
        let len = self.points.len();
        let recent = len >= 2 && now.since(self.points[len - 2].0) < STEP;
        if recent {
            self.points[len - 1] = (now, self.added);
        } else {
            self.points.push_back((now, self.added));
        }
        while self.points.len() > 2 && now.since(self.points[1].0) >= SPAN {
            self.points.pop_front();
        }
    }

    /// Bytes an hour over the last hour, or since the start; `None` until there is enough to go by.
    pub(crate) fn bytes_per_hour(&self) -> Option<u64> {
        let (from, to) = (self.points.front()?, self.points.back()?);
        let span = to.0.since(from.0);
        if span < SPAN_MIN {
            return None;
        }
        let rate = (to.1 - from.1) as f64 / span.as_secs_f64() * 3600.0;
        Some(rate.round() as u64)
    }
}

/// How long `room` lasts at a rate; `None` where nothing grows, or nobody knows how fast. No room lasts no time
/// at any rate.
pub(crate) fn runway(room: u64, bytes_per_hour: Option<u64>) -> Option<Duration> {
    if room == 0 {
        return Some(Duration::ZERO);
    }
    let rate = bytes_per_hour.filter(|rate| *rate > 0)?;
    Some(Duration::from_secs_f64(room as f64 / rate as f64 * 3600.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment(0) + Duration::from_secs(seconds)
    }

    #[test]
    fn the_rate_is_that_of_the_last_hour_and_removal_does_not_lower_it() {
        let mut growth = Growth::default();
        // 100 bytes a second on top of what was there; an epoch goes now and then.
        let mut bytes = 1_000_000;
        for second in 0..4000 {
            growth.note(at(second), bytes);
            if second == 59 {
                assert_eq!(growth.bytes_per_hour(), None, "too early");
            }
            bytes += 100;
            if second % 1000 == 999 {
                growth.note(at(second), bytes);
                bytes -= 50_000;
                growth.note(at(second), bytes);
            }
        }
        let near = |growth: &Growth, expected: u64| {
            let rate = growth.bytes_per_hour().unwrap();
            assert!(rate.abs_diff(expected) < expected / 100, "{rate}");
        };
        near(&growth, 360_000);
        assert!(growth.points.len() < 130, "{}", growth.points.len());
        // The rate doubles, and an hour later the old one is forgotten.
        for second in 4000..8000 {
            growth.note(at(second), bytes);
            bytes += 200;
        }
        near(&growth, 720_000);
        for second in (8000..16_000).step_by(5) {
            growth.note(at(second), bytes);
        }
        assert_eq!(growth.bytes_per_hour(), Some(0));
    }

    #[test]
    fn room_over_rate() {
        assert_eq!(runway(7200, Some(3600)), Some(Duration::from_secs(7200)));
        assert_eq!(runway(7200, Some(0)), None);
        assert_eq!(runway(7200, None), None);
        assert_eq!(runway(0, None), Some(Duration::ZERO));
    }
}
