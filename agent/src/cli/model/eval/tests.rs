//! The bundle of the demo on files: what is fed, what is printed, what is refused.

use clap::Parser;
use millrace_tags::BootId;

use super::super::super::failure;
use super::*;
use crate::stored::ExactSample;

const BUNDLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/pump-anomaly");
const HEADING: &str = "time,pressure,flow,motor_current,vibration,bearing_temp";

#[derive(Parser)]
struct Typed {
    #[command(flatten)]
    args: EvalArgs,
}

fn typed(words: &[&str]) -> EvalArgs {
    let model = if words.contains(&"--inputs") {
        "pca"
    } else {
        BUNDLE
    };
    Typed::try_parse_from([&["eval", model], words].concat())
        .unwrap()
        .args
}

/// The pump at rest, polled each 200 ms; from poll `fault` on it vibrates.
fn rows(count: usize, fault: usize) -> Vec<(f64, [f64; 5])> {
    let row = |at: usize| {
        let load = 0.7;
        let vibration = if at < fault { 1.9 } else { 5.7 };
        // Something that does not repeat, as large as the noise of a quiet pump.
        let noise = ((at * 37) % 11) as f64 / 11.0 - 0.5;
        let values = [
            6.2 - 1.6 * load + 0.03 * noise,
            60.0 * load + 0.6 * noise,
            8.0 + 14.0 * load - 0.15 * noise,
            vibration + 0.08 * noise,
            50.2 + 0.25 * noise,
        ];
        (1_600_000_000.0 + at as f64 * 0.2, values)
    };
    (0..count).map(row).collect()
}

fn csv(count: usize, fault: usize) -> String {
    let mut text = format!("{HEADING},label\n");
    for (at, (time, values)) in rows(count, fault).into_iter().enumerate() {
        let values: Vec<String> = values.iter().map(ToString::to_string).collect();
        let label = u8::from(at >= fault);
        text.push_str(&format!("{time:.1},{},{label}\n", values.join(",")));
    }
    text
}

/// What an evaluation of this text says.
fn eval(text: &str, words: &[&str]) -> anyhow::Result<serde_json::Value> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("data.csv");
    std::fs::write(&path, text)?;
    let file = path.display().to_string();
    let args = typed(&[&["--csv", &file], words].concat());
    let found = args.find(&Global::default())?;
    let wanted = args.wanted(&found)?;
    let (evaluation, rows, labels) = args.of_file(&path, &found, &wanted)?;
    let report = Report {
        found: &found,
        data: "data.csv".to_owned(),
        rows,
        evaluation: &evaluation,
        figures: (!labels.is_empty()).then(|| Figures::new(&evaluation, &labels[args.skip..])),
        windows: args.windows,
    };
    let text = report.text();
    assert!(text.contains("events   "), "{text}");
    Ok(report.json())
}

fn refused(text: &str, words: &[&str]) -> String {
    failure::text(&eval(text, words).unwrap_err())
}

#[test]
fn a_fault_is_found_and_held_against_its_label() {
    let told = eval(&csv(300, 150), &["--labels", "label"]).unwrap();
    assert_eq!(told["rows"], 300);
    assert_eq!(told["events"].as_array().map(Vec::len), Some(1), "{told}");
    assert_eq!(told["events"][0]["top"][0]["role"], "vibration");
    assert_eq!(told["labels"]["detected"], 1);
    assert_eq!(told["labels"]["false_starts"], 0);
    let delay = told["labels"]["anomalies"][0]["delay_rows"].as_u64();
    assert!(delay.is_some_and(|rows| rows < 20), "{told}");
    assert_eq!(told["labels"]["causal"]["false_alarms"], 0);
    assert!(
        told["labels"]["causal"]["f1"].as_f64() > Some(0.9),
        "{told}"
    );
    assert!(told.get("windows").is_none());
}

