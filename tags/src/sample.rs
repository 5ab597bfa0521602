//! Samples, and what a session hands over.

use crate::{Event, Moment, Quality, TagId, Timestamp, Value};

/// One observed value of a tag.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Whose value.
    pub tag: TagId,
    /// The value; `None` where the quality is bad and there is nothing to show.
    pub value: Option<Value>,
    /// How far the value can be trusted.
    pub quality: Quality,
    /// When the device says that the value was taken, if it says.
    pub source_time: Option<Timestamp>,
    /// When the reply that carried the value arrived at the gateway.
    pub gateway_time: Moment,
}

impl Sample {
    /// A good sample without a source time.
    pub fn good(tag: TagId, value: Value, gateway_time: Moment) -> Self {
        Self {
            tag,
            value: Some(value),
            quality: Quality::Good,
            source_time: None,
            gateway_time,
        }
    }

    /// A sample that says that there is no usable value.
    pub fn bad(tag: TagId, reason: crate::Reason, gateway_time: Moment) -> Self {
        Self {
            tag,
            value: None,
            quality: Quality::Bad(reason),
            source_time: None,
            gateway_time,
        }
    }
}

/// What one read or one notification brought.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Reading {
    /// The samples, in order of arrival.
    pub samples: Vec<Sample>,
    /// Values that were handed over before and hold still: to be stored again only where their tags were said to be bad
    /// since.
    pub known: Vec<Sample>,
    /// Events and alarms that the device told of.
    pub events: Vec<Event>,
    /// To be settled with the session when the samples are committed, if the session asks for it.
    pub receipt: Option<Receipt>,
}

/// A session's own mark for samples that its device may forget once they are committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Receipt(pub u64);
