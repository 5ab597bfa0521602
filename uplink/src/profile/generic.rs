//! The profile `generic`: readable topics and JSON, for any core that speaks MQTT.
//!
//! | topic | payload |
//! |---|---|
//! | `millrace/<gateway>/data/<source>` | samples |
//! | `millrace/<gateway>/event/<source>` | one event a message |
//! | `millrace/<gateway>/gap` | numbers that will never come |
//! | `millrace/<gateway>/status` | retained; also the will |
//! | `millrace/<gateway>/clock` | where a boot stands in UTC |
//! | `millrace/<gateway>/cmd`, `…/cmd/<id>` | commands and their replies |
//!
//! Names become topic parts as [`crate::topic`] says: a `/` in a source's name separates levels, what
//! MQTT forbids is percent-encoded. The payload always carries the names as they are.
//!
//! Numbers are written as JSON numbers only when they are finite; a NaN or an infinity becomes a bad
//! sample with the reason `not-a-number`.

mod command;
mod json;
mod records;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use millrace_tags::{Gap, Lane, Parcel, Records, Reply, TagId, Timebase};

use crate::message::{Message, PUBLISH_OVERHEAD};
use crate::topic;

pub use command::{COMMAND_BYTES_MAX, CommandError};

/// A backlog message is no larger than this, so that live data never waits behind one for long.
pub const BACKLOG_MESSAGE_BYTES: usize = 64 * 1024;

/// The profile, for one gateway.
#[derive(Debug, Clone)]
pub struct Generic {
    gateway: String,
    /// `millrace/<gateway>`.
    base: String,
}

/// Why a parcel cannot become messages. What a caller does: set the record aside, send what is before
/// and after it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
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
}

impl EncodeError {
    /// The number of the record that is in the way.
    pub fn seq(&self) -> u64 {
        match self {
            EncodeError::TooLarge { seq, .. } | EncodeError::UnknownTag { seq, .. } => *seq,
        }
    }
}

impl Generic {
    /// The profile for the gateway of this id.
    pub fn new(gateway: impl Into<String>) -> Self {
        let gateway = gateway.into();
        let base = format!("millrace/{}", topic::level(&gateway));
        Self { gateway, base }
    }

    /// The gateway's id, as it is.
    pub fn gateway(&self) -> &str {
        &self.gateway
    }

    /// Where samples of a source go.
    pub fn data_topic(&self, source: &str) -> String {
        format!("{}/data/{}", self.base, topic::levels(source))
    }

    /// Where events of a source go.
    pub fn event_topic(&self, source: &str) -> String {
        format!("{}/event/{}", self.base, topic::levels(source))
    }

    /// Where gaps go.
    pub fn gap_topic(&self) -> String {
        format!("{}/gap", self.base)
    }

    /// Where the retained status is.
    pub fn status_topic(&self) -> String {
        format!("{}/status", self.base)
    }

    /// Where the offset of a boot is told.
    pub fn clock_topic(&self) -> String {
        format!("{}/clock", self.base)
    }

    /// Where commands come from; the only topic to subscribe.
    pub fn command_topic(&self) -> String {
        format!("{}/cmd", self.base)
    }

    /// Where the reply to a command goes.
    pub fn reply_topic(&self, id: &str) -> String {
        format!("{}/cmd/{}", self.base, topic::level(id))
    }

    /// The parcel as messages, each no larger on the wire than `max_message` (backlog:
    /// [`BACKLOG_MESSAGE_BYTES`], unless one record alone takes more). A parcel of samples becomes as few messages as fit; each says the
    /// range of numbers that it carries, and the ranges follow each other without a hole. Of events
    /// each gets its own message.
    ///
    /// # Errors
    /// When a record cannot be encoded; it names the record.
    pub fn encode_parcel(
        &self,
        parcel: &Parcel,
        max_message: usize,
    ) -> Result<Vec<Message>, EncodeError> {
        let limit = match parcel.lane {
            Lane::Backlog => max_message.min(BACKLOG_MESSAGE_BYTES),
            Lane::Alarm | Lane::Live => max_message,
        };
        match &parcel.records {
            Records::Samples(samples) => {
                records::samples(self, parcel, samples, limit, max_message)
            }
            Records::Events(events) => records::events(self, parcel, events, max_message),
        }
    }

    /// Appends record `at` of a parcel as one JSON object, for files: `source`, `stream`, `seq`, then the
    /// members that the record has in a message.
    pub fn json_line(out: &mut Vec<u8>, parcel: &Parcel, at: usize) {
        records::line(out, parcel, at);
    }

    /// The gap as messages, each no larger than `max_message`: it is split by holes where it must be.
    pub fn encode_gap(&self, gap: &Gap, max_message: usize) -> Vec<Message> {
        let topic = self.gap_topic();
        let limit = payload_limit(&topic, max_message);
        records::gap(&self.gateway, gap, limit)
            .into_iter()
            .map(|payload| Message::new(topic.clone(), payload))
            .collect()
    }

    /// The retained status. `facts` is what the agent tells about itself; a key `online` in it is
    /// overwritten.
    pub fn status(
        &self,
        online: bool,
        facts: &serde_json::Map<String, serde_json::Value>,
    ) -> Message {
        let mut status = facts.clone();
        status.insert("online".into(), online.into());
        Message::retained(
            self.status_topic(),
            serde_json::Value::Object(status).to_string(),
        )
    }

    /// What the broker says for a gateway that vanished, and the gateway itself when it leaves.
    pub fn offline(&self) -> Message {
        Message::retained(
            self.status_topic(),
            Bytes::from_static(b"{\"online\":false}"),
        )
    }

    /// Where the boot stands in UTC; `None` while that is not known.
    pub fn clock(&self, timebase: &Timebase) -> Option<Message> {
        let offset_ns = timebase.offset_ns?;
        let mut payload = Vec::with_capacity(96);
        payload.extend_from_slice(b"{\"boot\":\"");
        payload.extend_from_slice(timebase.boot.0.to_string().as_bytes());
        payload.extend_from_slice(b"\",\"offset_ms\":");
        json::millis(&mut payload, offset_ns);
        payload.push(b'}');
        Some(Message::new(self.clock_topic(), payload))
    }

    /// The reply to a command.
    pub fn reply(&self, reply: &Reply) -> Message {
        // A `Reply` is plain data with text keys: serialising it cannot fail.
        let payload = serde_json::to_vec(reply).unwrap_or_default();
        Message::new(self.reply_topic(&reply.id), payload)
    }

    /// A command out of the payload of [`Generic::command_topic`].
    ///
    /// # Errors
    /// Says what is wrong; [`CommandError::id`] is there when a reply can be addressed.
    pub fn parse_command(payload: &[u8]) -> Result<millrace_tags::Command, CommandError> {
        command::parse(payload)
    }
}

/// What remains for the payload of a message to `topic`.
fn payload_limit(topic: &str, max_message: usize) -> usize {
    max_message.saturating_sub(topic.len() + PUBLISH_OVERHEAD)
}
