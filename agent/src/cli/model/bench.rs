//! `millrace model bench`: what a model costs on this machine.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use millrace_inference::{Bundle, Detector, Normalisation, Scorer, Source, WindowView};
use millrace_tags::Moment;
use nix::time::{ClockId, clock_gettime};
use serde_json::json;

use super::super::{Failure, Global, output, show};
use super::which;
use crate::device::chain;

/// Windows before the measurement: caches and branch predictors have seen the model then.
const WARM_UP: usize = 50;

/// What is taken where an input says nothing of itself.
const PLAUSIBLE: f32 = 0.0;

/// Measure what a model costs on this machine
///
/// One thread scores windows, those of the bundle's golden vectors where it has such, one after the other. The time of each is
/// that of the processor, so that other programs are not counted; `wall` is the whole run by the clock. Memory is what the
/// process has grown by since before the model was loaded.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// A bundle (directory or tar file), or the name of a configured model
    #[arg(value_name = "BUNDLE|NAME")]
    model: String,
    /// How many windows to score
    #[arg(long, value_name = "N", default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..))]
    windows: u32,
}

/// What was measured.
struct Measured {
    windows: usize,
    load: Duration,
    /// CPU time of each window, in order of length.
    cpu: Vec<Duration>,
    wall: Duration,
    grown_bytes: Option<u64>,
}

impl BenchArgs {
    pub(super) fn run(&self, global: &Global) -> anyhow::Result<ExitCode> {
        let found = which::find(&self.model, global)?;
        let (path, bundle) = found.bundle()?;
        let measured = self.measure(bundle)?;
        if global.json {
            output::json(&json!({
                "model": {
                    "name": bundle.name(),
                    "version": bundle.version(),
                    "sha256": bundle.sha256(),
                    "bundle": path.display().to_string(),
                },
                "windows": measured.windows,
                "load_ms": ms(measured.load),
                "cpu_us": {
                    "p50": us(measured.at(0.5)),
                    "p90": us(measured.at(0.9)),
                    "p99": us(measured.at(0.99)),
                    "largest": us(measured.at(1.0)),
                },
                "windows_per_cpu_s": measured.rate(),
                "wall_ms": ms(measured.wall),
                "grown_bytes": measured.grown_bytes,
            }))?;
        } else {
            output::text(&measured.text(&format!("{} {}", bundle.name(), bundle.version())))?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn measure(&self, bundle: &Bundle) -> Result<Measured, Failure> {
        let before = resident_bytes();
        let begun = Instant::now();
        let detector = Detector::build(bundle).map_err(|error| Failure::new(chain(&error)))?;
        let load = begun.elapsed();
        let scorer = Scorer::from(detector);
        let windows = windows(bundle);
        let columns = bundle.manifest().columns.len();
        let (good, measured) = (vec![1.0; columns], vec![true; columns]);
        let rows = bundle.manifest().window_rows();
        let times: Vec<Moment> = (0..rows as i64).map(Moment).collect();
        let score = |at: usize| {
            let view = WindowView {
                values: &windows[at % windows.len()],
                good: &good,
                times: &times,
                measured: &measured,
            };
            scorer
                .score(view)
                .map_err(|error| Failure::new(chain(&error)))
        };
        for at in 0..WARM_UP {
            score(at)?;
        }
        let count = self.windows as usize;
        let mut cpu = Vec::with_capacity(count);
        let begun = Instant::now();
        for at in 0..count {
            let before = thread_time();
            score(at)?;
            cpu.push(thread_time().saturating_sub(before));
        }
        let wall = begun.elapsed();
        cpu.sort_unstable();
        let after = resident_bytes();
        Ok(Measured {
            windows: count,
            load,
            cpu,
            wall,
            grown_bytes: before
                .zip(after)
                .map(|(before, after)| after.saturating_sub(before)),
        })
    }
}

impl Measured {
    fn at(&self, part: f64) -> Duration {
        let index = (self.cpu.len().saturating_sub(1) as f64 * part) as usize;
        self.cpu.get(index).copied().unwrap_or_default()
    }

    /// Windows in a second of CPU.
    fn rate(&self) -> f64 {
        let all: Duration = self.cpu.iter().sum();
        self.windows as f64 / all.as_secs_f64().max(1e-9)
    }

    fn text(&self, model: &str) -> String {
        let grown = self.grown_bytes.map_or_else(|| "-".to_owned(), show::bytes);
        format!(
            "{model}: {} windows on one thread\n\
             load     {} with its golden vectors\n\
             window   {:.1} us of CPU at the median, 90 % {:.1}, 99 % {:.1}, largest {:.1}\n\
             rate     {} windows a CPU-second; the run took {} by the clock\n\
             memory   {grown} more than before the model was loaded\n",
            show::count(self.windows as u64),
            show::millis(ms(self.load)),
            us(self.at(0.5)),
            us(self.at(0.9)),
            us(self.at(0.99)),
            us(self.at(1.0)),
            show::count(self.rate() as u64),
            show::millis(ms(self.wall)),
        )
    }
}

/// The golden windows, or one of plausible values.
fn windows(bundle: &Bundle) -> Vec<Vec<f32>> {
    if let Some(golden) = bundle.golden() {
        return golden.windows.iter().map(|w| w.values.clone()).collect();
    }
    let mean = |normalisation: &Normalisation, at: usize| normalisation.mean.get(at).copied();
    let range = |source: &Source| match source {
        Source::Input(input) => bundle.inputs().get(*input)?.range,
        _ => None,
    };
    let columns = bundle.manifest().columns.iter();
    let row: Vec<f32> = columns
        .enumerate()
        .map(|(at, column)| {
            let middle = range(&column.source).map(|(small, large)| (small + large) / 2.0);
            let normalisation = bundle.window().normalisation.as_ref();
            let value = normalisation.and_then(|n| mean(n, at)).or(middle);
            value.map_or(PLAUSIBLE, |value| value as f32)
        })
        .collect();
    let rows = bundle.manifest().window_rows();
    vec![row.iter().copied().cycle().take(rows * row.len()).collect()]
}

/// CPU time of this thread.
fn thread_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// The resident set, where the system tells.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

fn us(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
