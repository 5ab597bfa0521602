//! Joins the buffer's outbox to the uplink's session, nothing more.
//!
//! The session asks for the next consignment when it has room; the outbox says what is next; the profile
//! turns it into messages. What the broker acknowledged settles in the outbox; what was in flight when a
//! connection broke is offered again from the log. What the profile cannot encode, or the broker refuses
//! (`suspects.rs`), is set aside, so that the queue goes on; a source of which it refuses everything
//! (`barred.rs`) is withheld.
//!
//! Begin with `feed.rs`, which is the session's side of the conversation: `pick.rs` answers what goes next,
//! `learned.rs` what the core says of its limits, `settle.rs` what an acknowledgement is worth (`by_core.rs` where it is the core's own), `aside.rs` what goes ahead of data. This file has what is under way.

mod aside;
mod barred;
mod bd_seq;
mod by_core;
mod connection;
mod feed;
mod learned;
mod metered;
mod node;
mod numbers;
mod pick;
mod proof;
mod rate;
mod refusals;
mod settle;
mod status;
mod suspects;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use millrace_buffer::{Item, Offer, OfferId, Outbox};
use millrace_tags::{Clock, Lane, Moment, Timebase};
use millrace_uplink::{Consignment, Message, Profile};
use serde_json::json;
use tokio::sync::Notify;

use crate::command::{Commands, Said};
use crate::config;
use barred::{Barred, TAKES_NOTHING};
use bd_seq::BdSeq;
pub(crate) use by_core::ACK;
use by_core::Acks;
use metered::Meter;
use node::Node;
pub(crate) use node::{Plant, PlantTag};
use numbers::Numbers;
use proof::Proof;
use rate::Pacer;
pub(crate) use status::Uplink;
use suspects::Suspects;

/// Records in one parcel at most: a message near the size that links carry best.
const PARCEL_RECORDS_MAX: usize = 2_000;

/// The state of an uplink that is connected and may not send.
const WAITING: &str = "waiting";

/// How often an edge node looks at what has become due by itself.
const NODE_INTERVAL: Duration = Duration::from_millis(250);

/// What people read of a message that the broker hangs up on.
const HANGS_UP: &str = "the broker closes the connection whenever it gets this message";

/// The feed of one uplink's session.
pub(crate) struct Delivery {
    outbox: Outbox,
    profile: Arc<Profile>,
    settings: config::Uplink,
    uplink: Arc<Uplink>,
    clock: Arc<dyn Clock>,
    commands: Commands,
    ready: Arc<Notify>,
    suspects: Suspects,
    barred: Barred,
    /// Where an acknowledgement proves nothing.
    proof: Option<Proof>,
    /// Where the core settles by itself.
    acks: Option<Acks>,
    /// What a second has.
    pacer: Pacer,
    /// Since when the core's own limits are asked for: data wait for them.
    asked_limits: Option<Moment>,
    /// Messages that the core lets wait for their acknowledgement.
    inflight_max: Option<usize>,
    /// What a day has, where the link is metered.
    meter: Option<Meter>,
    /// What is acknowledged and not proven.
    parked: HashMap<u64, Sent>,
    /// The largest message to make: less than `max_message` where the broker has shown that it takes less.
    message_max: usize,
    /// The largest message that the broker said it takes.
    granted_max: usize,
    /// A suspect that waits until nothing else is under way.
    held: Option<Offer>,
    /// A suspect is under way.
    alone: bool,
    /// The offer at hand tries a source that is withheld.
    trial: bool,
    /// An offer that waits until we listen to its topic.
    gated: Option<Offer>,
    /// The broker has acknowledged something on this connection.
    proven: bool,
    in_flight: HashMap<u64, InFlight>,
    next_token: u64,
    /// The timebase at the last look; a clock message goes out when it becomes known.
    seen: Option<Timebase>,
    /// Boots whose clock became known after records of them had gone out: the core is to be told.
    clocks: Vec<Timebase>,
    /// Speaks for the gateway where the profile is Sparkplug.
    node: Option<Node>,
}

