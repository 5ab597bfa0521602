//! MQTT 3.1.1. Its few codes become the reasons of MQTT 5 that mean the same.

use bytes::BytesMut;
use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v4;

use super::{
    CONNACK, ConnAck, Connect, Frame, Goodbye, PUBACK, PUBLISH, Packet, PacketError, Publish,
    Reason, SUBACK,
};
use crate::message::Message;

pub(super) fn read(frame: Frame) -> Result<Packet, PacketError> {
    let first = frame.first;
    match frame.kind() {
        PUBACK => {
            // One that nobody waits for is harmless, 0 among them.
            let id = frame.body().u16("the packet id")?;
            return Ok(Packet::PubAck {
                id,
                reason: Reason::SUCCESS,
            });
        }
        PUBLISH => {
            let mut body = frame.body();
            let mut publish = body.publish_head(first)?;
            publish.payload = body.0;
            return Ok(Packet::Publish(publish));
        }
        CONNACK => {
            let mut body = frame.body();
            body.u8("the flags")?;
            return Ok(Packet::ConnAck(Box::new(ConnAck {
                reason: Reason::of_connack_311(body.u8("the return code")?),
                ..ConnAck::default()
            })));
        }
        SUBACK => {
            let mut body = frame.body();
            return Ok(Packet::SubAck {
                id: body.id()?,
                reasons: body.reasons(),
            });
        }
        _ => {}
    }
    let mut bytes = frame.bytes;
    let packet = v4::Packet::read(&mut bytes, usize::MAX)
        .map_err(|error| PacketError::malformed(error.to_string()))?;
    Ok(match packet {
        v4::Packet::Connect(connect) => Packet::Connect(Box::new(introduction(connect))),
        v4::Packet::Subscribe(subscribe) => Packet::Subscribe {
            id: subscribe.pkid,
            filters: subscribe.filters.into_iter().map(|f| f.path).collect(),
        },
        v4::Packet::Unsubscribe(unsubscribe) => Packet::Unsubscribe {
            id: unsubscribe.pkid,
            filters: unsubscribe.topics,
        },
        v4::Packet::UnsubAck(ack) => Packet::UnsubAck {
            id: ack.pkid,
            filters: 0,
        },
        v4::Packet::PingReq => Packet::PingReq,
        v4::Packet::PingResp => Packet::PingResp,
        v4::Packet::Disconnect => Packet::Disconnect(Goodbye::default()),
        other => return Err(PacketError::malformed(format!("unexpected {other:?}"))),
    })
}

pub(super) fn write(out: &mut BytesMut, packet: Packet) -> Result<(), PacketError> {
    let packet = match packet {
        Packet::Publish(publish) => v4::Packet::Publish(v4::Publish {
            dup: false,
            qos: qos(&publish),
            retain: publish.retain,
            topic: publish.topic,
            pkid: publish.id.unwrap_or(0),
            payload: publish.payload,
        }),
        Packet::PubAck { id, .. } => v4::Packet::PubAck(v4::PubAck::new(id)),
        Packet::Connect(connect) => v4::Packet::Connect(written(*connect)),
        Packet::ConnAck(ack) => {
            // The codec's type for the code has no number of its own that could be given.
            out.extend_from_slice(&[CONNACK << 4, 2, 0, ack.reason.connack_311()]);
            return Ok(());
        }
        Packet::Subscribe { id, filters } => {
            let filters = filters
                .into_iter()
                .map(|filter| v4::SubscribeFilter::new(filter, QoS::AtLeastOnce));
            let mut subscribe = v4::Subscribe::new_many(filters);
            subscribe.pkid = id;
            v4::Packet::Subscribe(subscribe)
        }
        Packet::Listen { id, filter } => {
            let mut subscribe = v4::Subscribe::new(filter, QoS::AtMostOnce);
            subscribe.pkid = id;
            v4::Packet::Subscribe(subscribe)
        }
        Packet::SubAck { id, reasons } => {
            let code = |reason: Reason| match reason.is_failure() {
                true => v4::SubscribeReasonCode::Failure,
                false => v4::SubscribeReasonCode::Success(QoS::AtLeastOnce),
            };
            let codes = reasons.into_iter().map(code).collect();
            v4::Packet::SubAck(v4::SubAck::new(id, codes))
        }
        Packet::Unsubscribe { id, filters } => v4::Packet::Unsubscribe(v4::Unsubscribe {
            pkid: id,
            topics: filters,
        }),
        Packet::UnsubAck { id, .. } => v4::Packet::UnsubAck(v4::UnsubAck::new(id)),
        Packet::PingReq => v4::Packet::PingReq,
        Packet::PingResp => v4::Packet::PingResp,
        Packet::Disconnect(_) => v4::Packet::Disconnect,
    };
    packet
        .write(out, usize::MAX)
        .map(|_| ())
        .map_err(|error| PacketError::malformed(error.to_string()))
}

fn qos(publish: &Publish) -> QoS {
    match publish.id {
        Some(_) => QoS::AtLeastOnce,
        None => QoS::AtMostOnce,
    }
}

fn written(connect: Connect) -> v4::Connect {
    let mut packet = v4::Connect::new(connect.client_id);
    packet.keep_alive = connect.keep_alive_s;
    packet.clean_session = true;
    packet.last_will = connect.will.map(|will| v4::LastWill {
        topic: will.topic,
        message: will.payload,
        qos: QoS::AtLeastOnce,
        retain: will.retain,
    });
    if connect.username.is_some() || connect.password.is_some() {
        packet.set_login(
            connect.username.unwrap_or_default(),
            connect.password.unwrap_or_default(),
        );
    }
    packet
}

fn introduction(connect: v4::Connect) -> Connect {
    let (username, password) = match connect.login {
        Some(login) => (Some(login.username), Some(login.password)),
        None => (None, None),
    };
    Connect {
        client_id: connect.client_id,
        username,
        password,
        keep_alive_s: connect.keep_alive,
        will: connect.last_will.map(|will| Message {
            retain: will.retain,
            ..Message::new(will.topic, will.message)
        }),
    }
}
