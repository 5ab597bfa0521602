//! The payload of ThingsBoard's gateway API: `{"boiler":[{"ts":1763690000123,"values":{"pressure":1.25}}]}`.
//!
//! Samples of one millisecond share an object. Times are whole milliseconds: of two values of a tag within one
//! millisecond ThingsBoard keeps the last. Integers from 2^63 on are text, since ThingsBoard's long is signed. Bytes
//! are base64 text, JSON is nested. What is not good adds the key `<tag>:q` with `bad timeout`. An event is the
//! key `event` of its source, a gap the key `gap` of the gateway itself. While the clock is not set there is
//! no `ts`, and ThingsBoard puts the time of arrival.

use millrace_tags::{Event, Gap, Parcel, Sample, Value};

use super::json::{records, text};
use super::pack::Packer;
use super::rows::{Row, rows, runs};
use super::{EncodeError, Piece, Room, Sheet};

pub(crate) fn samples(
    sheet: &Sheet<'_>,
    parcel: &Parcel,
    samples: &[Sample],
    room: Room,
) -> Result<Vec<Piece>, EncodeError> {
    let rows = rows(parcel, samples, sheet.time)?;
    let wrap = |items: &[u8], _: usize| of_device(&parcel.source, items);
    let topic = sheet.topic.of_parcel(parcel, None)?;
    // Each byte of a name may need six, and brackets.
    let overhead = parcel.source.len() * 6 + 8;
    let mut packer = Packer::new(&parcel.source, topic, room, overhead, b",", &wrap);
    let same = |one: &Row<'_>, other: &Row<'_>| one.time.map(millis) == other.time.map(millis);
    for run in runs(&rows, same) {
        packer.push(run, &|rows, out| {
            write_point(rows, out);
            1
        })?;
    }
    Ok(packer.finish())
}

/// One event.
pub(crate) fn event(sheet: &Sheet<'_>, parcel: &Parcel, seq: u64, event: &Event) -> Vec<u8> {
    let mut item = Vec::with_capacity(512);
    begin_point(&mut item, parcel.timebase.utc(event.at).map(|at| at.0));
    item.extend_from_slice(b"\"event\":");
    item.extend_from_slice(&records::event(sheet.gateway, parcel, seq, event));
    end_point(&mut item, parcel.timebase.offset_ns);
    of_device(&parcel.source, &item)
}

/// A gap, as telemetry of the gateway itself.
pub(crate) fn gap(gateway: &str, gap: &Gap, limit: usize) -> Vec<Vec<u8>> {
    let payloads = records::gap(gateway, gap, limit.saturating_sub(8));
    let wrap = |json: Vec<u8>| [b"{\"gap\":", &json[..], b"}"].concat();
    payloads.into_iter().map(wrap).collect()
}

fn of_device(device: &str, items: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(items.len() + device.len() + 8);
    out.push(b'{');
    text::string(&mut out, device);
    out.extend_from_slice(b":[");
    out.extend_from_slice(items);
    out.extend_from_slice(b"]}");
    out
}

fn millis(nanos: i64) -> i64 {
    nanos.div_euclid(1_000_000)
}

fn begin_point(out: &mut Vec<u8>, time: Option<i64>) {
    match time {
        Some(time) => {
            out.extend_from_slice(b"{\"ts\":");
            text::signed(out, millis(time));
            out.extend_from_slice(b",\"values\":{");
        }
        None => out.push(b'{'),
    }
}

fn end_point(out: &mut Vec<u8>, time: Option<i64>) {
    out.extend_from_slice(if time.is_some() { b"}}" } else { b"}" });
}

fn write_point(rows: &[Row<'_>], out: &mut Vec<u8>) {
    let time = rows.first().and_then(|row| row.time);
    begin_point(out, time);
    let mut first = true;
    let mut key = |out: &mut Vec<u8>, name: &str| {
        if !std::mem::take(&mut first) {
            out.push(b',');
        }
        text::string(out, name);
        out.push(b':');
    };
    for row in rows {
        if let Some(value) = row.value {
            key(out, row.tag);
            write_value(out, value);
        }
        if let Some(remark) = row.remark() {
            key(out, &format!("{}:q", row.tag));
            text::string(out, &remark);
        }
    }
    end_point(out, time);
}

fn write_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::I64(number) => text::signed(out, *number),
        Value::U64(number) if i64::try_from(*number).is_ok() => text::unsigned(out, *number),
        Value::U64(number) => text::string(out, &number.to_string()),
        Value::F32(number) => text::float32(out, *number),
        Value::F64(number) => text::float(out, *number),
        Value::Text(value) => text::string(out, value),
        Value::Json(json) => out.extend_from_slice(json.as_bytes()),
        Value::Bytes(bytes) => text::base64(out, bytes),
    }
}
