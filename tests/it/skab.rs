//! The Skoltech Anomaly Benchmark through the whole way: the 16 experiments of `valve1` are replayed over Modbus TCP at once, scored by
//! 16 models of one agent and delivered. The data are GPL and never part of this repository: `MILLRACE_SKAB` names their folder.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use millrace_tests::agent::{Gateway, program};
use millrace_tests::broker::Broker;
use millrace_tests::ports::free_port;
use millrace_tests::process::Process;
use millrace_tests::received::Received;
use millrace_tests::subscriber::Subscriber;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::plant;

const EXPERIMENTS: usize = 16;

/// Rows that each model was trained with.
const TRAIN_ROWS: usize = 400;

/// Rows of a window.
const LEN: usize = 60;

const COLUMNS: [&str; 8] = [
    "Accelerometer1RMS",
    "Accelerometer2RMS",
    "Current",
    "Pressure",
    "Temperature",
    "Thermocouple",
    "Voltage",
    "Volume Flow RateRMS",
];

/// Events for an operator: the median of 5 scores, half a minute above the threshold, 10 s below.
const WATCHFUL: &str = "smoothing = 5\non = 30\noff = { ratio = 1.0, k = 10 }\n";

/// Every window by itself.
const EACH: &str = "on = 1\noff = { ratio = 1.0, k = 1 }\n";

/// The first row is served so many times more at the beginning: models start while devices are polled already.
const LEAD: usize = 20;

/// Polls after the end of a recording, by which its last scores have come.
const TAIL: usize = 20;

/// Longer than any run on a machine that has much else to do.
const REPLAY: Duration = Duration::from_secs(900);

fn data() -> Option<PathBuf> {
    let named = std::env::var_os("MILLRACE_SKAB").filter(|name| !name.is_empty());
    let data = named.map(PathBuf::from);
    if data.is_none() {
        println!("skipped: MILLRACE_SKAB does not name the folder of the benchmark");
    }
    data
}

/// One experiment: its rows, its labels, what onnxruntime says.
struct Experiment {
    number: usize,
    file: PathBuf,
    model: Vec<u8>,
    threshold: f64,
    values: Vec<Vec<f32>>,
    anomalous: Vec<bool>,
    /// Scores by the row that their window begins with, counted from `TRAIN_ROWS`.
    stored: Vec<(usize, f64)>,
}

impl Experiment {
    fn read(data: &Path, number: usize) -> Result<Self> {
        let file = data.join(format!("valve1/{number}.csv"));
        let mut values = Vec::new();
        let mut anomalous = Vec::new();
        for line in text(&file)?.lines().skip(1) {
            let cells: Vec<&str> = line.split(';').collect();
            let row = cells.get(1..9).context("eight sensors")?;
            values.push(
                row.iter()
                    .map(|cell| cell.parse())
                    .collect::<Result<_, _>>()?,
            );
            anomalous.push(cells.get(9).context("a label")?.parse::<f64>()? > 0.5);
        }
        let models = data.join("models");
        let name = format!("valve1/{number}.csv,");
        let thresholds = text(&models.join("thresholds.csv"))?;
        let threshold = thresholds.lines().find_map(|line| line.strip_prefix(&name));
        let threshold = threshold.and_then(|rest| rest.split(',').next());
        let scores = text(&models.join(format!("valve1_{number}.scores.csv")))?;
        let stored = scores.lines().skip(1).map(|line| {
            let (row, score) = line.split_once(',').context("two columns")?;
            Ok((row.parse()?, score.parse()?))
        });
        Ok(Self {
            number,
            model: std::fs::read(models.join(format!("valve1_{number}.onnx")))?,
            threshold: threshold.context("a threshold")?.parse()?,
            stored: stored.collect::<Result<_>>()?,
            file,
            values,
            anomalous,
        })
    }

    fn device(&self) -> String {
        format!("plant{}", self.number)
    }

    fn watch(&self) -> String {
        format!("watch{}", self.number)
    }

    /// Writes the recording and the bundle of the convolutional autoencoder.
    fn write(&self, directory: &Path, decision: &str, name: &str) -> Result<PathBuf> {
        let bundle = directory.join(name);
        std::fs::create_dir(&bundle)?;
        std::fs::write(bundle.join("model.onnx"), &self.model)?;
        let digest: String = Sha256::digest(&self.model)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let mut text = format!(
            "name = \"valve1\"\nversion = \"1.0.{}\"\n\n\
             [model]\nfile = \"model.onnx\"\nsha256 = \"{digest}\"\ninput = \"window\"\nlayout = \"NTF\"\n\n\
             [window]\nlen = {LEN}\ngrid = \"scan\"\nmax_gap = \"60s\"\n\n\
             [output]\nscore = \"score\"\ncontribution = \"contribution\"\n\n\
             [threshold]\nmethod = \"fixed\"\nvalue = {}\n\n[decision]\n{decision}\n",
            self.number, self.threshold
        );
        for role in COLUMNS {
            let _ = writeln!(text, "[[input]]\nrole = \"{}\"\n", role.replace(' ', "-"));
        }
        std::fs::write(bundle.join("model.toml"), text)?;
        Ok(bundle)
    }

