//! How a simulated device misbehaves.
//!
//! Written as words, one fault a line of the command: `latency 20ms`, `hole holding:10+4`, `limit 50`, or a
//! fault of a reply with how often it comes: `late 2s every 10`, `truncated every 7`, or at random by the
//! device's seed: `crc 2%`.

use std::str::FromStr;
use std::time::Duration;

use super::frame::Framing;
use crate::modbus::plan::{COILS_MAX, REGISTERS_MAX};
use crate::modbus::{Address, Table};
use crate::sim::signal::duration;

/// The exception of a device that has no time.
const DEVICE_BUSY: u8 = 6;

/// A whole in millionths.
const MILLION: u32 = 1_000_000;

/// What is wrong with one reply, or with the device as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The reply comes so much later; it does not count as served.
    Late(Duration),
    /// The second half of the reply is missing.
    Truncated,
    /// The reply is well-formed and holds one register, or eight bits, less than was asked for; that of a
    /// write lacks its last byte.
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
    /// The reply has a wrong checksum; not over TCP.
    Crc,
    /// Some random bytes come before the reply, which is right.
    Noise,
    /// The request comes back before the reply, which is right: an adapter that hears itself; not over TCP.
    Echo,
    /// Random bytes come instead of the reply.
    Garbage,
    /// The reply is right and comes byte by byte, with such a pause before each.
    Slow(Duration),
    /// No reply comes.
    Silent,
    /// The connection is closed without a reply; on a serial line no reply comes.
    Drop,
    /// Connections are closed, and none is taken for so long; a serial line is silent.
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

/// A fault that comes at random.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Random {
    /// What happens.
    pub fault: Fault,
    /// To so many requests in a million.
    pub per_million: u32,
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
    /// Most coils that the device gives at once; more is exception 03.
    pub max_coils: u16,
    /// Faults of replies, by count.
    pub recurring: Vec<Recurring>,
    /// Faults of replies, at random; at most one hits a request.
    pub random: Vec<Random>,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            latency: Duration::ZERO,
            holes: Vec::new(),
            max_registers: REGISTERS_MAX,
            max_coils: COILS_MAX,
            recurring: Vec::new(),
            random: Vec::new(),
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
        "the faults are: latency TIME, hole TABLE:OFFSET+COUNT, limit REGISTERS, limit-coils COILS, and \
         with \"every N\" or \"P%\" behind them: late TIME, truncated, short, duplicate, wrong-unit, \
         wrong-transaction, wrong-function, crc, noise, echo, garbage, slow TIME, silent, exception \
         CODE, busy, drop, refuse TIME, reboot TIME"
    }
}

