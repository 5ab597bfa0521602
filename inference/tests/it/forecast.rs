//! Forecasts: predicted values are those of onnxruntime, and each residual is of its own row, whatever gaps there are.
//!
//! `line` predicts that each column goes on along the line through the newest two rows that it sees.

use std::collections::BTreeMap;

use millrace_inference::{BuildError, Bundle, Detector, Monitor, Output};
use millrace_tags::{Reason, Sample, TagId};
use proptest::prelude::*;

use crate::fixture::{Fixture, chain, ms, sample};

const FORECAST: &str =
    "[forecast]\noutput = \"predicted\"\nroles = [\"a\", \"b\"]\nsigma = [0.5, 2]";

fn fixture(model: &str) -> Fixture {
    Fixture::new(model).edit("[output]\nscore = \"score\"", FORECAST)
}

/// Two rows ahead; the model's output has both rows.
fn recurrent() -> Fixture {
    fixture("forecast").edit("roles", "horizon = 2\nroles")
}

fn golden() -> String {
    let path = format!("{}/tests/models/forecast.json", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(path).unwrap()
}

fn monitor(fixture: &Fixture) -> Monitor {
    Monitor::new(&fixture.bundle(), fixture.detector())
}

/// A value that comes with a score.
fn named(values: &[(std::sync::Arc<str>, Option<f64>)], name: &str) -> Option<f64> {
    values.iter().find(|it| &*it.0 == name).unwrap().1
}

/// Feeds a row of both inputs each second; `None`: a sample that is not good.
fn feed(monitor: &mut Monitor, second: i64, row: [Option<f64>; 2]) {
    for (input, value) in row.into_iter().enumerate() {
        let at = second * 1_000;
        let bad = Sample::bad(TagId(1), Reason::Timeout, ms(at));
        monitor.feed(input, &value.map_or(bad, |value| sample(at, value)));
    }
}

/// Outputs as short lines: second, score, predicted values and residuals.
fn lines(outputs: &[Output]) -> Vec<String> {
    let line = |output: &Output| match output {
        Output::Score {
            at, score, values, ..
        } => {
            let values = values.iter().map(|(_, value)| match value {
                Some(value) => format!("{value}"),
                None => "-".to_owned(),
            });
            let values: Vec<String> = values.collect();
            format!("{} {score} of {}", at.0 / 1_000_000_000, values.join(" "))
        }
        Output::NotScored { at, reason } => format!("{} {reason}", at.0 / 1_000_000_000),
        Output::Event(event) => format!("{} {:?}", event.at.0 / 1_000_000_000, event.state),
    };
    outputs.iter().map(line).collect()
}

#[test]
fn predicted_values_are_those_of_onnxruntime() {
    let bundle = recurrent().golden(&golden());
    let bundle = bundle.bundle();
    let detector = Detector::build(&bundle).unwrap();
    let windows = &bundle.golden().unwrap().windows;
    assert_eq!(windows.len(), 20);
    for window in windows {
        let scored = detector.score(&window.values).unwrap();
        let expected = window.predicted.as_ref().unwrap();
        let predicted = scored.values.iter().step_by(2);
        for (actual, expected) in predicted.zip(expected) {
            let difference = (actual.unwrap() - expected).abs();
            assert!(difference <= 1e-5 * expected.abs().max(1.0), "{difference}");
        }
        assert!((scored.score - window.score).abs() <= 1e-5 * window.score.max(1.0));
    }
}

#[test]
fn golden_vectors_prove_what_is_predicted() {
    let wrong = golden().replacen("\"predicted\": [0.33", "\"predicted\": [0.34", 1);
    let error = Detector::build(&recurrent().golden(&wrong).bundle()).unwrap_err();
    assert!(matches!(error, BuildError::Golden { .. }), "{error}");
    let text = chain(&error);
    assert!(
        text.contains("golden window 0: predicted/a is 0.33"),
        "{text}"
    );
    // The first of the rows is not the one that is predicted.
    let error = fixture("forecast").golden(&golden()).load().unwrap_err();
    let text = chain(&error);
    assert!(
        text.contains("holds 10 numbers; model.toml makes it 8"),
        "{text}"
    );
    let three = golden().replacen("\"predicted\": [", "\"predicted\": [1, ", 1);
    let text = chain(&recurrent().golden(&three).load().unwrap_err());
    assert!(
        text.contains("holds 3 numbers; model.toml predicts 2 role(s)"),
        "{text}"
    );
}

#[test]
fn a_residual_is_of_the_row_that_the_prediction_was_for() {
    let mut monitor = monitor(&fixture("line"));
    for second in 0..6 {
        let step = if second == 5 { 3.0 } else { 0.0 };
        feed(
            &mut monitor,
            second,
            [Some(second as f64 + step), Some(7.0)],
        );
    }
    // An hour later: no residual against what was predicted before.
    for second in 3_600..3_604 {
        feed(&mut monitor, second, [Some(1.0), Some(-4.0)]);
    }
    let told = lines(&monitor.advance(ms(3_603_000)));
    assert_eq!(
        told,
        [
            "0 warming up, 1 of 4 rows",
            "1 warming up, 2 of 4 rows",
            "2 warming up, 3 of 4 rows",
            "3 0 of 3 0 7 0",
            "4 0 of 4 0 7 0",
            // 3 more than was predicted, of a sigma of 0.5
            "5 6 of 5 3 7 0",
            // The last values stand in for two seconds, as in any window.
            "6 8 of 12 -4 7 0",
            "7 0 of 8 0 7 0",
            "8 no good value of a, b",
            "3600 warming up, 1 of 4 rows",
            "3601 warming up, 2 of 4 rows",
            "3602 warming up, 3 of 4 rows",
            "3603 0 of 1 0 -4 0",
        ]
    );
}

#[test]
fn what_was_not_measured_has_no_residual() {
    let fixture = fixture("line").edit("grid = \"1s\"", "grid = \"1s\"\nmin_good_share = 0.5");
    let mut monitor = monitor(&fixture);
    for second in 0..4 {
        feed(&mut monitor, second, [Some(second as f64), Some(7.0)]);
    }
    feed(&mut monitor, 4, [None, Some(9.0)]);
    feed(&mut monitor, 5, [None, None]);
    let told = lines(&monitor.advance(ms(5_000)));
    assert_eq!(
        told[3..],
        [
            "3 0 of 3 0 7 0",
            "4 1 of 4 - 7 2",
            "5 no good value of a, b to hold the forecast against",
        ]
    );
}

#[test]
fn the_input_that_differs_most_has_the_largest_share() {
    let mut monitor = monitor(&fixture("line").edit("value = 10.0", "value = 1.0"));
    for second in 0..6 {
        let (a, b) = if second == 5 { (1.0, 6.0) } else { (0.0, 0.0) };
        feed(&mut monitor, second, [Some(a), Some(b)]);
    }
    let outputs = monitor.advance(ms(5_000));
    let [Output::Score { ratio, share, .. }, Output::Event(_)] = &outputs[5..] else {
        panic!("{outputs:?}");
    };
    // 1 / 0.5 and 6 / 2
    assert_eq!(*ratio, Some(3.0));
    let share: Vec<f64> = share.iter().map(|it| it.1).collect();
    assert_eq!(share, [0.4, 0.6]);
}

#[test]
fn predictions_of_scaled_values_are_scaled_back() {
    let scaled = fixture("line").edit(
        "len = 3",
        "len = 3\nnormalisation = { mean = [10, -5], scale = [2, 0.5] }",
    );
    let window = [1.0, 8.0, 2.0, 7.0, 3.0, 6.0, 5.0, 6.0];
    let scored = scaled.detector().score(&window).unwrap();
    // A line stays a line.
    let values: Vec<f64> = scored.values.into_iter().flatten().collect();
    assert_eq!(values, [4.0, 1.0, 5.0, 1.0]);
    assert_eq!(scored.score, 2.0);
}

#[test]
fn manifests_that_cannot_be_meant_are_refused_by_name() {
    let roles = "roles = [\"a\", \"b\"]";
    let cases = [
        (roles, "roles = [\"a\", \"c\"]", "forecast.roles"),
        (roles, "roles = [\"a\", \"a\"]", "forecast.roles"),
        (roles, "roles = []", "forecast.roles"),
        ("sigma = [0.5, 2]", "sigma = [0.5]", "forecast.sigma"),
        ("sigma = [0.5, 2]", "sigma = [0.5, 0]", "forecast.sigma"),
        ("sigma = [0.5, 2]", "", "forecast.sigma"),
        (
            roles,
            "roles = [\"a\", \"b\"]\nhorizon = 0",
            "forecast.horizon",
        ),
        (
            roles,
            "roles = [\"a\", \"b\"]\nhorizon = 9998",
            "forecast.horizon",
        ),
        (
            "[threshold]",
            "[output]\nscore = \"score\"\n[threshold]",
            "output",
        ),
    ];
    for (from, to, key) in cases {
        let error = fixture("line").edit(from, to).load().unwrap_err();
        let millrace_inference::BundleError::Manifest { problems, .. } = &error else {
            panic!("{error}");
        };
        let keys: Vec<&str> = problems.iter().map(|it| it.key.as_str()).collect();
        assert_eq!(keys, [key], "{error}");
    }
    let one = fixture("line")
        .edit(roles, "roles = [\"b\"]")
        .edit("[0.5, 2]", "[2]");
    let text = chain(&Detector::build(&one.bundle()).unwrap_err());
    assert!(
        text.contains(
            "forecast.output has 2 numbers for one window; expected 1, or so many for each row"
        ),
        "{text}"
    );
    let other = fixture("line").edit("\"predicted\"", "\"next\"");
    let text = chain(&Detector::build(&other.bundle()).unwrap_err());
    assert!(
        text.contains("forecast.output is \"next\"; the graph's outputs are [predicted]"),
        "{text}"
    );
}

/// What was learned for other residuals is not used.
#[test]
fn the_fingerprint_tells_forecasts_apart() {
    let print = |bundle: &Bundle| millrace_inference::ModelSpec::from(bundle).fingerprint();
    let wider = fixture("line").edit("[0.5, 2]", "[0.5, 3]");
    assert_ne!(print(&fixture("line").bundle()), print(&wider.bundle()));
}

const HORIZON: i64 = 2;
const GAP_S: i64 = 2;

type Told = BTreeMap<i64, (Option<f64>, Option<f64>)>;

/// Predicted value and residual of `a`, by second.
fn told(samples: &[(i64, [Option<f64>; 2])], pace: i64) -> Told {
    let fixture = fixture("line")
        .edit("roles", "horizon = 2\nroles")
        .edit("grid = \"1s\"", "grid = \"1s\"\nmin_good_share = 0.01");
    let mut monitor = monitor(&fixture);
    let mut outputs = Vec::new();
    for (second, row) in samples {
        feed(&mut monitor, *second, *row);
        if second % pace == 0 {
            outputs.extend(monitor.advance(ms(second * 1_000)));
        }
    }
    outputs.extend(monitor.advance(ms(1_000_000)));
    let mut told = Told::new();
    for output in &outputs {
        if let Output::Score { at, values, .. } = output {
            let pair = (named(values, "predicted/a"), named(values, "residual/a"));
            told.insert(at.0 / 1_000_000_000, pair);
        }
    }
    told
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Every residual is what a plain table of rows gives, none is over a gap; at another pace, and from a restart on, the same
    /// rows have the same ones.
    #[test]
    fn no_residual_is_against_another_time(
        steps in prop::collection::vec((1i64..=5, prop::option::weighted(0.9, -9i32..9), prop::option::weighted(0.9, -9i32..9)), 1..60),
        pace in 1i64..7,
        restart in 0usize..60,
    ) {
        let mut second = 0;
        let samples: Vec<(i64, [Option<f64>; 2])> = steps
            .into_iter()
            .map(|(step, a, b)| {
                second += if step > 3 { step } else { 1 };
                (second, [a.map(f64::from), b.map(f64::from)])
            })
            .collect();
        // The row of a second: the newest good value within the gap, and whether it was measured.
        let cell = |second: i64, input: usize| {
            let until = || samples.iter().filter(|(at, _)| *at <= second);
            let (at, value) = until().filter_map(|(at, row)| Some((*at, row[input]?))).next_back()?;
            let measured = until().next_back()?.1[input].is_some();
            (second - at <= GAP_S).then_some((value, measured))
        };
        let row = |second: i64| Some((cell(second, 0)?, cell(second, 1)?));
        let mut expected = Told::new();
        for at in 0..second + 10 {
            // Three rows that the model sees, and two up to the one that is predicted.
            let rows: Option<Vec<_>> = (at - 2 - HORIZON..=at).map(row).collect();
            let Some(rows) = rows else { continue };
            let ((value, is_measured), (_, other_is)) = rows[4];
            let predicted = 2.0 * rows[2].0.0 - rows[1].0.0;
            if is_measured || other_is {
                expected.insert(at, (Some(predicted), is_measured.then_some(value - predicted)));
            }
        }
        let all = told(&samples, 1);
        prop_assert_eq!(&all, &expected);
        prop_assert_eq!(&told(&samples, pace), &all);
        let after = told(&samples[restart.min(samples.len())..], 1);
        for (at, pair) in &after {
            prop_assert_eq!(Some(pair), all.get(at));
        }
    }
}
