//! What a codec gets.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Event, Sample, TagTable, Timebase};

/// A number line's name: sequence numbers mean something only within their stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StreamId(pub Uuid);

impl std::fmt::Display for StreamId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.simple().fmt(f)
    }
}

impl std::str::FromStr for StreamId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Uuid::parse_str(text).map(Self)
    }
}

/// Which of the two logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogKind {
    /// Events: anomalies, comms lost and back, alarms.
    Alarm,
    /// Samples.
    Data,
}

impl LogKind {
    /// `alarm` or `data`.
    pub fn name(self) -> &'static str {
        match self {
            LogKind::Alarm => "alarm",
            LogKind::Data => "data",
        }
    }
}

/// A reading position: what drains before what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lane {
    /// Events, as they happen.
    Alarm,
    /// Samples, as they arrive.
    Live,
    /// What could not be sent when it was live.
    Backlog,
}

impl Lane {
    /// `alarm`, `live` or `backlog`.
    pub fn name(self) -> &'static str {
        match self {
            Lane::Alarm => "alarm",
            Lane::Live => "live",
            Lane::Backlog => "backlog",
        }
    }
}

/// Consecutive numbers of one source: record `i` has number `first_seq + i`.
#[derive(Debug, Clone, PartialEq)]
pub struct Parcel {
    /// The device or model.
    pub source: Arc<str>,
    /// The stream that the numbers belong to.
    pub stream: StreamId,
    /// The log that the records come from.
    pub log: LogKind,
    /// The lane that they travel in.
    pub lane: Lane,
    /// The number of the first record.
    pub first_seq: u64,
    /// Ties the records' moments to UTC.
    pub timebase: Timebase,
    /// Names of the tags.
    pub tags: Arc<TagTable>,
    /// The records themselves; never empty.
    pub records: Records,
}

/// The content of a parcel.
#[derive(Debug, Clone, PartialEq)]
pub enum Records {
    /// Of the data log.
    Samples(Vec<Sample>),
    /// Of the alarm log.
    Events(Vec<Event>),
}

impl Records {
    /// How many numbers the records take.
    pub fn len(&self) -> usize {
        match self {
            Records::Samples(samples) => samples.len(),
            Records::Events(events) => events.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Parcel {
    /// The number of the last record.
    pub fn last_seq(&self) -> u64 {
        self.first_seq + (self.records.len() as u64).saturating_sub(1)
    }
}
