//! `millrace read --on URL`, `write --on URL`: values of a device that no configuration names.

use std::sync::Arc;
use std::time::Duration;

use millrace_drivers::SessionError;
use millrace_drivers::modbus::{
    Address, AddressError, DataType, OrderError, Parity, PointSpec, SerialSettings, TypeError,
    WordOrder,
};
use millrace_drivers::opcua::{self, NodeAddress, NodeAddressError, Security, Settings};
use millrace_tags::{Clock, Sample, SystemClock, TagId, Value};
use serde::Serialize;

use super::client::block_on;
use super::{Failure, Global, reach};
use crate::live::{TagLabel, tag_row, value_json};
use crate::report::TagRow;

/// The port that Modbus TCP has.
const MODBUS_PORT: u16 = 502;
/// The unit of a device that stands alone.
const UNIT_DEFAULT: u8 = 1;

/// A device as typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// `tcp://host:port/unit`
    Modbus {
        /// Host and port.
        address: String,
        /// Unit id.
        unit_id: u8,
    },
    /// `rtu+tcp://host:port/unit`
    RtuOverTcp {
        /// Host and port.
        address: String,
        /// Unit id.
        unit_id: u8,
    },
    /// `/dev/ttyUSB0,9600,8E1/3`
    Serial {
        /// The port and its settings.
        settings: SerialSettings,
        /// Unit id.
        unit_id: u8,
    },
    /// `opc.tcp://…`
    OpcUa(String),
}

/// What to read, as typed.
pub(super) struct Wanted<'a> {
    pub(super) addresses: &'a [String],
    pub(super) value_type: Option<&'a str>,
    pub(super) order: Option<&'a str>,
    pub(super) security: Option<&'a str>,
    pub(super) timeout: Duration,
    pub(super) global: &'a Global,
}

impl Target {
    /// Understands `tcp://host[:port][/unit]` and `opc.tcp://…`.
    pub(super) fn parse(url: &str) -> Result<Self, Failure> {
        if url.starts_with("opc.tcp://") {
            return Ok(Target::OpcUa(url.to_owned()));
        }
        if url.starts_with("/dev/") {
            return serial(url).ok_or_else(|| {
                Failure::usage(format!("{url} names no serial port with its settings"))
                    .hint("/dev/ttyUSB0,9600,8E1/3 is unit 3 at 9600 baud, 8 data bits, even parity, 1 stop bit")
            });
        }
        let (rest, is_rtu) = match (url.strip_prefix("tcp://"), Self::rtu_over_tcp(url)) {
            (Some(rest), _) => (rest, false),
            (None, Some(rest)) => (rest, true),
            (None, None) => return Err(Failure::usage(format!("{url} names no device")).hint(
                "tcp://10.0.0.5:502/1 is unit 1 of a Modbus TCP device, rtu+tcp://10.0.0.5:4001/1 one behind a \
                 serial server, /dev/ttyUSB0,9600,8E1/3 one on a port, opc.tcp://10.0.0.6:4840 an OPC UA server",
            )),
        };
        let (host, unit) = match rest.trim_end_matches('/').split_once('/') {
            Some((host, unit)) => (host, Some(unit)),
            None => (rest.trim_end_matches('/'), None),
        };
        let unit_id = match unit {
            None => UNIT_DEFAULT,
            Some(unit) => unit.parse().map_err(|_| {
                Failure::usage(format!("{unit} in {url} is no unit id"))
                    .hint("units are numbers from 0 to 255")
            })?,
        };
        let address = with_port(host, url)?;
        Ok(match is_rtu {
            true => Target::RtuOverTcp { address, unit_id },
            false => Target::Modbus { address, unit_id },
        })
    }

    fn rtu_over_tcp(url: &str) -> Option<&str> {
        let strip = |scheme| url.strip_prefix(scheme);
        strip("rtu+tcp://").or_else(|| strip("rtu-tcp://"))
    }

    /// As [`Target::parse`], where a host may stand alone and the unit may be left out; the unit where it is not.
    pub(super) fn with_unit(text: &str) -> Result<(Self, Option<u8>), Failure> {
        if text.starts_with('/') {
            let named = text
                .rsplit_once('/')
                .is_some_and(|(_, unit)| unit.parse::<u8>().is_ok());
            let target = match named {
                true => Self::parse(text)?,
                false => Self::parse(&format!("{text}/1"))?,
            };
            let unit = named.then(|| target.unit());
            return Ok((target, unit));
        }
        let url = match text.contains("://") {
            true => text.to_owned(),
            false => format!("tcp://{text}"),
        };
        let target = Self::parse(&url)?;
        let rest = url.split_once("://").map_or("", |(_, rest)| rest);
        let named = rest.trim_end_matches('/').contains('/');
        let unit = named.then(|| target.unit());
        Ok((target, unit))
    }

