//! What uplinks had set aside or given up in chunks that are not settled.

use millrace_tags::{SourceId, StreamId};

use super::{FoundEpoch, LogRecovery, source_of, table};
use crate::aside::Aside;
use crate::core::Core;
use crate::epoch::StoreError;
use crate::log::LineKey;
use crate::ranges::Ranges;
use crate::retention::covered;

/// Numbers of a line.
struct Wanted<'a> {
    stream: StreamId,
    source: SourceId,
    numbers: &'a Ranges,
}

impl LogRecovery<'_> {
    /// Takes over what the state says was set aside or given up as poison, as far as it is still queued:
    /// files may have been lost since.
    pub(super) fn restore_aside(
        &self,
        core: &mut Core,
        epochs: &[FoundEpoch],
    ) -> Result<(), StoreError> {
        for (name, saved) in &self.state.uplinks {
            let settled = &saved.log(self.kind).settled;
            for saved in saved.aside.iter().filter(|a| a.log == self.kind) {
                let numbers = saved.numbers.clone().repaired();
                let found =
                    self.queued(core, epochs, settled, saved.stream, &saved.source, &numbers)?;
                let Some((line, numbers)) = found else {
                    continue;
                };
                if let Some(uplink) = core.uplinks.get_mut(name.as_str()) {
                    uplink.aside.push(Aside {
                        id: saved.id,
                        log: self.kind,
                        line,
                        numbers,
                        reason: saved.reason.clone(),
                        tries: saved.tries,
                        since: saved.since,
                    });
                }
            }
            for saved in &saved.log(self.kind).poison {
                let numbers = saved.numbers.clone().repaired();
                let found =
                    self.queued(core, epochs, settled, saved.stream, &saved.source, &numbers)?;
                let Some((line, numbers)) = found else {
                    continue;
                };
                if let Some(uplink) = core.uplinks.get_mut(name.as_str()) {
                    for (first, last) in numbers.iter() {
                        uplink
                            .reader_mut(self.kind)
                            .restore_poison(line, first, last);
                    }
                }
            }
        }
        Ok(())
    }

    /// Which of the numbers are records of chunks that are not settled.
    fn queued(
        &self,
        core: &mut Core,
        epochs: &[FoundEpoch],
        settled: &Ranges,
        stream: StreamId,
        source: &str,
        numbers: &Ranges,
    ) -> Result<Option<(LineKey, Ranges)>, StoreError> {
        let Some(source) = core.registry.find(source) else {
            return Ok(None);
        };
        let wanted = Wanted {
            stream,
            source,
            numbers,
        };
        let mut queued = Ranges::default();
        for epoch in epochs {
            self.queued_in(core, epoch, settled, &wanted, &mut queued)?;
        }
        let stream = core.log_mut(self.kind).stream(stream);
        Ok((!queued.is_empty()).then_some((LineKey { stream, source }, queued)))
    }

    fn queued_in(
        &self,
        core: &Core,
        epoch: &FoundEpoch,
        settled: &Ranges,
        wanted: &Wanted<'_>,
        queued: &mut Ranges,
    ) -> Result<(), StoreError> {
        let line = epoch.summary.lines.iter().find(|line| {
            line.stream == wanted.stream
                && source_of(core, line) == Some(wanted.source)
                && wanted
                    .numbers
                    .within(line.base + 1, line.end)
                    .next()
                    .is_some()
        });
        let Some(line) = line else { return Ok(()) };
        let removed = &core.log(self.kind).removed;
        for chunk in table(epoch, self.kind)? {
            if chunk.stream != wanted.stream
                || covered(settled, removed, chunk.number, chunk.last_number())
            {
                continue;
            }
            let records = chunk.entries.iter().filter(|e| e.void.is_none());
            for entry in records.filter(|e| e.source == line.source) {
                for (first, last) in wanted.numbers.within(entry.first, entry.last()) {
                    queued.insert(first, last);
                }
            }
        }
        Ok(())
    }
}
