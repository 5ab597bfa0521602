//! The MQTT session: one task owns the socket, connects for ever, and pulls what there is to send.
//!
//! It has no queue of its own: what was in flight when a connection ended is forgotten here and
//! offered again by the [`Feed`], because the log is the only retry queue. A consignment is acked when
//! each of its messages got its PUBACK, and not before. Packet ids go round the whole ring, so that a
//! late or repeated PUBACK does not settle another message; one that nobody waits for is counted.
//!
//! A PUBACK is custody at the broker, not delivery to anybody behind it.

mod clocks;
mod flight;
mod live;
mod pace;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use millrace_tags::Lane;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::backoff::{Backoff, Failure, ReconnectPolicy};
use crate::connect;
use crate::endpoint::Endpoint;
use crate::message::Message;
use crate::secret::SecretSource;
use crate::tls::TlsFiles;

pub use live::LostError;

/// Messages in flight by default: 2,000 a second at 50 ms of round trip, and no broker's queue is hurt.
pub const INFLIGHT_DEFAULT: usize = 100;
/// More in flight than this would not leave the id ring room to keep late acks apart.
pub const INFLIGHT_MAX: usize = 10_000;
/// Bytes in flight: what a slow link carries within a keep-alive, so that pings are answered in time.
pub const INFLIGHT_BYTES_MAX: usize = 1024 * 1024;
/// The largest message by default: what the tightest of the common cloud cores takes.
pub const MESSAGE_BYTES_DEFAULT: usize = 128 * 1024;
/// From one packet to the next on an idle connection, by default.
pub const KEEP_ALIVE_DEFAULT: Duration = Duration::from_secs(30);
/// A shorter keep-alive costs more than it finds.
pub const KEEP_ALIVE_MIN: Duration = Duration::from_secs(5);

/// One connection may break at a bad moment; so many in a row, each before the first ack, have a cause.
const REBUFFS_TOLD: u32 = 3;
const REBUFF_HINT: &str = "; it is closed each time before the first message is acknowledged: \
    the broker may refuse our topic, or messages of this size (max_message)";

/// What the session needs to know; checked by the configuration.
#[derive(Debug, Clone)]
pub struct SessionSettings {
    /// Where the broker is; its name is looked up again at each connect.
    pub endpoint: Endpoint,
    /// Our name at the broker.
    pub client_id: String,
    /// User name, where the broker wants one.
    pub username: Option<String>,
    /// Password; a file is read again at each connect. MQTT 3.1.1 has no password without a user name.
    pub password: Option<SecretSource>,
    /// The password is a token that goes as user name, and nothing goes as password.
    pub token_as_username: bool,
    /// Certificates; read again at each connect.
    pub tls: TlsFiles,
    /// Longest silence on the connection; at least [`KEEP_ALIVE_MIN`].
    pub keep_alive: Duration,
    /// Messages that may wait for their PUBACK.
    pub max_inflight: usize,
    /// Largest packet that the broker takes.
    pub max_message: usize,
    /// What the broker says for us when we vanish.
    pub will: Option<Message>,
    /// Topic filters to subscribe at QoS 1.
    pub subscribe: Vec<String>,
    /// Sent before a clean goodbye.
    pub farewell: Vec<Message>,
    /// Consignments go at QoS 0, strictly in the order in which they come. The answer to a ping that was sent after
    /// them stands for their PUBACK: the broker has read them.
    pub unacked: bool,
    /// Pauses between attempts.
    pub reconnect: ReconnectPolicy,
    /// What the session counts, shared with whoever shows it.
    pub counters: Arc<SessionCounters>,
}

impl SessionSettings {
    /// Settings with every default.
    pub fn new(endpoint: Endpoint, client_id: impl Into<String>) -> Self {
        Self {
            endpoint,
            client_id: client_id.into(),
            username: None,
            password: None,
            token_as_username: false,
            tls: TlsFiles::default(),
            keep_alive: KEEP_ALIVE_DEFAULT,
            max_inflight: INFLIGHT_DEFAULT,
            max_message: MESSAGE_BYTES_DEFAULT,
            will: None,
            subscribe: Vec::new(),
            farewell: Vec::new(),
            unacked: false,
            reconnect: ReconnectPolicy::default(),
            counters: Arc::default(),
        }
    }
}

/// What a session has done since it began.
#[derive(Debug, Default)]
pub struct SessionCounters {
    connects: AtomicU64,
    acked: AtomicU64,
    acked_bytes: AtomicU64,
    unknown_acks: AtomicU64,
    refused: AtomicU64,
}

impl SessionCounters {
    /// Connections that the broker accepted.
    pub fn connects_total(&self) -> u64 {
        self.connects.load(Ordering::Relaxed)
    }

    /// Messages that got their PUBACK.
    pub fn messages_acked_total(&self) -> u64 {
        self.acked.load(Ordering::Relaxed)
    }

    /// Bytes of the messages that got their PUBACK.
    pub fn bytes_acked_total(&self) -> u64 {
        self.acked_bytes.load(Ordering::Relaxed)
    }

