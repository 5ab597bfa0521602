//! How much disk a configuration needs, and how it wears flash memory: a model of what the buffer does.
//!
//! The figures were measured with the buffer itself on simulated plant signals: what a sample of each
//! type takes where chunks are long, what a tag's column adds to each chunk, what a chunk and an epoch
//! add. Every value is taken to change all the time, so that the estimate is rather too high.

use std::time::Duration;

use millrace_tags::ValueType;
use serde::Serialize;

use super::units;

/// Tags of one kind.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Load {
    /// How many.
    pub(crate) tags: usize,
    /// From one sample to the next.
    pub(crate) interval: Duration,
    /// What they are worth.
    pub(crate) signal: Signal,
}

/// What a value costs depends on how much of it is noise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    /// Bits, and texts that seldom change.
    State,
    /// Integers, and integers that are scaled: noise in the last digit or two.
    Digits,
    /// Single precision as the device computes it: noise in every bit of the fraction.
    Single,
    /// Double precision of the same kind.
    Double,
    /// Bytes and structures.
    Opaque,
}

/// What the buffer is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Room {
    /// From one commit to the next.
    pub(crate) commit_interval: Duration,
    /// Most bytes of the data log.
    pub(crate) max_bytes: u64,
    /// The longest that data wait.
    pub(crate) max_age: Duration,
    /// How long settled data stay.
    pub(crate) keep: Duration,
}

/// The estimate.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Sizing {
    /// Bytes on disk for a sample, all that belongs to it included.
    pub(crate) bytes_per_sample: f64,
    /// Bytes that are added in an hour.
    pub(crate) bytes_per_hour: f64,
    /// Days that the data log holds while no uplink takes anything; `None` without samples.
    pub(crate) days_until_full: Option<f64>,
    /// Bytes that are written to the flash memory in a day, whole pages, without the file system's own.
    pub(crate) written_per_day: f64,
    /// Bytes written for each byte of data.
    pub(crate) write_amplification: f64,
    /// What does not fit together, one sentence each.
    pub(crate) warnings: Vec<String>,
}

/// A chunk's header, directory and checksum, and its entry in sled's log.
const CHUNK_BYTES: f64 = 310.0;

/// Chunks are cut at this many samples.
const CHUNK_SAMPLES: f64 = 32_000.0;

/// An epoch is sealed at this size, or after an hour, and adds a segment of its own.
const EPOCH_BYTES: f64 = 4.0 * 1024.0 * 1024.0;
const SEGMENT_BYTES: f64 = 512.0 * 1024.0;

/// What flash memory writes at least.
const PAGE_BYTES: f64 = 4096.0;

/// Settled data may take this part of the room.
const KEPT_SHARE: f64 = 0.25;

/// Beyond this, most of the wear comes from small commits.
const WRITE_AMPLIFICATION_HIGH: f64 = 2.5;

/// More than this in a day is much for the flash memory of a small gateway.
const WEAR_HIGH: f64 = 2e9;

const HOUR_S: f64 = 3_600.0;
const DAY_S: f64 = 86_400.0;

impl Signal {
    /// The signal of a tag whose device gives `raw`; `scaled`: a factor or an offset is applied.
    pub(crate) fn of(raw: ValueType, scaled: bool) -> Self {
        match raw {
            ValueType::Bool | ValueType::Text => Signal::State,
            ValueType::I64 | ValueType::U64 => Signal::Digits,
            ValueType::F32 if !scaled => Signal::Single,
            // What a node is worth is not known before it is read.
            ValueType::F32 | ValueType::F64 | ValueType::Any => Signal::Double,
            ValueType::Bytes | ValueType::Json => Signal::Opaque,
        }
    }

    /// Bytes of a sample in a long column, and what a column adds to its chunk.
    fn bytes(self) -> (f64, f64) {
        match self {
            Signal::State => (0.05, 0.45),
            Signal::Digits => (0.6, 1.5),
            Signal::Single => (2.65, 1.9),
            Signal::Double => (6.2, 1.7),
            Signal::Opaque => (24.0, 2.0),
        }
    }
}

