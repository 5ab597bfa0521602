//! What becomes of small commits when an outage lasts: they are merged into large chunks, in steps that
//! must not hold up the commits that go on meanwhile.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use millrace_buffer::Settings;
use millrace_tags::Sample;

use crate::rig::{Rig, directory_bytes};
use crate::row::{Row, Target};
use crate::signals::{Signals, TAGS};
use crate::usage::{Usage, cpu_time, forget_peak};

/// Small epochs: the steps that take a whole one are no shorter with large ones.
const EPOCH_BYTES: u64 = 4 << 20;

/// No step may hold up a commit for longer.
const STEP_MS_MAX: f64 = 50.0;

/// How much memory merging may take, MB: as much as all else with epochs of that size.
const GROWTH_MB_MAX: f64 = 24.0;

/// Bytes of a sample at rest after a long outage.
const SAMPLE_BYTES_MAX: f64 = 0.9;

/// An outage.
#[derive(Debug, Clone, Copy)]
pub struct Outage {
    /// Samples of a commit, a multiple of [`TAGS`].
    pub samples: usize,
    /// Commits.
    pub commits: usize,
}

impl Outage {
    /// Runs it in a directory that is empty, and leaves the directory empty.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn run(&self, dir: &Path, seed: u64) -> Result<Vec<Row>> {
        let store = dir.join("store");
        let rig = Rig::with(Settings {
            // When it is asked for, and not before.
            rechunk_interval: Duration::from_secs(24 * 3600),
            ..Rig::settings(&store, EPOCH_BYTES)
        })?;
        let mut signals = Signals::new(seed, rig.tags.clone());
        for _ in 0..self.commits {
            let scans: Vec<Vec<Sample>> =
                (0..self.samples / TAGS).map(|_| signals.scan()).collect();
            rig.ingest(scans)?;
        }
        let before = directory_bytes(&store)?;
        let pid = std::process::id();
        forget_peak()?;
        let (start, cpu) = (Usage::of(pid)?, cpu_time());
        let (epochs, mut steps) = rig.buffer.rechunk_timed();
        let (end, cpu) = (Usage::of(pid)?, cpu_time() - cpu);
        let (after, merged) = (directory_bytes(&store)?, self.smallest(&store)?);
        rig.buffer.close().context("the close failed")?;
        drop(rig);
        std::fs::remove_dir_all(&store)?;

        steps.sort_unstable();
        let ms = |share: f64| {
            let at = (steps.len() as f64 * share) as usize;
            let step = steps.get(at.min(steps.len().saturating_sub(1)));
            step.map_or(0.0, |step| step.as_secs_f64() * 1e3)
        };
        let total = (self.samples * self.commits) as f64;
        let name = |what: &str| format!("{} samples a commit, outage: {what}", self.samples);
        Ok(vec![
            Row::new(name("bytes a sample, as written"), before as f64 / total),
            Row::new(
                name("the same, merged but for the newest"),
                after as f64 / total,
            ),
            Row::new(name("the same, in a merged epoch"), merged)
                .target(Target::AtMost(SAMPLE_BYTES_MAX)),
            Row::new(name("epochs that went into others"), epochs as f64),
            Row::new(name("longest step of merging, ms"), ms(1.0))
                .target(Target::AtMost(STEP_MS_MAX)),
            Row::new(name("99 of 100 steps, ms"), ms(0.99)),
            Row::new(name("steps"), steps.len() as f64),
            Row::new(
                name("RSS growth while merging, MB"),
                end.rss_peak.saturating_sub(start.rss) as f64 / 1e6,
            )
            .target(Target::AtMost(GROWTH_MB_MAX)),
            Row::new(
                name("merging, M samples/CPU-s"),
                total / 1e6 / cpu.as_secs_f64(),
            ),
        ])
    }

    /// The fewest bytes a sample of any epoch: each chunk was a commit, and an epoch is named after its first.
    fn smallest(&self, store: &Path) -> Result<f64> {
        let mut epochs = Vec::new();
        for entry in std::fs::read_dir(store.join("data"))? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if let Some(first) = name.strip_suffix(".ep") {
                let first = u64::from_str_radix(first, 16)?;
                epochs.push((first, directory_bytes(&path)?));
            }
        }
        epochs.sort_unstable();
        let each = epochs.windows(2).map(|pair| {
            let samples = (pair[1].0 - pair[0].0) * self.samples as u64;
            pair[0].1 as f64 / samples as f64
        });
        each.min_by(f64::total_cmp)
            .context("there is one epoch only")
    }
}
