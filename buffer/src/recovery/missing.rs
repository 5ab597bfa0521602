//! Chunks that neither an epoch nor the state accounts for: which numbers they held, and who is owed.

use std::collections::{BTreeMap, HashMap};

use millrace_tags::{DropReason, SourceId};

use super::{FoundEpoch, LogRecovery, table};
use crate::core::Core;
use crate::epoch::StoreError;
use crate::log::LineKey;
use crate::ranges::Ranges;
use crate::uplink::Directory;

impl LogRecovery<'_> {
    /// Chunk numbers that neither an epoch nor the state accounts for.
    pub(super) fn missing_chunks(
        &mut self,
        core: &Core,
        epochs: &[FoundEpoch],
    ) -> Result<Ranges, StoreError> {
        let mut present = core.log(self.kind).removed.clone();
        for epoch in epochs {
            let summary = &epoch.summary;
            if summary.chunks == summary.last - summary.first + 1 && epoch.lost.is_empty() {
                present.insert(summary.first, summary.last);
                continue;
            }
            for chunk in table(epoch, self.kind)? {
                present.insert(chunk.number, chunk.last_number());
            }
        }
        let begin = match (self.state_known, epochs.first()) {
            (true, _) => 1,
            (false, Some(oldest)) => oldest.summary.first,
            (false, None) => return Ok(Ranges::default()),
        };
        let end = epochs.last().map_or(0, |e| e.summary.last);
        let end = end.max(self.witnessed_last());
        let mut missing = Ranges::default();
        for (first, last) in present.free(begin, end.max(begin)) {
            if last <= end {
                missing.insert(first, last);
            }
        }
        Ok(missing)
    }

    /// Counts and announces what missing chunks held, as far as the numbers around them tell.
    pub(super) fn account_for_missing(
        &mut self,
        core: &mut Core,
        epochs: &[FoundEpoch],
        missing: &Ranges,
    ) -> Result<Vec<(LineKey, u64, u64)>, StoreError> {
        let kind = self.kind;
        let holes = self.holes(core, epochs)?;
        let (low, high) = (
            missing.iter().next().map_or(1, |r| r.0),
            missing.iter().last().map_or(1, |r| r.1),
        );
        // The lost chunks are treated as one: which of them held which numbers is not known.
        let entries = holes.iter().map(|&(l, a, b)| (l, a, b, None)).collect();
        let lost = Directory {
            number: low,
            last: high,
            entries,
        };
        for &(line, first, last) in &holes {
            let count = last - first + 1;
            core.log_mut(kind).totals(line.source).records += count;
            for uplink in core.uplinks.values_mut() {
                let reader = uplink.reader_mut(kind);
                let settled = missing.iter().all(|(a, b)| reader.settled.covers(a, b));
                let counts = reader.counts(line.source);
                match settled {
                    true => counts.acked += count,
                    false => counts.queued += count,
                }
            }
        }
        let before = core.log(kind).removed.clone();
        let settled_before: Vec<Ranges> = core
            .uplinks
            .values()
            .map(|u| u.reader(kind).settled.clone())
            .collect();
        // `lose_chunk` asks whether the uplink has settled the whole range.
        for (uplink, settled) in core.uplinks.values_mut().zip(&settled_before) {
            if missing.iter().all(|(a, b)| settled.covers(a, b)) {
                uplink.reader_mut(kind).settled.insert(low, high);
            }
        }
        core.lose_chunk(kind, &lost, Some(DropReason::Damage), self.at);
        for (uplink, settled) in core.uplinks.values_mut().zip(settled_before) {
            uplink.reader_mut(kind).settled = settled;
        }
        let log = core.log_mut(kind);
        log.removed = before;
        log.removed.union(missing);
        self.recovery.note(format!(
            "{} chunks of the {} log are missing; {} numbers are lost",
            missing.count(),
            kind.name(),
            holes.iter().map(|h| h.2 - h.1 + 1).sum::<u64>()
        ));
        Ok(holes)
    }

    /// Numbers below each line's end that no chunk holds.
    pub(super) fn holes(
        &self,
        core: &mut Core,
        epochs: &[FoundEpoch],
    ) -> Result<Vec<(LineKey, u64, u64)>, StoreError> {
        let mut held: BTreeMap<LineKey, (Ranges, u64)> = BTreeMap::new();
        let log = core.log_mut(self.kind);
        let ends: Vec<_> = log.ends.iter().map(|(k, e)| (*k, *e)).collect();
        let gone = log.gone.clone();
        for ((id, source), end) in ends {
            let stream = log.stream(id);
            let line = held.entry(LineKey { stream, source }).or_default();
            if let Some(gone) = gone.get(&(id, source)) {
                line.0.union(gone);
            }
            line.1 = line.1.max(end);
        }
        for epoch in epochs {
            let names = names_of(core, epoch);
            for line in &epoch.summary.lines {
                let Some(source) = names.get(&line.source).copied() else {
                    continue;
                };
                let stream = core.log_mut(self.kind).stream(line.stream);
                let fresh = !held.contains_key(&LineKey { stream, source });
                let entry = held.entry(LineKey { stream, source }).or_default();
                if fresh && !self.state_known {
                    // What lies before the oldest epoch is unknown without the state.
                    entry.0.insert(1, line.base);
                }
                entry.1 = entry.1.max(line.end);
            }
            for chunk in table(epoch, self.kind)? {
                let stream = core.log_mut(self.kind).stream(chunk.stream);
                for entry in &chunk.entries {
                    let Some(source) = names.get(&entry.source).copied() else {
                        continue;
                    };
                    let line = held.entry(LineKey { stream, source }).or_default();
                    line.0.insert(entry.first, entry.last());
                    line.1 = line.1.max(entry.last());
                }
            }
        }
        let mut holes = Vec::new();
        for (line, (numbers, end)) in held {
            if end > 0 {
                holes.extend(numbers.free(1, end).into_iter().map(|(a, b)| (line, a, b)));
            }
        }
        Ok(holes)
    }
}

fn names_of(core: &Core, epoch: &FoundEpoch) -> HashMap<SourceId, SourceId> {
    let lines = epoch.summary.lines.iter();
    lines
        .filter_map(|l| Some((l.source, core.registry.find(&l.name)?)))
        .collect()
}
