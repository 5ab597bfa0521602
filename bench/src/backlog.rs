//! A backlog of gigabytes: filled, killed, opened again and drained by processes of their own, so that
//! memory is theirs alone and the kill is a real one.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};
use clap::ValueEnum;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use serde::{Deserialize, Serialize};

use crate::rig::{Rig, directory_bytes};
use crate::row::{Row, Target};
use crate::signals::Filler;
use crate::usage::{Usage, cpu_time};

/// Samples of a commit: 0.5 MB.
const COMMIT_SAMPLES: usize = 25;

/// A backlog.
#[derive(Debug, Clone, Copy)]
pub struct Backlog {
    /// How much is written.
    pub bytes: u64,
    /// In epochs of this size.
    pub epoch_bytes: u64,
    /// How much memory it may take, MB.
    pub growth_mb: f64,
}

/// What one process does; it then waits to be killed.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Part {
    /// Appends and commits.
    Fill,
    /// Opens.
    Open,
    /// Opens and drains.
    Drain,
}

/// What a process has to say.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Said {
    open_s: f64,
    samples: u64,
    cpu_s: f64,
    written: u64,
    /// Resident before there was a buffer, after it was opened, and at most.
    rss_start: u64,
    rss_open: u64,
    rss_peak: u64,
    rss_end: u64,
}

impl Part {
    /// The work of one process.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn run(self, dir: &Path, epoch_bytes: u64, bytes: u64) -> Result<(Rig, Said)> {
        let pid = std::process::id();
        // What makes the samples is not the buffer's.
        let mut filler = Filler::new(1, millrace_tags::TagId(0));
        let start = Usage::of(pid)?;
        let opening = Instant::now();
        let rig = Rig::open(dir, epoch_bytes)?;
        let open_s = opening.elapsed().as_secs_f64();
        let (cpu, opened) = (cpu_time(), Usage::of(pid)?);
        let samples = match self {
            Part::Fill => {
                let samples = bytes / Filler::BYTES as u64;
                let mut left = samples as usize;
                while left > 0 {
                    let count = left.min(COMMIT_SAMPLES);
                    rig.ingest(vec![filler.samples(count)])?;
                    left -= count;
                }
                samples
            }
            Part::Open => 0,
            Part::Drain => {
                rig.drain(bytes / Filler::BYTES as u64)?;
                bytes / Filler::BYTES as u64
            }
        };
        let end = Usage::of(pid)?;
        let said = Said {
            open_s,
            samples,
            cpu_s: (cpu_time() - cpu).as_secs_f64(),
            written: end.written - opened.written,
            rss_start: start.rss,
            rss_open: opened.rss,
            rss_peak: end.rss_peak,
            rss_end: end.rss,
        };
        Ok((rig, said))
    }
}

impl Backlog {
    /// Runs it in a directory that is empty, and leaves the directory empty.
    ///
    /// # Errors
    /// The disk refuses, or a process fails.
    pub fn run(&self, dir: &Path) -> Result<Vec<Row>> {
        let store = dir.join("store");
        let filled = self.child(Part::Fill, &store, self.bytes)?;
        let disk = directory_bytes(&store)?;
        let warm = self.child(Part::Open, &store, 0)?;
        // The newest epoch is small after an opening: put it back to where a kill hits on average.
        let more = self.child(Part::Fill, &store, self.epoch_bytes / 2)?;
        forget_pages(&store)?;
        let cold = self.child(Part::Open, &store, 0)?;
        let samples = filled.samples + more.samples;
        let queued = samples * Filler::BYTES as u64;
        let drained = self.child(Part::Drain, &store, queued)?;
        let left = directory_bytes(&store)?;
        std::fs::remove_dir_all(&store)?;
        let logical = (filled.samples * Filler::BYTES as u64) as f64;
        let name = |what: &str| {
            let (gb, mb) = (self.bytes as f64 / 1e9, self.epoch_bytes >> 20);
            format!("{gb} GB, {mb} MiB epochs: {what}")
        };
        let mb = |bytes: u64, less: u64| bytes.saturating_sub(less) as f64 / 1e6;
        let growth = Target::AtMost(self.growth_mb);
        Ok(vec![
            Row::new(
                name("RSS growth, fill, MB"),
                mb(filled.rss_peak, filled.rss_start),
            )
            .target(growth),
            Row::new(
                name("RSS growth, drain, MB"),
                mb(drained.rss_peak, drained.rss_start),
            )
            .target(growth),
            Row::new(
                name("RSS when opened, MB more"),
                mb(cold.rss_open, cold.rss_start),
            ),
            Row::new(name("reopen after kill -9, s"), warm.open_s).target(Target::AtMost(0.1)),
            Row::new(name("the same, pages not cached, s"), cold.open_s),
            Row::new(
                name("write amplification, fill"),
                filled.written as f64 / logical,
            )
            .target(Target::AtMost(1.1)),
            Row::new(
                name("written by the drain, of all"),
                drained.written as f64 / logical,
            ),
            Row::new(name("disk over data"), disk as f64 / logical),
            Row::new(name("CPU-s a GB, fill"), filled.cpu_s / logical * 1e9),
            Row::new(name("CPU-s a GB, drain"), drained.cpu_s / logical * 1e9),
            Row::new(name("MB on disk after the drain"), left as f64 / 1e6)
                .target(Target::AtMost(self.epoch_bytes as f64 / 1e6)),
        ])
    }

    /// Runs a part in a process and kills it when it has done its work.
    fn child(&self, part: Part, store: &Path, bytes: u64) -> Result<Said> {
        let part = part.to_possible_value().context("a part has a name")?;
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--part", part.get_name()])
            .args(["--epoch-bytes", &self.epoch_bytes.to_string()])
            .args(["--bytes", &bytes.to_string()])
            // As the service unit does.
            .env("MALLOC_TRIM_THRESHOLD_", "131072")
            .arg("--dir")
            .arg(store)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let said = listen(&mut child);
        child.kill()?;
        child.wait()?;
        said.with_context(|| format!("the process for {}", part.get_name()))
    }
}

fn listen(child: &mut Child) -> Result<Said> {
    let mut line = String::new();
    let stdout = child.stdout.take().context("it has no output")?;
    BufReader::new(stdout).read_line(&mut line)?;
    Ok(serde_json::from_str(&line)?)
}

/// Has the kernel drop the pages of all files. Names and sizes of files stay in memory.
fn forget_pages(dir: &Path) -> Result<()> {
    let mut open: Vec<PathBuf> = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir)? {
            let path = entry?.path();
            if path.is_dir() {
                open.push(path);
                continue;
            }
            let file = File::open(&path)?;
            file.sync_all()?;
            posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
        }
    }
    Ok(())
}
