//! One connection of the broker.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rumqttc::mqttbytes::QoS;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::Tapped;
use super::exchange::{Delivery, Exchange, Seat};
use super::faults::{Drawn, Repeat};
use crate::link::Link;
use crate::packet::{self, ConnAck, Connect, Goodbye, Packet, Protocol, Publish, Reason, Terms};

/// A client that connects and says nothing is not kept longer than this.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How long acks are held back for reordering when nothing more comes.
const HOLD: Duration = Duration::from_millis(2);
/// No subscriber's bytes are encoded further ahead of its socket than this.
const OUTBOUND_BYTES_AHEAD: usize = 256 * 1024;
const BAD_LOGIN: Reason = Reason(0x86);
const GRANTED_QOS_1: Reason = Reason(0x01);
const FILTER_INVALID: Reason = Reason(0x8f);
const TOO_MANY: Reason = Reason(0x93);
const ALIAS_INVALID: Reason = Reason(0x94);
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
        introduced = timeout(CONNECT_LIMIT, introduction(&mut link, &exchange)) => introduced,
        () = era.cancelled() => return,
    };
    let Ok(Some(connect)) = introduced else {
        return;
    };
    let client_id: Arc<str> = connect.client_id.as_str().into();
    let username = connect.username.as_deref().unwrap_or_default();
    let password = connect.password.as_deref().unwrap_or_default();
    let allowed = exchange.may_enter(username, password);
    let seat = exchange.enter(Arc::clone(&client_id), &era);
    let reason = match seat.faults.as_ref().and_then(Drawn::refuse_with) {
        Some(code) => Reason::of_connack_311(code),
        None if !allowed => BAD_LOGIN,
        None => Reason::SUCCESS,
    };
    let terms = exchange.terms();
    let number = seat.number;
    let ack = ConnAck {
        reason,
        terms: terms.clone(),
        ..ConnAck::default()
    };
    send(&mut link, Packet::ConnAck(Box::new(ack)));
    if reason != Reason::SUCCESS {
        exchange.leave(number);
        link.close(Duration::from_secs(1)).await;
        return;
    }
    let mut client = Client::new(
        link,
        Arc::clone(&exchange),
        client_id,
        seat,
        connect.keep_alive_s,
        &terms,
    );
    let goodbye = client.run().await;
    exchange.leave(number);
    let parted = std::mem::take(&mut client.parted);
    if let (false, Some(will)) = (goodbye, connect.will) {
        let message = client.tapped(will.topic, will.payload, will.retain);
        exchange.publish(&message, None, QoS::AtLeastOnce);
    }
    if parted {
        client.link.close(Duration::from_secs(1)).await;
    }
}

/// Reads the CONNECT, in the version that it is of; `None` where there is none, or that version is not spoken.
async fn introduction(link: &mut Link, exchange: &Exchange) -> Option<Connect> {
    loop {
        match packet::asked_level(link.inbound()) {
            Some(4) => link.protocol = Protocol::V311,
            Some(5) if exchange.speaks_v5() => link.protocol = Protocol::V5,
            Some(_) => {
                let ack = ConnAck {
                    reason: Reason::UNSUPPORTED_PROTOCOL,
                    ..ConnAck::default()
                };
                send(link, Packet::ConnAck(Box::new(ack)));
                link.exchange().await.ok()?;
                return None;
            }
            None => {}
        }
        match link.take_packet() {
            Ok(Some(Packet::Connect(connect))) => return Some(*connect),
            Ok(None) => {}
            Ok(Some(_)) | Err(_) => return None,
        }
        link.exchange().await.ok()?;
    }
}