    /// The unit; 0 of an OPC UA server.
    pub(super) fn unit(&self) -> u8 {
        match self {
            Target::Modbus { unit_id, .. }
            | Target::RtuOverTcp { unit_id, .. }
            | Target::Serial { unit_id, .. } => *unit_id,
            Target::OpcUa(_) => 0,
        }
    }

    /// The host, or the port.
    pub(super) fn place(&self) -> String {
        match self {
            Target::Modbus { address, .. } | Target::RtuOverTcp { address, .. } => address.clone(),
            Target::Serial { settings, .. } => settings.port.clone(),
            Target::OpcUa(url) => url.clone(),
        }
    }

    /// Those of a serial port.
    pub(super) fn settings(&self) -> Option<&SerialSettings> {
        match self {
            Target::Serial { settings, .. } => Some(settings),
            _ => None,
        }
    }

    /// Parity and stop bits, written as `8E1`; RTU always has 8 data bits.
    pub(super) fn frame(text: &str) -> Option<(Parity, u8)> {
        let &[b'8', parity, stop_bits @ b'1'..=b'2'] = text.as_bytes() else {
            return None;
        };
        let parity = match parity {
            b'N' | b'n' => Parity::None,
            b'O' | b'o' => Parity::Odd,
            b'E' | b'e' => Parity::Even,
            _ => return None,
        };
        Some((parity, stop_bits - b'0'))
    }
}

/// Reads `PORT,BAUD,8E1/UNIT`.
fn serial(text: &str) -> Option<Target> {
    let (port, rest) = text.split_once(',')?;
    let (baud, rest) = rest.split_once(',')?;
    let (frame, unit) = rest.split_once('/')?;
    let mut settings = SerialSettings::new(port);
    settings.baud = baud.parse().ok().filter(|baud| *baud > 0)?;
    (settings.parity, settings.stop_bits) = Target::frame(frame)?;
    let unit_id = unit.parse().ok().filter(|unit| (1..=247).contains(unit))?;
    Some(Target::Serial { settings, unit_id })
}

fn with_port(host: &str, url: &str) -> Result<String, Failure> {
    let bracketed = host.ends_with(']');
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !bracketed => (name, Some(port)),
        _ => (host, None),
    };
    if name.is_empty() {
        return Err(Failure::usage(format!("{url} names no host")));
    }
    if name.contains(':') && !name.ends_with(']') {
        return Err(Failure::usage(format!("{host} in {url} is ambiguous"))
            .hint("IPv6 addresses stand in brackets: tcp://[fe80::1]:502/1"));
    }
    let port: u16 = match port {
        None => MODBUS_PORT,
        Some(port) => port
            .parse()
            .map_err(|_| Failure::usage(format!("{port} in {url} is no port")))?,
    };
    Ok(format!("{name}:{port}"))
}

/// Connects, reads each address once, says goodbye.
pub(super) fn read(target: &Target, wanted: &Wanted<'_>) -> anyhow::Result<Vec<TagRow>> {
    match target {
        Target::OpcUa(url) => read_opcua(&wanted.opcua_settings(url)?, &wanted.nodes()?),
        _ => read_modbus(target, wanted, &wanted.points()?),
    }
}

fn read_modbus(
    target: &Target,
    wanted: &Wanted<'_>,
    points: &[PointSpec],
) -> anyhow::Result<Vec<TagRow>> {
    let clock: Arc<dyn Clock> = reach::clock();
    block_on(async {
        let mut way = reach::way(target, wanted.timeout, wanted.global).await?;
        let mut rows = Vec::new();
        for point in points {
            let sample = way.caller.read(target.unit(), point).await;
            let sample = sample.map_err(unreachable)?;
            rows.push(row(point.address().to_string(), &sample, &*clock));
        }
        Ok(rows)
    })
}

/// What a write did.
#[derive(Debug, Serialize)]
pub(super) struct Written {
    pub(super) address: String,
    /// Before; nothing after a broadcast.
    pub(super) old: Option<serde_json::Value>,
    /// Now, as the device says; nothing after a broadcast.
    pub(super) read_back: Option<serde_json::Value>,
}

/// Connects, writes one value and reads it back.
pub(super) fn write(target: &Target, wanted: &Wanted<'_>, text: &str) -> anyhow::Result<Written> {
    if let Target::OpcUa(url) = target {
        return Err(Failure::new(format!("{url} cannot be written yet")).into());
    }
    let points = wanted.points()?;
    let Some(point) = points.first() else {
        return Err(Failure::usage("there is no address to write to").into());
    };
    let value = typed(text, point.data_type());
    block_on(async {
        let mut way = reach::way(target, wanted.timeout, wanted.global).await?;
        let report = way.caller.write(target.unit(), point, &value).await;
        let report =
            report.map_err(|error| Failure::new("nothing is sure to be written").because(error))?;
        Ok(Written {
            address: point.address().to_string(),
            old: report.old.as_ref().map(value_json),
            read_back: report.read_back.as_ref().map(value_json),
        })
    })
}