    fn replay(&self, directory: &Path) -> Result<(Process, u16)> {
        let file = directory.join(format!("{}.csv", self.device()));
        let mut text = COLUMNS.join(",") + "\n";
        let lead = self.values.iter().take(1).cycle().take(LEAD);
        for row in lead.chain(&self.values) {
            let cells: Vec<String> = row.iter().map(f32::to_string).collect();
            let _ = writeln!(text, "{}", cells.join(","));
        }
        std::fs::write(&file, text)?;
        let port = free_port()?;
        let mut command = Command::new(program()?);
        command
            .args(["sim", "modbus", "--listen", &format!("127.0.0.1:{port}")])
            .args(["--advance", "read", "--replay"])
            .arg(&file)
            .stdout(Stdio::null());
        let log = directory.join(format!("sim-{}.log", self.number));
        Ok((Process::start(&mut command, &log)?, port))
    }

    fn config(&self, port: u16, bundle: &Path, poll: &str) -> String {
        let device = self.device();
        let mut text = format!(
            "[[device]]\nname = \"{device}\"\ndriver = \"modbus-tcp\"\naddress = \"127.0.0.1:{port}\"\n\
             unit_id = 1\npoll_interval = \"{poll}\"\ntimeout = \"20s\"\n\n"
        );
        for (at, column) in COLUMNS.iter().enumerate() {
            let tag = column.replace(' ', "-");
            let _ = write!(
                text,
                "[[device.tag]]\nname = \"{tag}\"\naddress = \"holding:{}\"\ntype = \"f32\"\n\n",
                2 * at
            );
        }
        let bundle = bundle.display();
        let name = self.watch();
        let _ = writeln!(text, "[[model]]\nname = \"{name}\"\nbundle = \"{bundle}\"");
        text.push_str("[model.inputs]\n");
        for column in COLUMNS {
            let tag = column.replace(' ', "-");
            let _ = writeln!(text, "\"{tag}\" = \"{device}/{tag}\"");
        }
        text.push('\n');
        text
    }

    /// Scores of the recording's windows in order, with their times, as they came.
    fn scores(&self, got: &Received) -> Result<Vec<(f64, f64)>> {
        let device = self.device();
        let polls: Vec<f64> = got.of_tag(&device, COLUMNS[2]).map(|s| s.at_ms).collect();
        let mut scores = vec![None; self.values.len() + 1 - LEN];
        for sample in got.of_tag(&self.watch(), "score") {
            // A poll's cycle ends before the next one.
            let rows = polls.partition_point(|at| *at <= sample.at_ms);
            let window = rows.checked_sub(LEAD + LEN);
            if let Some(score) = window.and_then(|window| scores.get_mut(window)) {
                let value = sample.value.as_f64().context("a number")?;
                *score = Some((sample.at_ms, value));
            }
        }
        let missing = scores.iter().filter(|score| score.is_none()).count();
        ensure!(
            missing == 0,
            "{}: {missing} windows have no score",
            self.watch()
        );
        Ok(scores.into_iter().flatten().collect())
    }

    /// Largest relative difference to the stored scores, and how many are on the other side of the threshold.
    fn parity(&self, scores: &[(f64, f64)]) -> Result<(f64, usize)> {
        ensure!(
            self.stored.len() > 600,
            "{} stored scores",
            self.stored.len()
        );
        let (mut worst, mut flips) = (0.0f64, 0);
        for (row, stored) in &self.stored {
            let (_, score) = scores.get(TRAIN_ROWS + row).context("a score")?;
            worst = worst.max((score - stored).abs() / stored.abs());
            flips += usize::from((*score > self.threshold) != (*stored > self.threshold));
        }
        Ok((worst, flips))
    }

    /// Rows at which events begin and end.
    fn events(&self, got: &Received, scores: &[(f64, f64)]) -> Vec<(usize, Option<usize>)> {
        let row = |at: f64| LEN - 1 + scores.partition_point(|(of, _)| *of < at);
        let mut events: Vec<(usize, Option<usize>)> = Vec::new();
        for event in got.events_of(&self.watch()) {
            let (start, end) = (event["start"].as_f64(), event["end"].as_f64());
            match (event["state"].as_str(), events.last_mut()) {
                (Some("begin"), _) => events.extend(start.map(|at| (row(at), None))),
                (Some("end"), Some(open)) => open.1 = end.map(row),
                _ => {}
            }
        }
        // What came after the end of the recording is no part of it.
        events.retain(|(begin, _)| *begin < self.values.len());
        events
    }

