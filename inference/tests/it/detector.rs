//! Models that run and give the right numbers, and models that are refused.

use millrace_inference::{BuildError, Detector, ScoreError};

use crate::fixture::{Fixture, chain};

const WINDOW: [f32; 6] = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];

fn refused(fixture: &Fixture) -> BuildError {
    Detector::build(&fixture.bundle()).unwrap_err()
}

fn with_contribution(model: &str) -> Fixture {
    Fixture::new(model).edit(
        "score = \"score\"",
        "score = \"score\"\ncontribution = \"contribution\"",
    )
}

#[test]
fn is_send_and_can_be_shared() {
    fn check<T: Send + Sync>() {}
    check::<Detector>();
}

#[test]
fn gives_score_and_contribution() {
    let detector = with_contribution("magnitude").detector();
    assert!(detector.has_contribution());
    let scored = detector.score(&WINDOW).unwrap();
    assert_eq!(scored.score, 7.0);
    assert_eq!(scored.contribution, Some(vec![3.0, 4.0]));
    let scored = Fixture::new("magnitude").detector().score(&WINDOW).unwrap();
    assert_eq!(scored.contribution, None);
}

#[test]
fn brings_windows_into_the_layout() {
    let layout = "layout = \"NTF\"";
    let inputs_first = Fixture::new("inputs_first").edit(layout, "layout = \"NFT\"");
    let score = inputs_first.detector().score(&WINDOW).unwrap().score;
    assert_eq!(score, 642_531.0);
    let flat = Fixture::new("flat").edit(layout, "layout = \"NF\"");
    assert_eq!(flat.detector().score(&WINDOW).unwrap().score, 654_321.0);
}

#[test]
fn normalises_where_the_manifest_says() {
    let fixture = with_contribution("magnitude").edit(
        "len = 3",
        "len = 3\nnormalisation = { mean = [1.0, 2.0], scale = [2.0, 1.0], clip = 3.0 }",
    );
    let scored = fixture.detector().score(&WINDOW).unwrap();
    // a: 0, 1, 2; b: 0, 2, 4 clipped to 3.
    let parts = scored.contribution.unwrap();
    assert!((parts[0] - 1.0).abs() < 1e-6 && (parts[1] - 5.0 / 3.0).abs() < 1e-6);
}

/// The expected numbers are onnxruntime's. A state that were kept would change the second score.
#[test]
fn recurrent_models_start_each_window_afresh() {
    let fixture = Fixture::new("recurrent").golden(
        r#"{"windows": [
            {"values": [1, 2, 3, 4, 5, 6], "score": -0.76256377},
            {"values": [-1, 0.2, 0.3, -0.4, 0.5, -0.6], "score": -0.33426568}]}"#,
    );
    let detector = fixture.detector();
    let first = detector.score(&WINDOW).unwrap();
    assert!((first.score + 0.762_563_77).abs() < 1e-6);
    detector.score(&[9.0; 6]).unwrap();
    assert_eq!(detector.score(&WINDOW).unwrap(), first);
}

#[test]
fn windows_that_cannot_be_scored_are_errors() {
    let detector = Fixture::new("root").detector();
    assert!(matches!(
        detector.score(&[1.0; 5]),
        Err(ScoreError::WindowSize {
            expected: 6,
            actual: 5
        })
    ));
    assert!(matches!(
        detector.score(&[1.0, 1.0, f32::NAN, 1.0, 1.0, 1.0]),
        Err(ScoreError::NotFinite { index: 2 })
    ));
    assert!(matches!(
        detector.score(&[-1.0; 6]),
        Err(ScoreError::NotANumber { output: "score" })
    ));
    assert!(detector.score(&[1.0; 6]).is_ok());
}

#[test]
fn unsupported_operators_are_named_with_the_way_out() {
    let error = refused(&Fixture::new("operators"));
    let BuildError::Operators { refused } = &error else {
        panic!("{error}");
    };
    let names: Vec<_> = refused.iter().map(|op| op.operator.as_str()).collect();
    assert_eq!(names, ["DequantizeLinear", "QuantizeLinear"]);
    assert!(error.to_string().contains("single precision"), "{error}");
}

