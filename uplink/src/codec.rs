//! Codecs: parcels, events and gaps become messages. Pure functions: no clock, no I/O, and only [`sparkplug`] remembers
//! what it has sent.
//!
//! | codec | a sample is | what is not good | integers beyond 2^53 | bytes | JSON | sequence |
//! |---|---|---|---|---|---|---|
//! | [`json`] | an object | `q`, `r` beside it | exact | base64 in `x` | nested | payload |
//! | [`senml`] (JSON, CBOR) | a record | a text record `<name>:q` | `vs`, a text | `vd` | `vs`, a text | none |
//! | [`thingsboard`] | a key of `values` | a text `<name>:q` | exact; text from 2^63 | base64 text | nested | none |
//! | [`influx`] | a field | a text field `<name>:q` | exact; unsigned (`u`) from 2^63 | base64 text | text | none |
//! | [`smartrest`] | a line | an event `millrace_quality` | exact | base64 text | text | none |
//! | [`sparkplug`] | a metric | the property `Quality` | exact | bytes | text | none |
//! | [`template`] | what the profile writes | variables `quality`, `reason` | exact | base64 text | nested | variables `stream`, `seq` |
//!
//! Everywhere: a NaN or an infinity is no value but bad quality with the reason `not-a-number`; a text that
//! says that it is JSON and is not is bad with `invalid-encoding`. A sample without a value still says that
//! there was none. Before the clock is known, codecs with a single time leave it out, so that the core puts
//! the time of arrival; those that cannot leave it out refuse the record ([`EncodeError::NoClock`]).

pub mod influx;
pub mod json;
mod pack;
mod rows;
pub mod senml;
pub mod smartrest;
pub mod sparkplug;
pub mod template;
pub mod thingsboard;

use std::collections::BTreeMap;

use millrace_tags::{Event, Gap, Lane, Parcel, Records, TagId};

use crate::message::PUBLISH_OVERHEAD;
use crate::topic::BoundTopic;

pub use rows::TimeChoice;

/// A backlog message is no larger than this, so that live data never waits behind one for long.
pub const BACKLOG_MESSAGE_BYTES: usize = 64 * 1024;

/// Why a parcel cannot become messages. What a caller does: set the record aside, send what is before
/// and after it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// One record alone is larger than a message may be.
    #[error(
        "number {seq} of {source_name} takes {bytes} bytes as a message; the limit is {limit}; raise max_message if the broker takes more"
    )]
    TooLarge {
        /// Whose.
        source_name: String,
        /// Which number.
        seq: u64,
        /// The message's size with nothing but this record.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// A sample's tag is not in the parcel's table.
    #[error("number {seq} of {source_name} belongs to tag {}, which the catalogue does not know", tag.0)]
    UnknownTag {
        /// Whose.
        source_name: String,
        /// Which number.
        seq: u64,
        /// Which tag.
        tag: TagId,
    },
    /// The topic that the names give is none that the core takes.
    #[error("number {seq} of {source_name} would go to `{topic}`: {problem}")]
    Topic {
        /// Whose.
        source_name: String,
        /// Which number.
        seq: u64,
        /// The topic, shortened.
        topic: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The core wants a time with each record, and the clock was not set. Retry it when it is.
    #[error(
        "number {seq} of {source_name} has no time: the clock was not set, and the core wants one"
    )]
    NoClock {
        /// Whose.
        source_name: String,
        /// Which number.
        seq: u64,
    },
    /// The profile's template fails on it: mend the template.
    #[error("number {seq} of {source_name}: the template `{template}` fails: {problem}")]
    Template {
        /// Whose.
        source_name: String,
        /// Which number.
        seq: u64,
        /// Which template of the profile.
        template: &'static str,
        /// What the template engine says.
        problem: String,
    },
    /// It is to be sealed, and there is no key. Give the profile its key first.
    #[error("number {seq} of {source_name} is to be sealed, and there is no key")]
    Unsealed {
        /// Whose.
        source_name: String,
        /// Which number.
        seq: u64,
    },
}

impl EncodeError {
    /// The number of the record that is in the way.
    pub fn seq(&self) -> u64 {
        match self {
            EncodeError::TooLarge { seq, .. }
            | EncodeError::UnknownTag { seq, .. }
            | EncodeError::Topic { seq, .. }
            | EncodeError::NoClock { seq, .. }
            | EncodeError::Template { seq, .. }
            | EncodeError::Unsealed { seq, .. } => *seq,
        }
    }
}

/// A message that says which numbers it carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    /// First and last number; both 0 where it carries none.
    pub(crate) range: (u64, u64),
}

impl Piece {
    /// What it takes on the wire.
    pub(crate) fn wire_bytes(&self) -> usize {
        PUBLISH_OVERHEAD + self.topic.len() + self.payload.len()
    }
}

/// What a codec knows beside the records.
#[derive(Clone, Copy)]
pub(crate) struct Sheet<'a> {
    /// The gateway's id.
    pub(crate) gateway: &'a str,
    /// Where to.
    pub(crate) topic: &'a BoundTopic,
    /// Which of a sample's times counts, where there is room for one.
    pub(crate) time: TimeChoice,
    /// The variables of the uplink.
    pub(crate) vars: &'a BTreeMap<String, String>,
}

