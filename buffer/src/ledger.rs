//! The ledger: `acquired = acked + queued + dropped`, for each source and uplink.

use std::collections::BTreeMap;

use millrace_tags::DropReason;
use serde::{Serialize, Serializer};

/// All reasons, in the order of [`Counts::dropped`].
const REASONS: [DropReason; 9] = [
    DropReason::Crash,
    DropReason::Full,
    DropReason::Age,
    DropReason::Newest,
    DropReason::Damage,
    DropReason::Purged,
    DropReason::Poison,
    DropReason::BeforeStart,
    DropReason::NotRouted,
];

/// The balance of everything the buffer ever took.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Ledger {
    /// Samples by device or model: the row of the uplink that is furthest behind.
    pub devices: BTreeMap<String, Row>,
    /// Events by device or model, likewise.
    pub events: BTreeMap<String, Row>,
    /// The rows of each uplink.
    pub uplinks: BTreeMap<String, UplinkLedger>,
}

/// The balance of one uplink.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct UplinkLedger {
    /// Samples by device or model.
    pub devices: BTreeMap<String, Row>,
    /// Events by device or model.
    pub events: BTreeMap<String, Row>,
}

/// The balance of one source: `acquired = acked + queued + dropped`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Row {
    /// Numbers given.
    pub acquired: u64,
    /// Records that the uplink has taken over.
    pub acked: u64,
    /// Records that wait.
    pub queued: u64,
    /// Numbers that will never come, by reason.
    #[serde(serialize_with = "by_name")]
    pub dropped: BTreeMap<DropReason, u64>,
}

impl Row {
    /// Whether the row adds up.
    pub fn balances(&self) -> bool {
        let dropped: u64 = self.dropped.values().sum();
        self.acquired == self.acked + self.queued + dropped
    }
}

fn by_name<S: Serializer>(
    dropped: &BTreeMap<DropReason, u64>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(dropped.iter().map(|(reason, count)| (reason.name(), count)))
}

/// Counts by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Dropped([u64; REASONS.len()]);

impl Dropped {
    pub(crate) fn add(&mut self, reason: DropReason, count: u64) {
        let at = REASONS.iter().position(|r| *r == reason).unwrap_or(0);
        self.0[at] = self.0[at].saturating_add(count);
    }

    pub(crate) fn of(&self, reason: DropReason) -> u64 {
        let at = REASONS.iter().position(|r| *r == reason);
        at.map_or(0, |at| self.0[at])
    }

    pub(crate) fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// What is not zero.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        REASONS
            .iter()
            .copied()
            .zip(self.0)
            .filter(|(_, count)| *count > 0)
    }
}

/// What all uplinks share of a source's balance.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Totals {
    /// Records that were appended.
    pub(crate) records: u64,
    /// Records whose chunks are removed.
    pub(crate) removed: u64,
    /// Of these: removed for a reason while there was no uplink that could have sent them.
    pub(crate) unsent: Dropped,
    /// Numbers without a record, by reason.
    pub(crate) voids: Dropped,
    /// Voids whose chunks are removed: kept apart because the state file keeps them.
    pub(crate) removed_voids: Dropped,
}

/// One uplink's running counts of a source.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) acked: u64,
    pub(crate) queued: u64,
    /// Records that this uplink will not get.
    pub(crate) dropped: Dropped,
}

impl Counts {
    /// The row of the source for this uplink.
    pub(crate) fn row(&self, totals: &Totals) -> Row {
        let mut dropped = BTreeMap::new();
        for (reason, count) in totals.voids.iter().chain(self.dropped.iter()) {
            *dropped.entry(reason).or_default() += count;
        }
        Row {
            acquired: totals.records + totals.voids.total(),
            acked: self.acked,
            queued: self.queued,
            dropped,
        }
    }
}
