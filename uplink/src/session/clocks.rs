//! When a connection needs a ping, and when it is given up.

use std::time::Duration;

use tokio::time::Instant;

use crate::session::live::LostError;

/// Messages wait for acks, and neither an ack comes nor does the socket take bytes: the peer is stuck.
pub(super) const STALL_LIMIT: Duration = Duration::from_secs(30);
/// Acks come, but one message waits longer than this for its own: the broker has lost it.
pub(super) const UNACKED_LIMIT: Duration = Duration::from_secs(120);
/// How often the oldest message in flight is looked for.
const AUDIT_INTERVAL: Duration = Duration::from_secs(30);
/// A ping that is not answered in half a keep-alive, and at least in this time, means a dead link.
const PING_ANSWER_MIN: Duration = Duration::from_secs(5);

/// What was last seen of the peer, and when.
pub(super) struct Clocks {
    keep_alive: Duration,
    /// When the socket last took bytes.
    sent: Instant,
    /// When anything last came.
    received: Instant,
    /// When the open ping was queued.
    ping: Option<Instant>,
    /// When an ack last came or the socket last took bytes of a message.
    progress: Instant,
    /// Whether a message, not only a ping, is among the bytes that wait for the socket.
    sending: bool,
    /// When the oldest message in flight is looked for again.
    audit: Instant,
}

impl Clocks {
    pub(super) fn new(keep_alive: Duration) -> Self {
        let now = Instant::now();
        Self {
            // What the broker asks for may be less than what we would choose.
            keep_alive: keep_alive.max(Duration::from_secs(1)),
            sent: now,
            received: now,
            ping: None,
            progress: now,
            sending: false,
            audit: now + AUDIT_INTERVAL,
        }
    }

    /// A message was put before the socket; `first`: none was in flight.
    pub(super) fn queued(&mut self, now: Instant, first: bool) {
        self.sending = true;
        if first {
            self.progress = now;
        }
    }

    /// The socket took bytes; `all`: nothing is left before it.
    pub(super) fn written(&mut self, now: Instant, all: bool) {
        self.sent = now;
        if self.sending {
            self.progress = now;
            self.sending = !all;
        }
    }

    /// A packet came, whichever: the peer lives.
    pub(super) fn heard(&mut self, now: Instant) {
        self.received = now;
        self.ping = None;
    }

    /// A PUBACK came.
    pub(super) fn acked(&mut self, now: Instant) {
        self.progress = now;
    }

    /// When [`Clocks::check`] is due; `waiting`: messages wait for acks.
    pub(super) fn deadline(&self, waiting: bool) -> Instant {
        match waiting {
            false => self.ping_deadline(),
            true => self
                .ping_deadline()
                .min(self.progress + STALL_LIMIT)
                .min(self.audit),
        }
    }

    /// Whether a ping is to be sent now. `oldest` tells when the message was sent that waits longest.
    ///
    /// # Errors
    /// When the connection is to be given up.
    pub(super) fn check(
        &mut self,
        now: Instant,
        oldest: impl Fn() -> Option<Instant>,
    ) -> Result<bool, LostError> {
        if now >= self.progress + STALL_LIMIT && oldest().is_some() {
            return Err(LostError::Stalled);
        }
        if now >= self.audit {
            self.audit = now + AUDIT_INTERVAL;
            if oldest().is_some_and(|since| now >= since + UNACKED_LIMIT) {
                return Err(LostError::PassedOver);
            }
        }
        if now < self.ping_deadline() {
            return Ok(false);
        }
        if self.ping.is_some() {
            return Err(LostError::Silent(self.answer_limit()));
        }
        self.ping = Some(now);
        Ok(true)
    }

    /// When a ping is due; or, while one is open, when its answer is overdue. Data that the socket
    /// still takes may stand before the ping, so that they extend its time.
    fn ping_deadline(&self) -> Instant {
        match self.ping {
            None => self.sent.min(self.received) + self.keep_alive * 3 / 4,
            Some(ping) => ping.max(self.sent) + self.answer_limit(),
        }
    }

    fn answer_limit(&self) -> Duration {
        (self.keep_alive / 2).max(PING_ANSWER_MIN)
    }
}
