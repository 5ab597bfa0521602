//! What is under way: packet ids, the messages behind them, and the window that bounds them.

use std::collections::{HashMap, VecDeque};

use tokio::time::Instant;

use crate::packet::Reason;
use crate::session::pace::Pace;
use crate::session::{INFLIGHT_BYTES_MAX, Window};

/// Hands out packet ids round the full ring 1..=65535. It outlives connections, so that ids are reused
/// as late as possible.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct PacketIds {
    last: u16,
}

impl PacketIds {
    /// The next id that is not `busy`. There are always free ones: far fewer are in flight.
    fn next(&mut self, busy: impl Fn(u16) -> bool) -> u16 {
        loop {
            self.last = self.last.checked_add(1).unwrap_or(1);
            if !busy(self.last) {
                return self.last;
            }
        }
    }
}

/// How a message ended, the worst last: one message decides on its consignment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Outcome {
    Acked,
    Postponed,
    Unexplained,
    Never,
    Denied,
}

/// What a consignment still waits for.
#[derive(Debug, Clone, Copy)]
struct Open {
    /// Messages, sent or not.
    remaining: usize,
    /// The worst so far, and its reason.
    outcome: (Outcome, Reason),
}

/// A message that waits for its PUBACK.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    /// The consignment that it belongs to; `None` for greetings and farewells.
    pub(super) token: Option<u64>,
    pub(super) bytes: usize,
    pub(super) backlog: bool,
    /// Whether its topic may become a number: topics that come once should not use them up.
    pub(super) aliased: bool,
    /// When it was handed over; set again when it is sent.
    pub(super) since: Instant,
}

/// What an ack did.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Acked {
    /// Nobody waits for this id.
    Unknown,
    /// A message is done; the consignment too, if named, with how it ended.
    Part { bytes: usize, done: Option<Done> },
}

/// A consignment whose messages have all been answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Done {
    pub(super) token: u64,
    pub(super) outcome: Outcome,
    pub(super) reason: Reason,
}

#[derive(Debug, Clone, Copy, Default)]
struct Load {
    messages: usize,
    bytes: usize,
}

impl Load {
    fn add(&mut self, bytes: usize) {
        self.messages += 1;
        self.bytes += bytes;
    }

    fn remove(&mut self, bytes: usize) {
        self.messages -= 1;
        self.bytes -= bytes;
    }

    /// A first message always fits, whatever its size.
    fn fits(self, bytes: usize, limit: Load) -> bool {
        self.messages == 0 || (self.messages < limit.messages && self.bytes + bytes <= limit.bytes)
    }
}

/// The messages of one connection that wait for their PUBACK.
#[derive(Debug)]
pub(super) struct Flight {
    ids: PacketIds,
    /// Ids of SUBSCRIBE and UNSUBSCRIBE that are not answered.
    reserved: Vec<u16>,
    parts: HashMap<u16, Part>,
    /// What went out at QoS 0 and no answer to a later ping has proved yet, in order.
    unproven: VecDeque<Part>,
    /// Of each open ping: how many of the unproven ones it follows, beyond those of earlier pings.
    pings: VecDeque<usize>,
    /// Consignments that have not been answered whole.
    open: HashMap<u64, Open>,
    total: Load,
    backlog: Load,
    limit: Load,
    pace: Pace,
}

impl Flight {
    pub(super) fn new(ids: PacketIds, pace: Pace, max_inflight: usize) -> Self {
        let limit = Load {
            messages: max_inflight.max(1),
            bytes: INFLIGHT_BYTES_MAX,
        };
        Self {
            ids,
            reserved: Vec::new(),
            parts: HashMap::new(),
            unproven: VecDeque::new(),
            pings: VecDeque::new(),
            open: HashMap::new(),
            total: Load::default(),
            backlog: Load::default(),
            limit,
            pace,
        }
    }

    /// What backlog may take: at most half of the messages and bytes, and no more than its pace.
    fn backlog_limit(&self) -> Load {
        Load {
            messages: self.pace.window(self.half()),
            bytes: self.limit.bytes / 2,
        }
    }

    fn half(&self) -> usize {
        (self.limit.messages / 2).max(1)
    }

    /// The backlog's pace, for the next connection.
    pub(super) fn pace(&self) -> Pace {
        self.pace
    }

    /// The position on the ring, for the next connection.
    pub(super) fn ids(&self) -> PacketIds {
        self.ids
    }

    pub(super) fn is_empty(&self) -> bool {
        self.parts.is_empty() && self.unproven.is_empty()
    }

