//! SenML (RFC 8428) as JSON or CBOR, in the narrower form that Mainflux and Magistrala take.
//!
//! The pack of a parcel: `bn` is the source and nothing else (Magistrala makes it the device's id), `n` begins
//! with the separator: `{"bn":"boiler","n":":pressure","u":"bar","v":1.25,"t":1763690000.123}`.
//!
//! | value | travels as |
//! |---|---|
//! | bool | `vb` |
//! | integer up to 2^53, float | `v`; the shortest digits that give the float back |
//! | integer beyond 2^53 | `vs`, in decimal: `v` is a double at the receiver |
//! | text, JSON | `vs` |
//! | bytes | `vd`: base64url in JSON, a byte string in CBOR |
//! | not good | beside the value, if there is one, a record `n` = `:<tag>:q`, `vs` = `bad timeout` |
//! | event | `n` = `:event/<kind>`, `vs` = the event as the profile `generic` writes it |
//! | gap | `bn` = the gateway, `n` = `:gap`, `vs` = the gap as the profile `generic` writes it |
//!
//! Names have letters, digits and `- . / _`; every other byte is written `:XX` in hexadecimal, so that two
//! names never become one. Times are absolute seconds, exact in JSON, doubles in CBOR. While the clock is
//! not set there is no `t`, and the receiver puts the time of arrival.
//!
//! Mainflux refuses a whole pack for one wrong record and tells nobody; and its CBOR reader wants `vd` as
//! text, which this codec (as RFC 8428 has it) does not write: send bytes as JSON there.

use millrace_tags::{Event, Gap, Parcel, Sample, Value};

use super::json::{records, text};
use super::pack::Packer;
use super::rows::{Row, rows};
use super::{EncodeError, Piece, Room, Sheet};

/// How a pack is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Json,
    Cbor,
}

/// Integers up to here are exact as doubles.
const EXACT_MAX: u64 = 1 << 53;

