//! Exchanges over TCP: transactions, and several of them in flight.

use std::collections::VecDeque;
use std::ops::Range;

use millrace_tags::Clock;
use tokio::time::{Instant, timeout_at};

use super::{Link, Peer, Transport, lost, not_an_answer};
use crate::SessionError;
use crate::modbus::fault::Fault;
use crate::modbus::frame::mbap::{HEADER_BYTES, Header};
use crate::modbus::reply::Reply;
use crate::modbus::request::Request;

/// The transactions of a connection.
pub(super) struct Transactions {
    next: u16,
    /// Those that wait for their reply, oldest first.
    open: VecDeque<Open>,
}

/// A request that waits for its reply.
#[derive(Debug, Clone, Copy)]
struct Open {
    transaction: u16,
    /// Its number in what was asked.
    index: usize,
    until: Instant,
}

impl Transactions {
    pub(super) fn new() -> Self {
        Self {
            next: fastrand::u16(..),
            open: VecDeque::new(),
        }
    }
}

impl<S: Transport> Link<S> {
    /// One request and the PDU of its reply.
    pub(super) async fn exchange_tcp(
        &mut self,
        peer: &Peer,
        request: &Request,
    ) -> Result<Range<usize>, SessionError> {
        self.transactions.open.clear();
        self.drop_waiting(peer)?;
        self.ask(peer, request, 0).await?;
        let (_, pdu) = self.next_answer(peer, &[request]).await?;
        Ok(pdu)
    }

    /// Keeps up to `depth` requests in flight until all are answered.
    pub(super) async fn pipeline(
        &mut self,
        peer: &Peer,
        requests: &[&Request],
        depth: usize,
        clock: &dyn Clock,
        take: &mut (dyn FnMut(usize, Reply<'_>) + Send),
    ) -> Result<(), SessionError> {
        self.transactions.open.clear();
        self.drop_waiting(peer)?;
        let mut asked = 0;
        let mut answered = 0;
        while answered < requests.len() {
            while asked < requests.len() && asked - answered < depth {
                self.ask(peer, requests[asked], asked).await?;
                asked += 1;
            }
            let (index, pdu) = self.next_answer(peer, requests).await?;
            answered += 1;
            let at = clock.now();
            match requests[index].check(&self.received[pdu]) {
                Ok(answer) => take(index, Reply { answer, at }),
                Err(mismatch) => {
                    self.faults.count(peer.unit, mismatch.fault);
                    return Err(not_an_answer(peer, mismatch));
                }
            }
        }
        Ok(())
    }

    async fn ask(
        &mut self,
        peer: &Peer,
        request: &Request,
        index: usize,
    ) -> Result<(), SessionError> {
        let until = Instant::now() + peer.timeout;
        let transactions = &mut self.transactions;
        let transaction = transactions.next;
        transactions.next = transaction.wrapping_add(1);
        transactions.open.push_back(Open {
            transaction,
            index,
            until,
        });
        self.sent.clear();
        self.sent.resize(HEADER_BYTES, 0);
        request.encode(&mut self.sent);
        let header = Header {
            transaction,
            unit: peer.unit,
            pdu_bytes: self.sent.len() - HEADER_BYTES,
        };
        self.sent[..HEADER_BYTES].copy_from_slice(&header.encode());
        match timeout_at(until, self.send(peer)).await {
            Ok(sent) => sent,
            // Whoever takes no bytes takes no request.
            Err(_) => Err(lost(peer, std::io::ErrorKind::TimedOut.into())),
        }
    }

    /// The next reply to an open transaction, with the number of its request.
    async fn next_answer(
        &mut self,
        peer: &Peer,
        requests: &[&Request],
    ) -> Result<(usize, Range<usize>), SessionError> {
        let stale_before = self.faults.get(Fault::Stale);
        loop {
            let Some((header, pdu)) = self.next_frame(peer)? else {
                let oldest = self.transactions.open.front().copied();
                let Some(oldest) = oldest else {
                    return Err(lost(peer, std::io::ErrorKind::NotConnected.into()));
                };
                match timeout_at(oldest.until, self.receive(peer)).await {
                    Ok(received) => received?,
                    Err(_) => {
                        self.faults.count(peer.unit, Fault::Timeout);
                        let stale = self.faults.get(Fault::Stale) - stale_before;
                        return Err(timed_out(peer, requests[oldest.index], stale));
                    }
                }
                continue;
            };
            let open = &mut self.transactions.open;
            let found = open
                .iter()
                .position(|open| open.transaction == header.transaction);
            let Some(open) = found.and_then(|at| open.remove(at)) else {
                self.faults.count(peer.unit, Fault::Stale);
                continue;
            };
            if header.unit != peer.unit {
                self.faults.count(peer.unit, Fault::WrongUnit);
                return Err(SessionError::Protocol {
                    device: peer.device.clone(),
                    found: format!("a reply of unit {}", header.unit),
                    expected: format!("a reply of unit {}", peer.unit),
                });
            }
            return Ok((open.index, pdu));
        }
    }

    /// Takes in what has arrived unasked and drops its whole frames. A frame that has arrived in part
    /// stays, so that the next one is found.
    fn drop_waiting(&mut self, peer: &Peer) -> Result<(), SessionError> {
        loop {
            while self.next_frame(peer)?.is_some() {
                self.faults.count(peer.unit, Fault::Stale);
            }
            if !self.receive_now(peer)? {
                return Ok(());
            }
        }
    }

    /// Cuts the next whole frame out of what was received.
    fn next_frame(&mut self, peer: &Peer) -> Result<Option<(Header, Range<usize>)>, SessionError> {
        let unread = &self.received[self.unread.clone()];
        let header = Header::parse(unread).map_err(|error| {
            self.faults.count(peer.unit, Fault::BadHeader);
            SessionError::Protocol {
                device: peer.device.clone(),
                found: error.to_string(),
                expected: "the header of a Modbus TCP frame".to_owned(),
            }
        })?;
        let Some(header) = header.filter(|header| header.frame_bytes() <= unread.len()) else {
            return Ok(None);
        };
        let begin = self.unread.start;
        self.unread.start += header.frame_bytes();
        Ok(Some((header, begin + HEADER_BYTES..self.unread.start)))
    }
}

fn timed_out(peer: &Peer, request: &Request, stale: u64) -> SessionError {
    let request = match stale {
        0 => request.to_string(),
        // A device that makes up its transaction ids looks silent; this tells the two apart.
        _ => format!("{request} (replies with another transaction id: {stale})"),
    };
    SessionError::Timeout {
        device: peer.device.clone(),
        request,
        timeout: peer.timeout,
    }
}
