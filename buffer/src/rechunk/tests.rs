//! Merging, without a store: what goes in comes out.

use std::collections::BTreeMap;

use millrace_tags::{
    BootId, DropReason, LogKind, Moment, Quality, Reason, SourceId, StreamId, TagId, Timebase,
    Timestamp, Value,
};
use millrace_tags::{Event, EventDetail, EventState, Sample};
use proptest::prelude::*;
use uuid::Uuid;

use super::merge::{Merged, Merger, Part};
use crate::chunk::{
    CHUNK_BYTES_MAX, Entry, Frame, Header, Packer, RECORDS_MAX, Records, Run, unpack,
};

/// What one number of a line holds, and when it was.
type Number = (StreamId, SourceId, u64);

#[derive(Debug, Clone)]
enum Content {
    Samples(Vec<Sample>),
    Void(u64, DropReason),
}

/// One chunk: its stream, its timebase, whether a number is missing before it, and its entries.
#[derive(Debug, Clone)]
struct Chunk {
    stream: u8,
    boot: u8,
    offset: Option<i64>,
    hole: bool,
    entries: Vec<(u32, Content)>,
}

fn value() -> impl Strategy<Value = Option<Value>> {
    prop_oneof![
        1 => Just(None),
        4 => (-999i64..999).prop_map(|v| Some(Value::F64(v as f64 / 10.0))),
        1 => any::<u64>().prop_map(|v| Some(Value::F64(f64::from_bits(v)))),
        1 => any::<u32>().prop_map(|v| Some(Value::F32(f32::from_bits(v)))),
        1 => any::<bool>().prop_map(|v| Some(Value::Bool(v))),
        1 => any::<i64>().prop_map(|v| Some(Value::I64(v))),
        1 => "[a-z]{0,9}".prop_map(|v| Some(Value::Text(v.into()))),
    ]
}

fn samples() -> impl Strategy<Value = Vec<Sample>> {
    let quality = prop_oneof![
        5 => Just(Quality::Good),
        1 => Just(Quality::Bad(Reason::Timeout)),
    ];
    // Times overlap from chunk to chunk, so that some neighbours cannot be one entry.
    let sample = (
        0u32..5,
        value(),
        quality,
        prop::option::of(0i64..9),
        0i64..30,
    );
    let sample = sample.prop_map(|(tag, value, quality, source_time, time)| Sample {
        tag: TagId(tag),
        value,
        quality,
        source_time: source_time.map(Timestamp),
        gateway_time: Moment(time),
    });
    prop::collection::vec(sample, 1..20).prop_map(|mut samples| {
        samples.sort_by_key(|s| (s.gateway_time, s.tag));
        samples
    })
}

fn chunk() -> impl Strategy<Value = Chunk> {
    let reason = prop_oneof![Just(DropReason::Crash), Just(DropReason::Newest)];
    let content = prop_oneof![
        4 => samples().prop_map(Content::Samples),
        1 => (1u64..1000, reason).prop_map(|(count, reason)| Content::Void(count, reason)),
    ];
    let entries = prop::collection::btree_map(0u32..4, content, 1..4);
    let stream = prop_oneof![8 => Just(0u8), 1 => Just(1u8)];
    let boot =
        prop_oneof![8 => Just((0u8, Some(5))), 1 => Just((0, None)), 1 => Just((1, Some(7)))];
    let hole = prop::bool::weighted(0.05);
    (stream, boot, hole, entries).prop_map(|(stream, (boot, offset), hole, entries)| Chunk {
        stream,
        boot,
        offset,
        hole,
        entries: entries.into_iter().collect(),
    })
}

/// Packs the chunks as commits would.
fn frames(chunks: &[Chunk]) -> Vec<Vec<u8>> {
    let mut packer = Packer::default();
    let mut number = 10;
    let mut lines: BTreeMap<(u8, u32), u64> = BTreeMap::new();
    let mut frames = Vec::new();
    for chunk in chunks {
        number += 1 + u64::from(chunk.hole);
        packer.begin();
        let mut entries = Vec::new();
        for (source, content) in &chunk.entries {
            let last = lines.entry((chunk.stream, *source)).or_default();
            let (count, void) = match content {
                Content::Samples(samples) => {
                    packer.run(Records::Samples(&samples.iter().collect::<Vec<_>>()));
                    (samples.len() as u64, None)
                }
                Content::Void(count, reason) => (*count, Some(*reason)),
            };
            entries.push(Entry {
                source: SourceId(*source),
                first: *last + 1,
                count,
                ahead: number * 7,
                void,
            });
            *last += count;
        }
        let header = Header {
            log: LogKind::Data,
            number,
            span: 1,
            stream: StreamId(Uuid::from_u128(chunk.stream.into())),
            timebase: Timebase {
                boot: BootId(Uuid::from_u128(chunk.boot.into())),
                offset_ns: chunk.offset,
            },
            newest: Moment(number as i64),
        };
        frames.push(packer.finish(&header, &entries));
    }
    frames
}

fn merge(frames: &[Vec<u8>]) -> Vec<Merged> {
    let mut merger = Merger::default();
    let mut merged = Vec::new();
    for frame in frames {
        merged.extend(merger.push(Part::read(frame.clone()).unwrap()).unwrap());
    }
    merged.extend(merger.flush().unwrap());
    merged
}