#[test]
fn a_long_file_of_an_export_scores_the_same_as_its_table() {
    let table = eval(&csv(200, 120), &["--windows"]).unwrap();
    let names = ["p", "f", "m", "v", "b"];
    let mut text = "source,seq,n,t,v,x,q,r,st,stream,clock,boot\n".to_owned();
    for (time, values) in rows(200, 120) {
        for (name, value) in names.iter().zip(values) {
            let ms = (time * 1e3).round();
            text.push_str(&format!("pump,1,{name},{ms},{value},,,,,6f0c,,\n"));
        }
        text.push_str(&format!("fan,1,p,{},7,,,,,6f0c,,\n", time * 1e3));
    }
    let map = [
        "--windows",
        "--map",
        "pressure=pump/p",
        "flow=pump/f",
        "motor_current=pump/m",
        "vibration=pump/v",
        "bearing_temp=pump/b",
    ];
    let long = eval(&text, &map).unwrap();
    assert_eq!(long["windows"], table["windows"]);
    assert!(table["windows"].as_array().map(Vec::len) > Some(100));
    let error = refused(&text, &map[..6]);
    assert!(
        error.contains("no tag is given for bearing_temp"),
        "{error}"
    );
    let error = refused(&text, &[&map[..6], &["bearing_temp=pump/none"]].concat());
    assert!(error.contains("no sample of pump/none"), "{error}");
}

#[test]
fn a_detector_of_this_program_learns_from_the_first_windows() {
    let inputs = [
        "--inputs",
        "pressure,flow,load=motor_current",
        "vibration",
        "bearing_temp",
    ];
    let set = ["--set", "train=200", "grid=scan", "threshold_value=4"];
    let labels = ["--labels", "label", "--skip", "200"];
    let words = [&inputs[..], &set[..], &labels[..]].concat();
    let told = eval(&csv(600, 400), &words).unwrap();
    assert_eq!(told["model"]["version"], "pca");
    assert_eq!(told["model"]["bundle"], serde_json::Value::Null);
    // The last window of the training is scored, too.
    assert_eq!(told["scored"], 401, "{told}");
    assert_eq!(told["unscored"][0]["windows"], 199, "{told}");
    assert_eq!(told["events"].as_array().map(Vec::len), Some(1), "{told}");
    assert_eq!(told["events"][0]["top"][0]["role"], "vibration");
    assert_eq!(told["labels"]["detected"], 1);
    assert_eq!(told["labels"]["false_starts"], 0);
    let f1 = told["labels"]["causal"]["f1"].as_f64();
    assert!(f1 > Some(0.95), "{told}");

    let one = |set: &[&str]| {
        refused(
            &csv(30, 20),
            &[&["--inputs", "flow", "--set"], set].concat(),
        )
    };
    let error = one(&["trian=200"]);
    assert!(error.contains("did you mean train?"), "{error}");
    let error = one(&["train=2"]);
    assert!(error.contains("train"), "{error}");
    let error = one(&["grid=often"]);
    assert!(error.contains("grid"), "{error}");
    assert!(Typed::try_parse_from(["eval", "pca", "--csv", "a", "--set", "train=20"]).is_err());
}

