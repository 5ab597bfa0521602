//! A message on its way to the broker.

use bytes::Bytes;

/// One PUBLISH at QoS 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Where to.
    pub topic: String,
    /// What.
    pub payload: Bytes,
    /// Whether the broker keeps it for later subscribers.
    pub retain: bool,
}

/// The longest topic, user name or client id that MQTT can carry: its length is 16 bits.
pub const STRING_BYTES_MAX: usize = u16::MAX as usize;

/// What a QoS 1 PUBLISH takes beside topic and payload, at most: packet type (1), remaining length
/// (4), topic length (2), packet id (2).
pub const PUBLISH_OVERHEAD: usize = 9;

impl Message {
    /// A message that the broker does not keep.
    pub fn new(topic: impl Into<String>, payload: impl Into<Bytes>) -> Self {
        Self {
            topic: topic.into(),
            payload: payload.into(),
            retain: false,
        }
    }

    /// A message that the broker keeps.
    pub fn retained(topic: impl Into<String>, payload: impl Into<Bytes>) -> Self {
        Self {
            retain: true,
            ..Self::new(topic, payload)
        }
    }

    /// What it takes on the wire, at most.
    pub fn wire_bytes(&self) -> usize {
        PUBLISH_OVERHEAD + self.topic.len() + self.payload.len()
    }
}
