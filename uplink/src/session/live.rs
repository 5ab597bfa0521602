//! One connection, from the CONNACK to its end: its clocks, and how it is left. What goes out is in `outgoing.rs`, what the
//! broker says in `answers.rs`.

mod answers;
mod outgoing;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::link::Link;
use crate::message::Message;
use crate::packet::{Goodbye, Packet, PacketError, PartingCause, Reason, Terms};
use crate::session::alias::Aliases;
use crate::session::clocks::{Clocks, STALL_LIMIT, UNACKED_LIMIT};
use crate::session::flight::{Flight, PacketIds, Part};
use crate::session::pace::Pace;
use crate::session::{Feed, INFLIGHT_MAX, SessionSettings, SessionState};

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
    /// Whether the broker closed the connection while messages or subscriptions of the feed waited, and one of them may be why.
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
            closed: (waiting || !self.asked.is_empty()) && to_blame,
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

    /// Ends the pause when it is over.
    fn resume(&mut self) {
        if self.hold.is_some_and(|until| Instant::now() >= until) {
            self.hold = None;
            self.feed.state(&SessionState::Connected);
        }
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
