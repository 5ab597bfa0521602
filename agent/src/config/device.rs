//! `[[device]]`: what is polled or subscribed, and how it is reached.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use millrace_drivers::modbus::{RtuSettings, TcpSettings};
use millrace_drivers::opcua;

use super::keys::{KeyDoc, Kind, SectionDoc};
use super::names::{self, Taken};
use super::report::Report;
use super::section::Section;
use super::source::Files;
use super::tag::{Inherited, TAG, Tag};
use super::tags_file;
use super::tree::Table;

/// The driver of Modbus over TCP.
pub(crate) const MODBUS_TCP: &str = "modbus-tcp";
/// The driver of Modbus on a serial line.
pub(crate) const MODBUS_RTU: &str = "modbus-rtu";
/// The driver of RTU frames over TCP.
pub(crate) const MODBUS_RTU_TCP: &str = "modbus-rtu-tcp";
/// The driver of Modbus Security.
pub(crate) const MODBUS_TLS: &str = "modbus-tls";
/// Every driver of Modbus.
pub(crate) const MODBUS: &[&str] = &[MODBUS_TCP, MODBUS_RTU, MODBUS_RTU_TCP, MODBUS_TLS];
/// The driver of OPC UA.
pub(crate) const OPCUA: &str = "opcua";

/// Below this the overhead of a request exceeds what a gateway can spend on one tag.
pub(crate) const POLL_INTERVAL_MIN: Duration = Duration::from_millis(10);
/// A tag that is read less than once a day is better read on request.
pub(crate) const POLL_INTERVAL_MAX: Duration = Duration::from_secs(86_400);

/// Most tags in one configuration: ten times the largest load that is tested.
pub(crate) const TAGS_MAX: usize = 100_000;

const TIMEOUT_MIN: Duration = Duration::from_millis(10);
const TIMEOUT_MAX: Duration = Duration::from_secs(120);

