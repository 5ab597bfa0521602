//! What scoring costs: our engine beside onnxruntime, on the same windows, in turns; and many models at once.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use millrace_inference::{Bundle, Detector, Layout, Monitor};
use millrace_tags::{Moment, Sample, TagId, Value};
use nix::time::{ClockId, clock_gettime};
use sha2::{Digest, Sha256};

use crate::{Row, Target, Usage, cpu_time};

/// Models of the zoo that have a target: the name of the file, of the score, whether windows are rows, times onnxruntime.
const ZOO: [(&str, &str, bool, f64); 8] = [
    ("conv_ae_script", "score", false, 1.0),
    ("conv_ae_dynamo", "score", false, 1.0),
    ("dense_ae_script", "score", false, 1.0),
    ("scaler_pca", "variable[1]", true, 1.0),
    (FOREST, "score", true, 1.0),
    ("lstm_script", "score", false, 2.0),
    ("lstm_dynamo", "score", false, 2.0),
    ("gru_script", "score", false, 2.0),
];

/// The isolation forest as the recipe of docs/training.md writes it, and the most that it may take.
const FOREST: &str = "iforest_one_ensemble";
const FOREST_US: f64 = 30.0;

/// Inputs of the zoo's windows, and rows of those that are series.
const INPUTS: usize = 8;
const SERIES: usize = 60;

/// A detector with windows for it.
pub struct Subject {
    name: String,
    model: PathBuf,
    score: String,
    rows: usize,
    inputs: usize,
    flat: bool,
    windows: Vec<Vec<f32>>,
    detector: Detector,
    /// How much of onnxruntime's time it may take.
    limit: Option<f64>,
    /// At most so many microseconds.
    limit_us: Option<f64>,
}

impl Subject {
    /// The models of the zoo that have a target; their bundles are made in `scratch`.
    ///
    /// # Errors
    /// Where the zoo is not as expected.
    pub fn zoo(zoo: &Path, scratch: &Path) -> Result<Vec<Self>> {
        let subject = |(name, score, is_row, limit): &(&str, &str, bool, f64)| {
            let model = zoo.join(format!("{name}.onnx"));
            let rows = if *is_row { 1 } else { SERIES };
            let bundle = bundle(&model, score, rows, *is_row, &scratch.join(name))?;
            let file = zoo.join(if *is_row { "rows.f32" } else { "series.f32" });
            let bytes = std::fs::read(&file).with_context(|| file.display().to_string())?;
            let values: Vec<f32> = bytes
                .chunks_exact(4)
                .filter_map(|four| Some(f32::from_le_bytes(four.try_into().ok()?)))
                .collect();
            let windows = values.chunks_exact(rows * INPUTS).map(<[f32]>::to_vec);
            let mut subject = Self::of(&bundle, model, windows.collect())?;
            (*name).clone_into(&mut subject.name);
            subject.limit = Some(*limit);
            subject.limit_us = (*name == FOREST).then_some(FOREST_US);
            Ok(subject)
        };
        ZOO.iter().map(subject).collect()
    }

    /// A bundle with golden vectors, such as the recipe makes.
    ///
    /// # Errors
    /// Where it cannot be loaded, or has no golden vectors.
    pub fn bundle(path: &Path) -> Result<Self> {
        let bundle = Bundle::load(path)?;
        let golden = bundle.golden().context("it has no golden vectors")?;
        let windows = golden.windows.iter().map(|w| w.values.clone()).collect();
        let model = path.join(&bundle.manifest().model.file);
        let mut subject = Self::of(&bundle, model, windows)?;
        subject.limit = Some(1.0);
        Ok(subject)
    }

    fn of(bundle: &Bundle, model: PathBuf, windows: Vec<Vec<f32>>) -> Result<Self> {
        ensure!(!windows.is_empty(), "no windows for {}", model.display());
        let detector = Detector::build(bundle).with_context(|| model.display().to_string())?;
        Ok(Self {
            name: bundle.name().to_owned(),
            model,
            score: bundle.manifest().output.name().to_owned(),
            rows: bundle.window().len,
            inputs: bundle.inputs().len(),
            flat: bundle.manifest().model.layout == Layout::Nf,
            windows,
            detector,
            limit: None,
            limit_us: None,
        })
    }

    /// The median CPU time of one window, in microseconds.
    fn measure(&self, count: usize) -> Result<f64> {
        let mut times = Vec::with_capacity(count);
        for window in self.windows.iter().cycle().take(50) {
            self.detector.score(window)?;
        }
        for window in self.windows.iter().cycle().take(count) {
            let before = thread_time();
            self.detector.score(window)?;
            times.push(thread_time().saturating_sub(before));
        }
        Ok(median(times).as_secs_f64() * 1e6)
    }
}

/// onnxruntime in a Python of its own.
pub struct Ort {
    child: Child,
    ask: ChildStdin,
    told: BufReader<ChildStdout>,
}

impl Ort {
    /// Starts it.
    ///
    /// # Errors
    /// Where this Python does not run.
    pub fn start(python: &Path, script: &Path) -> Result<Self> {
        let mut child = Command::new(python)
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {}", python.display()))?;
        let ask = child.stdin.take().context("its input")?;
        let told = BufReader::new(child.stdout.take().context("its output")?);
        Ok(Self { child, ask, told })
    }

    fn ask(&mut self, line: &str) -> Result<f64> {
        writeln!(self.ask, "{line}")?;
        let mut told = String::new();
        self.told.read_line(&mut told)?;
        match told.split_whitespace().next() {
            Some(median) => Ok(median.parse()?),
            None => bail!("onnxruntime ended; its message is above"),
        }
    }

    /// What the call from Python costs by itself.
    fn call(&mut self, count: usize) -> Result<f64> {
        self.ask(&format!("call {count}"))
    }

