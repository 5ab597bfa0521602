use millrace_tags::{
    BootId, DropReason, Moment, Quality, Reason, SourceId, StreamId, TagId, Timebase, Timestamp,
    Value,
};
use proptest::prelude::*;
use uuid::Uuid;

use super::*;

fn header(log: LogKind) -> Header {
    Header {
        log,
        number: 7,
        span: 1,
        stream: StreamId(Uuid::from_u128(1)),
        timebase: Timebase {
            boot: BootId(Uuid::from_u128(2)),
            offset_ns: Some(-5),
        },
        newest: Moment(99),
    }
}

fn entry(first: u64, count: usize) -> Entry {
    Entry {
        source: SourceId(3),
        first,
        count: count as u64,
        ahead: 256,
        void: None,
    }
}

fn pack(runs: &[Vec<Sample>]) -> Vec<u8> {
    let mut packer = Packer::default();
    packer.begin();
    let mut entries = Vec::new();
    let mut next = 1;
    for run in runs {
        packer.run(Records::Samples(&run.iter().collect::<Vec<_>>()));
        entries.push(entry(next, run.len()));
        next += run.len() as u64;
    }
    packer.finish(&header(LogKind::Data), &entries)
}

fn unpack_all(frame: &[u8]) -> Vec<Run> {
    unpack(&Frame::parse(frame).unwrap()).unwrap()
}

/// Bits instead of values, so that NaN equals itself and -0.0 differs from 0.0.
fn exact(sample: &Sample) -> String {
    let bits = match &sample.value {
        Some(Value::F64(f)) => f.to_bits(),
        Some(Value::F32(f)) => u64::from(f.to_bits()),
        _ => 0,
    };
    format!("{sample:?} {bits:x}")
}

fn value() -> impl Strategy<Value = Option<Value>> {
    prop_oneof![
        Just(None),
        any::<bool>().prop_map(|v| Some(Value::Bool(v))),
        any::<i64>().prop_map(|v| Some(Value::I64(v))),
        any::<u64>().prop_map(|v| Some(Value::U64(v))),
        any::<u64>().prop_map(|v| Some(Value::F64(f64::from_bits(v)))),
        (-9999i64..9999).prop_map(|v| Some(Value::F64(v as f64 / 100.0))),
        any::<u32>().prop_map(|v| Some(Value::F32(f32::from_bits(v)))),
        (-999i16..999).prop_map(|v| Some(Value::F32(f32::from(v) / 10.0))),
        "[a-zé]{0,6}".prop_map(|v| Some(Value::Text(v.into()))),
        prop::collection::vec(any::<u8>(), 0..5).prop_map(|v| Some(Value::Bytes(v.into()))),
        "[0-9]{1,3}".prop_map(|v| Some(Value::Json(v.into()))),
    ]
}

fn quality() -> impl Strategy<Value = Quality> {
    prop_oneof![
        4 => Just(Quality::Good),
        1 => Just(Quality::Bad(Reason::Timeout)),
        1 => any::<u32>().prop_map(|c| Quality::Uncertain(Reason::Status(c))),
    ]
}

fn sample() -> impl Strategy<Value = Sample> {
    let time = prop_oneof![0i64..20, any::<i64>()];
    let source_time = prop::option::of(any::<i64>());
    (0u32..6, value(), quality(), source_time, time).prop_map(
        |(tag, value, quality, source_time, time)| Sample {
            tag: TagId(tag),
            value,
            quality,
            source_time: source_time.map(Timestamp),
            gateway_time: Moment(time),
        },
    )
}

fn run() -> impl Strategy<Value = Vec<Sample>> {
    prop::collection::vec(sample(), 1..40).prop_map(|mut run| {
        run.sort_by_key(|s| (s.gateway_time, s.tag));
        run
    })
}

