//! Where the core settles by itself (`settle = "core"`).
//!
//! A PUBACK only says that the broker has it then: what was sent waits for `ack{source, stream, seq}` of the core,
//! and is sent again when none comes for [`Acks::wait`]. The pause doubles while the core says nothing at all, so that
//! one that is away for days does not get everything again each minute. What was not sent since this connection
//! began is never settled by an acknowledgement: whoever acknowledges more than it can have gets it again.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use millrace_buffer::{Item, KnownLine, Offer, OfferId};
use millrace_tags::{Command, Moment, Reply, StreamId};
use serde::Deserialize;
use serde_json::json;

use super::Delivery;
use crate::command::{Undone, reply_of};
use crate::device::chain;
use crate::report::CoreStatus;

/// The operation.
pub(crate) const ACK: &str = "ack";

/// More offers than these do not wait for the core: nothing but alarms is sent until it acknowledges some.
const AWAITED_MAX: usize = 1024;

/// The longest pause before what the core does not acknowledge is sent again, where `ack_wait` is shorter.
const PAUSE_LONGEST: Duration = Duration::from_secs(600);

/// What people read of an `ack` where the broker settles.
const BROKER_SETTLES: &str =
    "this uplink settles by the broker's acknowledgements; settle = \"core\" leaves it to the core";

/// Consecutive numbers of an offer that the core has not acknowledged.
#[derive(Debug)]
struct Part {
    id: OfferId,
    first: u64,
    last: u64,
}

/// An offer that was sent.
#[derive(Debug)]
struct Awaited {
    stream: StreamId,
    source: Arc<str>,
    /// Numbers that will never come: told as a whole.
    gap: bool,
    parts: Vec<Part>,
    /// When the broker had it.
    since: Option<Moment>,
}

impl Awaited {
    /// `None`: a gap without an end, of which nobody can acknowledge the last number.
    fn of(offer: &Offer) -> Option<Self> {
        let (stream, source, first, last) = match &offer.item {
            Item::Parcel(parcel) => {
                let last = parcel.first_seq + parcel.records.len() as u64 - 1;
                (parcel.stream, &parcel.source, parcel.first_seq, last)
            }
            Item::Gap(gap) => {
                let hole = gap.holes.first()?;
                (gap.stream, &hole.source, hole.first_seq, hole.last_seq?)
            }
        };
        let id = offer.id;
        Some(Self {
            stream,
            source: source.clone(),
            gap: matches!(offer.item, Item::Gap(_)),
            parts: vec![Part { id, first, last }],
            since: None,
        })
    }

    fn left(&self) -> u64 {
        self.parts
            .iter()
            .map(|part| part.last - part.first + 1)
            .sum()
    }
}

/// What waits for the core's word.
#[derive(Debug)]
pub(super) struct Acks {
    /// After so long without a word it is sent again.
    wait: Duration,
    /// The same, longer after each time in vain.
    pause: Duration,
    awaited: HashMap<u64, Awaited>,
    /// What the broker has, in this order; some of it may be settled.
    order: VecDeque<(Moment, u64)>,
    sent_again: u64,
    last_ack: Option<Moment>,
}

impl Acks {
    pub(super) fn new(wait: Duration) -> Self {
        Self {
            wait,
            pause: wait,
            awaited: HashMap::new(),
            order: VecDeque::new(),
            sent_again: 0,
            last_ack: None,
        }
    }

    /// The connection is gone: everything is offered again.
    pub(super) fn reconnected(&mut self) {
        self.sent_again += self.records();
        self.awaited.clear();
        self.order.clear();
        self.pause = self.wait;
    }

    /// Nothing but alarms goes until the core says something.
    pub(super) fn is_full(&self) -> bool {
        self.awaited.len() >= AWAITED_MAX
    }

    /// Not even these.
    pub(super) fn is_overfull(&self) -> bool {
        self.awaited.len() >= 2 * AWAITED_MAX
    }

    pub(super) fn sent(&mut self, token: u64, offer: &Offer) {
        if let Some(awaited) = Awaited::of(offer) {
            self.awaited.insert(token, awaited);
        }
    }

