//! Recorded plant data through the whole way of a sample: replayed over Modbus TCP, scored, delivered exactly.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use millrace_tests::agent::{Gateway, program};
use millrace_tests::broker::Broker;
use millrace_tests::process::{Process, free_port};
use millrace_tests::received::Received;
use millrace_tests::subscriber::Subscriber;
use millrace_tests::{checkout, fixture};

use crate::plant;

const REPLAY: Duration = Duration::from_secs(300);

/// A recording: columns of numbers, one row a poll cycle.
struct Recording {
    roles: Vec<String>,
    rows: Vec<Vec<f32>>,
}

impl Recording {
    fn read(path: &Path, separator: char, columns: std::ops::Range<usize>) -> Result<Recording> {
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

    /// Tag names: roles may have spaces.
    fn tag(&self, column: usize) -> String {
        self.roles[column].replace(' ', "-")
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
                self.tag(column),
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
            let _ = writeln!(text, "\"{role}\" = \"plant/{}\"", self.tag(column));
        }
        text.push('\n');
        text
    }
}

/// Replays the recording and returns what came, once the last row was delivered and an anomaly was raised.
fn replay(directory: &Path, recording: &Recording, bundle: &Path) -> Result<Received> {
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
    let _simulator = Process::start(&mut command, &directory.join("sim.log"))?;
    let mut gateway = Gateway::new(directory);
    gateway.configure(
        &(plant::uplink_config(broker.port)
            + &recording.device_config(port)
            + &recording.model_config(bundle)),
    )?;
    gateway.start()?;
    let last = recording.roles.len() - 1;
    let (last_tag, rows) = (recording.tag(last), recording.rows.len());
    subscriber.wait("every row", REPLAY, |got| {
        got.of_tag("plant", &last_tag)
            .filter(|sample| sample.quality.is_none())
            .count()
            >= rows
    })?;
    gateway.terminate()?;
    let got = subscriber.stop();
    assert_eq!(got.violations, Vec::<String>::new());
    Ok(got)
}

/// Each tag brought its column: every row once, in order. After its end the replay may hold its last row.
fn rows_are_exact(got: &Received, recording: &Recording) -> Result<()> {
    for column in 0..recording.roles.len() {
        let tag = recording.tag(column);
        let came: Vec<f32> = got
            .of_tag("plant", &tag)
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
    let last = recording.tag(recording.roles.len() - 1);
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

/// The stretch of the vendored series that is replayed: it ends with the machine's failure, which is labelled.
const NAB_ROWS: std::ops::Range<usize> = 15_000..19_500;

#[test]
fn the_vendored_series_arrives_exactly_and_its_failure_is_found() -> Result<()> {
    let series = fixture("data/nab/machine_temperature_system_failure.csv");
    let mut recording = Recording::read(&series, ',', 1..2)?;
    let labelled = labelled_rows(&series)?;
    recording.rows.truncate(NAB_ROWS.end);
    recording.rows.drain(..NAB_ROWS.start);
    recording.roles = vec!["temperature".to_owned()];

    let directory = tempfile::tempdir()?;
    let got = replay(
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
        .any(|row| labelled.iter().any(|window| window.contains(row)));
    assert!(
        found,
        "anomalies begin at rows {begins:?}, labelled are {labelled:?}"
    );
    Ok(())
}

/// Labelled windows as row numbers.
fn labelled_rows(series: &Path) -> Result<Vec<std::ops::RangeInclusive<usize>>> {
    let labels = std::fs::read_to_string(fixture("data/nab/combined_windows.json"))?;
    let labels: serde_json::Value = serde_json::from_str(&labels)?;
    let windows = labels["realKnownCause/machine_temperature_system_failure.csv"]
        .as_array()
        .context("labels")?;
    let text = std::fs::read_to_string(series)?;
    // The time stamps have one fixed form, so that they sort as text.
    let stamps: Vec<&str> = text
        .lines()
        .skip(1)
        .filter_map(|line| line.split(',').next())
        .collect();
    windows
        .iter()
        .map(|window| {
            let edge = |at: usize| {
                window[at]
                    .as_str()
                    .and_then(|stamp| stamp.get(..19))
                    .context("a time stamp")
            };
            let (first, last) = (edge(0)?, edge(1)?);
            Ok(stamps.partition_point(|stamp| *stamp < first)
                ..=stamps.partition_point(|stamp| *stamp <= last) - 1)
        })
        .collect()
}
