//! Samples, events and gaps as JSON.

use millrace_tags::{
    DeviceAlarm, Event, EventDetail, EventState, Gap, Hole, Moment, Parcel, Quality, Reason,
    Records, Sample, Timebase,
};

use super::text as json;
use super::text::NoValue;
use crate::codec::{EncodeError, Piece, Room, Sheet, payload_limit};

/// Appends text that is JSON already.
fn raw(out: &mut Vec<u8>, json: &str) {
    out.extend_from_slice(json.as_bytes());
}

/// A member's name, with the comma before it.
fn key(out: &mut Vec<u8>, name: &str) {
    raw(out, ",\"");
    raw(out, name);
    raw(out, "\":");
}

/// The moment in Unix milliseconds; milliseconds since boot where the clock is unset.
fn moment(out: &mut Vec<u8>, timebase: &Timebase, moment: Moment) {
    json::millis(out, timebase.utc(moment).map_or(moment.0, |utc| utc.0));
}

/// `,"clock":"unset","boot":"…"` where times count from boot.
fn clock_note(out: &mut Vec<u8>, timebase: &Timebase) {
    if timebase.offset_ns.is_none() {
        raw(out, ",\"clock\":\"unset\",\"boot\":\"");
        raw(out, &timebase.boot.0.to_string());
        raw(out, "\"");
    }
}

/// The parts of a parcel's messages that are the same in each.
struct Envelope {
    topic: String,
    /// `{"gateway":…,"source":…,"stream":…,"first_seq":`
    head: Vec<u8>,
    /// `,"lane":…,"samples":[`
    middle: Vec<u8>,
    /// For the samples alone.
    body_limit: usize,
}

/// Two numbers of at most 20 digits, `,"last_seq":` and `]}`.
const RANGE_BYTES: usize = 20 + 20 + 12 + 2;

impl Envelope {
    fn new(sheet: &Sheet<'_>, parcel: &Parcel, limit: usize) -> Result<Self, EncodeError> {
        let topic = sheet.topic.of_parcel(parcel, None)?;
        let mut head = Vec::with_capacity(128);
        raw(&mut head, "{\"gateway\":");
        json::string(&mut head, sheet.gateway);
        key(&mut head, "source");
        json::string(&mut head, &parcel.source);
        key(&mut head, "stream");
        json::string(&mut head, &parcel.stream.to_string());
        key(&mut head, "first_seq");
        let mut middle = Vec::with_capacity(96);
        key(&mut middle, "lane");
        json::string(&mut middle, parcel.lane.name());
        clock_note(&mut middle, &parcel.timebase);
        raw(&mut middle, ",\"samples\":[");
        let fixed = head.len() + middle.len() + RANGE_BYTES;
        let body_limit = payload_limit(&topic, limit).saturating_sub(fixed);
        Ok(Self {
            topic,
            head,
            middle,
            body_limit,
        })
    }

    fn wrap(&self, first_seq: u64, count: u64, body: &[u8]) -> Piece {
        let bytes = self.head.len() + self.middle.len() + RANGE_BYTES + body.len();
        let mut payload = Vec::with_capacity(bytes);
        payload.extend_from_slice(&self.head);
        json::unsigned(&mut payload, first_seq);
        key(&mut payload, "last_seq");
        json::unsigned(&mut payload, first_seq + count - 1);
        payload.extend_from_slice(&self.middle);
        payload.extend_from_slice(body);
        raw(&mut payload, "]}");
        Piece {
            topic: self.topic.clone(),
            payload,
            range: (first_seq, first_seq + count - 1),
        }
    }
}

/// Samples, in as few messages as fit; a sample that takes more goes alone.
pub(in crate::codec) fn samples(
    sheet: &Sheet<'_>,
    parcel: &Parcel,
    samples: &[Sample],
    room: Room,
) -> Result<Vec<Piece>, EncodeError> {
    let envelope = Envelope::new(sheet, parcel, room.wanted)?;
    let mut messages = Vec::new();
    let mut times = Times::new(&parcel.timebase);
    // A sample takes some 45 bytes.
    let mut body = Vec::with_capacity((samples.len() * 48).min(envelope.body_limit));
    let mut first_seq = parcel.first_seq;
    for (seq, sample) in (parcel.first_seq..).zip(samples) {
        let before = body.len();
        if seq > first_seq {
            body.push(b',');
        }
        write_sample(&mut body, parcel, seq, sample, &mut times)?;
        if body.len() <= envelope.body_limit {
            continue;
        }
        // It does not fit beside the others: they go, and it begins the next message.
        if seq > first_seq {
            messages.push(envelope.wrap(first_seq, seq - first_seq, &body[..before]));
            body.drain(..before + 1);
            first_seq = seq;
        }
        if body.len() > envelope.body_limit {
            let alone = envelope.wrap(seq, 1, &body);
            if alone.wire_bytes() <= room.most {
                messages.push(alone);
                body.clear();
                first_seq = seq + 1;
                continue;
            }
            return Err(EncodeError::TooLarge {
                source_name: parcel.source.to_string(),
                seq,
                bytes: alone.wire_bytes(),
                limit: room.most,
            });
        }
    }
    let rest = parcel.first_seq + samples.len() as u64 - first_seq;
    if rest > 0 {
        messages.push(envelope.wrap(first_seq, rest, &body));
    }
    Ok(messages)
}