/// What was typed, as the kind of value that the type takes; the encoder refuses what does not fit.
fn typed(text: &str, data_type: DataType) -> Value {
    let plain = text.trim();
    match data_type {
        DataType::Text(_) => return Value::Text(text.into()),
        DataType::Array(..) => return Value::Json(plain.into()),
        _ => {}
    }
    if let Ok(number) = plain.parse::<u64>() {
        return Value::U64(number);
    }
    if let Ok(number) = plain.parse::<i64>() {
        return Value::I64(number);
    }
    match plain.to_ascii_lowercase().as_str() {
        "true" | "on" => Value::Bool(true),
        "false" | "off" => Value::Bool(false),
        _ => plain
            .parse::<f64>()
            .map_or_else(|_| Value::Text(plain.into()), Value::F64),
    }
}

fn read_opcua(settings: &Settings, nodes: &[NodeAddress]) -> anyhow::Result<Vec<TagRow>> {
    let clock = SystemClock::new();
    block_on(async {
        let mut rows = Vec::new();
        for node in nodes {
            let read = opcua::read_once(settings.clone(), node).await;
            let (value, quality, source_time) = read.map_err(unreachable)?;
            let sample = Sample {
                tag: TagId(0),
                value,
                quality,
                source_time,
                gateway_time: clock.now(),
            };
            rows.push(row(node.to_string(), &sample, &clock));
        }
        Ok(rows)
    })
}

fn unreachable(error: SessionError) -> Failure {
    let failure = Failure::new("nothing was read");
    match &error {
        // It names the way out itself.
        SessionError::Refused { .. } => failure,
        _ => failure.hint("is the device on, is the address right, does a firewall stand between?"),
    }
    .because(error)
}

fn row(address: String, sample: &Sample, clock: &dyn Clock) -> TagRow {
    let label = TagLabel {
        full_name: address,
        unit: None,
    };
    tag_row(&label, Some(sample), clock)
}

impl Wanted<'_> {
    fn points(&self) -> anyhow::Result<Vec<PointSpec>> {
        let mut points = Vec::new();
        for text in self.addresses {
            let address: Address = text.parse().map_err(|e: AddressError| bad(&e, e.hint()))?;
            let data_type = match self.value_type {
                Some(name) => name.parse().map_err(|e: TypeError| bad(&e, e.hint()))?,
                None => PointSpec::default_type(address).unwrap_or(DataType::U16),
            };
            let order = match self.order {
                Some(name) => name.parse().map_err(|e: OrderError| bad(&e, e.hint()))?,
                None => WordOrder::default(),
            };
            let point = PointSpec::new(address, data_type, order);
            points.push(point.map_err(|e| bad(&e, e.hint()))?);
        }
        Ok(points)
    }

    fn nodes(&self) -> anyhow::Result<Vec<NodeAddress>> {
        let mut nodes = Vec::new();
        for text in self.addresses {
            let node = text.parse();
            nodes.push(node.map_err(|e: NodeAddressError| bad(&e, e.hint()))?);
        }
        Ok(nodes)
    }

    fn opcua_settings(&self, url: &str) -> anyhow::Result<Settings> {
        if self.value_type.is_some() || self.order.is_some() {
            let failure = Failure::usage("an OPC UA server knows its types and orders");
            return Err(failure.hint("leave --type and --order away").into());
        }
        let security = Security::from_keys(self.security, None);
        Ok(Settings {
            security: security.map_err(|e| bad(&e, e.hint()))?,
            timeout: self.timeout,
            ..Settings::new(url, url, self.global.pki_dir())
        })
    }
}

