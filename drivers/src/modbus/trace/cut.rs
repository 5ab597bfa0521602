//! Frames out of pieces.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use millrace_tags::Moment;

use super::{Asked, Frame, Kind};
use crate::modbus::frame::mbap::{HEADER_BYTES, Header};
use crate::modbus::frame::rtu::{self, ENVELOPE_BYTES, EXCEPTION_BYTES};
use crate::modbus::reply::EXCEPTION_FLAG;
use crate::modbus::request::Request;
use crate::modbus::tap::{Piece, Way};

/// A frame that pauses for longer has ended. Longer than any pause that the transaction layer waits for on a line.
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// Requests of a connection that wait for their replies: more than any device takes at once.
const OPEN_MAX: usize = 64;

/// Connections that are followed at once; the oldest is forgotten.
const LINKS_MAX: usize = 16;

/// Bytes that wait for the rest of their frame: several of the longest.
const WAITING_BYTES_MAX: usize = 2048;

/// Cuts what was heard into frames. Memory is bounded, whatever it hears.
pub struct Cutter {
    kind: Kind,
    links: BTreeMap<u64, LinkState>,
}

#[derive(Default)]
struct LinkState {
    /// What waits for its reply, oldest first; on a serial line one at most.
    open: VecDeque<Asked>,
    /// What was asked last, answered or not.
    last: Option<Asked>,
    /// What was sent last, to know its echo.
    sent: Vec<u8>,
    waiting: Vec<u8>,
    /// When the first of `waiting` came, and the last.
    since: Moment,
    until: Moment,
    missed: u64,
}

impl Cutter {
    /// A cutter that has heard nothing.
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            links: BTreeMap::new(),
        }
    }

    /// Takes the next piece; the frames that are complete with it, in order.
    pub fn take(&mut self, piece: &Piece) -> Vec<Frame> {
        let mut frames = Vec::new();
        if !self.links.contains_key(&piece.link)
            && self.links.len() == LINKS_MAX
            && let Some((number, mut oldest)) = self.links.pop_first()
        {
            oldest.end(self.kind, number, &mut frames);
        }
        let link = self.links.entry(piece.link).or_default();
        if piece.missed > 0 {
            link.end(self.kind, piece.link, &mut frames);
            link.open.clear();
            link.last = None;
            link.missed = piece.missed;
        }
        match piece.way {
            Way::Sent => link.send(self.kind, piece, &mut frames),
            Way::Received => link.receive(self.kind, piece, &mut frames),
            Way::Lost => {
                link.end(self.kind, piece.link, &mut frames);
                let frame = link.frame(piece.link, Way::Lost, piece.at, Vec::new());
                frames.push(frame);
                self.links.remove(&piece.link);
            }
        }
        frames
    }

    /// What has waited for its rest for too long by now.
    pub fn take_broken_off(&mut self, now: Moment) -> Vec<Frame> {
        let mut frames = Vec::new();
        for (number, link) in &mut self.links {
            if !link.waiting.is_empty() && now.since(link.until) > PAUSE_MAX {
                link.end(self.kind, *number, &mut frames);
            }
        }
        frames
    }
}

impl LinkState {
    fn send(&mut self, kind: Kind, piece: &Piece, frames: &mut Vec<Frame>) {
        let asked = match kind {
            Kind::Tcp => Header::parse(&piece.bytes).ok().flatten().map(|header| {
                let pdu = &piece.bytes[HEADER_BYTES..];
                Asked {
                    unit: header.unit,
                    transaction: header.transaction,
                    request: Request::decode(pdu),
                }
            }),
            Kind::Rtu => rtu::decode(&piece.bytes).map(|(unit, pdu)| Asked {
                unit,
                transaction: 0,
                request: Request::decode(pdu),
            }),
        };
        if kind == Kind::Rtu {
            self.end(kind, piece.link, frames);
            self.open.clear();
        } else if self.open.len() == OPEN_MAX {
            self.open.pop_front();
        }
        self.open.extend(asked.clone());
        self.last = asked;
        self.sent = piece.bytes.to_vec();
        let frame = self.frame(piece.link, Way::Sent, piece.at, self.sent.clone());
        frames.push(frame);
    }

