use millrace_tags::{
    BootId, DropReason, Moment, Quality, Reason, SourceId, StreamId, TagId, Timebase, Timestamp,
    Value,
};
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::golden::store_v1;

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
    let reason = (0u8..=255, any::<u32>()).prop_map(|(code, status)| {
        Reason::from_code(code, status).unwrap_or(Reason::Status(status))
    });
    let reason = prop_oneof![
        (1u8..=11).prop_map(|c| Reason::from_code(c, 0).unwrap()),
        reason
    ];
    prop_oneof![
        4 => Just(Quality::Good),
        1 => reason.clone().prop_map(Quality::Bad),
        1 => reason.prop_map(Quality::Uncertain),
    ]
}

/// Floats that have gone wrong somewhere: payloads of NaN, both zeros and infinities, subnormal numbers,
/// the ends of what is exact, and decimals that are only nearly some.
fn odd_float() -> impl Strategy<Value = f64> {
    let odd = [
        0.0,
        -0.0,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::from_bits(0x7FF8_0000_DEAD_BEEF),
        f64::from_bits(0xFFF0_0000_0000_0001),
        f64::from_bits(1),
        -f64::MIN_POSITIVE / 2.0,
        f64::MAX,
        9_007_199_254_740_992.0,
        9_007_199_254_740_994.0,
        0.1 + 0.2,
        1e-7,
        1e22,
    ];
    prop_oneof![
        prop::sample::select(odd.to_vec()),
        (-99_999i64..99_999, 0i32..8).prop_map(|(n, digits)| n as f64 / 10f64.powi(digits)),
    ]
}

/// One tag's values: mostly of one type, so that the columns of that type are met, with others between.
fn column() -> impl Strategy<Value = Vec<Option<Value>>> {
    let float = odd_float().prop_map(|f| Some(Value::F64(f))).boxed();
    let single = odd_float().prop_map(|f| Some(Value::F32(f as f32))).boxed();
    let ends = prop::sample::select(vec![i64::MIN, -1, 0, 1, i64::MAX]);
    let signed = ends.clone().prop_map(|i| Some(Value::I64(i))).boxed();
    let unsigned = ends.prop_map(|i| Some(Value::U64(i as u64))).boxed();
    let text = "(a|\\PC{0,300})"
        .prop_map(|t| Some(Value::Text(t.into())))
        .boxed();
    let kinds = vec![float, single, signed, unsigned, text];
    (prop::sample::select(kinds), 0u32..3).prop_flat_map(|(kind, others)| {
        let one = prop_oneof![20 => kind, others => value()];
        prop::collection::vec(one, 1..60)
    })
}

