//! Exchanges on a serial line: silences, and the reply among the bytes.

use std::ops::Range;

use tokio::time::{Instant, timeout_at};

use super::{Link, Peer, Transport, lost};
use crate::SessionError;
use crate::modbus::fault::Fault;
use crate::modbus::frame::rtu::{self, BROADCAST, ENVELOPE_BYTES, EXCEPTION_BYTES};
use crate::modbus::pace::Pace;
use crate::modbus::reply::EXCEPTION_FLAG;
use crate::modbus::request::Request;

/// A line that is never quiet is given up after so many fences.
const FENCES_MAX: u32 = 8;

/// When the line may be used again, and by whom.
pub(super) struct Silence {
    /// The last byte that was sent or heard.
    active_at: Instant,
    /// Something went wrong: the line must be quiet for the fence, not only for t3.5.
    disturbed: bool,
    /// Units that did not answer, and until when they may still do so.
    unanswered: Vec<(u8, Instant)>,
    /// The adapter hears itself.
    echoes: bool,
}

impl Silence {
    /// A line of which nothing is known: a reply of before may be on its way.
    pub(super) fn new() -> Self {
        Self {
            active_at: Instant::now(),
            disturbed: true,
            unanswered: Vec::new(),
            echoes: false,
        }
    }

    /// From now on until the line was quiet for the fence, nothing is sent.
    pub(super) fn disturb(&mut self) {
        self.disturbed = true;
    }

    fn unanswered_until(&self, unit: u8) -> Option<Instant> {
        let found = self.unanswered.iter().find(|(of, _)| *of == unit);
        found.map(|(_, until)| *until)
    }
}

/// Where the reply lies among the bytes that were received.
enum Found {
    /// The reply; so many bytes before it are something else.
    Reply { before: usize, bytes: usize },
    /// Not there yet; whether one may have begun.
    Missing { begun: bool },
}

impl<S: Transport> Link<S> {
    /// Until when this unit may still answer a request that was given up; it is not asked before that.
    pub(crate) fn unanswered_until(&self, unit: u8) -> Option<Instant> {
        let until = self.silence.unanswered_until(unit);
        until.filter(|until| *until > Instant::now())
    }

    /// One request and the PDU of its reply; `None` after a broadcast.
    pub(super) async fn exchange_rtu(
        &mut self,
        peer: &Peer,
        request: &Request,
        pace: Pace,
    ) -> Result<Option<Range<usize>>, SessionError> {
        self.settle(peer, pace).await?;
        let pdu = {
            let mut pdu = Vec::new();
            request.encode(&mut pdu);
            pdu
        };
        self.sent = rtu::encode(peer.unit, &pdu);
        // From here to a good reply the line's state is not known, also where this is dropped.
        self.silence.disturbed = true;
        let request_time = pace.bytes(self.sent.len());
        let reply_bytes = request.reply_bytes(&[]).unwrap_or(rtu::FRAME_BYTES_MAX);
        let until = Instant::now() + request_time + pace.bytes(reply_bytes) + peer.timeout;
        match timeout_at(until, self.send(peer)).await {
            Ok(sent) => sent?,
            Err(_) => return Err(lost(peer, std::io::ErrorKind::TimedOut.into())),
        }
        self.silence.active_at = Instant::now() + request_time;
        if peer.unit == BROADCAST {
            // Nobody answers; whoever answers all the same disturbs the next exchange, which settles.
            let quiet = self.silence.active_at + pace.turnaround;
            tokio::time::sleep_until(quiet).await;
            self.silence.disturbed = false;
            return Ok(None);
        }
        let pdu = self.await_reply(peer, request, pace, until).await?;
        self.silence.disturbed = false;
        self.silence
            .unanswered
            .retain(|(unit, _)| *unit != peer.unit);
        Ok(Some(pdu))
    }

    /// Waits until the line has been quiet for long enough, and drops what is heard meanwhile.
    async fn settle(&mut self, peer: &Peer, pace: Pace) -> Result<(), SessionError> {
        if let Some(until) = self.unanswered_until(peer.unit) {
            // What comes meanwhile is taken in below.
            tokio::time::sleep_until(until).await;
        }
        let give_up = Instant::now() + pace.fence * FENCES_MAX;
        let settled = loop {
            while self.receive_now(peer)? {
                self.silence.active_at = Instant::now();
                self.silence.disturbed = true;
            }
            let quiet = if self.silence.disturbed {
                pace.fence
            } else {
                pace.silence
            };
            let quiet_at = self.silence.active_at + quiet;
            let now = Instant::now();
            if now >= quiet_at {
                break true;
            }
            if now >= give_up {
                break false;
            }
            if let Ok(received) = timeout_at(quiet_at, self.receive(peer)).await {
                received?;
                self.silence.active_at = Instant::now();
                self.silence.disturbed = true;
            }
        };
        self.drop_unread(peer.unit);
        if settled {
            return Ok(());
        }
        Err(SessionError::Protocol {
            device: peer.device.clone(),
            found: "bytes that never end".to_owned(),
            expected: "a quiet line".to_owned(),
        })
    }

    /// Counts what nobody asked for, and drops it.
    fn drop_unread(&mut self, unit: u8) {
        let unread = self.unread.clone();
        self.count_foreign(unread, unit);
        self.unread = 0..0;
    }

