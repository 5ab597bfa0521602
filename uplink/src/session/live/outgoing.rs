//! What goes out: taken from the feed, checked, queued, and encoded ahead of the socket as far as the window allows.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use millrace_tags::Lane;
use tokio::time::Instant;

use super::{Live, LostError, Phase, Waiting};
use crate::message::{Message, STRING_BYTES_MAX};
use crate::packet::{Packet, Publish};
use crate::session::flight::Part;
use crate::session::{Consignment, Feed, Listening, Refusal};

/// Packets are encoded up to this much ahead of the socket: enough for large writes, little enough
/// that a live message does not wait behind much.
const OUTBOUND_BYTES_AHEAD: usize = 128 * 1024;
/// Backlog is encoded only up to this much ahead of the socket: what a live message may find before it.
const BACKLOG_BYTES_AHEAD: usize = 64 * 1024;

impl<F: Feed> Live<'_, F> {
    /// Queues messages of our own: nobody waits for their acks.
    pub(super) fn queue_own(&mut self, messages: Vec<Message>) {
        for message in messages {
            if let Err(refusal) = sendable(&message, self.max_message) {
                tracing::warn!(%refusal, "left out a message of the session itself");
                continue;
            }
            let part = Part {
                token: None,
                bytes: message.wire_bytes(),
                backlog: false,
                aliased: false,
                since: Instant::now(),
            };
            self.urgent.push_back(Waiting { message, part });
        }
    }

    /// Encodes what the window allows, asking the feed for more while there is room.
    pub(super) fn fill(&mut self) -> Result<(), LostError> {
        while self.link.outbound.len() < OUTBOUND_BYTES_AHEAD {
            if let Some(waiting) = self.next_waiting() {
                self.send(waiting)?;
            } else if !self.pull() {
                break;
            }
        }
        // After the feed was asked: it may have found that it has to listen first.
        self.change_subscriptions()
    }

    /// Subscribes and unsubscribes as the feed wants it.
    fn change_subscriptions(&mut self) -> Result<(), LostError> {
        while matches!(self.phase, Phase::Running)
            && let Some(change) = self.feed.listening()
        {
            let id = self.flight.reserve();
            self.link.send(match change {
                Listening::Begin(filter) => {
                    self.asked.insert(id, filter.clone());
                    Packet::Listen { id, filter }
                }
                Listening::End(filter) => Packet::Unsubscribe {
                    id,
                    filters: vec![filter],
                },
            })?;
        }
        Ok(())
    }

    /// The next message that fits, live before backlog.
    fn next_waiting(&mut self) -> Option<Waiting> {
        if self.hold.is_some() {
            return None;
        }
        let (flight, ahead) = (&self.flight, self.link.outbound.len());
        let fitting = |queue: &mut VecDeque<Waiting>| {
            let part = queue.front()?.part;
            let soon = !part.backlog || ahead == 0 || ahead + part.bytes <= BACKLOG_BYTES_AHEAD;
            (soon && flight.fits(part.bytes, part.backlog)).then(|| queue.pop_front())?
        };
        fitting(&mut self.urgent).or_else(|| fitting(&mut self.backlog))
    }

    fn send(&mut self, waiting: Waiting) -> Result<(), LostError> {
        self.clocks.queued(Instant::now(), self.flight.is_empty());
        let unacked = self.settings.unacked && waiting.part.token.is_some();
        let id = match unacked {
            true => {
                self.flight.send_unacked(waiting.part);
                None
            }
            false => Some(self.flight.send(waiting.part)),
        };
        let mut publish = Publish::new(waiting.message, id);
        publish.retain &= self.retains;
        if waiting.part.aliased {
            publish.alias = self.aliases.take(&mut publish.topic);
        }
        self.link.send(Packet::Publish(publish))?;
        Ok(())
    }

    /// Asks the broker for its proof that it has read what went out at QoS 0: one ping at a time, behind all of it.
    pub(super) fn prove(&mut self) -> Result<(), LostError> {
        if self.flight.wants_proof() {
            self.ping()?;
        }
        Ok(())
    }

    pub(super) fn ping(&mut self) -> Result<(), LostError> {
        self.flight.pinged();
        Ok(self.link.send(Packet::PingReq)?)
    }

    /// Whether the feed would be asked if it had something.
    pub(super) fn wants_more(&self) -> bool {
        matches!(self.phase, Phase::Running)
            && self.hold.is_none()
            && self.urgent.is_empty()
            // Numbers in the messages follow their order: nothing may overtake.
            && (!self.settings.unacked || self.backlog.is_empty())
            && self.link.outbound.len() < OUTBOUND_BYTES_AHEAD
            && self.flight.window().is_some()
    }

    /// Takes one consignment from the feed; false when there is none, or no room for one.
    fn pull(&mut self) -> bool {
        if !self.wants_more() {
            return false;
        }
        let Some(mut window) = self.flight.window() else {
            return false;
        };
        window.backlog &= self.backlog.is_empty() && self.link.outbound.len() < BACKLOG_BYTES_AHEAD;
        let Some(consignment) = self.feed.next(window) else {
            return false;
        };
        self.take(consignment);
        true
    }

    fn take(&mut self, consignment: Consignment) {
        let Consignment {
            token,
            lane,
            messages,
        } = consignment;
        let refusal = messages
            .iter()
            .find_map(|message| sendable(message, self.max_message).err());
        if let Some(refusal) = refusal {
            self.settings
                .counters
                .refused
                .fetch_add(1, Ordering::Relaxed);
            self.feed.refused(token, refusal);
            return;
        }
        if messages.is_empty() {
            self.feed.acked(token);
            return;
        }
        self.flight.expect(token, messages.len());
        let since = Instant::now();
        let backlog = lane == Lane::Backlog;
        let queue = match backlog {
            true => &mut self.backlog,
            false => &mut self.urgent,
        };
        queue.extend(messages.into_iter().map(|message| Waiting {
            part: Part {
                token: Some(token),
                bytes: message.wire_bytes(),
                backlog,
                aliased: lane != Lane::Alarm,
                since,
            },
            message,
        }));
    }
}

/// Whether MQTT and the broker can carry the message at all.
fn sendable(message: &Message, limit: usize) -> Result<(), Refusal> {
    let topic = &message.topic;
    let problem = match topic {
        t if t.is_empty() => Some("it is empty"),
        t if t.len() > STRING_BYTES_MAX => Some("it is longer than 65535 bytes"),
        t if t.contains(['+', '#', '\0']) => Some("it holds a wildcard or NUL"),
        _ => None,
    };
    if let Some(problem) = problem {
        return Err(Refusal::Topic {
            topic: topic.chars().take(200).collect(),
            problem,
        });
    }
    let properties = message.properties.as_ref();
    if let Some(what) = properties.and_then(|own| own.too_long()) {
        let topic = topic.clone();
        return Err(Refusal::Property { topic, what });
    }
    let bytes = message.wire_bytes();
    if bytes > limit {
        return Err(Refusal::TooLarge {
            topic: topic.clone(),
            bytes,
            limit,
        });
    }
    Ok(())
}
