//! Ingest and drain of the buffer beside a plain segment file that gets the same samples.
//!
//! The segment file is the least that any durable log must do: append the raw records, one fdatasync a
//! commit. What the buffer costs more is packing, numbering and bookkeeping.

#![allow(missing_docs)] // criterion's macros make public functions

use std::fs::File;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use millrace_buffer::{Budget, Buffer, Item, Outbox, Settings, Start, TagSpec};
use millrace_tags::{Moment, Sample, SourceId, SourceKind, SystemClock, TagId, Value, ValueType};

const TAGS: usize = 500;

/// Signals of a plant: quantised analog values with noise, counters, bools, setpoints.
fn poll(tags: &[TagId], round: i64) -> Vec<Sample> {
    let at = Moment(round * 1_000_000_000);
    let sample = |(i, tag): (usize, &TagId)| {
        let noise = (i as i64 * 7919 + round * 104_729) % 13;
        let value = match i % 20 {
            0..15 => Value::F64((i as i64 * 10 + noise) as f64 / 10.0),
            15..17 => Value::U64((i as i64 + round) as u64),
            17..19 => Value::Bool(round % 32 < 16),
            _ => Value::F64(42.0),
        };
        Sample::good(*tag, value, at)
    };
    tags.iter().enumerate().map(sample).collect()
}

struct Rig {
    buffer: Buffer,
    source: SourceId,
    tags: Vec<TagId>,
    round: i64,
    _dir: tempfile::TempDir,
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let settings = Settings {
            commit_interval: Duration::from_secs(3600),
            ..Settings::new(dir.path())
        };
        let buffer = Buffer::open(settings, Arc::new(SystemClock::new())).expect("a buffer");
        let spec = |i: usize| TagSpec {
            name: format!("tag-{i}").into(),
            value_type: ValueType::Any,
            unit: None,
        };
        let specs: Vec<TagSpec> = (0..TAGS).map(spec).collect();
        let registration = buffer.register("plant", SourceKind::Device, &specs);
        Self {
            buffer,
            source: registration.source,
            tags: registration.tags,
            round: 0,
            _dir: dir,
        }
    }

    fn polls(&mut self, count: usize) -> Vec<Vec<Sample>> {
        let polls = (0..count).map(|_| {
            self.round += 1;
            poll(&self.tags, self.round)
        });
        polls.collect()
    }

    fn ingest(&self, polls: Vec<Vec<Sample>>) {
        for samples in polls {
            self.buffer.append(self.source, samples);
        }
        self.buffer.commit().expect("a commit");
    }
}

fn drain(outbox: &mut Outbox, samples: usize) {
    let budget = Budget {
        records: 1000,
        backlog: true,
    };
    let mut left = samples;
    while left > 0 {
        match outbox.next(budget) {
            Some(offer) => {
                if let Item::Parcel(parcel) = &offer.item {
                    left = left.saturating_sub(parcel.records.len());
                }
                outbox.acked(offer.id);
            }
            None => std::thread::sleep(Duration::from_micros(50)),
        }
    }
}

/// Appends 22 bytes a sample and syncs.
fn append_raw(file: &mut File, polls: &[Vec<Sample>]) {
    let mut out = Vec::with_capacity(polls.len() * TAGS * 22);
    for sample in polls.iter().flatten() {
        out.extend_from_slice(&sample.tag.0.to_le_bytes());
        out.extend_from_slice(&sample.gateway_time.0.to_le_bytes());
        let value = sample.value.as_ref().and_then(Value::as_f64);
        out.extend_from_slice(&value.unwrap_or(0.0).to_le_bytes());
        out.extend_from_slice(&[0, 0]);
    }
    file.write_all(&out).expect("a write");
    file.sync_data().expect("a sync");
}

fn ingest(c: &mut Criterion) {
    for polls in [1, 100] {
        let samples = polls * TAGS;
        let mut group = c.benchmark_group(format!("ingest {samples} samples a commit"));
        group.throughput(Throughput::Elements(samples as u64));
        group.sample_size(20);
        let mut rig = Rig::new();
        group.bench_function("buffer", |b| {
            b.iter_custom(|iterations| {
                let mut spent = Duration::ZERO;
                for _ in 0..iterations {
                    let polls = rig.polls(polls);
                    let start = Instant::now();
                    rig.ingest(polls);
                    spent += start.elapsed();
                }
                spent
            });
        });
        let mut file = tempfile::tempfile().expect("a file");
        let rows = rig.polls(polls);
        group.bench_function("segment file", |b| b.iter(|| append_raw(&mut file, &rows)));
        group.finish();
    }
}

fn backlog(c: &mut Criterion) {
    const POLLS: usize = 200;
    let mut group = c.benchmark_group("drain the backlog");
    group.throughput(Throughput::Elements((POLLS * TAGS) as u64));
    group.sample_size(10);
    group.bench_function("buffer", |b| {
        b.iter_batched(
            || {
                let mut rig = Rig::new();
                drop(rig.buffer.outbox("cloud", Start::Oldest));
                for _ in 0..4 {
                    let polls = rig.polls(POLLS / 4);
                    rig.ingest(polls);
                }
                let outbox = rig.buffer.outbox("cloud", Start::Oldest);
                (rig, outbox)
            },
            |(rig, mut outbox)| {
                drain(&mut outbox, POLLS * TAGS);
                rig
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(benches, ingest, backlog);
criterion_main!(benches);
