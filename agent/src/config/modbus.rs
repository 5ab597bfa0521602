//! `driver = "modbus-tcp"`: how a Modbus device is reached.

use std::fmt;
use std::str::FromStr;

use millrace_drivers::modbus::TcpSettings;
use millrace_drivers::modbus::plan::Limits;

use super::complaint::Complaint;
use super::section::Section;

/// The registered port of Modbus TCP.
const PORT_DEFAULT: u16 = 502;

/// A host and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
struct HostPort {
    /// A name or an IP address, without brackets.
    host: String,
    /// The TCP port.
    port: u16,
}

/// Why a text is no host with a port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum HostPortError {
    /// It is a URL.
    #[error("a host, or a host and a port is expected, not a URL")]
    Url,
    /// There is no host in it.
    #[error("a host, or a host and a port is expected")]
    Host,
    /// The port is none.
    #[error("a port is a number from 1 to 65535")]
    Port,
}

impl FromStr for HostPort {
    type Err = HostPortError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        if text.contains("://") {
            return Err(HostPortError::Url);
        }
        let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, "")) => (host, None),
            Some((host, rest)) => (
                host,
                Some(rest.strip_prefix(':').ok_or(HostPortError::Host)?),
            ),
            None => match text.split_once(':') {
                // More than one colon: an IPv6 address, whose port could be its last group.
                Some((_, rest)) if rest.contains(':') => return Err(HostPortError::Host),
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        let fits = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        if host.is_empty() || !host.chars().all(fits) {
            return Err(HostPortError::Host);
        }
        let port = match port {
            None => PORT_DEFAULT,
            Some(port) => port
                .parse()
                .ok()
                .filter(|port| *port != 0)
                .ok_or(HostPortError::Port)?,
        };
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Reads the keys of the driver.
pub(super) fn read(section: &Section<'_>, device: &str) -> Option<TcpSettings> {
    let address = section.form("address", |text| {
        text.parse::<HostPort>().map_err(|error| {
            let hint = match error {
                HostPortError::Url if text.starts_with("opc.tcp://") => {
                    "opc.tcp:// is OPC UA: set driver = \"opcua\""
                }
                _ => "for example 10.0.0.5:502, plc.plant.example or [fe80::1]:502",
            };
            Complaint::new(error.to_string()).hint(hint)
        })
    });
    let unit_id = section.integer("unit_id");
    let max_registers = section.integer("max_registers");
    let max_coils = section.integer("max_coils");
    let timeout = section.duration("timeout");
    let mut settings = TcpSettings::new(device, address?.to_string());
    settings.unit_id = unit_id?;
    settings.limits = Limits {
        max_registers: max_registers?,
        max_coils: max_coils?,
        ..settings.limits
    };
    if let Some(timeout) = timeout {
        settings.timeout = timeout;
    }
    Some(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ports() {
        for (text, shown) in [
            ("10.0.0.5", "10.0.0.5:502"),
            ("plc-1:1502", "plc-1:1502"),
            ("[fe80::1]", "[fe80::1]:502"),
        ] {
            assert_eq!(text.parse::<HostPort>().unwrap().to_string(), shown);
        }
        for text in [
            "", ":502", "a:0", "a:99999", "fe80::1", "tcp://a", "a b", "[::1]x",
        ] {
            assert!(text.parse::<HostPort>().is_err(), "{text}");
        }
    }
}
