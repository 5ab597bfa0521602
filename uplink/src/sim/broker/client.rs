//! One connection of the broker.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v4::{
    ConnAck, Connect, ConnectReturnCode, Packet, PubAck, Publish, SubAck, Subscribe,
    SubscribeReasonCode, UnsubAck,
};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::Tapped;
use super::exchange::{Delivery, Exchange, Seat};
use super::faults::{Drawn, Repeat};
use crate::link::Link;
use crate::packet;

/// A client that connects and says nothing is not kept longer than this.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How long acks are held back for reordering when nothing more comes.
const HOLD: Duration = Duration::from_millis(2);
/// No subscriber's bytes are encoded further ahead of its socket than this.
const OUTBOUND_BYTES_AHEAD: usize = 256 * 1024;
/// A day: the pause of a timer that is not needed.
const NEVER: Duration = Duration::from_secs(86_400);

/// How a connection goes on.
enum Next {
    Stay,
    /// The client said goodbye: its will is not published.
    Goodbye,
    Close,
}

/// Serves a connection that was taken in this `era`.
pub(super) async fn serve(mut link: Link, exchange: Arc<Exchange>, era: CancellationToken) {
    let introduced = tokio::select! {
        introduced = timeout(CONNECT_LIMIT, introduction(&mut link)) => introduced,
        () = era.cancelled() => return,
    };
    let Ok(Some(connect)) = introduced else {
        return;
    };
    let client_id: Arc<str> = connect.client_id.as_str().into();
    let (username, password) = match &connect.login {
        Some(login) => (login.username.as_str(), login.password.as_str()),
        None => ("", ""),
    };
    let allowed = exchange.may_enter(username, password);
    let seat = exchange.enter(Arc::clone(&client_id), &era);
    let code = match seat.faults.as_ref().and_then(Drawn::refuse_with) {
        Some(code) => return_code(code),
        None if !allowed => ConnectReturnCode::BadUserNamePassword,
        None => ConnectReturnCode::Success,
    };
    let number = seat.number;
    send(&mut link, &Packet::ConnAck(ConnAck::new(code, false)));
    if code != ConnectReturnCode::Success {
        exchange.leave(number);
        link.close(Duration::from_secs(1)).await;
        return;
    }
    let mut client = Client::new(
        link,
        Arc::clone(&exchange),
        client_id,
        seat,
        connect.keep_alive,
    );
    let goodbye = client.run().await;
    exchange.leave(number);
    if let (false, Some(will)) = (goodbye, connect.last_will) {
        let message = client.tapped(will.topic, will.message, will.retain);
        exchange.publish(&message, will.qos);
    }
}

async fn introduction(link: &mut Link) -> Option<Connect> {
    loop {
        match link.take_packet() {
            Ok(Some(Packet::Connect(connect))) => return Some(connect),
            Ok(None) => {}
            Ok(Some(_)) | Err(_) => return None,
        }
        link.exchange().await.ok()?;
    }
}

fn return_code(code: u8) -> ConnectReturnCode {
    match code {
        1 => ConnectReturnCode::RefusedProtocolVersion,
        2 => ConnectReturnCode::BadClientId,
        3 => ConnectReturnCode::ServiceUnavailable,
        4 => ConnectReturnCode::BadUserNamePassword,
        _ => ConnectReturnCode::NotAuthorized,
    }
}

fn send(link: &mut Link, packet: &Packet) {
    if let Err(error) = packet::write(&mut link.outbound, packet) {
        tracing::debug!(%error, "the broker could not encode a packet");
    }
}

struct Client {
    link: Link,
    exchange: Arc<Exchange>,
    client_id: Arc<str>,
    seat: Seat,
    keep_alive: Option<Duration>,
    heard: Instant,
    last_id: u16,
    faults: Option<Drawn>,
    /// Messages whose acks are held back.
    held: Vec<Publish>,
    /// So many messages are held before their acks go out.
    batch: usize,
    /// Acks that come once more, later.
    late: Vec<u16>,
    /// Messages until the connection is closed.
    until_cut: Option<u32>,
}

impl Client {
    fn new(
        link: Link,
        exchange: Arc<Exchange>,
        client_id: Arc<str>,
        mut seat: Seat,
        keep_alive_s: u16,
    ) -> Self {
        let mut faults = seat.faults.take();
        Self {
            link,
            exchange,
            client_id,
            seat,
            // The standard allows one and a half times the keep-alive.
            keep_alive: (keep_alive_s > 0)
                .then(|| Duration::from_millis(u64::from(keep_alive_s) * 1500)),
            heard: Instant::now(),
            last_id: 0,
            held: Vec::new(),
            batch: faults.as_mut().map_or(1, Drawn::draw_batch),
            late: Vec::new(),
            until_cut: faults.as_mut().and_then(Drawn::draw_cut),
            faults,
        }
    }

