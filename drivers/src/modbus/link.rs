//! The transaction layer: one request, and the one reply that answers it.
//!
//! Generic over the transport, so that tests need no socket and no port. Before a request everything
//! that has arrived unasked is taken in and dropped. A reply is held against its request exactly
//! ([`Request::check`]). What does not fit is counted under its name ([`FaultCounts`]) and never becomes
//! a value, nor does it shift the replies after it:
//!
//! - **TCP**: frames are cut by their length field and told apart by their transaction. Transactions
//!   begin at random: a reply that a gateway still holds for an earlier connection does not fit into
//!   this one by accident. Several requests may be in flight.
//! - **RTU**: nothing in a frame says whom it answers. After any error, and before the first request, the
//!   line must be quiet for the longest possible reply and t3.5 (the fence); a unit that did not answer is not asked again
//!   before its timeout has passed once more. Whoever owes a reply is first asked something that the reply cannot
//!   answer, however late it comes ([`Owed`]), and a write that is confirmed by its own echo waits until a read has shown
//!   whether the adapter hears itself.
//!
//! What remains on a serial line: a unit that answers requests out of their order; one that is silent to every
//! question, and answers an old request more than ten timeouts after the last; a reply to a request of a process
//! before this one, which comes later than the fence; and an adapter that hears itself only now and then.

mod mbap;
mod owed;
mod rtu;

use std::ops::Range;
use std::time::Duration;

use futures_util::FutureExt;
use millrace_tags::Clock;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::fault::{Fault, FaultCounts};
use super::frame::mbap::FRAME_BYTES_MAX;
use super::pace::Pace;
use super::reply::{Answer, Mismatch, Reply};
use super::request::Request;
use super::tap::{Tap, TappedLink, Way};
use crate::SessionError;

pub(crate) use owed::Owed;

/// Room for a few frames: a reply, and doubled or late ones before it.
const RECEIVE_BYTES: usize = 4 * FRAME_BYTES_MAX;

/// What carries frames: a socket, a port, a pipe in memory.
pub trait Transport: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Transport for T {}

/// How frames are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// Modbus TCP, and Modbus Security inside of TLS.
    Tcp,
    /// A serial line, or RTU frames over TCP.
    Rtu(Pace),
}

/// Whom a request is for.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The device's name, for errors.
    pub device: String,
    /// Its unit.
    pub unit: u8,
    /// The most that an exchange may take, besides the time of its bytes on a serial line.
    pub timeout: Duration,
}

/// A connection to one or more units.
pub struct Link<S> {
    stream: S,
    faults: FaultCounts,
    tap: Option<TappedLink>,
    framing: Framing,
    transactions: mbap::Transactions,
    silence: rtu::Silence,
    /// The request frame, kept for its room and to know its echo.
    sent: Vec<u8>,
    received: Box<[u8; RECEIVE_BYTES]>,
    /// The bytes of `received` that no frame was made of yet.
    unread: Range<usize>,
}

impl<S: Transport> Link<S> {
    /// A link over a transport that nobody else reads or writes.
    pub fn new(stream: S, framing: Framing, faults: FaultCounts) -> Self {
        Self {
            stream,
            faults,
            tap: None,
            framing,
            transactions: mbap::Transactions::new(),
            silence: rtu::Silence::new(),
            sent: Vec::new(),
            received: Box::new([0; RECEIVE_BYTES]),
            unread: 0..0,
        }
    }

    /// The same where others may listen in.
    pub fn tapped(mut self, tap: &Tap) -> Self {
        self.tap = Some(tap.link());
        self
    }

    /// The same for units that owed these replies on a link before this one.
    pub(crate) fn owing(mut self, owed: Owed) -> Self {
        self.silence.owed = owed;
        self
    }

    /// What the units owe when the transport broke.
    pub(crate) fn into_owed(self) -> Owed {
        self.silence.owed
    }

    /// What went wrong so far.
    pub fn faults(&self) -> &FaultCounts {
        &self.faults
    }

