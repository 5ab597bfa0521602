//! Who is on a line, and at which settings; who is behind an address.
//!
//! What was found is kept outside of the search, which may be dropped at any time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use millrace_tags::Clock;

use super::address::Table;
use super::caller::{Caller, Heard, hasty_pace};
use super::fault::Fault;
use super::request::{ReadRequest, Request};
use super::serial::{Parity, SerialSettings};
use crate::SessionError;

/// Rates by how often they are met.
pub const BAUDS: [u32; 8] = [9_600, 19_200, 38_400, 115_200, 57_600, 4_800, 2_400, 1_200];

/// Parity and stop bits by how often they are met. A unit with two stop bits also hears one.
pub const FRAMES: [(Parity, u8); 4] = [
    (Parity::None, 1),
    (Parity::Even, 1),
    (Parity::Odd, 1),
    (Parity::None, 2),
];

/// Most units are among the first: every setting is tried with these before any is with the others.
const LIKELY_UNITS: usize = 10;

/// A request, its answer: 8 and 7 bytes.
const PROBE_BYTES: usize = 15;

/// What every unit that is there answers, if with an exception.
const PROBE: Request = Request::Read(ReadRequest {
    table: Table::Holding,
    start: 0,
    count: 1,
});

/// A unit that answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoundUnit {
    /// Its id.
    pub unit: u8,
    /// `None`: it has a register holding:0. Else with which exception it refused that.
    pub exception: Option<u8>,
}

/// What a search has found so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LineFound {
    /// The settings at which units answer.
    pub settings: Option<SerialSettings>,
    /// Who answers.
    pub units: Vec<FoundUnit>,
    /// Settings at which something was heard that is no frame: the line is in use at others.
    pub noise: Vec<SerialSettings>,
}

/// How far a search is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// What is tried, where settings are searched for.
    pub settings: Option<SerialSettings>,
    /// Who is asked.
    pub unit: u8,
    /// Probes sent.
    pub done: usize,
    /// Probes at most.
    pub total: usize,
    /// Time that the rest takes at most.
    pub left: Duration,
}

/// A search for the settings of a line and its units.
pub struct LineSearch {
    /// What to try, likely settings first.
    pub candidates: Vec<SerialSettings>,
    /// Whom to ask, likely units first.
    pub units: Vec<u8>,
    /// How long a unit may take to answer, besides the time of the bytes.
    pub timeout: Duration,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// Settings in the order in which they are tried: by the rank of the rate and of the frame together, so that
/// 115200 8N1 comes before 9600 8N2.
pub fn candidates(port: &str, bauds: &[u32], frames: &[(Parity, u8)]) -> Vec<SerialSettings> {
    let mut ranked = Vec::new();
    for (by_baud, baud) in bauds.iter().enumerate() {
        for (by_frame, (parity, stop_bits)) in frames.iter().enumerate() {
            let mut settings = SerialSettings::new(port);
            settings.baud = *baud;
            settings.parity = *parity;
            settings.stop_bits = *stop_bits;
            ranked.push((by_baud + 2 * by_frame, settings));
        }
    }
    ranked.sort_by_key(|(rank, _)| *rank);
    ranked.into_iter().map(|(_, settings)| settings).collect()
}

impl LineSearch {
    /// Tries settings until units answer, then asks for all units at those.
    ///
    /// # Errors
    /// The port cannot be opened, or was lost.
    ///
    /// # Cancel safety
    /// What was found is in `found`.
    pub async fn run(
        &self,
        found: &mut LineFound,
        tell: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<(), SessionError> {
        let (likely, others) = self.units.split_at(self.units.len().min(LIKELY_UNITS));
        let mut effort = Effort::new(self);
        for units in [likely, others] {
            let mut waiting: VecDeque<&SerialSettings> = self.candidates.iter().collect();
            while let Some(settings) = waiting.pop_front() {
                let mut caller = self.caller(settings);
                for unit in units {
                    effort.tell(settings, *unit, tell);
                    let heard = caller.call(*unit, &PROBE).await?;
                    if heard.is_answer() {
                        found.settings = Some(settings.clone());
                        return self
                            .units_at(settings, caller, *unit, heard, found, tell)
                            .await;
                    }
                }
                if caller.noise() > 0 && !found.noise.contains(settings) {
                    found.noise.push(settings.clone());
                    prefer_rate(&mut waiting, settings.baud);
                }
            }
        }
        Ok(())
    }

    fn caller(&self, settings: &SerialSettings) -> Caller {
        Caller::hasty(settings.clone(), self.timeout, &self.clock)
    }

    /// All units at these settings, one of which has answered.
    async fn units_at(
        &self,
        settings: &SerialSettings,
        mut caller: Caller,
        first: u8,
        heard: Heard,
        found: &mut LineFound,
        tell: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<(), SessionError> {
        found.units.push(found_unit(first, &heard));
        let cost = self.probe_time(settings);
        let units: Vec<u8> = self.units.iter().copied().filter(|u| *u != first).collect();
        let mut tell = |mut progress: Progress| {
            progress.settings = Some(settings.clone());
            tell(progress);
        };
        find_units(&mut caller, &units, cost, &mut found.units, &mut tell).await
    }

    /// The time that asking a unit takes that is not there.
    fn probe_time(&self, settings: &SerialSettings) -> Duration {
        let pace = hasty_pace(settings);
        pace.bytes(PROBE_BYTES) + self.timeout + pace.fence
    }

    /// The time of a search that finds nothing.
    pub fn longest(&self) -> Duration {
        let units = u32::try_from(self.units.len()).unwrap_or(u32::MAX);
        let probes = self.candidates.iter().map(|s| self.probe_time(s) * units);
        probes.sum()
    }
}

/// Asks each unit once, and those again whose neighbour's answer came late. `cost` is the time of a silence.
///
/// # Errors
/// There is no way to the units.
///
/// # Cancel safety
/// Who was found is in `found`.
pub async fn find_units(
    caller: &mut Caller,
    units: &[u8],
    cost: Duration,
    found: &mut Vec<FoundUnit>,
    tell: &mut (dyn FnMut(Progress) + Send),
) -> Result<(), SessionError> {
    let mut unsure = Vec::new();
    let mut before = None;
    for (done, unit) in units.iter().enumerate() {
        let left = units.len() - done;
        tell(Progress {
            settings: None,
            unit: *unit,
            done,
            total: units.len(),
            left: cost * u32::try_from(left).unwrap_or(u32::MAX),
        });
        let disturbed = disturbances(caller);
        let heard = caller.call(*unit, &PROBE).await?;
        if heard.is_answer() {
            found.push(found_unit(*unit, &heard));
        } else if disturbances(caller) != disturbed {
            unsure.extend(before.into_iter().chain([*unit]));
        }
        before = Some(*unit);
    }
    unsure.dedup();
    for unit in unsure {
        if found.iter().all(|known| known.unit != unit) {
            let heard = caller.call(unit, &PROBE).await?;
            if heard.is_answer() {
                found.push(found_unit(unit, &heard));
            }
        }
    }
    found.sort_by_key(|found| found.unit);
    Ok(())
}

/// What came and was no answer, perhaps one that came late.
fn disturbances(caller: &Caller) -> u64 {
    let late = [Fault::Late, Fault::WrongUnit].map(|fault| caller.faults().get(fault));
    caller.noise() + late.iter().sum::<u64>()
}

fn found_unit(unit: u8, heard: &Heard) -> FoundUnit {
    let exception = match heard {
        Heard::Exception(code) => Some(*code),
        _ => None,
    };
    FoundUnit { unit, exception }
}

/// Noise at a rate may be its right rate with the wrong parity: its other frames come next.
fn prefer_rate(waiting: &mut VecDeque<&SerialSettings>, baud: u32) {
    let (same, others): (Vec<_>, Vec<_>) = waiting.drain(..).partition(|s| s.baud == baud);
    waiting.extend(same.into_iter().chain(others));
}

/// How much is done of a search.
struct Effort<'s> {
    search: &'s LineSearch,
    done: usize,
    total: usize,
    left: Duration,
}

impl<'s> Effort<'s> {
    fn new(search: &'s LineSearch) -> Self {
        Self {
            search,
            done: 0,
            total: search.candidates.len() * search.units.len(),
            left: search.longest(),
        }
    }