/// An offer of the log that is under way.
struct Sent {
    id: OfferId,
    records: u64,
    messages: usize,
    /// Of its largest message.
    bytes: usize,
    /// `None` for gaps.
    numbers: Option<Numbers>,
}

impl Sent {
    fn of(offer: &Offer, messages: usize, bytes: usize) -> Self {
        let (records, numbers) = match &offer.item {
            Item::Parcel(parcel) => (parcel.records.len() as u64, Some(Numbers::of(parcel))),
            Item::Gap(_) => (0, None),
        };
        Self {
            id: offer.id,
            records,
            messages,
            bytes,
            numbers,
        }
    }
}

/// What a token stands for.
enum InFlight {
    /// Records of the log, which settle when the broker has them.
    Offer(Sent),
    /// The status once more: whether it is acknowledged tells a broker that refuses one message from a bad
    /// connection.
    Probe,
    /// The answer to a command, or that it has begun.
    Said(Said),
    /// The clock message of a boot.
    Clock(Timebase),
    /// What an edge node says beside data.
    Node,
}

impl Delivery {
    /// Joins `outbox` to a session.
    pub(crate) fn new(
        outbox: Outbox,
        settings: config::Uplink,
        uplink: Arc<Uplink>,
        clock: Arc<dyn Clock>,
        commands: Commands,
    ) -> Self {
        let ready = Arc::new(Notify::new());
        let wake = ready.clone();
        let routes = settings.clone();
        outbox.set_routes(Box::new(move |source| routes.routes(source)));
        outbox.set_wake(Box::new(move || wake.notify_one()));
        commands.wake(ready.clone());
        let barred = Barred::of_earlier(outbox.withheld(), clock.now());
        uplink.update(|status| status.refused_sources = barred.names());
        let delivery = Self {
            outbox,
            barred,
            message_max: rate::message_max(settings.max_message, settings.rates),
            granted_max: settings.max_message,
            profile: settings.profile.clone(),
            suspects: Suspects::new(settings.poison_after),
            proof: settings.verifies().then(Proof::default),
            acks: settings.ack_wait.map(Acks::new),
            pacer: Pacer::new(settings.rates, clock.now()),
            asked_limits: None,
            inflight_max: None,
            meter: None,
            parked: HashMap::new(),
            settings,
            uplink,
            clock,
            commands,
            ready,
            held: None,
            alone: false,
            trial: false,
            gated: None,
            proven: false,
            in_flight: HashMap::new(),
            next_token: 0,
            seen: None,
            clocks: Vec::new(),
            node: None,
        };
        delivery.tell_core();
        delivery
    }

    /// Lets an edge node speak, where the profile is one of Sparkplug.
    pub(crate) fn with_node(mut self, plant: Plant, data_dir: &Path) -> Self {
        let bd_seq = BdSeq::open(data_dir, &self.settings.name);
        let (profile, clock) = (&self.profile, self.clock.clone());
        let node = Node::new(profile, plant, bd_seq, self.settings.settle_after, clock);
        self.node = node.map(|node| node.walks(!self.settings.wire.fallbacks.is_empty()));
        self
    }

    /// Where the link is metered, what was used is kept below this directory.
    pub(crate) fn kept_in(mut self, data_dir: &Path) -> Self {
        if let Some(metered) = self.settings.metered {
            let file = data_dir.join("metered").join(&self.settings.name);
            let traffic = self.uplink.counters.traffic_total();
            self.meter = Some(Meter::open(metered, file, traffic, self.clock.now()));
        }
        self
    }

    fn token(&mut self, what: InFlight) -> u64 {
        self.next_token += 1;
        self.in_flight.insert(self.next_token, what);
        self.next_token
    }

