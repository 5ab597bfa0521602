//! What goes wrong on a connection or a line, counted under its name.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

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
}

/// How often each fault was seen. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct FaultCounts(Arc<[AtomicU64; Fault::ALL.len()]>);

impl FaultCounts {
    /// Counts one.
    pub fn count(&self, fault: Fault) {
        self.0[fault as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How often this one was seen.
    pub fn get(&self, fault: Fault) -> u64 {
        self.0[fault as usize].load(Ordering::Relaxed)
    }

    /// Those that were seen, by name.
    pub fn by_name(&self) -> BTreeMap<String, u64> {
        let counts = Fault::ALL.map(|fault| (fault.name(), self.get(fault)));
        let seen = counts.into_iter().filter(|(_, count)| *count > 0);
        seen.map(|(name, count)| (name.to_owned(), count)).collect()
    }

    /// Those that were seen, as `timeout 3, noise 1`; `None` where there was none.
    pub fn summary(&self) -> Option<String> {
        let seen = Fault::ALL.iter().filter(|fault| self.get(**fault) > 0);
        let shown: Vec<String> = seen
            .map(|fault| format!("{} {}", fault.name(), self.get(*fault)))
            .collect();
        (!shown.is_empty()).then(|| shown.join(", "))
    }
}
