//! Joins the buffer's outbox to the uplink's session, nothing more.
//!
//! The session asks for the next consignment when it has room; the outbox says what is next; the profile
//! turns it into messages. What the broker acknowledged settles in the outbox; what was in flight when a
//! connection broke is offered again from the log.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use millrace_buffer::{Budget, Item, Offer, OfferId, Outbox};
use millrace_tags::{Clock, DropReason, Lane, Reply, Timebase};
use millrace_uplink::profile::EncodeError;
use millrace_uplink::{
    Consignment, Feed, Generic, Message, Refusal, SessionCounters, SessionState, Window,
};
use serde_json::json;
use tokio::sync::Notify;

use crate::command::Commands;
use crate::config;
use crate::report::UplinkStatus;

/// Records in one parcel at most: a message near the size that links carry best.
const PARCEL_RECORDS_MAX: usize = 2_000;

/// One uplink's state, as the local API shows it.
pub(crate) struct Uplink {
    /// Written by the session.
    pub(crate) counters: Arc<SessionCounters>,
    status: Mutex<UplinkStatus>,
}

impl Uplink {
    /// An uplink that has not connected yet.
    pub(crate) fn new(settings: &config::Uplink) -> Arc<Self> {
        let status = UplinkStatus {
            name: settings.name.clone(),
            url: settings.endpoint.to_string(),
            profile: settings.profile.to_owned(),
            state: "connecting".to_owned(),
            ..UplinkStatus::default()
        };
        Arc::new(Self {
            counters: Arc::default(),
            status: Mutex::new(status),
        })
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
        status
    }

    fn update(&self, change: impl FnOnce(&mut UplinkStatus)) {
        change(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// The feed of one uplink's session.
pub(crate) struct Delivery {
    outbox: Outbox,
    profile: Arc<Generic>,
    command_topic: String,
    settings: config::Uplink,
    uplink: Arc<Uplink>,
    clock: Arc<dyn Clock>,
    commands: Commands,
    ready: Arc<Notify>,
    /// How many records the next parcel may have; fewer while one that cannot be sent is near.
    parcel_records: usize,
    in_flight: HashMap<u64, InFlight>,
    next_token: u64,
    /// The timebase at the last look; a clock message goes out when it becomes known.
    seen: Option<Timebase>,
    /// Boots whose clock became known after records of them had gone out: the core is to be told.
    clocks: Vec<Timebase>,
}

/// What a token stands for.
enum InFlight {
    /// Records of the log, which settle when the broker has them.
    Offer { id: OfferId, records: u64 },
    /// The answer to a command.
    Reply(Reply),
    /// The clock message of a boot.
    Clock(Timebase),
}

impl Delivery {
    /// Joins `outbox` to a session.
    pub(crate) fn new(
        outbox: Outbox,
        profile: Arc<Generic>,
        settings: config::Uplink,
        uplink: Arc<Uplink>,
        clock: Arc<dyn Clock>,
        commands: Commands,
    ) -> Self {
        let ready = Arc::new(Notify::new());
        let wake = ready.clone();
        outbox.set_wake(Box::new(move || wake.notify_one()));
        commands.wake(ready.clone());
        Self {
            outbox,
            command_topic: profile.command_topic(),
            profile,
            settings,
            uplink,
            clock,
            commands,
            ready,
            parcel_records: PARCEL_RECORDS_MAX,
            in_flight: HashMap::new(),
            next_token: 0,
            seen: None,
            clocks: Vec::new(),
        }
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
                let reply = self.commands.next_reply()?;
                (self.profile.reply(&reply), InFlight::Reply(reply))
            }
        };
        Some(Consignment {
            token: self.token(what),
            lane: Lane::Alarm,
            messages: vec![message],
        })
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
                InFlight::Offer { .. } => {}
                InFlight::Reply(reply) => self.commands.reply_again(reply),
                InFlight::Clock(timebase) => self.clocks.push(timebase),
            }
        }
        self.outbox.reconnected();
    }

    fn consign(&mut self, offer: &Offer, messages: Vec<Message>) -> Consignment {
        let records = match &offer.item {
            Item::Parcel(parcel) => parcel.records.len() as u64,
            Item::Gap(_) => 0,
        };
        let token = self.token(InFlight::Offer {
            id: offer.id,
            records,
        });
        Consignment {
            token,
            lane: offer.lane,
            messages,
        }
    }

    /// One record cannot be sent: what stands before it goes first, then it is given up alone.
    fn set_aside(&mut self, offer: &Offer, error: &EncodeError) {
        let before = match &offer.item {
            Item::Parcel(parcel) if parcel.records.len() > 1 => error.seq() - parcel.first_seq,
            _ => {
                tracing::error!(error = %error, "a record cannot be sent; it is given up and counted as poison");
                self.parcel_records = PARCEL_RECORDS_MAX;
                return self.outbox.give_up(offer.id, DropReason::Poison);
            }
        };
        self.parcel_records = usize::try_from(before).unwrap_or(usize::MAX).max(1);
        self.outbox.failed(offer.id);
    }

    /// Gaps concern whoever got the numbers around them: they always go.
    fn routes(&self, offer: &Offer) -> bool {
        match &offer.item {
            Item::Parcel(parcel) => self.settings.routes(&parcel.source),
            Item::Gap(_) => true,
        }
    }

    fn encode(&self, offer: &Offer) -> Result<Vec<Message>, EncodeError> {
        match &offer.item {
            Item::Parcel(parcel) => self
                .profile
                .encode_parcel(parcel, self.settings.max_message),
            Item::Gap(gap) => Ok(self.profile.encode_gap(gap, self.settings.max_message)),
        }
    }
}

