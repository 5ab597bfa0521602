//! Format 1 is pinned: a whole store that was written once opens, and holds what was put into it.
//!
//! `golden/store-v1.bin` is its directory: each file as name and content with their lengths, packed with
//! zstd. It holds merged and plain epochs of both logs, every type of value, a void, a state that says
//! what an uplink has settled, the mark and the clean mark. `MILLRACE_WRITE_GOLDEN=1` writes it anew,
//! which is right only where no version that writes the old one was ever released.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

#[path = "support/receiver.rs"]
mod receiver;
#[path = "support/store_v1.rs"]
mod store_v1;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use millrace_buffer::{Budget, Buffer, Item, Settings, Start, TagSpec};
use millrace_tags::{
    DropReason, Event, Moment, Quality, Reason, Records, Sample, SourceKind, TagId, Timestamp,
    Value, ValueType,
};
use receiver::{clock, event, settings};
use store_v1::{STORE, unpack};

const LIVES: u64 = 10;
const COMMITS: u64 = 4;
const SOURCES: [&str; 2] = ["boiler", "pump"];

fn golden(dir: &Path) -> Settings {
    Settings {
        epoch_bytes: 8 << 20,
        keep: Duration::from_secs(24 * 3600),
        rechunk_interval: Duration::from_secs(3600),
        ..settings(dir, 1 << 30)
    }
}

/// What commit `n` brings of a source with the tags 0 to 10 and up, from `base`.
fn batch(n: u64, base: u32) -> Vec<Sample> {
    let x = n as i64;
    let values = [
        Some(Value::F64(20.0 + n as f64 / 10.0)),
        Some(Value::F64(std::f64::consts::PI * n as f64)),
        Some(Value::F64(-0.0)),
        Some(Value::F32(0.1 * n as f32)),
        Some(Value::I64(-40 * x)),
        Some(Value::U64(u64::MAX - n)),
        Some(Value::Bool(n.is_multiple_of(3))),
        Some(Value::Text(format!("läuft {}", n % 5).into())),
        Some(Value::Bytes(vec![0, 255, n as u8].into())),
        Some(Value::Json(format!("[{n}]").into())),
        None,
    ];
    let tagged = (base..).zip(values);
    tagged
        .map(|(tag, value)| Sample {
            tag: TagId(tag),
            quality: match value {
                Some(_) => Quality::Good,
                None => Quality::Bad(Reason::Status(0x800A_0000)),
            },
            value,
            source_time: (tag % 2 == 0).then_some(Timestamp(1_000 + x)),
            gateway_time: Moment(1_000_000_000 * x + 17),
        })
        .collect()
}

fn write() {
    let dir = tempfile::tempdir().unwrap();
    for life in 0..LIVES {
        let buffer = Buffer::open_exactly(golden(dir.path()), clock()).unwrap();
        drop(buffer.outbox("cloud", Start::Oldest));
        let sources = SOURCES.map(|source| {
            let spec = |i: usize| TagSpec {
                name: format!("signal-{i}").into(),
                value_type: ValueType::Any,
                unit: (i == 0).then(|| "°C".into()),
            };
            let specs: Vec<TagSpec> = (0..11).map(spec).collect();
            buffer.register(source, SourceKind::Device, &specs)
        });
        for n in life * COMMITS..(life + 1) * COMMITS {
            for (at, source) in sources.iter().enumerate() {
                assert_eq!(source.tags[0], TagId(11 * at as u32));
                buffer.append(source.source, batch(n, source.tags[0].0));
            }
            buffer.append_event(sources[0].source, event(n));
            buffer.commit().unwrap();
        }
        // What a crash may have taken becomes a void.
        buffer.crash();
    }
    let buffer = Buffer::open_exactly(golden(dir.path()), clock()).unwrap();
    let mut outbox = buffer.outbox("cloud", Start::Oldest);
    assert!(buffer.rechunk() > 0);
    let budget = Budget {
        records: 50,
        backlog: true,
    };
    let mut acked = 0;
    while acked < 20 {
        match outbox.next(budget) {
            Some(offer) => {
                outbox.acked(offer.id);
                acked += 1;
            }
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    }
    buffer.close().unwrap();
    let mut packed = Vec::new();
    for path in files(dir.path()) {
        let name = path.strip_prefix(dir.path()).unwrap().to_str().unwrap();
        for part in [name.as_bytes(), &fs::read(&path).unwrap()] {
            packed.extend_from_slice(&(part.len() as u32).to_le_bytes());
            packed.extend_from_slice(part);
        }
    }
    fs::write(STORE, zstd::bulk::compress(&packed, 19).unwrap()).unwrap();
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().flatten() {
        match entry.path() {
            path if path.is_dir() => found.extend(files(&path)),
            path => found.push(path),
        }
    }
    found.sort();
    found
}

#[test]
fn a_store_of_version_1_opens_and_is_complete() {
    if std::env::var_os("MILLRACE_WRITE_GOLDEN").is_some() {
        write();
    }
    let dir = tempfile::tempdir().unwrap();
    unpack(dir.path());
    let buffer = Buffer::open_exactly(golden(dir.path()), clock()).unwrap();
    let recovery = buffer.recovery();
    assert!(recovery.clean && recovery.damaged == 0, "{recovery:?}");
    let ledger = buffer.verify().unwrap();
    assert_eq!(ledger, buffer.ledger());
    let total = LIVES * COMMITS;
    let mut outbox = buffer.outbox("cloud", Start::Oldest);
    let mut samples: BTreeMap<String, Vec<Sample>> = BTreeMap::new();
    let mut events: Vec<Event> = Vec::new();
    let mut voids = 0;
    let budget = Budget {
        records: 1000,
        backlog: true,
    };
    let queued = |buffer: &Buffer| {
        let ledger = buffer.ledger();
        let rows = ledger.devices.values().chain(ledger.events.values());
        rows.map(|r| r.queued).sum::<u64>()
    };
    while queued(&buffer) > 0 {
        let Some(offer) = outbox.next(budget) else {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        };
        match &offer.item {
            Item::Parcel(parcel) => match &parcel.records {
                Records::Samples(these) => {
                    let line = samples.entry(parcel.source.to_string()).or_default();
                    line.extend(these.iter().cloned());
                    let spec = parcel.tags.get(these[0].tag).unwrap();
                    assert!(spec.name.starts_with("signal-"));
                }
                Records::Events(these) => events.extend(these.iter().cloned()),
            },
            Item::Gap(gap) => voids += gap.holes.len(),
        }
        outbox.acked(offer.id);
    }
    let mut settled = 0;
    for (at, source) in SOURCES.iter().enumerate() {
        let row = &ledger.devices[*source];
        assert!(row.balances() && row.dropped[&DropReason::Crash] > 0);
        let expected: Vec<Sample> = (0..total).flat_map(|n| batch(n, 11 * at as u32)).collect();
        let rest = &expected[row.acked as usize..];
        // A comparison does not see the sign of zero.
        let got = &samples[*source];
        assert_eq!(format!("{got:?}"), format!("{rest:?}"), "{source}");
        settled += row.acked;
    }
    let alarms = &ledger.events["boiler"];
    let expected: Vec<Event> = (0..total).map(event).collect();
    assert_eq!(events, expected[alarms.acked as usize..]);
    assert!(
        settled > 0 && alarms.acked > 0,
        "the state says what is settled"
    );
    assert!(voids > 0);
}
