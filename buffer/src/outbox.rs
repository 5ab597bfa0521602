//! The outbox: where one uplink gets what it has to send.

use std::sync::Arc;

use millrace_tags::{DropReason, Gap, Lane, LogKind, Parcel, Records, StreamId, Timebase};

use crate::core::{Core, Request};
use crate::log::{LineKey, Log};
use crate::routes::Routes;
use crate::shared::Shared;
use crate::uplink::{Names, Refused, Uplink};

/// Where an uplink begins that the buffer has never seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With the oldest record that is still there.
    Oldest,
    /// With what is appended from now on.
    Now,
}

/// The name of an offer, valid until it is acked, failed, or the outbox is reconnected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OfferId(pub u64);

/// What the uplink can take now.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    /// Most records that a parcel may have; at least one is given.
    pub records: usize,
    /// Whether backlog may be offered now.
    pub backlog: bool,
}

/// Something to send.
#[derive(Debug, Clone, PartialEq)]
pub struct Offer {
    /// To be given back to [`Outbox::acked`] or [`Outbox::failed`].
    pub id: OfferId,
    /// The lane that it travels in.
    pub lane: Lane,
    /// What to send.
    pub item: Item,
}

/// What is known of a source's numbers in a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KnownLine {
    /// Numbers are given in it now.
    Current {
        /// The last one that was given; 0: none.
        last_seq: u64,
    },
    /// They were, in an earlier run.
    Ended,
    /// Nothing is known of the stream; numbers are given in these.
    Unknown {
        /// The stream of samples.
        samples: StreamId,
        /// The stream of events.
        events: StreamId,
    },
}

/// What an offer holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Item {
    /// Records.
    Parcel(Parcel),
    /// Numbers that will never come.
    Gap(Gap),
}

/// The outbox of one uplink. It does no I/O: what has to come from the disk is read ahead by the
/// buffer's own thread.
///
/// When a second outbox is made for the same uplink, the first one has nothing to offer any more.
pub struct Outbox {
    pub(crate) shared: Arc<Shared>,
    pub(crate) uplink: Arc<str>,
    pub(crate) generation: u64,
}

impl Outbox {
    /// Sets what to call when [`Outbox::next`] came back empty-handed and may now have something.
    ///
    /// It is called on threads that append or commit: it must be quick and must not call the buffer.
    pub fn set_wake(&self, wake: Box<dyn Fn() + Send + Sync>) {
        let mut core = self.shared.lock();
        if let Some(uplink) = self.uplink(&mut core) {
            uplink.wake = Some(wake.into());
        }
    }

    /// Sets which sources the uplink sends, by name. What it does not send is settled at once and counted as
    /// `not-routed`, when its turn comes.
    pub fn set_routes(&self, takes: Box<dyn Fn(&str) -> bool + Send + Sync>) {
        let mut core = self.shared.lock();
        if let Some(uplink) = self.uplink(&mut core) {
            uplink.routes = Routes::new(takes.into());
        }
    }

    /// The next thing to send: owed gaps first, then events, live samples, backlog.
    pub fn next(&mut self, budget: Budget) -> Option<Offer> {
        self.take(budget, false)
    }

    /// The next owed gap or event, of so many records at most; samples wait.
    pub fn next_alarm(&mut self, records: usize) -> Option<Offer> {
        let backlog = false;
        self.take(Budget { records, backlog }, true)
    }

