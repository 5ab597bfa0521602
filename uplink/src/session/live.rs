//! One connection, from the CONNACK to its end.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use millrace_tags::Lane;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::connect::said;
use crate::link::{Link, Moved};
use crate::message::{Inbound, Message, STRING_BYTES_MAX};
use crate::packet::{AckFate, Goodbye, Packet, PacketError, PartingCause, Publish, Reason, Terms};
use crate::session::alias::Aliases;
use crate::session::clocks::{Clocks, STALL_LIMIT, UNACKED_LIMIT};
use crate::session::flight::{Acked, Done, Flight, Outcome, PacketIds, Part};
use crate::session::pace::Pace;
use crate::session::{
    Consignment, Feed, INFLIGHT_MAX, Listening, Refusal, SessionSettings, SessionState,
};

/// Packets are encoded up to this much ahead of the socket: enough for large writes, little enough
/// that a live message does not wait behind much.
const OUTBOUND_BYTES_AHEAD: usize = 128 * 1024;
/// Backlog is encoded only up to this much ahead of the socket: what a live message may find before it.
const BACKLOG_BYTES_AHEAD: usize = 64 * 1024;
/// What MQTT can carry in one packet.
const PACKET_BYTES_MAX: usize = 268_435_455;
/// Headers of TCP, IP and TLS, and the answering ACK of TCP, for each segment.
const HEADER_BYTES: u64 = 110;
/// What a segment carries.
const SEGMENT_BYTES: u64 = 1400;
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
    /// The broker said goodbye (MQTT 5): what follows says why.
    #[error("the broker ended the connection: {said}")]
    Parted {
        /// The code.
        reason: Reason,
        /// Its meaning, and what else the broker said.
        said: String,
    },
    /// Acks are missing and nothing moves.
    #[error("no acknowledgement for {} s while messages wait for one", STALL_LIMIT.as_secs())]
    Stalled,
    /// One message was passed over while others were acked.
    #[error("a message waits for its acknowledgement for more than {} s while others get theirs", UNACKED_LIMIT.as_secs())]
    PassedOver,
    /// The feed wants another connection.
    #[error("this end has closed the connection")]
    HungUp,
    /// The token that we logged in with is not good for much longer.
    #[error("the token of this connection ends soon")]
    TokenEnds,
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
    /// Whether the broker closed the connection while messages waited, and one of them may be why.
    pub(super) closed: bool,
    /// Whether it said that one of them was too large.
    pub(super) oversize: bool,
    /// Whether it said that another client has our client id.
    pub(super) taken_over: bool,
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
    aliases: Aliases,
    clocks: Clocks,
    /// Filters that the feed wants to listen to, until the broker has answered.
    asked: HashMap<u16, String>,
    phase: Phase,
    farewell: Vec<Message>,
    /// The feed, or whoever recalls, wants another connection after this one.
    hung_up: bool,
    /// When the token of this connection is given up.
    token_ends: Option<Instant>,
    recall: CancellationToken,
    acked: bool,
    /// The broker has asked for a pause: nothing is sent before.
    hold: Option<Instant>,
    /// The next pause; it doubles while the broker goes on asking.
    hold_next: Duration,
    max_message: usize,
    retains: bool,
}

impl<'a, F: Feed> Live<'a, F> {
    pub(super) fn new(
        link: Link,
        terms: &Terms,
        settings: &'a SessionSettings,
        feed: &'a mut F,
        ids: PacketIds,
        pace: Pace,
    ) -> Self {
        let ready = feed.ready();
        let max_inflight = settings
            .max_inflight
            .min(usize::from(terms.receive_maximum))
            .clamp(1, INFLIGHT_MAX);
        let keep_alive = match terms.keep_alive_s {
            None | Some(0) => settings.keep_alive,
            Some(seconds) => settings.keep_alive.min(Duration::from_secs(seconds.into())),
        };
        Self {
            link,
            settings,
            feed,
            ready,
            flight: Flight::new(ids, pace, max_inflight),
            urgent: VecDeque::new(),
            backlog: VecDeque::new(),
            aliases: Aliases::new(terms.topic_alias_maximum),
            clocks: Clocks::new(keep_alive),
            asked: HashMap::new(),
            phase: Phase::Running,
            farewell: settings.farewell.clone(),
            hung_up: false,
            token_ends: None,
            recall: CancellationToken::new(),
            acked: false,
            hold: None,
            hold_next: settings.reconnect.first,
            max_message: match settings.unacked {
                // Births cannot be divided, and what can be is no larger than the feed wants it.
                true => PACKET_BYTES_MAX,
                false => settings.max_message,
            }
            .min(terms.max_packet.unwrap_or(usize::MAX)),
            retains: terms.retains,
        }
    }

    /// What goes before a clean goodbye, where it is not what the settings say.
    pub(super) fn say_at_the_end(mut self, farewell: Vec<Message>) -> Self {
        self.farewell = farewell;
        self
    }

    /// The connection is given up after this time, since its password is good for no longer.
    pub(super) fn ends_after(mut self, good_for: Option<Duration>) -> Self {
        self.token_ends = good_for.map(|good_for| Instant::now() + good_for);
        self
    }

    /// When this is cancelled, the connection ends as with a shutdown.
    pub(super) fn recalled_by(mut self, recall: CancellationToken) -> Self {
        self.recall = recall;
        self
    }