impl Fault {
    /// The name in counts.
    pub fn name(self) -> &'static str {
        match self {
            Fault::Late(_) => "late",
            Fault::Truncated => "truncated",
            Fault::Short => "short",
            Fault::Duplicate => "duplicate",
            Fault::WrongUnit => "wrong-unit",
            Fault::WrongTransaction => "wrong-transaction",
            Fault::WrongFunction => "wrong-function",
            Fault::Crc => "crc",
            Fault::Noise => "noise",
            Fault::Echo => "echo",
            Fault::Garbage => "garbage",
            Fault::Slow(_) => "slow",
            Fault::Silent => "silent",
            Fault::Exception(DEVICE_BUSY) => "busy",
            Fault::Exception(_) => "exception",
            Fault::Drop => "drop",
            Fault::Refuse(_) => "refuse",
            Fault::Reboot(_) => "reboot",
        }
    }

    /// Whether it can happen to frames of this kind.
    pub(super) fn suits(self, framing: Framing) -> bool {
        match self {
            Fault::WrongTransaction => framing == Framing::Tcp,
            Fault::Crc | Fault::Echo => framing == Framing::Rtu,
            _ => true,
        }
    }

    /// Whether the device never carries the request out.
    pub(super) fn prevents(self) -> bool {
        matches!(
            self,
            Fault::Silent | Fault::Exception(_) | Fault::Drop | Fault::Refuse(_) | Fault::Reboot(_)
        )
    }

    /// Whether the reply comes in time, and right as it is.
    pub(super) fn leaves_reply(self) -> bool {
        matches!(
            self,
            Fault::Duplicate | Fault::Noise | Fault::Echo | Fault::Slow(_)
        )
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
        ["crc"] => Fault::Crc,
        ["noise"] => Fault::Noise,
        ["echo"] => Fault::Echo,
        ["garbage"] => Fault::Garbage,
        ["slow", time] => Fault::Slow(duration(time)?),
        ["silent"] => Fault::Silent,
        ["busy"] => Fault::Exception(DEVICE_BUSY),
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
            ["limit-coils", coils] => {
                let most = coils.parse().ok();
                self.max_coils = most.filter(|most| (1..=COILS_MAX).contains(most))?;
            }
            ["hole", place] => self.holes.push(hole(place)?),
            [fault @ .., "every", every] => self.recurring.push(Recurring {
                fault: of_words(fault)?,
                every: every.parse().ok().filter(|every| *every > 0)?,
            }),
            [fault @ .., share] => self.random.push(Random {
                per_million: per_million(share)?,
                fault: of_words(fault)?,
            }),
            [] => return None,
        }
        Some(())
    }

    /// The fault of request number `request`, counted from 1.
    pub(super) fn of_request(&self, request: u64, rng: &mut fastrand::Rng) -> Option<Fault> {
        let due = |r: &&Recurring| request.is_multiple_of(u64::from(r.every));
        let recurring = self.recurring.iter().find(due).map(|r| r.fault);
        if recurring.is_some() || self.random.is_empty() {
            return recurring;
        }
        let mut drawn = rng.u32(0..MILLION);
        self.random.iter().find_map(|random| {
            let left = drawn.checked_sub(random.per_million);
            drawn = left.unwrap_or(0);
            left.is_none().then_some(random.fault)
        })
    }

    /// Whether the device lacks one of these addresses.
    pub(super) fn is_missing(&self, table: Table, start: u32, end: u32) -> bool {
        self.holes.iter().any(|hole| {
            let first = u32::from(hole.start);
            hole.table == table && first < end && start < first + u32::from(hole.count)
        })
    }
}

/// A percentage in millionths.
fn per_million(share: &str) -> Option<u32> {
    let percent: f64 = share.strip_suffix('%')?.parse().ok()?;
    let share = (percent / 100.0 * f64::from(MILLION)).round();
    (1.0..=f64::from(MILLION))
        .contains(&share)
        .then_some(share as u32)
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
        let mut rng = fastrand::Rng::with_seed(1);
        assert_eq!(faults.of_request(9, &mut rng), None);
        assert_eq!(
            faults.of_request(20, &mut rng),
            Some(Fault::Late(Duration::from_secs(2)))
        );
    }

    #[test]
    fn random_faults_come_as_often_as_asked_and_repeat() {
        let mut faults = Faults::default();
        faults.add("crc 2%").unwrap();
        faults.add("busy 0.5%").unwrap();
        let drawn = |seed| {
            let mut rng = fastrand::Rng::with_seed(seed);
            let drawn = (1..=100_000).map(|n| faults.of_request(n, &mut rng));
            drawn.collect::<Vec<_>>()
        };
        let first = drawn(7);
        assert_eq!(first, drawn(7));
        assert_ne!(first, drawn(8));
        let count = |fault| first.iter().filter(|f| **f == Some(fault)).count();
        assert!((1_800..2_200).contains(&count(Fault::Crc)));
        assert!((400..600).contains(&count(Fault::Exception(6))));
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
            "crc",
            "crc 101%",
            "2%",
        ] {
            let error = Faults::default().add(words).unwrap_err();
            assert!(error.hint().contains("wrong-unit"), "{words}");
        }
    }
}
