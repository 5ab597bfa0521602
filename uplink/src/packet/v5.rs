//! MQTT 5. What comes from a broker is taken apart here, the codec reads the properties only.

use bytes::{Bytes, BytesMut};
use rumqttc::v5::mqttbytes::{QoS, v5};

use super::{
    Body, CONNACK, ConnAck, Connect, DISCONNECT, Frame, Goodbye, INBOUND_BYTES_MAX, PUBACK,
    PUBLISH, Packet, PacketError, Protocol, Publish, Reason, SUBACK, Terms, UNSUBACK,
};
use crate::message::{Message, Properties};

/// Commands that may come before we have acknowledged the first of them.
const RECEIVE_MAXIMUM: u16 = 64;

pub(super) fn read(frame: Frame) -> Result<Packet, PacketError> {
    let first = frame.first;
    match frame.kind() {
        PUBACK => puback(frame.body()),
        PUBLISH => publish(frame.body(), first),
        CONNACK => connack(frame.body()),
        SUBACK => {
            let mut body = frame.body();
            let id = body.id()?;
            body.properties()?;
            Ok(Packet::SubAck {
                id,
                reasons: body.reasons(),
            })
        }
        UNSUBACK => {
            let mut body = frame.body();
            let id = body.id()?;
            body.properties()?;
            Ok(Packet::UnsubAck {
                id,
                filters: body.0.len(),
            })
        }
        DISCONNECT => disconnect(frame.body()),
        _ => by_codec(frame.bytes),
    }
}

/// Packets that only clients send, and those without a body.
fn by_codec(mut bytes: BytesMut) -> Result<Packet, PacketError> {
    let packet = v5::Packet::read(&mut bytes, None)
        .map_err(|error| PacketError::malformed(error.to_string()))?;
    Ok(match packet {
        v5::Packet::PingReq(_) => Packet::PingReq,
        v5::Packet::PingResp(_) => Packet::PingResp,
        v5::Packet::Connect(connect, will, login) => {
            Packet::Connect(Box::new(introduction(connect, will, login)?))
        }
        v5::Packet::Subscribe(subscribe) => Packet::Subscribe {
            id: subscribe.pkid,
            filters: subscribe.filters.into_iter().map(|f| f.path).collect(),
        },
        v5::Packet::Unsubscribe(unsubscribe) => Packet::Unsubscribe {
            id: unsubscribe.pkid,
            filters: unsubscribe.filters,
        },
        other => return Err(PacketError::malformed(format!("unexpected {other:?}"))),
    })
}

impl Body {
    /// Length and properties, cut out, so that wrong lengths inside cannot reach beyond them. Empty where the
    /// packet ends before them, as short forms do.
    fn properties(&mut self) -> Result<Bytes, PacketError> {
        if self.0.is_empty() {
            return Ok(Bytes::from_static(&[0]));
        }
        let mut length = 0;
        for at in 0..4 {
            let Some(byte) = self.0.get(at).copied() else {
                return Err(Self::short("the length of the properties"));
            };
            length |= usize::from(byte & 0x7f) << (7 * at);
            if byte & 0x80 == 0 {
                let whole = at + 1 + length;
                if whole > self.0.len() {
                    return Err(Self::short("the end of the properties"));
                }
                return Ok(self.0.split_to(whole));
            }
        }
        Err(PacketError::malformed("the properties have no end"))
    }
}

/// Reads a set of properties, and nothing may be left.
fn whole<T, E: std::fmt::Display>(
    mut bytes: Bytes,
    read: impl FnOnce(&mut Bytes) -> Result<Option<T>, E>,
) -> Result<Option<T>, PacketError> {
    let properties = read(&mut bytes).map_err(|error| PacketError::malformed(error.to_string()))?;
    match bytes.is_empty() {
        true => Ok(properties),
        false => Err(PacketError::malformed(
            "its properties are longer than said",
        )),
    }
}

fn puback(mut body: Body) -> Result<Packet, PacketError> {
    // One that nobody waits for is harmless, 0 among them.
    let id = body.u16("the packet id")?;
    // What the broker says to people with it is not worth the reading.
    let reason = match body.0.first() {
        Some(code) => Reason(*code),
        None => Reason::SUCCESS,
    };
    Ok(Packet::PubAck { id, reason })
}

fn publish(mut body: Body, first: u8) -> Result<Packet, PacketError> {
    let mut publish = body.publish_head(first)?;
    let properties = whole(body.properties()?, v5::PublishProperties::read)?;
    publish.payload = body.0;
    if let Some(read) = properties {
        publish.alias = read.topic_alias;
        let properties = Properties {
            expiry_s: read.message_expiry_interval,
            content_type: read.content_type,
            response_topic: read.response_topic,
            correlation: read.correlation_data,
            user: read.user_properties,
        };
        publish.properties = (properties != Properties::default()).then(|| Box::new(properties));
    }
    Ok(Packet::Publish(publish))
}

