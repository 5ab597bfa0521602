//! A parcel with everything in it that a codec may meet.

use std::sync::Arc;

use millrace_tags::{
    BootId, DeviceAlarm, DropReason, Event, EventDetail, EventState, Gap, Hole, Lane, LogKind,
    Moment, Parcel, Quality, Reason, Records, Sample, Share, SourceId, StreamId, TagId, TagInfo,
    TagTable, Timebase, Timestamp, Value, ValueType,
};
use uuid::Uuid;

/// Unix milliseconds of moment zero.
const ZERO_MS: i64 = 1_763_690_000_000;

fn stream() -> StreamId {
    StreamId(Uuid::from_u128(0x6f0c_0000_0000_0000_0000_0000_0000_0001))
}

fn timebase() -> Timebase {
    Timebase {
        boot: BootId(Uuid::from_u128(0xb007)),
        offset_ns: Some(ZERO_MS * 1_000_000),
    }
}

/// Name, value and quality; all at one instant.
fn animals() -> Vec<(&'static str, Option<Value>, Quality)> {
    use Quality::{Bad, Good, Uncertain};
    let good = |name, value| (name, Some(value), Good);
    vec![
        good("run", Value::Bool(true)),
        good("count", Value::I64(-5)),
        good("exact", Value::I64(1 << 53)),
        good("beyond", Value::I64(-(1 << 53) - 1)),
        good("least", Value::I64(i64::MIN)),
        good("most", Value::U64(u64::MAX)),
        good("f32", Value::F32(0.1)),
        good("f64", Value::F64(1.0 / 3.0)),
        good("whole", Value::F64(5.0)),
        good("tiny", Value::F64(-1e-300)),
        good("text", Value::Text("a \"b\"\\ c,=\n\u{1}é 漢".into())),
        good("bytes", Value::Bytes([0, 1, 254, 255].as_slice().into())),
        good("json", Value::Json(r#"{"a":[1,"x"]}"#.into())),
        ("nan", Some(Value::F64(f64::NAN)), Good),
        ("broken", Some(Value::Json("{".into())), Good),
        ("lost", None, Bad(Reason::Timeout)),
        (
            "doubtful",
            Some(Value::I64(4)),
            Uncertain(Reason::Status(0x4034_0000)),
        ),
        good("kühler/vor lauf,=", Value::I64(7)),
    ]
}

fn parcel(source: &str, log: LogKind, records: Records, tags: TagTable) -> Parcel {
    Parcel {
        source: source.into(),
        stream: stream(),
        log,
        lane: if log == LogKind::Alarm {
            Lane::Alarm
        } else {
            Lane::Live
        },
        first_seq: 1201,
        timebase: timebase(),
        tags: Arc::new(tags),
        records,
    }
}

/// All animals at one instant, then a value with a time of its device, then one of the past.
pub(crate) fn samples(source: &str) -> Parcel {
    let mut tags = TagTable::default();
    let mut samples = Vec::new();
    let at = Moment(123_456_789);
    for (name, value, quality) in animals() {
        let tag = tags.push(TagInfo {
            source: SourceId(0),
            name: name.into(),
            value_type: ValueType::Any,
            unit: (name == "f32").then(|| "°C".into()),
        });
        samples.push(Sample {
            tag,
            value,
            quality,
            source_time: None,
            gateway_time: at,
        });
    }
    let mut of_device = Sample::good(TagId(0), Value::Bool(false), Moment(2_000_000_000));
    of_device.source_time = Some(Timestamp::from_unix_ms(ZERO_MS + 1_500));
    samples.push(of_device);
    samples.push(Sample::good(
        TagId(1),
        Value::I64(6),
        Moment(-3_600_000_000_000),
    ));
    parcel(source, LogKind::Data, Records::Samples(samples), tags)
}

/// The same before the clock is known.
pub(crate) fn undated(source: &str) -> Parcel {
    let mut parcel = samples(source);
    parcel.timebase.offset_ns = None;
    if let Records::Samples(samples) = &mut parcel.records {
        samples.drain(2..18);
    }
    parcel
}

/// An anomaly, a lost device, and an alarm of a device.
pub(crate) fn events(source: &str) -> Parcel {
    let anomaly = Event {
        state: EventState::End,
        at: Moment(3_000_000),
        start: Moment(1_000_000),
        end: Some(Moment(2_000_000)),
        detail: EventDetail::Anomaly {
            version: "1.2.0".into(),
            sha256: "ab".into(),
            peak: 9.5,
            score: f64::NAN,
            threshold: 3.0,
            top: vec![Share {
                role: "p 1".into(),
                share: 0.75,
            }],
            good: 0.98,
            severity: Some(2),
            from: Some(Moment(500_000)),
        },
    };
    let comms = Event {
        state: EventState::Begin,
        at: Moment(0),
        start: Moment(0),
        end: None,
        detail: EventDetail::Comms {
            message: "no \"answer\"".into(),
        },
    };
    let alarm = Event {
        state: EventState::Begin,
        at: Moment(5_000_000),
        start: Moment(4_000_000),
        end: None,
        detail: EventDetail::Alarm {
            message: "too hot".into(),
            told: Some(Box::new(DeviceAlarm {
                severity: 700,
                node: Some("ns=2;s=Tank".into()),
                name: None,
                condition: Some("high level".into()),
                id: Some("ns=2;i=7".into()),
                acked: Some(false),
                source_time: Some(Timestamp::from_unix_ms(ZERO_MS)),
            })),
        },
    };
    let records = Records::Events(vec![anomaly, comms, alarm]);
    parcel(source, LogKind::Alarm, records, TagTable::default())
}

/// Two holes, one of them without an end.
pub(crate) fn gap(source: &str) -> Gap {
    let hole = |first_seq, last_seq| Hole {
        source: source.into(),
        first_seq,
        last_seq,
    };
    Gap {
        stream: stream(),
        log: LogKind::Data,
        reason: DropReason::Full,
        at: Some(Timestamp::from_unix_ms(ZERO_MS)),
        holes: vec![hole(5, Some(9)), hole(11, None)],
    }
}
