use std::sync::Arc;

use millrace_tags::{
    BootId, DropReason, Event, EventDetail, EventState, Gap, Hole, Lane, LogKind, Moment, Parcel,
    Quality, Reason, Records, Sample, Share, SourceId, StreamId, TagId, TagInfo, TagTable,
    Timebase, Timestamp, Value, ValueType,
};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::codec::json::text as json;

const STREAM: &str = "6f0c0000000000000000000000000001";
const BOOT: u128 = 0xb007;
/// Large enough for every test that is not about size.
const ROOMY: usize = 128 * 1024;

fn profile() -> Profile {
    Profile::generic("gw-1")
}

fn stream() -> StreamId {
    StreamId(uuid_of(0x6f0c_0000_0000_0000_0000_0000_0000_0001))
}

fn uuid_of(number: u128) -> uuid::Uuid {
    uuid::Uuid::from_u128(number)
}

fn timebase(offset_ns: Option<i64>) -> Timebase {
    Timebase {
        boot: BootId(uuid_of(BOOT)),
        offset_ns,
    }
}

fn tags(names: &[&str]) -> Arc<TagTable> {
    let mut table = TagTable::default();
    for name in names {
        table.push(TagInfo {
            source: SourceId(0),
            name: (*name).into(),
            value_type: ValueType::Any,
            unit: None,
        });
    }
    Arc::new(table)
}

pub(super) fn parcel(names: &[&str], samples: Vec<Sample>) -> Parcel {
    Parcel {
        source: "boiler".into(),
        stream: stream(),
        log: LogKind::Data,
        lane: Lane::Live,
        first_seq: 1201,
        timebase: timebase(Some(1_763_690_000_000_000_000)),
        tags: tags(names),
        records: Records::Samples(samples),
    }
}

fn text(message: &Message) -> &str {
    std::str::from_utf8(&message.payload).unwrap()
}

fn parsed(message: &Message) -> serde_json::Value {
    serde_json::from_slice(&message.payload).unwrap()
}

fn only(messages: Vec<Message>) -> Message {
    let [message] = <[Message; 1]>::try_from(messages).unwrap();
    message
}

#[test]
fn samples_as_the_interface_shows_them() {
    let at = |ms: i64| Moment(ms * 1_000_000);
    let mut confirmed = Sample::good(TagId(0), Value::F64(1.31), at(1123));
    confirmed.source_time = Some(Timestamp::from_unix_ms(1_763_690_001_120));
    let message = only(
        profile()
            .encode_parcel(
                &parcel(
                    &["pressure", "run"],
                    vec![
                        Sample::good(TagId(0), Value::F32(1.25), at(123)),
                        confirmed,
                        Sample::bad(TagId(1), Reason::Timeout, at(1123)),
                    ],
                ),
                ROOMY,
            )
            .unwrap(),
    );
    assert_eq!(message.topic, "millrace/gw-1/data/boiler");
    assert!(!message.retain);
    assert_eq!(
        text(&message),
        format!(
            concat!(
                r#"{{"gateway":"gw-1","source":"boiler","stream":"{}","first_seq":1201,"last_seq":1203,"lane":"live","#,
                r#""samples":[{{"n":"pressure","t":1763690000123,"v":1.25}},"#,
                r#"{{"n":"pressure","t":1763690001123,"v":1.31,"st":1763690001120}},"#,
                r#"{{"n":"run","t":1763690001123,"v":null,"q":"bad","r":"timeout"}}]}}"#
            ),
            STREAM
        )
    );
}

