//! Events: anomalies, lost and regained devices, alarms.

use serde::{Deserialize, Serialize};

use crate::{Moment, Timestamp};

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
        /// How bad it is so far: how many of the model's steps the peak has reached. `None` where the model has no steps.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        severity: Option<u8>,
        /// The oldest input of the first window of the event; the newest is that of the record.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from: Option<Moment>,
    },
    /// A device was lost (begin) or is back (end).
    Comms {
        /// What the session said.
        message: String,
    },
    /// Something that an operator should know: of this gateway, or an event or alarm of a device.
    Alarm {
        /// What happened.
        message: String,
        /// What the device says of it, where it comes from one.
        #[serde(flatten)]
        told: Option<Box<DeviceAlarm>>,
    },
}

/// An event or alarm as a device tells it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeviceAlarm {
    /// How bad it is, 1 to 1000.
    pub severity: u16,
    /// The node that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The name of the condition, where it is one, which begins and ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
    /// What the device itself tells the condition by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Whether somebody has acknowledged it at the device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acked: Option<bool>,
    /// When it happened, as the device says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_time: Option<Timestamp>,
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
    /// An alarm of the gateway itself.
    pub fn alarm(message: String) -> Self {
        EventDetail::Alarm {
            message,
            told: None,
        }
    }

    /// `anomaly`, `comms` or `alarm`.
    pub fn kind(&self) -> &'static str {
        match self {
            EventDetail::Anomaly { .. } => "anomaly",
            EventDetail::Comms { .. } => "comms",
            EventDetail::Alarm { .. } => "alarm",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alarms_of_every_kind_survive_being_stored() {
        let told = DeviceAlarm {
            severity: 700,
            node: Some("ns=2;s=Tank".to_owned()),
            name: None,
            condition: Some("high level".to_owned()),
            id: Some("ns=2;i=7".to_owned()),
            acked: Some(false),
            source_time: Some(Timestamp(1)),
        };
        let device = EventDetail::Alarm {
            message: "high".to_owned(),
            told: Some(Box::new(told)),
        };
        for detail in [device, EventDetail::alarm("full".to_owned())] {
            let event = Event {
                state: EventState::Begin,
                at: Moment(2),
                start: Moment(1),
                end: None,
                detail,
            };
            let json = serde_json::to_string(&event).expect("JSON");
            assert_eq!(serde_json::from_str::<Event>(&json).expect(&json), event);
        }
    }
}