    fn take(&mut self, budget: Budget, alarms_only: bool) -> Option<Offer> {
        let mut core = self.shared.lock();
        let core = &mut *core;
        let uplink = core
            .uplinks
            .get_mut(&self.uplink)
            .filter(|u| u.generation == self.generation)?;
        let names = Names {
            sources: core.registry.sources(),
            tags: core.registry.tags(),
        };
        uplink.routes.learn(&core.registry);
        let records = budget.records.max(1);
        let (alarm, data) = (&core.alarm, &core.data);
        let next = match uplink.next_alarm(alarm, &names, records) {
            None if !alarms_only => uplink.next_samples(data, &names, records, budget.backlog),
            next => next,
        };
        uplink.idle = next.is_none();
        // Ask for the next chunks while the uplink is busy with these.
        let mut ask = uplink.alarm.ask(&core.alarm);
        if budget.backlog {
            ask |= uplink.data.ask(&core.data);
        }
        if ask {
            self.shared.work.notify_one();
        }
        let (id, lane, mut item) = next?;
        match &mut item {
            Item::Gap(gap) => gap.at = gap.at.or_else(|| self.shared.utc()),
            Item::Parcel(parcel) if parcel.timebase.offset_ns.is_none() => {
                // The clock may have come since: then nobody else has said so yet.
                let mut news = core.learn(self.shared.clock.timebase());
                parcel.timebase = core.boots.complete(parcel.timebase);
                if parcel.timebase.offset_ns.is_none()
                    && core.boots.sent_unset(parcel.timebase.boot)
                {
                    core.requests.push_back(Request::Save);
                    news = true;
                }
                if news {
                    self.shared.work.notify_one();
                }
            }
            Item::Parcel(_) => {}
        }
        Some(Offer { id, lane, item })
    }

    /// Boots whose clock became known only after something of them had gone out, its times counted from
    /// the boot.
    pub fn late_clocks(&self) -> Vec<Timebase> {
        self.shared.lock().boots.known_late()
    }

    /// The other side has taken the offer over.
    pub fn acked(&mut self, id: OfferId) {
        self.settle(id, None);
    }

    /// The other side has taken the numbers `first..=last` of an offer of records over. The offer stands for what
    /// comes before them from now on; `Some`: this one stands for what comes after them.
    pub fn acked_part(&mut self, id: OfferId, first: u64, last: u64) -> Option<OfferId> {
        let mut core = self.shared.lock();
        let uplink = self.uplink(&mut core)?;
        uplink.settle_part(id, first, last)
    }

    /// What is known of a line by its names, for whoever acknowledges by number. `None`: there is no such source.
    pub fn line(&self, source: &str, stream: StreamId) -> Option<KnownLine> {
        let core = self.shared.lock();
        let source = core.registry.find(source)?;
        let logs = [&core.data, &core.alarm];
        let given = logs.iter().find(|log| log.writes() == stream);
        let known = |log: &&&Log| {
            log.streams.contains(&stream) || log.ends.keys().any(|(of, _)| *of == stream)
        };
        Some(match given {
            Some(log) => KnownLine::Current {
                last_seq: log.last_of(source),
            },
            None if logs.iter().any(|log| known(&log)) => KnownLine::Ended,
            None => KnownLine::Unknown {
                samples: core.data.writes(),
                events: core.alarm.writes(),
            },
        })
    }

    /// The offer will never be sent: it is settled and counted as dropped with this reason.
    pub fn give_up(&mut self, id: OfferId, reason: DropReason) {
        self.settle(id, Some(reason));
    }

    /// Keeps the first `records` of an offer that holds a parcel; the others are offered again.
    pub fn shorten(&mut self, offer: &mut Offer, records: usize) {
        let Item::Parcel(parcel) = &mut offer.item else {
            return;
        };
        if records == 0 || records >= parcel.records.len() {
            return;
        }
        match &mut parcel.records {
            Records::Samples(samples) => samples.truncate(records),
            Records::Events(events) => events.truncate(records),
        }
        let last = parcel.first_seq + records as u64 - 1;
        let mut core = self.shared.lock();
        if let Some(uplink) = self.uplink(&mut core) {
            uplink.shorten(offer.id, last);
        }
    }

    /// The other side refuses the numbers `first..=last` of the offer: they are set aside, see
    /// [`crate::Buffer::set_aside`]. The other numbers of the offer are offered again.
    ///
    /// Beyond [`crate::SET_ASIDE_MAX`], the oldest that was set aside is given up. A gap that is refused is
    /// taken for told.
    pub fn refused(&mut self, id: OfferId, first: u64, last: u64, reason: &str, tries: u32) {
        let since = self.shared.utc();
        let mut core = self.shared.lock();
        let core = &mut *core;
        core.last_aside += 1;
        let refused = Refused {
            id: core.last_aside,
            first,
            last,
            reason: reason.to_owned(),
            tries,
            since,
        };
        let Some(uplink) = core
            .uplinks
            .get_mut(&self.uplink)
            .filter(|u| u.generation == self.generation)
        else {
            return;
        };
        if uplink.set_aside(id, refused).is_none() {
            return;
        }
        if let Some(surplus) = uplink.aside.surplus() {
            core.discard(&self.uplink, &surplus, since);
        }
        core.requests.push_back(Request::Save);
        self.shared.work.notify_one();
    }