impl Feed for Delivery {
    fn greeting(&mut self) -> Vec<Message> {
        self.take_back();
        if self.seen.is_none() {
            self.seen = Some(self.clock.timebase());
            // It may have become known just before the program ended: rather told twice than never.
            self.clocks = self.outbox.late_clocks();
        }
        let facts =
            json!({"version": env!("CARGO_PKG_VERSION"), "boot": self.clock.timebase().boot});
        vec![
            self.profile
                .status(true, facts.as_object().unwrap_or(&serde_json::Map::new())),
        ]
    }

    fn next(&mut self, window: Window) -> Option<Consignment> {
        if let Some(aside) = self.aside() {
            return Some(aside);
        }
        loop {
            let budget = Budget {
                records: self.parcel_records,
                backlog: window.backlog,
            };
            let offer = self.outbox.next(budget)?;
            if !self.routes(&offer) {
                self.outbox.give_up(offer.id, DropReason::NotRouted);
                continue;
            }
            match self.encode(&offer) {
                Ok(messages) => {
                    self.parcel_records = PARCEL_RECORDS_MAX;
                    return Some(self.consign(&offer, messages));
                }
                Err(error) => self.set_aside(&offer, &error),
            }
        }
    }

    fn acked(&mut self, token: u64) {
        if let Some(InFlight::Offer { id, records }) = self.in_flight.remove(&token) {
            self.outbox.acked(id);
            self.uplink
                .update(|status| status.records_acked_total += records);
        }
    }

    fn refused(&mut self, token: u64, why: Refusal) {
        tracing::error!(error = %why, "a message cannot be sent");
        match self.in_flight.remove(&token) {
            Some(InFlight::Offer { id, .. }) => self.outbox.give_up(id, DropReason::Poison),
            Some(InFlight::Reply(reply)) => self.commands.fail(&reply.id, &why.to_string()),
            Some(InFlight::Clock(_)) | None => {}
        }
    }

    fn received(&mut self, topic: &str, payload: &[u8], retained: bool) {
        if topic != self.command_topic {
            return;
        }
        if retained {
            tracing::warn!("a retained command was ignored: commands must not be retained");
            return;
        }
        self.commands.take(Generic::parse_command(payload));
    }

    fn state(&mut self, state: &SessionState) {
        self.uplink.update(|status| match state {
            SessionState::Connecting => status.state = "connecting".to_owned(),
            SessionState::Connected => {
                status.state = "connected".to_owned();
                status.error = None;
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
