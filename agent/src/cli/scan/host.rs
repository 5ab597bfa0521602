//! `millrace scan modbus`: the units behind an address, and what can be read of each.

use std::ops::RangeInclusive;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use millrace_drivers::modbus::scan::{self, FoundUnit, Progress};
use millrace_drivers::modbus::{Caller, Sweep};

use super::super::reach;
use super::super::target::Target;
use super::super::{Global, output};
use super::printed::{host_config, ranges_csv, units_csv};
use super::progress::{Bar, stopped};
use super::report::{Report, table_report};
use super::{TABLES, Units, about, no_way, units, verdict};

/// Find the units behind an address, and what can be read of each
///
/// A range of at least --step addresses is found with its exact bounds, a shorter one if one of its
/// addresses is a multiple of it. Prints the configuration of what was found; Ctrl-C ends the search and
/// prints what was found so far.
#[derive(Debug, Args)]
pub(crate) struct ModbusArgs {
    /// `HOST[:PORT]`, or as with `read --on`: tcp://HOST, rtu+tcp://HOST:PORT, /dev/ttyUSB0,9600,8E1/3
    #[arg(value_name = "HOST")]
    host: String,
    /// Units to ask [default: 1-247, or the one that is named]
    #[arg(long, value_name = "LIST", value_parser = units)]
    units: Option<Units>,
    /// Addresses to look at
    #[arg(long, value_name = "FIRST-LAST", default_value = "0-9999", value_parser = addresses)]
    addresses: RangeInclusive<u16>,
    /// How far apart addresses are asked for alone where a block is refused; 1 asks for each
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..))]
    step: u16,
    /// Only find the units
    #[arg(long)]
    units_only: bool,
    /// How long a unit may take to answer
    #[arg(long, value_name = "DURATION", default_value = "500ms", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// Print unit,table,first,last lines instead of configuration; with --units-only unit,exception,identification
    #[arg(long)]
    csv: bool,
}

/// A device that answers as all of these does not look at the unit id.
const ANY_UNIT: [u8; 6] = [1, 2, 45, 101, 190, 247];

impl ModbusArgs {
    pub(super) async fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let (target, named) = Target::with_unit(&self.host)?;
        let mut way = reach::way(&target, self.timeout, global).await?;
        let mut report = Report {
            at: target.place(),
            line: way.line.as_ref().map(|line| line.name.clone()),
            settings: target.settings().map(ToString::to_string),
            ..Report::default()
        };
        let units = match (&self.units, named) {
            (Some(Units(units)), _) => units.clone(),
            (None, Some(unit)) => vec![unit],
            (None, None) => (1..=247).collect(),
        };
        let mut found = Vec::new();
        let looking = self.look(&mut way.caller, units, &mut found, &mut report);
        let interrupted = stopped(looking).await?;
        report.interrupted = interrupted;
        report.keep(&found);
        if global.json {
            output::json(&report)?;
        } else if self.csv && self.units_only {
            output::text(&units_csv(&report))?;
        } else if self.csv {
            output::text(&ranges_csv(&report))?;
        } else {
            output::text(&host_config(&report, &target))?;
        }
        Ok(verdict(&report))
    }

    async fn look(
        &self,
        caller: &mut Caller,
        mut units: Vec<u8>,
        found: &mut Vec<FoundUnit>,
        report: &mut Report,
    ) -> anyhow::Result<()> {
        let bar = Bar::new();
        if units.len() > ANY_UNIT.len() {
            let mut tell = |progress: Progress| bar.show(&progress);
            scan::find_units(caller, &ANY_UNIT, self.timeout, found, &mut tell)
                .await
                .map_err(no_way)?;
            report.others_refuse = common_refusal(found);
            report.any_unit = found.len() == ANY_UNIT.len() && report.others_refuse.is_none();
            if report.any_unit {
                found.clear();
                units.truncate(1);
            }
            units.retain(|unit| !ANY_UNIT.contains(unit) || report.any_unit);
        }
        let mut tell = |progress: Progress| bar.show(&progress);
        scan::find_units(caller, &units, self.timeout, found, &mut tell)
            .await
            .map_err(no_way)?;
        if let Some(code) = report.others_refuse {
            let is_there = |unit: &FoundUnit| unit.exception != Some(code);
            report.any_unit = !found.iter().any(is_there);
            match report.any_unit {
                true => found.truncate(1),
                false => found.retain(is_there),
            }
        }
        for unit in found {
            report.units.push(about(caller, unit).await?);
        }
        if self.units_only {
            return Ok(());
        }
        let sweep = Sweep {
            addresses: self.addresses.clone(),
            step: self.step,
        };
        for unit in &mut report.units {
            for table in TABLES {
                let id = unit.unit;
                let mut tell = |at| bar.say(&format!("unit {id}: {table}:{at}"));
                let found = sweep.run(caller, id, table, &mut tell).await?;
                let first = found.ranges.first().map(|range| range.start());
                if let Some(first) = first.filter(|_| unit.readable.is_none()) {
                    unit.readable = Some(format!("{table}:{first}"));
                }
                unit.tables.push(table_report(&found));
            }
        }
        Ok(())
    }
}

/// The exception by which a host refuses units that it does not have, where it answers for all of [`ANY_UNIT`].
fn common_refusal(found: &[FoundUnit]) -> Option<u8> {
    let times = |code: u8| {
        found
            .iter()
            .filter(|unit| unit.exception == Some(code))
            .count()
    };
    let codes = found.iter().filter_map(|unit| unit.exception);
    let most = codes.max_by_key(|code| times(*code))?;
    (found.len() == ANY_UNIT.len() && times(most) > ANY_UNIT.len() / 2).then_some(most)
}

fn addresses(text: &str) -> Result<RangeInclusive<u16>, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.trim().parse(), last.trim().parse()) {
        (Ok(first), Ok(last)) if first <= last => Ok(first..=last),
        _ => Err(format!("{text:?} is no range of addresses such as 0-9999")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_that_all_have_says_nothing_of_a_unit() {
        let found = |exceptions: &[Option<u8>]| -> Vec<FoundUnit> {
            let units = ANY_UNIT.iter().zip(exceptions);
            units
                .map(|(unit, exception)| FoundUnit {
                    unit: *unit,
                    exception: *exception,
                })
                .collect()
        };
        assert_eq!(common_refusal(&found(&[Some(4); 6])), Some(4));
        let one_is_there = [None, Some(4), Some(4), Some(4), Some(4), Some(4)];
        assert_eq!(common_refusal(&found(&one_is_there)), Some(4));
        assert_eq!(common_refusal(&found(&[None; 6])), None);
        assert_eq!(common_refusal(&found(&[Some(2), Some(2)])), None);
    }

    #[test]
    fn addresses_are_checked() {
        assert_eq!(addresses("10-20"), Ok(10..=20));
        assert!(addresses("9-1").is_err());
    }
}