    /// Until the connection ends; true when the client said goodbye.
    async fn run(&mut self) -> bool {
        loop {
            let silence = self.heard + self.keep_alive.unwrap_or(NEVER);
            let room = self.link.outbound.len() < OUTBOUND_BYTES_AHEAD;
            let holding = !self.held.is_empty();
            let next = tokio::select! {
                moved = self.link.exchange() => self.moved(moved),
                Some(delivery) = self.seat.deliveries.recv(), if room => self.deliver(delivery),
                () = sleep_until(Instant::now() + HOLD), if holding => self.release(),
                () = sleep_until(silence) => Next::Close,
                () = self.seat.kick.cancelled() => Next::Close,
            };
            match next {
                Next::Stay => {}
                Next::Goodbye => return true,
                Next::Close => return false,
            }
        }
    }

    fn tapped(&self, topic: String, payload: Bytes, retain: bool) -> Tapped {
        Tapped {
            topic,
            payload,
            retain,
            client_id: Arc::clone(&self.client_id),
        }
    }

    fn deliver(&mut self, delivery: Delivery) -> Next {
        self.last_id = self.last_id.checked_add(1).unwrap_or(1);
        let packet = Packet::Publish(Publish {
            dup: false,
            qos: delivery.qos,
            retain: delivery.retain,
            topic: delivery.topic,
            pkid: if delivery.qos == QoS::AtMostOnce {
                0
            } else {
                self.last_id
            },
            payload: delivery.payload,
        });
        send(&mut self.link, &packet);
        Next::Stay
    }

    fn moved(&mut self, moved: io::Result<crate::link::Moved>) -> Next {
        if moved.is_err() {
            return Next::Close;
        }
        loop {
            match self.link.take_packet() {
                Ok(None) => return Next::Stay,
                Ok(Some(packet)) => {
                    self.heard = Instant::now();
                    match self.handle(packet) {
                        Next::Stay => {}
                        end => return end,
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "a client broke the protocol");
                    return Next::Close;
                }
            }
        }
    }

    fn handle(&mut self, packet: Packet) -> Next {
        match packet {
            Packet::Publish(publish) => return self.on_publish(publish),
            Packet::Subscribe(subscribe) => self.on_subscribe(&subscribe),
            Packet::Unsubscribe(unsubscribe) => {
                self.exchange
                    .unsubscribe(self.seat.number, &unsubscribe.topics);
                send(
                    &mut self.link,
                    &Packet::UnsubAck(UnsubAck::new(unsubscribe.pkid)),
                );
            }
            Packet::PingReq => send(&mut self.link, &Packet::PingResp),
            // Deliveries are not repeated, so that nobody waits for their acks.
            Packet::PubAck(_) => {}
            Packet::Disconnect => return Next::Goodbye,
            _ => return Next::Close,
        }
        Next::Stay
    }

    fn on_subscribe(&mut self, subscribe: &Subscribe) {
        let codes = subscribe
            .filters
            .iter()
            .map(|filter| {
                let qos = match filter.qos {
                    QoS::AtMostOnce => QoS::AtMostOnce,
                    QoS::AtLeastOnce | QoS::ExactlyOnce => QoS::AtLeastOnce,
                };
                match self.exchange.subscribe(self.seat.number, &filter.path, qos) {
                    true => SubscribeReasonCode::Success(qos),
                    false => SubscribeReasonCode::Failure,
                }
            })
            .collect();
        send(
            &mut self.link,
            &Packet::SubAck(SubAck::new(subscribe.pkid, codes)),
        );
    }

    fn on_publish(&mut self, publish: Publish) -> Next {
        let wildcard = publish.topic.is_empty() || publish.topic.contains(['+', '#', '\0']);
        if wildcard || publish.qos == QoS::ExactlyOnce {
            return Next::Close;
        }
        if let Some(faults) = &mut self.faults {
            if faults.hangs_up_on(&publish) {
                return Next::Close;
            }
            if let Some(left) = &mut self.until_cut {
                if *left == 0 {
                    return Next::Close;
                }
                *left -= 1;
            }
            if faults.draw_swallow() {
                return Next::Stay;
            }
        }
        self.held.push(publish);
        if self.held.len() >= self.batch {
            return self.release();
        }
        Next::Stay
    }

    /// Takes custody of what is held, and acks it.
    fn release(&mut self) -> Next {
        let mut held = std::mem::take(&mut self.held);
        for id in std::mem::take(&mut self.late) {
            send(&mut self.link, &Packet::PubAck(PubAck::new(id)));
        }
        if let Some(faults) = &mut self.faults {
            faults.shuffle(&mut held);
            self.batch = faults.draw_batch();
        }
        for publish in held {
            let message = self.tapped(publish.topic, publish.payload, publish.retain);
            self.exchange.publish(&message, publish.qos);
            if publish.qos == QoS::AtLeastOnce {
                self.ack(publish.pkid);
            }
        }
        Next::Stay
    }

    fn ack(&mut self, id: u16) {
        send(&mut self.link, &Packet::PubAck(PubAck::new(id)));
        match self.faults.as_mut().and_then(Drawn::draw_duplicate) {
            Some(Repeat::AtOnce) => send(&mut self.link, &Packet::PubAck(PubAck::new(id))),
            Some(Repeat::Late) => self.late.push(id),
            None => {}
        }
    }
}
