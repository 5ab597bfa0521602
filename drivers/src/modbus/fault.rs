//! What goes wrong on a connection or a line, counted under its name.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// One kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Fault {
    /// No answer came in time.
    Timeout,
    /// A whole reply of the unit, after its request was given up or answered: late, or doubled.
    Late,
    /// A Modbus TCP reply whose transaction is not open: late, or doubled.
    Stale,
    /// A reply of another unit.
    WrongUnit,
    /// A reply to another function.
    WrongFunction,
    /// A reply with another number of bytes than was asked for.
    WrongLength,
    /// The answer to a write names another place or value than was written.
    WrongEcho,
    /// A frame with a wrong checksum.
    Checksum,
    /// A reply that broke off.
    Truncated,
    /// Bytes that are no frame.
    Noise,
    /// What we sent came back: the adapter hears itself.
    OwnEcho,
    /// Bytes that cannot begin a Modbus TCP frame.
    BadHeader,
}

impl Fault {
    /// Every kind, in the order of their numbers.
    pub const ALL: [Fault; 12] = [
        Fault::Timeout,
        Fault::Late,
        Fault::Stale,
        Fault::WrongUnit,
        Fault::WrongFunction,
        Fault::WrongLength,
        Fault::WrongEcho,
        Fault::Checksum,
        Fault::Truncated,
        Fault::Noise,
        Fault::OwnEcho,
        Fault::BadHeader,
    ];

    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Fault::Timeout => "timeout",
            Fault::Late => "late",
            Fault::Stale => "stale",
            Fault::WrongUnit => "wrong-unit",
            Fault::WrongFunction => "wrong-function",
            Fault::WrongLength => "wrong-length",
            Fault::WrongEcho => "wrong-echo",
            Fault::Checksum => "checksum",
            Fault::Truncated => "truncated",
            Fault::Noise => "noise",
            Fault::OwnEcho => "own-echo",
            Fault::BadHeader => "bad-header",
        }
    }

    /// The one of this name.
    pub fn named(name: &str) -> Option<Self> {
        Fault::ALL.into_iter().find(|fault| fault.name() == name)
    }

    /// What somebody who stands before the device should look at; `None` where there is nothing to be mended.
    pub fn advice(self) -> Option<&'static str> {
        match self {
            Fault::Timeout => Some(
                "check its power, its wires, its unit id and the line's baud rate and parity; if it is only slow, raise its timeout",
            ),
            Fault::Late | Fault::Stale => {
                Some("it answers after its timeout, or twice: raise its timeout")
            }
            Fault::WrongUnit => Some(
                "another unit answers: look for a second master on the line, and for the unit ids behind the gateway",
            ),
            Fault::WrongFunction | Fault::WrongLength | Fault::WrongEcho => Some(
                "it answers something else than it is asked: look for a second master, or for two units of one id",
            ),
            Fault::Checksum | Fault::Truncated | Fault::Noise => Some(
                "check cable, shield, termination and earth, and that no two units have one id; lower the baud rate",
            ),
            Fault::BadHeader => Some(
                "what answers is no Modbus TCP: check the port, or try driver = \"modbus-rtu-tcp\"",
            ),
            Fault::OwnEcho => None,
        }
    }
}

/// How often each fault was seen, in all and with each unit. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct FaultCounts(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    all: [AtomicU64; Fault::ALL.len()],
    /// Units that had any.
    units: Mutex<BTreeMap<u8, [u64; Fault::ALL.len()]>>,
}

impl FaultCounts {
    /// Counts one, in an exchange with this unit.
    pub fn count(&self, unit: u8, fault: Fault) {
        self.0.all[fault as usize].fetch_add(1, Ordering::Relaxed);
        self.units().entry(unit).or_default()[fault as usize] += 1;
    }

    /// How often this one was seen.
    pub fn get(&self, fault: Fault) -> u64 {
        self.0.all[fault as usize].load(Ordering::Relaxed)
    }

    /// Those that were seen, by name.
    pub fn by_name(&self) -> BTreeMap<String, u64> {
        named(|fault| self.get(fault))
    }

    /// Those that this unit had, by name.
    pub fn of_unit(&self, unit: u8) -> BTreeMap<String, u64> {
        let counts = self.units().get(&unit).copied().unwrap_or_default();
        named(|fault| counts[fault as usize])
    }

    fn units(&self) -> MutexGuard<'_, BTreeMap<u8, [u64; Fault::ALL.len()]>> {
        // Whole between any two statements that could panic.
        (self.0.units.lock()).unwrap_or_else(PoisonError::into_inner)
    }
}

fn named(count: impl Fn(Fault) -> u64) -> BTreeMap<String, u64> {
    let counts = Fault::ALL.map(|fault| (fault.name().to_owned(), count(fault)));
    counts.into_iter().filter(|(_, count)| *count > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_counted_for_their_unit_and_in_all() {
        let counts = FaultCounts::default();
        counts.count(3, Fault::Timeout);
        counts.clone().count(3, Fault::Timeout);
        counts.count(4, Fault::Checksum);
        assert_eq!(counts.get(Fault::Timeout), 2);
        assert_eq!(
            counts.of_unit(3),
            BTreeMap::from([("timeout".to_owned(), 2)])
        );
        assert!(counts.of_unit(5).is_empty());
    }

    #[test]
    fn every_fault_has_a_name_of_its_own() {
        for fault in Fault::ALL {
            assert_eq!(Fault::named(fault.name()), Some(fault));
        }
    }
}
