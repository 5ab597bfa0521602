//! `millrace read --on URL`: values of a device that no configuration names.

use std::time::Duration;

use super::Failure;
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
    /// `opc.tcp://…`
    OpcUa(String),
}

/// What to read, as typed.
pub(super) struct Wanted<'a> {
    pub(super) addresses: &'a [String],
    pub(super) value_type: Option<&'a str>,
    pub(super) order: Option<&'a str>,
    pub(super) timeout: Duration,
}

impl Target {
    /// Understands `tcp://host[:port][/unit]` and `opc.tcp://…`.
    pub(super) fn parse(url: &str) -> Result<Self, Failure> {
        if url.starts_with("opc.tcp://") {
            return Ok(Target::OpcUa(url.to_owned()));
        }
        if url.starts_with("/dev/") {
            return Err(Failure::new(format!(
                "serial lines such as {url} are not in this version yet; reach the device through a \
                 Modbus TCP gateway, as tcp://HOST:502/UNIT"
            )));
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
    let _ = (target, wanted.addresses, wanted.value_type, wanted.order, wanted.timeout);
    anyhow::bail!("soon")
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
    fn what_is_no_target() {
        for (url, part, exit) in [
            ("/dev/ttyUSB0,9600,8E1/3", "serial lines", 1),
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
