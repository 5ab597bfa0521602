//! Counts what a search costs, over devices in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use millrace_tags::{Clock, Quality, TagId, TestClock, Timestamp, Value};
use proptest::prelude::*;
use tokio_modbus::ExceptionCode;

use super::*;
use crate::modbus::point::{Point, PointSpec};
use crate::modbus::reader::GroupReader;
use crate::modbus::request::Request;
use crate::modbus::{Address, DataType, WordOrder};

/// Registers that are worth their own address.
#[derive(Default)]
struct Device {
    missing: BTreeSet<u16>,
    /// 0: as many as the protocol allows.
    max_registers: u16,
    /// No request may read across these.
    blocks: Vec<u16>,
    asked: Vec<(u16, u16)>,
    reply: Vec<u8>,
    clock: Option<Arc<TestClock>>,
}

impl Device {
    fn refuses(&self, start: u16, count: u16) -> bool {
        let end = start + count;
        let crosses = |at: &u16| start < *at && *at < end;
        self.missing.range(start..end).next().is_some()
            || (self.max_registers > 0 && count > self.max_registers)
            || self.blocks.iter().any(crosses)
    }
}

impl Exchange for Device {
    async fn exchange(&mut self, request: &Request) -> Result<Reply<'_>, SessionError> {
        let Request::Read(read) = request else {
            panic!("{request} is no read");
        };
        let clock = self.clock.get_or_insert_with(clock);
        let at = clock.now();
        self.asked.push((read.start, read.count));
        if self.refuses(read.start, read.count) {
            let answer = Answer::Exception(ExceptionCode::IllegalDataAddress);
            return Ok(Reply { answer, at });
        }
        let values = read.start..read.start + read.count;
        self.reply = values.flat_map(u16::to_be_bytes).collect();
        let answer = Answer::Data(&self.reply);
        Ok(Reply { answer, at })
    }

    fn faults(&self) -> BTreeMap<String, u64> {
        BTreeMap::new()
    }

    async fn close(&mut self) {}
}

fn clock() -> Arc<TestClock> {
    Arc::new(TestClock::new(1, Some(Timestamp(0))))
}

fn reader(wanted: impl IntoIterator<Item = u16>) -> GroupReader {
    let point = |offset| Point {
        tag: TagId(u32::from(offset)),
        spec: spec(offset, None),
        meaning: Default::default(),
        interval: Duration::from_secs(1),
    };
    let points: Vec<Point> = wanted.into_iter().map(point).collect();
    GroupReader::new(&points, Limits::default(), &[])
}

fn spec(offset: u16, bit: Option<u8>) -> PointSpec {
    let name = format!(
        "holding:{offset}{}",
        bit.map_or(String::new(), |bit| format!(".{bit}"))
    );
    let address: Address = name.parse().unwrap();
    let data_type = PointSpec::default_type(address).unwrap_or(DataType::U16);
    PointSpec::new(address, data_type, WordOrder::Abcd).unwrap()
}

/// One read: what it called illegal. Every tag has one sample, and a good one has its own value.
fn read(reader: &mut GroupReader, device: &mut Device) -> BTreeSet<u16> {
    // Nothing waits for anything here.
    let reading = reader.read(device, &*clock()).now_or_never().unwrap();
    let reading = reading.unwrap();
    let mut seen = BTreeSet::new();
    let mut illegal = BTreeSet::new();
    for sample in &reading.samples {
        assert!(seen.insert(sample.tag.0), "two samples of {:?}", sample.tag);
        match sample.quality {
            Quality::Good => assert_eq!(sample.value, Some(Value::U64(sample.tag.0.into()))),
            quality => {
                assert_eq!(quality, Quality::Bad(Reason::IllegalAddress));
                illegal.insert(u16::try_from(sample.tag.0).unwrap());
            }
        }
    }
    assert_eq!(seen.len(), reader.points.points.len());
    illegal
}

