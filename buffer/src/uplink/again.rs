//! Numbers that an uplink has settled and gets again; numbers that it has given up and never gets.

use std::collections::{BTreeMap, HashMap};

use millrace_tags::DropReason;

use super::Directory;
use super::reader::Reader;
use crate::log::LineKey;
use crate::ranges::Ranges;
use crate::replay::Part;

/// Records of settled chunks that the uplink has given up, so that a replay does not bring them.
#[derive(Default)]
pub(crate) struct Refused(HashMap<LineKey, BTreeMap<DropReason, Ranges>>);

impl Refused {
    pub(crate) fn insert(&mut self, line: LineKey, reason: DropReason, first: u64, last: u64) {
        let by_reason = self.0.entry(line).or_default();
        by_reason.entry(reason).or_default().insert(first, last);
    }

    /// Takes numbers out of the set, by reason.
    fn take(&mut self, line: LineKey, first: u64, last: u64) -> Vec<(DropReason, u64, u64)> {
        let Some(by_reason) = self.0.get_mut(&line) else {
            return Vec::new();
        };
        let mut taken = Vec::new();
        for (reason, numbers) in by_reason.iter_mut() {
            taken.extend(numbers.within(first, last).map(|(a, b)| (*reason, a, b)));
            numbers.remove(first, last);
        }
        by_reason.retain(|_, numbers| !numbers.is_empty());
        if by_reason.is_empty() {
            self.0.remove(&line);
        }
        taken
    }

    /// The chunk is gone.
    pub(super) fn forget(&mut self, chunk: &Directory) {
        if self.0.is_empty() {
            return;
        }
        for &(line, first, last, _) in &chunk.entries {
            self.take(line, first, last);
        }
    }

    /// Every set, by line and reason.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (LineKey, DropReason, &Ranges)> {
        let lines = self.0.iter();
        lines.flat_map(|(line, by_reason)| by_reason.iter().map(|(r, n)| (*line, *r, n)))
    }

    /// The parts of `first..=last` that are not in it.
    fn without(&self, line: LineKey, first: u64, last: u64) -> Vec<(u64, u64)> {
        let mut refused = Ranges::default();
        for numbers in self.0.get(&line).into_iter().flat_map(BTreeMap::values) {
            for (a, b) in numbers.within(first, last) {
                refused.insert(a, b);
            }
        }
        refused.free(first, last)
    }
}

impl Reader {
    /// Puts the acked ones of these numbers of a chunk back into the queue. Returns them, and those of the
    /// others that still wait to be sent.
    pub(crate) fn replay(&mut self, chunk: &Directory, parts: &[Part]) -> (Vec<Part>, Vec<Part>) {
        if self.settled.covers(chunk.number, chunk.last) {
            let has = |&(line, a, b): &Part| !self.refused.without(line, a, b).is_empty();
            if chunk.last <= self.begins || !parts.iter().any(has) {
                return (Vec::new(), Vec::new());
            }
            self.unsettle(chunk);
        }
        let (mut again, mut waiting) = (Vec::new(), Vec::new());
        for &(line, a, b) in parts {
            let Some(marks) = self.marks.get_mut(&line) else {
                waiting.push((line, a, b));
                continue;
            };
            waiting.extend(
                marks
                    .acked
                    .free(a, b)
                    .into_iter()
                    .map(|(a, b)| (line, a, b)),
            );
            let mut acked = Ranges::default();
            for (a, b) in marks.acked.within(a, b) {
                acked.insert(a, b);
            }
            for refused in marks.given_up.values() {
                for (a, b) in refused.within(a, b) {
                    acked.remove(a, b);
                }
            }
            for (a, b) in acked.iter() {
                marks.acked.remove(a, b);
                marks.taken.remove(a, b);
                again.push((line, a, b));
            }
            let counts = self.counts(line.source);
            counts.acked = counts.acked.saturating_sub(acked.count());
            counts.queued += acked.count();
        }
        self.pending.remove(&chunk.number);
        self.track(chunk, true);
        self.read_again_from(chunk.number);
        (again, waiting)
    }

    /// A settled chunk is one that is being delivered again, with all its numbers acked.
    fn unsettle(&mut self, chunk: &Directory) {
        self.settled.remove(chunk.number, chunk.last);
        self.in_tail.remove(&chunk.number);
        for &(line, first, last, _) in &chunk.entries {
            let marks = self.marks.entry(line).or_default();
            marks.acked.insert(first, last);
            marks.taken.insert(first, last);
            for (reason, a, b) in self.refused.take(line, first, last) {
                marks.given_up.entry(reason).or_default().insert(a, b);
            }
        }
    }
}
