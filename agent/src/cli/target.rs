//! A device as typed: `tcp://10.0.0.5:502/1`, `/dev/ttyUSB0,9600,8E1/3`, `opc.tcp://…`.

use millrace_drivers::modbus::{Parity, SerialSettings};

use super::Failure;

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
}
