//! How far a server's clock is off ours.

use std::time::Duration;

use opcua::types::DateTime;

/// Less is the ordinary difference between machines that each ask their own time server.
const OFF_MIN: Duration = Duration::from_secs(1);

/// What to say of a clock that showed `theirs` when ours showed `ours`, at the end of an answer that took so long; `None` where it
/// may be right.
pub(super) fn off(theirs: &DateTime, ours: &DateTime, took: Duration) -> Option<String> {
    // It was read at some time while we waited: half of that is what we may be wrong by.
    let half = i64::try_from(took.as_nanos() / 200).unwrap_or(i64::MAX);
    let ahead = theirs
        .ticks()
        .saturating_sub(ours.ticks().saturating_sub(half));
    let by = Duration::from_nanos(ahead.unsigned_abs().saturating_mul(100));
    let side = if ahead > 0 { "ahead of" } else { "behind" };
    (by > OFF_MIN + took / 2).then(|| {
        format!(
            "the server's clock is {} {side} the gateway's: source times are its own, and are kept as they are",
            shown(by)
        )
    })
}

fn shown(by: Duration) -> String {
    let s = by.as_secs();
    match s {
        0..60 => format!("{:.1} s", by.as_secs_f64()),
        60..3600 => format!("{} min {} s", s / 60, s % 60),
        3600..86_400 => format!("{} h {} min", s / 3600, s % 3600 / 60),
        _ => format!("{} days {} h", s / 86_400, s % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(ahead_ms: i64, took_ms: u64) -> Option<String> {
        let ours = DateTime::ymd_hms(2026, 11, 21, 7, 30, 15);
        let theirs = DateTime::from(ours.ticks() + ahead_ms * 10_000);
        off(&theirs, &ours, Duration::from_millis(took_ms))
    }

    #[test]
    fn a_clock_that_is_off_is_told_with_its_side() {
        for (ahead_ms, text) in [
            (2_400, "2.4 s ahead of"),
            (-61_000, "1 min 1 s behind"),
            (7_380_000, "2 h 3 min ahead of"),
            (-90_000_000, "1 days 1 h behind"),
        ] {
            let said = said(ahead_ms, 0).expect(text);
            assert!(said.contains(text), "{said}");
        }
    }

    #[test]
    fn what_the_answer_took_is_no_difference() {
        assert_eq!(said(900, 0), None);
        assert_eq!(said(-3_900, 6_000), None);
        assert!(said(-9_000, 6_000).is_some());
    }
}
