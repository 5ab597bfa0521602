//! `millrace read --on URL`: values of a device that no configuration names.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use millrace_drivers::SessionError;
use millrace_drivers::modbus::{
    self, Address, AddressError, DataType, Line, OrderError, Parity, PointSpec, RtuSettings,
    SerialSettings, TcpSettings, TypeError, WordOrder,
};
use millrace_drivers::opcua::{self, NodeAddress, NodeAddressError, Security, Settings};
use millrace_tags::{Clock, Sample, SystemClock, TagId};

use super::Failure;
use super::client::block_on;
use crate::live::{TagLabel, tag_row};
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
    /// Our certificate and those that are pinned.
    pub(super) pki_dir: PathBuf,
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
        let rest = url.strip_prefix("tcp://").ok_or_else(|| {
            Failure::usage(format!("{url} names no device"))
                .hint("tcp://10.0.0.5:502/1 is unit 1 of a Modbus TCP device, opc.tcp://10.0.0.6:4840 an OPC UA server")
        })?;
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
        Ok(Target::Modbus {
            address: with_port(host, url)?,
            unit_id,
        })
    }
}

/// Reads `PORT,BAUD,8E1/UNIT`.
fn serial(text: &str) -> Option<Target> {
    let (port, rest) = text.split_once(',')?;
    let (baud, rest) = rest.split_once(',')?;
    let (frame, unit) = rest.split_once('/')?;
    let mut settings = SerialSettings::new(port);
    settings.baud = baud.parse().ok().filter(|baud| *baud > 0)?;
    let &[data_bits @ b'7'..=b'8', parity, stop_bits @ b'1'..=b'2'] = frame.as_bytes() else {
        return None;
    };
    settings.data_bits = data_bits - b'0';
    settings.stop_bits = stop_bits - b'0';
    settings.parity = match parity {
        b'N' | b'n' => Parity::None,
        b'O' | b'o' => Parity::Odd,
        b'E' | b'e' => Parity::Even,
        _ => return None,
    };
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
        Target::Modbus { address, unit_id } => {
            let settings = TcpSettings {
                unit_id: *unit_id,
                timeout: wanted.timeout,
                ..TcpSettings::new(address, address)
            };
            read_modbus(&settings, &wanted.points()?)
        }
        Target::Serial { settings, unit_id } => {
            read_serial(settings, *unit_id, wanted.timeout, &wanted.points()?)
        }
        Target::OpcUa(url) => read_opcua(&wanted.opcua_settings(url)?, &wanted.nodes()?),
    }
}

fn read_modbus(settings: &TcpSettings, points: &[PointSpec]) -> anyhow::Result<Vec<TagRow>> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    block_on(async {
        let mut rows = Vec::new();
        for point in points {
            let sample = modbus::read_once(settings, point, &clock).await;
            let sample = sample.map_err(unreachable)?;
            rows.push(row(point.address().to_string(), &sample, &*clock));
        }
        Ok(rows)
    })
}

fn read_serial(
    port: &SerialSettings,
    unit_id: u8,
    timeout: Duration,
    points: &[PointSpec],
) -> anyhow::Result<Vec<TagRow>> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let settings = RtuSettings {
        timeout,
        ..RtuSettings::new(format!("unit {unit_id}"), unit_id)
    };
    block_on(async {
        let line = Line::serial(port.port.clone(), port.clone(), clock.clone());
        let mut rows = Vec::new();
        for point in points {
            let sample = modbus::read_once_on_line(&settings, &line, point).await;
            let sample = sample.map_err(unreachable)?;
            rows.push(row(point.address().to_string(), &sample, &*clock));
        }
        Ok(rows)
    })
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
            ..Settings::new(url, url, self.pki_dir.clone())
        })
    }
}

/// A part of the command that cannot be understood.
fn bad(error: &dyn std::error::Error, hint: impl Into<String>) -> Failure {
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

    fn wanted<'a>(addresses: &'a [String], value_type: Option<&'a str>) -> Wanted<'a> {
        Wanted {
            addresses,
            value_type,
            order: None,
            security: None,
            timeout: Duration::from_secs(1),
            pki_dir: PathBuf::new(),
        }
    }

    #[test]
    fn types_have_defaults() {
        let addresses = ["holding:7", "coil:1", "holding:2.3", "40001"].map(String::from);
        let points = wanted(&addresses, None).points().unwrap();
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
            let error = wanted(&[address.into()], value_type).points().unwrap_err();
            let failure = error.downcast_ref::<Failure>().unwrap();
            assert_eq!(failure.exit_code(), 2, "{address}");
            assert!(
                super::super::failure::text(&error).contains("hint: "),
                "{error}"
            );
        }
        let typed = wanted(&[], Some("f32")).opcua_settings("opc.tcp://h:4840");
        assert!(typed.unwrap_err().to_string().contains("knows its types"));
    }

    #[test]
    fn what_is_no_target() {
        for (url, part, exit) in [
            ("/dev/ttyUSB0,9600,8E1/0", "no serial port", 2),
            ("/dev/ttyUSB0,fast,8E1/1", "no serial port", 2),
            ("/dev/ttyUSB0,9600,8X1/1", "no serial port", 2),
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
}
