//! A small store with every type of value, bad quality, both times and an unset clock, as text.

use std::sync::Arc;
use std::time::Duration;

use millrace_buffer::{Buffer, Settings, TagSpec};
use millrace_tags::{
    Event, EventDetail, EventState, Quality, Reason, Sample, SourceKind, TestClock, Value,
    ValueType,
};

use super::*;

const BOOT: Timestamp = Timestamp(1_763_690_000_000_000_000);

/// Ten samples of `pump` and an event in a boot of known time, then one sample of `fan` in a boot that
/// never knew it.
fn store() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let settings = || Settings {
        commit_interval: Duration::from_secs(3600),
        ..Settings::new(dir.path())
    };
    let spec = |name: &str| TagSpec {
        name: name.into(),
        value_type: ValueType::Any,
        unit: None,
    };
    let buffer = Buffer::open(settings(), Arc::new(TestClock::new(1, Some(BOOT)))).unwrap();
    let pump = buffer.register("pump", SourceKind::Device, &[spec("a"), spec("b, \"c\"")]);
    let values = [
        Value::Bool(true),
        Value::I64(i64::MIN),
        Value::U64(u64::MAX),
        Value::F64(0.1 + 0.2),
        Value::F64(1e300),
        Value::F32(0.1),
        Value::Text("1, \"two\"\n3".into()),
        Value::Bytes(vec![0, 255].into()),
        Value::Json("{\"a\":[1]}".into()),
    ];
    let mut samples: Vec<Sample> = (0..)
        .zip(values)
        .map(|(at, value)| Sample::good(pump.tags[0], value, Moment(at * 1_000_500_000)))
        .collect();
    samples[1].source_time = Some(Timestamp(BOOT.0 + 1_000_400_001));
    samples[3].quality = Quality::Uncertain(Reason::OutOfRange);
    samples.push(Sample::bad(
        pump.tags[1],
        Reason::Timeout,
        Moment(60_000_000_000),
    ));
    buffer.append(pump.source, samples);
    let event = Event {
        state: EventState::End,
        at: Moment(61_000_000_000),
        start: Moment(60_000_000_000),
        end: Some(Moment(61_000_000_000)),
        detail: EventDetail::Comms {
            message: "no reply, \"twice\"".into(),
        },
    };
    buffer.append_event(pump.source, event);
    buffer.close().unwrap();
    let buffer = Buffer::open(settings(), Arc::new(TestClock::new(2, None))).unwrap();
    let fan = buffer.register("fan", SourceKind::Device, &[spec("speed")]);
    let sample = Sample::good(fan.tags[0], Value::I64(7), Moment(1_500_000));
    buffer.append(fan.source, vec![sample]);
    buffer.close().unwrap();
    dir
}

fn all(log: LogKind, format: Format) -> Request {
    Request {
        log,
        format,
        source: None,
        tag: None,
        from: None,
        to: None,
        count: None,
        newest: false,
    }
}

/// The text without streams, which are random, and what came of it.
fn text(dir: &tempfile::TempDir, request: &Request) -> (String, Outcome) {
    let archive = Archive::open(dir.path()).unwrap();
    let mut out = Vec::new();
    let outcome = write(&archive, request, &mut out, |_, _| {}).unwrap();
    let mut text = String::from_utf8(out).unwrap();
    for log in [LogKind::Data, LogKind::Alarm] {
        for chunk in archive.chunks(log, Order::OldestFirst) {
            text = text.replace(&chunk.stream.to_string(), "STREAM");
        }
    }
    (text, outcome)
}

#[test]
fn csv_and_json_lines() {
    let dir = store();
    let mut golden = String::new();
    for log in [LogKind::Data, LogKind::Alarm] {
        for format in [Format::Csv, Format::Jsonl] {
            golden.push_str(&text(&dir, &all(log, format)).0);
            golden.push('\n');
        }
    }
    insta::assert_snapshot!(golden);
}

#[test]
fn csv_reads_back_with_a_foreign_reader() {
    let dir = store();
    let (csv, _) = text(&dir, &all(LogKind::Data, Format::Csv));
    let mut reader = ::csv::Reader::from_reader(csv.as_bytes());
    let rows: Vec<::csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    assert_eq!(rows.len(), 11);
    assert!(rows.iter().all(|row| row.len() == 12));
    assert_eq!(&rows[6][4], "1, \"two\"\n3");
    assert_eq!(rows[3][4].parse::<f64>().unwrap(), 0.1 + 0.2);
    assert_eq!(&rows[9][2], "b, \"c\"");
}

#[test]
fn json_lines_are_json_each() {
    let dir = store();
    let (lines, outcome) = text(&dir, &all(LogKind::Data, Format::Jsonl));
    let rows: Vec<serde_json::Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!((rows.len() as u64, outcome.records), (11, 11));
    assert_eq!(rows[4]["v"].as_f64(), Some(1e300));
    assert_eq!(rows[10]["clock"], "unset");
}

#[test]
fn limits_and_patterns() {
    let dir = store();
    let numbers = |request: &Request| {
        let (lines, outcome) = text(&dir, request);
        let seq = |line: &str| {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            row["seq"].as_u64().unwrap()
        };
        (lines.lines().map(seq).collect::<Vec<_>>(), outcome)
    };
    let data = all(LogKind::Data, Format::Jsonl);
    let tag = Request {
        tag: Some("pump/b*".to_owned()),
        ..data.clone()
    };
    assert_eq!(numbers(&tag).0, [10]);
    let source = Request {
        source: Some("f*".to_owned()),
        ..data.clone()
    };
    assert_eq!(numbers(&source).0, [1]);
    let span = Request {
        from: Some(BOOT.0 + 2_001_000_000),
        to: Some(BOOT.0 + 3_001_500_000),
        ..data.clone()
    };
    let (found, outcome) = numbers(&span);
    assert_eq!((found, outcome.undated), (vec![3, 4], 1));
    let some = |count, newest| Request {
        count: Some(count),
        newest,
        ..data.clone()
    };
    assert_eq!(numbers(&some(3, true)).0, [9, 10, 1]);
    assert_eq!(numbers(&some(3, false)).0, [1, 2, 3]);
    assert_eq!(numbers(&some(100, true)).0.len(), 11);
}

#[test]
fn chunks_are_listed_by_number() {
    let dir = store();
    let archive = Archive::open(dir.path()).unwrap();
    let list = |count, newest| {
        let mut out = Vec::new();
        let request = ChunksRequest {
            log: LogKind::Data,
            count,
            newest,
        };
        write_chunks(&archive, &request, &mut out).unwrap();
        let lines = String::from_utf8(out).unwrap();
        let chunk = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
        lines.lines().map(chunk).collect::<Vec<_>>()
    };
    let all = list(10, true);
    assert_eq!(all.len(), 2);
    assert_eq!(
        (&all[0]["records"], &all[1]["records"]),
        (&10.into(), &1.into())
    );
    assert_eq!(list(1, true)[0], all[1]);
    assert_eq!(list(1, false)[0], all[0]);
}