fn send(link: &mut Link, packet: Packet) {
    if let Err(error) = link.send(packet) {
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
    /// Messages that may wait for their acks.
    receive_maximum: usize,
    /// Topics that the client may replace by a number, and those that it did.
    alias_maximum: u16,
    aliases: HashMap<u16, String>,
    /// The client was told why it has to go.
    parted: bool,
}

impl Client {
    fn new(
        link: Link,
        exchange: Arc<Exchange>,
        client_id: Arc<str>,
        mut seat: Seat,
        keep_alive_s: u16,
        terms: &Terms,
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
            batch: faults
                .as_mut()
                .map_or(1, Drawn::draw_batch)
                .min(terms.receive_maximum.into()),
            late: Vec::new(),
            until_cut: faults.as_mut().and_then(Drawn::draw_cut),
            faults,
            receive_maximum: terms.receive_maximum.into(),
            alias_maximum: terms.topic_alias_maximum,
            aliases: HashMap::new(),
            parted: false,
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
            id: (delivery.qos != QoS::AtMostOnce).then_some(self.last_id),
            topic: delivery.topic,
            payload: delivery.payload,
            retain: delivery.retain,
            alias: None,
            properties: delivery.properties,
        });
        send(&mut self.link, packet);
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
            Packet::Subscribe { id, filters } => self.on_subscribe(id, &filters),
            Packet::Unsubscribe { id, filters } => {
                self.exchange.unsubscribe(self.seat.number, &filters);
                let filters = filters.len();
                send(&mut self.link, Packet::UnsubAck { id, filters });
            }
            Packet::PingReq => send(&mut self.link, Packet::PingResp),
            // Deliveries are not repeated, so that nobody waits for their acks.
            Packet::PubAck { .. } => {}
            Packet::Disconnect(parting) if parting.reason == Reason::SUCCESS => {
                return Next::Goodbye;
            }
            _ => return Next::Close,
        }
        Next::Stay
    }

    fn on_subscribe(&mut self, id: u16, filters: &[String]) {
        let reasons = filters
            .iter()
            .map(|filter| {
                let number = self.seat.number;
                match self.exchange.subscribe(number, filter, QoS::AtLeastOnce) {
                    true => GRANTED_QOS_1,
                    false => FILTER_INVALID,
                }
            })
            .collect();
        send(&mut self.link, Packet::SubAck { id, reasons });
    }

    /// Says why in MQTT 5, and closes.
    fn part(&mut self, reason: Reason) -> Next {
        if self.link.protocol == Protocol::V5 {
            let parting = Goodbye {
                reason,
                ..Goodbye::default()
            };
            send(&mut self.link, Packet::Disconnect(parting));
            self.parted = true;
        }
        Next::Close
    }

    /// Puts the topic in the place of its number. False: nobody allowed that number.
    fn resolve(&mut self, publish: &mut Publish) -> bool {
        match publish.alias {
            None => true,
            Some(alias) if alias == 0 || alias > self.alias_maximum => false,
            Some(alias) if publish.topic.is_empty() => match self.aliases.get(&alias) {
                Some(topic) => {
                    publish.topic.clone_from(topic);
                    true
                }
                None => false,
            },
            Some(alias) => {
                self.aliases.insert(alias, publish.topic.clone());
                true
            }
        }
    }

    fn on_publish(&mut self, mut publish: Publish) -> Next {
        if !self.resolve(&mut publish) {
            return self.part(ALIAS_INVALID);
        }
        if self.held.len() >= self.receive_maximum {
            return self.part(TOO_MANY);
        }
        if publish.topic.is_empty() || publish.topic.contains(['+', '#', '\0']) {
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
            self.send_ack(id);
        }
        if let Some(faults) = &mut self.faults {
            faults.shuffle(&mut held);
            self.batch = faults.draw_batch().min(self.receive_maximum);
        }
        for publish in held {
            let message = self.tapped(publish.topic, publish.payload, publish.retain);
            let qos = match publish.id {
                Some(_) => QoS::AtLeastOnce,
                None => QoS::AtMostOnce,
            };
            self.exchange.publish(&message, publish.properties, qos);
            if let Some(id) = publish.id {
                self.ack(id);
            }
        }
        Next::Stay
    }

    fn send_ack(&mut self, id: u16) {
        let reason = Reason::SUCCESS;
        send(&mut self.link, Packet::PubAck { id, reason });
    }

    fn ack(&mut self, id: u16) {
        self.send_ack(id);
        match self.faults.as_mut().and_then(Drawn::draw_duplicate) {
            Some(Repeat::AtOnce) => self.send_ack(id),
            Some(Repeat::Late) => self.late.push(id),
            None => {}
        }
    }
}
