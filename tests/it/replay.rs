//! Recorded plant data through the whole way of a sample: replayed over Modbus TCP, scored, delivered exactly.

use std::fmt::Write as _;
use std::ops::{Range, RangeInclusive};
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
use millrace_tests::wait::{STEP, wait_for};
use millrace_tests::{checkout, fixture};
use sha2::{Digest, Sha256};

use crate::plant;

const REPLAY: Duration = Duration::from_secs(300);

/// A recording: columns of numbers, one row a poll cycle.
struct Recording {
    roles: Vec<String>,
    rows: Vec<Vec<f32>>,
}

impl Recording {
    fn read(path: &Path, separator: char, columns: Range<usize>) -> Result<Recording> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let mut lines = text.lines();
        let cells = |line: &str| -> Vec<String> {
            line.split(separator)
                .skip(columns.start)
                .take(columns.len())
                .map(str::to_owned)
                .collect()
        };
        let roles = cells(lines.next().context("a header")?);
        let rows = lines
            .map(|line| {
                cells(line)
                    .iter()
                    .map(|cell| Ok(cell.trim().parse()?))
                    .collect()
            })
            .collect::<Result<_>>()?;
        Ok(Recording { roles, rows })
    }

    fn write(&self, path: &Path) -> Result<()> {
        let mut text = self.roles.join(",") + "\n";
        for row in &self.rows {
            let cells: Vec<String> = row.iter().map(f32::to_string).collect();
            let _ = writeln!(text, "{}", cells.join(","));
        }
        Ok(std::fs::write(path, text)?)
    }

    /// The replay serves f32 columns one after the other from holding register 0.
    fn device_config(&self, port: u16) -> String {
        let mut text = format!(
            "[[device]]\nname = \"plant\"\ndriver = \"modbus-tcp\"\naddress = \"127.0.0.1:{port}\"\nunit_id = 1\n\
             poll_interval = \"10ms\"\ntimeout = \"5s\"\n\n"
        );
        for column in 0..self.roles.len() {
            let _ = write!(
                text,
                "[[device.tag]]\nname = \"{}\"\naddress = \"holding:{}\"\ntype = \"f32\"\n\n",
                self.roles[column],
                2 * column
            );
        }
        text
    }

    fn model_config(&self, bundle: &Path) -> String {
        let mut text = format!(
            "[[model]]\nname = \"watch\"\nbundle = \"{}\"\n[model.inputs]\n",
            bundle.display()
        );
        for (column, role) in self.roles.iter().enumerate() {
            let _ = writeln!(text, "\"{role}\" = \"plant/{}\"", self.roles[column]);
        }
        text.push('\n');
        text
    }
}

/// Replays the recording and returns what came, once the last row was delivered and an anomaly was raised.
fn replay(directory: &Path, recording: &Recording, bundle: &Path) -> Result<(Received, Gateway)> {
    let broker = Broker::start(directory)?;
    let subscriber = Subscriber::start(broker.port)?;
    let file = directory.join("recording.csv");
    recording.write(&file)?;
    let port = free_port()?;
    let mut command = Command::new(program()?);
    command
        .args([
            "sim",
            "modbus",
            "--listen",
            &format!("127.0.0.1:{port}"),
            "--replay",
        ])
        .arg(&file);
    command.args(["--advance", "read"]).stdout(Stdio::null());
    let mut gateway = Gateway::new(directory);
    gateway.configure(
        &(plant::uplink_config(broker.port)
            + &recording.device_config(port)
            + &recording.model_config(bundle)),
    )?;
    gateway.start()?;
    // Rows do not wait for a reader's model, whose examination takes its time on a busy machine.
    wait_for("the model at work", STEP, || {
        let status = gateway.json(&["status"]).ok()?;
        status["models"][0]["version"].as_str().map(drop)
    })
    .with_context(|| gateway.log())?;
    let _simulator = Process::start(&mut command, &directory.join("sim.log"))?;
    let last = recording.roles.len() - 1;
    let (last_tag, rows) = (recording.roles[last].clone(), recording.rows.len());
    subscriber.wait("every row", REPLAY, |got| {
        got.of_tag("plant", &last_tag)
            .filter(|sample| sample.quality.is_none())
            .count()
            >= rows
    })?;
    gateway.terminate()?;
    let got = subscriber.stop();
    assert_eq!(got.violations, Vec::<String>::new());
    Ok((got, gateway))
}

/// Scoring what the gateway has stored gives the scores that it has stored, bit for bit.
fn scores_come_out_the_same_again(gateway: &Gateway) -> Result<()> {
    let printed = |args: &[&str]| -> Result<String> {
        let output = gateway.cli(args)?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{}: {errors}", args.join(" "));
        Ok(String::from_utf8(output.stdout)?)
    };
    let bits = |number: &str| -> Result<u64> { Ok(number.parse::<f64>()?.to_bits()) };
    let args = [
        "buffer",
        "export",
        "--config",
        "millrace.toml",
        "--tag",
        "watch/score",
    ];
    let stored: Vec<u64> = printed(&args)?
        .lines()
        .skip(1)
        .map(|line| bits(line.split(',').nth(4).context("a value")?))
        .collect::<Result<_>>()?;
    let args = [
        "model",
        "eval",
        "watch",
        "--config",
        "millrace.toml",
        "--from-buffer",
        "--windows",
        "--json",
    ];
    // The text of a number is exact; what a JSON reader makes of it need not be.
    let again: Vec<u64> = printed(&args)?
        .lines()
        .filter_map(|line| line.trim().strip_prefix("\"score\": "))
        .map(|number| bits(number.trim_end_matches(',')))
        .collect::<Result<_>>()?;
    ensure!(stored.len() > 700, "{} scores", stored.len());
    ensure!(
        again.len() >= stored.len() && again.len() <= stored.len() + 5,
        "{} scores again for {}",
        again.len(),
        stored.len()
    );
    assert_eq!(again[..stored.len()], stored);
    Ok(())
}

