//! Where boots stand in UTC: the times of what was stored before the clock was set.
//!
//! A gateway without a battery for its clock samples before it knows the time. Once it knows, the
//! offset of that boot counts for everything that the boot has stored, also when it is read after the
//! next boot, on another day. A boot that never knew the time stays unset, and its samples say so.

use millrace_tags::{BootId, Timebase};
use serde::{Deserialize, Serialize};

/// Boots that are remembered; a gateway that restarts daily fills its disk sooner.
const BOOTS_MAX: usize = 64;

/// What is known of boots, the latest last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Boots {
    /// The first offset that was known in a boot: what was stored before gets it. Chunks that have an
    /// offset of their own keep that, so that a step of the clock moves nothing.
    known: Vec<Known>,
    /// Boots that an uplink was given samples of while their clock was not set.
    late: Vec<BootId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    boot: BootId,
    offset_ns: i64,
}

impl Boots {
    /// Takes note of a timebase. `true`: the clock of its boot has become known.
    pub(crate) fn learn(&mut self, timebase: Timebase) -> bool {
        let boot = timebase.boot;
        // The boot that runs is the last one: this is all that an append costs.
        if self.known.iter().rev().any(|k| k.boot == boot) {
            return false;
        }
        let Some(offset_ns) = timebase.offset_ns else {
            return false;
        };
        push(&mut self.known, Known { boot, offset_ns });
        true
    }

    /// Takes note that something of a boot went out without its time. `true`: for the first time.
    pub(crate) fn sent_unset(&mut self, boot: BootId) -> bool {
        let first = !self.late.contains(&boot);
        if first {
            push(&mut self.late, boot);
        }
        first
    }

    /// The timebase, with the boot's offset where it has none of its own.
    pub(crate) fn complete(&self, timebase: Timebase) -> Timebase {
        let of_boot = || self.known.iter().rev().find(|k| k.boot == timebase.boot);
        Timebase {
            offset_ns: timebase
                .offset_ns
                .or_else(|| of_boot().map(|k| k.offset_ns)),
            ..timebase
        }
    }

    /// Boots whose clock became known after something of them had gone out.
    pub(crate) fn known_late(&self) -> Vec<Timebase> {
        let late = self.known.iter().filter(|k| self.late.contains(&k.boot));
        late.map(|k| Timebase {
            boot: k.boot,
            offset_ns: Some(k.offset_ns),
        })
        .collect()
    }

    /// Takes over what was saved; it wins over what chunks say.
    pub(crate) fn restore(&mut self, saved: &Boots) {
        for known in saved.known.iter().rev().take(BOOTS_MAX).rev() {
            self.known.retain(|k| k.boot != known.boot);
            push(&mut self.known, *known);
        }
        for boot in saved.late.iter().rev().take(BOOTS_MAX).rev() {
            self.late.retain(|b| b != boot);
            push(&mut self.late, *boot);
        }
    }
}

fn push<T>(list: &mut Vec<T>, item: T) {
    if list.len() >= BOOTS_MAX {
        list.remove(0);
    }
    list.push(item);
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn timebase(boot: u128, offset_ns: Option<i64>) -> Timebase {
        Timebase {
            boot: BootId(Uuid::from_u128(boot)),
            offset_ns,
        }
    }

    #[test]
    fn the_first_offset_counts_for_what_has_none() {
        let mut boots = Boots::default();
        assert!(!boots.learn(timebase(1, None)));
        assert_eq!(boots.complete(timebase(1, None)), timebase(1, None));
        assert!(boots.learn(timebase(1, Some(100))));
        assert!(!boots.learn(timebase(1, Some(900))), "a step");
        assert!(boots.learn(timebase(2, Some(500))));
        assert_eq!(boots.complete(timebase(1, None)), timebase(1, Some(100)));
        assert_eq!(
            boots.complete(timebase(1, Some(900))),
            timebase(1, Some(900))
        );
        assert_eq!(boots.complete(timebase(3, None)), timebase(3, None));
        assert_eq!(boots.known_late(), []);
        assert!(boots.sent_unset(timebase(1, None).boot));
        assert!(!boots.sent_unset(timebase(1, None).boot));
        assert_eq!(boots.known_late(), [timebase(1, Some(100))]);
    }

    #[test]
    fn the_table_is_bounded_and_what_was_saved_wins() {
        let mut boots = Boots::default();
        for boot in 0..200 {
            boots.sent_unset(timebase(boot, None).boot);
            boots.learn(timebase(boot, Some(boot as i64)));
        }
        assert_eq!(boots.known_late().len(), BOOTS_MAX);
        let mut found = Boots::default();
        found.learn(timebase(199, Some(7)));
        found.learn(timebase(900, Some(8)));
        found.restore(&boots);
        assert_eq!(
            found.complete(timebase(199, None)),
            timebase(199, Some(199))
        );
        assert_eq!(found.known.len(), BOOTS_MAX);
    }
}