    /// The connection is gone: the log offers its records again, everything else is ours to send again.
    fn take_back(&mut self) {
        let mut in_flight: Vec<_> = self.in_flight.drain().collect();
        in_flight.sort_by_key(|(token, _)| std::cmp::Reverse(*token));
        for (_, what) in in_flight {
            match what {
                InFlight::Offer(_) | InFlight::Probe | InFlight::Node => {}
                InFlight::Said(said) => self.commands.say_again(said),
                InFlight::Clock(timebase) => self.clocks.push(timebase),
            }
        }
        self.parked.clear();
        self.gated = None;
        self.held = None;
        self.alone = false;
        self.proven = false;
        if let Some(node) = &mut self.node {
            node.connection_ended();
        }
        self.outbox.reconnected();
        if let Some(proof) = &mut self.proof {
            proof.reconnected(self.clock.now());
        }
        if let Some(acks) = &mut self.acks {
            acks.reconnected();
            self.tell_core();
        }
    }

    /// The connection is gone, closed by the broker or not: who may be the cause?
    fn suspect(&mut self, closed: bool) {
        if !closed {
            return self.no_connection();
        }
        let alone = std::mem::take(&mut self.alone);
        let offers = self.in_flight.values().filter_map(|what| match what {
            InFlight::Offer(sent) => Some((sent.id, sent.numbers.as_ref()?, sent.bytes)),
            InFlight::Said(_) | InFlight::Clock(_) | InFlight::Probe | InFlight::Node => None,
        });
        if !alone {
            let under_way: Vec<(Numbers, usize)> = offers
                .map(|(_, numbers, bytes)| (numbers.clone(), bytes))
                .collect();
            if under_way.is_empty() {
                return self.no_connection();
            }
            return self.suspects.lost(&under_way);
        }
        let found = offers.map(|(id, numbers, _)| (id, numbers.clone())).next();
        if let Some((id, numbers)) = found {
            self.judge_alone(id, &numbers, HANGS_UP, TAKES_NOTHING);
        }
    }

    fn no_connection(&mut self) {
        self.suspects.no_connection();
        self.barred.no_connection();
    }

    fn tell_barred(&self) {
        let names = self.barred.names();
        self.uplink.update(|status| status.refused_sources = names);
    }

    fn consign(&mut self, offer: &Offer, messages: Vec<Message>) -> Consignment {
        let now = self.clock.now();
        let bytes = messages.iter().map(Message::wire_bytes).max();
        let sent = Sent::of(offer, messages.len(), bytes.unwrap_or(0));
        let all = messages.iter().map(Message::wire_bytes).sum();
        self.pacer.spend(now, messages.len(), all, sent.records);
        if let Some(meter) = &mut self.meter {
            meter.sent(now);
        }
        let token = self.token(InFlight::Offer(sent));
        if let Some(proof) = &mut self.proof {
            proof.sent(token, &messages);
        }
        // What the profile does not tell, nobody can acknowledge.
        if let (Some(acks), false) = (&mut self.acks, messages.is_empty()) {
            acks.sent(token, offer);
        }
        Consignment {
            token,
            lane: offer.lane,
            messages,
        }
    }

    /// The status once more; see [`InFlight::Probe`]. A profile without one has nothing to probe with: the
    /// connection counts as good then.
    fn probe(&mut self) -> Consignment {
        let messages = self.profile.status(true, &self.facts());
        Consignment {
            token: self.token(InFlight::Probe),
            lane: Lane::Alarm,
            messages: messages.into_iter().collect(),
        }
    }

    /// These numbers are refused: the queue goes on without them.
    fn set_aside(&mut self, id: OfferId, numbers: &Numbers, reason: &str, tries: u32) {
        let (source, first, last) = (numbers.source(), numbers.first, numbers.last);
        tracing::error!(uplink = %self.settings.name, source, first, last, tries, reason, "a message is refused and set aside");
        self.outbox.refused(id, first, last, reason, tries);
    }

    /// What the agent tells about itself.
    fn facts(&self) -> serde_json::Map<String, serde_json::Value> {
        let boot = self.clock.timebase().boot;
        [
            ("version".to_owned(), json!(env!("CARGO_PKG_VERSION"))),
            ("boot".to_owned(), json!(boot)),
        ]
        .into_iter()
        .collect()
    }
}

#[cfg(test)]
mod tests;
