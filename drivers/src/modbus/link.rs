//! The transaction layer: one request, and the one reply that answers it.
//!
//! Generic over the transport, so that tests need no socket. Frames are cut by their length field, so a
//! late or doubled reply is taken whole and dropped by its transaction id; it neither becomes a value
//! nor shifts the ones after it. Transaction ids begin at random: a reply that a gateway still holds
//! for an earlier connection does not fit into this one by accident.

use std::ops::Range;
use std::time::Duration;

use futures_util::FutureExt;
use millrace_tags::{Clock, Moment};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::frame::mbap::{FRAME_BYTES_MAX, HEADER_BYTES, Header};
use super::pdu::{Answer, READ_PDU_BYTES, ReadRequest};
use crate::SessionError;

/// Room for a few frames: a reply, and doubled or late ones before it.
const RECEIVE_BYTES: usize = 4 * FRAME_BYTES_MAX;

/// A connection to one unit.
pub(crate) struct Link<S> {
    stream: S,
    peer: Peer,
    next_transaction: u16,
    received: Box<[u8; RECEIVE_BYTES]>,
    /// The bytes of `received` that no frame was made of yet.
    unread: Range<usize>,
    stale_dropped_total: u64,
}

/// Whom the link talks to.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    /// The device's name, for errors.
    pub(crate) device: String,
    pub(crate) unit: u8,
    /// The most that an exchange may take.
    pub(crate) timeout: Duration,
}

/// What a request brought, and when its last byte had arrived.
#[derive(Debug)]
pub(crate) struct Reply<'a> {
    pub(crate) answer: Answer<'a>,
    pub(crate) at: Moment,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Link<S> {
    pub(crate) fn new(stream: S, peer: Peer) -> Self {
        Self {
            stream,
            peer,
            next_transaction: fastrand::u16(..),
            received: Box::new([0; RECEIVE_BYTES]),
            unread: 0..0,
            stale_dropped_total: 0,
        }
    }

    /// Replies that belonged to no open request and were dropped.
    pub(crate) fn stale_dropped_total(&self) -> u64 {
        self.stale_dropped_total
    }

    /// Sends the request and waits for its answer.
    ///
    /// # Errors
    /// Any error but [`SessionError::Timeout`] leaves the link without a known place in the stream.
    ///
    /// # Cancel safety
    /// None: a request that was half sent cannot be taken back.
    pub(crate) async fn exchange(
        &mut self,
        request: &ReadRequest,
        clock: &dyn Clock,
    ) -> Result<Reply<'_>, SessionError> {
        self.drop_waiting()?;
        let transaction = self.next_transaction;
        self.next_transaction = transaction.wrapping_add(1);
        let stale_before = self.stale_dropped_total;
        let timeout = self.peer.timeout;
        let exchanged = self.send_and_receive(request, transaction);
        let pdu = match tokio::time::timeout(timeout, exchanged).await {
            Ok(received) => received?,
            Err(_) => return Err(self.timed_out(request, stale_before)),
        };
        let at = clock.now();
        match request.check(&self.received[pdu]) {
            Ok(answer) => Ok(Reply { answer, at }),
            Err(mismatch) => Err(SessionError::Protocol {
                device: self.peer.device.clone(),
                found: mismatch.found,
                expected: mismatch.expected,
            }),
        }
    }

    /// Says goodbye to the peer.
    pub(crate) async fn shutdown(&mut self) {
        // The peer may be gone already, which is what we want.
        let _ = self.stream.shutdown().await;
    }

    async fn send_and_receive(
        &mut self,
        request: &ReadRequest,
        transaction: u16,
    ) -> Result<Range<usize>, SessionError> {
        let header = Header {
            transaction,
            unit: self.peer.unit,
            pdu_bytes: READ_PDU_BYTES,
        };
        let mut frame = [0; HEADER_BYTES + READ_PDU_BYTES];
        frame[..HEADER_BYTES].copy_from_slice(&header.encode());
        frame[HEADER_BYTES..].copy_from_slice(&request.encode());
        let written = self.stream.write_all(&frame).await;
        written.map_err(|source| self.lost(source))?;
        loop {
            let Some((header, pdu)) = self.next_frame()? else {
                self.receive().await?;
                continue;
            };
            if header.transaction != transaction {
                self.stale_dropped_total += 1;
                continue;
            }
            if header.unit != self.peer.unit {
                return Err(SessionError::Protocol {
                    device: self.peer.device.clone(),
                    found: format!("a reply of unit {}", header.unit),
                    expected: format!("a reply of unit {}", self.peer.unit),
                });
            }
            return Ok(pdu);
        }
    }

    /// Takes in what has arrived unasked and drops its whole frames. A frame that has arrived in part
    /// stays, so that the next one is found.
    fn drop_waiting(&mut self) -> Result<(), SessionError> {
        loop {
            while self.next_frame()?.is_some() {
                self.stale_dropped_total += 1;
            }
            match self.receive().now_or_never() {
                Some(received) => received?,
                None => return Ok(()),
            }
        }
    }

    /// Cuts the next whole frame out of what was received.
    fn next_frame(&mut self) -> Result<Option<(Header, Range<usize>)>, SessionError> {
        let unread = &self.received[self.unread.clone()];
        let header = Header::parse(unread).map_err(|error| SessionError::Protocol {
            device: self.peer.device.clone(),
            found: error.to_string(),
            expected: "the header of a Modbus TCP frame".to_owned(),
        })?;
        let Some(header) = header.filter(|header| header.frame_bytes() <= unread.len()) else {
            return Ok(None);
        };
        let begin = self.unread.start;
        self.unread.start += header.frame_bytes();
        Ok(Some((header, begin + HEADER_BYTES..self.unread.start)))
    }

    /// Waits for more bytes. Cancel-safe: bytes are either counted or still in the kernel.
    async fn receive(&mut self) -> Result<(), SessionError> {
        // Whole frames are cut before more is asked for, so what is left is less than one frame.
        if self.unread.is_empty() {
            self.unread = 0..0;
        } else if self.unread.start > 0 {
            self.received.copy_within(self.unread.clone(), 0);
            self.unread = 0..self.unread.len();
        }
        let free = &mut self.received[self.unread.end..];
        match self.stream.read(free).await {
            Ok(0) => Err(self.lost(std::io::ErrorKind::UnexpectedEof.into())),
            Ok(count) => {
                self.unread.end += count;
                Ok(())
            }
            Err(source) => Err(self.lost(source)),
        }
    }

    fn lost(&self, source: std::io::Error) -> SessionError {
        SessionError::Lost {
            device: self.peer.device.clone(),
            source,
        }
    }

    fn timed_out(&self, request: &ReadRequest, stale_before: u64) -> SessionError {
        let stale = self.stale_dropped_total - stale_before;
        let request = match stale {
            0 => request.to_string(),
            // A device that makes up its transaction ids looks silent; this tells the two apart.
            _ => format!("{request} (replies with another transaction id: {stale})"),
        };
        SessionError::Timeout {
            device: self.peer.device.clone(),
            request,
            timeout: self.peer.timeout,
        }
    }
}

#[cfg(test)]
mod tests;
