//! Modbus lines and devices for the tools of the field, and what is heard of them.

use serde::{Deserialize, Serialize};

/// What tools have to know of the Modbus lines and devices that run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct ModbusReport {
    /// Lines, whose ports nobody else should open.
    pub(crate) lines: Vec<LineReport>,
    /// Devices.
    pub(crate) units: Vec<UnitReport>,
}

/// One line.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct LineReport {
    /// Its name; the address of a line behind a network.
    pub(crate) name: String,
    /// The serial port, or the address.
    pub(crate) port: String,
    /// As `9600 8E1`; not known behind a network.
    pub(crate) settings: Option<String>,
}

/// One Modbus device.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct UnitReport {
    /// Its name.
    pub(crate) device: String,
    /// `modbus-tcp`, `modbus-rtu` …
    pub(crate) driver: String,
    /// `host:port`, or its line.
    pub(crate) address: String,
    /// Its unit.
    pub(crate) unit_id: u8,
}

/// One line of what is heard of a device or a line.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum TraceLine {
    /// Once, and again where a new configuration has replaced the old one.
    Of(TracePoint),
    /// What was heard.
    Piece(TracePiece),
}

/// Whom a trace listens to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TracePoint {
    /// The device or the line, as asked.
    pub(crate) name: String,
    /// `tcp` or `rtu`.
    pub(crate) framing: String,
    /// Of a device that shares a line with others: its unit.
    pub(crate) unit: Option<u8>,
}

/// What went over a link at one time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TracePiece {
    /// On the monotonic clock of this boot.
    pub(crate) ns: i64,
    /// Which connection.
    pub(crate) link: u64,
    /// `sent`, `received` or `lost`.
    pub(crate) way: String,
    /// Two digits a byte.
    pub(crate) hex: String,
    /// Pieces before this one that were dropped.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) missed: u64,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}