    /// Rows by the benchmark's own rule: one is anomalous where all windows that have it are above the threshold, so the
    /// last rows never are.
    fn count_whole(&self, scores: &[(f64, f64)], counts: &mut Pooled) {
        let above: Vec<bool> = scores.iter().map(|(_, s)| *s > self.threshold).collect();
        for row in TRAIN_ROWS..self.values.len() {
            let windows = above.get(row - (LEN - 1)..row);
            let whole = row >= TRAIN_ROWS + LEN - 1 && row + LEN <= self.values.len() + 1;
            let declared = whole && windows.is_some_and(|above| above.iter().all(|a| *a));
            match (self.anomalous[row], declared) {
                (true, true) => counts.hits += 1,
                (false, true) => counts.false_alarms += 1,
                (true, false) => counts.missed += 1,
                (false, false) => counts.quiet += 1,
            }
        }
    }

    /// The labelled anomaly: its first and its last row.
    fn labelled(&self) -> Result<(usize, usize)> {
        let first = self.anomalous.iter().position(|label| *label);
        let last = self.anomalous.iter().rposition(|label| *label);
        first.zip(last).context("a labelled row")
    }
}

fn text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| path.display().to_string())
}

/// Rows by label and by what events say, over all files.
struct Pooled {
    hits: u64,
    false_alarms: u64,
    missed: u64,
    quiet: u64,
}

impl Pooled {
    const NONE: Self = Self {
        hits: 0,
        false_alarms: 0,
        missed: 0,
        quiet: 0,
    };

    fn add(&mut self, counts: &Value) -> Result<()> {
        let number = |key: &str| counts[key].as_u64().with_context(|| counts.to_string());
        self.hits += number("hits")?;
        self.false_alarms += number("false_alarms")?;
        self.missed += number("missed")?;
        self.quiet += number("quiet")?;
        Ok(())
    }

    fn rates(&self) -> (f64, f64, f64) {
        let part = |of: u64, rest: u64| of as f64 / (of + rest) as f64;
        (
            part(2 * self.hits, self.false_alarms + self.missed),
            part(self.false_alarms, self.quiet) * 100.0,
            part(self.missed, self.hits) * 100.0,
        )
    }
}

impl std::fmt::Display for Pooled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (f1, far, mar) = self.rates();
        write!(f, "F1 {f1:.3}, false alarms {far:.2} %, missed {mar:.2} %")
    }
}

/// `model eval` of a bundle on an experiment, with the figures by its labels.
fn eval(gateway: &Gateway, bundle: &Path, experiment: &Experiment, more: &[&str]) -> Result<Value> {
    let (bundle, file) = (
        bundle.display().to_string(),
        experiment.file.display().to_string(),
    );
    let skip = TRAIN_ROWS.to_string();
    let map: Vec<String> = COLUMNS
        .iter()
        .filter(|column| column.contains(' '))
        .map(|column| format!("{}={column}", column.replace(' ', "-")))
        .collect();
    let mut args = vec![
        "model", "eval", &bundle, "--csv", &file, "--labels", "anomaly",
    ];
    // Rows are samples: the recordings have gaps of minutes, over which the benchmark goes on.
    args.extend(["--skip", &skip, "--every", "1s"]);
    args.extend(map.iter().flat_map(|map| ["--map", map]));
    args.extend(more);
    gateway.json(&args)
}