    /// What may be asked for; `None` when the window is full.
    pub(super) fn window(&self) -> Option<Window> {
        let messages = self.limit.messages.saturating_sub(self.total.messages);
        let bytes = self.limit.bytes.saturating_sub(self.total.bytes);
        let limit = self.backlog_limit();
        let backlog = self.backlog.messages < limit.messages && self.backlog.bytes < limit.bytes;
        (messages > 0 && bytes > 0).then_some(Window {
            messages,
            bytes,
            backlog,
        })
    }

    /// Whether a message of this size may be sent now.
    pub(super) fn fits(&self, bytes: usize, backlog: bool) -> bool {
        self.total.fits(bytes, self.limit)
            && (!backlog || self.backlog.fits(bytes, self.backlog_limit()))
    }

    /// A consignment of so many messages begins.
    pub(super) fn expect(&mut self, token: u64, messages: usize) {
        let open = Open {
            remaining: messages,
            outcome: (Outcome::Acked, Reason::SUCCESS),
        };
        self.open.insert(token, open);
    }

    /// A message goes out: gives it its id.
    pub(super) fn send(&mut self, part: Part) -> u16 {
        let (parts, reserved) = (&self.parts, &self.reserved);
        let id = self
            .ids
            .next(|id| reserved.contains(&id) || parts.contains_key(&id));
        let part = self.load(part);
        self.parts.insert(id, part);
        id
    }

    /// A message goes out at QoS 0.
    pub(super) fn send_unacked(&mut self, part: Part) {
        let part = self.load(part);
        self.unproven.push_back(part);
    }

    fn load(&mut self, part: Part) -> Part {
        self.total.add(part.bytes);
        if part.backlog {
            self.backlog.add(part.bytes);
        }
        let since = Instant::now();
        Part { since, ..part }
    }

    /// Whether something went out at QoS 0 and no ping is under way.
    pub(super) fn wants_proof(&self) -> bool {
        self.pings.is_empty() && !self.unproven.is_empty()
    }

    /// A ping goes out.
    pub(super) fn pinged(&mut self) {
        let earlier: usize = self.pings.iter().sum();
        self.pings.push_back(self.unproven.len() - earlier);
    }

    /// The answer to the oldest ping came: MQTT answers pings in order, and a broker reads in order.
    pub(super) fn ponged(&mut self, now: Instant) -> Vec<Acked> {
        let proven = self.pings.pop_front().unwrap_or(0);
        let parts: Vec<Part> = self.unproven.drain(..proven).collect();
        parts
            .into_iter()
            .map(|part| self.land(part, Outcome::Acked, Reason::SUCCESS, now))
            .collect()
    }

    /// When the message that waits longest was sent.
    pub(super) fn oldest(&self) -> Option<Instant> {
        let unproven = self.unproven.front().map(|part| part.since);
        let waiting = self.parts.values().map(|part| part.since);
        waiting.chain(unproven).min()
    }

    /// An id for a SUBSCRIBE or UNSUBSCRIBE.
    pub(super) fn reserve(&mut self) -> u16 {
        let (parts, reserved) = (&self.parts, &self.reserved);
        let id = self
            .ids
            .next(|id| reserved.contains(&id) || parts.contains_key(&id));
        self.reserved.push(id);
        id
    }

    /// Whether this answers one of them.
    pub(super) fn release(&mut self, id: u16) -> bool {
        let before = self.reserved.len();
        self.reserved.retain(|reserved| *reserved != id);
        self.reserved.len() < before
    }

    /// A PUBACK came.
    pub(super) fn ack(&mut self, id: u16, outcome: Outcome, reason: Reason, now: Instant) -> Acked {
        let Some(part) = self.parts.remove(&id) else {
            return Acked::Unknown;
        };
        self.land(part, outcome, reason, now)
    }

    /// The broker has answered for the message.
    fn land(&mut self, part: Part, outcome: Outcome, reason: Reason, now: Instant) -> Acked {
        let latency = now.saturating_duration_since(part.since);
        let half = self.half();
        match outcome {
            Outcome::Acked => self.pace.acked(now, latency, part.backlog, half),
            Outcome::Postponed => self.pace.refused(),
            Outcome::Unexplained | Outcome::Never | Outcome::Denied => {}
        }
        self.total.remove(part.bytes);
        if part.backlog {
            self.backlog.remove(part.bytes);
        }
        Acked::Part {
            bytes: part.bytes,
            done: part
                .token
                .and_then(|token| self.one_less(token, (outcome, reason))),
        }
    }