/// Every number with what it holds, to the bit, and the limit that each line ends with.
fn contents<'a>(
    frames: impl Iterator<Item = &'a [u8]>,
) -> (
    BTreeMap<Number, String>,
    BTreeMap<(StreamId, SourceId), u64>,
) {
    let (mut numbers, mut limits) = (BTreeMap::new(), BTreeMap::new());
    for bytes in frames {
        let frame = Frame::parse(bytes).unwrap();
        let stream = frame.header.stream;
        let mut runs = unpack(&frame).unwrap().into_iter();
        for entry in &frame.entries {
            let line = (stream, entry.source);
            limits.insert(line, entry.last() + entry.ahead);
            let mut put = |number: u64, what: String| {
                let what = format!("{what} {:?}", frame.header.timebase);
                let before = numbers.insert((stream, entry.source, number), what);
                assert_eq!(before, None, "{number} is there twice");
            };
            match entry.void {
                Some(reason) => {
                    (entry.first..=entry.last()).for_each(|n| put(n, format!("{reason:?}")));
                }
                None => match runs.next().unwrap() {
                    Run::Samples(rows) => {
                        let samples = rows.cut(0..rows.len()).unwrap();
                        assert_eq!(samples.len() as u64, entry.count);
                        for (number, sample) in (entry.first..).zip(&samples) {
                            let bits = match sample.value {
                                Some(Value::F64(f)) => f.to_bits(),
                                Some(Value::F32(f)) => f.to_bits().into(),
                                _ => 0,
                            };
                            put(number, format!("{sample:?} {bits:x}"));
                        }
                    }
                    Run::Events(events) => {
                        for (number, event) in (entry.first..).zip(&events) {
                            put(number, format!("{event:?}"));
                        }
                    }
                },
            }
        }
        assert!(runs.next().is_none());
    }
    (numbers, limits)
}

proptest! {
    #[test]
    fn merged_chunks_hold_what_their_parts_held(chunks in prop::collection::vec(chunk(), 1..40)) {
        let parts = frames(&chunks);
        let merged = merge(&parts);
        prop_assert_eq!(
            contents(parts.iter().map(Vec::as_slice)),
            contents(merged.iter().map(|m| m.frame.as_slice()))
        );
        // The chunk numbers are the same, in order, and no chunk goes over a hole in them.
        let numbers: Vec<u64> = parts.iter().map(|p| Frame::parse(p).unwrap().header.number).collect();
        let stood_for: Vec<u64> = merged
            .iter()
            .flat_map(|m| {
                let header = Frame::parse(&m.frame).unwrap().header;
                header.number..header.number + u64::from(header.span)
            })
            .collect();
        prop_assert_eq!(numbers, stood_for);
        let alike = chunks.windows(2).filter(|w| {
            (w[0].stream, w[0].boot, w[0].offset) == (w[1].stream, w[1].boot, w[1].offset) && !w[1].hole
        });
        prop_assert_eq!(merged.len(), chunks.len() - alike.count());
    }
}

#[test]
fn chunks_that_do_not_fit_stay_apart() {
    let mut random = fastrand::Rng::with_seed(1);
    let mut chunk = |records: usize| Chunk {
        stream: 0,
        boot: 0,
        offset: None,
        hole: false,
        entries: vec![(0, Content::Samples(noise(&mut random, records)))],
    };
    let large: Vec<Chunk> = (0..40).map(|_| chunk(1500)).collect();
    let parts = frames(&large);
    let merged = merge(&parts);
    assert!(merged.len() > 1 && merged.len() < parts.len());
    for chunk in &merged {
        assert!(chunk.frame.len() <= CHUNK_BYTES_MAX);
        let entries = Frame::parse(&chunk.frame).unwrap().entries;
        assert!(entries.iter().map(|e| e.count).sum::<u64>() <= RECORDS_MAX as u64);
    }
    assert_eq!(
        contents(parts.iter().map(Vec::as_slice)),
        contents(merged.iter().map(|m| m.frame.as_slice()))
    );
}

fn noise(random: &mut fastrand::Rng, records: usize) -> Vec<Sample> {
    let sample = |at| Sample::good(TagId(0), Value::U64(random.u64(..)), Moment(at));
    (0..records as i64).map(sample).collect()
}

#[test]
fn events_are_merged_too() {
    let mut packer = Packer::default();
    let frames: Vec<Vec<u8>> = (1..=20u64)
        .map(|number| {
            let event = Event {
                state: EventState::Begin,
                at: Moment(number as i64),
                start: Moment(0),
                end: None,
                detail: EventDetail::Comms {
                    message: format!("timeout {number}"),
                },
            };
            packer.begin();
            packer.run(Records::Events(&[&event]));
            let header = Header {
                log: LogKind::Alarm,
                number,
                span: 1,
                stream: StreamId(Uuid::nil()),
                timebase: Timebase {
                    boot: BootId(Uuid::nil()),
                    offset_ns: None,
                },
                newest: event.at,
            };
            let entry = Entry {
                source: SourceId(0),
                first: number,
                count: 1,
                ahead: 3,
                void: None,
            };
            packer.finish(&header, &[entry])
        })
        .collect();
    let merged = merge(&frames);
    assert_eq!(merged.len(), 1);
    assert_eq!(Frame::parse(&merged[0].frame).unwrap().entries.len(), 1);
    assert_eq!(
        contents(frames.iter().map(Vec::as_slice)),
        contents(merged.iter().map(|m| m.frame.as_slice()))
    );
}
