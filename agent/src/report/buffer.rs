//! The store, as the local API and `buffer status` show it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// `GET /v1/buffer`: the store.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct BufferStatus {
    /// Where it is.
    pub(crate) dir: String,
    /// Bytes on disk.
    pub(crate) bytes: u64,
    /// The limit.
    pub(crate) max_bytes: u64,
    /// Epochs on disk.
    pub(crate) epochs: u64,
    /// Samples and events that no uplink has settled, by uplink.
    pub(crate) queued: BTreeMap<String, u64>,
    /// Of these, where each lane stands, by uplink.
    #[serde(default)]
    pub(crate) lanes: BTreeMap<String, Lanes>,
    /// Samples and events that were given up because no message can carry them, by uplink.
    #[serde(default)]
    pub(crate) poison: BTreeMap<String, u64>,
    /// The logs: data and alarm.
    #[serde(default)]
    pub(crate) logs: BTreeMap<String, LogStatus>,
    /// Seconds until the first log is full at its present growth, if no uplink takes anything from now on;
    /// `null` where nothing grows or the rate is not known yet.
    #[serde(default)]
    pub(crate) runway_s: Option<u64>,
    /// What the file system has left.
    #[serde(default)]
    pub(crate) free_bytes: Option<u64>,
    /// What of that stays free.
    #[serde(default)]
    pub(crate) reserve_bytes: u64,
    /// Samples and events that are in memory only.
    #[serde(default)]
    pub(crate) uncommitted: u64,
    /// Seconds since the last commit.
    pub(crate) commit_age_s: Option<f64>,
    /// Why the last commit failed.
    pub(crate) commit_error: Option<String>,
    /// What opening the store found.
    pub(crate) recovery: Vec<String>,
    /// Stores beside it that this program cannot read.
    #[serde(default)]
    pub(crate) set_aside: Vec<String>,
}

/// What waits for one uplink, in samples and events.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Lanes {
    /// Events.
    pub(crate) alarm: u64,
    /// Samples in memory, that go out as they arrive.
    pub(crate) live: u64,
    /// Samples that are read from the disk.
    pub(crate) backlog: u64,
}

/// One log of the store.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct LogStatus {
    /// Bytes on disk.
    pub(crate) bytes: u64,
    /// The limit.
    pub(crate) max_bytes: u64,
    /// Of the bytes: what every uplink has settled, kept for a replay.
    pub(crate) kept_bytes: u64,
    /// Epochs.
    pub(crate) epochs: u64,
    /// Chunks.
    pub(crate) chunks: u64,
    /// There is no room, and new data are refused.
    pub(crate) full: bool,
    /// What is added in an hour, measured over the last hour.
    pub(crate) bytes_per_hour: Option<u64>,
    /// Seconds until it is full at that rate.
    pub(crate) runway_s: Option<u64>,
    /// Nothing in the oldest epoch is newer than this, Unix milliseconds.
    pub(crate) oldest: Option<f64>,
}

impl BufferStatus {
    /// Says which log refuses what comes.
    pub(super) fn full_problem(&self) -> Option<String> {
        let full: Vec<&str> = self
            .logs
            .iter()
            .filter(|(_, log)| log.full)
            .map(|(name, _)| name.as_str())
            .collect();
        (!full.is_empty()).then(|| {
            let logs = full.join(" and ");
            format!("the store has no room for more in its {logs} log: new data are refused")
        })
    }
}

/// Days, hours or minutes: `9 days`, `5 h`, `40 min`.
pub(crate) fn about_duration(seconds: u64) -> String {
    match seconds {
        0..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}
