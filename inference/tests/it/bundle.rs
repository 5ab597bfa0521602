//! Bundles that load, and each way of not loading.

use std::fs::File;

use millrace_inference::{
    Bundle, BundleError, CalibrationRule, Fill, Grid, Manifest, Problem, Threshold,
};

use crate::fixture::{Fixture, chain};

fn problems(fixture: &Fixture) -> Vec<Problem> {
    match fixture.load() {
        Err(BundleError::Manifest { problems, .. }) => problems,
        other => panic!("expected problems of the manifest, got {other:?}"),
    }
}

/// The only problem: its key, value, hint and line.
fn problem(fixture: &Fixture) -> (String, Option<String>, Option<String>, usize) {
    let problems = problems(fixture);
    let [problem] = problems.as_slice() else {
        panic!("expected one problem, got {problems:?}");
    };
    let problem = problem.clone();
    (problem.key, problem.value, problem.hint, problem.line)
}

/// The example of the README names every key, and is read without a problem once the digests are
/// filled in.
#[test]
fn the_example_of_the_readme_is_true() {
    let readme = include_str!("../../README.md");
    let example = readme.split("```toml\n").nth(1).unwrap();
    let example = example.split("```").next().unwrap();
    let digest = "ab".repeat(32);
    let manifest = Manifest::parse(&example.replace('…', &digest)).unwrap();
    assert_eq!(manifest.name, "pump-anomaly");
    assert_eq!((manifest.decision.on, manifest.decision.off), (3, 8));
}

#[test]
fn a_directory_loads() {
    let bundle = Fixture::new("magnitude").bundle();
    assert_eq!((bundle.name(), bundle.version()), ("test", "1.0.0"));
    assert_eq!(bundle.sha256().len(), 64);
    assert_eq!(bundle.inputs()[0].unit, "bar");
    assert_eq!(bundle.inputs()[0].fill, Fill::Hold);
    assert!(bundle.inputs()[1].required);
    assert_eq!(bundle.inputs()[1].range, Some((-1000.0, 1000.0)));
    assert_eq!(bundle.input_index("b"), Some(1));
    assert_eq!(bundle.window().stride, 1);
    assert!(matches!(bundle.window().grid, Grid::Every(grid) if grid.as_secs() == 1));
    assert_eq!(bundle.manifest().threshold, Threshold::Fixed(10.0));
}

#[test]
fn a_tar_loads_like_its_directory() {
    let fixture = Fixture::new("magnitude");
    let directory = fixture.path();
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("test-1.0.0.tar");
    let mut tar = tar::Builder::new(File::create(&path).unwrap());
    tar.append_dir_all("test-1.0.0", &directory).unwrap();
    tar.finish().unwrap();

    let bundle = Bundle::load(&path).unwrap();
    assert_eq!(bundle.manifest(), fixture.bundle().manifest());
    assert_eq!(bundle.model(), fixture.bundle().model());
}

#[test]
fn what_is_no_tar_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("model.onnx");
    std::fs::write(&path, vec![0xa5; 4096]).unwrap();
    assert!(matches!(
        Bundle::load(&path),
        Err(BundleError::Archive { .. })
    ));
}

/// Headers that promise far more than there is cost nothing: what is not there is not read, and no room is made for it.
#[test]
fn a_tar_that_promises_too_much_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("bomb.tar");
    let header = |size: u64, kind: tar::EntryType| {
        let mut header = tar::Header::new_gnu();
        header.set_path("model.toml").unwrap();
        header.set_size(size);
        header.set_entry_type(kind);
        header
    };
    let refused = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        Bundle::load(&path).unwrap_err()
    };
    // A file of a terabyte, of which a block is there.
    let mut huge = header(1 << 40, tar::EntryType::Regular);
    huge.set_cksum();
    let error = refused(&[huge.as_bytes().as_slice(), &[b'x'; 512]].concat());
    assert!(matches!(error, BundleError::Archive { .. }), "{error}");
    // The same as a file with holes, which a block can stand for.
    let mut holes = header(512, tar::EntryType::GNUSparse);
    let gnu = holes.as_gnu_mut().unwrap();
    gnu.set_real_size(1 << 40);
    gnu.sparse[0].set_offset((1 << 40) - 512);
    gnu.sparse[0].set_length(512);
    holes.set_cksum();
    let error = refused(&[holes.as_bytes().as_slice(), &[b'x'; 512], &[0; 1024]].concat());
    assert!(matches!(error, BundleError::Missing { .. }), "{error}");
    // Many files.
    let mut tar = tar::Builder::new(Vec::new());
    for i in 0..300 {
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        tar.append_data(&mut header, format!("file{i}"), [].as_slice())
            .unwrap();
    }
    let error = refused(&tar.into_inner().unwrap());
    assert!(
        chain(&error).contains("more than 256 entries"),
        "{}",
        chain(&error)
    );
    // A file beyond the limit, without its blocks on disk.
    File::create(&path).unwrap().set_len(65 << 20).unwrap();
    let error = Bundle::load(&path).unwrap_err();
    assert!(matches!(error, BundleError::TooLarge { .. }), "{error}");
}