    fn receive(&mut self, kind: Kind, piece: &Piece, frames: &mut Vec<Frame>) {
        if !self.waiting.is_empty() && piece.at.since(self.until) > PAUSE_MAX {
            self.end(kind, piece.link, frames);
        }
        if self.waiting.is_empty() {
            self.since = piece.at;
        }
        self.until = piece.at;
        self.waiting.extend_from_slice(&piece.bytes);
        while let Some(bytes) = self.whole(kind) {
            self.cut(kind, piece.link, bytes, frames);
            self.since = piece.at;
        }
        if self.waiting.len() > WAITING_BYTES_MAX {
            self.end(kind, piece.link, frames);
        }
    }

    /// The length of the frame that begins here, where it is all there.
    fn whole(&self, kind: Kind) -> Option<usize> {
        let waiting = &self.waiting;
        match kind {
            Kind::Tcp => {
                let header = Header::parse(waiting).ok().flatten()?;
                (header.frame_bytes() <= waiting.len()).then(|| header.frame_bytes())
            }
            Kind::Rtu => self.expected().into_iter().find(|bytes| {
                let frame = waiting.get(..*bytes);
                frame.is_some_and(|frame| rtu::decode(frame).is_some())
            }),
        }
    }

    /// The lengths that the next frame of a serial line may have, likely ones first.
    fn expected(&self) -> Vec<usize> {
        let Some(asked) = &self.last else {
            return Vec::new();
        };
        if self.waiting.get(1).is_some_and(|f| f & EXCEPTION_FLAG != 0) {
            return vec![EXCEPTION_BYTES];
        }
        let request = asked.request.as_ref();
        let pdu = self.waiting.get(1..).unwrap_or_default();
        let reply = request.and_then(|request| request.reply_bytes(pdu));
        let reply = reply.map(|bytes| bytes + ENVELOPE_BYTES);
        let echo = self
            .waiting
            .starts_with(&self.sent)
            .then_some(self.sent.len());
        echo.into_iter().chain(reply).collect()
    }

    /// What waits is all that comes.
    fn end(&mut self, kind: Kind, number: u64, frames: &mut Vec<Frame>) {
        while !self.waiting.is_empty() {
            let bytes = match kind {
                Kind::Tcp => self.whole(kind).unwrap_or(self.waiting.len()),
                Kind::Rtu => self.next_of_line(),
            };
            self.cut(kind, number, bytes, frames);
        }
    }

    /// A frame that begins here, else all bytes before the first that does.
    fn next_of_line(&self) -> usize {
        let frame_at = |begin: usize| rtu::whole(&self.waiting[begin..]);
        if let Some(bytes) = self.whole(Kind::Rtu).or_else(|| frame_at(0)) {
            return bytes;
        }
        let all = self.waiting.len();
        (1..all)
            .find(|begin| frame_at(*begin).is_some())
            .unwrap_or(all)
    }

    fn cut(&mut self, kind: Kind, number: u64, bytes: usize, frames: &mut Vec<Frame>) {
        let bytes: Vec<u8> = self.waiting.drain(..bytes).collect();
        let answered = match kind {
            Kind::Tcp => Header::parse(&bytes).ok().flatten().and_then(|header| {
                let same = |open: &Asked| open.transaction == header.transaction;
                self.open.iter().position(same)
            }),
            Kind::Rtu => {
                let asked = self.open.front();
                asked
                    .is_some_and(|asked| self.is_reply(asked, &bytes))
                    .then_some(0)
            }
        };
        let answered = answered.and_then(|at| self.open.remove(at));
        let is_answer = answered.is_some();
        let asked = answered.or_else(|| self.last.clone());
        let mut frame = self.frame(number, Way::Received, self.since, bytes);
        (frame.asked, frame.is_answer) = (asked, is_answer);
        frames.push(frame);
    }

    /// Whether it is of the unit and the function that were asked, and not what was asked itself.
    fn is_reply(&self, asked: &Asked, frame: &[u8]) -> bool {
        let Some((unit, pdu)) = rtu::decode(frame) else {
            return false;
        };
        let function = asked.request.as_ref().map(Request::function);
        let is_echo = frame == self.sent && !asked.is_confirmed_by_echo();
        unit == asked.unit && function.is_none_or(|f| pdu[0] & !EXCEPTION_FLAG == f) && !is_echo
    }

    fn frame(&mut self, link: u64, way: Way, at: Moment, bytes: Vec<u8>) -> Frame {
        Frame {
            at,
            link,
            way,
            bytes,
            missed: std::mem::take(&mut self.missed),
            asked: self.last.clone(),
            is_answer: false,
        }
    }
}
