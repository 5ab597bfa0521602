//! The counts after opening: from the state file for what is removed, from the epochs for the rest.

use millrace_tags::{LogKind, SourceId, SourceKind};

use super::{FoundEpoch, LogRecovery, source_of, table};
use crate::core::Core;
use crate::epoch::StoreError;
use crate::log::LineKey;
use crate::manifest::Line;
use crate::owed::Owed;
use crate::ranges::Ranges;
use crate::retention::covered;
use crate::uplink::Uplink;

impl LogRecovery<'_> {
    /// What the state file says of removed chunks and of uplinks.
    pub(super) fn restore_counts(&mut self, core: &mut Core) {
        let saved = self.state.log(self.kind);
        for (name, removed) in &saved.sources {
            let source = core.registry.source(name, SourceKind::Device);
            let totals = core.log_mut(self.kind).totals(source);
            totals.records += removed.records;
            totals.removed += removed.records;
            for (reason, count) in &removed.unsent {
                totals.unsent.add(*reason, *count);
            }
            for (reason, count) in &removed.voids {
                totals.voids.add(*reason, *count);
                totals.removed_voids.add(*reason, *count);
            }
        }
        for end in &saved.ends {
            let source = core.registry.source(&end.source, SourceKind::Device);
            let log = core.log_mut(self.kind);
            log.ends.insert((end.stream, source), end.end);
            log.gone.insert((end.stream, source), end.numbers.clone());
        }
        core.last_aside = self.state.last_aside;
        for (name, saved) in &self.state.uplinks {
            let name: std::sync::Arc<str> = name.as_str().into();
            let uplink = core
                .uplinks
                .entry(name)
                .or_insert_with(|| Uplink::owing(Owed::restore(saved.owed.clone())));
            let log = saved.log(self.kind);
            let mut refused = Vec::new();
            for one in &log.refused {
                let source = core.registry.source(&one.source, SourceKind::Device);
                let log = match self.kind {
                    LogKind::Alarm => &mut core.alarm,
                    LogKind::Data => &mut core.data,
                };
                let stream = log.stream(one.stream);
                refused.push((LineKey { stream, source }, one));
            }
            let reader = uplink.reader_mut(self.kind);
            for (line, one) in refused {
                for (first, last) in one.numbers.clone().repaired().iter() {
                    reader.refused.insert(line, one.reason, first, last);
                }
            }
            reader.begins = log.begins;
            reader.settled = log.settled.clone();
            for (source, dropped) in &log.dropped {
                let source = core.registry.source(source, SourceKind::Device);
                for (reason, count) in dropped {
                    reader.counts(source).dropped.add(*reason, *count);
                }
            }
        }
    }

    /// Adds what the epochs hold to the counts.
    pub(super) fn count_epochs(
        &mut self,
        core: &mut Core,
        epochs: &[FoundEpoch],
    ) -> Result<(), StoreError> {
        for epoch in epochs {
            let (first, last) = (epoch.summary.first, epoch.summary.last);
            let removed = core.log(self.kind).removed.clone();
            let nothing = Ranges::default();
            let whole = removed.within(first, last).next().is_none();
            let mut sets = vec![(None, &nothing)];
            sets.extend(self.state.uplinks.iter().map(|(name, uplink)| {
                let settled = &uplink.log(self.kind).settled;
                (Some(name.clone()), settled)
            }));
            for (uplink, settled) in sets {
                let lines = if whole && settled.within(first, last).next().is_none() {
                    epoch.summary.lines.clone()
                } else if covered(settled, &removed, first, last) {
                    continue;
                } else {
                    lines_without(epoch, self.kind, settled, &removed)?
                };
                self.count_lines(core, uplink.as_deref(), &lines);
            }
        }
        for name in self.state.uplinks.keys() {
            self.count_acked(core, name);
        }
        Ok(())
    }

    pub(super) fn count_lines(&self, core: &mut Core, uplink: Option<&str>, lines: &[Line]) {
        for line in lines {
            let Some(source) = source_of(core, line) else {
                continue;
            };
            match uplink {
                None => {
                    let totals = core.log_mut(self.kind).totals(source);
                    totals.records += line.records;
                    for (reason, count) in &line.voids {
                        totals.voids.add(*reason, *count);
                    }
                }
                Some(name) => {
                    if let Some(uplink) = core.uplinks.get_mut(name) {
                        uplink.reader_mut(self.kind).counts(source).queued += line.records;
                    }
                }
            }
        }
    }

    /// What is neither queued nor dropped was acked.
    pub(super) fn count_acked(&self, core: &mut Core, uplink: &str) {
        let totals = core.log(self.kind).totals.clone();
        let Some(uplink) = core.uplinks.get_mut(uplink) else {
            return;
        };
        let reader = uplink.reader_mut(self.kind);
        for (source, totals) in (0u32..).map(SourceId).zip(totals) {
            let counts = reader.counts(source);
            let rest = counts.queued + counts.dropped.total();
            counts.acked = totals.records.saturating_sub(rest);
        }
    }
}

/// The sums over the chunks that are in neither set.
fn lines_without(
    epoch: &FoundEpoch,
    kind: LogKind,
    settled: &Ranges,
    removed: &Ranges,
) -> Result<Vec<Line>, StoreError> {
    let mut lines: Vec<Line> = epoch.summary.lines.clone();
    for line in &mut lines {
        line.records = 0;
        line.voids.clear();
    }
    for chunk in table(epoch, kind)? {
        if covered(settled, removed, chunk.number, chunk.last_number()) {
            continue;
        }
        for entry in &chunk.entries {
            let line = lines
                .iter_mut()
                .find(|l| l.stream == chunk.stream && l.source == entry.source);
            let Some(line) = line else { continue };
            match entry.void {
                None => line.records += entry.count,
                Some(reason) => line.voids.push((reason, entry.count)),
            }
        }
    }
    Ok(lines)
}
