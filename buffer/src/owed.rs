//! Holes that an uplink has still to be told of.

use std::collections::BTreeMap;
use std::sync::Arc;

use millrace_tags::{DropReason, LogKind, StreamId, Timestamp};

use crate::ranges::Ranges;
use crate::state::OwedState;

/// What holes of one gap have in common.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct OwedKey {
    pub(crate) log: LogKind,
    pub(crate) stream: StreamId,
    pub(crate) reason: DropReason,
    pub(crate) source: Arc<str>,
}

#[derive(Debug, Default)]
struct Holes {
    at: Option<Timestamp>,
    numbers: Ranges,
    in_flight: Ranges,
}

/// The holes, by what they have in common. A hole that ends at `u64::MAX` closes its line.
#[derive(Debug, Default)]
pub(crate) struct Owed(BTreeMap<OwedKey, Holes>);

impl Owed {
    pub(crate) fn add(&mut self, key: OwedKey, at: Option<Timestamp>, first: u64, last: u64) {
        let holes = self.0.entry(key).or_default();
        holes.at = holes.at.or(at);
        holes.numbers.insert(first, last);
    }

    /// The next hole that is not in flight.
    pub(crate) fn next(&mut self) -> Option<(OwedKey, Option<Timestamp>, u64, u64)> {
        for (key, holes) in &mut self.0 {
            for (first, last) in holes.numbers.iter() {
                if let Some((first, last)) = holes.in_flight.first_free(first, last) {
                    holes.in_flight.insert(first, last);
                    return Some((key.clone(), holes.at, first, last));
                }
            }
        }
        None
    }

    pub(crate) fn settle(&mut self, key: &OwedKey, first: u64, last: u64) {
        if let Some(holes) = self.0.get_mut(key) {
            holes.numbers.remove(first, last);
            holes.in_flight.remove(first, last);
            if holes.numbers.is_empty() {
                self.0.remove(key);
            }
        }
    }

    pub(crate) fn give_back(&mut self, key: &OwedKey, first: u64, last: u64) {
        if let Some(holes) = self.0.get_mut(key) {
            holes.in_flight.remove(first, last);
        }
    }

    /// Everything is to be told again.
    pub(crate) fn restart(&mut self) {
        for holes in self.0.values_mut() {
            holes.in_flight = Ranges::default();
        }
    }

    pub(crate) fn save(&self) -> Vec<OwedState> {
        let state = |(key, holes): (&OwedKey, &Holes)| OwedState {
            log: key.log,
            stream: key.stream,
            reason: key.reason,
            source: key.source.to_string(),
            at: holes.at,
            numbers: holes.numbers.clone(),
        };
        self.0.iter().map(state).collect()
    }

    pub(crate) fn restore(saved: Vec<OwedState>) -> Self {
        let mut owed = Owed::default();
        for one in saved {
            let key = OwedKey {
                log: one.log,
                stream: one.stream,
                reason: one.reason,
                source: one.source.into(),
            };
            for (first, last) in one.numbers.repaired().iter() {
                owed.add(key.clone(), one.at, first, last);
            }
        }
        owed
    }
}