fn connack(mut body: Body) -> Result<Packet, PacketError> {
    body.u8("the flags")?;
    let code = body.u8("the reason")?;
    if body.0.is_empty() {
        // A broker that speaks 3.1.1 only answers so.
        return Ok(Packet::ConnAck(Box::new(ConnAck {
            reason: Reason::of_connack_311(code),
            ..ConnAck::default()
        })));
    }
    let mut ack = ConnAck {
        reason: Reason(code),
        terms: Terms {
            protocol: Protocol::V5,
            ..Terms::default()
        },
        ..ConnAck::default()
    };
    if let Some(read) = whole(body.properties()?, v5::ConnAckProperties::read)? {
        ack.text = read.reason_string;
        ack.reference = read.server_reference;
        ack.terms = Terms {
            protocol: Protocol::V5,
            // Zero would be an error of the broker's; one still gets on.
            receive_maximum: read.receive_max.unwrap_or(u16::MAX).max(1),
            max_packet: read.max_packet_size.and_then(|n| usize::try_from(n).ok()),
            topic_alias_maximum: read.topic_alias_max.unwrap_or(0),
            takes_qos1: read.max_qos != Some(0),
            retains: read.retain_available != Some(0),
            keep_alive_s: read.server_keep_alive,
            client_id: read.assigned_client_identifier,
        };
    }
    Ok(Packet::ConnAck(Box::new(ack)))
}

fn disconnect(mut body: Body) -> Result<Packet, PacketError> {
    let mut parting = Goodbye::default();
    if body.0.is_empty() {
        return Ok(Packet::Disconnect(parting));
    }
    parting.reason = Reason(body.u8("the reason")?);
    if let Some(read) = whole(body.properties()?, v5::DisconnectProperties::extract)? {
        parting.text = read.reason_string;
        parting.reference = read.server_reference;
    }
    Ok(Packet::Disconnect(parting))
}

pub(super) fn write(out: &mut BytesMut, packet: Packet) -> Result<(), PacketError> {
    let packet = match packet {
        Packet::Publish(publish) => v5::Packet::Publish(written_publish(publish)),
        Packet::PubAck { id, reason } => {
            match reason {
                Reason::SUCCESS => out.extend_from_slice(&[PUBACK << 4, 2]),
                _ => out.extend_from_slice(&[PUBACK << 4, 3]),
            }
            out.extend_from_slice(&id.to_be_bytes());
            if reason != Reason::SUCCESS {
                out.extend_from_slice(&[reason.0]);
            }
            return Ok(());
        }
        Packet::Connect(connect) => {
            let (connect, will, login) = written_connect(*connect);
            v5::Packet::Connect(connect, will, login)
        }
        Packet::ConnAck(ack) => return write_connack(out, *ack),
        Packet::Subscribe { id, filters } => {
            let filters = filters
                .into_iter()
                .map(|filter| v5::Filter::new(filter, QoS::AtLeastOnce));
            let mut subscribe = v5::Subscribe::new_many(filters, None);
            subscribe.pkid = id;
            v5::Packet::Subscribe(subscribe)
        }
        Packet::Listen { id, filter } => {
            let filter = v5::Filter::new(filter, QoS::AtMostOnce);
            let mut subscribe = v5::Subscribe::new(filter, None);
            subscribe.pkid = id;
            v5::Packet::Subscribe(subscribe)
        }
        Packet::SubAck { id, reasons } => {
            return write_codes(out, SUBACK, id, &reasons);
        }
        Packet::UnsubAck { id, filters } => {
            return write_codes(out, UNSUBACK, id, &vec![Reason::SUCCESS; filters]);
        }
        Packet::Unsubscribe { id, filters } => v5::Packet::Unsubscribe(v5::Unsubscribe {
            pkid: id,
            filters,
            properties: None,
        }),
        Packet::PingReq => v5::Packet::PingReq(v5::PingReq),
        Packet::PingResp => v5::Packet::PingResp(v5::PingResp),
        Packet::Disconnect(parting) => {
            let body: &[u8] = match parting.reason {
                Reason::SUCCESS => &[],
                reason => &[reason.0],
            };
            out.extend_from_slice(&[DISCONNECT << 4, u8::from(!body.is_empty())]);
            out.extend_from_slice(body);
            return Ok(());
        }
    };
    packet
        .write(out, None)
        .map(|_| ())
        .map_err(|error| PacketError::malformed(error.to_string()))
}

