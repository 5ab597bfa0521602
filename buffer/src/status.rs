//! How the buffer is doing.

use std::collections::BTreeMap;
use std::time::Duration;

use millrace_tags::{LogKind, Moment, Timestamp};
use serde::Serialize;

use crate::core::Core;
use crate::uplink::Reader;

/// How the buffer is doing.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Status {
    /// What it takes on the disk.
    pub bytes: u64,
    /// What it may take.
    pub max_bytes: u64,
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
    /// Whether commits succeed: otherwise data are in memory only.
    pub durable: bool,
}

/// The files of one log.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LogStatus {
    /// What it takes on the disk.
    pub bytes: u64,
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
    pub(crate) fn of(core: &Core, max_bytes: u64, now: Moment) -> Self {
        let log = |figures: &crate::core::Figures| LogStatus {
            bytes: figures.bytes,
            epochs: figures.epochs,
            chunks: figures.chunks,
            oldest: figures.oldest,
        };
        let uplinks = core.uplinks.iter().map(|(name, uplink)| {
            let data = queued(&uplink.data);
            let live = uplink.data.live_records(core.log(LogKind::Data)).min(data);
            let queued = Queued {
                alarm: queued(&uplink.alarm),
                live,
                backlog: data - live,
            };
            (name.to_string(), queued)
        });
        Status {
            bytes: core.alarm_figures.bytes + core.data_figures.bytes,
            max_bytes,
            alarm: log(&core.alarm_figures),
            data: log(&core.data_figures),
            uplinks: uplinks.collect(),
            uncommitted: core.alarm.open_records + core.data.open_records,
            last_commit_age: core.last_commit.map(|at| now.since(at)),
            last_error: core.failure.as_ref().map(describe),
            durable: core.failure.is_none(),
        }
    }
}

fn queued(reader: &Reader) -> u64 {
    reader.counts.iter().map(|c| c.queued).sum()
}

/// An error with its causes, for people.
fn describe(error: &crate::core::CommitError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