/// What a record carries.
enum Worth<'a> {
    Bool(bool),
    Signed(i64),
    F32(f32),
    F64(f64),
    Text(&'a str),
    Data(&'a [u8]),
}

pub(crate) fn samples(
    sheet: &Sheet<'_>,
    parcel: &Parcel,
    samples: &[Sample],
    room: Room,
    form: Form,
) -> Result<Vec<Piece>, EncodeError> {
    let rows = rows(parcel, samples, sheet.time)?;
    let base = base_name(&parcel.source);
    let wrap = |items: &[u8], records: usize| pack(form, &base, items, records);
    let topic = sheet.topic.of_parcel(parcel, None)?;
    let separator: &[u8] = match form {
        Form::Json => b",{",
        Form::Cbor => b"",
    };
    // Brackets, `"bn":` and the escapes that a name cannot have.
    let overhead = base.len() + 16;
    let mut packer = Packer::new(&parcel.source, topic, room, overhead, separator, &wrap);
    for row in &rows {
        packer.push(std::slice::from_ref(row), &|rows, out| {
            rows.iter().map(|row| write_row(form, row, out)).sum()
        })?;
    }
    Ok(packer.finish())
}

/// One event as a pack.
pub(crate) fn event(
    sheet: &Sheet<'_>,
    parcel: &Parcel,
    seq: u64,
    event: &Event,
    form: Form,
) -> Vec<u8> {
    let json = records::event(sheet.gateway, parcel, seq, event);
    let name = format!(":event/{}", event.detail.kind());
    let time = parcel.timebase.utc(event.at).map(|at| at.0);
    single(form, &parcel.source, &name, &json, time)
}

/// A gap as packs.
pub(crate) fn gap(gateway: &str, gap: &Gap, limit: usize, form: Form) -> Vec<Vec<u8>> {
    let time = gap.at.map(|at| at.0);
    // Quotes take twice their room within a JSON text.
    records::gap(gateway, gap, limit / 2)
        .iter()
        .map(|json| single(form, gateway, ":gap", json, time))
        .collect()
}

/// Whether the gateway is there.
pub(crate) fn status(gateway: &str, online: bool, form: Form) -> Vec<u8> {
    let mut item = Vec::with_capacity(64);
    write_record(form, ":online", None, &Worth::Bool(online), None, &mut item);
    pack(form, &base_name(gateway), &item, 1)
}

fn single(form: Form, base: &str, name: &str, json: &[u8], time: Option<i64>) -> Vec<u8> {
    let json = String::from_utf8_lossy(json);
    let mut item = Vec::with_capacity(json.len() + 64);
    write_record(form, name, None, &Worth::Text(&json), time, &mut item);
    pack(form, &base_name(base), &item, 1)
}

/// The whole pack: the base name goes into the first record.
fn pack(form: Form, base: &str, items: &[u8], records: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(items.len() + base.len() + 16);
    match form {
        Form::Json => {
            out.extend_from_slice(b"[{\"bn\":");
            text::string(&mut out, base);
            out.push(b',');
            out.extend_from_slice(items);
            out.push(b']');
        }
        Form::Cbor => {
            cbor::head(&mut out, cbor::ARRAY, records as u64);
            if let Some((first, rest)) = items.split_first() {
                // A record has a handful of members, so its head is one byte: one member more.
                out.push(first + 1);
                cbor::integer(&mut out, -2);
                cbor::text(&mut out, base);
                out.extend_from_slice(rest);
            }
        }
    }
    out
}

fn write_row(form: Form, row: &Row<'_>, out: &mut Vec<u8>) -> usize {
    let mut name = String::with_capacity(row.tag.len() + 4);
    name.push(':');
    push_name(&mut name, row.tag);
    let decimal = match row.value {
        Some(Value::I64(number)) if number.unsigned_abs() > EXACT_MAX => number.to_string(),
        Some(Value::U64(number)) if *number > EXACT_MAX => number.to_string(),
        _ => String::new(),
    };
    let worth = row.value.map(|value| match value {
        Value::I64(_) | Value::U64(_) if !decimal.is_empty() => Worth::Text(&decimal),
        Value::Bool(flag) => Worth::Bool(*flag),
        Value::I64(number) => Worth::Signed(*number),
        Value::U64(number) => Worth::Signed(*number as i64),
        Value::F32(number) => Worth::F32(*number),
        Value::F64(number) => Worth::F64(*number),
        Value::Text(text) | Value::Json(text) => Worth::Text(text),
        Value::Bytes(bytes) => Worth::Data(bytes),
    });
    let mut records = 0;
    if let Some(worth) = worth {
        write_record(form, &name, row.unit, &worth, row.time, out);
        records += 1;
    }
    if let Some(remark) = row.remark() {
        if records > 0 && form == Form::Json {
            out.extend_from_slice(b",{");
        }
        name.push_str(":q");
        write_record(form, &name, None, &Worth::Text(&remark), row.time, out);
        records += 1;
    }
    records
}

/// A record; in JSON without its opening brace, which the pack writes.
fn write_record(
    form: Form,
    name: &str,
    unit: Option<&str>,
    worth: &Worth<'_>,
    time: Option<i64>,
    out: &mut Vec<u8>,
) {
    match form {
        Form::Json => json_record(name, unit, worth, time, out),
        Form::Cbor => cbor_record(name, unit, worth, time, out),
    }
}

fn json_record(
    name: &str,
    unit: Option<&str>,
    worth: &Worth<'_>,
    time: Option<i64>,
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(b"\"n\":");
    text::string(out, name);
    if let Some(unit) = unit {
        out.extend_from_slice(b",\"u\":");
        text::string(out, unit);
    }
    match worth {
        Worth::Bool(true) => out.extend_from_slice(b",\"vb\":true"),
        Worth::Bool(false) => out.extend_from_slice(b",\"vb\":false"),
        Worth::Signed(number) => {
            out.extend_from_slice(b",\"v\":");
            text::signed(out, *number);
        }
        Worth::F32(number) => {
            out.extend_from_slice(b",\"v\":");
            text::float32(out, *number);
        }
        Worth::F64(number) => {
            out.extend_from_slice(b",\"v\":");
            text::float(out, *number);
        }
        Worth::Text(value) => {
            out.extend_from_slice(b",\"vs\":");
            text::string(out, value);
        }
        Worth::Data(bytes) => {
            use base64::Engine;
            let value = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
            out.extend_from_slice(b",\"vd\":");
            text::string(out, &value);
        }
    }
    if let Some(time) = time {
        out.extend_from_slice(b",\"t\":");
        text::seconds(out, time);
    }
    out.push(b'}');
}

fn cbor_record(
    name: &str,
    unit: Option<&str>,
    worth: &Worth<'_>,
    time: Option<i64>,
    out: &mut Vec<u8>,
) {
    let members = 2 + u64::from(unit.is_some()) + u64::from(time.is_some());
    cbor::head(out, cbor::MAP, members);
    cbor::integer(out, 0);
    cbor::text(out, name);
    if let Some(unit) = unit {
        cbor::integer(out, 1);
        cbor::text(out, unit);
    }
    cbor::integer(
        out,
        match worth {
            Worth::Signed(_) | Worth::F32(_) | Worth::F64(_) => 2,
            Worth::Text(_) => 3,
            Worth::Bool(_) => 4,
            Worth::Data(_) => 8,
        },
    );
    match worth {
        Worth::Bool(flag) => out.push(if *flag { 0xf5 } else { 0xf4 }),
        Worth::Signed(number) => cbor::integer(out, *number),
        Worth::F32(number) => {
            out.push(0xfa);
            out.extend_from_slice(&number.to_be_bytes());
        }
        Worth::F64(number) => cbor::double(out, *number),
        Worth::Text(value) => cbor::text(out, value),
        Worth::Data(bytes) => {
            cbor::head(out, cbor::BYTES, bytes.len() as u64);
            out.extend_from_slice(bytes);
        }
    }
    if let Some(time) = time {
        cbor::integer(out, 6);
        cbor::double(out, time as f64 / 1e9);
    }
}

/// A base name: it begins with a letter or a digit.
fn base_name(name: &str) -> String {
    let mut out = String::with_capacity(name.len() + 2);
    if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        // No escape looks like this one, so the name stays its own.
        out.push_str("x:.");
    }
    push_name(&mut out, name);
    out
}