#[test]
fn every_kind_of_value() {
    let values = [
        (Value::Bool(true), json!({"v": true})),
        (Value::I64(i64::MIN), json!({"v": i64::MIN})),
        (Value::U64(u64::MAX), json!({"v": u64::MAX})),
        (Value::F32(0.1), json!({"v": 0.1})),
        (Value::F64(1e300), json!({"v": 1e300})),
        (
            Value::Text("a\"\\\n\u{1}ü".into()),
            json!({"v": "a\"\\\n\u{1}ü"}),
        ),
        (
            Value::Bytes([1, 2, 255].as_slice().into()),
            json!({"x": "AQL/"}),
        ),
        (
            Value::Json(r#"{"a":[1,2]}"#.into()),
            json!({"v": {"a": [1, 2]}}),
        ),
        (
            Value::Json("{broken".into()),
            json!({"v": null, "q": "bad", "r": "invalid-encoding"}),
        ),
        (
            Value::F64(f64::NAN),
            json!({"v": null, "q": "bad", "r": "not-a-number"}),
        ),
        (
            Value::F32(f32::INFINITY),
            json!({"v": null, "q": "bad", "r": "not-a-number"}),
        ),
    ];
    let samples = values
        .iter()
        .map(|(value, _)| Sample::good(TagId(0), value.clone(), Moment(0)))
        .collect();
    let message = only(
        profile()
            .encode_parcel(&parcel(&["x"], samples), ROOMY)
            .unwrap(),
    );
    let got = parsed(&message);
    for (i, (value, expected)) in values.iter().enumerate() {
        let mut sample = got["samples"][i].as_object().unwrap().clone();
        sample.remove("n");
        sample.remove("t");
        assert_eq!(serde_json::Value::Object(sample), *expected, "{value:?}");
    }
}

#[test]
fn quality_and_reason_of_a_value_that_is_there() {
    let mut sample = Sample::good(TagId(0), Value::I64(4), Moment(0));
    sample.quality = Quality::Uncertain(Reason::Status(0x4034_0000));
    let message = only(
        profile()
            .encode_parcel(&parcel(&["x"], vec![sample]), ROOMY)
            .unwrap(),
    );
    let sample = &parsed(&message)["samples"][0];
    assert_eq!(sample["v"], 4);
    assert_eq!(sample["q"], "uncertain");
    assert_eq!(sample["r"], "status-0x40340000");
}

#[test]
fn times_keep_every_digit() {
    for (nanos, expected) in [
        (0, "0"),
        (1_000_000, "1"),
        (1_763_690_000_123_000_000, "1763690000123"),
        (1_763_690_000_123_456_789, "1763690000123.456789"),
        (1_763_690_000_123_400_000, "1763690000123.4"),
        (1, "0.000001"),
        (-1, "-0.000001"),
        (-5_822_236_800_000_000_000, "-5822236800000"),
        (i64::MIN, "-9223372036854.775808"),
    ] {
        let mut out = Vec::new();
        json::millis(&mut out, nanos);
        assert_eq!(std::str::from_utf8(&out).unwrap(), expected);
    }
}

#[test]
fn an_unset_clock_says_so() {
    let mut parcel = parcel(
        &["x"],
        vec![Sample::good(
            TagId(0),
            Value::Bool(false),
            Moment(2_500_000),
        )],
    );
    parcel.timebase = timebase(None);
    let got = parsed(&only(profile().encode_parcel(&parcel, ROOMY).unwrap()));
    assert_eq!(got["clock"], "unset");
    assert_eq!(got["boot"], uuid_of(BOOT).to_string());
    assert_eq!(got["samples"][0]["t"], 2.5);
    assert_eq!(profile().clock(&parcel.timebase), None);
}

#[test]
fn the_offset_of_a_boot() {
    let message = profile()
        .clock(&timebase(Some(1_763_690_000_000_500_000)))
        .unwrap();
    assert_eq!(message.topic, "millrace/gw-1/clock");
    let expected = format!(
        r#"{{"boot":"{}","offset_ms":1763690000000.5}}"#,
        uuid_of(BOOT)
    );
    assert_eq!(text(&message), expected);
}

#[test]
fn a_record_that_does_not_fit_is_named() {
    let samples = vec![
        Sample::good(TagId(0), Value::I64(1), Moment(0)),
        Sample::good(TagId(0), Value::Text("x".repeat(5000).into()), Moment(0)),
    ];
    let error = profile()
        .encode_parcel(&parcel(&["x"], samples), 1000)
        .unwrap_err();
    assert!(
        matches!(error, EncodeError::TooLarge { seq: 1202, limit: 1000, bytes, .. } if bytes > 5000)
    );
    assert_eq!(error.seq(), 1202);
    let unknown = vec![Sample::good(TagId(9), Value::I64(1), Moment(0))];
    let error = profile()
        .encode_parcel(&parcel(&["x"], unknown), ROOMY)
        .unwrap_err();
    assert!(matches!(
        error,
        EncodeError::UnknownTag {
            seq: 1201,
            tag: TagId(9),
            ..
        }
    ));
}

#[test]
fn backlog_messages_stay_small() {
    let samples = vec![Sample::good(TagId(0), Value::I64(1), Moment(0)); 10_000];
    let mut parcel = parcel(&["a-tag-with-a-name"], samples);
    parcel.lane = Lane::Backlog;
    let messages = profile().encode_parcel(&parcel, 1 << 20).unwrap();
    assert!(messages.len() > 5);
    assert!(
        messages
            .iter()
            .all(|m| m.wire_bytes() <= BACKLOG_MESSAGE_BYTES)
    );
    assert!(text(&messages[0]).contains(r#""lane":"backlog""#));
}

#[test]
fn a_large_record_goes_alone_in_the_backlog_as_it_would_live() {
    let text_of = |bytes: usize| Value::Text("x".repeat(bytes).as_str().into());
    let sizes = [10, 70_000, 10, 70_000, 10];
    let samples = sizes.map(|bytes| Sample::good(TagId(0), text_of(bytes), Moment(0)));
    let mut parcel = parcel(&["x"], samples.to_vec());
    parcel.lane = Lane::Backlog;
    let messages = profile().encode_parcel(&parcel, 128 << 10).unwrap();
    let ranges: Vec<(i64, i64)> = messages.iter().map(|m| range(text(m))).collect();
    let each: Vec<(i64, i64)> = (1201..=1205).map(|seq| (seq, seq)).collect();
    assert_eq!(ranges, each);
    let error = profile().encode_parcel(&parcel, 69_000).unwrap_err();
    assert_eq!(error.seq(), 1202);
}

fn range(text: &str) -> (i64, i64) {
    let payload: serde_json::Value = serde_json::from_str(text).unwrap();
    let number = |key: &str| payload[key].as_i64().unwrap();
    (number("first_seq"), number("last_seq"))
}

fn events_parcel(events: Vec<Event>) -> Parcel {
    Parcel {
        source: "pump-anomaly".into(),
        log: LogKind::Alarm,
        lane: Lane::Alarm,
        first_seq: 8,
        records: Records::Events(events),
        ..parcel(&[], Vec::new())
    }
}

#[test]
fn events_one_a_message() {
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
            top: vec![
                Share {
                    role: "p".into(),
                    share: 0.75,
                },
                Share {
                    role: "t".into(),
                    share: 0.25,
                },
            ],
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
            message: "no answer".into(),
        },
    };
    let messages = profile()
        .encode_parcel(&events_parcel(vec![anomaly, comms]), ROOMY)
        .unwrap();
    assert_eq!(messages.len(), 2);
    assert_eq!(messages[0].topic, "millrace/gw-1/event/pump-anomaly");
    assert_eq!(
        parsed(&messages[0]),
        json!({
            "gateway": "gw-1", "kind": "anomaly", "source": "pump-anomaly", "stream": STREAM, "seq": 8,
            "state": "end", "at": 1_763_690_000_003i64, "start": 1_763_690_000_001i64,
            "end": 1_763_690_000_002i64, "version": "1.2.0", "sha256": "ab", "peak": 9.5, "score": null,
            "threshold": 3.0, "good": 0.98, "severity": 2, "from": 1_763_690_000_000.5,
            "top": [{"role": "p", "share": 0.75}, {"role": "t", "share": 0.25}],
        })
    );
    assert_eq!(
        parsed(&messages[1]),
        json!({
            "gateway": "gw-1", "kind": "comms", "source": "pump-anomaly", "stream": STREAM, "seq": 9,
            "state": "begin", "at": 1_763_690_000_000i64, "start": 1_763_690_000_000i64, "end": null,
            "message": "no answer",
        })
    );
}

#[test]
fn gaps_are_split_by_holes() {
    let hole = |n: u64| Hole {
        source: format!("device-{n}").as_str().into(),
        first_seq: n,
        last_seq: (n != 2).then_some(n + 10),
    };
    let gap = Gap {
        stream: stream(),
        log: LogKind::Data,
        reason: DropReason::Full,
        at: Some(Timestamp::from_unix_ms(5)),
        holes: (1..=3).map(hole).collect(),
    };
    let whole = only(profile().encode_gap(&gap, ROOMY));
    assert_eq!(whole.topic, "millrace/gw-1/gap");
    assert_eq!(
        parsed(&whole),
        json!({
            "gateway": "gw-1", "stream": STREAM, "log": "data", "reason": "full", "at": 5,
            "holes": [
                {"source": "device-1", "first_seq": 1, "last_seq": 11},
                {"source": "device-2", "first_seq": 2, "last_seq": null},
                {"source": "device-3", "first_seq": 3, "last_seq": 13},
            ],
        })
    );
    let many = Gap {
        holes: (1..=500).map(hole).collect(),
        ..gap
    };
    let parts = profile().encode_gap(&many, 1000);
    assert!(parts.iter().all(|part| part.wire_bytes() <= 1000));
    let holes: Vec<u64> = parts
        .iter()
        .flat_map(|part| parsed(part)["holes"].as_array().unwrap().clone())
        .map(|hole| hole["first_seq"].as_u64().unwrap())
        .collect();
    assert_eq!(holes, (1..=500).collect::<Vec<_>>());
}

#[test]
fn names_that_mqtt_forbids() {
    let profile = Profile::generic("halle 3/#1");
    let filters: Vec<&str> = profile.command_filters().collect();
    assert_eq!(filters, ["millrace/halle 3%2F%231/cmd"]);
    let mut parcel = parcel(
        &["x"],
        vec![Sample::good(TagId(0), Value::I64(1), Moment(0))],
    );
    parcel.source = "line1/boiler+".into();
    let message = only(profile.encode_parcel(&parcel, ROOMY).unwrap());
    assert_eq!(
        message.topic,
        "millrace/halle 3%2F%231/data/line1/boiler%2B"
    );
    let incoming = Incoming {
        topic: filters[0],
        payload: br#"{"id":"a/b","op":"status"}"#,
        ..Incoming::default()
    };
    let command = profile.commands(&incoming).unwrap().remove(0).unwrap();
    assert_eq!(command.reply_to.topic, "millrace/halle 3%2F%231/cmd/a%2Fb");
}

#[test]
fn status_is_retained() {
    let facts = json!({"version": "0.1.0", "online": "nonsense"});
    let status = profile().status(true, facts.as_object().unwrap()).unwrap();
    assert!(status.retain);
    assert_eq!(parsed(&status), json!({"online": true, "version": "0.1.0"}));
    let offline = profile().offline().unwrap();
    assert_eq!(profile().will().unwrap(), offline);
    assert_eq!((offline.topic, offline.retain), (status.topic, true));
    assert_eq!(&offline.payload[..], br#"{"online":false}"#);
}

fn any_value() -> impl Strategy<Value = Option<Value>> {
    prop_oneof![
        Just(None),
        any::<bool>().prop_map(|b| Some(Value::Bool(b))),
        any::<i64>().prop_map(|i| Some(Value::I64(i))),
        any::<u64>().prop_map(|u| Some(Value::U64(u))),
        any::<f64>().prop_map(|f| Some(Value::F64(f))),
        any::<f32>().prop_map(|f| Some(Value::F32(f))),
        any::<String>().prop_map(|s| Some(Value::Text(s.as_str().into()))),
        prop::collection::vec(any::<u8>(), 0..40).prop_map(|b| Some(Value::Bytes(b.into()))),
    ]
}

pub(super) fn any_sample() -> impl Strategy<Value = Sample> {
    (
        0..3u32,
        any_value(),
        any::<bool>(),
        proptest::option::of(any::<i64>()),
        any::<i32>(),
    )
        .prop_map(|(tag, value, good, source_time, at)| Sample {
            tag: TagId(tag),
            quality: match good && value.is_some() {
                true => Quality::Good,
                false => Quality::Bad(Reason::OutOfRange),
            },
            value,
            source_time: source_time.map(Timestamp),
            gateway_time: Moment(i64::from(at)),
        })
}

/// Whether the decoded sample says what the original does.
fn same(original: &Sample, decoded: &serde_json::Value) -> bool {
    // The reader of this test is exact to the last but one bit; the writer's exactness has its own test.
    let number = |expected: f64| match decoded["v"].as_f64() {
        Some(got) => (got - expected).abs() <= expected.abs() * 1e-15 + f64::MIN_POSITIVE,
        None => false,
    };
    match &original.value {
        None => decoded["v"].is_null() && decoded["q"] == "bad",
        Some(Value::Bool(b)) => decoded["v"] == *b,
        Some(Value::I64(i)) => decoded["v"] == *i,
        Some(Value::U64(u)) => decoded["v"] == *u,
        Some(Value::F64(f)) if f.is_finite() => number(*f),
        Some(Value::F32(f)) if f.is_finite() => number_f32(decoded) == *f,
        Some(Value::F64(_) | Value::F32(_)) => decoded["v"].is_null() && decoded["q"] == "bad",
        Some(Value::Text(text)) => decoded["v"] == **text,
        Some(Value::Bytes(bytes)) => {
            use base64::Engine;
            let text = decoded["x"].as_str().unwrap();
            base64::engine::general_purpose::STANDARD
                .decode(text)
                .unwrap()
                == **bytes
        }
        Some(Value::Json(_)) => unreachable!(),
    }
}

fn number_f32(decoded: &serde_json::Value) -> f32 {
    decoded["v"].to_string().parse().unwrap()
}

proptest! {
    #[test]
    fn finite_numbers_are_written_exactly(wide in any::<f64>(), narrow in any::<f32>()) {
        let written = |value: Value| {
            let mut out = Vec::new();
            json::value(&mut out, Some(&value)).unwrap();
            String::from_utf8(out).unwrap().split_off("\"v\":".len())
        };
        if wide.is_finite() {
            prop_assert_eq!(written(Value::F64(wide)).parse(), Ok(wide));
        }
        if narrow.is_finite() {
            prop_assert_eq!(written(Value::F32(narrow)).parse(), Ok(narrow));
        }
    }

    #[test]
    fn parcels_come_back_whole(
        samples in prop::collection::vec(any_sample(), 1..120),
        names in prop::collection::vec("\\PC{1,12}", 3),
        limit in 1500usize..20_000,
    ) {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let parcel = parcel(&names, samples.clone());
        let messages = profile().encode_parcel(&parcel, limit).unwrap();
        let mut seq = parcel.first_seq;
        let mut originals = samples.iter();
        for message in &messages {
            prop_assert!(message.wire_bytes() <= limit);
            let got = parsed(message);
            prop_assert_eq!(got["first_seq"].as_u64(), Some(seq));
            for decoded in got["samples"].as_array().unwrap() {
                let original = originals.next().unwrap();
                prop_assert!(same(original, decoded), "{:?} as {}", original, decoded);
                prop_assert_eq!(&decoded["n"], names[original.tag.0 as usize]);
                prop_assert_eq!(decoded.get("st").is_some(), original.source_time.is_some());
                seq += 1;
            }
            prop_assert_eq!(got["last_seq"].as_u64(), Some(seq - 1));
        }
        prop_assert!(originals.next().is_none());
    }
}

/// Run by hand in release: `cargo test --release -p millrace-uplink encoding_speed -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement, not a test"]
fn encoding_speed() {
    let names: Vec<String> = (0..1000).map(|n| format!("tag_{n:04}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let samples = |make: fn(u32) -> Value| {
        (0..10_000u32)
            .map(|n| {
                Sample::good(
                    TagId(n % 1000),
                    make(n),
                    Moment(i64::from(n / 1000) * 1_000_123_456),
                )
            })
            .collect::<Vec<_>>()
    };
    for (kind, samples) in [
        ("u64", samples(|n| Value::U64(u64::from(n) * 7919))),
        ("f64", samples(|n| Value::F64(f64::from(n) * 0.37))),
        ("f32", samples(|n| Value::F32(n as f32 * 0.37))),
    ] {
        let parcel = parcel(&names, samples);
        let rounds: u32 = 100;
        let started = std::time::Instant::now();
        let mut bytes = 0;
        for _ in 0..rounds {
            let messages = profile().encode_parcel(&parcel, ROOMY).unwrap();
            bytes += messages.iter().map(|m| m.payload.len()).sum::<usize>();
        }
        let per_sample = started.elapsed() / (rounds * 10_000);
        println!(
            "{kind}: {per_sample:?} and {} bytes a sample",
            bytes / (rounds as usize * 10_000)
        );
    }
}

pub(super) fn example_vars(definition: &Definition) -> BTreeMap<String, String> {
    let missing = definition
        .vars
        .iter()
        .filter(|(_, var)| var.default.is_none());
    missing
        .map(|(name, _)| (name.clone(), format!("my-{name}")))
        .collect()
}

#[test]
fn every_built_in_profile_is_sound() {
    for name in builtin_names() {
        let definition = find(name, None).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(definition.name, name);
        let vars = example_vars(&definition);
        let profile = Profile::new(Arc::new(definition), "gw-1", &vars, &["boiler"]);
        let profile = profile.unwrap_or_else(|error| panic!("{name}: {error}"));
        profile.greeting(&Map::new());
    }
}

/// The profile `generic` with a change, and what is said of it.
fn refused(change: impl Fn(String) -> String) -> Vec<ProfileProblem> {
    let text = change(include_str!("builtin/generic.toml").to_owned());
    parse("my.toml", &text).unwrap_err().0
}

#[test]
fn bad_profiles_are_refused_with_place_value_expectation_and_fix() {
    let with = |line: &'static str| move |text: String| format!("{line}\n{text}");
    let instead = |old: &'static str, new: &'static str| {
        move |text: String| {
            assert!(text.contains(old), "{old}");
            text.replace(old, new)
        }
    };
    type Change = Box<dyn Fn(String) -> String>;
    let cases: [(Change, &str, &str); 18] = [
        (
            Box::new(instead("codec = \"json\"", "codec = \"jsn\"")),
            "codec",
            "one of json, senml-json",
        ),
        (
            Box::new(instead("delivery = \"acked\"", "delivery = 1")),
            "delivery",
            "one of acked",
        ),
        (
            Box::new(instead("format = 1", "format = 2")),
            "format",
            "from 1 to 1",
        ),
        (
            Box::new(instead("name = \"generic\"", "name = \"My Core\"")),
            "name",
            "small letters",
        ),
        (
            Box::new(instead("sequence = \"payload\"", "")),
            "sequence",
            "to be there",
        ),
        (
            Box::new(instead("{source}\"\nevent", "{device}\"\nevent")),
            "topics.data",
            "a topic",
        ),
        (Box::new(instead("/gap\"", "/+\"")), "topics.gap", "a topic"),
        (
            Box::new(instead("/gap\"", "/\\u0000\"")),
            "topics.gap",
            "a topic",
        ),
        (
            Box::new(instead("reply =", "replies =")),
            "command[0].replies",
            "one of the keys",
        ),
        (
            Box::new(instead("codec = \"json\"\nfrom", "codec = \"jason\"\nfrom")),
            "command[0].codec",
            "one of json, senml",
        ),
        (
            Box::new(instead("/cmd\"\nreply", "/{status}\"\nreply")),
            "command[0].from",
            "a topic",
        ),
        (
            Box::new(instead(
                "codec = \"json\"\nfrom",
                "needs = \"x\"\ncodec = \"json\"\nfrom",
            )),
            "command[0].needs",
            "a variable",
        ),
        (
            Box::new(instead("retain = true", "retain = \"yes\"")),
            "status.retain",
            "true or false",
        ),
        (
            Box::new(instead("[\"zstd\", \"gzip\"]", "[\"lzma\"]")),
            "compression",
            "words out of",
        ),
        (
            Box::new(instead(
                "[status]",
                "[limits]\nmax_message = \"1MiB\"\n[status]",
            )),
            "limits.max_message",
            "a whole number",
        ),
        (
            Box::new(instead("[status]", "[vars]\nsource = \"x\"\n[status]")),
            "vars.source",
            "no meaning yet",
        ),
        (
            Box::new(instead("[status]", "[template]\ndata = \"x\"\n[status]")),
            "template",
            "nothing with this codec",
        ),
        (Box::new(with("= nonsense")), "", "a file of TOML"),
    ];
    for (change, key, expected) in cases {
        let problems = refused(change);
        let found = problems.iter().find(|problem| problem.key == key);
        let found = found.unwrap_or_else(|| panic!("{key}: {problems:?}"));
        assert!(found.expected.contains(expected), "{found:?}");
        assert_eq!(found.file, "my.toml");
        assert!(
            !found.fix.is_empty() && !found.value.is_empty(),
            "{found:?}"
        );
    }
}

#[test]
fn templates_of_a_profile_are_checked_when_it_is_read() {
    let text = include_str!("builtin/flowbox.toml");
    for (old, new, key) in [
        ("\"ts\":{{ t_ms }}", "\"ts\":{{ t_ms", "template.data"),
        ("{source}/metrics", "{tag}", "topics.data"),
        ("status = '''", "stat = '''", "topics.status"),
        ("each = \"instant\"", "each = \"hour\"", "template.each"),
    ] {
        assert!(text.contains(old), "{old}");
        let problems = parse("my.toml", &text.replacen(old, new, 1)).unwrap_err().0;
        assert!(
            problems.iter().any(|problem| problem.key == key),
            "{key}: {problems:?}"
        );
    }
}

#[test]
fn a_profile_of_ones_own_wins_over_a_built_in_one() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
    let generic = include_str!("builtin/generic.toml");
    write("generic.toml", &generic.replace("millrace/", "mine/"));
    let found = find("generic", Some(directory.path())).unwrap();
    let profile = Profile::new(Arc::new(found), "gw", &BTreeMap::new(), &[]).unwrap();
    assert_eq!(profile.command_filters().next(), Some("mine/gw/cmd"));
    assert!(find("thingsboard", Some(directory.path())).is_ok());
    write("other.toml", generic);
    let error = find("other", Some(directory.path())).unwrap_err();
    assert_eq!(error.0[0].key, "name");
    for name in ["nothing", "../generic"] {
        let error = find(name, Some(directory.path())).unwrap_err().to_string();
        assert!(error.contains("one of generic, mainflux"), "{error}");
    }
}

#[test]
fn variables_must_fit() {
    let mainflux = Arc::new(find("mainflux", None).unwrap());
    let new = |vars: &[(&str, &str)]| {
        let vars = vars
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        Profile::new(mainflux.clone(), "gw-1", &vars, &[])
    };
    assert!(matches!(new(&[]), Err(SetupError::Missing { name, .. }) if name == "channel"));
    let error = new(&[("channel", "1"), ("chanel", "1")]).unwrap_err();
    assert!(matches!(error, SetupError::Unknown { known, .. } if known == "channel, control"));
    for bad in ["a b", "a/#", "a+"] {
        let error = new(&[("channel", bad)]).unwrap_err();
        assert!(
            matches!(error, SetupError::Topic { key: "data", .. }),
            "{bad}"
        );
    }
    assert!(new(&[("channel", "c-1")]).is_ok());
}

#[test]
fn a_topic_that_the_core_does_not_take_is_refused_with_its_number() {
    let text = include_str!("builtin/generic.toml")
        .replace("[status]", "[limits]\nmax_topic = 40\n[status]");
    let definition = Arc::new(parse("my.toml", &text).unwrap());
    let profile = Profile::new(definition, "gw-1", &BTreeMap::new(), &[]).unwrap();
    let mut parcel = parcel(
        &["x"],
        vec![Sample::good(TagId(0), Value::I64(1), Moment(0))],
    );
    parcel.source = "a".repeat(30).as_str().into();
    let error = profile.encode_parcel(&parcel, ROOMY).unwrap_err();
    assert!(
        matches!(&error, EncodeError::Topic { seq: 1201, problem, .. } if problem.contains("at most 40")),
        "{error}"
    );
}

#[test]
fn numbers_travel_in_properties_where_the_profile_says_so() {
    let text = find("generic", None).unwrap();
    let mut definition = text;
    definition.sequence = Sequence::Property;
    definition.message_expiry = Some(3600);
    let vars = BTreeMap::new();
    let profile = Profile::new(Arc::new(definition), "gw-1", &vars, &[]).unwrap();
    let sample = |n: i64| Sample::good(TagId(0), Value::I64(n), Moment(n * 1_000_000));
    let parcel = parcel(&["level"], (0..2_000).map(sample).collect());
    let most = 4_096;
    let messages = profile.encode_parcel(&parcel, most).unwrap();
    assert!(messages.len() > 1);
    let mut next = parcel.first_seq;
    for message in &messages {
        assert!(message.wire_bytes() <= most, "{}", message.wire_bytes());
        let properties = message.properties.as_ref().unwrap();
        assert_eq!(properties.expiry_s, Some(3600));
        let value = |name: &str| {
            let found = properties.user.iter().find(|(known, _)| known == name);
            found.unwrap().1.clone()
        };
        assert_eq!(value("stream"), parcel.stream.to_string());
        assert_eq!(value("first_seq"), next.to_string());
        next = value("last_seq").parse::<u64>().unwrap() + 1;
    }
    assert_eq!(next, parcel.first_seq + 2_000);
    assert_eq!(profile.offline().unwrap().properties, None);
}