#[test]
fn experiments_score_as_stored_and_their_faults_are_found() -> Result<()> {
    let Some(data) = data() else {
        return Ok(());
    };
    let poll = std::env::var("MILLRACE_SKAB_POLL").unwrap_or_else(|_| "50ms".to_owned());
    let experiments = (0..EXPERIMENTS)
        .map(|number| Experiment::read(&data, number))
        .collect::<Result<Vec<_>>>()?;
    let directory = tempfile::tempdir()?;
    let directory = directory.path();
    let broker = Broker::start(directory)?;
    let subscriber = Subscriber::start(broker.port)?;
    let mut gateway = Gateway::new(directory);
    let mut config = format!(
        "models_cpu_percent = 400\n\n{}",
        plant::uplink_config(broker.port)
    );
    let mut simulators = Vec::new();
    for experiment in &experiments {
        let bundle = experiment.write(directory, WATCHFUL, &experiment.watch())?;
        let (simulator, port) = experiment.replay(directory)?;
        config.push_str(&experiment.config(port, &bundle, &poll));
        simulators.push(simulator);
    }
    gateway.configure(&config)?;
    gateway.start()?;
    let waited = subscriber.wait("a score of every window", REPLAY, |got| {
        experiments.iter().all(|experiment| {
            let polls = LEAD + experiment.values.len() + TAIL;
            got.count(&experiment.device()) >= polls * COLUMNS.len()
        })
    });
    let status = gateway.json(&["status"])?;
    for model in status["models"].as_array().context("models")? {
        ensure!(
            model["samples_shed_total"] == 0 && model["windows_shed_total"] == 0,
            "this machine is too slow for polls each {poll}: MILLRACE_SKAB_POLL=200ms is gentler; {model}"
        );
    }
    waited?;
    gateway.terminate()?;
    let got = subscriber.stop();
    assert_eq!(got.violations, Vec::<String>::new());

    let (mut worst, mut flips, mut windows) = (0.0f64, 0, 0);
    let [mut whole, mut interval, mut causal, mut each] = [const { Pooled::NONE }; 4];
    let (mut covered, mut detected, mut false_starts) = (0, 0, 0);
    let mut delays = Vec::new();
    for experiment in &experiments {
        let scores = experiment.scores(&got)?;
        let (difference, flipped) = experiment.parity(&scores)?;
        worst = worst.max(difference);
        flips += flipped;
        windows += experiment.stored.len();
        experiment.count_whole(&scores, &mut whole);

        let bundle = directory.join(experiment.watch());
        let told = eval(&gateway, &bundle, experiment, &["--windows"])?;
        same_scores(&told, &scores)?;
        let events = told["events"].as_array().context("events")?;
        let row = |event: &Value, key: &str| event[key].as_f64().map(|ms| (ms / 1e3) as usize);
        let same: Vec<(usize, Option<usize>)> = events
            .iter()
            .filter_map(|event| Some((row(event, "start")?, row(event, "end"))))
            .collect();
        // Live, held values went on for some rows after the recording.
        let live = experiment.events(&got, &scores);
        ensure!(live.len() >= same.len(), "{live:?} for {same:?}");
        for (live, same) in live.iter().zip(&same) {
            let equal = live.0 == same.0 && (same.1.is_none() || live.1 == same.1);
            ensure!(equal, "{}: {live:?} for {same:?}", experiment.watch());
        }

        let (first, last) = experiment.labelled()?;
        let told_at = |rows: std::ops::Range<usize>| {
            let told = events.iter().filter_map(|event| row(event, "told"));
            told.filter(|at| rows.contains(at)).count()
        };
        let covers = |event: &Value| {
            row(event, "told").is_some_and(|told| told <= last)
                && row(event, "end").is_none_or(|end| end > first)
        };
        covered += usize::from(events.iter().any(covers));
        detected += usize::from(told_at(first..last + 1) > 0);
        false_starts += told_at(TRAIN_ROWS..first);
        interval.add(&told["labels"]["interval"])?;
        causal.add(&told["labels"]["causal"])?;
        delays.extend(told["labels"]["anomalies"][0]["delay_rows"].as_u64());

        let bundle = experiment.write(directory, EACH, &format!("each{}", experiment.number))?;
        let told = eval(&gateway, &bundle, experiment, &[])?;
        each.add(&told["labels"]["causal"])?;
    }
    println!(
        "skab: {windows} windows over Modbus, largest relative difference {worst:.1e}, {flips} flips; an event is open in {covered} \
         of {EXPERIMENTS} faults (in {detected} it is told there), {false_starts} are told before one"
    );
    delays.sort_unstable();
    println!(
        "skab: told {:?} rows after the first labelled one (median of those that are told there)",
        delays.get(delays.len() / 2)
    );
    println!("skab: Conv-AE, interval labels by the benchmark's rule: {whole}");
    println!("skab: Conv-AE, interval labels of the events: {interval}");
    println!("skab: Conv-AE, causal, the events: {causal}");
    println!("skab: Conv-AE, causal, each window by itself: {each}");
    assert!(worst <= 1e-4, "{worst}");
    assert_eq!(flips, 0);
    assert!(covered >= 14, "{covered} of {EXPERIMENTS}");
    assert!(false_starts <= 3, "{false_starts}");
    let (f1, far, mar) = whole.rates();
    assert!(f1 >= 0.70 && far <= 25.0 && mar <= 35.0, "{whole}");
    Ok(())
}

/// The scores of the evaluation are those that the agent delivered.
fn same_scores(told: &Value, delivered: &[(f64, f64)]) -> Result<()> {
    let windows = told["windows"].as_array().context("windows")?;
    assert_eq!(windows.len(), delivered.len());
    for (window, (_, delivered)) in windows.iter().zip(delivered) {
        let score = window["score"].as_f64().context("a score")?;
        // Both went through JSON, whose reader here is exact to the last digit but one.
        ensure!(
            (score - delivered).abs() <= 1e-14 * score.abs(),
            "{score} for {delivered}"
        );
    }
    Ok(())
}
