//! The life of a store at one size of commits: ingest, rest, drain. Beside it the segment file.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use millrace_buffer::bare::{Encoder, decode};
use millrace_tags::{Clock, Sample, SystemClock, TagId};

use crate::rig::{PARCEL_SAMPLES, Rig, directory_bytes};
use crate::row::{Row, Target};
use crate::segment::{RECORD_BYTES, Segment, frames, raw_records, raw_samples};
use crate::signals::{Signals, TAGS};
use crate::usage::{Usage, cpu_time};

/// Samples of a chunk, as the buffer cuts them.
const CHUNK_SAMPLES: usize = 32_000;

/// What each stored chunk costs beside its frame: its key.
const KEY_BYTES: u64 = 8;

const EPOCH_BYTES: u64 = 16 << 20;

/// How a store is filled.
#[derive(Debug, Clone, Copy)]
pub struct Life {
    /// Samples of a commit, a multiple of [`TAGS`].
    pub samples: usize,
    /// Commits.
    pub commits: usize,
    /// Million samples ingested in a second of CPU time.
    pub ingest: f64,
    /// The largest write amplification of the ingest, where a commit is large enough to have a target.
    pub amplification: Option<f64>,
}

/// CPU time and bytes written by what runs between two looks.
struct Spent {
    cpu: Duration,
    written: u64,
}

impl Spent {
    fn none() -> Self {
        Self {
            cpu: Duration::ZERO,
            written: 0,
        }
    }

    fn on<T>(&mut self, run: impl FnOnce() -> Result<T>) -> Result<T> {
        // Looking costs time too: it is outside.
        let written = written()?;
        let cpu = cpu_time();
        let result = run();
        self.cpu += cpu_time() - cpu;
        self.written += self::written()? - written;
        result
    }

    fn millions(&self, samples: u64) -> f64 {
        samples as f64 / 1e6 / self.cpu.as_secs_f64()
    }
}

fn written() -> Result<u64> {
    Ok(Usage::of(std::process::id())?.written)
}

impl Life {
    /// Runs it in a directory that is empty, and leaves the directory empty.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn run(&self, dir: &Path, seed: u64) -> Result<Vec<Row>> {
        let total = (self.samples * self.commits) as u64;
        let (store, plain) = (dir.join("store"), dir.join("frames"));
        let rig = Rig::open(&store, EPOCH_BYTES)?;
        let mut signals = Signals::new(seed, rig.tags.clone());
        let mut ingest = Spent::none();
        for _ in 0..self.commits {
            let scans = self.scans(&mut signals);
            ingest.on(|| rig.ingest(scans))?;
        }
        let at_rest = directory_bytes(&store)?;
        let mut logical = 0;
        frames(&store, |frame| logical += frame.len() as u64 + KEY_BYTES)?;
        let mut drain = Spent::none();
        drain.on(|| rig.drain(total))?;
        let mut stop = Spent::none();
        stop.on(|| rig.buffer.close().context("the close failed"))?;
        drop(rig);
        let left = directory_bytes(&store)?;
        std::fs::remove_dir_all(&store)?;
        let (framed, framed_drain) = self.framed(&plain, seed, total)?;
        let (raw, raw_drain) = self.raw(&plain, seed, total)?;

        let name = |what: &str| format!("{} samples a commit: {what}", self.samples);
        let logical = logical as f64;
        let whole = ingest.written + drain.written + stop.written;
        Ok(vec![
            Row::new(name("ingest, M samples/CPU-s"), ingest.millions(total))
                .target(Target::AtLeast(self.ingest))
                .beside(framed.millions(total), raw.millions(total)),
            Row::new(name("drain, M samples/CPU-s"), drain.millions(total))
                .target(Target::AtLeast(44.0))
                .beside(framed_drain.millions(total), raw_drain.millions(total)),
            self.amplified(
                name("write amplification, ingest"),
                ingest.written as f64 / logical,
                0.0,
            )
            .beside(
                framed.written as f64 / logical,
                raw.written as f64 / (total * RECORD_BYTES as u64) as f64,
            ),
            self.amplified(
                name("write amplification, life"),
                whole as f64 / logical,
                0.2,
            ),
            Row::new(
                name("bytes a sample at rest"),
                at_rest as f64 / total as f64,
            ),
            Row::new(
                name("write amplification, 4 KB pages alone"),
                1.0 + 4096.0 * self.commits as f64 / logical,
            ),
            Row::new(name("bytes a commit"), logical / self.commits as f64),
            Row::new(name("MB on disk after the drain"), left as f64 / 1e6)
                .target(Target::AtMost(EPOCH_BYTES as f64 / 1e6)),
        ])
    }

    fn amplified(&self, what: String, figure: f64, more: f64) -> Row {
        let row = Row::new(what, figure);
        match self.amplification {
            Some(target) => row.target(Target::AtMost(target + more)),
            None => row,
        }
    }

    fn scans(&self, signals: &mut Signals) -> Vec<Vec<Sample>> {
        (0..self.samples / TAGS).map(|_| signals.scan()).collect()
    }

    /// The same chunks in a segment file: what is spent on writing, and on reading.
    fn framed(&self, path: &Path, seed: u64, total: u64) -> Result<(Spent, Spent)> {
        let timebase = SystemClock::new().timebase();
        let mut signals = Signals::new(seed, (0..TAGS as u32).map(TagId).collect());
        let mut segment = Segment::create(path)?;
        let mut encoder = Encoder::default();
        let mut spent = Spent::none();
        for _ in 0..self.commits {
            let scans = self.scans(&mut signals);
            spent.on(|| {
                let samples: Vec<&Sample> = scans.iter().flatten().collect();
                for chunk in samples.chunks(CHUNK_SAMPLES) {
                    segment.put(&encoder.frame(chunk, timebase));
                }
                drop(samples);
                drop(scans);
                Ok(segment.commit()?)
            })?;
        }
        let mut drain = Spent::none();
        let mut samples = 0;
        drain.on(|| {
            Ok(Segment::read(path, |frame| {
                // Damage would show in the sum.
                let _ = decode(frame, PARCEL_SAMPLES, |parcel| {
                    samples += parcel.len() as u64
                });
            })?)
        })?;
        anyhow::ensure!(samples == total, "the segment file lost samples");
        std::fs::remove_file(path)?;
        Ok((spent, drain))
    }

    /// Raw records in a segment file, one a commit.
    fn raw(&self, path: &Path, seed: u64, total: u64) -> Result<(Spent, Spent)> {
        let mut signals = Signals::new(seed, (0..TAGS as u32).map(TagId).collect());
        let mut segment = Segment::create(path)?;
        let mut spent = Spent::none();
        for _ in 0..self.commits {
            let scans = self.scans(&mut signals);
            spent.on(|| {
                for scan in scans {
                    segment.put(&raw_records(&scan));
                }
                Ok(segment.commit()?)
            })?;
        }
        let mut drain = Spent::none();
        let mut samples = 0;
        drain.on(|| {
            Ok(Segment::read(path, |records| {
                let decoded: Vec<Sample> = raw_samples(records);
                samples += decoded.len() as u64;
            })?)
        })?;
        anyhow::ensure!(samples == total, "the segment file lost samples");
        std::fs::remove_file(path)?;
        Ok((spent, drain))
    }
}
