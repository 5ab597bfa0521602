//! `driver = "modbus-…"`: how a Modbus device is reached.

use std::fmt;
use std::str::FromStr;

use millrace_drivers::modbus::plan::{Barrier, Limits};
use millrace_drivers::modbus::{Address, RtuSettings, TcpSettings, TlsSettings};

use super::complaint::Complaint;
use super::device::{Connection, Listen, MODBUS_RTU, MODBUS_RTU_TCP, MODBUS_TLS};
use super::files::FileUse;
use super::keys::nearest;
use super::section::Section;
use super::tag::{Tag, TagPoint};

/// The registered port of Modbus TCP.
const PORT_DEFAULT: u16 = 502;

/// The registered port of Modbus Security.
const PORT_SECURITY: u16 = 802;

/// Before the address that we wait on.
const LISTEN: &str = "listen:";

/// Units that can be asked on a serial line.
const UNITS: std::ops::RangeInclusive<u8> = 1..=247;

/// A host and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
struct HostPort {
    /// A name or an IP address, without brackets.
    host: String,
    /// The TCP port, where one is written.
    port: Option<u16>,
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
            None => None,
            Some(port) => {
                let port = port.parse().ok().filter(|port| *port != 0);
                Some(port.ok_or(HostPortError::Port)?)
            }
        };
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

impl HostPort {
    fn with_default(mut self, port: u16) -> Self {
        self.port.get_or_insert(port);
        self
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]", self.host)?,
            false => f.write_str(&self.host)?,
        }
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

/// Reads the keys of the driver. `lines` are the names of all lines; `tags` must keep out of forbidden ranges.
pub(super) fn read(
    section: &Section<'_>,
    device: &str,
    driver: &str,
    lines: &[String],
    tags: &[Tag],
) -> Option<Connection> {
    let limits = read_limits(section);
    let forbidden = read_forbidden(section, tags);
    let unit_id: Option<u8> = section.integer("unit_id");
    let timeout = section.duration("timeout");
    if driver == MODBUS_RTU || driver == MODBUS_RTU_TCP {
        let way = match driver {
            MODBUS_RTU => read_line(section, lines).map(|line| (line, None)),
            _ => read_address(section, None),
        };
        let unit_id = unit_id.filter(|unit| UNITS.contains(unit)).or_else(|| {
            let complaint = Complaint::new("a whole number from 1 to 247 is expected");
            section.complain(
                "unit_id",
                complaint.hint("unit 0 is all units at once, and none of them answers"),
            );
            None
        });
        let (address, dial_in) = way?;
        let mut settings = RtuSettings::new(device, unit_id?);
        settings.limits = limits?;
        settings.forbidden = forbidden?;
        settings.timeout = timeout.unwrap_or(settings.timeout);
        return Some(match driver {
            MODBUS_RTU => Connection::ModbusRtu {
                line: address,
                settings,
            },
            _ => Connection::ModbusRtuTcp {
                address,
                dial_in,
                settings,
            },
        });
    }
    let max_in_flight = section.integer("max_in_flight");
    let (port, tls) = match driver {
        MODBUS_TLS => (PORT_SECURITY, read_tls(section).map(Some)),
        _ => (PORT_DEFAULT, Some(None)),
    };
    let (address, dial_in) = read_address(section, Some(port))?;
    if dial_in.is_some() && driver == MODBUS_TLS {
        section.complain(
            "address",
            Complaint::new("a device of modbus-tls is dialled; it does not dial in"),
        );
        return None;
    }
    let mut settings = TcpSettings::new(device, address);
    settings.unit_id = unit_id?;
    settings.limits = limits?;
    settings.forbidden = forbidden?;
    settings.max_in_flight = max_in_flight?;
    settings.tls = tls?;
    settings.timeout = timeout.unwrap_or(settings.timeout);
    Some(Connection::ModbusTcp { settings, dial_in })
}

fn read_limits(section: &Section<'_>) -> Option<Limits> {
    let max_registers = section.integer("max_registers");
    let max_coils = section.integer("max_coils");
    Some(Limits {
        max_registers: max_registers?,
        max_coils: max_coils?,
        ..Limits::default()
    })
}

/// Ranges that no request may touch. With no tag in it, a range is left alone where none reads across its beginning.
fn read_forbidden(section: &Section<'_>, tags: &[Tag]) -> Option<Vec<Barrier>> {
    if !section.has("forbidden") {
        return Some(Vec::new());
    }
    let mut barriers = Vec::new();
    let mut fine = true;
    for (text, place) in section.texts("forbidden")? {
        let found = parse_range(&text).and_then(|range| match range.tag_within(tags) {
            Some(tag) => Err(
                Complaint::new("a range without tags is expected").hint(format!(
                    "tag {tag} lies in it: remove the tag, or make the range smaller"
                )),
            ),
            None => Ok(range),
        });
        match found {
            Ok(range) => barriers.push(Barrier {
                table: range.first.table,
                at: u32::from(range.first.offset),
            }),
            Err(complaint) => {
                section.complain_at("forbidden", &place, &text, complaint);
                fine = false;
            }
        }
    }
    fine.then_some(barriers)
}

/// Addresses of a table, both ends included.
struct Range {
    first: Address,
    last: u16,
}

