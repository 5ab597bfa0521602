//! A message on its way to the broker, or from it.

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
    /// What goes with it in MQTT 5, and is left out in 3.1.1.
    pub properties: Option<Box<Properties>>,
}

/// What MQTT 5 carries beside a payload.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Properties {
    /// Seconds after which the broker throws a message away that it could not deliver.
    pub expiry_s: Option<u32>,
    /// What the payload is.
    pub content_type: Option<String>,
    /// Where an answer is expected.
    pub response_topic: Option<String>,
    /// What the answer is to bring back.
    pub correlation: Option<Bytes>,
    /// Names and values that only the receiver understands.
    pub user: Vec<(String, String)>,
}

/// A message that came from the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inbound {
    /// Where it was published.
    pub topic: String,
    /// What.
    pub payload: Bytes,
    /// Whether it was kept by the broker, and is older than our subscription.
    pub retained: bool,
    /// What came with it.
    pub properties: Properties,
}

/// The longest topic, user name or client id that MQTT can carry: its length is 16 bits.
pub const STRING_BYTES_MAX: usize = u16::MAX as usize;

/// What a QoS 1 PUBLISH takes beside topic and payload, at most: packet type (1), remaining length
/// (4), topic length (2), packet id (2), and in MQTT 5 the length of the properties (1) and a topic alias (3).
pub const PUBLISH_OVERHEAD: usize = 13;

impl Message {
    /// A message that the broker does not keep.
    pub fn new(topic: impl Into<String>, payload: impl Into<Bytes>) -> Self {
        Self {
            topic: topic.into(),
            payload: payload.into(),
            retain: false,
            properties: None,
        }
    }

    /// A message that the broker keeps.
    pub fn retained(topic: impl Into<String>, payload: impl Into<Bytes>) -> Self {
        Self {
            retain: true,
            ..Self::new(topic, payload)
        }
    }

    /// The properties, to be added to.
    pub fn properties_mut(&mut self) -> &mut Properties {
        self.properties.get_or_insert_default()
    }

    /// What it takes on the wire, at most.
    pub fn wire_bytes(&self) -> usize {
        let properties = self.properties.as_ref().map_or(0, |p| p.wire_bytes());
        PUBLISH_OVERHEAD + self.topic.len() + self.payload.len() + properties
    }
}

impl Properties {
    /// What they take on the wire, at most: an identifier each, lengths of two bytes, and a longer length of all.
    fn wire_bytes(&self) -> usize {
        let text = |text: &Option<String>| text.as_ref().map_or(0, |text| 3 + text.len());
        let user = self
            .user
            .iter()
            .map(|(name, value)| 5 + name.len() + value.len());
        3 + self.expiry_s.map_or(0, |_| 5)
            + text(&self.content_type)
            + text(&self.response_topic)
            + self.correlation.as_ref().map_or(0, |data| 3 + data.len())
            + user.sum::<usize>()
    }

    /// The name of a part that is too long for the packet.
    pub(crate) fn too_long(&self) -> Option<&'static str> {
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let user = self
            .user
            .iter()
            .flat_map(|(name, value)| [name.len(), value.len()]);
        let parts = [
            ("the content type", text(&self.content_type)),
            ("the response topic", text(&self.response_topic)),
            (
                "the correlation data",
                self.correlation.as_ref().map_or(0, Bytes::len),
            ),
            ("a user property", user.max().unwrap_or(0)),
        ];
        let long = parts.iter().find(|(_, bytes)| *bytes > STRING_BYTES_MAX);
        long.map(|(name, _)| *name)
    }
}