fn written_publish(publish: Publish) -> v5::Publish {
    let mut properties = publish.properties.map(|own| v5::PublishProperties {
        message_expiry_interval: own.expiry_s,
        content_type: own.content_type,
        response_topic: own.response_topic,
        correlation_data: own.correlation,
        user_properties: own.user,
        ..v5::PublishProperties::default()
    });
    if publish.alias.is_some() {
        properties.get_or_insert_default().topic_alias = publish.alias;
    }
    v5::Publish {
        dup: false,
        qos: match publish.id {
            Some(_) => QoS::AtLeastOnce,
            None => QoS::AtMostOnce,
        },
        retain: publish.retain,
        topic: publish.topic.into(),
        pkid: publish.id.unwrap_or(0),
        payload: publish.payload,
        properties,
    }
}

fn written_connect(connect: Connect) -> (v5::Connect, Option<v5::LastWill>, Option<v5::Login>) {
    let mut properties = v5::ConnectProperties::new();
    properties.receive_maximum = Some(RECEIVE_MAXIMUM);
    properties.max_packet_size = u32::try_from(INBOUND_BYTES_MAX).ok();
    let will = connect.will.map(|will| v5::LastWill {
        topic: will.topic.into(),
        message: will.payload,
        qos: QoS::AtLeastOnce,
        retain: will.retain,
        properties: None,
    });
    let login = (connect.username.is_some() || connect.password.is_some()).then(|| {
        v5::Login::new(
            connect.username.unwrap_or_default(),
            connect.password.unwrap_or_default(),
        )
    });
    let packet = v5::Connect {
        keep_alive: connect.keep_alive_s,
        client_id: connect.client_id,
        clean_start: true,
        properties: Some(properties),
    };
    (packet, will, login)
}

fn introduction(
    connect: v5::Connect,
    will: Option<v5::LastWill>,
    login: Option<v5::Login>,
) -> Result<Connect, PacketError> {
    let (username, password) = match login {
        Some(login) => (Some(login.username), Some(login.password)),
        None => (None, None),
    };
    let will = will.map(|will| {
        let topic = String::from_utf8(will.topic.to_vec())
            .map_err(|_| PacketError::malformed("the will's topic is no UTF-8"))?;
        Ok(Message {
            retain: will.retain,
            ..Message::new(topic, will.message)
        })
    });
    Ok(Connect {
        client_id: connect.client_id,
        username,
        password,
        keep_alive_s: connect.keep_alive,
        will: will.transpose()?,
    })
}

/// The codec knows some reasons only.
fn write_connack(out: &mut BytesMut, ack: ConnAck) -> Result<(), PacketError> {
    let terms = ack.terms;
    let default = Terms::default();
    let receive_max =
        (terms.receive_maximum != default.receive_maximum).then_some(terms.receive_maximum);
    let alias_max = (terms.topic_alias_maximum > 0).then_some(terms.topic_alias_maximum);
    let properties = v5::ConnAckProperties {
        session_expiry_interval: None,
        receive_max,
        max_qos: (!terms.takes_qos1).then_some(0),
        retain_available: (!terms.retains).then_some(0),
        max_packet_size: terms.max_packet.and_then(|bytes| u32::try_from(bytes).ok()),
        assigned_client_identifier: terms.client_id,
        topic_alias_max: alias_max,
        reason_string: ack.text,
        user_properties: Vec::new(),
        wildcard_subscription_available: None,
        subscription_identifiers_available: None,
        shared_subscription_available: None,
        server_keep_alive: terms.keep_alive_s,
        response_information: None,
        server_reference: ack.reference,
        authentication_method: None,
        authentication_data: None,
    };
    let mut body = BytesMut::from(&[0, ack.reason.0][..]);
    properties
        .write(&mut body)
        .map_err(|error| PacketError::malformed(error.to_string()))?;
    write_short(out, CONNACK, &body)
}

fn write_codes(
    out: &mut BytesMut,
    kind: u8,
    id: u16,
    reasons: &[Reason],
) -> Result<(), PacketError> {
    let mut body = BytesMut::from(&id.to_be_bytes()[..]);
    body.extend_from_slice(&[0]);
    body.extend(reasons.iter().map(|reason| reason.0));
    write_short(out, kind, &body)
}

/// A packet with a body of less than 16 KiB, as what a broker answers is.
fn write_short(out: &mut BytesMut, kind: u8, body: &[u8]) -> Result<(), PacketError> {
    let (low, high) = (body.len() % 128, body.len() / 128);
    out.extend_from_slice(&[kind << 4]);
    match (u8::try_from(low), u8::try_from(high)) {
        (Ok(low), Ok(0)) => out.extend_from_slice(&[low]),
        (Ok(low), Ok(high)) if high < 128 => out.extend_from_slice(&[low | 0x80, high]),
        _ => return Err(PacketError::malformed("an answer of 16 KiB")),
    }
    out.extend_from_slice(body);
    Ok(())
}