/// Each tag brought its column: every row once, in order. After its end the replay may hold its last row.
fn rows_are_exact(got: &Received, recording: &Recording) -> Result<()> {
    for column in 0..recording.roles.len() {
        let tag = &recording.roles[column];
        let came: Vec<f32> = got
            .of_tag("plant", tag)
            .filter(|sample| sample.quality.is_none())
            .map(|sample| {
                sample
                    .value
                    .as_f64()
                    .map(|value| value as f32)
                    .context("a number")
            })
            .collect::<Result<_>>()?;
        for (row, cells) in recording.rows.iter().enumerate() {
            ensure!(
                came.get(row) == Some(&cells[column]),
                "{tag}, row {row}: {:?} for {}",
                came.get(row),
                cells[column]
            );
        }
    }
    Ok(())
}

/// Row at which each anomaly began, by the time stamps of the rows.
fn anomaly_rows(got: &Received, recording: &Recording) -> Vec<usize> {
    let last = recording.roles[recording.roles.len() - 1].clone();
    let times: Vec<f64> = got
        .of_tag("plant", &last)
        .map(|sample| sample.at_ms)
        .collect();
    got.events_of("watch")
        .filter(|event| event["kind"] == "anomaly" && event["state"] == "begin")
        .filter_map(|event| event["start"].as_f64())
        .map(|start| times.partition_point(|at| *at < start))
        .collect()
}

/// Rows of the vendored series that its authors labelled (Numenta Anomaly Benchmark, combined windows).
const NAB_LABELLED: [RangeInclusive<usize>; 4] =
    [2126..=2692, 3703..=4269, 16_057..=16_623, 19_232..=19_798];

/// The stretch that is replayed: quiet rows, then a labelled window.
const NAB_ROWS: Range<usize> = 3_350..4_400;

#[test]
fn the_vendored_series_arrives_exactly_and_its_failure_is_found() -> Result<()> {
    let series = fixture("data/nab/machine_temperature_system_failure.csv");
    let mut recording = Recording::read(&series, ',', 1..2)?;
    recording.rows.truncate(NAB_ROWS.end);
    recording.rows.drain(..NAB_ROWS.start);
    recording.roles = vec!["temperature".to_owned()];

    let directory = tempfile::tempdir()?;
    let (got, gateway) = replay(
        directory.path(),
        &recording,
        &checkout().join("models/nab-machine-temperature"),
    )?;
    rows_are_exact(&got, &recording)?;
    let begins: Vec<usize> = anomaly_rows(&got, &recording)
        .iter()
        .map(|row| row + NAB_ROWS.start)
        .collect();
    let found = begins
        .iter()
        .any(|row| NAB_LABELLED.iter().any(|window| window.contains(row)));
    assert!(
        found,
        "anomalies begin at rows {begins:?}, labelled are {NAB_LABELLED:?}"
    );
    scores_come_out_the_same_again(&gateway)
}

/// Rows of the experiment `valve1/1` that are labelled as an anomaly.
const SKAB_LABELLED: RangeInclusive<usize> = 572..=973;

/// The model's upper control limit for this experiment.
const SKAB_THRESHOLD: f64 = 10.083_703_5;

#[test]
fn a_water_loop_experiment_arrives_exactly_and_its_fault_is_found() -> Result<()> {
    let data = std::env::var_os("MILLRACE_SKAB")
        .map_or_else(|| checkout().join("../shared/data/skab"), PathBuf::from);
    if !data.exists() {
        println!(
            "skipped: {} is not there (GPL data, never part of this repository)",
            data.display()
        );
        return Ok(());
    }
    let mut recording = Recording::read(&data.join("valve1/1.csv"), ';', 1..9)?;
    recording.roles = recording
        .roles
        .iter()
        .map(|role| role.replace(' ', "-"))
        .collect();
    let directory = tempfile::tempdir()?;
    let bundle = directory.path().join("bundle");
    std::fs::create_dir(&bundle)?;
    let model = std::fs::read(data.join("models/valve1_1.onnx"))?;
    std::fs::write(bundle.join("model.onnx"), &model)?;
    std::fs::write(bundle.join("model.toml"), skab_manifest(&recording, &model))?;

    let (got, _) = replay(directory.path(), &recording, &bundle)?;
    rows_are_exact(&got, &recording)?;
    let begins = anomaly_rows(&got, &recording);
    assert!(
        begins.iter().any(|row| SKAB_LABELLED.contains(row)),
        "anomalies begin at rows {begins:?}"
    );
    Ok(())
}

/// Every tenth row: at a hundred rows a second a busy machine sheds windows, as it should.
fn skab_manifest(recording: &Recording, model: &[u8]) -> String {
    let digest: String = Sha256::digest(model)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let mut text = format!(
        "name = \"valve1-1\"\nversion = \"1.0.0\"\n\n\
         [model]\nfile = \"model.onnx\"\nsha256 = \"{digest}\"\ninput = \"window\"\nlayout = \"NTF\"\n\n\
         [window]\nlen = 60\ngrid = \"scan\"\nstride = 10\nmax_gap = \"10s\"\n\n\
         [output]\nscore = \"score\"\ncontribution = \"contribution\"\n\n\
         [threshold]\nmethod = \"fixed\"\nvalue = {SKAB_THRESHOLD}\n\n"
    );
    for role in &recording.roles {
        let _ = writeln!(text, "[[input]]\nrole = \"{role}\"\n");
    }
    text
}