    /// Counts bytes that are no answer: whole frames by whose they are, all else as noise, once a run.
    fn count_foreign(&self, range: Range<usize>, unit: u8) {
        let mut rest = &self.received[range];
        while !rest.is_empty() {
            let whole = (ENVELOPE_BYTES + 1..=rest.len().min(rtu::FRAME_BYTES_MAX))
                .find_map(|bytes| Some((bytes, rtu::decode(&rest[..bytes])?.0)));
            let Some((bytes, of)) = whole else {
                self.faults.count(Fault::Noise);
                return;
            };
            // A late reply may also be of a unit that was asked before this one.
            let late = of == unit || self.silence.unanswered_until(of).is_some();
            self.faults
                .count(if late { Fault::Late } else { Fault::WrongUnit });
            rest = &rest[bytes..];
        }
    }

    async fn await_reply(
        &mut self,
        peer: &Peer,
        request: &Request,
        pace: Pace,
        until: Instant,
    ) -> Result<Range<usize>, SessionError> {
        // The echo of a write is the same as its confirmation: it is cut only where the adapter is known
        // to echo.
        let mut echo_awaited = !is_confirmed_by_echo(request) || self.silence.echoes;
        loop {
            if echo_awaited && self.unread.len() >= self.sent.len() {
                echo_awaited = false;
                if self.received[self.unread.clone()].starts_with(&self.sent) {
                    self.faults.count(Fault::OwnEcho);
                    self.silence.echoes = true;
                    self.unread.start += self.sent.len();
                }
            }
            let limit = match self.find_reply(peer.unit, request) {
                Found::Reply { before, bytes } => {
                    let start = self.unread.start + before;
                    self.count_foreign(self.unread.start..start, peer.unit);
                    self.unread.start = start + bytes;
                    return Ok(start + 1..start + bytes - (ENVELOPE_BYTES - 1));
                }
                // A reply that has begun goes on, or breaks off.
                Found::Missing { begun: true } => {
                    until.min(self.silence.active_at + pace.pause_in_frame)
                }
                Found::Missing { begun: false } => until,
            };
            match timeout_at(limit, self.receive(peer)).await {
                Ok(received) => {
                    received?;
                    self.silence.active_at = Instant::now();
                }
                Err(_) => return Err(self.give_up(peer, request)),
            }
        }
    }

    /// Looks for the reply at every place: noise may stand before it.
    fn find_reply(&self, unit: u8, request: &Request) -> Found {
        let unread = &self.received[self.unread.clone()];
        let mut begun = false;
        for before in 0..unread.len() {
            let rest = &unread[before..];
            if rest[0] != unit {
                continue;
            }
            let bytes = match rest.get(1) {
                None => None,
                Some(function) if *function == request.function() => {
                    let pdu_bytes = request.reply_bytes(&rest[1..]);
                    pdu_bytes.map(|bytes| bytes + ENVELOPE_BYTES)
                }
                Some(function) if *function == request.function() | EXCEPTION_FLAG => {
                    Some(EXCEPTION_BYTES)
                }
                Some(_) => continue,
            };
            begun |= rest.len() > 1;
            if let Some(frame) = bytes.and_then(|bytes| rest.get(..bytes))
                && rtu::decode(frame).is_some()
            {
                return Found::Reply {
                    before,
                    bytes: frame.len(),
                };
            }
        }
        Found::Missing { begun }
    }

    /// No reply: says what was there instead, and keeps the line quiet.
    fn give_up(&mut self, peer: &Peer, request: &Request) -> SessionError {
        let unread = &self.received[self.unread.clone()];
        let expected = request.reply_bytes(&unread[unread.len().min(1)..]);
        let expected = expected.map_or(rtu::FRAME_BYTES_MAX, |bytes| bytes + ENVELOPE_BYTES);
        let (fault, found) = match (unread, rtu::decode(unread)) {
            ([], _) => (Fault::Timeout, None),
            (_, Some((unit, _))) if unit != peer.unit => {
                (Fault::WrongUnit, Some(format!("a reply of unit {unit}")))
            }
            (_, Some((_, pdu))) => match request.check(pdu) {
                Err(mismatch) => (mismatch.fault, Some(mismatch.found)),
                // It would have been taken.
                Ok(_) => (Fault::Noise, Some("a frame too many".to_owned())),
            },
            ([unit, function, ..], None)
                if *unit == peer.unit && *function == request.function() =>
            {
                if unread.len() < expected {
                    let found = format!("{} of {expected} bytes", unread.len());
                    (Fault::Truncated, Some(found))
                } else {
                    (Fault::Checksum, Some("a wrong checksum".to_owned()))
                }
            }
            _ if unread.len() == expected => (Fault::Checksum, Some("a wrong checksum".to_owned())),
            _ => (
                Fault::Noise,
                Some(format!("{} bytes of noise", unread.len())),
            ),
        };
        self.faults.count(fault);
        self.unread = 0..0;
        let Some(found) = found else {
            self.remember_unanswered(peer);
            return SessionError::Timeout {
                device: peer.device.clone(),
                request: request.to_string(),
                timeout: peer.timeout,
            };
        };
        if matches!(fault, Fault::WrongUnit | Fault::Noise) {
            // Its own reply may still come.
            self.remember_unanswered(peer);
        }
        SessionError::Protocol {
            device: peer.device.clone(),
            found,
            expected: format!("the {expected} bytes of its reply to {request}"),
        }
    }

    fn remember_unanswered(&mut self, peer: &Peer) {
        let until = Instant::now() + peer.timeout;
        let unanswered = &mut self.silence.unanswered;
        unanswered.retain(|(unit, _)| *unit != peer.unit);
        unanswered.push((peer.unit, until));
    }
}

/// Whether a good reply can be the request itself.
fn is_confirmed_by_echo(request: &Request) -> bool {
    matches!(
        request,
        Request::WriteCoil { .. } | Request::WriteRegister { .. } | Request::MaskWrite { .. }
    )
}
