//! `[[device.tag]]`: the points of a device.

use std::time::Duration;

use millrace_drivers::modbus::{Address, DataType, PointSpec, WordOrder};
use millrace_drivers::opcua::NodeAddress;
pub(crate) use millrace_tags::Scaling;
use millrace_tags::ValueType;

use super::complaint::Complaint;
use super::device::{MODBUS, OPCUA, POLL_INTERVAL_MAX, POLL_INTERVAL_MIN};
use super::keys::{KeyDoc, Kind, SectionDoc, nearest};
use super::meaning::{self, TagMeaning};
use super::names;
use super::report::Report;
use super::section::Section;
use super::tree::Table;

/// The table of keys; a CSV of tags has them as columns.
pub(crate) const TAG: SectionDoc = SectionDoc {
    heading: "[[device.tag]]",
    keys: &[
        KeyDoc::new(
            "name",
            Kind::Form("a name of letters, digits, . _ - and /"),
            "The tag's name in its device. Its full name is `device/tag`.",
        )
        .required(),
        KeyDoc::new(
            "address",
            Kind::Form("an address such as holding:0, 40001 or nsu=http://vendor.example/plant;s=Name"),
            "Where the value is. Modbus: `coil:`, `discrete:`, `input:` or `holding:` with a zero-based \
             offset (`holding:12.3` is bit 3, `holding:12.0-3` the four lowest), or a Modicon number, `40001` or `400001`; a bare number \
             below 10000 is refused, because it has two readings. OPC UA: `nsu=URI;s=Name`, `ns=2;i=17`; or the way from the \
             Objects folder by browse names, `nsu=URI;path=Plant/Pump/Flow` (`2:Flow` is of another namespace, `&/` a slash in a name); \
             `index=3;` or `index=2:5;` before it is a part of an array.",
        )
        .required(),
        KeyDoc::new(
            "type",
            Kind::Form("bool, i8 to i64, u8 to u64, f32, f64, bcd16 to bcd64, string:N or an array such as u16[10]"),
            "How the value is read: `bool`, `i8` `u8` `i16` `u16` `i32` `u32` `i48` `u48` `i64` `u64`, `f32` \
             `f64`, `bcd16` `bcd32` `bcd48` `bcd64`, `string:N` (N bytes), or an array of any of them but \
             strings: `u16[10]` is one tag whose value is a JSON array, `bool[10]` ten coils. Needed for Modbus registers; OPC UA values bring \
             their own, and a type written there (without bcd, arrays and the N) is what the catalogue \
             announces.",
        )
        .means("`bool` for one bit, `u16` for several; what the server says for OPC UA"),
        KeyDoc::new(
            "order",
            Kind::Form("abcd, badc, cdab or dcba"),
            "The order of the bytes: `abcd` big-endian, `badc` bytes swapped in each register, `cdab` \
             registers reversed, `dcba` both; of an array, the order in each element.",
        )
        .means("`abcd`")
        .only(MODBUS),
        KeyDoc::new(
            "scale",
            Kind::Number,
            "value = raw × scale + offset. With scale 1 and offset 0 integers stay integers.",
        )
        .default("1"),
        KeyDoc::new("offset", Kind::Number, "See scale.").default("0"),
        KeyDoc::new(
            "scale_register",
            Kind::Form("the address of a register such as holding:71"),
            "A register of the device that says how this one is scaled, as in SunSpec maps; scale and offset come \
             after it. Both are read in one request wherever one can bring them, and in one cycle otherwise. Where \
             the register cannot be read or meant (a factor of 0, an exponent beyond 18) the value is bad, with \
             `bad-scale` or the register's own reason. A write goes by the scale of the moment.",
        )
        .only(MODBUS),
        KeyDoc::new(
            "scale_register_type",
            Kind::Form("a type of numbers such as i16"),
            "The type of `scale_register`, in the tag's own order.",
        )
        .means("`i16` for an exponent, `u16` for a factor or divisor")
        .only(MODBUS),
        KeyDoc::new(
            "scale_rule",
            Kind::Choice(&["exponent", "factor", "divisor"]),
            "How `scale_register` is meant: raw × 10^register, raw × register, raw ÷ register.",
        )
        .default("exponent")
        .only(MODBUS),
        KeyDoc::new(
            "states",
            Kind::Form("names of numbers such as \"0=off, 1=running, 2=fault\""),
            "An enumeration: the value is the name, and is written by name, or by a number that has one. A number \
             without a name is shown as itself, uncertain, `out-of-range`. Of bools, whole numbers and bits.",
        )
        .only(MODBUS),
        KeyDoc::new(
            "totaliser",
            Kind::Bool,
            "A counter that begins again at 0 when its range is used up: the value is the total, which never falls. \
             It goes on over reconnects, restarts and changed configurations. A fall that is no roll-over (see \
             `rollover_step`) is a counter that was set back: the total goes on by what it counted since, and this \
             one sample is uncertain, `counter-reset`. Of a pause longer than a whole turn, whole turns are lost.",
        )
        .default("false")
        .only(MODBUS),
        KeyDoc::new(
            "rollover",
            Kind::Integer {
                min: 2,
                max: i64::MAX,
            },
            "How many counts make the totaliser 0 again: 1000000 for six digits.",
        )
        .means("the range of the type: 65536 for `u16`, 10000 for `bcd16`")
        .only(MODBUS),
        KeyDoc::new(
            "rollover_step",
            Kind::Integer {
                min: 1,
                max: i64::MAX,
            },
            "The most that the totaliser counts between two reads: a fall is a roll-over where the way over the top \
             is no longer than this.",
        )
        .means("a quarter of `rollover`")
        .only(MODBUS),
        KeyDoc::new("unit", Kind::Text, "The unit of the value, for people and models."),
        KeyDoc::new(
            "deadband",
            Kind::Form("a number, or a percentage such as \"1%\""),
            "Changes up to this size since the last reported value are not sent: a number in the tag's \
             unit, or a percentage of the last reported value; 0 sends every change and no repetition. \
             Models and `millrace tags` see every \
             value.",
        ),
        KeyDoc::new(
            "server_deadband",
            Kind::Form("a number, or a percentage such as \"1%\""),
            "Changes up to this size the server does not send at all: a number in the node's own unit, or a percentage of its \
             `EURange`. Nobody sees such changes, models and `millrace tags` neither. Where the server cannot do so for a \
             node, `status` says it, and every change is sent.",
        )
        .only(&[OPCUA]),
        KeyDoc::new(
            "report_at_least",
            Kind::Duration {
                min: Duration::from_secs(1),
                max: Duration::from_secs(30 * 86_400),
            },
            "A value is sent this often although it did not leave the deadband.",
        ),
        KeyDoc::new(
            "poll_interval",
            Kind::Duration {
                min: POLL_INTERVAL_MIN,
                max: POLL_INTERVAL_MAX,
            },
            "From one read to the next. With an OPC UA subscription, how often the server looks.",
        )
        .means("the device's"),
        KeyDoc::new(
            "writable",
            Kind::Bool,
            "Whether `millrace write` may set it. The cloud needs `[local] write_tags` too.",
        )
        .default("false"),
    ],
};