#[test]
fn a_truncated_file_is_refused() {
    let whole = Fixture::new("magnitude").bundle().model().to_vec();
    for len in 0..whole.len() {
        let fixture = Fixture::of_bytes(&whole[..len]);
        assert!(Detector::build(&fixture.bundle()).is_err(), "{len} bytes");
    }
    let error = refused(&Fixture::of_bytes(&whole[..whole.len() / 2]));
    assert!(matches!(error, BuildError::Decode(_)), "{}", chain(&error));
    assert!(matches!(
        refused(&Fixture::of_bytes(b"")),
        BuildError::NoGraph
    ));
}

#[test]
fn a_damaged_file_is_no_end_of_the_program() {
    let whole = Fixture::new("recurrent").bundle().model().to_vec();
    for i in (0..whole.len()).step_by(7) {
        let mut model = whole.clone();
        model[i] ^= 0x10;
        // Weights may be anything; what matters is that the program goes on.
        let _ = Detector::build(&Fixture::of_bytes(&model).bundle());
    }
}

/// The engine would look for such a transposition for ever.
#[test]
fn a_transposition_that_is_none_is_refused() {
    let mut model = Fixture::new("recurrent").bundle().model().to_vec();
    let perm = model.windows(4).position(|bytes| bytes == b"perm").unwrap();
    // Each axis is a tag and a number: [1, 0, 2] becomes [0, 0, 2].
    assert_eq!(model[perm + 5], 1);
    model[perm + 5] = 0;
    let error = refused(&Fixture::of_bytes(&model));
    assert!(matches!(error, BuildError::Transpose { .. }), "{error}");
}

#[test]
fn shapes_that_differ_from_the_manifest_are_refused() {
    let error = refused(&Fixture::new("magnitude").edit("len = 3", "len = 4"));
    assert!(matches!(error, BuildError::InputShape { .. }));
    assert!(
        error
            .to_string()
            .contains("[?, 3, 2]; model.toml makes it [1, 4, 2]"),
        "{error}"
    );

    let error = refused(&with_contribution("by_row"));
    assert!(
        matches!(
            error,
            BuildError::OutputShape {
                key: "output.contribution",
                expected: 2,
                actual: 3
            }
        ),
        "{error}"
    );
    assert!(matches!(
        refused(&Fixture::new("double")),
        BuildError::InputType
    ));
    let error = refused(&Fixture::new("contradiction"));
    assert!(matches!(error, BuildError::Engine { .. }), "{error}");
}

#[test]
fn names_that_the_graph_does_not_have_are_refused() {
    let error = refused(&Fixture::new("magnitude").edit("score = \"score\"", "score = \"loss\""));
    assert_eq!(
        error.to_string(),
        "output.score is \"loss\"; the graph's outputs are [score, contribution]"
    );
    let fixture = Fixture::new("magnitude").edit("layout", "input = \"x\"\nlayout");
    assert!(matches!(refused(&fixture), BuildError::Inputs { .. }));
    let error = refused(&Fixture::new("two_inputs"));
    assert!(
        error
            .to_string()
            .contains("[window, other]; expected one input"),
        "{error}"
    );
}

#[test]
fn what_this_version_lacks_is_refused() {
    assert!(matches!(
        refused(&Fixture::new("external")),
        BuildError::ExternalData { .. }
    ));
    let opset = Fixture::new("magnitude").edit("layout", "opset = 15\nlayout");
    assert!(matches!(
        refused(&opset),
        BuildError::Opset {
            expected: 15,
            actual: 17
        }
    ));
}

#[test]
fn golden_vectors_prove_the_model() {
    let golden = |score: f64, part: f64| {
        with_contribution("magnitude").golden(&format!(
            r#"{{"windows": [{{"values": [1, 2, 3, 4, 5, 6], "score": {score}, "contribution": [3, {part}]}}]}}"#
        ))
    };
    assert!(Detector::build(&golden(7.001, 4.0).bundle()).is_ok());
    let error = refused(&golden(7.1, 4.0));
    assert!(
        error
            .to_string()
            .starts_with("golden window 0: score is 7; expected 7.1"),
        "{error}"
    );
    let error = refused(&golden(7.0, 4.1));
    assert!(
        error.to_string().contains("contribution of b is 4"),
        "{error}"
    );
    let negative = Fixture::new("root")
        .golden(r#"{"windows": [{"values": [-1, 2, -3, 4, -5, 2], "score": 1}]}"#);
    assert!(matches!(
        refused(&negative),
        BuildError::GoldenRun { index: 0, .. }
    ));
}