#[test]
fn missing_files_are_named() {
    let place = tempfile::tempdir().unwrap();
    let error = Bundle::load(&place.path().join("none")).unwrap_err();
    assert!(matches!(error, BundleError::Missing { .. }));
    let error = Bundle::load(place.path()).unwrap_err();
    assert!(error.to_string().ends_with("model.toml does not exist"));

    let fixture = Fixture::new("magnitude").edit("file = \"model.onnx\"", "file = \"other.onnx\"");
    let error = fixture.load().unwrap_err();
    assert!(error.to_string().ends_with("other.onnx does not exist"));
}

#[test]
fn a_wrong_digest_is_refused() {
    let fixture = Fixture::new("magnitude");
    let mut model = fixture.bundle().model().to_vec();
    let last = model.len() - 1;
    model[last] ^= 1;
    fixture.write("model.onnx", &model);
    let error = fixture.load().unwrap_err();
    assert!(matches!(error, BundleError::Digest { .. }), "{error}");
}

#[test]
fn text_that_is_not_toml_is_refused_with_its_line() {
    let fixture = Fixture::new("magnitude").edit("len = 3", "len = = 3");
    let (_, _, hint, line) = problem(&fixture);
    assert_eq!(line, 19);
    assert!(hint.is_some());
}

#[test]
fn unknown_keys_are_refused_with_the_nearest() {
    let fixture = Fixture::new("magnitude").edit("max_gap", "min_good_shar = 0.9\nmax_gap");
    let (key, value, hint, line) = problem(&fixture);
    assert_eq!((key.as_str(), line), ("window.min_good_shar", 21));
    assert_eq!(value.as_deref(), Some("0.9"));
    assert_eq!(hint.as_deref(), Some("did you mean `min_good_share`?"));

    let fixture = Fixture::new("magnitude").edit("unit = ", "xyz = ");
    let (key, _, hint, _) = problem(&fixture);
    assert_eq!(key, "input[0].xyz");
    assert_eq!(
        hint.as_deref(),
        Some("known keys here are column, fill, from, max_gap, op, range, required, role, unit")
    );
}

#[test]
fn every_problem_is_named_in_one_run() {
    let fixture = Fixture::new("magnitude")
        .edit("name = \"test\"", "name = \"a b\"")
        .edit("len = 3", "len = 0")
        .edit("max_gap = \"2s\"", "max_gap = \"2 parsecs\"")
        .edit("role = \"b\"", "role = \"a\"")
        .edit("range = [-1000, 1000]", "range = [5, 1]")
        .edit("value = 10.0", "value = -1")
        .edit("score = \"score\"\n", "");
    let keys: Vec<_> = problems(&fixture).into_iter().map(|p| p.key).collect();
    assert_eq!(
        keys,
        [
            "name",
            "input[1].role",
            "input[1].range",
            "window.len",
            "window.max_gap",
            "output.score",
            "threshold.value",
        ]
    );
    let text = fixture.load().unwrap_err().to_string();
    assert!(
        text.contains("19:7: window.len is 0; expected a whole number of rows, 1 to 10000"),
        "{text}"
    );
    assert!(text.contains("output.score is missing"), "{text}");
}