/// The table of keys.
pub(crate) const DEVICE: SectionDoc = SectionDoc {
    heading: "[[device]]",
    keys: &[
        KeyDoc::new(
            "name",
            Kind::Form("a name of letters, digits, . _ - and /"),
            "The device's name, unique over devices and models.",
        )
        .required(),
        KeyDoc::new(
            "driver",
            Kind::Choice(&[MODBUS_TCP, MODBUS_RTU, MODBUS_RTU_TCP, MODBUS_TLS, OPCUA]),
            "The protocol that it speaks: Modbus over TCP, on a serial line, as RTU frames over TCP, inside of TLS \
             (Modbus Security); OPC UA.",
        )
        .required(),
        KeyDoc::new(
            "address",
            Kind::Form("an address such as 10.0.0.5:502, the name of a line, or opc.tcp://10.0.0.6:4840"),
            "Where it is: `host`, `host:port` (port 502 where none is written, 802 for modbus-tls; \
             modbus-rtu-tcp has none), the name of a `[[line]]` for modbus-rtu, or `opc.tcp://host:port/path`. \
             `listen:0.0.0.0:5020` waits for a modbus-tcp or modbus-rtu-tcp device that dials in to us, as modems \
             behind 4G do. Devices of modbus-rtu-tcp with one address share it as a line.",
        )
        .required(),
        KeyDoc::new(
            "enabled",
            Kind::Bool,
            "Whether it is polled. A disabled device keeps its place in the configuration and its data.",
        )
        .default("true"),
        KeyDoc::new(
            "poll_interval",
            Kind::Duration {
                min: POLL_INTERVAL_MIN,
                max: POLL_INTERVAL_MAX,
            },
            "From one read of a tag to the next, where the tag has no interval of its own.",
        )
        .default("1s"),
        KeyDoc::new(
            "timeout",
            Kind::Duration {
                min: TIMEOUT_MIN,
                max: TIMEOUT_MAX,
            },
            "How long a connection attempt or a request may take.",
        )
        .means("`1s` for Modbus, `5s` for OPC UA"),
        KeyDoc::new(
            "tags_file",
            Kind::File,
            "A CSV of tags: its first row names keys of `[[device.tag]]`, each further row is a tag. It \
             may stand beside tags that are written inline.",
        ),
        KeyDoc::new("tag", Kind::Tables, "The tags, as `[[device.tag]]`."),
        KeyDoc::new("unit_id", Kind::Integer { min: 0, max: 255 }, "The Modbus unit.")
            .default("1")
            .only(MODBUS),
        KeyDoc::new(
            "max_registers",
            Kind::Integer { min: 1, max: 125 },
            "Most registers in one request; for devices that bring fewer than the protocol allows.",
        )
        .default("125")
        .only(MODBUS),
        KeyDoc::new(
            "max_coils",
            Kind::Integer { min: 1, max: 2000 },
            "Most coils or discrete inputs in one request.",
        )
        .default("2000")
        .only(MODBUS),
        KeyDoc::new(
            "forbidden",
            Kind::Texts,
            "Addresses that no request may touch, not even to save another request: `holding:100`, or \
             `holding:100-199` with both ends. No tag may lie there.",
        )
        .means("none")
        .only(MODBUS),
        KeyDoc::new(
            "max_in_flight",
            Kind::Integer { min: 1, max: 32 },
            "Requests that wait for their replies at the same time. More than 1 helps only with devices that \
             work on several at once, or are far away.",
        )
        .default("1")
        .only(&[MODBUS_TCP, MODBUS_TLS]),
        KeyDoc::new(
            "source",
            Kind::Form("an IP address such as 10.8.0.7"),
            "Where the device dials in from (`listen:`): a connection from there is its, and no other is. \
             Without it, whichever connection answers as its unit.",
        )
        .only(&[MODBUS_TCP, MODBUS_RTU_TCP]),
        KeyDoc::new(
            "ca_file",
            Kind::File,
            "PEM: the authorities, or the server's own certificate, that are trusted.",
        )
        .only(&[MODBUS_TLS]),
        KeyDoc::new("cert_file", Kind::File, "PEM: our certificate.").only(&[MODBUS_TLS]),
        KeyDoc::new("key_file", Kind::File, "PEM: its key.").only(&[MODBUS_TLS]),
        KeyDoc::new(
            "server_name",
            Kind::Text,
            "The name in the server's certificate.",
        )
        .means("the host of the address")
        .only(&[MODBUS_TLS]),
        KeyDoc::new(
            "security",
            Kind::Form("Basic256Sha256, Aes128Sha256RsaOaep, Aes256Sha256RsaPss or None"),
            "The security policy; `None` only where it is written.",
        )
        .means("the best that the server offers, never None")
        .only(&[OPCUA]),
        KeyDoc::new(
            "mode",
            Kind::Form("sign or sign-and-encrypt"),
            "What the policy is applied for.",
        )
        .means("`sign-and-encrypt`")
        .only(&[OPCUA]),
        KeyDoc::new("username", Kind::Text, "The user to log in as; without it, anonymous.").only(&[OPCUA]),
        KeyDoc::new(
            "password_file",
            Kind::Secret,
            "The file that holds the user's password, or `credential:NAME`.",
        )
        .only(&[OPCUA]),
        KeyDoc::new(
            "user_cert_file",
            Kind::File,
            "The certificate (DER or PEM) to log in with, instead of a user name.",
        )
        .only(&[OPCUA]),
        KeyDoc::new(
            "user_key_file",
            Kind::Secret,
            "PEM: the key of `user_cert_file`, or `credential:NAME`.",
        )
        .only(&[OPCUA]),
        KeyDoc::new(
            "server_cert_file",
            Kind::File,
            "The server's certificate, or its authority's (DER or PEM), to trust besides those in `<data_dir>/pki/trusted`.",
        )
        .only(&[OPCUA]),
        KeyDoc::new(
            "check_host",
            Kind::Bool,
            "Whether the server's certificate has to be for the host of the address.",
        )
        .means("only where an authority vouches for it, not where it is pinned")
        .only(&[OPCUA]),
        KeyDoc::new(
            "tolerate",
            Kind::Texts,
            "Faults of the server's certificate that are remarked in `status` and forbid nothing: `validity` (its time has \
             passed or has not come), `application` (it is for another application URI), `usage` (it is not meant for a \
             server).",
        )
        .only(&[OPCUA]),
        KeyDoc::new(
            "collect",
            Kind::Choice(&["subscribe", "poll"]),
            "Whether the server sends changes, or every tag is read at its interval.",
        )
        .default("subscribe")
        .only(&[OPCUA]),
        KeyDoc::new(
            "publish_interval",
            Kind::Duration {
                min: Duration::from_millis(10),
                max: Duration::from_secs(3600),
            },
            "How often the server sends what has changed.",
        )
        .default("1s")
        .only(&[OPCUA]),
        KeyDoc::new(
            "sampling_interval",
            Kind::Duration {
                min: Duration::ZERO,
                max: POLL_INTERVAL_MAX,
            },
            "How often the server looks at a node; 0s: it sends every change that it hears of.",
        )
        .means("the tag's poll_interval")
        .only(&[OPCUA]),
        KeyDoc::new(
            "queue_size",
            Kind::Integer { min: 1, max: 10_000 },
            "Values of a node that the server keeps between two publishings.",
        )
        .default("10")
        .only(&[OPCUA]),
        KeyDoc::new(
            "events",
            Kind::Texts,
            "Nodes whose events and alarms are taken, for example `i=2253`, the server's own object, which has those of all \
             nodes at most servers. They come as events of kind `alarm`: a condition begins, is updated and ends, any other \
             event is over at once. Only with `collect = \"subscribe\"`.",
        )
        .means("none")
        .only(&[OPCUA]),
        KeyDoc::new(
            "events_severity",
            Kind::Integer { min: 1, max: 1000 },
            "Events of a lower severity are left out.",
        )
        .default("1")
        .only(&[OPCUA]),
        KeyDoc::new(
            "discard",
            Kind::Choice(&["oldest", "newest"]),
            "Which values the server drops when that queue is full.",
        )
        .default("oldest")
        .only(&[OPCUA]),
        KeyDoc::new(
            "history",
            Kind::Bool,
            "Whether values that were missed (the server restarted, its queue ran over) are read from its history. What              no history has is marked by a bad sample, `lost`.",
        )
        .default("true")
        .only(&[OPCUA]),
        KeyDoc::new(
            "keep_alive",
            Kind::Duration {
                min: Duration::from_millis(500),
                max: Duration::from_secs(600),
            },
            "How often a server that has nothing to send says so. After three of these without a word, and the timeout,              the session counts as lost.",
        )
        .default("5s")
        .only(&[OPCUA]),
    ],
};

