//! `[[line]]`: serial buses that several devices share.

use millrace_drivers::modbus::{Parity, SerialSettings};

use super::complaint::Complaint;
use super::keys::{KeyDoc, Kind, SectionDoc};
use super::names;
use super::report::Report;
use super::section::Section;
use super::tree::Table;

/// The table of keys.
pub(crate) const LINE: SectionDoc = SectionDoc {
    heading: "[[line]]",
    keys: &[
        KeyDoc::new(
            "name",
            Kind::Form("a name of letters, digits, . _ and -"),
            "The line's name, which its devices have as their address.",
        )
        .required(),
        KeyDoc::new(
            "port",
            Kind::Form("the path of a serial port such as /dev/ttyUSB0"),
            "The serial port. `/dev/serial/by-id/…` stays the same when adapters are plugged in another order.",
        )
        .required(),
        KeyDoc::new(
            "baud",
            Kind::Integer {
                min: 300,
                max: 4_000_000,
            },
            "Bits a second.",
        )
        .default("9600"),
        KeyDoc::new(
            "parity",
            Kind::Choice(&["none", "odd", "even"]),
            "The parity bit.",
        )
        .default("even"),
        KeyDoc::new(
            "stop_bits",
            Kind::Integer { min: 1, max: 2 },
            "Stop bits. The specification wants 2 where there is no parity; few devices do.",
        )
        .default("1"),
        KeyDoc::new(
            "data_bits",
            Kind::Integer { min: 7, max: 8 },
            "Data bits. RTU needs 8 (Modbus over Serial Line V1.02, 2.5.1); 7 are those of Modbus ASCII, and refused.",
        )
        .default("8"),
        KeyDoc::new(
            "rs485",
            Kind::Bool,
            "Whether the kernel switches the direction of the RS-485 driver by RTS. Adapters that do it by \
             themselves, as nearly all with USB, need nothing.",
        )
        .default("false"),
    ],
};

/// RTU has eight data bits (Modbus over Serial Line V1.02, 2.5.1); seven are those of ASCII transmission.
fn read_data_bits(section: &Section<'_>) -> Option<u8> {
    let data_bits = section.integer("data_bits")?;
    if data_bits == 7 {
        section.complain(
            "data_bits",
            Complaint::new("RTU needs 8 data bits (Modbus over Serial Line V1.02, 2.5.1)").hint(
                "remove it, and set the device to RTU; a device with 7 data bits speaks Modbus ASCII, which \
                 this version does not",
            ),
        );
        return None;
    }
    Some(data_bits)
}

/// A serial bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// Its name.
    pub(crate) name: String,
    /// The port and its settings.
    pub(crate) settings: SerialSettings,
}

impl Line {
    /// Reads a line. `None` where it has a problem, which is reported then.
    pub(crate) fn read(table: &Table, nth: usize, report: &Report) -> Option<Self> {
        let path = match table.text("name") {
            Some(name) => format!("line[{name}]"),
            None => format!("line[{nth}]"),
        };
        let section = Section::new(table, &LINE, path, report);
        section.finish(None);
        let name = names::plain_name(&section, "name");
        let port = section.form("port", |text| match text.starts_with('/') {
            true => Ok(text.to_owned()),
            false => Err(
                Complaint::new("the path of a serial port is expected").hint(
                    "for example /dev/ttyUSB0, or a name of /dev/serial/by-id; a gateway that passes RTU \
                     frames on over TCP is no line: set driver = \"modbus-rtu-tcp\" in its devices",
                ),
            ),
        });
        let baud = section.integer("baud");
        let parity = section.choice("parity");
        let stop_bits = section.integer("stop_bits");
        let data_bits = read_data_bits(&section);
        let rs485 = section.bool("rs485");
        Some(Self {
            name: name?,
            settings: SerialSettings {
                port: port?,
                baud: baud?,
                data_bits: data_bits?,
                parity: match parity? {
                    "none" => Parity::None,
                    "odd" => Parity::Odd,
                    _ => Parity::Even,
                },
                stop_bits: stop_bits?,
                rs485: rs485?,
            },
        })
    }
}
