//! Built-in detectors, through the monitor: scores of numpy and scipy, training, what each is for.

use std::time::Duration;

use millrace_inference::{
    Builtin, BuiltinSettings, Calibration, CalibrationRule, DecisionRule, Fill, Grid, Input,
    Method, Monitor, NotScored, Output, Progress, RestoreError, Scorer, Threshold, Window,
};
use millrace_tags::{EventDetail, EventState, Reason, Sample, TagId};
use serde::Deserialize;

use crate::fixture::{ms, sample};

/// What `tests/reference/make.py` gives.
#[derive(Deserialize)]
struct Reference {
    pca: Vec<PcaReference>,
    control: ControlReference,
}

#[derive(Deserialize)]
struct PcaReference {
    len: usize,
    train: usize,
    rows: Vec<Vec<f64>>,
    components: usize,
    t2_limit: f64,
    q_limit: f64,
    t2: Vec<f64>,
    q: Vec<f64>,
}

#[derive(Deserialize)]
struct ControlReference {
    len: usize,
    train: usize,
    rows: Vec<Vec<f64>>,
    ewma: Vec<f64>,
    cusum: Vec<f64>,
}

fn reference() -> Reference {
    serde_json::from_str(include_str!("../reference/detectors.json")).unwrap()
}

fn settings(method: Method, inputs: usize, len: usize) -> BuiltinSettings {
    let input = |i: usize| Input {
        role: format!("in{i}"),
        unit: String::new(),
        fill: Fill::Hold,
        range: None,
        required: true,
        max_gap: None,
    };
    BuiltinSettings {
        name: "test".to_owned(),
        method,
        inputs: (0..inputs).map(input).collect(),
        window: Window {
            len,
            stride: 1,
            grid: Grid::Scan,
            max_gap: Duration::from_secs(2),
            min_good_share: 0.9,
            lateness: Duration::ZERO,
            normalisation: None,
        },
        threshold: Threshold::Fixed(1.0),
        decision: DecisionRule {
            smoothing: 1,
            on: 1,
            on_of: 1,
            off: 1,
            off_ratio: 0.9,
            cooldown: Duration::ZERO,
            severity: vec![1.0, 2.0],
        },
    }
}

fn monitor(settings: &BuiltinSettings) -> Monitor {
    Monitor::of(&settings.spec(), Builtin::new(settings))
}

fn pca(train: usize) -> Method {
    Method::Pca {
        variance: 0.85,
        confidence: 0.999,
        train,
    }
}

/// Feeds row `i` as a scan at `i` seconds.
fn scan(monitor: &mut Monitor, i: usize, row: &[f64]) -> Vec<Output> {
    let at = i as i64 * 1_000;
    for (input, value) in row.iter().enumerate() {
        monitor.feed(input, &sample(at, *value));
    }
    monitor.end_scan(ms(at))
}

fn close(actual: f64, expected: f64) {
    assert!(
        (actual - expected).abs() <= 1e-6 * expected.abs(),
        "{actual} {expected}"
    );
}

/// The scores of all rows, with the further values.
fn scores(monitor: &mut Monitor, rows: &[Vec<f64>]) -> Vec<(f64, Vec<f64>)> {
    let outputs = rows
        .iter()
        .enumerate()
        .flat_map(|(i, row)| scan(monitor, i, row));
    let score = |output| match output {
        Output::Score { score, values, .. } => Some((
            score,
            values.into_iter().filter_map(|value| value.1).collect(),
        )),
        _ => None,
    };
    outputs
        .collect::<Vec<_>>()
        .into_iter()
        .filter_map(score)
        .collect()
}

#[test]
fn t2_and_q_equal_those_of_numpy() {
    for reference in reference().pca {
        let inputs = reference.rows[0].len();
        let mut monitor = monitor(&settings(pca(reference.train), inputs, reference.len));
        let scores = scores(&mut monitor, &reference.rows);
        let Scorer::Builtin(builtin) = monitor.scorer() else {
            panic!("not a built-in detector");
        };
        let pca = builtin.pca().unwrap();
        assert_eq!(pca.components(), reference.components);
        close(pca.t2_limit(), reference.t2_limit);
        close(pca.q_limit().unwrap(), reference.q_limit);
        // The window that ends the training is scored, too.
        assert_eq!(scores.len(), reference.t2.len() + 1);
        for ((score, values), (t2, q)) in scores[1..]
            .iter()
            .zip(reference.t2.iter().zip(&reference.q))
        {
            close(values[0], *t2);
            close(values[1], *q);
            close(*score, (t2 / reference.t2_limit).max(q / reference.q_limit));
        }
    }
}

