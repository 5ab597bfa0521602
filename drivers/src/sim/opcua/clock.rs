//! The server's clock, where it is wrong.

use opcua::types::DateTime;

use super::TICKS_PER_MS;

/// The time of a clock that is so far ahead.
pub(super) fn now(ahead_ms: i64) -> DateTime {
    match ahead_ms {
        0 => DateTime::now(),
        ahead => DateTime::from(DateTime::now().ticks() + ahead.saturating_mul(TICKS_PER_MS)),
    }
}
