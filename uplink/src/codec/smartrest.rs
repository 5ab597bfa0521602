//! Cumulocity's SmartREST 2.0 static templates: lines of CSV, `200,millrace,pressure,1.25,bar,2025-11-21T01:53:20.123Z`.
//!
//! | what | line |
//! |---|---|
//! | a number | `200`, a measurement: fragment `millrace`, the tag as series; a bool is 0 or 1, integers keep all their digits |
//! | text, JSON, bytes (base64) | `400`, an event of type `millrace_value` with `tag = value` |
//! | not good | `400`, an event of type `millrace_quality` with `tag: bad timeout` |
//! | an event that begins or goes on | `302`, a major alarm of type `millrace_<kind>`; one of a device `301` to `304` by its severity, its condition part of the type |
//! | an event that ends | `306`, which clears it |
//! | a gap | `400`, an event of type `millrace_gap` of the gateway, with the gap as the profile `generic` writes it |
//!
//! In the names of series every byte but letters, digits, `-` and `_` is `_XX`. Times are whole milliseconds; while the clock
//! is not set there is none, and Cumulocity puts the time of arrival. Control characters become spaces.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use millrace_tags::{Event, EventDetail, EventState, Gap, Parcel, Sample, Value};

use super::json::{records, text};
use super::pack::Packer;
use super::rows::{Row, rows};
use super::template::iso;
use super::{EncodeError, Piece, Room, Sheet};

pub(crate) fn samples(
    sheet: &Sheet<'_>,
    parcel: &Parcel,
    samples: &[Sample],
    room: Room,
) -> Result<Vec<Piece>, EncodeError> {
    let rows = rows(parcel, samples, sheet.time)?;
    let topic = sheet.topic.of_parcel(parcel, None)?;
    let wrap = |items: &[u8], _: usize| items.to_vec();
    let mut packer = Packer::new(&parcel.source, topic, room, 0, b"\n", &wrap);
    for row in &rows {
        packer.push(std::slice::from_ref(row), &|rows, out| {
            rows.iter().map(|row| write_row(row, out)).sum()
        })?;
    }
    Ok(packer.finish())
}

/// One event, as an alarm.
pub(crate) fn event(parcel: &Parcel, event: &Event) -> Vec<u8> {
    let (template, which) = match &event.detail {
        EventDetail::Alarm {
            told: Some(told), ..
        } => {
            let template = match told.severity {
                800.. => "301",
                600.. => "302",
                300.. => "303",
                _ => "304",
            };
            // Cumulocity has one alarm of a type at a time: each condition is its own type.
            let which = [&told.condition, &told.name, &told.node];
            (template, which.into_iter().flatten().next())
        }
        _ => ("302", None),
    };
    let mut kind = format!("millrace_{}", event.detail.kind()).into_bytes();
    if let Some(which) = which {
        kind.push(b'_');
        series(&mut kind, which);
    }
    if event.state == EventState::End {
        return [b"306,", &kind[..]].concat();
    }
    let mut out = [template.as_bytes(), b",", &kind[..], b","].concat();
    match &event.detail {
        EventDetail::Comms { message } | EventDetail::Alarm { message, .. } => {
            field(&mut out, message);
        }
        EventDetail::Anomaly {
            peak,
            threshold,
            top,
            ..
        } => {
            let roles: Vec<&str> = top.iter().map(|share| share.role.as_str()).collect();
            let roles = roles.join(", ");
            field(
                &mut out,
                &format!("score up to {peak}, limit {threshold}: {roles}"),
            );
        }
    }
    time(&mut out, parcel.timebase.utc(event.start).map(|at| at.0));
    out
}

/// A gap, as events of the gateway.
pub(crate) fn gap(gateway: &str, gap: &Gap, limit: usize) -> Vec<Vec<u8>> {
    // Quotes take twice their room within a field.
    let payloads = records::gap(gateway, gap, limit / 2);
    let line = |json: &Vec<u8>| {
        let mut out = b"400,millrace_gap,".to_vec();
        field(&mut out, &String::from_utf8_lossy(json));
        time(&mut out, gap.at.map(|at| at.0));
        out
    };
    payloads.iter().map(line).collect()
}

fn write_row(row: &Row<'_>, out: &mut Vec<u8>) -> usize {
    let mut lines = 0;
    if let Some(value) = row.value {
        match decimal(value) {
            Some(number) => measurement(row, &number, out),
            None => {
                out.extend_from_slice(b"400,millrace_value,");
                field(out, &format!("{} = {}", row.tag, words(value)));
            }
        }
        time(out, row.time);
        lines += 1;
    }
    if let Some(remark) = row.remark() {
        if lines > 0 {
            out.push(b'\n');
        }
        out.extend_from_slice(b"400,millrace_quality,");
        field(out, &format!("{}: {remark}", row.tag));
        time(out, row.time);
        lines += 1;
    }
    lines
}

fn measurement(row: &Row<'_>, number: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"200,millrace,");
    series(out, row.tag);
    out.push(b',');
    out.extend_from_slice(number);
    out.push(b',');
    if let Some(unit) = row.unit {
        field(out, unit);
    }
}

/// A name in the letters of series and types.
fn series(out: &mut Vec<u8>, name: &str) {
    for byte in name.bytes() {
        match byte {
            b'-' | b'_' => out.push(byte),
            _ if byte.is_ascii_alphanumeric() => out.push(byte),
            _ => out.extend_from_slice(format!("_{byte:02X}").as_bytes()),
        }
    }
}

/// The value as a number, where it is one.
fn decimal(value: &Value) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    match value {
        Value::Bool(flag) => out.push(b'0' + u8::from(*flag)),
        Value::I64(number) => text::signed(&mut out, *number),
        Value::U64(number) => text::unsigned(&mut out, *number),
        Value::F32(number) => text::float32(&mut out, *number),
        Value::F64(number) => text::float(&mut out, *number),
        Value::Text(_) | Value::Json(_) | Value::Bytes(_) => return None,
    }
    Some(out)
}

fn words(value: &Value) -> String {
    match value {
        Value::Text(text) | Value::Json(text) => text.to_string(),
        Value::Bytes(bytes) => STANDARD.encode(bytes),
        _ => String::new(),
    }
}

/// A quoted field.
fn field(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    for byte in text.bytes() {
        match byte {
            b'"' => out.extend_from_slice(b"\"\""),
            0..0x20 | 0x7f => out.push(b' '),
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}

/// The last field; a line without a time ends before its comma.
fn time(out: &mut Vec<u8>, nanos: Option<i64>) {
    match nanos {
        Some(nanos) => {
            out.push(b',');
            out.extend_from_slice(iso(nanos).as_bytes());
        }
        None if out.ends_with(b",") => {
            out.pop();
        }
        None => {}
    }
}