    /// Until the connection is lost, or closed because of `shutdown`.
    pub(super) async fn run(
        mut self,
        shutdown: &CancellationToken,
    ) -> (Result<(), LostError>, Summary) {
        let outcome = self.drive(shutdown).await;
        let waiting = !self.flight.is_empty();
        let cause = match &outcome {
            Err(LostError::Parted { reason, .. }) => Some(reason.parting()),
            Err(LostError::Io(_)) => Some(PartingCause::Message),
            _ => None,
        };
        let to_blame = matches!(cause, Some(PartingCause::Message | PartingCause::TooLarge));
        let mut pace = self.flight.pace();
        if waiting && outcome.is_err() {
            pace.refused();
        }
        let summary = Summary {
            ids: self.flight.ids(),
            pace,
            acked: self.acked,
            closed: waiting && to_blame,
            oversize: waiting && cause == Some(PartingCause::TooLarge),
            taken_over: cause == Some(PartingCause::TakenOver),
        };
        if matches!(
            outcome,
            Ok(()) | Err(LostError::HungUp | LostError::TokenEnds)
        ) {
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
            } else if running && self.token_over() {
                // We are back at once; only a core that counts births must hear of the end of this session.
                if !self.settings.unacked {
                    self.farewell.clear();
                }
                self.begin_leaving(DRAIN_LIMIT);
            }
            if self.leave()? {
                return match self.hung_up {
                    true => Err(LostError::HungUp),
                    false if self.token_over() && !shutdown.is_cancelled() => {
                        Err(LostError::TokenEnds)
                    }
                    false => Ok(()),
                };
            }
            self.fill()?;
            self.prove()?;
            let deadline = self.deadline();
            let hungry = self.wants_more();
            let ready = Arc::clone(&self.ready);
            let recall = self.recall.clone();
            let running = matches!(self.phase, Phase::Running);
            tokio::select! {
                moved = self.link.exchange() => self.moved(moved?)?,
                () = ready.notified(), if hungry => {}
                () = tokio::time::sleep_until(deadline) => self.check_clocks()?,
                () = shutdown.cancelled(), if running => self.begin_leaving(DRAIN_LIMIT),
                () = recall.cancelled(), if running => {
                    self.hung_up = true;
                    self.begin_leaving(DRAIN_LIMIT);
                }
            }
        }
    }

    fn token_over(&self) -> bool {
        self.token_ends.is_some_and(|ends| Instant::now() >= ends)
    }

    /// Subscribes and sends the feed's greeting.
    fn greet(&mut self) -> Result<(), LostError> {
        let greeting = self.feed.greeting();
        self.feed.state(&SessionState::Connected);
        if !self.settings.subscribe.is_empty() {
            let id = self.flight.reserve();
            let filters = self.settings.subscribe.clone();
            self.link.send(Packet::Subscribe { id, filters })?;
        }
        self.queue_own(greeting);
        Ok(())
    }

    /// Queues messages of our own: nobody waits for their acks.
    fn queue_own(&mut self, messages: Vec<Message>) {
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
    fn fill(&mut self) -> Result<(), LostError> {
        self.change_subscriptions()?;
        while self.link.outbound.len() < OUTBOUND_BYTES_AHEAD {
            if let Some(waiting) = self.next_waiting() {
                self.send(waiting)?;
            } else if !self.pull() {
                break;
            }
        }
        Ok(())
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
    fn prove(&mut self) -> Result<(), LostError> {
        if self.flight.wants_proof() {
            self.ping()?;
        }
        Ok(())
    }

    fn ping(&mut self) -> Result<(), LostError> {
        self.flight.pinged();
        Ok(self.link.send(Packet::PingReq)?)
    }

    /// Whether the feed would be asked if it had something.
    fn wants_more(&self) -> bool {
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

    fn moved(&mut self, moved: Moved) -> Result<(), LostError> {
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

    /// Ends the pause when it is over.
    fn resume(&mut self) {
        if self.hold.is_some_and(|until| Instant::now() >= until) {
            self.hold = None;
            self.feed.state(&SessionState::Connected);
        }
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

    /// When the clocks must be looked at next.
    fn deadline(&self) -> Instant {
        let mut deadline = self.clocks.deadline(!self.flight.is_empty());
        if let Some(pause) = self.feed.pause() {
            deadline = deadline.min(Instant::now() + pause);
        }
        if let Some(until) = self.hold {
            deadline = deadline.min(until);
        }
        match self.phase {
            Phase::Running => self.token_ends.map_or(deadline, |ends| deadline.min(ends)),
            Phase::Draining(until) | Phase::Leaving(until) => deadline.min(until),
        }
    }

    fn check_clocks(&mut self) -> Result<(), LostError> {
        self.resume();
        if self.clocks.check(Instant::now(), || self.flight.oldest())? {
            self.ping()?;
        }
        Ok(())
    }

    /// Asked to stop: takes nothing more and forgets what is not on the wire; the log has it.
    fn begin_leaving(&mut self, limit: Duration) {
        self.urgent.clear();
        self.backlog.clear();
        self.hold = None;
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
                let mut goodbye = Goodbye::default();
                if self.settings.unacked {
                    // Sparkplug asks for it where MQTT has words for it.
                    goodbye.reason = Reason::WITH_WILL;
                }
                self.link.send(Packet::Disconnect(goodbye))?;
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
