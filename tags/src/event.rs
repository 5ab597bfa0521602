//! Events: anomalies, lost and regained devices, alarms.

use serde::{Deserialize, Serialize};

use crate::Moment;

/// Something that began, changed or ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Whether it begins, goes on or ends.
    pub state: EventState,
    /// When this record was made.
    pub at: Moment,
    /// When it began.
    pub start: Moment,
    /// When it ended; `None` while it lasts.
    pub end: Option<Moment>,
    /// What it is.
    #[serde(flatten)]
    pub detail: EventDetail,
}

/// The phase of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventState {
    /// It began.
    Begin,
    /// It goes on, and something worth saying changed.
    Update,
    /// It is over.
    End,
}

/// What an event is about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum EventDetail {
    /// A model's score left its limits.
    Anomaly {
        /// Version of the model bundle.
        version: String,
        /// SHA-256 of the model file, hex.
        sha256: String,
        /// Highest score so far.
        peak: f64,
        /// Score of the newest window.
        score: f64,
        /// The score that begins an event.
        threshold: f64,
        /// The inputs that contribute most to the score, largest first.
        top: Vec<Share>,
        /// Share of good inputs in the newest window, 0 to 1.
        good: f64,
    },
    /// A device was lost (begin) or is back (end).
    Comms {
        /// What the session said.
        message: String,
    },
    /// Something that an operator should know.
    Alarm {
        /// What happened.
        message: String,
    },
}

/// An input's share in a score.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Share {
    /// The input's role in the bundle.
    pub role: String,
    /// Its share, 0 to 1.
    pub share: f64,
}

impl EventDetail {
    /// `anomaly`, `comms` or `alarm`.
    pub fn kind(&self) -> &'static str {
        match self {
            EventDetail::Anomaly { .. } => "anomaly",
            EventDetail::Comms { .. } => "comms",
            EventDetail::Alarm { .. } => "alarm",
        }
    }
}
