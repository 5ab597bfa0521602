//! InfluxDB's line protocol, as Telegraf's `mqtt_consumer` takes it: `boiler,gateway=gw-1 pressure=1.25 1763690000123000000`.
//!
//! The measurement is the source, a tag of ours is a field, samples of one instant share a line; lines are
//! separated by line feeds. Signed integers, and unsigned ones up to 2^63 - 1, end in `i`; larger ones in `u` (Telegraf
//! takes both, InfluxDB 1.x refuses `u`). Text is quoted; bytes are base64 text, JSON is text. What is not good
//! adds the text field `<tag>:q` with `bad timeout`. Events are the measurement `millrace_event`, gaps `millrace_gap`, one
//! line a hole. Line breaks within names become spaces: the format has no escape for them. While the clock is not
//! set there is no time, and Telegraf puts the time of arrival.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use millrace_tags::{Event, EventDetail, Gap, Parcel, Sample, Value};

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
    let mut head = Vec::with_capacity(64);
    name(&mut head, &parcel.source, b", ");
    tag(&mut head, "gateway", sheet.gateway);
    let topic = sheet.topic.of_parcel(parcel, None)?;
    let wrap = |items: &[u8], _: usize| items.to_vec();
    let mut packer = Packer::new(&parcel.source, topic, room, 0, b"\n", &wrap);
    for run in runs(&rows, |one, other| one.time == other.time) {
        packer.push(run, &|rows, out| {
            write_line(&head, rows, out);
            1
        })?;
    }
    Ok(packer.finish())
}

/// One event.
pub(crate) fn event(sheet: &Sheet<'_>, parcel: &Parcel, event: &Event) -> Vec<u8> {
    let mut out = b"millrace_event".to_vec();
    tag(&mut out, "gateway", sheet.gateway);
    tag(&mut out, "kind", event.detail.kind());
    tag(&mut out, "source", &parcel.source);
    out.extend_from_slice(b" state=");
    quoted(&mut out, records::state_name(event.state));
    let times = [("start_ms", Some(event.start)), ("end_ms", event.end)];
    for (key, moment) in times {
        if let Some(time) = moment.and_then(|moment| parcel.timebase.utc(moment)) {
            out.push(b',');
            out.extend_from_slice(key.as_bytes());
            out.push(b'=');
            text::signed(&mut out, time.0.div_euclid(1_000_000));
            out.push(b'i');
        }
    }
    match &event.detail {
        EventDetail::Comms { message } => {
            out.extend_from_slice(b",message=");
            quoted(&mut out, message);
        }
        EventDetail::Alarm { message, told } => {
            out.extend_from_slice(b",message=");
            quoted(&mut out, message);
            if let Some(told) = told {
                out.extend_from_slice(b",severity=");
                integer(&mut out, u64::from(told.severity));
                let texts = [
                    (&b",node="[..], &told.node),
                    (b",name=", &told.name),
                    (b",condition=", &told.condition),
                ];
                for (key, text) in texts {
                    if let Some(text) = text {
                        out.extend_from_slice(key);
                        quoted(&mut out, text);
                    }
                }
            }
        }
        EventDetail::Anomaly {
            version,
            peak,
            score,
            threshold,
            good,
            top,
            severity,
            ..
        } => {
            out.extend_from_slice(b",version=");
            quoted(&mut out, version);
            let numbers = [
                ("peak", peak),
                ("score", score),
                ("threshold", threshold),
                ("good", good),
            ];
            for (key, number) in numbers.into_iter().filter(|(_, number)| number.is_finite()) {
                out.push(b',');
                out.extend_from_slice(key.as_bytes());
                out.push(b'=');
                text::float(&mut out, *number);
            }
            let roles: Vec<&str> = top.iter().map(|share| share.role.as_str()).collect();
            out.extend_from_slice(b",top=");
            quoted(&mut out, &roles.join(" "));
            if let Some(severity) = severity {
                out.extend_from_slice(b",severity=");
                integer(&mut out, u64::from(*severity));
            }
        }
    }
    time(&mut out, parcel.timebase.utc(event.at).map(|at| at.0));
    out
}

