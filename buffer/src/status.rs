//! How the buffer is doing.

use std::collections::BTreeMap;
use std::time::Duration;

use millrace_tags::{LogKind, Moment, Timestamp};
use serde::Serialize;

use crate::core::Core;
use crate::epoch::causes;
use crate::growth::runway;
use crate::settings::Settings;
use crate::uplink::Reader;

/// How the buffer is doing.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Status {
    /// What it takes on the disk.
    pub bytes: u64,
    /// What it may take.
    pub max_bytes: u64,
    /// What the file system has left; `None` where it does not say.
    pub free_bytes: Option<u64>,
    /// How long the room of the log that is full first lasts at its present growth, if nothing is settled
    /// from now on; `None` where nothing grows or it is not known yet.
    pub runway: Option<Duration>,
    /// What of `free_bytes` the buffer leaves free.
    pub reserve_bytes: u64,
    /// Whether sources that can wait are held back.
    pub held_back: bool,
    /// The alarm log.
    pub alarm: LogStatus,
    /// The data log.
    pub data: LogStatus,
    /// Records that wait, by uplink.
    pub uplinks: BTreeMap<String, Queued>,
    /// Records that no commit has made durable yet.
    pub uncommitted: u64,
    /// Time since the last commit that succeeded.
    pub last_commit_age: Option<Duration>,
    /// Why the last commit failed; `None` where it did not.
    pub last_error: Option<String>,
    /// Chunks that cannot be read now and are tried again, a sentence for each uplink and log.
    pub unread: Vec<String>,
    /// Whether commits succeed: otherwise data are in memory only.
    pub durable: bool,
}

/// The files of one log.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LogStatus {
    /// What it takes on the disk.
    pub bytes: u64,
    /// What it may take.
    pub max_bytes: u64,
    /// Of the bytes: what every uplink has settled, kept for a replay.
    pub kept_bytes: u64,
    /// What is added to it in an hour, measured over the last hour; `None` in the first minute.
    pub bytes_per_hour: Option<u64>,
    /// How long its room lasts at that; settled data that are kept give way and count as room.
    pub runway: Option<Duration>,
    /// There is no room, and what is appended is refused.
    pub full: bool,
    /// Epochs, the one that is written included.
    pub epochs: u64,
    /// Chunks.
    pub chunks: u64,
    /// No record of the oldest sealed epoch is newer than this.
    pub oldest: Option<Timestamp>,
}

/// Records that wait for one uplink.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Queued {
    /// Events.
    pub alarm: u64,
    /// Samples that are in memory and go out as they arrive.
    pub live: u64,
    /// Samples that have to be read from the disk.
    pub backlog: u64,
}

impl Status {
    pub(crate) fn of(core: &Core, settings: &Settings, now: Moment) -> Self {
        let log = |kind: LogKind, figures: &crate::core::Figures| LogStatus {
            bytes: figures.bytes,
            max_bytes: settings.log_bytes_max(kind),
            kept_bytes: figures.kept,
            bytes_per_hour: figures.bytes_per_hour,
            runway: runway(figures.room, figures.bytes_per_hour),
            full: core.log(kind).full.is_some(),
            epochs: figures.epochs,
            chunks: figures.chunks,
            oldest: figures.oldest,
        };
        let uplinks = core.uplinks.iter().map(|(name, uplink)| {
            let data = queued(&uplink.data);
            let live = uplink.live_samples(core.log(LogKind::Data)).min(data);
            let queued = Queued {
                alarm: queued(&uplink.alarm),
                live,
                backlog: data - live,
            };
            (name.to_string(), queued)
        });
        let alarm = log(LogKind::Alarm, &core.alarm_figures);
        let data = log(LogKind::Data, &core.data_figures);
        Status {
            runway: [alarm.runway, data.runway].into_iter().flatten().min(),
            bytes: core.alarm_figures.bytes + core.data_figures.bytes,
            max_bytes: settings.max_bytes,
            free_bytes: core.space.map(|space| space.free),
            reserve_bytes: core.reserve,
            held_back: !core.has_room(settings.when_full),
            alarm,
            data,
            uplinks: uplinks.collect(),
            uncommitted: core.alarm.open_records + core.data.open_records,
            last_commit_age: core.last_commit.map(|at| now.since(at)),
            last_error: core.failure.as_ref().map(|error| causes(error)),
            unread: unread(core),
            durable: core.failure.is_none(),
        }
    }
}

fn queued(reader: &Reader) -> u64 {
    reader.counts.iter().map(|c| c.queued).sum()
}

fn unread(core: &Core) -> Vec<String> {
    let readers = core.uplinks.iter().flat_map(|(name, uplink)| {
        let readers = [&uplink.alarm, &uplink.data];
        readers.map(|reader| (name, reader.unread.as_ref()))
    });
    readers
        .filter_map(|(name, unread)| Some(format!("uplink {name} waits for {}", unread?.error)))
        .collect()
}