/// How large messages may be, on the wire.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    /// As large as they should get.
    pub(crate) wanted: usize,
    /// As large as one that carries a single record may get.
    pub(crate) most: usize,
}

impl Room {
    /// The room of a parcel.
    pub(crate) fn of(parcel: &Parcel, max_message: usize) -> Self {
        let wanted = match parcel.lane {
            Lane::Backlog => max_message.min(BACKLOG_MESSAGE_BYTES),
            Lane::Alarm | Lane::Live => max_message,
        };
        Self {
            wanted,
            most: max_message,
        }
    }
}

/// One of the codecs.
#[derive(Debug)]
pub(crate) enum Codec {
    Json,
    SenmlJson,
    SenmlCbor,
    ThingsBoard,
    InfluxLine,
    SmartRest,
    Template(Box<template::Templates>),
    /// An edge node speaks for itself, see [`crate::Profile::edge_node`]: nothing goes through here.
    Sparkplug,
}

impl Codec {
    /// The samples of a parcel.
    pub(crate) fn samples(
        &self,
        sheet: &Sheet<'_>,
        parcel: &Parcel,
        room: Room,
    ) -> Result<Vec<Piece>, EncodeError> {
        let Records::Samples(samples) = &parcel.records else {
            return Ok(Vec::new());
        };
        match self {
            Codec::Json => json::records::samples(sheet, parcel, samples, room),
            Codec::SenmlJson => senml::samples(sheet, parcel, samples, room, senml::Form::Json),
            Codec::SenmlCbor => senml::samples(sheet, parcel, samples, room, senml::Form::Cbor),
            Codec::ThingsBoard => thingsboard::samples(sheet, parcel, samples, room),
            Codec::InfluxLine => influx::samples(sheet, parcel, samples, room),
            Codec::SmartRest => smartrest::samples(sheet, parcel, samples, room),
            Codec::Template(templates) => templates.samples(sheet, parcel, samples, room),
            Codec::Sparkplug => Ok(Vec::new()),
        }
    }

    /// One event; `None` where the profile does not tell of events.
    pub(crate) fn event(
        &self,
        sheet: &Sheet<'_>,
        parcel: &Parcel,
        seq: u64,
        event: &Event,
    ) -> Result<Option<Vec<u8>>, EncodeError> {
        Ok(Some(match self {
            Codec::Json => json::records::event(sheet.gateway, parcel, seq, event),
            Codec::SenmlJson => senml::event(sheet, parcel, seq, event, senml::Form::Json),
            Codec::SenmlCbor => senml::event(sheet, parcel, seq, event, senml::Form::Cbor),
            Codec::ThingsBoard => thingsboard::event(sheet, parcel, seq, event),
            Codec::InfluxLine => influx::event(sheet, parcel, event),
            Codec::SmartRest => smartrest::event(parcel, event),
            Codec::Template(templates) => return templates.event(sheet, parcel, seq, event),
            Codec::Sparkplug => return Ok(None),
        }))
    }

    /// A gap as payloads of at most `limit` bytes, as far as single holes allow.
    pub(crate) fn gap(&self, sheet: &Sheet<'_>, gap: &Gap, limit: usize) -> Vec<Vec<u8>> {
        match self {
            Codec::Json => json::records::gap(sheet.gateway, gap, limit),
            Codec::SenmlJson => senml::gap(sheet.gateway, gap, limit, senml::Form::Json),
            Codec::SenmlCbor => senml::gap(sheet.gateway, gap, limit, senml::Form::Cbor),
            Codec::ThingsBoard => thingsboard::gap(sheet.gateway, gap, limit),
            Codec::InfluxLine => influx::gap(sheet.gateway, gap, limit),
            Codec::SmartRest => smartrest::gap(sheet.gateway, gap, limit),
            Codec::Template(templates) => templates.gap(sheet, gap, limit),
            Codec::Sparkplug => Vec::new(),
        }
    }

    /// Whether the gateway is there. `facts` is what the agent tells about itself.
    pub(crate) fn status(
        &self,
        gateway: &str,
        vars: &BTreeMap<String, String>,
        online: bool,
        facts: &serde_json::Map<String, serde_json::Value>,
    ) -> Option<Vec<u8>> {
        Some(match self {
            Codec::Json | Codec::ThingsBoard => json::status(online, facts),
            Codec::SenmlJson => senml::status(gateway, online, senml::Form::Json),
            Codec::SenmlCbor => senml::status(gateway, online, senml::Form::Cbor),
            Codec::InfluxLine => influx::status(gateway, online),
            // Cumulocity knows by the connection.
            Codec::SmartRest | Codec::Sparkplug => return None,
            Codec::Template(templates) => return templates.status(gateway, vars, online, facts),
        })
    }
}

/// What remains for the payload of a message to `topic`.
pub(crate) fn payload_limit(topic: &str, max_message: usize) -> usize {
    max_message.saturating_sub(topic.len() + PUBLISH_OVERHEAD)
}