    /// The other side takes nothing of the offer's source: all of the offer is set aside untried, in one row
    /// of [`crate::Buffer::set_aside`] for each source and stream, until [`Outbox::release`] or a command
    /// takes it from there. With `gather`, what was refused of the source in several tries joins it.
    pub fn withhold(&mut self, id: OfferId, reason: &str, gather: bool) {
        let since = self.shared.utc();
        let mut core = self.shared.lock();
        let core = &mut *core;
        core.last_aside += 1;
        let refused = Refused {
            id: core.last_aside,
            first: 0,
            last: u64::MAX,
            reason: reason.to_owned(),
            tries: 0,
            since,
        };
        let withheld = match core.uplinks.get_mut(&self.uplink) {
            Some(uplink) if uplink.generation == self.generation => {
                uplink.withhold(id, refused, gather)
            }
            _ => None,
        };
        // What joins a row is saved with the next state: a crash before that only has it offered again.
        if withheld == Some(true) {
            core.requests.push_back(Request::Save);
            self.shared.work.notify_one();
        }
    }

    /// Whether something is withheld of the source and stream of an offer.
    pub fn withholds(&self, id: OfferId) -> bool {
        let mut core = self.shared.lock();
        let uplink = self.uplink(&mut core);
        uplink.is_some_and(|uplink| uplink.withholds(id))
    }

    /// Of which sources something is withheld, an earlier run's included.
    pub fn withheld(&self) -> Vec<(LogKind, Arc<str>)> {
        let core = self.shared.lock();
        let Some(uplink) = core.uplinks.get(&self.uplink) else {
            return Vec::new();
        };
        let rows = uplink.aside.iter().filter(|aside| aside.is_withheld());
        rows.filter_map(|row| Some((row.log, core.registry.name(row.line.source)?.clone())))
            .collect()
    }

    /// The other side takes the source again: what was withheld of it is offered.
    pub fn release(&mut self, log: LogKind, source: &str) {
        let mut core = self.shared.lock();
        let Core {
            alarm,
            data,
            uplinks,
            registry,
            requests,
            ..
        } = &mut *core;
        let uplink = uplinks
            .get_mut(&self.uplink)
            .filter(|u| u.generation == self.generation);
        let Some(uplink) = uplink else {
            return;
        };
        let of_source = |line: LineKey| registry.name(line.source).is_some_and(|n| **n == *source);
        let rows: Vec<u64> = uplink
            .aside
            .iter()
            .filter(|row| row.is_withheld() && row.log == log && of_source(row.line))
            .map(|row| row.id)
            .collect();
        for id in rows {
            if let Some(row) = uplink.aside.take(id) {
                let log = match log {
                    LogKind::Alarm => &*alarm,
                    LogKind::Data => &*data,
                };
                uplink.retry(&row, log);
                requests.push_back(Request::Save);
            }
        }
        self.shared.work.notify_one();
    }

    fn settle(&self, id: OfferId, given_up: Option<DropReason>) {
        let mut core = self.shared.lock();
        if let Some(uplink) = self.uplink(&mut core) {
            uplink.settle(id, given_up);
        }
    }

    /// The offer could not be sent: it is offered again.
    pub fn failed(&mut self, id: OfferId) {
        let mut core = self.shared.lock();
        if let Some(uplink) = self.uplink(&mut core) {
            uplink.failed(id);
        }
    }

    /// There is a new connection: everything that is not acked is offered again, what is already
    /// committed as backlog. Offers made before are void.
    pub fn reconnected(&mut self) {
        let mut core = self.shared.lock();
        let core = &mut *core;
        if let Some(uplink) = core
            .uplinks
            .get_mut(&self.uplink)
            .filter(|u| u.generation == self.generation)
        {
            uplink.restart(&core.alarm, &core.data);
        }
    }

    fn uplink<'a>(&self, core: &'a mut Core) -> Option<&'a mut Uplink> {
        core.uplinks
            .get_mut(&self.uplink)
            .filter(|u| u.generation == self.generation)
    }
}
