//! What the broker says: acknowledgements, messages, and its goodbye.

use std::sync::atomic::Ordering;

use tokio::time::Instant;

use super::{Live, LostError};
use crate::connect::said;
use crate::link::Moved;
use crate::message::Inbound;
use crate::packet::{AckFate, Packet, PacketError, Reason};
use crate::session::flight::{Acked, Done, Outcome};
use crate::session::{Feed, Refusal, SessionState};

/// Headers of TCP, IP and TLS, and the answering ACK of TCP, for each segment.
const HEADER_BYTES: u64 = 110;
/// What a segment carries.
const SEGMENT_BYTES: u64 = 1400;

impl<F: Feed> Live<'_, F> {
    pub(super) fn moved(&mut self, moved: Moved) -> Result<(), LostError> {
        let now = Instant::now();
        let packets = u64::from(moved.read > 0) + u64::from(moved.written > 0);
        let bytes = (moved.read + moved.written) as u64;
        let long = bytes / SEGMENT_BYTES;
        let traffic = bytes + (packets + long) * HEADER_BYTES;
        self.settings.counters.count_traffic(traffic);
        if moved.written > 0 {
            self.clocks.written(now, self.link.outbound.is_empty());
        }
        if moved.read == 0 {
            return Ok(());
        }
        while let Some(packet) = self.link.take_packet()? {
            self.clocks.heard(now);
            self.handle(packet, now)?;
        }
        Ok(())
    }

    fn handle(&mut self, packet: Packet, now: Instant) -> Result<(), LostError> {
        match packet {
            Packet::PubAck { id, reason } => self.on_ack(id, reason, now),
            Packet::PingResp => self.on_pong(now),
            Packet::SubAck { id, reasons } => {
                let asked = self.asked.remove(&id);
                if !self.flight.release(id) {
                    return Ok(());
                }
                if let Some(filter) = asked {
                    let granted = reasons.iter().all(|reason| !reason.is_failure());
                    self.feed.listens(&filter, granted);
                } else {
                    self.on_suback(&reasons);
                }
            }
            Packet::UnsubAck { id, .. } => {
                self.flight.release(id);
            }
            Packet::Publish(publish) => {
                if publish.alias.is_some() {
                    let text = "a topic alias that nobody allowed".to_owned();
                    return Err(PacketError::Malformed(text).into());
                }
                self.feed.received(Inbound {
                    topic: publish.topic,
                    payload: publish.payload,
                    retained: publish.retain,
                    properties: publish.properties.map(|own| *own).unwrap_or_default(),
                });
                if let Some(id) = publish.id {
                    let reason = Reason::SUCCESS;
                    self.link.send(Packet::PubAck { id, reason })?;
                }
            }
            Packet::Disconnect(parting) => {
                let (text, reference) = (parting.text, parting.reference);
                return Err(LostError::Parted {
                    reason: parting.reason,
                    said: said(parting.reason, text.as_deref(), reference.as_deref()),
                });
            }
            other => {
                let text = format!("a broker does not send this to a client: {other:?}");
                return Err(PacketError::Malformed(text).into());
            }
        }
        Ok(())
    }

    fn on_suback(&mut self, reasons: &[Reason]) {
        let answered = self.settings.subscribe.iter().zip(reasons);
        let refused: Vec<(String, Reason)> = answered
            .filter(|(_, reason)| reason.is_failure())
            .map(|(filter, reason)| (filter.clone(), *reason))
            .collect();
        if !refused.is_empty() {
            tracing::warn!(
                ?refused,
                "the broker refuses subscriptions; commands will not arrive"
            );
        }
        self.feed.subscribed(&refused);
    }

    fn on_ack(&mut self, id: u16, reason: Reason, now: Instant) {
        let outcome = match reason.fate() {
            AckFate::Taken | AckFate::Unheard => Outcome::Acked,
            AckFate::Later => Outcome::Postponed,
            AckFate::Unexplained => Outcome::Unexplained,
            AckFate::Never => Outcome::Never,
            AckFate::Denied => Outcome::Denied,
        };
        let acked = self.flight.ack(id, outcome, reason, now);
        let counters = &self.settings.counters;
        if acked == Acked::Unknown {
            counters.unknown_acks.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(id, "a PUBACK that nobody waits for");
            return;
        }
        if reason.fate() == AckFate::Unheard {
            counters.unheard.fetch_add(1, Ordering::Relaxed);
        }
        if outcome != Outcome::Acked {
            tracing::debug!(id, %reason, "the broker did not take a message");
        }
        let pause = matches!(outcome, Outcome::Postponed | Outcome::Unexplained);
        if pause && self.hold.is_none() {
            self.hold(reason, now);
        }
        self.on_part(acked, outcome, now);
    }

    fn on_part(&mut self, acked: Acked, outcome: Outcome, now: Instant) {
        let Acked::Part { bytes, done } = acked else {
            return;
        };
        self.clocks.acked(now);
        if outcome == Outcome::Acked {
            self.acked = true;
            self.hold_next = self.settings.reconnect.first;
            let counters = &self.settings.counters;
            counters.acked.fetch_add(1, Ordering::Relaxed);
            counters
                .acked_bytes
                .fetch_add(bytes as u64, Ordering::Relaxed);
        }
        if let Some(done) = done {
            self.settle(done);
        }
    }

    /// The broker has read everything that was sent before the ping.
    fn on_pong(&mut self, now: Instant) {
        for proven in self.flight.ponged(now) {
            self.on_part(proven, Outcome::Acked, now);
        }
    }

    /// The broker has asked for a pause.
    fn hold(&mut self, reason: Reason, now: Instant) {
        let next_try = self.hold_next;
        self.hold = Some(now + next_try);
        self.hold_next = (next_try * 2).min(self.settings.reconnect.longest);
        self.feed.state(&SessionState::Slowed { reason, next_try });
    }

    /// Tells the feed what became of a consignment.
    fn settle(&mut self, done: Done) {
        let Done {
            token,
            outcome,
            reason,
        } = done;
        let refusal = match outcome {
            Outcome::Acked => return self.feed.acked(token),
            Outcome::Postponed => return self.feed.postponed(token),
            Outcome::Unexplained => Refusal::Unexplained(reason),
            Outcome::Never => Refusal::Never(reason),
            Outcome::Denied => Refusal::Denied(reason),
        };
        self.settings
            .counters
            .refused
            .fetch_add(1, Ordering::Relaxed);
        self.feed.refused(token, refusal);
    }
}
