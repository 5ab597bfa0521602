//! Exchanges on a serial line: silences, and the reply among the bytes.

use std::ops::Range;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::owed::Owed;
use super::{Link, Peer, Transport, lost, not_an_answer};
use crate::SessionError;
use crate::modbus::address::Table;
use crate::modbus::fault::Fault;
use crate::modbus::frame::rtu::{self, BROADCAST, ENVELOPE_BYTES, EXCEPTION_BYTES};
use crate::modbus::pace::Pace;
use crate::modbus::reply::{Answer, EXCEPTION_FLAG};
use crate::modbus::request::{ReadRequest, Request};

/// A line that is never quiet is given up after so many fences.
const FENCES_MAX: u32 = 8;

/// More than there are shapes of questions; a line where none of them tells anything is not written.
const QUESTIONS_MAX: usize = 8;

/// Shows whether the adapter hears itself: any unit answers it, if only with an exception.
const ANY_READ: Request = Request::Read(ReadRequest {
    table: Table::Holding,
    start: 0,
    count: 1,
});

/// When the line may be used again, and by whom.
pub(super) struct Silence {
    /// The last byte that was sent or heard.
    active_at: Instant,
    /// Something went wrong: the line must be quiet for the fence, not only for t3.5.
    disturbed: bool,
    /// What was asked and not answered yet.
    pub(super) owed: Owed,
    /// Whether the adapter hears itself, once an exchange has shown it.
    echoes: Option<bool>,
}

impl Silence {
    /// A line of which nothing is known: a reply of before may be on its way.
    pub(super) fn new() -> Self {
        Self {
            active_at: Instant::now(),
            disturbed: true,
            owed: Owed::default(),
            echoes: None,
        }
    }

    /// How long the line must be quiet before it is used.
    fn needed(&self, pace: &Pace) -> Duration {
        match self.disturbed {
            true => pace.fence,
            false => pace.silence,
        }
    }

    /// From now on until the line was quiet for the fence, nothing is sent.
    pub(super) fn disturb(&mut self) {
        self.disturbed = true;
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
    /// When the line has been silent for t3.5 since the last byte.
    pub(crate) fn silent_at(&self, pace: &Pace) -> Instant {
        self.silence.active_at + pace.silence
    }

    /// When the next request may be sent: after an error later than that.
    pub(crate) fn usable_at(&self, pace: &Pace) -> Instant {
        self.silence.active_at + self.silence.needed(pace)
    }

    /// Until when this unit must not be asked, since it may still answer what was given up.
    pub(crate) fn unanswered_until(&self, unit: u8) -> Option<Instant> {
        let until = self.silence.owed.until(unit);
        until.filter(|until| *until > Instant::now())
    }

    /// One request and the PDU of its reply; `None` after a broadcast.
    pub(super) async fn exchange_rtu(
        &mut self,
        peer: &Peer,
        request: &Request,
        pace: Pace,
    ) -> Result<Option<Range<usize>>, SessionError> {
        for _ in 0..QUESTIONS_MAX {
            let Some(question) = self.question_before(peer.unit, request) else {
                return self.exchange_once(peer, request, pace).await;
            };
            self.make_sure(peer, &question, pace).await?;
        }
        Err(SessionError::Protocol {
            device: peer.device.clone(),
            found: "bytes before each reply that may be an echo".to_owned(),
            expected: "replies, or echoes and replies".to_owned(),
        })
    }

    /// What must be answered before the reply to this request can be told from all others.
    fn question_before(&mut self, unit: u8, request: &Request) -> Option<Request> {
        if unit == BROADCAST {
            return None;
        }
        self.silence.owed.forget();
        // Also where another function is owed: a unit may answer one by another.
        if self.silence.owed.contains(unit) {
            return self.silence.owed.question(unit);
        }
        // An echo, where nobody expects one, would confirm a write that the unit refuses.
        (request.is_confirmed_by_echo() && self.silence.echoes.is_none()).then_some(ANY_READ)
    }

    async fn make_sure(
        &mut self,
        peer: &Peer,
        question: &Request,
        pace: Pace,
    ) -> Result<(), SessionError> {
        let was_owed = self.silence.owed.is_owed(peer.unit, question.function());
        let Some(pdu) = self.exchange_once(peer, question, pace).await? else {
            return Ok(());
        };
        match question.check(&self.received[pdu]) {
            // Whose exception it is cannot be told: it stays owed, and another question is asked.
            Ok(Answer::Exception(_)) if was_owed => {}
            Ok(_) => self.silence.owed.settle(peer.unit),
            Err(mismatch) => {
                self.faults.count(peer.unit, mismatch.fault);
                self.silence.disturb();
                return Err(not_an_answer(peer, mismatch));
            }
        }
        Ok(())
    }

    async fn exchange_once(
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
        if peer.unit != BROADCAST {
            self.silence.owed.ask(peer.unit, request, peer.timeout);
        }
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
            let quiet_at = self.usable_at(&pace);
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
                self.faults.count(unit, Fault::Noise);
                return;
            };
            // A late reply may also be of a unit that was asked before this one.
            if of == unit || self.silence.owed.contains(of) {
                self.faults.count(of, Fault::Late);
            } else {
                self.faults.count(unit, Fault::WrongUnit);
            }
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
        let is_told_apart = !request.is_confirmed_by_echo();
        let mut echo_awaited = is_told_apart || self.silence.echoes == Some(true);
        loop {
            self.skip_owed(peer.unit, request);
            if echo_awaited && self.unread.len() >= self.sent.len() {
                echo_awaited = false;
                if self.received[self.unread.clone()].starts_with(&self.sent) {
                    self.faults.count(peer.unit, Fault::OwnEcho);
                    self.silence.echoes = Some(true);
                    self.unread.start += self.sent.len();
                }
            }
            let limit = match self.find_reply(peer.unit, request) {
                Found::Reply { before, bytes } => {
                    let start = self.unread.start + before;
                    self.count_foreign(self.unread.start..start, peer.unit);
                    self.unread.start = start + bytes;
                    // More bytes than that could be an echo that noise has hit.
                    if is_told_apart && before < self.sent.len() {
                        self.silence.echoes.get_or_insert(false);
                    }
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

    /// Drops replies that are owed and have another length than this request's.
    fn skip_owed(&mut self, unit: u8, request: &Request) {
        let function = request.function();
        let lengths = self.silence.owed.data_bytes(unit, function);
        let frames: Vec<usize> = lengths.map(|bytes| 2 + bytes + ENVELOPE_BYTES).collect();
        let own = request.reply_bytes(&[]).map(|bytes| bytes + ENVELOPE_BYTES);
        while let Some(bytes) = frames.iter().find(|bytes| {
            let unread = &self.received[self.unread.clone()];
            Some(**bytes) != own
                && unread.starts_with(&[unit, function])
                && unread.get(..**bytes).and_then(rtu::decode).is_some()
        }) {
            self.faults.count(unit, Fault::Late);
            self.unread.start += bytes;
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
        self.faults.count(peer.unit, fault);
        self.unread = 0..0;
        let Some(found) = found else {
            self.silence.owed.give_up(peer.unit, peer.timeout);
            return SessionError::Timeout {
                device: peer.device.clone(),
                request: request.to_string(),
                timeout: peer.timeout,
            };
        };
        if matches!(fault, Fault::WrongUnit | Fault::Noise) {
            // Its own reply may still come.
            self.silence.owed.give_up(peer.unit, peer.timeout);
        }
        SessionError::Protocol {
            device: peer.device.clone(),
            found,
            expected: format!("the {expected} bytes of its reply to {request}"),
        }
    }
}