/// A gap, one line a hole.
pub(crate) fn gap(gateway: &str, gap: &Gap, limit: usize) -> Vec<Vec<u8>> {
    let mut payloads: Vec<Vec<u8>> = Vec::new();
    for hole in &gap.holes {
        let mut line = b"millrace_gap".to_vec();
        tag(&mut line, "gateway", gateway);
        tag(&mut line, "log", gap.log.name());
        tag(&mut line, "reason", gap.reason.name());
        tag(&mut line, "source", &hole.source);
        line.extend_from_slice(b" stream=");
        quoted(&mut line, &gap.stream.to_string());
        line.extend_from_slice(b",first_seq=");
        integer(&mut line, hole.first_seq);
        if let Some(last) = hole.last_seq {
            line.extend_from_slice(b",last_seq=");
            integer(&mut line, last);
        }
        time(&mut line, gap.at.map(|at| at.0));
        match payloads.last_mut() {
            Some(payload) if payload.len() + 1 + line.len() <= limit => {
                payload.push(b'\n');
                payload.extend_from_slice(&line);
            }
            _ => payloads.push(line),
        }
    }
    payloads
}

/// Whether the gateway is there.
pub(crate) fn status(gateway: &str, online: bool) -> Vec<u8> {
    let mut out = b"millrace_status".to_vec();
    tag(&mut out, "gateway", gateway);
    out.extend_from_slice(if online {
        b" online=true"
    } else {
        b" online=false"
    });
    out
}

fn write_line(head: &[u8], rows: &[Row<'_>], out: &mut Vec<u8>) {
    out.extend_from_slice(head);
    let mut separator = b' ';
    let mut key = |out: &mut Vec<u8>, field: &str| {
        out.push(std::mem::replace(&mut separator, b','));
        name(out, field, b",= ");
        out.push(b'=');
    };
    for row in rows {
        if let Some(value) = row.value {
            key(out, row.tag);
            write_value(out, value);
        }
        if let Some(remark) = row.remark() {
            key(out, &format!("{}:q", row.tag));
            quoted(out, &remark);
        }
    }
    time(out, rows.first().and_then(|row| row.time));
}

fn write_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::I64(number) => {
            text::signed(out, *number);
            out.push(b'i');
        }
        Value::U64(number) => integer(out, *number),
        Value::F32(number) => text::float32(out, *number),
        Value::F64(number) => text::float(out, *number),
        Value::Text(value) | Value::Json(value) => quoted(out, value),
        Value::Bytes(bytes) => quoted(out, &STANDARD.encode(bytes)),
    }
}

fn integer(out: &mut Vec<u8>, number: u64) {
    text::unsigned(out, number);
    out.push(if i64::try_from(number).is_ok() {
        b'i'
    } else {
        b'u'
    });
}

fn time(out: &mut Vec<u8>, nanos: Option<i64>) {
    if let Some(nanos) = nanos {
        out.push(b' ');
        text::signed(out, nanos);
    }
}

fn tag(out: &mut Vec<u8>, key: &str, value: &str) {
    // The format has no empty tag values: a tag without one is left out.
    if !value.is_empty() {
        out.push(b',');
        out.extend_from_slice(key.as_bytes());
        out.push(b'=');
        name(out, value, b",= ");
    }
}

/// A measurement, a key or a tag's value; `special` are the characters that need a backslash.
fn name(out: &mut Vec<u8>, name: &str, special: &[u8]) {
    for byte in name.bytes() {
        match byte {
            b'\n' | b'\r' => out.extend_from_slice(b"\\ "),
            _ if special.contains(&byte) => out.extend_from_slice(&[b'\\', byte]),
            _ => out.push(byte),
        }
    }
    if name.ends_with('\\') {
        // It would escape what follows.
        out.push(b'_');
    }
}

fn quoted(out: &mut Vec<u8>, value: &str) {
    out.push(b'"');
    for byte in value.bytes() {
        if matches!(byte, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(byte);
    }
    out.push(b'"');
}