/// A point of a device.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tag {
    /// The name in its device.
    pub(crate) name: String,
    /// Where the value is, and how it is read.
    pub(crate) point: TagPoint,
    /// What its raw value is taken for.
    pub(crate) meaning: TagMeaning,
    /// The type of its samples, scaling included.
    pub(crate) value_type: ValueType,
    /// Applied to each value; `None` leaves the device's type.
    pub(crate) scaling: Option<Scaling>,
    /// The unit of the value.
    pub(crate) unit: Option<String>,
    /// Changes that are not worth sending.
    pub(crate) deadband: Option<Deadband>,
    /// Changes that an OPC UA server need not send.
    pub(crate) server_deadband: Option<Deadband>,
    /// A value now and then, although it did not leave the deadband.
    pub(crate) report_at_least: Option<Duration>,
    /// From one read to the next; the device's where the tag has none of its own.
    pub(crate) poll_interval: Duration,
    /// Whether an operator may write it.
    pub(crate) writable: bool,
}

/// Where a value is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TagPoint {
    /// In a table of a Modbus device.
    Modbus(PointSpec),
    /// A node of an OPC UA server.
    Opcua(NodeAddress),
}

/// Changes that are not worth sending.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Deadband {
    /// In the unit of the tag.
    Absolute(f64),
    /// Of the last reported value.
    Percent(f64),
}

