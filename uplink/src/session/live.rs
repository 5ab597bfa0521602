//! One connection, from the CONNACK to its end.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use millrace_tags::Lane;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::link::{Link, Moved};
use crate::message::{Message, STRING_BYTES_MAX};
use crate::packet::{self, Packet, PacketError};
use crate::session::clocks::{Clocks, STALL_LIMIT, UNACKED_LIMIT};
use crate::session::flight::{Acked, Flight, PacketIds, Part};
use crate::session::pace::Pace;
use crate::session::{Consignment, Feed, INFLIGHT_MAX, Refusal, SessionSettings, SessionState};

/// Packets are encoded up to this much ahead of the socket: enough for large writes, little enough
/// that a live message does not wait behind much.
const OUTBOUND_BYTES_AHEAD: usize = 128 * 1024;
/// Backlog is encoded only up to this much ahead of the socket: what a live message may find before it.
const BACKLOG_BYTES_AHEAD: usize = 64 * 1024;
/// What MQTT can carry in one packet.
const PACKET_BYTES_MAX: usize = 268_435_455;
/// How long a shutdown waits for acks; what is not acked by then is sent again after the next start.
const DRAIN_LIMIT: Duration = Duration::from_secs(3);
/// How long a shutdown waits for the acks of its farewell.
const FAREWELL_LIMIT: Duration = Duration::from_secs(2);
/// How long the last bytes may take.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LostError {
    /// The connection broke or was closed by the broker.
    #[error("the connection to the broker was lost")]
    Io(#[from] io::Error),
    /// The broker sent something that is no MQTT, or not to us.
    #[error("the broker broke the protocol")]
    Protocol(#[from] PacketError),
    /// Acks are missing and nothing moves.
    #[error("no acknowledgement for {} s while messages wait for one", STALL_LIMIT.as_secs())]
    Stalled,
    /// One message was passed over while others were acked.
    #[error("a message waits for its acknowledgement for more than {} s while others get theirs", UNACKED_LIMIT.as_secs())]
    PassedOver,
    /// The feed wants another connection.
    #[error("this end has closed the connection")]
    HungUp,
    /// Nothing came back after a ping.
    #[error("the broker did not answer a ping within {} s", .0.as_secs())]
    Silent(Duration),
}

/// What remains of a connection.
pub(super) struct Summary {
    pub(super) ids: PacketIds,
    pub(super) pace: Pace,
    /// Whether any message was acked.
    pub(super) acked: bool,
    /// Whether the broker closed the connection while messages waited.
    pub(super) closed: bool,
}

/// A message that has been taken from the feed and is not on the wire yet.
struct Waiting {
    message: Message,
    part: Part,
}

enum Phase {
    Running,
    /// Waiting for acks, until then.
    Draining(Instant),
    /// Waiting for the farewell's acks, until then.
    Leaving(Instant),
}

pub(super) struct Live<'a, F> {
    link: Link,
    settings: &'a SessionSettings,
    feed: &'a mut F,
    ready: Arc<Notify>,
    flight: Flight,
    urgent: VecDeque<Waiting>,
    backlog: VecDeque<Waiting>,
    clocks: Clocks,
    phase: Phase,
    farewell: Vec<Message>,
    /// The feed wants another connection after this one.
    hung_up: bool,
    acked: bool,
}

impl<'a, F: Feed> Live<'a, F> {
    pub(super) fn new(
        link: Link,
        settings: &'a SessionSettings,
        feed: &'a mut F,
        ids: PacketIds,
        pace: Pace,
    ) -> Self {
        let ready = feed.ready();
        let max_inflight = settings.max_inflight.clamp(1, INFLIGHT_MAX);
        Self {
            link,
            settings,
            feed,
            ready,
            flight: Flight::new(ids, pace, max_inflight),
            urgent: VecDeque::new(),
            backlog: VecDeque::new(),
            clocks: Clocks::new(settings.keep_alive),
            phase: Phase::Running,
            farewell: settings.farewell.clone(),
            hung_up: false,
            acked: false,
        }
    }

    /// What goes before a clean goodbye, where it is not what the settings say.
    pub(super) fn say_at_the_end(mut self, farewell: Vec<Message>) -> Self {
        self.farewell = farewell;
        self
    }