/// One addressable thing.
#[derive(Debug, Clone)]
pub(crate) struct Device {
    /// Its name.
    pub(crate) name: String,
    /// Whether it is polled.
    pub(crate) enabled: bool,
    /// How it is reached.
    pub(crate) connection: Connection,
    /// Its points.
    pub(crate) tags: Vec<Tag>,
}

/// How a device is reached.
#[derive(Debug, Clone)]
pub(crate) enum Connection {
    /// Modbus over TCP, inside of TLS where the settings have it.
    ModbusTcp {
        /// How.
        settings: TcpSettings,
        /// It connects to us.
        dial_in: Option<Listen>,
    },
    /// Modbus on a serial line.
    ModbusRtu {
        /// The line's name.
        line: String,
        /// How.
        settings: RtuSettings,
    },
    /// RTU frames over TCP.
    ModbusRtuTcp {
        /// `host:port`, or `listen:` and our own.
        address: String,
        /// It connects to us.
        dial_in: Option<Listen>,
        /// How.
        settings: RtuSettings,
    },
    /// OPC UA.
    Opcua(opcua::Settings),
}

/// Where we wait for a device that dials in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listen {
    /// Our `host:port`.
    pub(crate) address: String,
    /// Where it comes from, if that is known.
    pub(crate) source: Option<IpAddr>,
}

impl Connection {
    /// The driver's name in the configuration.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Connection::ModbusTcp { settings, .. } if settings.tls.is_some() => MODBUS_TLS,
            Connection::ModbusTcp { .. } => MODBUS_TCP,
            Connection::ModbusRtu { .. } => MODBUS_RTU,
            Connection::ModbusRtuTcp { .. } => MODBUS_RTU_TCP,
            Connection::Opcua(_) => OPCUA,
        }
    }

    /// Where the device is, as an operator would write it.
    pub(crate) fn address(&self) -> String {
        match self {
            Connection::ModbusTcp { settings, .. } => settings.address.clone(),
            Connection::ModbusRtu { line, settings } => format!("{line}/{}", settings.unit_id),
            Connection::ModbusRtuTcp {
                address, settings, ..
            } => format!("{address}/{}", settings.unit_id),
            Connection::Opcua(settings) => settings.url.clone(),
        }
    }
}