/// Remembers the last time as text: the samples of one reply share theirs.
struct Times<'a> {
    timebase: &'a Timebase,
    last: Option<Moment>,
    text: Vec<u8>,
}

impl<'a> Times<'a> {
    fn new(timebase: &'a Timebase) -> Self {
        Self {
            timebase,
            last: None,
            text: Vec::with_capacity(24),
        }
    }

    fn write(&mut self, out: &mut Vec<u8>, at: Moment) {
        if self.last != Some(at) {
            self.text.clear();
            moment(&mut self.text, self.timebase, at);
            self.last = Some(at);
        }
        out.extend_from_slice(&self.text);
    }
}

fn write_sample(
    out: &mut Vec<u8>,
    parcel: &Parcel,
    seq: u64,
    sample: &Sample,
    times: &mut Times<'_>,
) -> Result<(), EncodeError> {
    let Some(tag) = parcel.tags.get(sample.tag) else {
        return Err(EncodeError::UnknownTag {
            source_name: parcel.source.to_string(),
            seq,
            tag: sample.tag,
        });
    };
    raw(out, "{\"n\":");
    sample_members(out, &tag.name, sample, times);
    out.push(b'}');
    Ok(())
}

/// The members of a sample from the name on.
fn sample_members(out: &mut Vec<u8>, name: &str, sample: &Sample, times: &mut Times<'_>) {
    json::string(out, name);
    raw(out, ",\"t\":");
    times.write(out, sample.gateway_time);
    out.push(b',');
    let written = json::value(out, sample.value.as_ref());
    let quality = match written {
        Ok(()) => sample.quality,
        Err(problem) => without_value(sample.quality, problem),
    };
    if let Some(reason) = quality.reason() {
        raw(out, ",\"q\":\"");
        raw(out, quality.severity());
        raw(out, "\",\"r\":\"");
        raw(out, &reason.name());
        raw(out, "\"");
    }
    if let Some(source_time) = sample.source_time {
        raw(out, ",\"st\":");
        json::millis(out, source_time.0);
    }
}

/// One record of a parcel as a JSON object of its own: whose it is, then the members that it has in a
/// message.
pub(super) fn line(out: &mut Vec<u8>, parcel: &Parcel, at: usize) {
    raw(out, "{\"source\":");
    json::string(out, &parcel.source);
    key(out, "stream");
    json::string(out, &parcel.stream.to_string());
    key(out, "seq");
    json::unsigned(out, parcel.first_seq + at as u64);
    match &parcel.records {
        Records::Samples(samples) => {
            let Some(sample) = samples.get(at) else {
                return;
            };
            let tag = parcel.tags.get(sample.tag);
            let name = tag.map(|tag| tag.name.clone());
            let name = name.filter(|name| !name.is_empty());
            let name = name.unwrap_or_else(|| format!("tag-{}", sample.tag.0).into());
            key(out, "n");
            sample_members(out, &name, sample, &mut Times::new(&parcel.timebase));
            clock_note(out, &parcel.timebase);
        }
        Records::Events(events) => {
            let Some(event) = events.get(at) else { return };
            key(out, "kind");
            json::string(out, event.detail.kind());
            event_members(out, parcel, event);
        }
    }
    out.push(b'}');
}

/// The quality of a sample whose value cannot be written: bad, with the reason it had or a new one.
fn without_value(quality: Quality, problem: NoValue) -> Quality {
    Quality::Bad(quality.reason().unwrap_or(match problem {
        NoValue::NotANumber => Reason::NotANumber,
        NoValue::NotJson => Reason::InvalidEncoding,
    }))
}

/// One event.
pub(in crate::codec) fn event(gateway: &str, parcel: &Parcel, seq: u64, event: &Event) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    let out_ref = &mut out;
    raw(out_ref, "{\"gateway\":");
    json::string(out_ref, gateway);
    key(out_ref, "kind");
    json::string(out_ref, event.detail.kind());
    key(out_ref, "source");
    json::string(out_ref, &parcel.source);
    key(out_ref, "stream");
    json::string(out_ref, &parcel.stream.to_string());
    key(out_ref, "seq");
    json::unsigned(out_ref, seq);
    event_members(out_ref, parcel, event);
    out.push(b'}');
    out
}

