//! `millrace scan`: who is on a line, who is behind an address, and what can be read there.

mod host;
mod line;
mod printed;
mod progress;
mod report;

use std::process::ExitCode;

use clap::Subcommand;
use millrace_drivers::SessionError;
use millrace_drivers::modbus::scan::FoundUnit;
use millrace_drivers::modbus::{Caller, Identification, Sweep, Table, identify};

use super::advice::failed;
use super::client::block_on;
use super::{Failure, Global};
use report::{Report, UnitReport};

/// `scan`: what is on a network or a line.
#[derive(Debug, Subcommand)]
pub(crate) enum ScanCommand {
    Modbus(host::ModbusArgs),
    Serial(line::SerialArgs),
}

/// Unit ids in the order in which they are asked.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Units(Vec<u8>);

/// `1,2,5-7`
fn units(text: &str) -> Result<Units, String> {
    let mut units: Vec<u8> = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        match (first.trim().parse::<u8>(), last.trim().parse::<u8>()) {
            (Ok(first), Ok(last)) if first <= last => units.extend(first..=last),
            _ => return Err(format!("{part:?} is no unit id from 0 to 255, nor a range")),
        }
    }
    Ok(Units(units))
}

impl ScanCommand {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        match self {
            ScanCommand::Modbus(args) => block_on(args.run(global)),
            ScanCommand::Serial(args) => block_on(args.run(global)),
        }
    }
}

/// In the order in which most devices have something in them.
const TABLES: [Table; 4] = [Table::Holding, Table::Input, Table::Coil, Table::Discrete];

/// Who a found unit is, and an address that it can be read at.
async fn about(caller: &mut Caller, found: &FoundUnit) -> anyhow::Result<UnitReport> {
    let identified = identify(caller, found.unit).await?;
    let identification = identified.as_ref().map(Identification::summary);
    let sweep = Sweep {
        addresses: 0..=0,
        step: 1,
    };
    let mut readable = None;
    for table in TABLES {
        let swept = sweep.run(caller, found.unit, table, &mut |_| {}).await?;
        if !swept.ranges.is_empty() {
            readable = Some(format!("{table}:0"));
            break;
        }
    }
    Ok(UnitReport {
        unit: found.unit,
        exception: found.exception,
        identification: identification.filter(|text| !text.is_empty()),
        readable,
        tables: Vec::new(),
    })
}

fn no_way(error: SessionError) -> Failure {
    failed("the search cannot go on", error)
}

/// Found something: 0.
fn verdict(report: &Report) -> ExitCode {
    match report.units.is_empty() {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_checked() {
        assert_eq!(units("1,5-7"), Ok(Units(vec![1, 5, 6, 7])));
        assert!(units("7-5").is_err() && units("256").is_err() && units("").is_err());
    }
}
