//! What is known of numbers whose chunks are not settled yet.

use std::collections::BTreeMap;

use millrace_tags::DropReason;

use crate::log::LineKey;
use crate::ranges::Ranges;

/// What is known of a line's numbers in chunks that are not settled.
#[derive(Default)]
pub(super) struct Marks {
    /// Acked, or given up.
    pub(super) acked: Ranges,
    /// Acked or in flight.
    pub(super) taken: Ranges,
    /// Of the acked: given up, by reason.
    pub(super) given_up: BTreeMap<DropReason, Ranges>,
}

impl Marks {
    /// Their chunk is settled, or gone.
    pub(super) fn forget(&mut self, first: u64, last: u64) {
        self.acked.remove(first, last);
        self.taken.remove(first, last);
        self.forget_given_up(first, last);
    }

    /// They are counted for good: a restart will not offer them again.
    pub(super) fn forget_given_up(&mut self, first: u64, last: u64) {
        for ranges in self.given_up.values_mut() {
            ranges.remove(first, last);
        }
    }
}

/// A chunk that is being delivered.
pub(super) struct Pending {
    pub(super) last: u64,
    /// By line and first number.
    pub(super) entries: Vec<(LineKey, u64, u64)>,
    /// Numbers that are not acked.
    pub(super) remaining: u64,
}

impl Pending {
    /// How many of these numbers the chunk holds.
    pub(super) fn overlap(&self, line: LineKey, first: u64, last: u64) -> u64 {
        let from = self
            .entries
            .partition_point(|&(l, _, b)| (l, b) < (line, first));
        self.entries[from..]
            .iter()
            .take_while(|&&(l, a, _)| l == line && a <= last)
            .map(|&(_, a, b)| b.min(last).saturating_sub(a.max(first)) + 1)
            .sum()
    }
}
