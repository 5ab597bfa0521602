//! Joins the buffer's outbox to the uplink's session, nothing more.
//!
//! The session asks for the next consignment when it has room; the outbox says what is next; the profile
//! turns it into messages. What the broker acknowledged settles in the outbox; what was in flight when a
//! connection broke is offered again from the log. What the profile cannot encode, or the broker refuses
//! (`suspects.rs`), is set aside, so that the queue goes on; a source of which it refuses everything
//! (`barred.rs`) is withheld.

mod barred;
mod bd_seq;
mod connection;
mod metered;
mod node;
mod proof;
mod rate;
mod refusals;
mod suspects;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use millrace_buffer::{Budget, Item, Offer, OfferId, Outbox};
use millrace_tags::{Clock, Lane, Timebase};
use millrace_uplink::profile::EncodeError;
use millrace_uplink::{
    ConnectionReport, Consignment, Feed, Inbound, Incoming, Listening, Message, Parting, Profile,
    Reason, Refusal, SessionCounters, SessionState, Window,
};
use serde_json::json;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::bootstrap::Refusals;
use crate::command::{Commands, Said};
use crate::config;
use crate::report::{MeteredStatus, UplinkStatus};
use barred::{Access, Barred, Reach, TAKES_NOTHING};
use bd_seq::BdSeq;
use metered::{May, Meter};
use node::{Node, Turn};
pub(crate) use node::{Plant, PlantTag};
use proof::{DISCARDED, Fate, Gate, Proof};
use rate::Pacer;
use suspects::{Advice, Numbers, Suspects};

/// Records in one parcel at most: a message near the size that links carry best.
const PARCEL_RECORDS_MAX: usize = 2_000;

/// The state of an uplink that is connected and may not send.
const WAITING: &str = "waiting";

/// How often an edge node looks at what has become due by itself.
const NODE_INTERVAL: Duration = Duration::from_millis(250);

/// What people read of a message that the broker hangs up on.
const HANGS_UP: &str = "the broker closes the connection whenever it gets this message";

/// One uplink's state, as the local API shows it.
pub(crate) struct Uplink {
    /// Written by the session.
    pub(crate) counters: Arc<SessionCounters>,
    status: Mutex<UplinkStatus>,
    /// Since the last connection.
    refusals: Mutex<Option<Refusals>>,
}

impl Uplink {
    /// An uplink that has not connected yet.
    pub(crate) fn new(settings: &config::Uplink) -> Arc<Self> {
        let status = UplinkStatus {
            name: settings.name.clone(),
            url: settings.endpoint.to_string(),
            profile: settings.profile.definition().name.clone(),
            state: "connecting".to_owned(),
            ..UplinkStatus::default()
        };
        Arc::new(Self {
            counters: Arc::default(),
            status: Mutex::new(status),
            refusals: Mutex::default(),
        })
    }

