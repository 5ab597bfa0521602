//! Parity with onnxruntime on recorded plant data, where that is present: the data may not be kept
//! in the repository. `MILLRACE_SKAB` names the folder.

use std::path::{Path, PathBuf};
use std::time::Duration;

use millrace_inference::eval::{Counts, Evaluation, Figures, LabelledRow, Run};
use millrace_inference::{
    Builtin, BuiltinSettings, Bundle, DecisionRule, Detector, Fill, Grid, Input, Method, Monitor,
    Threshold, Window,
};
use millrace_tags::{Moment, Sample, TagId, Value};

use crate::fixture::{Fixture, repository};

const EXPERIMENT: &str = "1";
/// Rows that the model was trained with; the stored scores begin after them.
const TRAIN_ROWS: usize = 400;
const LEN: usize = 60;
const INPUTS: [&str; 8] = [
    "accelerometer1",
    "accelerometer2",
    "current",
    "pressure",
    "temperature",
    "thermocouple",
    "voltage",
    "flow",
];

fn data() -> Option<PathBuf> {
    let path = std::env::var_os("MILLRACE_SKAB")
        .map_or_else(|| repository().join("../shared/data/skab"), PathBuf::from);
    path.join("models").is_dir().then_some(path)
}

fn bundle(data: &Path, threshold: f64) -> Bundle {
    let inputs: String = INPUTS
        .iter()
        .map(|role| format!("[[input]]\nrole = \"{role}\"\n\n"))
        .collect();
    Fixture::of_file(&data.join(format!("models/valve1_{EXPERIMENT}.onnx")))
        .edit(
            "[[input]]\nrole = \"a\"\nunit = \"bar\"\nfill = \"hold\"\n\n",
            &inputs,
        )
        .edit("[[input]]\nrole = \"b\"\nrange = [-1000, 1000]\n\n", "")
        .edit("len = 3\ngrid = \"1s\"", "len = 60\ngrid = \"scan\"")
        .edit(
            "score = \"score\"",
            "score = \"score\"\ncontribution = \"contribution\"",
        )
        .edit("value = 10.0", &format!("value = {threshold}"))
        .bundle()
}

/// The numbers of the columns, row after row.
fn read(path: &Path, delimiter: u8, columns: std::ops::Range<usize>) -> Vec<Vec<f64>> {
    csv::ReaderBuilder::new()
        .delimiter(delimiter)
        .from_path(path)
        .unwrap()
        .records()
        .map(|record| {
            let record = record.unwrap();
            columns
                .clone()
                .map(|i| record[i].parse().unwrap())
                .collect()
        })
        .collect()
}

fn threshold(data: &Path) -> f64 {
    let file = format!("valve1/{EXPERIMENT}.csv");
    let mut reader = csv::Reader::from_path(data.join("models/thresholds.csv")).unwrap();
    let rows = reader
        .deserialize::<(String, f64, usize)>()
        .map(Result::unwrap);
    rows.into_iter().find(|row| row.0 == file).unwrap().1
}

#[test]
fn scores_equal_those_of_onnxruntime() {
    let Some(data) = data() else {
        eprintln!("skipped: no SKAB data; MILLRACE_SKAB names its folder");
        return;
    };
    let threshold = threshold(&data);
    let detector = Detector::build(&bundle(&data, threshold)).unwrap();
    let rows = read(&data.join(format!("valve1/{EXPERIMENT}.csv")), b';', 1..9);
    let rows: Vec<f32> = rows
        .concat()
        .into_iter()
        .map(|value| value as f32)
        .collect();
    let stored = read(
        &data.join(format!("models/valve1_{EXPERIMENT}.scores.csv")),
        b',',
        0..2,
    );
    assert!(stored.len() > 600);

    let (mut worst, mut flips) = (0.0f64, 0);
    for row in &stored {
        let start = (TRAIN_ROWS + row[0] as usize) * INPUTS.len();
        let scored = detector
            .score(&rows[start..start + LEN * INPUTS.len()])
            .unwrap();
        worst = worst.max((scored.score - row[1]).abs() / row[1]);
        flips += usize::from((scored.score > threshold) != (row[1] > threshold));
        assert_eq!(scored.contribution.unwrap().len(), INPUTS.len());
    }
    eprintln!(
        "{} windows: largest relative difference {worst:.1e}",
        stored.len()
    );
    assert!(worst < 1e-4, "{worst}");
    assert_eq!(flips, 0);
}