    /// Sends the request and waits for its answer.
    ///
    /// # Errors
    /// Over TCP any error but [`SessionError::Timeout`] leaves the link without a known place in the
    /// stream: close it. On an RTU line only [`SessionError::Lost`] does; the link keeps the line quiet
    /// after all others by itself.
    ///
    /// # Cancel safety
    /// None: a request that was half sent cannot be taken back.
    pub async fn exchange(
        &mut self,
        peer: &Peer,
        request: &Request,
        clock: &dyn Clock,
    ) -> Result<Reply<'_>, SessionError> {
        let pdu = match self.framing {
            Framing::Tcp => self.exchange_tcp(peer, request).await?,
            Framing::Rtu(pace) => match self.exchange_rtu(peer, request, pace).await? {
                Some(pdu) => pdu,
                None => {
                    let (answer, at) = (Answer::Written, clock.now());
                    return Ok(Reply { answer, at });
                }
            },
        };
        let at = clock.now();
        match request.check(&self.received[pdu]) {
            Ok(answer) => {
                self.silence.owed.settle(peer.unit);
                Ok(Reply { answer, at })
            }
            Err(mismatch) => {
                self.faults.count(peer.unit, mismatch.fault);
                self.silence.disturb();
                Err(not_an_answer(peer, mismatch))
            }
        }
    }

    /// As [`Link::exchange`] for each request in turn; over TCP with up to `depth` of them in flight.
    /// `take` gets each answer with the number of its request, in order of arrival.
    ///
    /// # Errors
    /// As [`Link::exchange`]; requests without an answer stay without.
    pub async fn exchange_all(
        &mut self,
        peer: &Peer,
        requests: &[&Request],
        depth: usize,
        clock: &dyn Clock,
        take: &mut (dyn FnMut(usize, Reply<'_>) + Send),
    ) -> Result<(), SessionError> {
        if depth > 1 && self.framing == Framing::Tcp {
            return self.pipeline(peer, requests, depth, clock, take).await;
        }
        for (index, request) in requests.iter().enumerate() {
            take(index, self.exchange(peer, request, clock).await?);
        }
        Ok(())
    }

    /// Says goodbye to the peer.
    pub async fn shutdown(&mut self) {
        // The peer may be gone already, which is what we want.
        let _ = self.stream.shutdown().await;
    }

    /// Sends what is in `sent`.
    async fn send(&mut self, peer: &Peer) -> Result<(), SessionError> {
        self.tell(Way::Sent, &self.sent);
        let written = match self.stream.write_all(&self.sent).await {
            Ok(()) if self.framing == Framing::Tcp => self.stream.flush().await,
            // The kernel sends by itself. To flush a port is to wait for its last byte, with a thread of the runtime.
            written => written,
        };
        written.map_err(|source| {
            self.tell(Way::Lost, &[]);
            lost(peer, source)
        })
    }

    fn tell(&self, way: Way, bytes: &[u8]) {
        if let Some(tap) = &self.tap {
            tap.tell(way, bytes);
        }
    }

    /// Waits for more bytes. Cancel-safe: bytes are either counted or still in the kernel.
    async fn receive(&mut self, peer: &Peer) -> Result<(), SessionError> {
        if self.unread.is_empty() {
            self.unread = 0..0;
        } else if self.unread.start > 0 {
            self.received.copy_within(self.unread.clone(), 0);
            self.unread = 0..self.unread.len();
        }
        if self.unread.end == RECEIVE_BYTES {
            // Only a line full of noise comes here: over TCP whole frames are cut before more is read.
            self.faults.count(peer.unit, Fault::Noise);
            self.unread = 0..0;
        }
        let free = &mut self.received[self.unread.end..];
        let source = match self.stream.read(free).await {
            Ok(0) => std::io::ErrorKind::UnexpectedEof.into(),
            Ok(count) => {
                let begin = self.unread.end;
                self.unread.end += count;
                self.tell(Way::Received, &self.received[begin..self.unread.end]);
                return Ok(());
            }
            Err(source) => source,
        };
        self.tell(Way::Lost, &[]);
        Err(lost(peer, source))
    }

    /// Takes what has arrived by now; whether that was anything.
    fn receive_now(&mut self, peer: &Peer) -> Result<bool, SessionError> {
        match self.receive(peer).now_or_never() {
            Some(received) => received.map(|()| true),
            None => Ok(false),
        }
    }
}

fn lost(peer: &Peer, source: std::io::Error) -> SessionError {
    SessionError::Lost {
        device: peer.device.clone(),
        source,
    }
}

fn not_an_answer(peer: &Peer, mismatch: Mismatch) -> SessionError {
    SessionError::Protocol {
        device: peer.device.clone(),
        found: mismatch.found,
        expected: mismatch.expected,
    }
}

#[cfg(test)]
mod tests;
