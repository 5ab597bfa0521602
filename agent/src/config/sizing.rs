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
    /// Days that the data log holds of data as they are written; `None` without samples.
    pub(crate) days_until_full: Option<f64>,
    /// Bytes on disk for a sample once an outage has lasted for some epochs: small chunks are merged.
    pub(crate) bytes_per_sample_merged: f64,
    /// Days that the data log holds of such data: how long an outage may last.
    pub(crate) days_until_full_merged: Option<f64>,
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

/// Chunks of more samples than this are not merged, and merged ones have about
const SMALL_SAMPLES: f64 = CHUNK_SAMPLES / 4.0;
/// this many bytes at most.
const MERGED_BYTES: f64 = 120_000.0;

/// So many epochs that were sealed by age become one.
const MERGED_EPOCHS: f64 = 8.0;

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

/// What the loads add in a second where `chunks` are written in one.
fn data_per_s(loads: &[Load], chunks: f64) -> f64 {
    let columns = loads.iter().map(|load| {
        let (value, column) = load.signal.bytes();
        let tag_rate = 1.0 / load.interval.as_secs_f64();
        let in_chunk = (tag_rate / chunks).max(1.0);
        load.tags as f64 * tag_rate * (value + column / in_chunk)
    });
    columns.sum::<f64>() + chunks * CHUNK_BYTES
}

/// What data take on the disk in an hour, in epochs of `epoch_hours` at most.
fn bytes_per_hour(data_per_s: f64, epoch_hours: f64) -> f64 {
    let data = data_per_s * HOUR_S;
    data + (data / EPOCH_BYTES).max(1.0 / epoch_hours) * SEGMENT_BYTES
}

/// The same once small chunks are merged.
fn bytes_per_hour_merged(loads: &[Load], rate: f64, chunks_per_s: f64) -> f64 {
    if rate / chunks_per_s > SMALL_SAMPLES {
        return bytes_per_hour(data_per_s(loads, chunks_per_s), 1.0);
    }
    let full = data_per_s(loads, rate / CHUNK_SAMPLES);
    let chunks = (rate / CHUNK_SAMPLES).max(full / MERGED_BYTES);
    bytes_per_hour(data_per_s(loads, chunks.min(chunks_per_s)), MERGED_EPOCHS)
}

/// Estimates what the loads ask of the room.
pub(crate) fn sizing(loads: &[Load], room: Room) -> Sizing {
    let rate = rate(loads);
    if rate <= 0.0 {
        return Sizing {
            bytes_per_sample: 0.0,
            bytes_per_hour: 0.0,
            days_until_full: None,
            bytes_per_sample_merged: 0.0,
            days_until_full_merged: None,
            written_per_day: 0.0,
            write_amplification: 1.0,
            warnings: Vec::new(),
        };
    }
    // Something has to come for a commit; a large one is several chunks.
    let commits_per_s = rate.min(1.0 / room.commit_interval.as_secs_f64());
    let chunks_per_s = commits_per_s.max(rate / CHUNK_SAMPLES);
    let data_per_s = data_per_s(loads, chunks_per_s);
    let bytes_per_hour = bytes_per_hour(data_per_s, 1.0);
    let merged = bytes_per_hour_merged(loads, rate, chunks_per_s).min(bytes_per_hour);
    // Each commit fills its last page only in part and begins the next where it ended.
    let written_per_day = DAY_S * (data_per_s + commits_per_s * PAGE_BYTES);
    let mut sizing = Sizing {
        bytes_per_sample: bytes_per_hour / HOUR_S / rate,
        bytes_per_hour,
        days_until_full: Some(room.max_bytes as f64 / bytes_per_hour / 24.0),
        bytes_per_sample_merged: merged / HOUR_S / rate,
        days_until_full_merged: Some(room.max_bytes as f64 / merged / 24.0),
        written_per_day,
        write_amplification: written_per_day / (data_per_s * DAY_S),
        warnings: Vec::new(),
    };
    sizing.warnings = warnings(&sizing, rate, room);
    sizing
}

fn warnings(sizing: &Sizing, rate: f64, room: Room) -> Vec<String> {
    let mut warnings = Vec::new();
    let (Some(days), Some(days_merged)) = (sizing.days_until_full, sizing.days_until_full_merged)
    else {
        return warnings;
    };
    let about_days = |days: f64| format!("{} days", units::about_rate(days));
    let needed = |time: Duration, bytes_per_sample: f64| {
        units::about_size(bytes_per_sample * rate * time.as_secs_f64())
    };
    // What waits for long has been merged.
    let max_age_days = room.max_age.as_secs_f64() / DAY_S;
    if max_age_days > days_merged {
        warnings.push(format!(
            "max_age = {} is not reached: max_bytes holds about {}; it would take about {}",
            units::show_duration(room.max_age),
            about_days(days_merged),
            needed(room.max_age, sizing.bytes_per_sample_merged)
        ));
    }
    // What was sent at once stays as it was written.
    let keep_days = room.keep.as_secs_f64() / DAY_S;
    if keep_days > days * KEPT_SHARE {
        warnings.push(format!(
            "keep = {} is not reached: a quarter of max_bytes holds about {}; it would take about {}",
            units::show_duration(room.keep),
            about_days(days * KEPT_SHARE),
            needed(room.keep, sizing.bytes_per_sample / KEPT_SHARE)
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