    /// PUBACKs that nobody waited for: duplicates, or a broker's mistake.
    pub fn unknown_acks_total(&self) -> u64 {
        self.unknown_acks.load(Ordering::Relaxed)
    }

    /// Consignments refused because a message cannot be sent at all.
    pub fn refused_total(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

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
}

/// How the session stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionState {
    /// An attempt is under way.
    Connecting,
    /// The broker has accepted us.
    Connected,
    /// There is no connection.
    Down {
        /// Why, with its causes.
        error: String,
        /// Whether the broker refuses us until somebody changes something.
        refused: bool,
        /// Whether there was a connection, and the broker closed it while messages waited.
        closed: bool,
        /// When the next attempt begins, from now.
        next_try: Duration,
    },
}

/// Where the messages come from and where their fate is told. All calls come from the session's task
/// and must not block.
pub trait Feed: Send {
    /// A new connection is up: whatever was in flight is forgotten and must be offered again by
    /// [`Feed::next`]. Returns what is to be sent before anything else, for example a retained status;
    /// nobody is told of the acks of these.
    fn greeting(&mut self) -> Vec<Message>;

    /// The next messages, if there are any now. A consignment that was [refused](Feed::refused) must not
    /// be returned again.
    fn next(&mut self, window: Window) -> Option<Consignment>;

    /// Every message of the consignment got its PUBACK.
    fn acked(&mut self, token: u64);

    /// The consignment cannot be sent; none of it was.
    fn refused(&mut self, token: u64, why: Refusal);

    /// A message on a subscribed topic. It is acknowledged when this returns.
    fn received(&mut self, topic: &str, payload: &[u8], retained: bool);

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

/// Runs the session until `shutdown`: connects, sends, connects again after any failure. On shutdown it
/// waits a little for acks, says the farewell, and disconnects.
pub async fn run(settings: SessionSettings, mut feed: impl Feed, shutdown: CancellationToken) {
    let mut backoff = Backoff::new(settings.reconnect);
    let mut journal = Journal::default();
    let mut ids = flight::PacketIds::default();
    let mut pace = pace::Pace::default();
    let mut rebuffs = 0u32;
    loop {
        feed.state(&SessionState::Connecting);
        let parting = feed.connecting().await.unwrap_or_else(|| Parting {
            will: settings.will.clone(),
            farewell: settings.farewell.clone(),
        });
        let opened = tokio::select! {
            opened = connect::open(&settings, parting.will.as_ref()) => opened,
            () = shutdown.cancelled() => return,
        };
        let down = match opened {
            Err(error) => {
                if !error.is_after_connect() {
                    feed.unheard();
                }
                let failure = match error.is_refusal() {
                    true => Failure::Refused,
                    false => Failure::Transient,
                };
                (chain(&error), failure, false)
            }
            Ok(opened) => {
                settings.counters.connects.fetch_add(1, Ordering::Relaxed);
                journal.up(&settings, &opened.report);
                let started = Instant::now();
                let live = live::Live::new(opened.link, &settings, &mut feed, ids, pace)
                    .say_at_the_end(parting.farewell);
                let (outcome, summary) = live.run(&shutdown).await;
                (ids, pace) = (summary.ids, summary.pace);
                let Err(error) = outcome else { return };
                let proven = started.elapsed() >= settings.reconnect.proven;
                if summary.acked && (proven || feed.searches()) {
                    backoff.reset();
                }
                rebuffs = match summary.closed && !summary.acked {
                    true => rebuffs + 1,
                    false => 0,
                };
                let mut text = chain(&error);
                if rebuffs >= REBUFFS_TOLD {
                    text.push_str(REBUFF_HINT);
                }
                (text, Failure::Transient, summary.closed)
            }
        };
        let (error, failure, closed) = down;
        let next_try = backoff.pause(failure, fastrand::f64());
        journal.down(&settings, &error);
        feed.state(&SessionState::Down {
            error,
            refused: failure == Failure::Refused,
            closed,
            next_try,
        });
        tokio::select! {
            () = tokio::time::sleep(next_try) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

/// The error and its causes, once each.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let line = error.to_string();
        if !text.ends_with(&line) {
            text.push_str(": ");
            text.push_str(&line);
        }
        cause = error.source();
    }
    text
}

/// Logs changes of state once, not every attempt.
#[derive(Default)]
struct Journal {
    last_error: Option<String>,
}

impl Journal {
    fn up(&mut self, settings: &SessionSettings, report: &connect::ConnectionReport) {
        self.last_error = None;
        tracing::info!(
            endpoint = %settings.endpoint,
            address = %report.address,
            tls = report.tls.as_deref().unwrap_or("none"),
            "connected to the broker"
        );
    }

    fn down(&mut self, settings: &SessionSettings, error: &str) {
        if self.last_error.as_deref() != Some(error) {
            tracing::warn!(endpoint = %settings.endpoint, error, "no connection to the broker");
            self.last_error = Some(error.to_owned());
        }
    }
}