/// What reading devices needs besides their tables.
pub(crate) struct DeviceReader<'r> {
    /// Where to report.
    pub(crate) report: &'r Report,
    /// Where CSVs of tags are read from.
    pub(crate) files: &'r Files,
    /// Where certificates are kept.
    pub(crate) data_dir: &'r std::path::Path,
    /// Names of the lines.
    pub(crate) lines: &'r [String],
    /// Full names of tags, over all devices.
    pub(crate) tags: Taken,
}

impl DeviceReader<'_> {
    /// Reads a device. `None` where it has a problem, which is reported then.
    pub(crate) fn read(&mut self, table: &Table, nth: usize) -> Option<Device> {
        let path = match table.text("name") {
            Some(name) => format!("device[{name}]"),
            None => format!("device[{nth}]"),
        };
        let section = Section::new(table, &DEVICE, path.as_str(), self.report);
        let name = names::divided_name(&section, "name");
        // Which keys belong here depends on the driver: without it, they cannot be judged.
        let Some(driver) = section.choice("driver") else {
            self.tags
                .unknown_below(table.text("name").unwrap_or_default());
            return None;
        };
        section.finish(Some(driver));
        let enabled = section.bool("enabled");
        let inherited = Inherited {
            driver,
            poll_interval: section.duration("poll_interval"),
            path: &path,
        };
        let shown = name.clone().unwrap_or_default();
        let tags = self.tags(&section, &shown, &inherited);
        let connection = match driver {
            OPCUA => super::opcua::read(&section, &shown, &self.pki_dir()).map(Connection::Opcua),
            _ => {
                let tags = tags.as_deref().unwrap_or_default();
                super::modbus::read(&section, &shown, driver, self.lines, tags)
            }
        };
        Some(Device {
            name: name?,
            enabled: enabled?,
            connection: connection?,
            tags: tags?,
        })
    }

    fn pki_dir(&self) -> PathBuf {
        self.data_dir.join("pki")
    }

    /// Every tag, inline and from the CSV. `None` where one of them has a problem.
    fn tags(
        &mut self,
        section: &Section<'_>,
        device: &str,
        inherited: &Inherited<'_>,
    ) -> Option<Vec<Tag>> {
        let inline = section.tables("tag");
        let filed = match section.has("tags_file") {
            true => tags_file::read(section, &TAG, self.files),
            false => Some(Vec::new()),
        };
        if filed.is_none() {
            self.tags.unknown_below(device);
        }
        let readable = filed.is_some();
        let filed = filed.unwrap_or_default();
        if inline.is_empty() && filed.is_empty() && readable {
            let message = "the device has no tags: nothing is read from it".to_owned();
            section.note(
                "name",
                message,
                Some("add [[device.tag]] tables or a tags_file".to_owned()),
            );
        }
        let all: Vec<&Table> = inline.into_iter().chain(filed.iter()).collect();
        let total = all.len();
        let mut tags = Vec::with_capacity(total);
        for (nth, table) in all.into_iter().enumerate() {
            let unique = self.take_tag_name(table, device);
            if let Some(tag) = Tag::read(table, nth + 1, inherited, self.report)
                && unique
            {
                tags.push(tag);
            }
        }
        (readable && tags.len() == total).then_some(tags)
    }

    /// Full names decide: `a/b` with tag `c` and `a` with tag `b/c` would be the same to everybody.
    fn take_tag_name(&mut self, table: &Table, device: &str) -> bool {
        let Some(name) = table.get("name") else {
            return true;
        };
        let Some(text) = name.as_text() else {
            return true;
        };
        let full = format!("{device}/{text}");
        match self.tags.take(&full, "tag", &name.place) {
            Ok(()) => true,
            Err(problem) => {
                let key = format!("device[{device}].tag[{text}].name");
                self.report.problem(problem.key(key));
                false
            }
        }
    }
}