    /// Counts a consignment down; what became of it when it was its last message.
    fn one_less(&mut self, token: u64, ended: (Outcome, Reason)) -> Option<Done> {
        let open = self.open.get_mut(&token)?;
        open.remaining = open.remaining.saturating_sub(1);
        if ended.0 > open.outcome.0 {
            open.outcome = ended;
        }
        if open.remaining > 0 {
            return None;
        }
        let (outcome, reason) = self.open.remove(&token)?.outcome;
        Some(Done {
            token,
            outcome,
            reason,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flight() -> Flight {
        Flight::new(PacketIds::default(), Pace::default(), 10)
    }

    fn part(token: u64, bytes: usize, backlog: bool) -> Part {
        Part {
            token: Some(token),
            bytes,
            backlog,
            aliased: false,
            since: Instant::now(),
        }
    }

    fn ack(flight: &mut Flight, id: u16) -> Acked {
        flight.ack(id, Outcome::Acked, Reason::SUCCESS, Instant::now())
    }

    #[test]
    fn the_worst_answer_decides_on_a_consignment() {
        let mut flight = flight();
        let mut ended = |answers: [(Outcome, u8); 3]| {
            flight.expect(7, 3);
            let ids = answers.map(|_| flight.send(part(7, 1, false)));
            let mut done = None;
            for (id, (outcome, code)) in ids.into_iter().zip(answers) {
                assert_eq!(done, None);
                match flight.ack(id, outcome, Reason(code), Instant::now()) {
                    Acked::Part { done: now, .. } => done = now,
                    Acked::Unknown => panic!("it waits"),
                }
            }
            let done = done.unwrap();
            (done.outcome, done.reason.0)
        };
        use Outcome::{Denied, Never, Postponed};
        let taken = (Outcome::Acked, 0);
        assert_eq!(ended([taken, taken, taken]), taken);
        assert_eq!(ended([taken, (Postponed, 0x97), taken]), (Postponed, 0x97));
        let denied = (Denied, 0x87);
        assert_eq!(ended([(Postponed, 0x97), denied, (Never, 0x90)]), denied);
        assert!(flight.is_empty());
    }

    #[test]
    fn ids_go_round_the_whole_ring_and_skip_busy_ones() {
        let mut flight = flight();
        flight.expect(1, 1);
        let first = flight.send(part(1, 1, false));
        assert_eq!(first, 1);
        for turn in 2..=65_535u16 {
            flight.expect(2, 1);
            let id = flight.send(part(2, 1, false));
            assert_eq!(id, turn);
            ack(&mut flight, id);
        }
        assert_eq!(flight.send(part(2, 1, false)), 2, "0 is no id, 1 is busy");
    }

    #[test]
    fn consignment_is_done_with_its_last_ack_only() {
        let mut flight = flight();
        flight.expect(7, 3);
        let a = flight.send(part(7, 1, false));
        let b = flight.send(part(7, 1, false));
        let not_done = Acked::Part {
            bytes: 1,
            done: None,
        };
        assert_eq!(ack(&mut flight, b), not_done);
        assert_eq!(
            ack(&mut flight, b),
            Acked::Unknown,
            "a duplicate settles nothing"
        );
        assert_eq!(ack(&mut flight, a), not_done, "the third was not even sent");
        let c = flight.send(part(7, 1, false));
        assert_eq!(
            ack(&mut flight, c),
            Acked::Part {
                bytes: 1,
                done: Some(Done {
                    token: 7,
                    outcome: Outcome::Acked,
                    reason: Reason::SUCCESS,
                })
            }
        );
        assert!(flight.is_empty());
    }

    #[test]
    fn backlog_takes_half_of_the_window_once_acks_have_shown_that_it_may() {
        let mut flight = flight();
        for turn in 0..20 {
            assert!(flight.fits(10, true));
            let id = flight.send(part(1, 10, true));
            if turn == 0 {
                assert!(!flight.fits(10, true), "it begins with one");
                assert!(!flight.window().unwrap().backlog);
            }
            ack(&mut flight, id);
        }
        for _ in 0..5 {
            assert!(flight.fits(10, true));
            flight.send(part(1, 10, true));
        }
        assert!(!flight.fits(10, true));
        assert!(flight.fits(10, false));
        assert!(!flight.window().unwrap().backlog);
        for _ in 0..5 {
            flight.send(part(2, 10, false));
        }
        assert_eq!(flight.window(), None);
    }

    #[test]
    fn a_large_message_goes_alone() {
        let mut flight = flight();
        assert!(flight.fits(INFLIGHT_BYTES_MAX * 2, false));
        flight.send(part(1, INFLIGHT_BYTES_MAX * 2, false));
        assert!(!flight.fits(1, false));
        assert_eq!(flight.window(), None);
    }
}
