//! What a scan found, and what of it was not looked at.

use std::ops::RangeInclusive;

use millrace_drivers::modbus::Readable;
use millrace_drivers::modbus::scan::FoundUnit;
use serde::Serialize;

/// A unit as found.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct UnitReport {
    pub(super) unit: u8,
    /// With which exception it refused holding:0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) exception: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) identification: Option<String>,
    /// An address that can be read, for a first tag.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) readable: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) tables: Vec<TableReport>,
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct TableReport {
    pub(super) table: &'static str,
    pub(super) offered: bool,
    /// First and last address.
    pub(super) ranges: Vec<[u16; 2]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) max_quantity: Option<u16>,
    pub(super) requests: u32,
    /// The unit stopped answering there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) gave_up_at: Option<u16>,
}

/// What a scan found, and what of it was not looked at.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Report {
    /// The port or the address.
    pub(super) at: String,
    /// The agent's line, where it went through it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) line: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) settings: Option<String>,
    pub(super) units: Vec<UnitReport>,
    /// Settings at which something was heard that is no frame.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) noise_at: Vec<String>,
    /// The device answers to every unit id.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) any_unit: bool,
    /// With this exception it answers for units that it does not have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) others_refuse: Option<u8>,
    /// Ctrl-C came before the end.
    pub(super) interrupted: bool,
}

impl Report {
    /// Units that were found, and not looked at before Ctrl-C.
    pub(super) fn keep(&mut self, found: &[FoundUnit]) {
        for found in found {
            if self.units.iter().all(|unit| unit.unit != found.unit) {
                self.units.push(UnitReport {
                    unit: found.unit,
                    exception: found.exception,
                    ..UnitReport::default()
                });
            }
        }
    }
}

pub(super) fn table_report(found: &Readable) -> TableReport {
    let range = |range: &RangeInclusive<u16>| [*range.start(), *range.end()];
    TableReport {
        table: found.table.name(),
        offered: found.offered,
        ranges: found.ranges.iter().map(range).collect(),
        max_quantity: found.max_quantity,
        requests: found.requests,
        gave_up_at: found.gave_up_at,
    }
}
