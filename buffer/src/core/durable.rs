//! What the state file is to have of all that is in memory.

use std::collections::BTreeMap;

use millrace_tags::DropReason;

use super::Core;
use crate::aside::Aside;
use crate::log::Log;
use crate::state::{
    AsideState, LineEnd, LogState, PoisonState, RefusedState, RemovedCounts, SETTLED_RANGES_MAX,
    State, UplinkLogState, UplinkState,
};
use crate::uplink::{Reader, Uplink};

impl Core {
    /// What has to be durable of all this.
    pub(crate) fn state(&self) -> State {
        let mut state = State {
            alarm: self.log_state(&self.alarm),
            data: self.log_state(&self.data),
            uplinks: BTreeMap::new(),
            boots: self.boots.clone(),
            last_aside: self.last_aside,
        };
        for (name, uplink) in &self.uplinks {
            let uplink = UplinkState {
                alarm: self.reader_state(&self.alarm, &uplink.alarm),
                data: self.reader_state(&self.data, &uplink.data),
                owed: uplink.owed.save(),
                aside: self.aside_state(uplink),
            };
            state.uplinks.insert(name.to_string(), uplink);
        }
        state
    }

    fn log_state(&self, log: &Log) -> LogState {
        let mut sources = BTreeMap::new();
        for (info, totals) in self.registry.sources().iter().zip(&log.totals) {
            let removed = RemovedCounts {
                records: totals.removed,
                unsent: totals.unsent.iter().collect(),
                voids: totals.removed_voids.iter().collect(),
            };
            if removed != RemovedCounts::default() {
                sources.insert(info.name.to_string(), removed);
            }
        }
        let mut ends: Vec<LineEnd> = log
            .ends
            .iter()
            .filter_map(|((stream, source), end)| {
                Some(LineEnd {
                    stream: *stream,
                    source: self.registry.name(*source)?.to_string(),
                    end: *end,
                    numbers: log
                        .gone
                        .get(&(*stream, *source))
                        .cloned()
                        .unwrap_or_default(),
                })
            })
            .collect();
        ends.sort_by(|a, b| (a.stream, &a.source).cmp(&(b.stream, &b.source)));
        LogState {
            removed: log.removed.clone(),
            last_chunk: log.last_chunk,
            sources,
            ends,
        }
    }

    /// What an uplink has set aside, as far as it is committed: numbers that a crash takes must not be there.
    fn aside_state(&self, uplink: &Uplink) -> Vec<AsideState> {
        let state = |aside: &Aside| {
            let log = self.log(aside.log);
            let numbers = log.committed_of(aside.line, &aside.numbers);
            (!numbers.is_empty()).then_some(AsideState {
                id: aside.id,
                log: aside.log,
                stream: log.stream_of(aside.line),
                source: self.registry.name(aside.line.source)?.to_string(),
                numbers,
                reason: aside.reason.clone(),
                tries: aside.tries,
                since: aside.since,
            })
        };
        uplink.aside.iter().filter_map(state).collect()
    }

    fn reader_state(&self, log: &Log, reader: &Reader) -> UplinkLogState {
        let mut dropped: BTreeMap<String, BTreeMap<DropReason, u64>> = BTreeMap::new();
        for (info, counts) in self.registry.sources().iter().zip(&reader.counts) {
            let by_reason: BTreeMap<_, _> = counts.dropped.iter().collect();
            if !by_reason.is_empty() {
                dropped.insert(info.name.to_string(), by_reason);
            }
        }
        // A chunk that is not settled is offered again after a restart, and given up again: of what was
        // poison, `poison` tells.
        for (line, reason, count) in reader.given_up() {
            let name = self.registry.name(line.source);
            if let Some(by_reason) = name.and_then(|n| dropped.get_mut(&**n))
                && let Some(sum) = by_reason.get_mut(&reason)
            {
                *sum = sum.saturating_sub(count);
            }
        }
        let refused = reader.refused.iter().filter_map(|(line, reason, numbers)| {
            Some(RefusedState {
                stream: log.stream_of(line),
                source: self.registry.name(line.source)?.to_string(),
                reason,
                numbers: numbers.largest(SETTLED_RANGES_MAX),
            })
        });
        let mut refused: Vec<RefusedState> = refused.collect();
        refused
            .sort_by(|a, b| (a.stream, &a.source, a.reason).cmp(&(b.stream, &b.source, b.reason)));
        let poison = reader.poison().filter_map(|(line, numbers)| {
            let numbers = log.committed_of(line, numbers);
            (!numbers.is_empty()).then_some(PoisonState {
                stream: log.stream_of(line),
                source: self.registry.name(line.source)?.to_string(),
                numbers,
            })
        });
        let mut poison: Vec<PoisonState> = poison.collect();
        poison.sort_by(|a, b| (a.stream, &a.source).cmp(&(b.stream, &b.source)));
        UplinkLogState {
            settled: reader.settled.largest(SETTLED_RANGES_MAX),
            dropped,
            begins: reader.begins,
            refused,
            poison,
        }
    }
}