/// What a device hands down to its tags.
pub(crate) struct Inherited<'d> {
    /// The driver's name.
    pub(crate) driver: &'static str,
    /// The device's interval; `None` where it could not be read.
    pub(crate) poll_interval: Option<Duration>,
    /// The path of the device, for messages.
    pub(crate) path: &'d str,
}

impl Tag {
    /// Reads one tag. `None` where it has a problem, which is reported then.
    pub(crate) fn read(
        table: &Table,
        nth: usize,
        inherited: &Inherited<'_>,
        report: &Report,
    ) -> Option<Self> {
        let path = match table.text("name") {
            Some(name) => format!("{}.tag[{name}]", inherited.path),
            None => format!("{}.tag[{nth}]", inherited.path),
        };
        let section = Section::new(table, &TAG, path, report);
        section.finish(Some(inherited.driver));
        let name = names::divided_name(&section, "name");
        let point = read_point(&section, inherited.driver);
        let scaling = read_scaling(&section);
        let unit = section.text("unit").map(str::to_owned);
        let deadband = read_deadband(&section, "deadband");
        let server_deadband = read_deadband(&section, "server_deadband");
        let report_at_least = section.duration("report_at_least");
        let own_interval = section.duration("poll_interval");
        let writable = section.bool("writable");
        let (point, raw_type) = point?;
        let (point, raw_type, meaning) = match point {
            TagPoint::Modbus(spec) => {
                let (spec, meaning) = meaning::read(&section, spec)?;
                let raw_type = meaning.value_type(&spec);
                (TagPoint::Modbus(spec), raw_type, meaning)
            }
            TagPoint::Opcua(_) => (point, raw_type, TagMeaning::Plain),
        };
        check_fit(&section, &point, raw_type)?;
        if report_at_least.is_some() && !section.has("deadband") {
            let message = "report_at_least has no effect without a deadband".to_owned();
            section.note("report_at_least", message, None);
        }
        Some(Self {
            name: name?,
            point,
            meaning,
            value_type: if scaling?.is_some() {
                ValueType::F64
            } else {
                raw_type
            },
            scaling: scaling?,
            unit,
            deadband,
            server_deadband,
            report_at_least,
            poll_interval: own_interval.or(inherited.poll_interval)?,
            writable: writable?,
        })
    }
}

fn read_point(section: &Section<'_>, driver: &str) -> Option<(TagPoint, ValueType)> {
    if driver == OPCUA {
        let node = section.form("address", |text| {
            text.parse::<NodeAddress>()
                .map_err(|error| Complaint::said(&error).hint(error.hint()))
        });
        let value_type = if section.has("type") {
            section.form("type", opcua_type)
        } else {
            Some(ValueType::Any)
        };
        return Some((TagPoint::Opcua(node?), value_type?));
    }
    let spec = read_modbus_point(section)?;
    Some((TagPoint::Modbus(spec), spec.value_type()))
}

fn read_modbus_point(section: &Section<'_>) -> Option<PointSpec> {
    let address = section.form("address", |text| {
        text.parse::<Address>()
            .map_err(|error| Complaint::said(&error).hint(error.hint()))
    });
    let order = if section.has("order") {
        section.form("order", |text| {
            text.parse::<WordOrder>()
                .map_err(|error| Complaint::said(&error).hint(error.hint()))
        })
    } else {
        Some(WordOrder::default())
    };
    let data_type = if section.has("type") {
        section.form("type", |text| {
            text.parse::<DataType>()
                .map_err(|error| Complaint::said(&error).hint(error.hint()))
        })
    } else {
        default_type(section, address?)
    };
    match PointSpec::new(address?, data_type?, order?) {
        Ok(spec) => Some(spec),
        Err(error) => {
            section.complain("address", Complaint::said(&error).hint(error.hint()));
            None
        }
    }
}

