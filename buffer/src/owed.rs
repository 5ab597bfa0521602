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
pub(crate) struct Owed {
    holes: BTreeMap<OwedKey, Holes>,
    /// Nobody is told before the state has them: a crash may still undo a removal, and what was called
    /// lost would come. Counts the changes that must be saved first.
    held: u64,
    /// Of these: how many the state has that is being saved, and how many the saved one has.
    saving: u64,
    saved: u64,
}

impl Owed {
    /// Tells nobody of anything until the state was saved.
    pub(crate) fn hold(&mut self) {
        self.held += 1;
    }

    /// The state is taken now, to be saved.
    pub(crate) fn saving(&mut self) {
        self.saving = self.held;
    }

    /// The state that was taken last is on the disk.
    pub(crate) fn saved(&mut self) {
        self.saved = self.saving;
    }

    pub(crate) fn add(&mut self, key: OwedKey, at: Option<Timestamp>, first: u64, last: u64) {
        let holes = self.holes.entry(key).or_default();
        holes.at = holes.at.or(at);
        holes.numbers.insert(first, last);
    }

    /// The next hole that is not in flight.
    pub(crate) fn next(&mut self) -> Option<(OwedKey, Option<Timestamp>, u64, u64)> {
        if self.held > self.saved {
            return None;
        }
        for (key, holes) in &mut self.holes {
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
        if let Some(holes) = self.holes.get_mut(key) {
            holes.numbers.remove(first, last);
            holes.in_flight.remove(first, last);
            if holes.numbers.is_empty() {
                self.holes.remove(key);
            }
        }
    }

    pub(crate) fn give_back(&mut self, key: &OwedKey, first: u64, last: u64) {
        if let Some(holes) = self.holes.get_mut(key) {
            holes.in_flight.remove(first, last);
        }
    }

    /// Everything is to be told again.
    pub(crate) fn restart(&mut self) {
        for holes in self.holes.values_mut() {
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
        self.holes.iter().map(state).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_told_of_what_the_saved_state_does_not_have() {
        let mut owed = Owed::default();
        let key = OwedKey {
            log: LogKind::Data,
            stream: StreamId(uuid::Uuid::nil()),
            reason: DropReason::Poison,
            source: "pump".into(),
        };
        owed.add(key.clone(), None, 3, 3);
        owed.hold();
        owed.saving();
        // While that state is on its way to the disk, another change comes.
        owed.add(key, None, 7, 7);
        owed.hold();
        owed.saved();
        assert_eq!(owed.next(), None);
        owed.saving();
        owed.saved();
        assert!(owed.next().is_some() && owed.next().is_some());
    }
}
