//! Parity with onnxruntime on recorded plant data, where that is present: the data may not be kept
//! in the repository. `MILLRACE_SKAB` names the folder.

use std::path::{Path, PathBuf};

use millrace_inference::{Bundle, Detector};

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