#[test]
fn control_charts_equal_those_of_numpy() {
    let ControlReference {
        len,
        train,
        rows,
        ewma,
        cusum,
    } = reference().control;
    let methods = [
        (
            Method::Ewma {
                lambda: 0.2,
                sigmas: 3.0,
                train,
            },
            ewma,
            3.0,
        ),
        (
            Method::Cusum {
                slack: 0.5,
                sigmas: 5.0,
                train,
            },
            cusum,
            5.0,
        ),
    ];
    for (method, expected, sigmas) in methods {
        let scores = scores(&mut monitor(&settings(method, 2, len)), &rows);
        assert_eq!(scores.len(), expected.len() + 1);
        for ((score, _), expected) in scores[1..].iter().zip(&expected) {
            close(*score * sigmas, *expected);
        }
    }
}

#[test]
fn a_step_in_one_input_is_an_event_that_names_it() {
    let reference = &reference().pca[0];
    let mut settings = settings(pca(reference.train), 6, 1);
    settings.decision.on = 3;
    settings.decision.on_of = 3;
    let mut monitor = monitor(&settings);
    let outputs = reference
        .rows
        .iter()
        .enumerate()
        .flat_map(|(i, row)| scan(&mut monitor, i, row));
    let events: Vec<_> = outputs
        .filter_map(|output| match output {
            Output::Event(event) => Some(event),
            _ => None,
        })
        .collect();
    assert_eq!(events[0].state, EventState::Begin);
    assert_eq!(events[0].start, ms(150_000));
    let EventDetail::Anomaly {
        version,
        top,
        severity,
        from,
        ..
    } = &events[0].detail
    else {
        panic!("not an anomaly");
    };
    assert_eq!((version.as_str(), top[0].role.as_str()), ("pca", "in0"));
    assert_eq!((*severity, *from), (Some(2), Some(ms(150_000))));
}

/// Training, then calibration of the threshold, over a restart in the middle of each.
#[test]
fn what_was_learned_outlives_a_restart_to_the_bit() {
    let rows = &reference().pca[0].rows;
    let mut settings = settings(pca(60), 6, 1);
    settings.threshold = Threshold::Quantile(CalibrationRule {
        windows: 40,
        ..CalibrationRule::QUANTILE
    });
    let mut whole = monitor(&settings);
    let mut parts = monitor(&settings);
    for (i, row) in rows.iter().enumerate() {
        if [25, 80, 130].contains(&i) {
            let kept = parts.learned().unwrap();
            parts = monitor(&settings);
            parts.restore(&kept).unwrap();
            assert_eq!(parts.calibration(), whole.calibration());
            // No window is left over from before: they begin anew, with one row each here.
        }
        let (a, b) = (scan(&mut whole, i, row), scan(&mut parts, i, row));
        assert_eq!(format!("{a:?}"), format!("{b:?}"), "row {i}");
        let has_ratio = a
            .iter()
            .any(|output| matches!(output, Output::Score { ratio: Some(_), .. }));
        let progress = |windows, needed| Progress { windows, needed };
        let expected = match i + 1 {
            done @ ..60 => Calibration::Training(progress(done, 60)),
            done @ ..99 => Calibration::Calibrating(progress(done - 59, 40)),
            _ => whole.calibration(),
        };
        assert_eq!(whole.calibration(), expected, "row {i}");
        assert_eq!(has_ratio, i >= 99, "row {i}");
        if i < 98 {
            assert!(a.iter().all(|output| !matches!(output, Output::Event(_))));
        }
    }
    assert!(matches!(whole.calibration(), Calibration::Done { .. }));

    // Another asset, other settings, damage: each begins anew, and says why.
    let kept = whole.learned().unwrap();
    let mut spec = settings.spec();
    spec.asset = "in0 = other/tag".to_owned();
    let mut other = Monitor::of(&spec, Builtin::new(&settings));
    assert!(matches!(other.restore(&kept), Err(RestoreError::Another)));
    settings.method = pca(61);
    assert!(matches!(
        monitor(&settings).restore(&kept),
        Err(RestoreError::Another)
    ));
    settings.method = pca(60);
    for cut in [0, 5, 30, kept.len() / 2, kept.len() - 3] {
        let error = monitor(&settings).restore(&kept[..cut]).unwrap_err();
        assert!(matches!(error, RestoreError::Damaged(_)), "{error}");
    }
    let newer = [b"millrace-learned 2\n".as_slice(), &kept[19..]].concat();
    let error = monitor(&settings).restore(&newer).unwrap_err();
    assert!(matches!(error, RestoreError::Version { .. }), "{error}");
}

