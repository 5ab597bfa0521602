//! The packets of MQTT 3.1.1 and 5 behind one type, and the only place that knows the packet codec (rumqttc's),
//! so that it can be replaced.
//!
//! Packets are cut out of the stream here, and what a broker answers is taken apart here: the codec mistakes a short
//! packet for one that has not arrived whole, and refuses reason codes that it does not know
//! (docs/decisions/0009-mqtt-5-codec.md).

mod reason;
mod v311;
mod v5;

#[cfg(test)]
mod tests;

use std::fmt;

use bytes::{Buf, Bytes, BytesMut};

use crate::message::{Message, Properties, STRING_BYTES_MAX};

pub use reason::Reason;
pub(crate) use reason::{AckFate, PartingCause};

/// The largest packet that we take from a broker: commands may carry a whole configuration.
pub(crate) const INBOUND_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A version of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    /// MQTT 3.1.1: a broker that does not want a message has no word for it.
    #[default]
    V311,
    /// MQTT 5: reasons, limits, properties.
    V5,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::V311 => "MQTT 3.1.1",
            Protocol::V5 => "MQTT 5",
        })
    }
}

/// What the peer sent is no MQTT.
#[derive(Debug, thiserror::Error)]
pub enum PacketError {
    /// The packet announces more than we are willing to hold.
    #[error("a packet of {bytes} bytes was announced; the limit is {limit}")]
    TooLarge {
        /// Announced size.
        bytes: usize,
        /// Our limit.
        limit: usize,
    },
    /// The bytes make no packet.
    #[error("the bytes are no packet of MQTT: {0}")]
    Malformed(String),
}

impl PacketError {
    fn malformed(what: impl Into<String>) -> Self {
        PacketError::Malformed(what.into())
    }
}

/// A packet, in either direction and of either version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Packet {
    Connect(Box<Connect>),
    ConnAck(Box<ConnAck>),
    Publish(Publish),
    PubAck {
        id: u16,
        reason: Reason,
    },
    Subscribe {
        id: u16,
        filters: Vec<String>,
    },
    /// A SUBSCRIBE at QoS 0; one that is read is a `Subscribe`.
    Listen {
        id: u16,
        filter: String,
    },
    SubAck {
        id: u16,
        reasons: Vec<Reason>,
    },
    Unsubscribe {
        id: u16,
        filters: Vec<String>,
    },
    UnsubAck {
        id: u16,
        filters: usize,
    },
    PingReq,
    PingResp,
    Disconnect(Goodbye),
}

/// What a CONNECT says of us. The session is always a clean one: nothing is left to the broker's memory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Connect {
    pub(crate) client_id: String,
    pub(crate) username: Option<String>,
    pub(crate) password: Option<String>,
    pub(crate) keep_alive_s: u16,
    /// At QoS 1.
    pub(crate) will: Option<Message>,
}

impl Connect {
    /// The name of a part that is too long for the packet.
    pub(crate) fn too_long(&self) -> Option<&'static str> {
        let will_bytes = |part: fn(&Message) -> usize| self.will.as_ref().map_or(0, part);
        let parts = [
            ("client_id", self.client_id.len()),
            ("username", self.username.as_ref().map_or(0, String::len)),
            ("password", self.password.as_ref().map_or(0, String::len)),
            ("the will's topic", will_bytes(|will| will.topic.len())),
            ("the will", will_bytes(|will| will.payload.len())),
        ];
        let long = parts.iter().find(|(_, bytes)| *bytes > STRING_BYTES_MAX);
        long.map(|(name, _)| *name)
    }
}

/// The answer to a CONNECT.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct ConnAck {
    pub(crate) reason: Reason,
    /// What the broker says to people.
    pub(crate) text: Option<String>,
    /// The server that we are sent to.
    pub(crate) reference: Option<String>,
    pub(crate) terms: Terms,
}

/// What a broker granted with its CONNACK. MQTT 3.1.1 has none of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// The version that both speak.
    pub protocol: Protocol,
    /// Messages that may wait for their PUBACK.
    pub receive_maximum: u16,
    /// The largest packet that it takes, where it says.
    pub max_packet: Option<usize>,
    /// Topics that may be replaced by a number.
    pub topic_alias_maximum: u16,
    /// Whether it takes messages at QoS 1; without them nothing is acknowledged.
    pub takes_qos1: bool,
    /// Whether it keeps retained messages.
    pub retains: bool,
    /// The longest silence that it allows, in seconds, where it wants another than ours.
    pub keep_alive_s: Option<u16>,
    /// The client id that it gave us, where we had none.
    pub client_id: Option<String>,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            protocol: Protocol::V311,
            receive_maximum: u16::MAX,
            max_packet: None,
            topic_alias_maximum: 0,
            takes_qos1: true,
            retains: true,
            keep_alive_s: None,
            client_id: None,
        }
    }
}

/// A PUBLISH at QoS 1, or at QoS 0 without an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Publish {
    pub(crate) id: Option<u16>,
    /// Empty where `alias` stands for it.
    pub(crate) topic: String,
    pub(crate) payload: Bytes,
    pub(crate) retain: bool,
    pub(crate) alias: Option<u16>,
    /// Left out in MQTT 3.1.1.
    pub(crate) properties: Option<Box<Properties>>,
}