    /// How the broker has refused us since the last connection.
    pub(crate) fn refusals(&self) -> Option<Refusals> {
        *self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_refusals(&self, state: &SessionState) {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        match state {
            SessionState::Connected => *refusals = None,
            SessionState::Down { refused: true, .. } => {
                *refusals = Some(Refusals::one_more(*refusals, Instant::now()));
            }
            _ => {}
        }
    }

    /// The state as it is now.
    pub(crate) fn report(&self) -> UplinkStatus {
        let mut status = self
            .status
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        status.connects_total = self.counters.connects_total();
        status.messages_acked_total = self.counters.messages_acked_total();
        status.unheard_total = self.counters.unheard_total();
        status
    }

    /// There is no session, for this reason.
    pub(crate) fn down(&self, error: String) {
        self.update(|status| {
            status.state = "down".to_owned();
            status.error = Some(error);
        });
    }

    fn update(&self, change: impl FnOnce(&mut UplinkStatus)) {
        change(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

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
    /// What a second has.
    pacer: Pacer,
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

/// Why an offer does not go now.
enum Hold {
    /// Its source is barred.
    Barred,
    /// Others are under way.
    UntilAcked,
    /// This connection has carried nothing yet.
    UntilProven,
}

/// What goes next.
enum Pick {
    /// Something of the log.
    Offer(Offer),
    /// The status, to see whether the connection is good.
    Probe,
}

/// An offer of the log that is under way.
struct Sent {
    id: OfferId,
    records: u64,
    /// Of its largest message.
    bytes: usize,
    /// `None` for gaps.
    numbers: Option<Numbers>,
}

impl Sent {
    fn of(offer: &Offer, bytes: usize) -> Self {
        let (records, numbers) = match &offer.item {
            Item::Parcel(parcel) => (parcel.records.len() as u64, Some(Numbers::of(parcel))),
            Item::Gap(_) => (0, None),
        };
        Self {
            id: offer.id,
            records,
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
        Self {
            outbox,
            barred,
            message_max: rate::message_max(settings.max_message, settings.rates),
            granted_max: settings.max_message,
            profile: settings.profile.clone(),
            suspects: Suspects::new(settings.poison_after),
            proof: settings.verifies().then(Proof::default),
            pacer: Pacer::new(settings.rates, clock.now()),
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
        }
    }

    /// Lets an edge node speak, where the profile is one of Sparkplug.
    pub(crate) fn with_node(mut self, plant: Plant, data_dir: &Path) -> Self {
        let bd_seq = BdSeq::open(data_dir, &self.settings.name);
        let (profile, clock) = (&self.profile, self.clock.clone());
        self.node = Node::new(profile, plant, bd_seq, self.settings.settle_after, clock);
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

    /// What the meter leaves.
    fn may(&mut self) -> May {
        let Some(meter) = &mut self.meter else {
            return May::Everything;
        };
        let now = self.clock.now();
        let utc = self.clock.timebase().utc(now);
        let may = meter.may(self.uplink.counters.traffic_total(), now, utc);
        let (used, bytes_per_day) = meter.used();
        let next_batch_s = meter.next_batch(now).map(|left| left.as_secs());
        self.uplink.update(|status| {
            status.metered = Some(MeteredStatus {
                used_today: used,
                bytes_per_day,
                sends: may.word().to_owned(),
                next_batch_s,
            });
        });
        may
    }

    fn token(&mut self, what: InFlight) -> u64 {
        self.next_token += 1;
        self.in_flight.insert(self.next_token, what);
        self.next_token
    }

    /// Replies and the clock message: small, rare, ahead of everything.
    fn aside(&mut self) -> Option<Consignment> {
        let (message, what) = match self.clock_message() {
            Some((message, timebase)) => (message, InFlight::Clock(timebase)),
            None => {
                let (message, said) = self.said()?;
                (message, InFlight::Said(said))
            }
        };
        Some(Consignment {
            token: self.token(what),
            lane: Lane::Alarm,
            messages: vec![message],
        })
    }

    /// What commands have to say, as far as the core's format has that.
    fn said(&mut self) -> Option<(Message, Said)> {
        loop {
            let said = self.commands.next()?;
            let message = match &said {
                Said::Begun(to) => self.profile.begun(to),
                Said::Reply(reply, to) => {
                    let now = self.clock.timebase().utc(self.clock.now());
                    self.profile.reply(reply, to, now)
                }
            };
            match message {
                Some(message) => return Some((message, said)),
                None => self.commands.told(&said),
            }
        }
    }

    /// What the core has to hear once the clock of a boot is known.
    fn clock_message(&mut self) -> Option<(Message, Timebase)> {
        if self.seen.is_some_and(|seen| seen.offset_ns.is_none()) {
            let timebase = self.clock.timebase();
            self.seen = Some(timebase);
            self.clocks.extend(timebase.offset_ns.map(|_| timebase));
        }
        let timebase = self.clocks.pop()?;
        Some((self.profile.clock(&timebase)?, timebase))
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
        let sent = Sent::of(offer, bytes.unwrap_or(0));
        let all = messages.iter().map(Message::wire_bytes).sum();
        self.pacer.spend(now, messages.len(), all, sent.records);
        if let Some(meter) = &mut self.meter {
            meter.sent(now);
        }
        let token = self.token(InFlight::Offer(sent));
        if let Some(proof) = &mut self.proof {
            proof.sent(token, &messages);
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

    /// Makes a suspected offer wait until it may go alone; `Err`: what to do instead.
    fn admit(&mut self, offer: &mut Offer) -> Result<(), Hold> {
        let Item::Parcel(parcel) = &offer.item else {
            return Ok(());
        };
        let (numbers, now) = (Numbers::of(parcel), self.clock.now());
        let access = self.barred.access(&numbers, now);
        if self.proof.is_some() && access != Access::Free {
            if access == Access::Barred && self.outbox.withholds(offer.id) {
                return Err(Hold::Barred);
            }
            // Nobody hangs up on it: the others need not wait.
            self.barred.tries(&numbers, now);
            self.outbox.shorten(offer, 1);
            self.trial = true;
            return Ok(());
        }
        let advice = match access {
            Access::Free => self.suspects.advise(parcel),
            // Somebody had what was withheld sent again, or gave it up: that asks for a trial.
            Access::Barred if self.outbox.withholds(offer.id) => return Err(Hold::Barred),
            Access::Barred | Access::Trial => Advice::Alone(1),
        };
        match advice {
            Advice::Free => Ok(()),
            Advice::Before(records) => {
                self.outbox.shorten(offer, records);
                Ok(())
            }
            Advice::Alone(records) => {
                self.outbox.shorten(offer, records);
                if !self.in_flight.is_empty() {
                    return Err(Hold::UntilAcked);
                }
                if !self.proven {
                    return Err(Hold::UntilProven);
                }
                self.alone = true;
                Ok(())
            }
        }
    }

    /// What may go next.
    fn pick(&mut self, window: Window, may: May) -> Option<Pick> {
        let budget = Budget {
            records: self.pacer.records(PARCEL_RECORDS_MAX),
            backlog: window.backlog && self.node.as_ref().is_none_or(Node::has_room),
        };
        loop {
            let held = self.held.take();
            let mut offer = held.or_else(|| match may {
                May::Everything => self.outbox.next(budget),
                May::Alarms | May::Nothing => self.outbox.next_alarm(budget.records),
            })?;
            match self.admit(&mut offer) {
                Ok(()) => return Some(Pick::Offer(offer)),
                Err(Hold::Barred) => self.outbox.withhold(offer.id, TAKES_NOTHING, false),
                Err(Hold::UntilAcked) => {
                    self.held = Some(offer);
                    return None;
                }
                Err(Hold::UntilProven) => {
                    self.held = Some(offer);
                    return Some(Pick::Probe);
                }
            }
        }
    }

    /// The core has taken it over.
    fn settle(&mut self, sent: Sent) {
        if let Some(numbers) = sent.numbers {
            if let Some(bytes) = self.suspects.acked(&numbers, sent.bytes) {
                self.message_max = bytes.min(self.message_max);
                tracing::warn!(uplink = %self.settings.name, bytes, "the broker closes the connection on larger messages than this; max_message makes them smaller from the start");
            }
            if self.barred.acked(&numbers) {
                tracing::info!(uplink = %self.settings.name, source = numbers.source(), "the source is taken again");
                self.outbox.release(numbers.log(), numbers.source());
                self.tell_barred();
            }
        }
        if let Some(node) = &mut self.node {
            return node.hold(sent.id, sent.records);
        }
        self.outbox.acked(sent.id);
        self.uplink
            .update(|status| status.records_acked_total += sent.records);
    }

    /// Whether messages may go, where their topics have to be proven.
    fn gate(&mut self, messages: &[Message], trial: bool) -> Gate {
        let Some(proof) = &mut self.proof else {
            return Gate::Open;
        };
        if trial {
            proof.try_again(messages);
        }
        proof.admit(messages, self.clock.now())
    }

    /// A message came on a topic that we publish to.
    fn came_back(&mut self, topic: &str, payload: &[u8]) {
        let now = self.clock.now();
        let Some(proof) = &mut self.proof else {
            return;
        };
        if let Some(sent) = proof
            .received(topic, payload, now)
            .and_then(|token| self.parked.remove(&token))
        {
            self.settle(sent);
        }
        self.tell_unproven();
    }

    /// The consignment was not taken, so that nothing of it comes back.
    fn forget_proof(&mut self, token: u64) {
        if let Some(proof) = &mut self.proof {
            proof.forget(token);
        }
    }

    /// What was acknowledged and did not come back goes back to the log.
    fn give_up_waiting(&mut self) {
        let now = self.clock.now();
        let Some(proof) = &mut self.proof else {
            return;
        };
        for (token, fate) in proof.overdue(now) {
            let Some(sent) = self.parked.remove(&token) else {
                continue;
            };
            match fate {
                Fate::Again => self.outbox.failed(sent.id),
                Fate::Discarded => self.unproven(&sent, DISCARDED),
            }
        }
    }

    /// Nothing says that the core takes the source: it is withheld, and tried again now and then.
    fn unproven(&mut self, sent: &Sent, why: &'static str) {
        match &sent.numbers {
            Some(numbers) => {
                let source = numbers.source();
                if self.barred.refuses(numbers, self.clock.now()) == Reach::Begins {
                    tracing::error!(uplink = %self.settings.name, source, why, "the source is withheld");
                }
                self.outbox.withhold(sent.id, why, false);
                self.tell_barred();
            }
            // Nobody can be told of this gap; it is owed until somebody can.
            None => self.outbox.failed(sent.id),
        }
        self.tell_unproven();
    }

    fn tell_unproven(&self) {
        let topics = self.proof.as_ref().map(Proof::refused).unwrap_or_default();
        self.uplink.update(|status| {
            status.unproven_topics = topics
                .into_iter()
                .map(|(topic, why)| format!("{topic}: {why}"))
                .collect();
        });
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

    fn encode(&mut self, offer: &Offer) -> Result<Vec<Message>, EncodeError> {
        if let (Some(node), Item::Parcel(parcel)) = (&mut self.node, &offer.item) {
            return node
                .encode(parcel, self.message_max.min(self.granted_max))
                .or_else(|_| node.encode(parcel, self.granted_max));
        }
        match &offer.item {
            // One record may be larger than what was found to pass, and pass.
            Item::Parcel(parcel) => self
                .profile
                .encode_parcel(parcel, self.message_max.min(self.granted_max))
                .or_else(|_| self.profile.encode_parcel(parcel, self.granted_max)),
            Item::Gap(gap) => Ok(self.profile.encode_gap(gap, self.granted_max)),
        }
    }
}

impl Delivery {
    /// What an edge node has to say before data; `Err`: data may go.
    fn node_turn(&mut self) -> Result<Option<Consignment>, ()> {
        let Some(node) = &mut self.node else {
            return Err(());
        };
        while let Some(said) = self.commands.next() {
            match &said {
                Said::Begun(to) => node.begun(&to.id),
                Said::Reply(reply, _) => node.replied(reply),
            }
            self.commands.told(&said);
        }
        while let Some((id, records)) = node.ripe() {
            self.outbox.acked(id);
            self.uplink
                .update(|status| status.records_acked_total += records);
        }
        if node.sends_again() {
            // The session's word on these means nothing any more.
            self.in_flight
                .retain(|_, what| !matches!(what, InFlight::Offer { .. }));
            (self.held, self.alone) = (None, false);
            self.outbox.reconnected();
        }
        let turn = node.turn();
        let waits = node.waits_for();
        self.uplink.update(|status| match waits {
            Some(why) => {
                status.state = WAITING.to_owned();
                status.error = Some(why);
            }
            None if status.state == WAITING => {
                status.state = "connected".to_owned();
                status.error = None;
            }
            None => {}
        });
        match turn {
            Turn::Wait => Ok(None),
            Turn::Send(messages) => Ok(Some(Consignment {
                token: self.token(InFlight::Node),
                lane: Lane::Alarm,
                messages,
            })),
            Turn::Data => Err(()),
        }
    }
}

impl Feed for Delivery {
    fn connected(&mut self, report: &ConnectionReport) {
        let most = report.terms.max_packet.unwrap_or(usize::MAX);
        self.granted_max = self.settings.max_message.min(most);
        let now = self.clock.timebase().utc(self.clock.now());
        self.uplink
            .update(|status| connection::show(status, report, now));
    }

    fn subscribed(&mut self, refused: &[(String, Reason)]) {
        let told = |(filter, reason): &(String, Reason)| format!("{filter}: {reason}");
        let refused = refused.iter().map(told).collect();
        self.uplink
            .update(|status| status.refused_subscriptions = refused);
    }

    fn greeting(&mut self) -> Vec<Message> {
        self.take_back();
        self.commands.connected();
        if self.seen.is_none() {
            self.seen = Some(self.clock.timebase());
            // It may have become known just before the program ended: rather told twice than never.
            self.clocks = self.outbox.late_clocks();
        }
        self.profile.greeting(&self.facts())
    }

    fn next(&mut self, window: Window) -> Option<Consignment> {
        self.give_up_waiting();
        if self.alone && self.gated.is_none() {
            return None;
        }
        if let Ok(turn) = self.node_turn() {
            return turn;
        }
        if self.held.is_none()
            && let Some(aside) = self.aside()
        {
            return Some(aside);
        }
        let now = self.clock.now();
        let may = self.may();
        if may == May::Nothing || self.pacer.wait(now).is_some() {
            return None;
        }
        loop {
            let offer = match self.gated.take() {
                Some(offer) => offer,
                None => match self.pick(window, may) {
                    Some(Pick::Offer(offer)) => offer,
                    Some(Pick::Probe) => return Some(self.probe()),
                    None => {
                        if let (Some(meter), true) = (&mut self.meter, window.backlog) {
                            meter.nothing(now);
                        }
                        return None;
                    }
                },
            };
            let trial = std::mem::take(&mut self.trial);
            match (self.encode(&offer), &offer.item) {
                (Ok(messages), _) => match self.gate(&messages, trial) {
                    Gate::Open => return Some(self.consign(&offer, messages)),
                    Gate::Wait => {
                        self.gated = Some(offer);
                        return None;
                    }
                    Gate::Shut(why) => {
                        self.alone = false;
                        self.unproven(&Sent::of(&offer, 0), why);
                    }
                },
                (Err(error), Item::Parcel(parcel)) => {
                    let culprit = Numbers::of(parcel).only(error.seq());
                    self.alone = false;
                    self.set_aside(offer.id, &culprit, &error.to_string(), 1);
                }
                (Err(_), Item::Gap(_)) => self.outbox.acked(offer.id),
            }
        }
    }

    fn acked(&mut self, token: u64) {
        self.proven = true;
        let sent = match self.in_flight.remove(&token) {
            Some(InFlight::Offer(sent)) => sent,
            Some(InFlight::Said(said)) => return self.commands.told(&said),
            Some(InFlight::Clock(_) | InFlight::Probe | InFlight::Node) | None => return,
        };
        self.alone = false;
        let now = self.clock.now();
        if self.proof.as_mut().is_some_and(|p| p.acked(token, now)) {
            self.parked.insert(token, sent);
            return;
        }
        self.settle(sent);
    }

    fn refused(&mut self, token: u64, why: Refusal) {
        if let Some(node) = &mut self.node {
            node.stumbled();
        }
        match self.in_flight.remove(&token) {
            Some(InFlight::Offer(Sent {
                id,
                numbers: Some(numbers),
                bytes,
                ..
            })) => {
                self.forget_proof(token);
                self.take_refusal(id, &numbers, bytes, &why);
            }
            // Nobody can be told of this gap.
            Some(InFlight::Offer(sent)) => self.outbox.acked(sent.id),
            Some(InFlight::Said(said)) => {
                tracing::error!(error = %why, "a reply cannot be sent");
                self.commands.fail(said, &why.to_string());
            }
            Some(InFlight::Node) => {
                if let Some(node) = &mut self.node {
                    node.refused(&why);
                }
            }
            // An answer proves the connection, whatever it says.
            Some(InFlight::Probe) if matches!(why, Refusal::Denied(_)) => self.proven = true,
            Some(InFlight::Clock(_) | InFlight::Probe) | None => {}
        }
    }

    async fn connecting(&mut self) -> Option<Parting> {
        Some(match &mut self.node {
            Some(node) => node.connecting().await,
            // Sealed with the key of now.
            None => Parting {
                will: self.profile.will(),
                farewell: self.profile.offline().into_iter().collect(),
            },
        })
    }

    fn unheard(&mut self) {
        if let Some(node) = &mut self.node {
            node.unheard();
        }
    }

    fn hangs_up(&self) -> bool {
        self.node.as_ref().is_some_and(Node::hangs_up)
    }

    fn postponed(&mut self, token: u64) {
        match self.in_flight.remove(&token) {
            Some(InFlight::Offer(sent)) => {
                self.alone = false;
                self.forget_proof(token);
                self.outbox.failed(sent.id);
            }
            Some(InFlight::Said(said)) => self.commands.say_again(said),
            Some(InFlight::Clock(timebase)) => self.clocks.push(timebase),
            Some(InFlight::Probe | InFlight::Node) | None => {}
        }
    }

    fn received(&mut self, message: Inbound) {
        if let Some(node) = &mut self.node {
            for command in node.received(&message.topic, &message.payload, message.retained) {
                self.commands.take(Ok(command));
            }
            return;
        }
        self.came_back(&message.topic, &message.payload);
        let incoming = Incoming {
            topic: &message.topic,
            payload: &message.payload,
            response_topic: message.properties.response_topic.as_deref(),
            correlation: message.properties.correlation.as_deref(),
        };
        let Some(commands) = self.profile.commands(&incoming) else {
            return;
        };
        if message.retained {
            let topic = &message.topic;
            tracing::warn!(target: "audit", topic, "a retained command was ignored: commands must not be retained");
            return;
        }
        for command in commands {
            self.commands.take(command);
        }
    }

    fn listening(&mut self) -> Option<Listening> {
        self.proof.as_mut()?.listening()
    }

    fn listens(&mut self, filter: &str, granted: bool) {
        if let Some(proof) = &mut self.proof {
            proof.listens(filter, granted);
        }
    }

    fn pause(&self) -> Option<Duration> {
        let now = self.clock.now();
        let proof = self.proof.as_ref().and_then(Proof::next_overdue);
        let proof = proof.map(|due| due.since(now));
        let meter = self.meter.as_ref().map(|meter| meter.wait(now));
        let node = self.node.is_some().then_some(NODE_INTERVAL);
        let waits = [node, proof, meter, self.pacer.wait(now)];
        waits.into_iter().flatten().min()
    }

    fn searches(&self) -> bool {
        self.suspects.is_searching()
    }

    fn state(&mut self, state: &SessionState) {
        if let SessionState::Down {
            closed, oversize, ..
        } = state
        {
            if *oversize {
                self.learn_size();
            }
            self.suspect(*closed);
            if let Some(proof) = &mut self.proof {
                proof.lost(*closed);
            }
        }
        self.uplink.note_refusals(state);
        self.uplink.update(|status| match state {
            SessionState::Connecting => status.state = "connecting".to_owned(),
            SessionState::Connected => {
                status.state = "connected".to_owned();
                status.error = None;
            }
            SessionState::Slowed { reason, next_try } => {
                status.error = Some(format!(
                    "the broker takes no messages for now: {reason}; they go on in {:.1} s",
                    next_try.as_secs_f64()
                ));
            }
            SessionState::Down { error, .. } => {
                status.state = "down".to_owned();
                status.error = Some(error.clone());
            }
        });
    }

    fn ready(&self) -> Arc<Notify> {
        self.ready.clone()
    }
}

#[cfg(test)]
mod tests;
