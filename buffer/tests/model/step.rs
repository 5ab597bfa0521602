//! What can happen to a buffer, and how often.

use std::path::Path;
use std::time::Duration;

use millrace_buffer::{Settings, WhenFull};
use millrace_tags::LogKind;
use proptest::prelude::*;
use proptest::sample::Index;

pub(crate) const SOURCES: usize = 3;
pub(crate) const UPLINKS: usize = 3;

/// Numbers of uplinks; the first one is never removed.
pub(crate) type Peer = usize;

#[derive(Debug, Clone)]
pub(crate) enum Step {
    Append {
        source: usize,
        count: u64,
        held: bool,
    },
    Events {
        source: usize,
        count: u64,
    },
    Commit,
    Take {
        peer: Peer,
        offers: u64,
        records: usize,
        backlog: bool,
        /// Takes no more than this of each.
        shorten: Option<usize>,
    },
    Ack(Peer, Index),
    AckAll(Peer),
    Fail(Peer, Index),
    GiveUp(Peer, Index),
    /// The other side refuses a part of an offer.
    Refuse(Peer, Index, u64, u64),
    Retry(Index),
    Discard(Index),
    Reconnect(Peer),
    /// Another outbox of the same uplink.
    Attach(Peer),
    Add {
        peer: Peer,
        oldest: bool,
    },
    Remove(Peer),
    /// From now on without this source.
    Route(Peer, usize),
    Replay {
        peer: Option<Peer>,
        source: usize,
        log: LogKind,
        first: u64,
        count: u64,
    },
    ReplaySince {
        peer: Option<Peer>,
        minutes: u64,
    },
    Purge {
        log: Option<LogKind>,
        minutes: Option<u64>,
    },
    Look(LogKind),
    Pass(Duration),
    /// Sets or steps the wall clock, by hours.
    SetClock(i64),
    Restart {
        crash: bool,
        /// `Some`: of the machine, with its clock set or not.
        reboot: Option<bool>,
        setup: Setup,
    },
}

/// Settings of one run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setup {
    pub(crate) room: Room,
    pub(crate) keep: Duration,
    pub(crate) max_age: Option<Duration>,
    pub(crate) when_full: WhenFull,
    pub(crate) alarm_when_full: WhenFull,
    /// Small chunks are merged as soon as they can be.
    pub(crate) rechunk: bool,
}

/// How much fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    /// Everything, in few epochs.
    Plenty,
    /// Everything, in one epoch for each commit.
    ManyEpochs,
    /// Some ten epochs, one for each commit.
    Little,
}

impl Setup {
    /// Whether nothing is ever removed.
    pub(crate) fn keeps_all(&self) -> bool {
        self.room != Room::Little && self.max_age.is_none() && self.keep > Duration::ZERO
    }

    pub(crate) fn settings(&self, dir: &Path) -> Settings {
        let (max_bytes, epoch_bytes) = match self.room {
            Room::Plenty => (1 << 30, 600 * 1024),
            Room::ManyEpochs => (1 << 30, 1),
            Room::Little => (480 * 1024, 1),
        };
        Settings {
            commit_interval: Duration::from_secs(3600),
            max_bytes,
            when_full: self.when_full,
            alarm_when_full: self.alarm_when_full,
            alarm_max_bytes: Some(max_bytes / 4),
            max_age: self.max_age,
            keep: self.keep,
            epoch_bytes,
            rechunk_interval: match self.rechunk {
                true => Duration::ZERO,
                false => HOUR,
            },
            ..Settings::new(dir)
        }
    }
}

const HOUR: Duration = Duration::from_secs(3600);

pub(crate) fn setup() -> impl Strategy<Value = Setup> {
    let when_full = || {
        prop_oneof![
            Just(WhenFull::DropOldest),
            Just(WhenFull::DropNewest),
            Just(WhenFull::Block)
        ]
    };
    let room = prop_oneof![
        1 => Just(Room::Plenty),
        1 => Just(Room::ManyEpochs),
        2 => Just(Room::Little)
    ];
    let keep = prop_oneof![Just(Duration::ZERO), Just(HOUR), Just(24 * HOUR)];
    let max_age = prop_oneof![3 => Just(None), 1 => Just(Some(2 * HOUR))];
    (room, keep, max_age, when_full(), when_full(), any::<bool>()).prop_map(
        |(room, keep, max_age, when_full, alarm_when_full, rechunk)| Setup {
            room,
            keep,
            max_age,
            when_full,
            alarm_when_full,
            rechunk,
        },
    )
}

pub(crate) fn step() -> impl Strategy<Value = Step> {
    let peer = || 0..UPLINKS;
    let source = || 0..SOURCES;
    let index = any::<Index>;
    let log = || prop_oneof![Just(LogKind::Data), Just(LogKind::Alarm)];
    let records = || prop_oneof![1usize..20, Just(500)];
    prop_oneof![
        20 => (source(), 1u64..300, any::<bool>())
            .prop_map(|(source, count, held)| Step::Append { source, count, held }),
        6 => (source(), 1u64..6).prop_map(|(source, count)| Step::Events { source, count }),
        16 => Just(Step::Commit),
        14 => (peer(), 1u64..8, records(), prop::bool::weighted(0.8), prop::option::weighted(0.2, 1usize..30))
            .prop_map(|(peer, offers, records, backlog, shorten)| Step::Take {
                peer, offers, records, backlog, shorten
            }),
        8 => (peer(), index()).prop_map(|(peer, at)| Step::Ack(peer, at)),
        8 => peer().prop_map(Step::AckAll),
        3 => (peer(), index()).prop_map(|(peer, at)| Step::Fail(peer, at)),
        1 => (peer(), index()).prop_map(|(peer, at)| Step::GiveUp(peer, at)),
        3 => (peer(), index(), 0u64..300, 1u64..40)
            .prop_map(|(peer, at, from, count)| Step::Refuse(peer, at, from, count)),
        2 => index().prop_map(Step::Retry),
        2 => index().prop_map(Step::Discard),
        2 => peer().prop_map(Step::Reconnect),
        1 => peer().prop_map(Step::Attach),
        2 => (1..UPLINKS, any::<bool>()).prop_map(|(peer, oldest)| Step::Add { peer, oldest }),
        1 => (1..UPLINKS).prop_map(Step::Remove),
        1 => (1..UPLINKS, source()).prop_map(|(peer, source)| Step::Route(peer, source)),
        4 => (prop::option::of(peer()), source(), log(), 1u64..600, 1u64..600)
            .prop_map(|(peer, source, log, first, count)| Step::Replay {
                peer, source, log, first, count
            }),
        1 => (prop::option::of(peer()), 0u64..300)
            .prop_map(|(peer, minutes)| Step::ReplaySince { peer, minutes }),
        1 => (prop::option::of(log()), prop::option::of(0u64..300))
            .prop_map(|(log, minutes)| Step::Purge { log, minutes }),
        2 => log().prop_map(Step::Look),
        4 => (1u64..90).prop_map(|minutes| Step::Pass(Duration::from_secs(60 * minutes))),
        1 => (-3i64..20).prop_map(Step::SetClock),
        5 => (any::<bool>(), prop::option::weighted(0.4, any::<bool>()), setup())
            .prop_map(|(crash, reboot, setup)| Step::Restart { crash, reboot, setup }),
    ]
}