#[test]
fn a_restart_of_the_calibration_ends_the_event_and_learns_anew() {
    let reference = &reference().pca[0];
    let mut monitor = monitor(&settings(pca(reference.train), 6, 1));
    for (i, row) in reference.rows.iter().enumerate() {
        scan(&mut monitor, i, row);
    }
    let before = monitor.learned_total();
    let outputs = monitor.restart_calibration(ms(160_000));
    let [Output::Event(event)] = outputs.as_slice() else {
        panic!("expected the end of the event, got {outputs:?}");
    };
    assert_eq!(
        (event.state, event.end),
        (EventState::End, Some(ms(160_000)))
    );
    assert!(monitor.learned_total() > before);
    let progress = Progress {
        windows: 0,
        needed: reference.train,
    };
    assert_eq!(monitor.calibration(), Calibration::Training(progress));
    let outputs = scan(&mut monitor, 161, &reference.rows[0]);
    assert!(matches!(
        outputs.as_slice(),
        [Output::NotScored {
            reason: NotScored::Training(_),
            ..
        }]
    ));
}

#[test]
fn inputs_that_never_change_teach_nothing() {
    let mut monitor = monitor(&settings(pca(30), 2, 1));
    let mut failed = 0;
    for i in 0..60 {
        for output in scan(&mut monitor, i, &[5.0, 7.0]) {
            failed += usize::from(output_failed(&output));
        }
    }
    assert_eq!(failed, 2, "once at the end of each training");
    // One that changes is enough; the other is left out.
    for i in 60..92 {
        scan(&mut monitor, i, &[5.0 + (i % 3) as f64, 7.0]);
    }
    assert!(matches!(monitor.calibration(), Calibration::Done { .. }));
    let outputs = scan(&mut monitor, 92, &[50.0, 7.0]);
    assert!(matches!(outputs[0], Output::Score { score, .. } if score > 10.0));
}

fn output_failed(output: &Output) -> bool {
    matches!(
        output,
        Output::NotScored {
            reason: NotScored::Failed(_),
            ..
        }
    )
}

/// Row by row, whether the score was above the limit; `None` where there was no score.
fn above(method: Method, len: usize, rows: &[[f64; 2]]) -> Vec<Option<bool>> {
    let mut monitor = monitor(&settings(method, 2, len));
    let mut above = Vec::new();
    for (i, row) in rows.iter().enumerate() {
        let outputs = scan(&mut monitor, i, row);
        above.push(outputs.iter().find_map(|output| match output {
            Output::Score { score, .. } => Some(*score > 1.0),
            _ => None,
        }));
    }
    above
}

#[test]
fn a_stuck_a_fast_and_an_outlying_input_are_found() {
    let stuck = Method::Stuck {
        change: vec![0.0, 0.0],
    };
    let rows = [[1.0, 5.0], [2.0, 5.0], [3.0, 5.0], [4.0, 6.0], [5.0, 7.0]];
    let (no, yes) = (Some(false), Some(true));
    assert_eq!(above(stuck, 3, &rows), [None, None, yes, no, no]);
    let rate = Method::Rate {
        limit: vec![2.0, 0.5],
    };
    let rows = [[0.0, 0.0], [2.0, 0.0], [0.0, 0.4], [0.0, -0.2], [2.5, 0.0]];
    assert_eq!(above(rate, 2, &rows), [None, no, no, yes, yes]);
    let range = Method::Range {
        limits: vec![(0.0, 10.0), (-1.0, 1.0)],
    };
    let rows = [[5.0, 0.0], [10.0, 1.0], [10.1, 0.0], [5.0, -1.5]];
    assert_eq!(above(range, 1, &rows), [no, no, yes, yes]);
}

/// Missing data must not keep the detector of missing data from scoring: neither bad samples, nor silence, nor an input
/// that never had a value.
#[test]
fn missing_data_is_found_where_there_is_none() {
    let mut settings = settings(Method::Missing { allowed: 0.5 }, 2, 4);
    settings.window.grid = Grid::Every(Duration::from_secs(1));
    let mut monitor = monitor(&settings);
    let mut outputs = Vec::new();
    for i in 0..20i64 {
        monitor.feed(0, &sample(i * 1_000, 1.0));
        if i == 3 {
            monitor.feed(1, &Sample::bad(TagId(1), Reason::Timeout, ms(3_000)));
        }
        if (8..14).contains(&i) {
            monitor.feed(1, &sample(i * 1_000, 1.0));
        }
        outputs.extend(monitor.advance(ms(i * 1_000)));
    }
    let states: Vec<_> = outputs
        .iter()
        .filter_map(|output| match output {
            Output::Event(event) => {
                let EventDetail::Anomaly { top, .. } = &event.detail else {
                    panic!("not an anomaly");
                };
                Some((event.state, event.at.0 / 1_000_000_000, top[0].role.clone()))
            }
            _ => None,
        })
        .collect();
    let told = |state, at| (state, at, "in1".to_owned());
    // The last good value, of 13 s, is held for two seconds: from 16 s on there is none, and at 18 s more than half is missing.
    assert_eq!(
        states,
        [
            told(EventState::Begin, 3),
            told(EventState::End, 10),
            told(EventState::Begin, 18),
            told(EventState::Update, 19),
        ]
    );
}
