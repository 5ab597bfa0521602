//! Where the messages of a session come from, and where their fate is told.

use std::sync::Arc;
use std::time::Duration;

use millrace_tags::Lane;
use tokio::sync::Notify;

use crate::connect::ConnectionReport;
use crate::message::{Inbound, Message};
use crate::packet::Reason;

/// How much the session would take now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Messages; at least one.
    pub messages: usize,
    /// Bytes; a first message may be larger, up to `max_message`.
    pub bytes: usize,
    /// Whether backlog may be offered: it fills at most half of the window, less while acks are slow.
    pub backlog: bool,
}

/// Messages that are settled together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consignment {
    /// The feed's name for it; unique among those that are under way.
    pub token: u64,
    /// Whether it is backlog.
    pub lane: Lane,
    /// In sending order. With no message in it, it is acked at once.
    pub messages: Vec<Message>,
}

/// The last words of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parting {
    /// What the broker says for us when we vanish.
    pub will: Option<Message>,
    /// Sent before a clean goodbye.
    pub farewell: Vec<Message>,
}

/// Why a consignment was not sent and will not be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// A message is larger than the broker takes. Split it, or set it aside; do not offer it again as it is.
    #[error("a message on {topic} takes {bytes} bytes; the limit is {limit}")]
    TooLarge {
        /// Which topic.
        topic: String,
        /// Its size on the wire.
        bytes: usize,
        /// The session's limit.
        limit: usize,
    },
    /// A topic that MQTT cannot carry. Set it aside.
    #[error("`{topic}` is no topic: {problem}")]
    Topic {
        /// As given, shortened.
        topic: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A property that MQTT cannot carry. Set it aside.
    #[error("{what} of a message on {topic} is longer than 65535 bytes")]
    Property {
        /// Which topic.
        topic: String,
        /// Which property.
        what: &'static str,
    },
    /// The broker does not let us publish there. What goes there will be refused until somebody permits it.
    #[error("the broker refuses the message: {0}")]
    Denied(Reason),
    /// The broker will never take a message of it. Set it aside.
    #[error("the broker refuses the message: {0}")]
    Never(Reason),
    /// The broker did not take a message of it and does not say why. Try it once more, alone.
    #[error("the broker does not take the message: {0}")]
    Unexplained(Reason),
}

/// A change of what is subscribed on this connection, beside what the settings say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listening {
    /// Subscribe to this filter, at QoS 0.
    Begin(String),
    /// Do so no longer.
    End(String),
}

/// How the session stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionState {
    /// An attempt is under way.
    Connecting,
    /// The broker has accepted us.
    Connected,
    /// There is a connection, and the broker wants no messages for now.
    Slowed {
        /// Why.
        reason: Reason,
        /// When messages go again, from now.
        next_try: Duration,
    },
    /// There is no connection.
    Down {
        /// Why, with its causes.
        error: String,
        /// Whether the broker refuses us until somebody changes something.
        refused: bool,
        /// Whether there was a connection, and the broker closed it while messages or subscriptions waited.
        closed: bool,
        /// Whether the broker said that one of them was too large.
        oversize: bool,
        /// When the next attempt begins, from now.
        next_try: Duration,
    },
}

/// Where the messages come from and where their fate is told. All calls come from the session's task
/// and must not block.
pub trait Feed: Send {
    /// The broker has accepted us, on these terms: no message may be larger than [`Terms::max_packet`].
    ///
    /// [`Terms::max_packet`]: crate::Terms::max_packet
    fn connected(&mut self, _report: &ConnectionReport) {}

    /// A new connection is up: whatever was in flight is forgotten and must be offered again by
    /// [`Feed::next`]. Returns what is to be sent before anything else, for example a retained status;
    /// nobody is told of the acks of these.
    fn greeting(&mut self) -> Vec<Message>;

    /// The next messages, if there are any now. A consignment that was [refused](Feed::refused) must not
    /// be returned again.
    fn next(&mut self, window: Window) -> Option<Consignment>;

    /// Every message of the consignment got its PUBACK.
    fn acked(&mut self, token: u64);

    /// The consignment cannot be sent, and none of it was; or the broker refuses a message of it (MQTT 5).
    fn refused(&mut self, token: u64, why: Refusal);

    /// The broker does not take the consignment for now: it is to be offered again by [`Feed::next`].
    fn postponed(&mut self, token: u64);

    /// A message on a subscribed topic. It is acknowledged when this returns.
    fn received(&mut self, message: Inbound);

    /// The broker has answered the subscriptions; what it refuses will not arrive.
    fn subscribed(&mut self, _refused: &[(String, Reason)]) {}

    /// What to listen to from now on, or no longer; asked before messages are. A new connection begins without any
    /// of it.
    fn listening(&mut self) -> Option<Listening> {
        None
    }

    /// The broker's answer to [`Listening::Begin`]: what comes on the filter goes to [`Feed::received`], if it was
    /// `granted`.
    fn listens(&mut self, _filter: &str, _granted: bool) {}

    /// The session's state has changed.
    fn state(&mut self, state: &SessionState);

    /// An attempt to connect is about to begin. Returns what the broker and we ourselves say at the end of this
    /// connection, where each has its own; `None`: what the settings say.
    fn connecting(&mut self) -> impl Future<Output = Option<Parting>> + Send {
        std::future::ready(None)
    }

    /// The attempt ended before a CONNECT was sent: nobody has the will of [`Feed::connecting`].
    fn unheard(&mut self) {}

    /// Whether this connection is to be ended, as with a shutdown, and another one begun.
    fn hangs_up(&self) -> bool {
        false
    }

    /// Whether the next connection is to go to the endpoint behind this one, and to come back to that one later: asked
    /// once a connection has ended.
    fn walks_on(&mut self) -> bool {
        false
    }

    /// After so long [`Feed::next`] is asked again, whether somebody wakes the session or not.
    fn pause(&self) -> Option<Duration> {
        None
    }

    /// Whether the feed looks for the message that makes the broker close the connection. Pauses stay
    /// short then, as long as the broker acknowledges others.
    fn searches(&self) -> bool {
        false
    }

    /// Wakes the session when [`Feed::next`] may have something again. Use `notify_one`, which is
    /// remembered while nobody waits.
    fn ready(&self) -> Arc<Notify>;
}