    /// Until the connection is lost, or closed because of `shutdown`.
    pub(super) async fn run(
        mut self,
        shutdown: &CancellationToken,
    ) -> (Result<(), LostError>, Summary) {
        let outcome = self.drive(shutdown).await;
        let waiting = !self.flight.is_empty();
        let closed = waiting && matches!(outcome, Err(LostError::Io(_)));
        let mut pace = self.flight.pace();
        if waiting && outcome.is_err() {
            pace.refused();
        }
        let summary = Summary {
            ids: self.flight.ids(),
            pace,
            acked: self.acked,
            closed,
        };
        if matches!(outcome, Ok(()) | Err(LostError::HungUp)) {
            self.link.close(CLOSE_LIMIT).await;
        }
        (outcome, summary)
    }

    async fn drive(&mut self, shutdown: &CancellationToken) -> Result<(), LostError> {
        self.greet()?;
        loop {
            let running = matches!(self.phase, Phase::Running);
            if running && self.feed.hangs_up() {
                self.hung_up = true;
                self.begin_leaving(Duration::ZERO);
            }
            if self.leave()? {
                return match self.hung_up {
                    true => Err(LostError::HungUp),
                    false => Ok(()),
                };
            }
            self.fill()?;
            self.prove()?;
            let deadline = self.deadline();
            let hungry = self.wants_more();
            let ready = Arc::clone(&self.ready);
            let running = matches!(self.phase, Phase::Running);
            tokio::select! {
                moved = self.link.exchange() => self.moved(moved?)?,
                () = ready.notified(), if hungry => {}
                () = tokio::time::sleep_until(deadline) => self.check_clocks()?,
                () = shutdown.cancelled(), if running => self.begin_leaving(DRAIN_LIMIT),
            }
        }
    }

    /// Subscribes and sends the feed's greeting.
    fn greet(&mut self) -> Result<(), LostError> {
        let greeting = self.feed.greeting();
        self.feed.state(&SessionState::Connected);
        if !self.settings.subscribe.is_empty() {
            let id = self.flight.reserve();
            let packet = packet::subscribe(&self.settings.subscribe, id);
            packet::write(&mut self.link.outbound, &packet)?;
        }
        self.queue_own(greeting);
        Ok(())
    }

    /// Queues messages of our own: nobody waits for their acks.
    fn queue_own(&mut self, messages: Vec<Message>) {
        for message in messages {
            if let Err(refusal) = sendable(&message, self.settings.max_message) {
                tracing::warn!(%refusal, "left out a message of the session itself");
                continue;
            }
            let part = Part {
                token: None,
                bytes: message.wire_bytes(),
                backlog: false,
                since: Instant::now(),
            };
            self.urgent.push_back(Waiting { message, part });
        }
    }

    /// Encodes what the window allows, asking the feed for more while there is room.
    fn fill(&mut self) -> Result<(), LostError> {
        while self.link.outbound.len() < OUTBOUND_BYTES_AHEAD {
            if let Some(waiting) = self.next_waiting() {
                self.send(waiting)?;
            } else if !self.pull() {
                break;
            }
        }
        Ok(())
    }

    /// The next message that fits, live before backlog.
    fn next_waiting(&mut self) -> Option<Waiting> {
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
        if self.settings.unacked && waiting.part.token.is_some() {
            self.flight.send_unacked(waiting.part);
            let packet = packet::publish_unacked(waiting.message);
            return Ok(packet::write(&mut self.link.outbound, &packet)?);
        }
        let id = self.flight.send(waiting.part);
        packet::write(
            &mut self.link.outbound,
            &packet::publish(waiting.message, id),
        )?;
        Ok(())
    }

    /// Asks the broker for its proof that it has read what went out at QoS 0: one ping at a time, behind all of it.
    fn prove(&mut self) -> Result<(), LostError> {
        if self.flight.wants_proof() {
            self.ping()?;
        }
        Ok(())
    }

    fn ping(&mut self) -> Result<(), LostError> {
        self.flight.pinged();
        Ok(packet::write(&mut self.link.outbound, &Packet::PingReq)?)
    }