/// The detector that needs no file, as it is on the gateway: trained on the first 400 rows; its limits come from the same rows, and
/// `threshold` is in terms of them.
fn pca(threshold: f64, decision: DecisionRule) -> Monitor {
    let input = |role: &&str| Input {
        role: (*role).to_owned(),
        unit: String::new(),
        fill: Fill::Hold,
        range: None,
        required: true,
        max_gap: None,
    };
    let settings = BuiltinSettings {
        name: "pca".to_owned(),
        method: Method::Pca {
            variance: 0.85,
            confidence: 0.999,
            train: TRAIN_ROWS,
        },
        inputs: INPUTS.iter().map(input).collect(),
        window: Window {
            len: 1,
            stride: 1,
            grid: Grid::Scan,
            max_gap: Duration::from_secs(60),
            lateness: Duration::ZERO,
            min_good_share: 0.9,
            normalisation: None,
        },
        threshold: Threshold::Fixed(threshold),
        decision,
    };
    Monitor::of(&settings.spec(), Builtin::new(&settings))
}

fn decision(smoothing: usize, on: usize, off: usize) -> DecisionRule {
    DecisionRule {
        smoothing,
        on,
        on_of: on,
        off,
        off_ratio: 1.0,
        cooldown: Duration::ZERO,
        severity: Vec::new(),
    }
}

/// An experiment through a monitor, a row a second.
fn evaluate(monitor: Monitor, rows: &[Vec<f64>]) -> (Evaluation, Vec<LabelledRow>) {
    let mut run = Run::new(monitor);
    let mut labels = Vec::new();
    for (row, values) in rows.iter().enumerate() {
        let at = Moment(row as i64 * 1_000_000_000);
        for (input, value) in values[..INPUTS.len()].iter().enumerate() {
            run.feed(input, &Sample::good(TagId(1), Value::F64(*value), at));
        }
        run.end_scan(at);
        let anomalous = values[INPUTS.len()] > 0.5;
        labels.push(LabelledRow { at, anomalous });
    }
    (run.finish(), labels.split_off(TRAIN_ROWS))
}

#[test]
fn the_detector_without_a_file_finds_the_faults() {
    let Some(data) = data() else {
        eprintln!("skipped: no SKAB data; MILLRACE_SKAB names its folder");
        return;
    };
    // Each row by itself; what an operator has for the convolutional autoencoder (tests/it/skab.rs); the same, and the factor by
    // which learned thresholds are above what was seen. No rule knows the file that it is used on.
    let operator = decision(5, 30, 10);
    let rules = [
        (1.0, decision(1, 1, 1), None),
        (1.0, operator.clone(), Some(4)),
        (4.0 / 3.0, operator, Some(3)),
    ];
    for (threshold, rule, most) in rules {
        let (mut interval, mut causal) = (Counts::default(), Counts::default());
        let (mut covered, mut begun, mut early) = (0, 0, 0);
        let mut delays = Vec::new();
        for experiment in 0..16 {
            let rows = read(&data.join(format!("valve1/{experiment}.csv")), b';', 1..10);
            let (evaluation, labels) = evaluate(pca(threshold, rule.clone()), &rows);
            // The last window of the training has a score, too.
            assert_eq!(evaluation.windows.len(), 1 + labels.len());
            let figures = Figures::new(&evaluation, &labels);
            interval += figures.interval;
            causal += figures.causal;
            begun += figures.detected();
            let anomaly = &figures.anomalies[0];
            delays.extend(anomaly.delay.map(|(_, rows)| rows));
            let trained = labels[0].at;
            let told = evaluation.episodes.iter().map(|episode| episode.told_at);
            early += told
                .filter(|told| (trained..anomaly.from).contains(told))
                .count();
            covered += usize::from(evaluation.episodes.iter().any(|episode| {
                episode.told_at <= anomaly.to && episode.end.is_none_or(|end| end > anomaly.from)
            }));
        }
        let told = |counts: &Counts| {
            format!(
                "F1 {:.3}, false alarms {:.2} %, missed {:.2} %",
                counts.f1().unwrap(),
                counts.false_alarm_rate().unwrap() * 100.0,
                counts.missed_alarm_rate().unwrap() * 100.0
            )
        };
        delays.sort_unstable();
        eprintln!(
            "PCA, threshold {threshold:.2}, median of {}, {} windows: an event is open in {covered} of 16 faults (in {begun} it is told \
             there, {:?} rows after the first labelled one in the median), {early} are told before one; interval labels: {}; causal: {}",
            rule.smoothing,
            rule.on,
            delays.get(delays.len() / 2),
            told(&interval),
            told(&causal)
        );
        assert!(covered >= 14, "{covered}");
        assert!(causal.f1().unwrap() > 0.65);
        assert!(most.is_none_or(|most| early <= most), "{early}");
    }
}