/// Samples a second of all loads.
fn rate(loads: &[Load]) -> f64 {
    let rates = loads
        .iter()
        .map(|load| load.tags as f64 / load.interval.as_secs_f64());
    rates.sum()
}

/// Estimates what the loads ask of the room.
pub(crate) fn sizing(loads: &[Load], room: Room) -> Sizing {
    let rate = rate(loads);
    let commit_s = room.commit_interval.as_secs_f64();
    // Something has to come for a commit; a large one is several chunks.
    let commits_per_s = rate.min(1.0 / commit_s);
    let chunks_per_s = commits_per_s.max(rate / CHUNK_SAMPLES);
    let per_chunk_s = 1.0 / chunks_per_s.max(f64::MIN_POSITIVE);
    let columns: f64 = loads
        .iter()
        .map(|load| {
            let (value, column) = load.signal.bytes();
            let tag_rate = 1.0 / load.interval.as_secs_f64();
            let in_chunk = (tag_rate * per_chunk_s).max(1.0);
            load.tags as f64 * tag_rate * (value + column / in_chunk)
        })
        .sum();
    let data_per_s = columns + chunks_per_s * CHUNK_BYTES;
    let epochs_per_hour = (data_per_s * HOUR_S / EPOCH_BYTES).max(1.0);
    let mut bytes_per_hour = data_per_s * HOUR_S + epochs_per_hour * SEGMENT_BYTES;
    // Each commit fills its last page only in part and begins the next where it ended.
    let mut written_per_day = DAY_S * (data_per_s + commits_per_s * PAGE_BYTES);
    if rate <= 0.0 {
        (bytes_per_hour, written_per_day) = (0.0, 0.0);
    }
    let mut sizing = Sizing {
        bytes_per_sample: if rate > 0.0 {
            bytes_per_hour / HOUR_S / rate
        } else {
            0.0
        },
        bytes_per_hour,
        days_until_full: (rate > 0.0).then(|| room.max_bytes as f64 / bytes_per_hour / 24.0),
        written_per_day,
        write_amplification: if rate > 0.0 {
            written_per_day / (data_per_s * DAY_S)
        } else {
            1.0
        },
        warnings: Vec::new(),
    };
    sizing.warnings = warnings(&sizing, room);
    sizing
}

fn warnings(sizing: &Sizing, room: Room) -> Vec<String> {
    let mut warnings = Vec::new();
    let Some(days) = sizing.days_until_full else {
        return warnings;
    };
    let about_days = |days: f64| format!("{} days", units::about_rate(days));
    let needed = |time: Duration, share: f64| {
        units::about_size(sizing.bytes_per_hour * time.as_secs_f64() / HOUR_S / share)
    };
    let max_age_days = room.max_age.as_secs_f64() / DAY_S;
    if max_age_days > days {
        warnings.push(format!(
            "max_age = {} is not reached: max_bytes holds about {}; it would take about {}",
            units::show_duration(room.max_age),
            about_days(days),
            needed(room.max_age, 1.0)
        ));
    }
    let keep_days = room.keep.as_secs_f64() / DAY_S;
    if keep_days > days * KEPT_SHARE {
        warnings.push(format!(
            "keep = {} is not reached: a quarter of max_bytes holds about {}; it would take about {}",
            units::show_duration(room.keep),
            about_days(days * KEPT_SHARE),
            needed(room.keep, KEPT_SHARE)
        ));
    }
    if sizing.write_amplification > WRITE_AMPLIFICATION_HIGH && sizing.written_per_day > WEAR_HIGH {
        warnings.push(format!(
            "commit_interval = {} writes about {} a day to the flash memory, {} times the data; a longer \
             one wears it less",
            units::show_duration(room.commit_interval),
            units::about_size(sizing.written_per_day),
            units::about_rate(sizing.write_amplification)
        ));
    }
    warnings
}

#[cfg(test)]
mod tests;