/// The name in SenML's letters.
fn push_name(out: &mut String, name: &str) {
    use std::fmt::Write;
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'/' | b'_') {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, ":{byte:02X}");
        }
    }
}

/// The few parts of CBOR (RFC 8949) that SenML needs.
mod cbor {
    pub(super) const BYTES: u8 = 2 << 5;
    const TEXT: u8 = 3 << 5;
    pub(super) const ARRAY: u8 = 4 << 5;
    pub(super) const MAP: u8 = 5 << 5;

    /// A major type with its argument, as short as it gets.
    pub(super) fn head(out: &mut Vec<u8>, major: u8, argument: u64) {
        match argument {
            0..24 => out.push(major | argument as u8),
            24..0x100 => out.extend_from_slice(&[major | 24, argument as u8]),
            0x100..0x1_0000 => {
                out.push(major | 25);
                out.extend_from_slice(&(argument as u16).to_be_bytes());
            }
            0x1_0000..0x1_0000_0000 => {
                out.push(major | 26);
                out.extend_from_slice(&(argument as u32).to_be_bytes());
            }
            _ => {
                out.push(major | 27);
                out.extend_from_slice(&argument.to_be_bytes());
            }
        }
    }

    pub(super) fn integer(out: &mut Vec<u8>, number: i64) {
        if number < 0 {
            head(out, 1 << 5, !(number as u64));
        } else {
            head(out, 0, number as u64);
        }
    }

    pub(super) fn text(out: &mut Vec<u8>, text: &str) {
        head(out, TEXT, text.len() as u64);
        out.extend_from_slice(text.as_bytes());
    }

    pub(super) fn double(out: &mut Vec<u8>, number: f64) {
        out.push(0xfb);
        out.extend_from_slice(&number.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_the_letters_of_senml() {
        for (name, expected) in [
            ("line1/boiler-2.a_b", "line1/boiler-2.a_b"),
            ("kühler", "k:C3:BChler"),
            ("a b%", "a:20b:25"),
            ("_x", "x:._x"),
            (":", "x:.:3A"),
            ("", "x:."),
        ] {
            assert_eq!(base_name(name), expected);
        }
    }
}
