//! Where each number line goes on after opening.

use std::collections::{HashMap, VecDeque};

use millrace_tags::{DropReason, SourceId, StreamId};
use uuid::Uuid;

use super::{FoundEpoch, LogRecovery, source_of};
use crate::core::Core;
use crate::epoch::sealed_bytes;
use crate::owed::OwedKey;
use crate::ranges::Ranges;
use crate::store::{LogStore, Sealed};

impl LogRecovery<'_> {
    /// Decides where each line goes on: in the stream of the newest chunk, or in a new one.
    pub(super) fn place_lines(
        &mut self,
        core: &mut Core,
        epochs: &[FoundEpoch],
        missing: &Ranges,
    ) -> LogStore {
        let kind = self.kind;
        let sealed: VecDeque<Sealed> = epochs
            .iter()
            .map(|e| Sealed::of(&e.summary, sealed_bytes(&e.dir)))
            .collect();
        let mut store = LogStore::new(kind, self.dir.clone(), sealed);
        let newest = epochs.last();
        let found_last = newest.map_or(0, |e| e.summary.last);
        let saved_last = self.witnessed_last();
        let removed_last = core.log(kind).removed.iter().last().map_or(0, |r| r.1);
        let known_last = found_last.max(saved_last).max(removed_last);
        core.log_mut(kind).last_chunk = known_last;
        for uplink in core.uplinks.values_mut() {
            uplink.reader_mut(kind).live = 1;
        }
        let Some(stream) = newest
            .and_then(|e| e.summary.stream)
            .or_else(|| self.state.log(kind).ends.first().map(|e| e.stream))
        else {
            return store;
        };
        let lines = self.line_positions(core, epochs, stream);
        let newest_first = newest.map_or(known_last, |e| e.summary.first);
        let doubtful = newest.is_none_or(|e| e.broken_newer)
            || found_last < known_last
            || missing.iter().any(|(_, last)| last >= newest_first)
            || match self.clean {
                Some(last) => last != known_last,
                None => self.mark.is_none(),
            };
        if doubtful {
            self.close_stream(core, stream, &lines);
            return store;
        }
        let at = core.log_mut(kind).stream(stream);
        core.log_mut(kind).current = at;
        for (source, (end, limit)) in lines {
            let numbers = core.log_mut(kind).numbers(source);
            numbers.last = end;
            numbers.limit = end;
            store.set_position(stream, source, end, limit.max(end));
            if self.clean.is_none() && limit > end {
                // Committed before anything else; see `Buffer::open`.
                self.recovery.crash_void += limit - end;
                core.pending_voids.push((kind, source, limit - end));
            }
        }
        store
    }

    pub(super) fn line_positions(
        &self,
        core: &mut Core,
        epochs: &[FoundEpoch],
        stream: StreamId,
    ) -> HashMap<SourceId, (u64, u64)> {
        let mut lines: HashMap<SourceId, (u64, u64)> = HashMap::new();
        for end in self.state.log(self.kind).ends.iter() {
            if end.stream == stream
                && let Some(source) = core.registry.find(&end.source)
            {
                lines.insert(source, (end.end, end.end));
            }
        }
        for epoch in epochs {
            for line in epoch.summary.lines.iter().filter(|l| l.stream == stream) {
                if let Some(source) = source_of(core, line) {
                    let known = lines.entry(source).or_default();
                    known.0 = known.0.max(line.end);
                    known.1 = line.limit.max(known.0);
                }
            }
        }
        lines
    }

    /// Ends a stream whose newest numbers are not known: every uplink is told that nothing more comes.
    pub(super) fn close_stream(
        &mut self,
        core: &mut Core,
        stream: StreamId,
        lines: &HashMap<SourceId, (u64, u64)>,
    ) {
        let kind = self.kind;
        self.recovery.note(format!(
            "the newest data of the {} log are damaged: a new number stream begins",
            kind.name()
        ));
        let fresh = core.log_mut(kind).stream(StreamId(Uuid::new_v4()));
        core.log_mut(kind).current = fresh;
        for (source, (end, _)) in lines {
            let Some(name) = core.registry.name(*source).cloned() else {
                continue;
            };
            for uplink in core.uplinks.values_mut() {
                let key = OwedKey {
                    log: kind,
                    stream,
                    reason: DropReason::Damage,
                    source: name.clone(),
                };
                uplink.owed.add(key, self.at, end + 1, u64::MAX);
            }
        }
    }
}
