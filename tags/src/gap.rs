//! Numbers that will never come, and why.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{LogKind, StreamId, Timestamp};

/// Why numbers will never come, or never came to an uplink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DropReason {
    /// Not yet committed when the power or the process went; an upper bound.
    Crash,
    /// Removed unsent because the store reached `max_bytes`.
    Full,
    /// Removed unsent because it passed `max_age`.
    Age,
    /// Refused at the entrance because the store was full and `when_full` says so.
    Newest,
    /// Lost to a damaged file.
    Damage,
    /// Removed by an operator.
    Purged,
    /// A message that the broker refuses, given up by an operator.
    Poison,
    /// From before the uplink was added with `start = "now"`.
    BeforeStart,
    /// The uplink's routes do not ask for it.
    NotRouted,
}

impl DropReason {
    /// The name on the wire and in the ledger.
    pub fn name(self) -> &'static str {
        match self {
            DropReason::Crash => "crash",
            DropReason::Full => "full",
            DropReason::Age => "age",
            DropReason::Newest => "newest",
            DropReason::Damage => "damage",
            DropReason::Purged => "purged",
            DropReason::Poison => "poison",
            DropReason::BeforeStart => "before-start",
            DropReason::NotRouted => "not-routed",
        }
    }
}

/// Holes that will never be filled: a receiver keeps what it has and waits for nothing more.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gap {
    /// The stream that the numbers belong to.
    pub stream: StreamId,
    /// The log that they were lost from.
    pub log: LogKind,
    /// Why they will not come.
    pub reason: DropReason,
    /// When the loss was found; `None` while the clock is not set.
    pub at: Option<Timestamp>,
    /// Which numbers.
    pub holes: Vec<Hole>,
}

/// A range of numbers of one source, both ends included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hole {
    /// The device or model.
    pub source: Arc<str>,
    /// First number of the hole.
    pub first_seq: u64,
    /// Last number of the hole; `None`: the stream is closed, nothing after `first_seq` will come.
    pub last_seq: Option<u64>,
}
