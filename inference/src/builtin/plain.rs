//! Detectors that learn nothing: what an input does is compared with what it may do.

use millrace_tags::Moment;

/// Rows in a row, up to the newest, that lie within `change` of each other, over all but one of the window's rows: above 1 where
/// they all do.
pub(super) fn stuck(rows: &[f64], change: f64) -> f64 {
    let (mut least, mut most) = (f64::INFINITY, f64::NEG_INFINITY);
    let same = rows.iter().rev().take_while(|row| {
        least = least.min(**row);
        most = most.max(**row);
        most - least <= change
    });
    same.count() as f64 / rows.len().saturating_sub(1).max(1) as f64
}

/// The change from the oldest row to the newest, per second.
pub(super) fn rate(rows: &[f64], times: &[Moment]) -> f64 {
    let (Some(first), Some(last)) = (rows.first(), rows.last()) else {
        return 0.0;
    };
    let (Some(from), Some(to)) = (times.first(), times.last()) else {
        return 0.0;
    };
    let seconds = to.since(*from).as_secs_f64();
    if seconds > 0.0 {
        (last - first).abs() / seconds
    } else {
        0.0
    }
}

/// How far the newest row is from the middle of its range: 1 at its ends.
pub(super) fn outside(rows: &[f64], least: f64, most: f64) -> f64 {
    let newest = rows.last().copied().unwrap_or_default();
    (newest - f64::midpoint(least, most)).abs() / ((most - least) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_stuck_when_all_rows_are_the_same() {
        assert!(stuck(&[1.0, 1.0, 1.0], 0.0) > 1.0);
        assert_eq!(stuck(&[2.0, 1.0, 1.0], 0.0), 1.0);
        assert_eq!(stuck(&[1.0, 1.0, 2.0], 0.0), 0.5);
        assert!(stuck(&[1.0, 1.1, 1.2], 0.25) > 1.0);
    }

    #[test]
    fn a_rate_is_that_of_the_whole_window() {
        let times = [Moment(0), Moment(1_000_000_000), Moment(4_000_000_000)];
        assert_eq!(rate(&[10.0, 99.0, 2.0], &times), 2.0);
        assert_eq!(rate(&[10.0], &times[..1]), 0.0);
    }

    #[test]
    fn a_range_ends_at_one() {
        assert_eq!(outside(&[99.0, 10.0], 0.0, 10.0), 1.0);
        assert_eq!(outside(&[-5.0], 0.0, 10.0), 2.0);
        assert_eq!(outside(&[5.0], 0.0, 10.0), 0.0);
    }
}
