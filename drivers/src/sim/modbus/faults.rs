//! How a simulated device misbehaves.
//!
//! Written as words, one fault a line of the command: `latency 20ms`, `hole holding:10+4`, `limit 50`, or a
//! fault of a reply with how often it comes: `late 2s every 10`, `truncated every 7`.

use std::str::FromStr;
use std::time::Duration;

use crate::modbus::plan::REGISTERS_MAX;
use crate::modbus::{Address, Table};
use crate::sim::signal::duration;

/// What is wrong with one reply, or with the device as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The reply comes so much later; it does not count as served.
    Late(Duration),
    /// The second half of the reply is missing.
    Truncated,
    /// The reply is well-formed and holds one register, or eight bits, less than was asked for.
    Short,
    /// The reply comes twice.
    Duplicate,
    /// The reply is another unit's.
    WrongUnit,
    /// The reply is another transaction's.
    WrongTransaction,
    /// The reply is another function's.
    WrongFunction,
    /// The reply is this exception.
    Exception(u8),
    /// The connection is closed without a reply.
    Drop,
    /// Connections are closed, and none is taken for so long.
    Refuse(Duration),
    /// As `Refuse`, and signals begin anew.
    Reboot(Duration),
}

/// Addresses that the device does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hole {
    /// The table.
    pub table: Table,
    /// The first address that is missing.
    pub start: u16,
    /// How many are.
    pub count: u16,
}

/// A fault that comes with every so manieth request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recurring {
    /// What happens.
    pub fault: Fault,
    /// With which request: the `every`th, and so on.
    pub every: u32,
}

/// How a device misbehaves. The default behaves well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults {
    /// From a request to its reply.
    pub latency: Duration,
    /// Missing addresses, besides those before the first and after the last tag of a table.
    pub holes: Vec<Hole>,
    /// Most registers that the device gives at once; more is exception 03.
    pub max_registers: u16,
    /// Faults of replies.
    pub recurring: Vec<Recurring>,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            latency: Duration::ZERO,
            holes: Vec::new(),
            max_registers: REGISTERS_MAX,
            recurring: Vec::new(),
        }
    }
}

/// Words that are no fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is not a fault")]
pub struct FaultError {
    /// The words.
    pub given: String,
}

impl FaultError {
    /// What to write instead.
    pub fn hint(&self) -> &'static str {
        "the faults are: latency TIME, hole TABLE:OFFSET+COUNT, limit REGISTERS, and with \"every N\" \
         behind them: late TIME, truncated, short, duplicate, wrong-unit, wrong-transaction, \
         wrong-function, exception CODE, drop, refuse TIME, reboot TIME"
    }
}

impl FromStr for Fault {
    type Err = FaultError;

    fn from_str(given: &str) -> Result<Self, FaultError> {
        let words: Vec<&str> = given.split_whitespace().collect();
        of_words(&words).ok_or_else(|| FaultError {
            given: given.to_owned(),
        })
    }
}

fn of_words(words: &[&str]) -> Option<Fault> {
    Some(match words {
        ["late", time] => Fault::Late(duration(time)?),
        ["truncated"] => Fault::Truncated,
        ["short"] => Fault::Short,
        ["duplicate"] => Fault::Duplicate,
        ["wrong-unit"] => Fault::WrongUnit,
        ["wrong-transaction"] => Fault::WrongTransaction,
        ["wrong-function"] => Fault::WrongFunction,
        ["exception", code] => Fault::Exception(code.parse().ok()?),
        ["drop"] => Fault::Drop,
        ["refuse", time] => Fault::Refuse(duration(time)?),
        ["reboot", time] => Fault::Reboot(duration(time)?),
        _ => return None,
    })
}

impl Faults {
    /// Adds what one line of words says.
    ///
    /// # Errors
    /// The words are no fault.
    pub fn add(&mut self, given: &str) -> Result<(), FaultError> {
        let words: Vec<&str> = given.split_whitespace().collect();
        self.add_words(&words).ok_or_else(|| FaultError {
            given: given.to_owned(),
        })
    }

    fn add_words(&mut self, words: &[&str]) -> Option<()> {
        match words {
            ["latency", time] => self.latency = duration(time)?,
            ["limit", registers] => {
                let most = registers.parse().ok();
                self.max_registers = most.filter(|most| (1..=REGISTERS_MAX).contains(most))?;
            }
            ["hole", place] => self.holes.push(hole(place)?),
            [fault @ .., "every", every] => self.recurring.push(Recurring {
                fault: of_words(fault)?,
                every: every.parse().ok().filter(|every| *every > 0)?,
            }),
            _ => return None,
        }
        Some(())
    }

    /// The fault of request number `request`, counted from 1.
    pub(super) fn of_request(&self, request: u64) -> Option<Fault> {
        let due = |r: &&Recurring| request.is_multiple_of(u64::from(r.every));
        self.recurring.iter().find(due).map(|r| r.fault)
    }

    /// Whether the device lacks one of these addresses.
    pub(super) fn is_missing(&self, table: Table, start: u32, end: u32) -> bool {
        self.holes.iter().any(|hole| {
            let first = u32::from(hole.start);
            hole.table == table && first < end && start < first + u32::from(hole.count)
        })
    }
}

fn hole(place: &str) -> Option<Hole> {
    let (address, count) = place.split_once('+').unwrap_or((place, "1"));
    let address: Address = address.parse().ok()?;
    Some(Hole {
        table: address.table,
        start: address.offset,
        count: count.parse().ok().filter(|count| *count > 0)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_understood() {
        let mut faults = Faults::default();
        for words in [
            "latency 20ms",
            "hole holding:10+4",
            "limit 50",
            "late 2s every 10",
        ] {
            faults.add(words).unwrap();
        }
        assert_eq!(faults.latency, Duration::from_millis(20));
        assert!(faults.is_missing(Table::Holding, 0, 11));
        assert!(!faults.is_missing(Table::Holding, 14, 20));
        assert!(!faults.is_missing(Table::Input, 10, 11));
        assert_eq!(faults.of_request(9), None);
        assert_eq!(
            faults.of_request(20),
            Some(Fault::Late(Duration::from_secs(2)))
        );
    }

    #[test]
    fn other_words_are_refused() {
        for words in [
            "",
            "late 2s",
            "late every 2",
            "truncated every 0",
            "hole 10",
            "limit 126",
        ] {
            let error = Faults::default().add(words).unwrap_err();
            assert!(error.hint().contains("wrong-unit"), "{words}");
        }
    }
}