#[test]
fn values_that_do_not_fit_together_are_refused() {
    let cases = [
        ("max_gap = \"2s\"", "max_gap = \"500ms\"", "window.max_gap"),
        ("on = 1", "on = { k = 5, of = 3 }", "decision.on.of"),
        ("on = 1", "severity = [1, 3, 2]", "decision.severity"),
        ("on = 1", "severity = [0.5, 1]", "decision.severity"),
        (
            "value = 10.0",
            "value = 10.0\nwindows = 5",
            "threshold.windows",
        ),
        (
            "grid = \"1s\"",
            "grid = \"scan\"\nlateness = \"1s\"",
            "window.lateness",
        ),
        ("value = 10.0", "", "threshold.value"),
        ("sha256 = \"", "sha256 = \"zz", "model.sha256"),
        (
            "file = \"model.onnx\"",
            "file = \"../model.onnx\"",
            "model.file",
        ),
        (
            "len = 3",
            "len = 3\nnormalisation = { mean = [0], scale = [1, 1] }",
            "window.normalisation.mean",
        ),
        (
            "layout = \"NTF\"",
            "layout = \"NTF\"\ndtype = \"f16\"",
            "model.dtype",
        ),
        (
            "[[input]]\nrole = \"b\"",
            "[[input]]\nrole = \"c\"\nop = \"mean\"\nfrom = [\"x\"]\nover = \"1s\"\n[[input]]\nrole = \"b\"",
            "input[1].from",
        ),
        (
            "[[input]]\nrole = \"b\"",
            "[[input]]\nrole = \"c\"\nop = \"mean\"\nfrom = [\"a\"]\n[[input]]\nrole = \"b\"",
            "input[1].over",
        ),
        (
            "[[input]]\nrole = \"b\"",
            "[[input]]\nrole = \"c\"\nop = \"difference\"\nfrom = [\"a\"]\n[[input]]\nrole = \"b\"",
            "input[1].from",
        ),
        (
            "[[input]]\nrole = \"b\"",
            "[[input]]\nrole = \"c\"\nop = \"band\"\nover = \"1s\"\nband = [9, 1]\nfrom = [\"a\"]\n[[input]]\nrole = \"b\"",
            "input[1].band",
        ),
    ];
    for (from, to, key) in cases {
        let fixture = Fixture::new("magnitude").edit(from, to);
        assert_eq!(problem(&fixture).0, key, "{to}");
    }
    let fixture = Fixture::new("magnitude")
        .edit("fill = \"hold\"", "fill = \"linear\"")
        .edit("grid = \"1s\"", "grid = \"scan\"");
    assert_eq!(problem(&fixture).0, "window.grid");
}

#[test]
fn a_threshold_that_is_learned_has_defaults_of_its_method() {
    let learned = |method: &str| {
        let to = format!("method = \"{method}\"\nwindows = 500");
        let fixture = Fixture::new("magnitude").edit("method = \"fixed\"", &to);
        fixture.bundle().manifest().threshold
    };
    let windows = 500;
    let quantile = CalibrationRule {
        windows,
        ..CalibrationRule::QUANTILE
    };
    let pot = CalibrationRule {
        windows,
        ..CalibrationRule::POT
    };
    assert_eq!(learned("quantile"), Threshold::Quantile(quantile));
    assert_eq!(learned("pot"), Threshold::Pot(pot));
}

#[test]
fn golden_vectors_must_fit_the_window() {
    let fixture = Fixture::new("magnitude").golden(r#"{"windows": [{"values": [1], "score": 1}]}"#);
    let error = fixture.load().unwrap_err();
    let text = chain(&error);
    assert!(
        text.contains("windows[0].values holds 1 numbers; model.toml makes it 6"),
        "{text}"
    );

    let fixture = Fixture::new("magnitude").golden("{");
    assert!(matches!(fixture.load(), Err(BundleError::Golden { .. })));

    let fixture = Fixture::new("magnitude").golden(r#"{"windows": []}"#);
    fixture.load().unwrap_err();
    fixture.write("golden.json", b"{}");
    assert!(matches!(fixture.load(), Err(BundleError::Digest { .. })));
}
