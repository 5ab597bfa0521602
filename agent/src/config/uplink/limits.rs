//! What may be sent in a second, and in a day.

use std::time::Duration;

use millrace_uplink::profile::Rates;

use super::super::section::Section;
use super::{KeyDoc, Kind};

/// More in a second than any link carries.
const RATE_MAX: i64 = 1_000_000_000;

const fn rate(key: &'static str, about: &'static str) -> KeyDoc {
    let kind = Kind::Integer {
        min: 1,
        max: RATE_MAX,
    };
    KeyDoc::new(key, kind, about).means("what the profile knows of the core")
}

pub(super) const MESSAGES: KeyDoc = rate(
    "messages_per_second",
    "Messages that the core takes in a second, on average; two seconds' worth may go at once. The lower of this and the \
     profile's limit holds; so for the next two.",
);
pub(super) const BYTES: KeyDoc = rate(
    "bytes_per_second",
    "Bytes that the core, or the link, takes in a second.",
);
pub(super) const POINTS: KeyDoc = rate(
    "points_per_second",
    "Samples and events that the core takes in a second.",
);

pub(super) const PER_DAY: KeyDoc = KeyDoc::new(
    "metered_bytes_per_day",
    Kind::Size {
        min: 64 << 10,
        max: 1 << 50,
    },
    "The link is paid by the byte: so much a day (UTC), both directions, headers estimated. Samples get nine tenths of it, hour \
     by hour; then they wait in the store. Alarms get all of it. Kept over restarts, shown by `status`. Payloads \
     are compressed with zstd where the profile allows and `compression` says nothing.",
);
pub(super) const BATCH: KeyDoc = KeyDoc::new(
    "metered_batch_interval",
    Kind::Duration {
        min: Duration::from_secs(10),
        max: Duration::from_secs(24 * 3600),
    },
    "Samples are sent together, so long after the last ones went; alarms at once. Larger messages cost a metered link less.",
);

/// A link that is paid by the byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Metered {
    /// What a day has.
    pub(crate) bytes_per_day: Option<u64>,
    /// From one batch of samples to the next.
    pub(crate) batch_interval: Option<Duration>,
}

/// Reads the limits of a second. `None`: a problem, already reported.
pub(super) fn rates(section: &Section<'_>) -> Option<Rates> {
    let read = |key: &str| match section.has(key) {
        true => section.integer::<u64>(key).map(Some),
        false => Some(None),
    };
    Some(Rates {
        messages: read("messages_per_second")?,
        bytes: read("bytes_per_second")?,
        points: read("points_per_second")?,
    })
}

/// Reads what a day has. Outer `None`: a problem, already reported.
pub(super) fn metered(section: &Section<'_>) -> Option<Option<Metered>> {
    let (day, batch) = ("metered_bytes_per_day", "metered_batch_interval");
    let bytes_per_day = match section.has(day) {
        true => Some(section.size(day)?),
        false => None,
    };
    let batch_interval = match section.has(batch) {
        true => Some(section.duration(batch)?),
        false => None,
    };
    let metered = bytes_per_day.is_some() || batch_interval.is_some();
    Some(metered.then_some(Metered {
        bytes_per_day,
        batch_interval,
    }))
}