    /// The broker has it. Whether it waits for the core, or the core has acknowledged it already; `false`: it is not
    /// for the core to settle.
    fn has_broker(&mut self, token: u64, now: Moment) -> bool {
        let Some(awaited) = self.awaited.get_mut(&token) else {
            return false;
        };
        if awaited.parts.is_empty() {
            self.awaited.remove(&token);
            return true;
        }
        awaited.since = Some(now);
        self.order.push_back((now, token));
        true
    }

    /// It was not taken. Returns what is left of it beside the offer itself.
    pub(super) fn forget(&mut self, token: u64, offer: OfferId) -> Vec<OfferId> {
        let parts = self.awaited.remove(&token).map(|awaited| awaited.parts);
        let ids = parts.into_iter().flatten().map(|part| part.id);
        ids.filter(|id| *id != offer).collect()
    }

    /// What the core has not acknowledged in time.
    fn overdue(&mut self, now: Moment) -> Vec<OfferId> {
        let mut overdue = Vec::new();
        while let Some(&(since, token)) = self.order.front()
            && now >= since + self.pause
        {
            self.order.pop_front();
            if let Some(awaited) = self.awaited.remove(&token) {
                self.sent_again += if awaited.gap { 0 } else { awaited.left() };
                overdue.extend(awaited.parts.into_iter().map(|part| part.id));
            }
        }
        if !overdue.is_empty() {
            self.pause = (self.pause * 2).min(PAUSE_LONGEST.max(self.wait));
        }
        overdue
    }

    /// When [`Acks::overdue`] has something to do.
    pub(super) fn next_overdue(&self) -> Option<Moment> {
        let (since, _) = self.order.front()?;
        Some(*since + self.pause)
    }

    /// Samples and events that wait for the core.
    fn records(&self) -> u64 {
        let records = self.awaited.values().filter(|awaited| !awaited.gap);
        records.map(Awaited::left).sum()
    }

    fn status(&self, now: Moment) -> CoreStatus {
        CoreStatus {
            waiting: self.records(),
            sent_again_total: self.sent_again,
            last_ack_s: self.last_ack.map(|at| now.since(at).as_secs()),
        }
    }
}

/// `args` of `ack`: everything up to `seq`, or from `first_seq` on.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Acknowledged {
    source: String,
    stream: String,
    #[serde(default)]
    first_seq: Option<u64>,
    seq: u64,
}

impl Delivery {
    /// The broker has it; `true`: settling it is up to the core.
    pub(super) fn left_to_core(&mut self, token: u64) -> bool {
        let now = self.clock.now();
        let left = self
            .acks
            .as_mut()
            .is_some_and(|acks| acks.has_broker(token, now));
        if left {
            self.tell_core();
        }
        left
    }

    /// What the core does not acknowledge goes back to the log.
    pub(super) fn send_again(&mut self) {
        let now = self.clock.now();
        let Some(acks) = &mut self.acks else {
            return;
        };
        let overdue = acks.overdue(now);
        if overdue.is_empty() {
            return;
        }
        tracing::info!(uplink = %self.settings.name, offers = overdue.len(), "the core has not acknowledged these: they are sent again");
        for id in overdue {
            self.outbox.failed(id);
        }
        self.tell_core();
    }

    /// Answers an `ack`.
    pub(super) fn take_ack(&mut self, command: &Command) -> Reply {
        if let Err(refused) = self.commands.admit(command) {
            return *refused;
        }
        let outcome = self.acknowledged(command);
        if let Err(Undone::Rejected(why) | Undone::Failed(why)) = &outcome {
            let uplink = self.settings.name.as_str();
            tracing::warn!(target: "audit", uplink, id = command.id, why, "an ack was refused");
        }
        reply_of(&command.id, outcome)
    }