/// The members of an event from the state on.
fn event_members(out: &mut Vec<u8>, parcel: &Parcel, event: &Event) {
    key(out, "state");
    json::string(out, state_name(event.state));
    clock_note(out, &parcel.timebase);
    key(out, "at");
    moment(out, &parcel.timebase, event.at);
    key(out, "start");
    moment(out, &parcel.timebase, event.start);
    key(out, "end");
    match event.end {
        Some(end) => moment(out, &parcel.timebase, end),
        None => raw(out, "null"),
    }
    write_detail(out, &event.detail, &parcel.timebase);
}

pub(in crate::codec) fn state_name(state: EventState) -> &'static str {
    match state {
        EventState::Begin => "begin",
        EventState::Update => "update",
        EventState::End => "end",
    }
}

fn write_told(out: &mut Vec<u8>, told: &DeviceAlarm) {
    key(out, "severity");
    json::unsigned(out, u64::from(told.severity));
    for (name, text) in [
        ("node", &told.node),
        ("name", &told.name),
        ("condition", &told.condition),
    ] {
        if let Some(text) = text {
            key(out, name);
            json::string(out, text);
        }
    }
    if let Some(acked) = told.acked {
        key(out, "acked");
        raw(out, if acked { "true" } else { "false" });
    }
    if let Some(time) = told.source_time {
        key(out, "st");
        json::millis(out, time.0);
    }
}

fn write_detail(out: &mut Vec<u8>, detail: &EventDetail, timebase: &Timebase) {
    match detail {
        EventDetail::Comms { message } => {
            key(out, "message");
            json::string(out, message);
        }
        EventDetail::Alarm { message, told } => {
            key(out, "message");
            json::string(out, message);
            if let Some(told) = told {
                write_told(out, told);
            }
        }
        EventDetail::Anomaly {
            version,
            sha256,
            peak,
            score,
            threshold,
            top,
            good,
            severity,
            from,
        } => {
            key(out, "version");
            json::string(out, version);
            key(out, "sha256");
            json::string(out, sha256);
            for (name, number) in [
                ("peak", peak),
                ("score", score),
                ("threshold", threshold),
                ("good", good),
            ] {
                key(out, name);
                json::float(out, *number);
            }
            key(out, "top");
            out.push(b'[');
            for (i, share) in top.iter().enumerate() {
                raw(out, if i == 0 { "{\"role\":" } else { ",{\"role\":" });
                json::string(out, &share.role);
                key(out, "share");
                json::float(out, share.share);
                out.push(b'}');
            }
            out.push(b']');
            if let Some(severity) = severity {
                key(out, "severity");
                json::unsigned(out, u64::from(*severity));
            }
            if let Some(from) = from {
                key(out, "from");
                moment(out, timebase, *from);
            }
        }
    }
}

/// A gap as payloads of at most `limit` bytes, as far as single holes allow.
pub(in crate::codec) fn gap(gateway: &str, gap: &Gap, limit: usize) -> Vec<Vec<u8>> {
    let mut head = Vec::with_capacity(160);
    raw(&mut head, "{\"gateway\":");
    json::string(&mut head, gateway);
    key(&mut head, "stream");
    json::string(&mut head, &gap.stream.to_string());
    key(&mut head, "log");
    json::string(&mut head, gap.log.name());
    key(&mut head, "reason");
    json::string(&mut head, gap.reason.name());
    key(&mut head, "at");
    match gap.at {
        Some(at) => json::millis(&mut head, at.0),
        None => raw(&mut head, "null"),
    }
    raw(&mut head, ",\"holes\":[");

    let mut payloads = Vec::new();
    let mut payload = head.clone();
    for hole in &gap.holes {
        let text = write_hole(hole);
        let begun = payload.len() > head.len();
        // One for the comma, two for the closing brackets.
        if begun && payload.len() + text.len() + 3 > limit {
            raw(&mut payload, "]}");
            payloads.push(std::mem::replace(&mut payload, head.clone()));
        } else if begun {
            payload.push(b',');
        }
        payload.extend_from_slice(&text);
    }
    raw(&mut payload, "]}");
    payloads.push(payload);
    payloads
}

fn write_hole(hole: &Hole) -> Vec<u8> {
    let mut out = Vec::with_capacity(80);
    raw(&mut out, "{\"source\":");
    json::string(&mut out, &hole.source);
    key(&mut out, "first_seq");
    json::unsigned(&mut out, hole.first_seq);
    key(&mut out, "last_seq");
    match hole.last_seq {
        Some(last) => json::unsigned(&mut out, last),
        None => raw(&mut out, "null"),
    }
    out.push(b'}');
    out
}