fn parse_range(text: &str) -> Result<Range, Complaint> {
    let (first, last) = text.split_once('-').unwrap_or((text, ""));
    let range = first.trim().parse().ok().and_then(|first: Address| {
        let last = match last.trim() {
            "" => first.offset,
            last => last.parse().ok()?,
        };
        let is_range = first.bit.is_none() && last >= first.offset;
        is_range.then_some(Range { first, last })
    });
    range.ok_or_else(|| {
        let complaint = Complaint::new("an address or a range of addresses is expected");
        complaint.hint("for example holding:100 or holding:100-199, both ends included")
    })
}

impl Range {
    fn tag_within<'t>(&self, tags: &'t [Tag]) -> Option<&'t str> {
        let inside = tags.iter().find(|tag| match &tag.point {
            TagPoint::Modbus(spec) => spec.parts().any(|part| {
                let start = u32::from(part.address().offset);
                let end = start + u32::from(part.registers());
                part.address().table == self.first.table
                    && start <= u32::from(self.last)
                    && u32::from(self.first.offset) < end
            }),
            TagPoint::Opcua(_) => false,
        });
        inside.map(|tag| tag.name.as_str())
    }
}

/// The address as shown, and where to listen if the device dials in. Without a default the port must be
/// written.
fn read_address(
    section: &Section<'_>,
    port_default: Option<u16>,
) -> Option<(String, Option<Listen>)> {
    // Where it is no key of the driver, that is said already.
    let may_dial_in = port_default != Some(PORT_SECURITY);
    let source = match may_dial_in && section.has("source") {
        true => section
            .form("source", |text| {
                text.parse()
                    .map_err(|_| Complaint::new("an IP address is expected"))
            })
            .map(Some),
        false => Some(None),
    };
    let address = section.form("address", |text| {
        let listen = text.strip_prefix(LISTEN);
        let parsed: HostPort = listen.unwrap_or(text).parse().map_err(|error| {
            let hint = match error {
                HostPortError::Url if text.starts_with("opc.tcp://") => {
                    "opc.tcp:// is OPC UA: set driver = \"opcua\""
                }
                _ => "for example 10.0.0.5:502, plc.plant.example or [fe80::1]:502",
            };
            Complaint::new(HostPortError::to_string(&error)).hint(hint)
        })?;
        let default = port_default.filter(|_| listen.is_none());
        let address = match (parsed.port, default) {
            (Some(_), _) => parsed,
            (None, Some(port)) => parsed.with_default(port),
            (None, None) => {
                let complaint = Complaint::new("a host and a port is expected");
                return Err(complaint.hint("for example 10.0.0.5:4001 or listen:0.0.0.0:5020"));
            }
        };
        Ok((listen.is_some(), address.to_string()))
    });
    let source = source?;
    let (listens, address) = address?;
    if listens {
        let shown = format!("{LISTEN}{address}");
        return Some((shown, Some(Listen { address, source })));
    }
    if source.is_some() {
        section.complain(
            "source",
            Complaint::whole("source is of a device that dials in; this one is dialled".to_owned())
                .hint("remove it, or set address = \"listen:0.0.0.0:5020\""),
        );
        return None;
    }
    Some((address, None))
}

fn read_line(section: &Section<'_>, lines: &[String]) -> Option<String> {
    section.form("address", |text| {
        if lines.iter().any(|line| line == text) {
            return Ok(text.to_owned());
        }
        let complaint = Complaint::new("the name of a [[line]] is expected");
        Err(match nearest(text, lines.iter().map(String::as_str)) {
            Some(near) => complaint.hint(format!("did you mean {near}?")),
            None if text.starts_with("/dev/") => complaint.hint(format!(
                "add [[line]] with a name and port = \"{text}\", and set address to the name"
            )),
            None => complaint.hint("add [[line]] with this name and the port"),
        })
    })
}

fn read_tls(section: &Section<'_>) -> Option<TlsSettings> {
    let file = |key: &str, used_as: FileUse, what: &str| {
        if !section.has(key) {
            let complaint = Complaint::new("the path of a PEM file is expected");
            section.complain(key, complaint.hint(what.to_owned()));
            return None;
        }
        section.file(key, used_as)
    };
    let ca_file = file(
        "ca_file",
        FileUse::Certificate,
        "whom to trust: the plant's authority, or the server's own certificate",
    );
    let cert_file = file(
        "cert_file",
        FileUse::Certificate,
        "Modbus Security asks both sides for a certificate",
    );
    let key_file = file("key_file", FileUse::Secret, "the key of cert_file");
    let server_name = section
        .has("server_name")
        .then(|| section.text("server_name").map(str::to_owned));
    Some(TlsSettings {
        ca_file: ca_file?,
        cert_file: cert_file?,
        key_file: key_file?,
        server_name: server_name.unwrap_or_default(),
    })
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
            let parsed: HostPort = text.parse().unwrap();
            assert_eq!(parsed.with_default(PORT_DEFAULT).to_string(), shown);
        }
        for text in [
            "", ":502", "a:0", "a:99999", "fe80::1", "tcp://a", "a b", "[::1]x",
        ] {
            assert!(text.parse::<HostPort>().is_err(), "{text}");
        }
    }
}