/// `wanted` without `missing`, in pieces.
fn pieces(wanted: &BTreeSet<u16>, missing: &BTreeSet<u16>) -> usize {
    let rows: Vec<u16> = wanted.iter().copied().collect();
    let whole = rows.split(|offset| missing.contains(offset));
    whole.filter(|piece| !piece.is_empty()).count()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// What a hole costs: the refusal by which it is met, ceil(log2 n) requests, and no more than the pieces that
    /// it leaves have to be read anyway.
    #[test]
    fn hole_is_found_in_log2_requests(
        count in 1_u16..=125,
        holes in prop::collection::vec((0_u16..125, 1_u16..6), 0..12),
    ) {
        let wanted: BTreeSet<u16> = (0..count).collect();
        let missing: BTreeSet<u16> = holes
            .iter()
            .flat_map(|(start, length)| *start..start + length)
            .filter(|offset| *offset < count)
            .collect();
        let mut device = Device { missing: missing.clone(), ..Device::default() };
        let mut reader = reader(wanted.clone());
        prop_assert_eq!(&read(&mut reader, &mut device), &missing);
        let a_hole = 1 + halvings(usize::from(count));
        let most = pieces(&wanted, &missing) + missing.len() * a_hole;
        prop_assert!(device.asked.len() <= most, "{} of {most}", device.asked.len());
        if missing == wanted {
            // The next read asks for one of them again.
            return Ok(());
        }
        // From then on nothing is asked in vain.
        device.asked.clear();
        prop_assert_eq!(&read(&mut reader, &mut device), &missing);
        let refused = device.asked.iter().any(|(start, count)| device.refuses(*start, *count));
        prop_assert!(!refused);
    }

    /// Holes, a maximum and blocks that must be read apart, all at once.
    #[test]
    fn whatever_refuses_only_what_is_missing_is_bad(
        wanted in prop::collection::btree_set(0_u16..400, 1..300),
        missing in prop::collection::btree_set(0_u16..400, 0..30),
        max_registers in prop_oneof![Just(0_u16), 1_u16..125],
        blocks in prop::collection::vec(0_u16..400, 0..3),
    ) {
        let truth: BTreeSet<u16> = wanted.intersection(&missing).copied().collect();
        let mut device = Device { missing, max_registers, blocks, ..Device::default() };
        let mut reader = reader(wanted);
        for _ in 0..3 {
            prop_assert_eq!(&read(&mut reader, &mut device), &truth);
        }
    }
}

/// Random holes in a map of 2,000 registers, single ones and long ones: the first read delivers all that is there,
/// and the list of holes is the truth.
#[test]
fn first_read_of_two_thousand_registers_finds_every_hole() {
    for seed in 0..40 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut device = Device::default();
        for _ in 0..rng.u16(0..120) {
            let start = rng.u16(0..2_000);
            let length = if rng.u8(0..8) == 0 {
                rng.u16(1..60)
            } else {
                rng.u16(1..4)
            };
            device.missing.extend(start..(start + length).min(2_000));
        }
        let mut reader = reader(0..2_000);
        assert_eq!(
            read(&mut reader, &mut device),
            device.missing,
            "seed {seed}"
        );
        let listed = reader.excluded().into_iter().flat_map(|range| {
            let range = range.addresses.split_once(':').unwrap().1.to_owned();
            let (first, last) = range.split_once('-').unwrap_or((&range, &range));
            first.parse::<u16>().unwrap()..=last.parse().unwrap()
        });
        assert_eq!(
            listed.collect::<BTreeSet<u16>>(),
            device.missing,
            "seed {seed}"
        );
    }
}

/// A device that refuses everything is known after two requests a register.
#[test]
fn registers_that_are_missing_in_a_row_cost_two_requests_each() {
    for count in [60, 125] {
        let mut device = Device {
            missing: (0..count).collect(),
            ..Device::default()
        };
        let found = read(&mut reader(0..count), &mut device);
        assert_eq!(found.len(), usize::from(count));
        let asked = device.asked.len();
        assert!(asked <= 2 * usize::from(count) + 7, "{asked} of {count}");
    }
}

/// Sixteen flags of one register are one place.
#[test]
fn flags_of_one_register_are_missing_together() {
    let flags = (0..16).map(|bit| (20_u16, Some(bit)));
    let registers = (0..64).filter(|offset| *offset != 20).map(|at| (at, None));
    let points: Vec<Point> = (0..)
        .zip(registers.chain(flags))
        .map(|(tag, (offset, bit))| Point {
            tag: TagId(tag),
            spec: spec(offset, bit),
            meaning: Default::default(),
            interval: Duration::from_secs(1),
        })
        .collect();
    let mut reader = GroupReader::new(&points, Limits::default(), &[]);
    let mut device = Device {
        missing: BTreeSet::from([20]),
        ..Device::default()
    };
    let reading = reader.read(&mut device, &*clock()).now_or_never();
    let bad = reading.unwrap().unwrap().samples.into_iter();
    assert_eq!(bad.filter(|sample| !sample.quality.is_good()).count(), 16);
    assert!(device.asked.len() <= 1 + 6 + 2, "{:?}", device.asked);
    let excluded = reader.excluded();
    assert_eq!(
        (&*excluded[0].addresses, excluded[0].tags),
        ("holding:20", 16)
    );
}

/// A device whose blocks must be read apart teaches where they meet, once its answers are long enough to rule out
/// their length.
#[test]
fn place_that_must_not_be_read_across_is_found() {
    let mut device = Device {
        blocks: vec![57],
        ..Device::default()
    };
    let mut reader = reader((0..100).chain(300..400));
    for _ in 0..9 {
        assert!(read(&mut reader, &mut device).is_empty());
    }
    device.asked.clear();
    read(&mut reader, &mut device);
    assert_eq!(device.asked, [(0, 57), (57, 43), (300, 100)]);
}