/// A part of the command that cannot be understood.
pub(super) fn bad(error: &dyn std::error::Error, hint: impl Into<String>) -> Failure {
    Failure::usage(error.to_string()).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn modbus(address: &str, unit_id: u8) -> Target {
        Target::Modbus {
            address: address.into(),
            unit_id,
        }
    }

    #[test]
    fn targets() {
        for (url, target) in [
            ("tcp://10.0.0.5", modbus("10.0.0.5:502", 1)),
            ("tcp://10.0.0.5/", modbus("10.0.0.5:502", 1)),
            ("tcp://10.0.0.5:1502/17", modbus("10.0.0.5:1502", 17)),
            ("tcp://plc.local/3", modbus("plc.local:502", 3)),
            (
                "rtu+tcp://10.0.0.5:4001/3",
                Target::RtuOverTcp {
                    address: "10.0.0.5:4001".into(),
                    unit_id: 3,
                },
            ),
            ("tcp://[fe80::1]", modbus("[fe80::1]:502", 1)),
            ("tcp://[fe80::1]:503/2", modbus("[fe80::1]:503", 2)),
            (
                "opc.tcp://h:4840/x",
                Target::OpcUa("opc.tcp://h:4840/x".into()),
            ),
        ] {
            assert_eq!(Target::parse(url).unwrap(), target, "{url}");
        }
    }

    #[test]
    fn serial_targets_have_every_setting() {
        let target = Target::parse("/dev/serial/by-id/usb-1,19200,8N2/17").unwrap();
        let mut settings = SerialSettings::new("/dev/serial/by-id/usb-1");
        settings.parity = Parity::None;
        settings.stop_bits = 2;
        let unit_id = 17;
        assert_eq!(target, Target::Serial { settings, unit_id });
    }

    fn wanted<'a>(
        global: &'a Global,
        addresses: &'a [String],
        value_type: Option<&'a str>,
    ) -> Wanted<'a> {
        Wanted {
            addresses,
            value_type,
            order: None,
            security: None,
            timeout: Duration::from_secs(1),
            global,
        }
    }

    #[test]
    fn types_have_defaults() {
        let addresses = ["holding:7", "coil:1", "holding:2.3", "40001"].map(String::from);
        let points = wanted(&Global::default(), &addresses, None)
            .points()
            .unwrap();
        let types: Vec<DataType> = points.iter().map(PointSpec::data_type).collect();
        assert_eq!(
            types,
            [DataType::U16, DataType::Bool, DataType::Bool, DataType::U16]
        );
    }

    #[test]
    fn bad_parts_are_usage_with_a_hint() {
        for (address, value_type) in [
            ("5", None),
            ("holding:0", Some("float")),
            ("coil:0", Some("f32")),
        ] {
            let error = wanted(&Global::default(), &[address.into()], value_type)
                .points()
                .unwrap_err();
            let failure = error.downcast_ref::<Failure>().unwrap();
            assert_eq!(failure.exit_code(), 2, "{address}");
            assert!(
                super::super::failure::text(&error).contains("hint: "),
                "{error}"
            );
        }
        let typed = wanted(&Global::default(), &[], Some("f32")).opcua_settings("opc.tcp://h:4840");
        assert!(typed.unwrap_err().to_string().contains("knows its types"));
    }

    #[test]
    fn what_is_no_target() {
        for (url, part, exit) in [
            ("/dev/ttyUSB0,9600,8E1/0", "no serial port", 2),
            ("/dev/ttyUSB0,fast,8E1/1", "no serial port", 2),
            ("/dev/ttyUSB0,9600,8X1/1", "no serial port", 2),
            ("/dev/ttyUSB0,9600,7E1/1", "no serial port", 2),
            ("10.0.0.5:502", "names no device", 2),
            ("http://10.0.0.5", "names no device", 2),
            ("tcp://10.0.0.5/256", "256", 2),
            ("tcp://10.0.0.5:x/1", "no port", 2),
            ("tcp:///1", "names no host", 2),
            ("tcp://fe80::1:502", "ambiguous", 2),
        ] {
            let failure = Target::parse(url).unwrap_err();
            assert!(failure.to_string().contains(part), "{url}: {failure}");
            assert_eq!(failure.exit_code(), exit, "{url}");
        }
    }

    #[test]
    fn units_may_be_left_out_of_a_scan() {
        for (text, place, unit) in [
            ("10.0.0.5", "10.0.0.5:502", None),
            ("10.0.0.5:1502", "10.0.0.5:1502", None),
            ("tcp://10.0.0.5/7", "10.0.0.5:502", Some(7)),
            ("rtu+tcp://10.0.0.5:4001", "10.0.0.5:4001", None),
            ("/dev/ttyS1,9600,8E1", "/dev/ttyS1", None),
            ("/dev/ttyS1,9600,8E1/3", "/dev/ttyS1", Some(3)),
        ] {
            let (target, named) = Target::with_unit(text).unwrap();
            assert_eq!((target.place().as_str(), named), (place, unit), "{text}");
        }
    }

    #[test]
    fn values_are_typed_as_the_type_takes_them() {
        assert_eq!(typed("7", DataType::U16), Value::U64(7));
        assert_eq!(typed("-7", DataType::I16), Value::I64(-7));
        assert_eq!(typed("2.5", DataType::F32), Value::F64(2.5));
        assert_eq!(typed("on", DataType::Bool), Value::Bool(true));
        assert_eq!(typed(" 7", DataType::Text(4)), Value::Text(" 7".into()));
        assert_eq!(
            typed("[1,2]", "u16[2]".parse().unwrap()),
            Value::Json("[1,2]".into())
        );
    }
}
