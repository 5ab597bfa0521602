//! The codec `json`: the payload of the profile `generic`, for any core that takes JSON of a form of ours.
//!
//! It keeps everything: both times of a sample, quality and reason, integers of 64 bits, and the range of numbers
//! that a message carries, so that a receiver can prove that nothing is missing and nothing there twice.
//! Numbers are written as JSON numbers only when they are finite; a NaN or an infinity becomes a bad
//! sample with the reason `not-a-number`. Bytes are base64 in `x`. Before the clock is known, times count from
//! boot, and the message says so.

pub(in crate::codec) mod records;
pub(crate) mod text;

use millrace_tags::{Parcel, Timebase};

/// Appends record `at` of a parcel as one JSON object, for files: `source`, `stream`, `seq`, then the
/// members that the record has in a message.
pub fn line(out: &mut Vec<u8>, parcel: &Parcel, at: usize) {
    records::line(out, parcel, at);
}

/// What the agent tells about itself; a key `online` in it is overwritten.
pub(super) fn status(online: bool, facts: &serde_json::Map<String, serde_json::Value>) -> Vec<u8> {
    let mut status = facts.clone();
    status.insert("online".into(), online.into());
    serde_json::Value::Object(status).to_string().into_bytes()
}

/// Where the boot stands in UTC; `None` while that is not known.
pub(crate) fn clock(timebase: &Timebase) -> Option<Vec<u8>> {
    let offset_ns = timebase.offset_ns?;
    let mut payload = Vec::with_capacity(96);
    payload.extend_from_slice(b"{\"boot\":\"");
    payload.extend_from_slice(timebase.boot.0.to_string().as_bytes());
    payload.extend_from_slice(b"\",\"offset_ms\":");
    text::millis(&mut payload, offset_ns);
    payload.push(b'}');
    Some(payload)
}