#[test]
fn wrong_files_name_the_place_and_the_way_out() {
    let error = refused(&format!("{HEADING}\n1,2,3,4,5,6\n2,2,3,4,on,6\n"), &[]);
    assert!(
        error.contains("line 3, column vibration: \"on\" is not a number"),
        "{error}"
    );
    let error = refused(&format!("{HEADING}\n1,2,3,4,5,6\n2,2,\"3,5\",4,5,6\n"), &[]);
    assert!(
        error.contains("line 3, column flow") && error.contains("with a point"),
        "{error}"
    );
    let error = refused(&format!("{HEADING}\nnoon,2,3,4,5,6\n"), &[]);
    assert!(
        error.contains("line 2, column time: \"noon\" is not a time"),
        "{error}"
    );
    let error = refused(&format!("{HEADING}\n2,2,3,4,5,6\n1,2,3,4,5,6\n"), &[]);
    assert!(error.contains("line 3, column time: is earlier"), "{error}");
    let error = refused(&format!("{HEADING}\n2,2,3\n"), &[]);
    assert!(error.contains("as many fields as the first"), "{error}");
    let error = refused("time,p,flow\n1,2,3\n", &[]);
    assert!(
        error.contains("no column pressure, motor_current, vibration"),
        "{error}"
    );
    assert!(error.contains("--map ROLE=COLUMN"), "{error}");
    let error = refused(&format!("{HEADING}\n"), &[]);
    assert!(error.contains("no line after its heading"), "{error}");
    let error = refused(&csv(3, 9), &["--map", "power=p"]);
    assert!(error.contains("no input power"), "{error}");
    let error = refused(&csv(3, 9), &["--labels", "anomaly"]);
    assert!(error.contains("no column anomaly"), "{error}");
    for words in [
        &[][..],
        &["--csv", "a", "--from-buffer"],
        &["--csv", "a", "--since", "2h"],
        &["--csv", "a", "--threshold", "0"],
        &["--csv", "a", "--skip", "5"],
    ] {
        let typed = Typed::try_parse_from([&["eval", BUNDLE], words].concat());
        assert!(typed.is_err(), "{words:?}");
    }
}

#[test]
fn rows_without_times_are_a_grid_step_apart() {
    let text = csv(60, 99).replace("time,", "row,");
    let told = eval(&text, &["--windows"]).unwrap();
    assert_eq!(told["windows"].as_array().map(Vec::len), Some(41), "{told}");
    assert_eq!(told["windows"][0]["end"], 19.0 * 250.0);
    let text = csv(60, 99).replace("1600000005.0", "1500000000");
    let error = refused(&text, &[]);
    assert!(
        error.contains("is earlier") && error.contains("--every"),
        "{error}"
    );
    let even = eval(&text, &["--windows", "--every", "250ms"]).unwrap();
    assert_eq!(even["windows"], told["windows"]);
}

fn exact(tag: &str, ms: i64, value: f64, boot: BootId, offset: i64) -> ExactSample {
    ExactSample {
        source: "pump".into(),
        tag: tag.into(),
        boot,
        offset_ns: Some(offset),
        moment_ns: ms * 1_000_000,
        value_bits: Some(value.to_bits()),
    }
}

#[test]
fn each_boot_is_a_run_of_its_own_in_utc() {
    let wanted = Wanted {
        roles: vec!["a".to_owned()],
        map: vec![("a".to_owned(), "pump/a".to_owned())],
        time: None,
        every: None,
        untimed: SCAN_EVERY,
        labels: None,
    };
    let boots = [1u128, 2].map(|boot| millrace_tags::TestClock::new(boot, None));
    let boots = boots.map(|clock| millrace_tags::Clock::timebase(&clock).boot);
    let mut samples = Samples::new(&wanted).unwrap();
    // The later boot is read first, and its moments are smaller.
    for (boot, offset) in [(boots[1], 9_000_000_000_000), (boots[0], 0)] {
        for ms in [300, 200, 100] {
            samples
                .take(exact("a", ms, ms as f64, boot, offset))
                .unwrap();
            samples.take(exact("other", ms, 0.0, boot, offset)).unwrap();
        }
    }
    let runs = std::cell::Cell::new(0);
    let args = typed(&["--from-buffer"]);
    let found = which::find(&args.model, &Global::default()).unwrap();
    let evaluation = samples
        .feed(|| {
            runs.set(runs.get() + 1);
            args.new_run(&found)
        })
        .unwrap();
    assert_eq!(runs.get(), 2);
    let times: Vec<i64> = evaluation.unscored.iter().map(|u| u.from.0).collect();
    assert!(
        times.is_sorted() && times.last() > Some(&9_000_000_000_000),
        "{times:?}"
    );
}
