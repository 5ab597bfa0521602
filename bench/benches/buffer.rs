//! Ingest and drain of the buffer beside a plain segment file, in CPU time.
//!
//! Wall time on a shared machine says little, and an fdatasync waits more than it works. What is measured
//! here is the CPU time of the whole process, sled's threads included. The segment file holds the very same
//! chunk frames: what the buffer costs more is numbering, bookkeeping and sled.

#![allow(missing_docs)] // criterion's macros make public functions

use std::time::Duration;

use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use millrace_bench::{Rig, Segment, Signals, TAGS, cpu_time};
use millrace_buffer::bare::{Encoder, decode};
use millrace_tags::{Clock, Sample, SystemClock};

const EPOCH_BYTES: u64 = 16 << 20;

/// Samples of a chunk, as the buffer cuts them; of a parcel, as it is asked for them.
const CHUNK_SAMPLES: usize = 32_000;
const PARCEL_SAMPLES: usize = 1000;

/// CPU time of this process; formatted as any other time.
struct CpuTime(WallTime);

impl Measurement for CpuTime {
    type Intermediate = Duration;
    type Value = Duration;

    fn start(&self) -> Duration {
        cpu_time()
    }

    fn end(&self, start: Duration) -> Duration {
        cpu_time() - start
    }

    fn add(&self, a: &Duration, b: &Duration) -> Duration {
        *a + *b
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        self.0.to_f64(value)
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        self.0.formatter()
    }
}

fn scans(signals: &mut Signals, samples: usize) -> Vec<Vec<Sample>> {
    (0..samples / TAGS).map(|_| signals.scan()).collect()
}

/// CPU time of `run` over `iterations`, without what prepares them.
fn spent<I>(iterations: u64, mut prepare: impl FnMut() -> I, mut run: impl FnMut(I)) -> Duration {
    let mut spent = Duration::ZERO;
    for _ in 0..iterations {
        let input = prepare();
        let start = cpu_time();
        run(input);
        spent += cpu_time() - start;
    }
    spent
}

fn ingest(c: &mut Criterion<CpuTime>) {
    let dir = tempfile::tempdir_in(".").expect("a directory");
    for samples in [500, 5_000, 50_000] {
        let mut group = c.benchmark_group(format!("ingest {samples} samples a commit"));
        group.throughput(Throughput::Elements(samples as u64));
        group.sample_size(20);
        let store = dir.path().join(samples.to_string());
        let rig = Rig::open(&store, EPOCH_BYTES).expect("a buffer");
        let mut signals = Signals::new(1, rig.tags.clone());
        group.bench_function("buffer", |b| {
            b.iter_custom(|n| {
                let prepare = || scans(&mut signals, samples);
                spent(n, prepare, |scans| rig.ingest(scans).expect("a commit"))
            });
        });
        let mut segment = Segment::create(&dir.path().join("segment")).expect("a file");
        let (mut encoder, timebase) = (Encoder::default(), SystemClock::new().timebase());
        group.bench_function("segment file, frames", |b| {
            b.iter_custom(|n| {
                let prepare = || scans(&mut signals, samples);
                spent(n, prepare, |scans| {
                    let samples: Vec<&Sample> = scans.iter().flatten().collect();
                    for chunk in samples.chunks(CHUNK_SAMPLES) {
                        segment.put(&encoder.frame(chunk, timebase));
                    }
                    segment.commit().expect("a commit");
                })
            });
        });
        group.finish();
    }
}

fn drain(c: &mut Criterion<CpuTime>) {
    const SAMPLES: usize = 50_000;
    let mut group = c.benchmark_group("drain");
    group.throughput(Throughput::Elements(10 * SAMPLES as u64));
    group.sample_size(10);
    let dir = tempfile::tempdir_in(".").expect("a directory");
    let rig = Rig::open(dir.path(), EPOCH_BYTES).expect("a buffer");
    let mut signals = Signals::new(1, rig.tags.clone());
    group.bench_function("buffer", |b| {
        b.iter_custom(|n| {
            let prepare = || {
                for _ in 0..10 {
                    let scans = scans(&mut signals, SAMPLES);
                    rig.ingest(scans).expect("a commit");
                }
            };
            spent(n, prepare, |()| {
                rig.take(10 * SAMPLES as u64).expect("a drain");
            })
        });
    });
    let timebase = SystemClock::new().timebase();
    let mut encoder = Encoder::default();
    let mut frames = Vec::new();
    for _ in 0..10 {
        let scans = scans(&mut signals, SAMPLES);
        let samples: Vec<&Sample> = scans.iter().flatten().collect();
        frames.extend(
            samples
                .chunks(CHUNK_SAMPLES)
                .map(|c| encoder.frame(c, timebase)),
        );
    }
    group.bench_function("decode only", |b| {
        b.iter(|| {
            for frame in &frames {
                decode(frame, PARCEL_SAMPLES, drop).expect("a chunk");
            }
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().with_measurement(CpuTime(WallTime));
    targets = ingest, drain
}
criterion_main!(benches);