    /// Whether the feed would be asked if it had something.
    fn wants_more(&self) -> bool {
        matches!(self.phase, Phase::Running)
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
        let limit = match self.settings.unacked {
            // Births cannot be divided, and what can be is no larger than the feed wants it.
            true => PACKET_BYTES_MAX,
            false => self.settings.max_message,
        };
        let refusal = messages
            .iter()
            .find_map(|message| sendable(message, limit).err());
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
                since,
            },
            message,
        }));
    }

    fn moved(&mut self, moved: Moved) -> Result<(), LostError> {
        let now = Instant::now();
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
            Packet::PubAck(ack) => self.on_ack(ack.pkid, now),
            Packet::PingResp => self.on_pong(now),
            Packet::SubAck(ack) => {
                if self.flight.release(ack.pkid) {
                    let refused = packet::refused(&ack, &self.settings.subscribe);
                    if !refused.is_empty() {
                        tracing::warn!(
                            ?refused,
                            "the broker refuses subscriptions; commands will not arrive"
                        );
                    }
                }
            }
            Packet::Publish(publish) => {
                let inbound = packet::inbound(publish)?;
                self.feed
                    .received(&inbound.topic, &inbound.payload, inbound.retained);
                if let Some(id) = inbound.ack {
                    packet::write(&mut self.link.outbound, &packet::puback(id))?;
                }
            }
            other => {
                let text = format!("a broker does not send this to a client: {other:?}");
                return Err(PacketError::Malformed(text).into());
            }
        }
        Ok(())
    }

    fn on_ack(&mut self, id: u16, now: Instant) {
        let acked = self.flight.ack(id, now);
        if acked == Acked::Unknown {
            let counters = &self.settings.counters;
            counters.unknown_acks.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(id, "a PUBACK that nobody waits for");
        }
        self.on_part(acked, now);
    }

    fn on_part(&mut self, acked: Acked, now: Instant) {
        let counters = &self.settings.counters;
        match acked {
            Acked::Unknown => {}
            Acked::Part { bytes, done } => {
                self.clocks.acked(now);
                self.acked = true;
                counters.acked.fetch_add(1, Ordering::Relaxed);
                counters
                    .acked_bytes
                    .fetch_add(bytes as u64, Ordering::Relaxed);
                if let Some(token) = done {
                    self.feed.acked(token);
                }
            }
        }
    }

    /// The broker has read everything that was sent before the ping.
    fn on_pong(&mut self, now: Instant) {
        for proven in self.flight.ponged(now) {
            self.on_part(proven, now);
        }
    }

    /// When the clocks must be looked at next.
    fn deadline(&self) -> Instant {
        let mut deadline = self.clocks.deadline(!self.flight.is_empty());
        if let Some(pause) = self.feed.pause() {
            deadline = deadline.min(Instant::now() + pause);
        }
        match self.phase {
            Phase::Running => deadline,
            Phase::Draining(until) | Phase::Leaving(until) => deadline.min(until),
        }
    }

    fn check_clocks(&mut self) -> Result<(), LostError> {
        if self.clocks.check(Instant::now(), || self.flight.oldest())? {
            self.ping()?;
        }
        Ok(())
    }

    /// Asked to stop: takes nothing more and forgets what is not on the wire; the log has it.
    fn begin_leaving(&mut self, limit: Duration) {
        self.urgent.clear();
        self.backlog.clear();
        self.phase = Phase::Draining(Instant::now() + limit);
    }

    /// Goes through the steps of leaving; true when only the goodbye itself is left to send.
    fn leave(&mut self) -> Result<bool, LostError> {
        let now = Instant::now();
        if let Phase::Draining(until) = self.phase
            && (self.is_idle() || now >= until)
        {
            let farewell = std::mem::take(&mut self.farewell);
            self.queue_own(farewell);
            self.phase = Phase::Leaving(now + FAREWELL_LIMIT);
        }
        match self.phase {
            Phase::Leaving(until) if self.is_idle() || now >= until => {
                packet::write(&mut self.link.outbound, &Packet::Disconnect)?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Whether nothing is under way, and nothing waits for its turn.
    fn is_idle(&self) -> bool {
        self.flight.is_empty() && self.urgent.is_empty()
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