fn columns() -> impl Strategy<Value = Vec<Sample>> {
    prop::collection::vec((column(), quality()), 1..4).prop_map(|columns| {
        let mut run = Vec::new();
        for (tag, (values, quality)) in (0u32..).zip(columns) {
            for (at, value) in (0i64..).zip(values) {
                run.push(Sample {
                    tag: TagId(tag * 1000),
                    value,
                    quality: if at % 7 == 0 { quality } else { Quality::Good },
                    source_time: (at % 3 > 0).then_some(Timestamp(at.wrapping_mul(i64::MAX / 3))),
                    gateway_time: Moment(at * 1_000_000_007),
                });
            }
        }
        run.sort_by_key(|s| (s.gateway_time, s.tag));
        run
    })
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
    fn columns_of_every_type_are_exact_to_the_bit(run in columns()) {
        let read = unpack_all(&pack(std::slice::from_ref(&run)));
        let Run::Samples(read) = &read[0] else { panic!("no samples") };
        let read: Vec<String> = read.cut(0..read.len()).unwrap().iter().map(exact).collect();
        prop_assert_eq!(read, run.iter().map(exact).collect::<Vec<_>>());
    }

    /// A body that was damaged before the checksum was made: an error or other samples, as many as the
    /// directory says; never a panic, and never more memory than those take.
    #[test]
    fn damaged_columns_never_panic(
        run in prop_oneof![run(), columns()],
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..3), 1..6),
        count in prop_oneof![Just(None), (1usize..RECORDS_MAX).prop_map(Some)],
    ) {
        let frame = pack(std::slice::from_ref(&run));
        let frame = Frame::parse(&frame).unwrap();
        let mut body = match frame.packed {
            true => zstd::bulk::decompress(frame.body, frame.unpacked_len).unwrap(),
            false => frame.body.to_vec(),
        };
        for (at, byte, kind) in damage {
            let at = at.index(body.len());
            match kind {
                0 => body[at] = byte,
                1 => body.insert(at, byte),
                _ if body.len() > 1 => drop(body.remove(at)),
                _ => {}
            }
        }
        let entries = [entry(1, count.unwrap_or(run.len()))];
        let bytes = frame::write(&header(LogKind::Data), &entries, false, body.len(), &body);
        let Ok(frame) = Frame::parse(&bytes) else { return Ok(()) };
        if let Ok(runs) = unpack(&frame) {
            let Run::Samples(rows) = &runs[0] else { panic!("no samples") };
            prop_assert_eq!(rows.len() as u64, entries[0].count);
            prop_assert_eq!(rows.cut(0..rows.len()).unwrap().len(), rows.len());
        }
        // The same bytes where zstd and the events' reader look at them.
        let bytes = frame::write(&header(LogKind::Data), &entries, true, body.len(), &body);
        let _ = Frame::parse(&bytes).map(|f| unpack(&f));
        let bytes = frame::write(&header(LogKind::Alarm), &entries, false, body.len(), &body);
        let _ = Frame::parse(&bytes).map(|f| unpack(&f));
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

/// Rounding makes a small negative value -0.0, beside decimals.
#[test]
fn a_negative_zero_keeps_its_sign() {
    let sample = |(at, value)| Sample::good(TagId(0), value, Moment(at));
    let values = [
        Value::F64(0.5),
        Value::F64(-0.0),
        Value::F64(0.0),
        Value::F32(-0.0),
        Value::F32(0.0),
    ];
    for run in [&values[..3], &values[3..]] {
        let run: Vec<Sample> = (0..).zip(run.to_vec()).map(sample).collect();
        let read = unpack_all(&pack(std::slice::from_ref(&run)));
        let Some(millrace_tags::Records::Samples(read)) = read[0].cut(0..run.len()) else {
            panic!("no samples")
        };
        let exact = |run: &[Sample]| run.iter().map(exact).collect::<Vec<_>>();
        assert_eq!(exact(&read), exact(&run));
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

/// Every frame of the golden files, read and written again. What zstd makes of the same body may change with zstd.
#[test]
fn what_version_1_wrote_is_written_the_same() {
    let dir = tempfile::tempdir().unwrap();
    store_v1::unpack(dir.path());
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/chunk-v1.bin");
    let mut frames = vec![std::fs::read(path).unwrap()];
    for kind in [LogKind::Alarm, LogKind::Data] {
        for epoch in std::fs::read_dir(dir.path().join(kind.name())).unwrap() {
            let db = epoch.unwrap().path().join("db");
            let bytes = std::fs::read(&db).unwrap();
            let scan = crate::scan::scan(&db, kind, crate::scan::Unreadable::Fails).unwrap();
            let chunks = scan.chunks.iter();
            frames.extend(chunks.map(|c| bytes[c.offset as usize..][..c.len as usize].to_vec()));
        }
    }
    assert!(frames.len() > 20, "{} frames", frames.len());
    for bytes in frames {
        let frame = Frame::parse(&bytes).unwrap();
        let mut packer = Packer::default();
        packer.begin();
        let records = frame.entries.iter().filter(|e| e.void.is_none());
        for (run, entry) in unpack(&frame).unwrap().iter().zip(records) {
            match run.cut(0..entry.count as usize).unwrap() {
                millrace_tags::Records::Samples(samples) => {
                    packer.run(Records::Samples(&samples.iter().collect::<Vec<_>>()));
                }
                millrace_tags::Records::Events(events) => {
                    packer.run(Records::Events(&events.iter().collect::<Vec<_>>()));
                }
            }
        }
        let again = packer.finish(&frame.header, &frame.entries);
        let body = |frame: &Frame<'_>| match frame.packed {
            true => zstd::bulk::decompress(frame.body, frame.unpacked_len).unwrap(),
            false => frame.body.to_vec(),
        };
        let written = Frame::parse(&again).unwrap();
        assert_eq!(
            body(&written),
            body(&frame),
            "chunk {}",
            frame.header.number
        );
        // Up to the lengths of the body, and the directory.
        let directory = |frame: &Frame<'_>| 86..frame.len - frame.body.len();
        assert_eq!(again[..78], bytes[..78]);
        assert_eq!(again[directory(&written)], bytes[directory(&frame)]);
    }
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
