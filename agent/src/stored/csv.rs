//! Records as CSV (RFC 4180): the names of the columns are those of the JSON members.
//!
//! Numbers have the shortest digits that give the same value back; text is always in quotes, so that
//! `"1"` and `1` differ; bytes are base64 in a column of their own. Times are Unix milliseconds with
//! decimals where finer, or milliseconds since the boot where `clock` says `unset`.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use millrace_tags::{
    Event, EventDetail, LogKind, Moment, Parcel, Records, Sample, Timebase, Value,
};

/// The heading of a log's table.
pub(super) fn heading(log: LogKind) -> &'static str {
    match log {
        LogKind::Data => "source,seq,n,t,v,x,q,r,st,stream,clock,boot\n",
        LogKind::Alarm => "source,seq,kind,state,at,start,end,message,detail,stream,clock,boot\n",
    }
}

/// Appends the line of one record, without its end.
pub(super) fn line(out: &mut Vec<u8>, parcel: &Parcel, at: usize) {
    let mut text = String::with_capacity(128);
    quoted_if_needed(&mut text, &parcel.source);
    let seq = parcel.first_seq + at as u64;
    let _ = write!(text, ",{seq},");
    match &parcel.records {
        Records::Samples(samples) => {
            if let Some(sample) = samples.get(at) {
                sample_columns(&mut text, parcel, sample);
            }
        }
        Records::Events(events) => {
            if let Some(event) = events.get(at) {
                event_columns(&mut text, &parcel.timebase, event);
            }
        }
    }
    let _ = write!(text, ",{}", parcel.stream);
    match parcel.timebase.offset_ns {
        Some(_) => text.push_str(",,"),
        None => {
            let _ = write!(text, ",unset,{}", parcel.timebase.boot.0);
        }
    }
    out.extend_from_slice(text.as_bytes());
}

fn sample_columns(text: &mut String, parcel: &Parcel, sample: &Sample) {
    match parcel.tags.get(sample.tag).filter(|t| !t.name.is_empty()) {
        Some(tag) => quoted_if_needed(text, &tag.name),
        None => {
            let _ = write!(text, "tag-{}", sample.tag.0);
        }
    }
    text.push(',');
    moment(text, &parcel.timebase, sample.gateway_time);
    text.push(',');
    match &sample.value {
        Some(Value::Bytes(bytes)) => {
            text.push(',');
            text.push_str(&STANDARD.encode(bytes));
        }
        value => {
            if let Some(value) = value {
                plain_value(text, value);
            }
            text.push(',');
        }
    }
    text.push(',');
    if let Some(reason) = sample.quality.reason() {
        let _ = write!(text, "{},{},", sample.quality.severity(), reason.name());
    } else {
        text.push_str(",,");
    }
    if let Some(time) = sample.source_time {
        millis(text, time.0);
    }
}

fn plain_value(text: &mut String, value: &Value) {
    match value {
        Value::Bool(value) => text.push_str(if *value { "true" } else { "false" }),
        Value::I64(value) => {
            let _ = write!(text, "{value}");
        }
        Value::U64(value) => {
            let _ = write!(text, "{value}");
        }
        // The debug form is the shortest that reads back as the same number, with an exponent where that
        // is shorter.
        Value::F64(value) => {
            let _ = write!(text, "{value:?}");
        }
        Value::F32(value) => {
            let _ = write!(text, "{value:?}");
        }
        Value::Text(value) | Value::Json(value) => quoted(text, value),
        Value::Bytes(_) => {}
    }
}

fn event_columns(text: &mut String, timebase: &Timebase, event: &Event) {
    let state = format!("{:?}", event.state).to_lowercase();
    let _ = write!(text, "{},{state},", event.detail.kind());
    moment(text, timebase, event.at);
    text.push(',');
    moment(text, timebase, event.start);
    text.push(',');
    if let Some(end) = event.end {
        moment(text, timebase, end);
    }
    text.push(',');
    match &event.detail {
        EventDetail::Comms { message }
        | EventDetail::Alarm {
            message,
            told: None,
        } => {
            quoted(text, message);
            text.push(',');
        }
        detail => {
            if let EventDetail::Alarm { message, .. } = detail {
                quoted(text, message);
            }
            text.push(',');
            let mut detail = serde_json::to_value(detail).unwrap_or_default();
            if let Some(members) = detail.as_object_mut() {
                members.remove("kind");
                members.remove("message");
            }
            quoted(text, &detail.to_string());
        }
    }
}

fn moment(text: &mut String, timebase: &Timebase, moment: Moment) {
    millis(text, timebase.utc(moment).map_or(moment.0, |utc| utc.0));
}

/// Nanoseconds as milliseconds, exactly.
fn millis(text: &mut String, nanos: i64) {
    if nanos < 0 {
        text.push('-');
    }
    let nanos = nanos.unsigned_abs();
    let _ = write!(text, "{}", nanos / 1_000_000);
    let fraction = nanos % 1_000_000;
    if fraction > 0 {
        let digits = format!("{fraction:06}");
        let _ = write!(text, ".{}", digits.trim_end_matches('0'));
    }
}

fn quoted(text: &mut String, value: &str) {
    text.push('"');
    text.push_str(&value.replace('"', "\"\""));
    text.push('"');
}

fn quoted_if_needed(text: &mut String, value: &str) {
    if value.contains([',', '"', '\n', '\r']) {
        quoted(text, value);
    } else {
        text.push_str(value);
    }
}
