//! Models as their users export them, against onnxruntime on the same windows. `tests/zoo/make.py` makes them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use millrace_inference::{BuildError, Detector};
use serde::Deserialize;

use crate::fixture::{Fixture, chain};

/// Relative to the larger of the score and the spread of the scores: near 0, digits are lost on both sides.
const TOLERANCE: f64 = 1e-5;

#[derive(Deserialize)]
struct Entry {
    score: String,
    windows: String,
    /// Of a model that must be refused: what is said.
    #[serde(default)]
    says: Vec<String>,
    #[serde(default)]
    threshold: f64,
    #[serde(default)]
    scores: Vec<f64>,
}

fn zoo() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/zoo")
}

fn entries() -> BTreeMap<String, Entry> {
    let text = std::fs::read_to_string(zoo().join("expected.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn windows(name: &str) -> Vec<Vec<f32>> {
    let bytes = std::fs::read(zoo().join(format!("{name}.f32"))).unwrap();
    let values: Vec<f32> = bytes
        .chunks_exact(4)
        .map(|four| f32::from_le_bytes(four.try_into().unwrap()))
        .collect();
    let len = if name == "rows" { 8 } else { 480 };
    values.chunks_exact(len).map(<[f32]>::to_vec).collect()
}

fn fixture(name: &str, entry: &Entry) -> Fixture {
    let inputs: String = (2..8)
        .map(|i| format!("[[input]]\nrole = \"in{i}\"\n\n"))
        .collect();
    let fixture = Fixture::of_file(&zoo().join(format!("{name}.onnx")))
        .edit("[window]", &format!("{inputs}[window]"))
        .edit("score = \"score\"", &format!("score = {:?}", entry.score));
    match entry.windows.as_str() {
        "rows" => fixture
            .edit("len = 3", "len = 1")
            .edit("layout = \"NTF\"", "layout = \"NF\""),
        _ => fixture.edit("len = 3", "len = 60"),
    }
}

#[test]
fn every_model_of_the_zoo_scores_as_onnxruntime_does() {
    let entries = entries();
    let (mut models, mut problems) = (0, Vec::new());
    for (name, entry) in entries.iter().filter(|(_, entry)| entry.says.is_empty()) {
        let detector = match Detector::build(&fixture(name, entry).bundle()) {
            Ok(detector) => detector,
            Err(error) => {
                problems.push(format!("{name}: {}", chain(&error)));
                continue;
            }
        };
        let windows = windows(&entry.windows);
        assert_eq!(windows.len(), entry.scores.len(), "{name}");
        let spread = entry.scores.iter().copied().fold(f64::MIN, f64::max)
            - entry.scores.iter().copied().fold(f64::MAX, f64::min);
        let (mut worst, mut flips) = (0.0_f64, 0);
        for (window, expected) in windows.iter().zip(&entry.scores) {
            let score = detector.score(window).unwrap().score;
            worst = worst.max((score - expected).abs() / expected.abs().max(spread));
            flips += usize::from((score > entry.threshold) != (*expected > entry.threshold));
        }
        models += 1;
        println!("{name}: {worst:.1e}, {flips} flips");
        if worst > TOLERANCE || flips > 0 {
            problems.push(format!("{name}: off by {worst:.1e}, {flips} flips"));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    assert!(models >= 53, "the zoo has {models} models");
}

#[test]
fn every_unsupported_model_of_the_zoo_is_refused_by_name() {
    let entries = entries();
    let mut refused = 0;
    for (name, entry) in entries.iter().filter(|(_, entry)| !entry.says.is_empty()) {
        let error: BuildError = Detector::build(&fixture(name, entry).bundle()).unwrap_err();
        for expected in &entry.says {
            assert!(
                chain(&error).contains(expected),
                "{name}: {}",
                chain(&error)
            );
        }
        refused += 1;
    }
    assert!(refused >= 28, "{refused}");
}

/// Any order of windows, and any window before, gives the same scores.
#[test]
fn scores_of_recurrent_models_do_not_hang_on_the_windows_before() {
    for (name, entry) in entries() {
        let is_recurrent = ["lstm", "gru", "rnn"]
            .iter()
            .any(|kind| name.contains(kind));
        if !is_recurrent {
            continue;
        }
        let detector = fixture(&name, &entry).detector();
        let windows = windows("series");
        let forward: Vec<_> = windows.iter().map(|w| detector.score(w).unwrap()).collect();
        let mut backward: Vec<_> = windows
            .iter()
            .rev()
            .map(|w| detector.score(w).unwrap())
            .collect();
        backward.reverse();
        assert_eq!(forward, backward, "{name}");
    }
}
