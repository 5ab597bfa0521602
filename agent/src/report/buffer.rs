//! The store, as the local API and `buffer status` show it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::cli::show;

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
    /// Sources that can wait are held back until the store takes data again.
    #[serde(default)]
    pub(crate) held_back: bool,
    /// What the core refuses and was set aside, by uplink.
    #[serde(default)]
    pub(crate) refused: BTreeMap<String, Refused>,
    /// What opening the store found broken; `null` where it was whole.
    #[serde(default)]
    pub(crate) damage: Option<Damage>,
    /// What cannot be read just now and is tried again.
    #[serde(default)]
    pub(crate) unread: Vec<String>,
    /// What opening the store found.
    pub(crate) recovery: Vec<String>,
    /// Stores beside it that this program cannot read.
    #[serde(default)]
    pub(crate) set_aside: Vec<String>,
}

/// What one uplink's core refuses.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Refused {
    /// Messages.
    pub(crate) messages: u64,
    /// Samples and events in them.
    pub(crate) records: u64,
}

/// What opening the store found broken and has repaired.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Damage {
    /// Damaged epochs, those included that nothing could be read from.
    pub(crate) epochs: u64,
    /// Numbers that are lost with them.
    pub(crate) numbers: u64,
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
    /// What gives way when there is none: `drop-oldest`, `drop-newest` or `block`.
    #[serde(default)]
    pub(crate) when_full: String,
    /// What is added in an hour, measured over the last hour.
    pub(crate) bytes_per_hour: Option<u64>,
    /// Seconds until it is full at that rate.
    pub(crate) runway_s: Option<u64>,
    /// Nothing in the oldest epoch is newer than this, Unix milliseconds.
    pub(crate) oldest: Option<f64>,
}

impl BufferStatus {
    /// What is wrong with the store, one sentence each, the worst first.
    pub(super) fn problems(&self) -> Vec<String> {
        let failed = self.commit_error.iter();
        let failed = failed.map(|error| format!("samples are not on disk: {error}"));
        let held = "sources that can wait are held back until the store takes data again \
                    (when_full is block)";
        failed
            .chain(self.logs.iter().filter_map(|(name, log)| log.problem(name)))
            .chain(self.held_back.then(|| held.to_owned()))
            .chain(self.reserve_problem())
            .chain(self.damage.map(Damage::problem))
            .chain(self.refused.iter().map(|(uplink, r)| r.problem(uplink)))
            .chain(self.unread.iter().cloned())
            .chain(self.set_aside.iter().cloned())
            .collect()
    }

    fn reserve_problem(&self) -> Option<String> {
        let free = self.free_bytes?;
        (free < self.reserve_bytes).then(|| {
            let (free, reserve) = (show::bytes(free), show::bytes(self.reserve_bytes));
            format!(
                "the file system of the store has {free} left and {reserve} are to stay free: \
                 make room beside the store, or the store gives way"
            )
        })
    }
}

impl LogStatus {
    fn problem(&self, name: &str) -> Option<String> {
        let gives_way = match (self.when_full.as_str(), self.full, self.runway_s) {
            ("block", true, _) => "what cannot wait is refused",
            (_, true, _) => "new data are refused",
            ("drop-oldest", false, Some(0)) => "the oldest that was not sent gives way",
            _ => return None,
        };
        let cause = match self.full {
            true => "has no room for more in",
            false => "is full in",
        };
        Some(format!("the store {cause} its {name} log: {gives_way}"))
    }
}

impl Refused {
    fn problem(self, uplink: &str) -> String {
        let Refused { messages, records } = self;
        let said = match messages {
            1 => "1 message".to_owned(),
            _ => format!("{} messages", show::count(messages)),
        };
        let records = show::count(records);
        format!(
            "uplink {uplink}: the core refuses {said} ({records} samples and events), set aside \
             (see `millrace buffer poison list`)"
        )
    }
}

impl Damage {
    fn problem(self) -> String {
        let (epochs, numbers) = (show::count(self.epochs), show::count(self.numbers));
        format!(
            "the store was damaged: {epochs} epochs were salvaged, {numbers} numbers are lost \
             (see `millrace buffer status`)"
        )
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_sentence_for_each_thing_that_is_wrong() {
        let log = |when_full: &str, full, runway_s| LogStatus {
            full,
            when_full: when_full.to_owned(),
            runway_s,
            ..LogStatus::default()
        };
        let well = BufferStatus {
            logs: [("data".to_owned(), log("drop-oldest", false, Some(3600)))].into(),
            free_bytes: Some(2 << 30),
            reserve_bytes: 64 << 20,
            ..BufferStatus::default()
        };
        assert_eq!(well.problems(), [""; 0]);

        let mut all = BufferStatus {
            commit_error: Some("the data log cannot be written: read-only file system".into()),
            held_back: true,
            free_bytes: Some(12 << 20),
            damage: Some(Damage {
                epochs: 2,
                numbers: 1_400,
            }),
            ..well
        };
        all.logs = [
            ("alarm".to_owned(), log("drop-newest", true, None)),
            ("data".to_owned(), log("block", true, Some(0))),
        ]
        .into();
        let refused = |messages, records| Refused { messages, records };
        all.refused = [
            ("cloud".to_owned(), refused(3, 1_200)),
            ("spare".to_owned(), refused(1, 1)),
        ]
        .into();
        let mut said = all.problems();
        all.logs = [("data".to_owned(), log("drop-oldest", false, Some(0)))].into();
        said.push(all.problems()[1].clone());
        insta::assert_snapshot!(said.join("\n"));
    }
}