impl Publish {
    /// Without an id at QoS 0.
    pub(crate) fn new(message: Message, id: impl Into<Option<u16>>) -> Self {
        Self {
            id: id.into(),
            topic: message.topic,
            payload: message.payload,
            retain: message.retain,
            alias: None,
            properties: message.properties,
        }
    }
}

/// A DISCONNECT, in MQTT 5 from either side.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Goodbye {
    pub(crate) reason: Reason,
    /// What the broker says to people.
    pub(crate) text: Option<String>,
    /// The server that we are sent to.
    pub(crate) reference: Option<String>,
}

/// Takes the next whole packet off the front of `inbound`; `None` until there is one.
pub(crate) fn read(
    protocol: Protocol,
    inbound: &mut BytesMut,
    limit: usize,
) -> Result<Option<Packet>, PacketError> {
    let Some(frame) = Frame::take(inbound, limit)? else {
        return Ok(None);
    };
    match protocol {
        Protocol::V311 => v311::read(frame),
        Protocol::V5 => v5::read(frame),
    }
    .map(Some)
}

/// Appends a packet. What is too long for it was refused before, so that it cannot fail.
pub(crate) fn write(
    protocol: Protocol,
    out: &mut BytesMut,
    packet: Packet,
) -> Result<(), PacketError> {
    match protocol {
        Protocol::V311 => v311::write(out, packet),
        Protocol::V5 => v5::write(out, packet),
    }
}

/// The version that a CONNECT at the front of `inbound` asks for, by its level; `None` until that has arrived.
#[cfg(feature = "sim")]
pub(crate) fn asked_level(inbound: &[u8]) -> Option<u8> {
    let (_, header) = Frame::measure(inbound).ok()??;
    // Two bytes of length, then `MQTT`.
    inbound.get(header + 6).copied()
}

/// A whole packet, cut out of the stream.
struct Frame {
    /// Type and flags.
    first: u8,
    /// Bytes before the body.
    header: usize,
    bytes: BytesMut,
}

impl Frame {
    /// Length of the body and of what stands before it; `None` while that cannot be known.
    fn measure(inbound: &[u8]) -> Result<Option<(usize, usize)>, PacketError> {
        let mut body = 0;
        for at in 0..4 {
            let Some(byte) = inbound.get(1 + at) else {
                return Ok(None);
            };
            body |= usize::from(byte & 0x7f) << (7 * at);
            if byte & 0x80 == 0 {
                return Ok(Some((body, 2 + at)));
            }
        }
        Err(PacketError::malformed("its length has no end"))
    }

    fn take(inbound: &mut BytesMut, limit: usize) -> Result<Option<Self>, PacketError> {
        let Some((body, header)) = Self::measure(inbound)? else {
            return Ok(None);
        };
        if body > limit {
            return Err(PacketError::TooLarge { bytes: body, limit });
        }
        if inbound.len() < header + body {
            return Ok(None);
        }
        Ok(Some(Self {
            first: inbound[0],
            header,
            bytes: inbound.split_to(header + body),
        }))
    }

    /// The type of the packet.
    fn kind(&self) -> u8 {
        self.first >> 4
    }

    fn body(self) -> Body {
        let mut bytes = self.bytes.freeze();
        bytes.advance(self.header);
        Body(bytes)
    }
}

const CONNACK: u8 = 2;
const PUBLISH: u8 = 3;
const PUBACK: u8 = 4;
const SUBACK: u8 = 9;
const UNSUBACK: u8 = 11;
const DISCONNECT: u8 = 14;

/// The body of a packet, read from its front.
struct Body(Bytes);

impl Body {
    fn short(what: &str) -> PacketError {
        PacketError::malformed(format!("it ends before {what}"))
    }

    fn u8(&mut self, what: &str) -> Result<u8, PacketError> {
        self.0.try_get_u8().map_err(|_| Self::short(what))
    }

    fn u16(&mut self, what: &str) -> Result<u16, PacketError> {
        self.0.try_get_u16().map_err(|_| Self::short(what))
    }

    /// A packet id, which is never zero.
    fn id(&mut self) -> Result<u16, PacketError> {
        match self.u16("the packet id")? {
            0 => Err(PacketError::malformed("its packet id is 0")),
            id => Ok(id),
        }
    }

    fn text(&mut self, what: &str) -> Result<String, PacketError> {
        let length = usize::from(self.u16(what)?);
        if length > self.0.len() {
            return Err(Self::short(what));
        }
        String::from_utf8(self.0.split_to(length).to_vec())
            .map_err(|_| PacketError::malformed(format!("{what} is no UTF-8")))
    }

    /// Type and flags of a PUBLISH, and what both versions have before the properties.
    fn publish_head(&mut self, first: u8) -> Result<Publish, PacketError> {
        let topic = self.text("the topic")?;
        let id = match (first >> 1) & 3 {
            0 => None,
            1 => Some(self.id()?),
            // We subscribe at QoS 1.
            _ => {
                return Err(PacketError::malformed(
                    "a QoS 2 message that nobody asked for",
                ));
            }
        };
        Ok(Publish {
            id,
            topic,
            payload: Bytes::new(),
            retain: first & 1 != 0,
            alias: None,
            properties: None,
        })
    }

    fn reasons(&mut self) -> Vec<Reason> {
        std::mem::take(&mut self.0)
            .iter()
            .map(|code| Reason(*code))
            .collect()
    }
}