    fn measure(&mut self, subject: &Subject, windows: &Path, count: usize) -> Result<f64> {
        let (model, windows) = (subject.model.display(), windows.display());
        let Subject {
            score,
            rows,
            inputs,
            flat,
            ..
        } = subject;
        let flat = u8::from(*flat);
        // Of an output of several numbers, ours takes one.
        let score = score.split('[').next().unwrap_or_default();
        self.ask(&format!(
            "{model} {score} {windows} {rows} {inputs} {count} {flat}"
        ))
    }
}

impl Drop for Ort {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Both engines on each subject, in turns; the medians of the turns count.
///
/// # Errors
/// Where one of them fails.
pub fn compare(
    subjects: &[Subject],
    mut ort: Option<Ort>,
    scratch: &Path,
    turns: usize,
    count: usize,
) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let mut calls = Vec::new();
    for subject in subjects {
        let file = scratch.join("windows.f32");
        let values = subject.windows.iter().flatten();
        let bytes: Vec<u8> = values.flat_map(|value| value.to_le_bytes()).collect();
        std::fs::write(&file, bytes)?;
        let (mut ours, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..turns {
            let our = subject.measure(count)?;
            ours.push(our);
            if let Some(ort) = &mut ort {
                calls.push(ort.call(count)?);
                let their = ort.measure(subject, &file, count)?;
                theirs.push(their);
                ratios.push(our / their);
            }
        }
        let name = &subject.name;
        let mut row = Row::new(format!("{name}: CPU us a window"), middle(ours));
        if let Some(limit) = subject.limit_us {
            row = row.target(Target::AtMost(limit));
        }
        rows.push(row);
        if !ratios.is_empty() {
            let what = format!("{name}: onnxruntime, us");
            rows.push(Row::new(what, middle(theirs)));
            let mut row = Row::new(format!("{name}: times onnxruntime"), middle(ratios));
            if let Some(limit) = subject.limit {
                row = row.target(Target::AtMost(limit));
            }
            rows.push(row);
        }
    }
    if !calls.is_empty() {
        let what = "the call from Python, a part of onnxruntime's, us";
        rows.push(Row::new(what, middle(calls)));
    }
    Ok(rows)
}

/// So many models at one window a second, for a minute of event time: the share of a core, and memory a model.
///
/// # Errors
/// Where the model does not run.
pub fn fleet(zoo: &Path, scratch: &Path, models: usize) -> Result<Vec<Row>> {
    const SECONDS: i64 = 60;
    let name = "conv_ae_script";
    let model = zoo.join(format!("{name}.onnx"));
    let bundle = bundle(&model, "score", SERIES, false, &scratch.join("fleet"))?;
    // What all models share is there once.
    let first = Monitor::new(&bundle, Detector::build(&bundle)?);
    let before = Usage::of(std::process::id())?.rss;
    let build = |_| Ok(Monitor::new(&bundle, Detector::build(&bundle)?));
    let mut monitors = (0..models).map(build).collect::<Result<Vec<_>>>()?;
    let feed = |monitor: &mut Monitor, second: i64| {
        let at = Moment(second * 1_000_000_000);
        for input in 0..INPUTS {
            let value = Value::F64((second as f64 * 0.37 + input as f64).sin());
            monitor.feed(input, &Sample::good(TagId(0), value, at));
        }
        monitor.advance(at + Duration::from_millis(200)).len()
    };
    for second in 0..SERIES as i64 {
        for monitor in &mut monitors {
            feed(monitor, second);
        }
    }
    let begun = cpu_time();
    let mut outputs = 0;
    for second in SERIES as i64..SERIES as i64 + SECONDS {
        for monitor in &mut monitors {
            outputs += feed(monitor, second);
        }
    }
    let share = (cpu_time().saturating_sub(begun)).as_secs_f64() / SECONDS as f64;
    ensure!(
        outputs >= models * (SECONDS as usize - 2),
        "{outputs} windows"
    );
    let grown = Usage::of(std::process::id())?.rss.saturating_sub(before);
    drop(first);
    Ok(vec![
        Row::new(
            format!("{models} models at 1 Hz, % of a core"),
            share * 100.0,
        )
        .target(Target::AtMost(5.0)),
        Row::new(
            format!("RSS a model of {models}, MB"),
            grown as f64 / 1e6 / models as f64,
        )
        .target(Target::AtMost(3.0)),
    ])
}

/// A bundle of a model of the zoo.
fn bundle(model: &Path, score: &str, rows: usize, is_flat: bool, to: &Path) -> Result<Bundle> {
    let bytes = std::fs::read(model).with_context(|| model.display().to_string())?;
    let digest = Sha256::digest(&bytes);
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let inputs: String = (0..INPUTS)
        .map(|input| format!("[[input]]\nrole = \"in{input}\"\n"))
        .collect();
    let layout = if is_flat { "NF" } else { "NTF" };
    let manifest = format!(
        "name = \"zoo\"\nversion = \"1.0.0\"\n[model]\nfile = \"model.onnx\"\nsha256 = \"{digest}\"\nlayout = \"{layout}\"\n\
         [window]\nlen = {rows}\ngrid = \"1s\"\nmax_gap = \"2s\"\n[output]\nscore = \"{score}\"\n\
         [threshold]\nmethod = \"fixed\"\nvalue = 1e9\n{inputs}"
    );
    std::fs::create_dir_all(to)?;
    std::fs::write(to.join("model.onnx"), bytes)?;
    std::fs::write(to.join("model.toml"), manifest)?;
    Ok(Bundle::load(to)?)
}

/// CPU time of this thread.
fn thread_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn middle(mut figures: Vec<f64>) -> f64 {
    figures.sort_unstable_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}
