//! A number line as it must be: what each number stands for.

use std::collections::{BTreeSet, HashMap};

use millrace_buffer::Ticket;
use millrace_tags::{
    BootId, DropReason, Event, EventDetail, EventState, LogKind, Moment, Parcel, Quality, Reason,
    Records, Sample, StreamId, TagId, Timebase, Timestamp, Value, ValueType,
};

/// One line of each source in each log.
pub(crate) type LineId = (usize, LogKind);

/// Wall clocks that each boot has had.
pub(crate) type Boots = HashMap<BootId, BTreeSet<i64>>;

#[derive(Default)]
pub(crate) struct Line {
    pub(crate) stream: Option<StreamId>,
    /// Number `n` is at `n - 1`.
    pub(crate) entries: Vec<Entry>,
}

#[allow(clippy::large_enum_variant)] // nearly all of them are records
pub(crate) enum Entry {
    Record(Record),
    Void(DropReason),
}

pub(crate) struct Record {
    pub(crate) content: Content,
    pub(crate) timebase: Timebase,
    /// Tells whether it is durable; `None`: it is.
    pub(crate) ticket: Option<Ticket>,
}

pub(crate) enum Content {
    /// With the name of its tag.
    Sample(Sample, &'static str),
    Event(Event),
}

impl Line {
    pub(crate) fn last(&self) -> u64 {
        self.entries.len() as u64
    }

    pub(crate) fn get(&self, number: u64) -> &Entry {
        let at = usize::try_from(number - 1).unwrap();
        let last = self.last();
        let entry = self.entries.get(at);
        entry.unwrap_or_else(|| panic!("number {number} was never given: {last} was the last"))
    }

    pub(crate) fn is_record(&self, number: u64) -> bool {
        matches!(self.get(number), Entry::Record(_))
    }

    pub(crate) fn voids(&self, reason: DropReason) -> u64 {
        let voids = self.entries.iter();
        voids
            .filter(|e| matches!(e, Entry::Void(r) if *r == reason))
            .count() as u64
    }

    /// Panics unless the parcel holds what was appended under its numbers.
    pub(crate) fn check(&mut self, parcel: &Parcel, boots: &Boots) {
        let stream = *self.stream.get_or_insert(parcel.stream);
        assert_eq!(stream, parcel.stream, "another stream");
        assert!(!parcel.records.is_empty());
        for at in 0..parcel.records.len() {
            let number = parcel.first_seq + at as u64;
            let Entry::Record(record) = self.get(number) else {
                panic!("number {number} is void and came with a value");
            };
            match (&record.content, &parcel.records) {
                (Content::Sample(expected, tag), Records::Samples(samples)) => {
                    let sample = &samples[at];
                    let name = parcel.tags.get(sample.tag).map(|tag| &*tag.name);
                    assert_eq!(name, Some(*tag), "{number}");
                    let got = Sample {
                        tag: expected.tag,
                        ..sample.clone()
                    };
                    assert_eq!(got, *expected, "{number} has another value");
                }
                (Content::Event(expected), Records::Events(events)) => {
                    assert_eq!(events[at], *expected, "{number} has another event");
                }
                _ => panic!("{number} is in the wrong log"),
            }
            let (wrote, says) = (record.timebase, parcel.timebase);
            assert_eq!(wrote.boot, says.boot, "{number} is of another boot");
            match (wrote.offset_ns, says.offset_ns) {
                (Some(at_append), _) => assert_eq!(says.offset_ns, Some(at_append), "{number}"),
                (None, Some(later)) => {
                    let known = &boots[&says.boot];
                    assert!(
                        known.contains(&later),
                        "{number}: {later} was never the offset"
                    );
                }
                (None, None) => {}
            }
        }
    }
}

/// Every type of value.
pub(crate) const TAGS: [(&str, ValueType); 8] = [
    ("bool", ValueType::Bool),
    ("i64", ValueType::I64),
    ("u64", ValueType::U64),
    ("f64", ValueType::F64),
    ("f32", ValueType::F32),
    ("text", ValueType::Text),
    ("bytes", ValueType::Bytes),
    ("json", ValueType::Json),
];

/// The `nth` sample ever, of a tag that its number says.
pub(crate) fn sample(nth: u64, tags: &[TagId], now: Moment) -> (Sample, &'static str) {
    let mut random = fastrand::Rng::with_seed(nth);
    let kind = random.usize(..TAGS.len());
    let value = match TAGS[kind].1 {
        ValueType::Bool => Value::Bool(random.bool()),
        ValueType::I64 => Value::I64(random.i64(..) >> random.u32(..64)),
        ValueType::U64 => Value::U64(random.u64(..) >> random.u32(..64)),
        ValueType::F64 => Value::F64(nth as f64 / 8.0 - random.f64()),
        ValueType::F32 => Value::F32(random.f32() * nth as f32),
        ValueType::Text => Value::Text(format!("text {nth}").into()),
        ValueType::Bytes => Value::Bytes(nth.to_le_bytes().into()),
        _ => Value::Json(format!("{{\"n\":{nth}}}").into()),
    };
    let bad = random.u8(..10) == 0;
    let sample = Sample {
        tag: tags[kind],
        value: (!bad).then_some(value),
        quality: match (bad, random.u8(..10)) {
            (true, at) if at < 5 => Quality::Bad(Reason::Timeout),
            (true, _) => Quality::Bad(Reason::Status(0x8000_0000 | random.u32(..1 << 16))),
            (false, 0) => Quality::Uncertain(Reason::OutOfRange),
            (false, _) => Quality::Good,
        },
        source_time: random.bool().then(|| Timestamp(random.i64(0..1 << 60))),
        // Times of one append need not ascend, and need not differ.
        gateway_time: Moment(now.0 + random.i64(0..50) * 20_000_000),
    };
    (sample, TAGS[kind].0)
}

pub(crate) fn event(nth: u64, now: Moment) -> Event {
    Event {
        state: EventState::Update,
        at: now,
        start: Moment(now.0 - nth as i64),
        end: None,
        detail: EventDetail::alarm(format!("event {nth}")),
    }
}