    fn acknowledged(&mut self, command: &Command) -> Result<serde_json::Value, Undone> {
        let now = self.clock.now();
        let Some(acks) = &mut self.acks else {
            return Err(Undone::Rejected(BROKER_SETTLES.to_owned()));
        };
        let Acknowledged {
            source,
            stream,
            first_seq,
            seq,
        } = serde_json::from_value(command.args.clone()).map_err(|error| {
            let expected = "expected {\"source\", \"stream\", \"seq\"} and, where not all before it is meant, \
                            \"first_seq\"";
            Undone::Rejected(format!("args: {}; {expected}", chain(&error)))
        })?;
        let from = first_seq.unwrap_or(1);
        if from == 0 || from > seq {
            return Err(Undone::Rejected(format!(
                "first_seq is {from} and seq {seq}; numbers begin with 1 and ascend"
            )));
        }
        let id: StreamId = stream.parse().map_err(|_| {
            Undone::Rejected(format!(
                "stream is {stream}; a stream is named by 32 hex digits, as in the messages"
            ))
        })?;
        match self.outbox.line(&source, id) {
            None => {
                return Err(Undone::Rejected(format!(
                    "source is {source}; this gateway has no device and no model of that name"
                )));
            }
            Some(KnownLine::Unknown { samples, events }) => {
                return Err(Undone::Rejected(format!(
                    "stream is {stream}; of that nothing waits here. Samples are in stream {samples} now, events \
                     in {events}"
                )));
            }
            Some(KnownLine::Current { last_seq }) if seq > last_seq => {
                return Err(Undone::Rejected(format!(
                    "seq is {seq}; {source} has got to {last_seq} in this stream"
                )));
            }
            Some(KnownLine::Current { .. } | KnownLine::Ended) => {}
        }
        let (mut settled, mut waiting) = (0, 0);
        acks.awaited.retain(|_, awaited| {
            if awaited.stream != id || *awaited.source != *source {
                return true;
            }
            let mut parts = Vec::with_capacity(awaited.parts.len());
            for part in awaited.parts.drain(..) {
                let (a, b) = (part.first.max(from), part.last.min(seq));
                if a > b || (awaited.gap && (a, b) != (part.first, part.last)) {
                    parts.push(part);
                    continue;
                }
                settled += if awaited.gap { 0 } else { b - a + 1 };
                if (a, b) == (part.first, part.last) {
                    self.outbox.acked(part.id);
                    continue;
                }
                let after = self.outbox.acked_part(part.id, a, b);
                if part.first < a {
                    let (id, first, last) = (part.id, part.first, a - 1);
                    parts.push(Part { id, first, last });
                }
                if let Some(id) = after {
                    let (first, last) = (b + 1, part.last);
                    parts.push(Part { id, first, last });
                }
            }
            awaited.parts = parts;
            waiting += if awaited.gap { 0 } else { awaited.left() };
            // What the broker has not acknowledged yet still is under way.
            awaited.since.is_none() || !awaited.parts.is_empty()
        });
        acks.last_ack = Some(now);
        acks.pause = acks.wait;
        self.uplink
            .update(|status| status.records_acked_total += settled);
        self.tell_core();
        Ok(json!({"settled": settled, "waiting": waiting}))
    }

    /// Shows what waits for the core.
    pub(super) fn tell_core(&self) {
        if let Some(acks) = &self.acks {
            let told = acks.status(self.clock.now());
            self.uplink.update(|status| status.core = Some(told));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: fn(u64) -> Moment = |seconds| Moment(0) + Duration::from_secs(seconds);

    #[test]
    fn the_pause_doubles_while_the_core_is_silent() {
        let mut acks = Acks::new(Duration::from_secs(60));
        for (token, at) in [(1, 0), (2, 60), (3, 180)] {
            let awaited = Awaited {
                stream: StreamId(Default::default()),
                source: "pump".into(),
                gap: false,
                parts: vec![Part {
                    id: OfferId(token),
                    first: 1,
                    last: 10,
                }],
                since: None,
            };
            acks.awaited.insert(token, awaited);
            assert!(acks.has_broker(token, AT(at)));
            let due = at + (60 << (token - 1));
            assert_eq!(acks.next_overdue(), Some(AT(due)));
            assert!(acks.overdue(AT(due - 1)).is_empty());
            assert_eq!(acks.overdue(AT(due)), [OfferId(token)]);
        }
        assert_eq!(acks.status(AT(1000)).sent_again_total, 30);
        acks.reconnected();
        assert_eq!((acks.pause, acks.next_overdue()), (acks.wait, None));
    }
}