/// Bits have a type; how to read a register cannot be guessed.
fn default_type(section: &Section<'_>, address: Address) -> Option<DataType> {
    if let Some(data_type) = PointSpec::default_type(address) {
        return Some(data_type);
    }
    section.complain(
        "type",
        Complaint::new(format!(
            "registers such as {address} can be read in many ways"
        ))
        .hint("u16 is one plain register, f32 a float in two; see the device's manual"),
    );
    None
}

fn opcua_type(text: &str) -> Result<ValueType, Complaint> {
    const TYPES: [&str; 13] = [
        "bool", "i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64", "f32", "f64", "string",
        "bytes",
    ];
    Ok(match text {
        "bool" => ValueType::Bool,
        "i8" | "i16" | "i32" | "i64" => ValueType::I64,
        "u8" | "u16" | "u32" | "u64" => ValueType::U64,
        "f32" => ValueType::F32,
        "f64" => ValueType::F64,
        "string" => ValueType::Text,
        "bytes" => ValueType::Bytes,
        _ => {
            let complaint = Complaint::new(
                "an OPC UA tag needs no type, or one of bool, i8 to i64, u8 to u64, f32, f64, string and bytes",
            );
            return Err(match nearest(text, TYPES) {
                Some(near) => complaint.hint(format!("did you mean {near}?")),
                None => complaint.hint("leave it out: the server says what the type is"),
            });
        }
    })
}

/// Outer `None`: a problem, already reported.
fn read_scaling(section: &Section<'_>) -> Option<Option<Scaling>> {
    let (scale, offset) = (section.number("scale"), section.number("offset"));
    if scale == Some(0.0) {
        section.complain(
            "scale",
            Complaint::new("every value would be the offset").hint("value = raw * scale + offset"),
        );
        return None;
    }
    let (scale, offset) = (scale?, offset?);
    Some((scale != 1.0 || offset != 0.0).then_some(Scaling { scale, offset }))
}

fn read_deadband(section: &Section<'_>, key: &'static str) -> Option<Deadband> {
    let node = section.node(key)?;
    let wrong = |expected: &str| {
        let complaint = Complaint::new(expected);
        section.complain(key, complaint.hint("for example 0.1, or \"1%\""));
        None
    };
    let percent = node
        .as_text()
        .and_then(|text| text.trim().strip_suffix('%'));
    let (number, percent) = match percent {
        Some(percent) => (percent.trim().parse::<f64>().ok(), true),
        None => (node.as_number(), false),
    };
    match number {
        Some(number) if percent && (0.0..=100.0).contains(&number) => {
            Some(Deadband::Percent(number))
        }
        Some(_) if percent => wrong("a percentage is from 0 to 100"),
        Some(number) if number >= 0.0 => Some(Deadband::Absolute(number)),
        Some(_) => wrong("the minimum is 0"),
        None => wrong("a number or a percentage is expected"),
    }
}

/// Whether what is done with the value suits its type, and whether a written tag can be written.
fn check_fit(section: &Section<'_>, point: &TagPoint, raw_type: ValueType) -> Option<()> {
    let mut fits = true;
    let no_number = matches!(
        raw_type,
        ValueType::Bool | ValueType::Text | ValueType::Bytes | ValueType::Json
    );
    for key in ["scale", "offset", "deadband"] {
        let neutral = section.node(key).and_then(|node| node.as_number());
        let neutral = neutral == Some(if key == "scale" { 1.0 } else { 0.0 });
        if no_number && section.has(key) && !neutral {
            let kind = match raw_type {
                ValueType::Bool => "bools",
                ValueType::Json => "arrays",
                ValueType::Text if section.has("states") => "states",
                _ => "texts",
            };
            section.complain(
                key,
                Complaint::new(format!("{kind} have none")).hint("remove it"),
            );
            fits = false;
        }
    }
    if let TagPoint::Modbus(spec) = point
        && section.node("writable").and_then(|node| node.as_bool()) == Some(true)
    {
        let table = spec.address().table.name();
        if matches!(table, "input" | "discrete") {
            let expected = format!("Modbus has no way to write {table}: addresses");
            section.complain("writable", Complaint::new(expected).hint("remove it"));
            fits = false;
        }
    }
    fits.then_some(())
}