proptest! {
    #[test]
    fn samples_come_back_exactly_and_in_order(runs in prop::collection::vec(run(), 1..4)) {
        let frame = pack(&runs);
        let read = unpack_all(&frame);
        prop_assert_eq!(read.len(), runs.len());
        for (read, run) in read.iter().zip(&runs) {
            let Run::Samples(read) = read else { panic!("no samples") };
            prop_assert_eq!(read.len(), run.len());
            // Cut anywhere, the parts are those of the whole.
            let middle = read.len() / 2;
            let mut samples = read.cut(0..middle).unwrap();
            samples.extend(read.cut(middle..read.len()).unwrap());
            let read: Vec<String> = samples.iter().map(exact).collect();
            let run: Vec<String> = run.iter().map(exact).collect();
            prop_assert_eq!(read, run);
        }
    }

    #[test]
    fn damage_is_noticed(run in run(), at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let mut frame = pack(&[run]);
        let at = at.index(frame.len());
        frame[at] ^= 1 << bit;
        prop_assert!(Frame::parse(&frame).is_err());
    }

    /// Bytes that pass the checksum but are nonsense end in an error, never in a panic.
    #[test]
    fn nonsense_is_refused(body in prop::collection::vec(any::<u8>(), 0..200), count in 1u64..50) {
        let entries = [entry(1, count as usize)];
        let bytes = frame::write(&header(LogKind::Data), &entries, false, body.len(), &body);
        let _ = unpack(&Frame::parse(&bytes).unwrap());
    }
}

/// A chunk with every type, two sources, a void, bad qualities and source times.
fn golden() -> (Vec<Sample>, Vec<Entry>) {
    let text: Arc<str> = "läuft".into();
    let values = [
        Some(Value::F64(21.5)),
        Some(Value::F64(std::f64::consts::PI)),
        Some(Value::F32(0.1)),
        Some(Value::I64(-40)),
        Some(Value::U64(u64::MAX)),
        Some(Value::Bool(true)),
        Some(Value::Text(text)),
        Some(Value::Bytes(vec![0, 255].into())),
        Some(Value::Json("[1]".into())),
        None,
    ];
    let mut samples = Vec::new();
    for round in 0..3i64 {
        for (tag, value) in (0u32..).zip(&values) {
            samples.push(Sample {
                tag: TagId(tag),
                value: value.clone(),
                quality: match value {
                    Some(_) => Quality::Good,
                    None => Quality::Bad(Reason::Status(0x800A_0000)),
                },
                source_time: (tag % 2 == 0).then_some(Timestamp(1_000 + round)),
                gateway_time: Moment(1_000_000_000 * round + 17),
            });
        }
    }
    let void = Entry {
        source: SourceId(4),
        first: 5,
        count: 300,
        ahead: 0,
        void: Some(DropReason::Crash),
    };
    (samples, vec![entry(41, 30), void])
}

#[test]
fn version_1_stays_readable() {
    let (samples, entries) = golden();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/chunk-v1.bin");
    if std::env::var_os("MILLRACE_WRITE_GOLDEN").is_some() {
        let mut packer = Packer::default();
        packer.begin();
        packer.run(Records::Samples(&samples.iter().collect::<Vec<_>>()));
        std::fs::write(path, packer.finish(&header(LogKind::Data), &entries)).unwrap();
    }
    let bytes = std::fs::read(path).unwrap();
    let frame = Frame::parse(&bytes).unwrap();
    assert_eq!(frame.header, header(LogKind::Data));
    assert_eq!(frame.entries, entries);
    let runs = unpack(&frame).unwrap();
    assert_eq!(runs.len(), 1);
    assert_eq!(
        runs[0].cut(0..samples.len()),
        Some(millrace_tags::Records::Samples(samples))
    );
}

#[test]
fn a_newer_version_is_told_apart_from_damage() {
    let mut bytes = pack(&[vec![Sample::good(TagId(0), Value::Bool(true), Moment(1))]]);
    bytes[4] = VERSION + 1;
    bytes[82..86].fill(0);
    let checksum = crc32c::crc32c(&bytes);
    bytes[82..86].copy_from_slice(&checksum.to_le_bytes());
    assert_eq!(
        Frame::parse(&bytes).err(),
        Some(FrameError::Newer(VERSION + 1))
    );
}

#[test]
fn plant_signals_take_about_a_byte() {
    let mut random = fastrand::Rng::with_seed(1);
    let mut samples = Vec::new();
    for round in 0..64i64 {
        for tag in 0..500u32 {
            let base = f64::from(tag) + random.f64().round();
            let value = match tag % 10 {
                0 => Value::Bool(round % 16 < 8),
                1 => Value::U64(round as u64 + u64::from(tag)),
                _ => Value::F64((base * 10.0).round() / 10.0),
            };
            samples.push(Sample::good(
                TagId(tag),
                value,
                Moment(round * 1_000_000_123),
            ));
        }
    }
    let frame = pack(&[samples]);
    assert!(frame.len() < 32_000, "{} bytes", frame.len());
}