    fn tell(
        &mut self,
        settings: &SerialSettings,
        unit: u8,
        tell: &mut (dyn FnMut(Progress) + Send),
    ) {
        tell(Progress {
            settings: Some(settings.clone()),
            unit,
            done: self.done,
            total: self.total,
            left: self.left,
        });
        self.done += 1;
        self.left = self.left.saturating_sub(self.search.probe_time(settings));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(settings: &SerialSettings) -> String {
        settings.to_string()
    }

    #[test]
    fn common_settings_come_first() {
        let all = candidates("/dev/ttyS0", &BAUDS, &FRAMES);
        let first: Vec<String> = all.iter().take(5).map(label).collect();
        assert_eq!(
            first,
            [
                "9600 8N1",
                "19200 8N1",
                "9600 8E1",
                "38400 8N1",
                "19200 8E1"
            ]
        );
        assert_eq!(all.len(), BAUDS.len() * FRAMES.len());
        let place = |of: &str| all.iter().position(|s| label(s) == of).unwrap();
        assert!(place("115200 8N1") < place("9600 8N2"));
    }

    #[test]
    fn noise_brings_the_other_frames_of_its_rate_forward() {
        let all = candidates("/dev/ttyS0", &[9_600, 19_200], &FRAMES);
        let mut waiting: VecDeque<&SerialSettings> = all.iter().skip(1).collect();
        prefer_rate(&mut waiting, 19_200);
        let bauds: Vec<u32> = waiting.iter().map(|s| s.baud).collect();
        assert_eq!(bauds, [19_200, 19_200, 19_200, 19_200, 9_600, 9_600, 9_600]);
    }

    #[test]
    fn estimate_is_the_time_of_all_silences() {
        let search = LineSearch {
            candidates: candidates("/dev/ttyS0", &[9_600], &[(Parity::None, 1)]),
            units: (1..=247).collect(),
            timeout: Duration::from_millis(100),
            clock: Arc::new(millrace_tags::SystemClock::new()),
        };
        // 15 bytes of 1.04 ms, 100 ms, 16 bytes and t3.5: 136 ms.
        let seconds = search.longest().as_secs_f64();
        assert!((33.0..34.5).contains(&seconds), "{seconds}");
    }
}
