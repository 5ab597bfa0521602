//! What is under way: packet ids, the messages behind them, and the window that bounds them.

use std::collections::{HashMap, VecDeque};

use tokio::time::Instant;

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

/// A message that waits for its PUBACK.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    /// The consignment that it belongs to; `None` for greetings and farewells.
    pub(super) token: Option<u64>,
    pub(super) bytes: usize,
    pub(super) backlog: bool,
    /// When it was handed over; set again when it is sent.
    pub(super) since: Instant,
}

/// What an ack did.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Acked {
    /// Nobody waits for this id.
    Unknown,
    /// A message is done; the consignment too, if named.
    Part { bytes: usize, done: Option<u64> },
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
    /// The SUBSCRIBE's own id, while it is not answered.
    reserved: Option<u16>,
    parts: HashMap<u16, Part>,
    /// What went out at QoS 0 and no answer to a later ping has proved yet, in order.
    unproven: VecDeque<Part>,
    /// Of each open ping: how many of the unproven ones it follows, beyond those of earlier pings.
    pings: VecDeque<usize>,
    /// Messages that a consignment still waits for, sent or not.
    open: HashMap<u64, usize>,
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
            reserved: None,
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
        self.open.insert(token, messages);
    }

    /// A message goes out: gives it its id.
    pub(super) fn send(&mut self, part: Part) -> u16 {
        let (parts, reserved) = (&self.parts, self.reserved);
        let id = self
            .ids
            .next(|id| Some(id) == reserved || parts.contains_key(&id));
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
        parts.into_iter().map(|part| self.land(part, now)).collect()
    }

    /// When the message that waits longest was sent.
    pub(super) fn oldest(&self) -> Option<Instant> {
        let unproven = self.unproven.front().map(|part| part.since);
        let waiting = self.parts.values().map(|part| part.since);
        waiting.chain(unproven).min()
    }

    /// An id for the SUBSCRIBE.
    pub(super) fn reserve(&mut self) -> u16 {
        let parts = &self.parts;
        let id = self.ids.next(|id| parts.contains_key(&id));
        self.reserved = Some(id);
        id
    }

    /// Whether this answers the SUBSCRIBE.
    pub(super) fn release(&mut self, id: u16) -> bool {
        let ours = self.reserved == Some(id);
        if ours {
            self.reserved = None;
        }
        ours
    }

    /// A PUBACK came.
    pub(super) fn ack(&mut self, id: u16, now: Instant) -> Acked {
        let Some(part) = self.parts.remove(&id) else {
            return Acked::Unknown;
        };
        self.land(part, now)
    }

    /// The broker has the message.
    fn land(&mut self, part: Part, now: Instant) -> Acked {
        let latency = now.saturating_duration_since(part.since);
        let half = self.half();
        self.pace.acked(now, latency, part.backlog, half);
        self.total.remove(part.bytes);
        if part.backlog {
            self.backlog.remove(part.bytes);
        }
        Acked::Part {
            bytes: part.bytes,
            done: part.token.filter(|token| self.one_less(*token)),
        }
    }

    /// Counts a consignment down; true when it was its last message.
    fn one_less(&mut self, token: u64) -> bool {
        let Some(remaining) = self.open.get_mut(&token) else {
            return false;
        };
        *remaining = remaining.saturating_sub(1);
        let done = *remaining == 0;
        if done {
            self.open.remove(&token);
        }
        done
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
            since: Instant::now(),
        }
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
            flight.ack(id, Instant::now());
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
        assert_eq!(flight.ack(b, Instant::now()), not_done);
        assert_eq!(
            flight.ack(b, Instant::now()),
            Acked::Unknown,
            "a duplicate settles nothing"
        );
        assert_eq!(
            flight.ack(a, Instant::now()),
            not_done,
            "the third was not even sent"
        );
        let c = flight.send(part(7, 1, false));
        assert_eq!(
            flight.ack(c, Instant::now()),
            Acked::Part {
                bytes: 1,
                done: Some(7)
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
            flight.ack(id, Instant::now());
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
