//! The only place that knows the packet codec (rumqttc's, MQTT 3.1.1), so that it can be replaced.

use bytes::{Bytes, BytesMut};
use rumqttc::mqttbytes::v4;
use rumqttc::mqttbytes::{self, QoS};

pub(crate) use rumqttc::mqttbytes::v4::{ConnectReturnCode, Packet};

use crate::message::{Message, STRING_BYTES_MAX};

/// The largest packet that we take from a broker: commands may carry a whole configuration.
pub(crate) const INBOUND_BYTES_MAX: usize = 4 * 1024 * 1024;

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
    #[error("the bytes are no MQTT 3.1.1 packet: {0}")]
    Malformed(String),
}

/// Takes the next whole packet off the front of `inbound`; `None` until there is one.
pub(crate) fn read(inbound: &mut BytesMut, limit: usize) -> Result<Option<Packet>, PacketError> {
    match Packet::read(inbound, limit) {
        Ok(packet) => Ok(Some(packet)),
        Err(mqttbytes::Error::InsufficientBytes(_)) => Ok(None),
        Err(mqttbytes::Error::PayloadSizeLimitExceeded(bytes)) => {
            Err(PacketError::TooLarge { bytes, limit })
        }
        Err(other) => Err(PacketError::Malformed(other.to_string())),
    }
}

/// Appends a packet. Its sizes were checked when it was made, so that it cannot fail.
pub(crate) fn write(out: &mut BytesMut, packet: &Packet) -> Result<(), PacketError> {
    packet
        .write(out, usize::MAX)
        .map(|_| ())
        .map_err(|error| PacketError::Malformed(error.to_string()))
}

/// A QoS 1 PUBLISH.
pub(crate) fn publish(message: Message, id: u16) -> Packet {
    Packet::Publish(v4::Publish {
        dup: false,
        qos: QoS::AtLeastOnce,
        retain: message.retain,
        topic: message.topic,
        pkid: id,
        payload: message.payload,
    })
}

/// A QoS 0 PUBLISH: nobody acknowledges it.
pub(crate) fn publish_unacked(message: Message) -> Packet {
    Packet::Publish(v4::Publish {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: message.retain,
        topic: message.topic,
        pkid: 0,
        payload: message.payload,
    })
}

/// A SUBSCRIBE at QoS 1.
pub(crate) fn subscribe(filters: &[String], id: u16) -> Packet {
    let mut packet = v4::Subscribe::new_many(
        filters
            .iter()
            .map(|filter| v4::SubscribeFilter::new(filter.clone(), QoS::AtLeastOnce)),
    );
    packet.pkid = id;
    Packet::Subscribe(packet)
}

/// The filters of a SUBSCRIBE that the broker refused.
pub(crate) fn refused<'a>(suback: &v4::SubAck, filters: &'a [String]) -> Vec<&'a str> {
    filters
        .iter()
        .zip(&suback.return_codes)
        .filter(|(_, code)| matches!(code, v4::SubscribeReasonCode::Failure))
        .map(|(filter, _)| filter.as_str())
        .collect()
}

/// A PUBACK.
pub(crate) fn puback(id: u16) -> Packet {
    Packet::PubAck(v4::PubAck::new(id))
}

/// What a CONNECT says of us.
pub(crate) struct Introduction<'a> {
    pub(crate) client_id: &'a str,
    pub(crate) username: Option<&'a str>,
    pub(crate) password: Option<&'a str>,
    pub(crate) keep_alive_s: u16,
    pub(crate) will: Option<&'a Message>,
}

/// A CONNECT with a clean session: nothing is left to the broker's memory.
///
/// # Errors
/// Names the setting that is too long for the packet.
pub(crate) fn connect(introduction: &Introduction<'_>) -> Result<Packet, &'static str> {
    let will_bytes = |part: fn(&Message) -> usize| introduction.will.map_or(0, part);
    for (name, bytes) in [
        ("client_id", introduction.client_id.len()),
        ("username", introduction.username.map_or(0, str::len)),
        ("password", introduction.password.map_or(0, str::len)),
        ("the will's topic", will_bytes(|will| will.topic.len())),
        ("the will", will_bytes(|will| will.payload.len())),
    ] {
        if bytes > STRING_BYTES_MAX {
            return Err(name);
        }
    }
    let mut packet = v4::Connect::new(introduction.client_id);
    packet.keep_alive = introduction.keep_alive_s;
    packet.clean_session = true;
    packet.last_will = introduction.will.map(|will| v4::LastWill {
        topic: will.topic.clone(),
        message: will.payload.clone(),
        qos: QoS::AtLeastOnce,
        retain: will.retain,
    });
    if introduction.username.is_some() || introduction.password.is_some() {
        packet.set_login(
            introduction.username.unwrap_or_default(),
            introduction.password.unwrap_or_default(),
        );
    }
    Ok(Packet::Connect(packet))
}

/// An inbound PUBLISH, taken apart.
pub(crate) struct Inbound {
    pub(crate) topic: String,
    pub(crate) payload: Bytes,
    pub(crate) retained: bool,
    /// The packet id to acknowledge, at QoS 1.
    pub(crate) ack: Option<u16>,
}

/// Takes a PUBLISH apart. We subscribe at QoS 1, so that a broker may not send QoS 2.
pub(crate) fn inbound(publish: v4::Publish) -> Result<Inbound, PacketError> {
    let ack = match publish.qos {
        QoS::AtMostOnce => None,
        QoS::AtLeastOnce => Some(publish.pkid),
        QoS::ExactlyOnce => {
            return Err(PacketError::Malformed(
                "a QoS 2 message that nobody asked for".into(),
            ));
        }
    };
    Ok(Inbound {
        topic: publish.topic,
        payload: publish.payload,
        retained: publish.retain,
        ack,
    })
}
