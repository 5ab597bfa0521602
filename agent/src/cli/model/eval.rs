//! `millrace model eval`: a model on recorded data, by the code that runs it live.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgGroup, Args};
use millrace_inference::eval::{Evaluation, Figures, LabelledRow, Run, plot};
use millrace_inference::{Grid, Monitor, Threshold};
use millrace_tags::{Moment, Reason, Sample, TagId, Value};

use super::super::{Failure, Global, output, show};
use super::which::{self, Found};
use crate::config;

mod file;
mod report;
mod stored;
mod table;

use file::CsvFile;
use report::Report;
use stored::Samples;

/// From one row to the next where the data have no time and the model takes a row a poll cycle.
const SCAN_EVERY: Duration = Duration::from_secs(1);

/// Score recorded data and print windows and events
///
/// The data are a CSV file with one row a time, a file that `millrace buffer export` wrote, or what this gateway itself has
/// stored. They take the same way as live samples: grid, gaps, window, threshold, decision. With --labels it says how good
/// the events are: F1, false alarm rate and missed alarm rate by two rules (interval: what was known once an event was over; causal:
/// what was known at the time), and the delay of each detection. What learns, a detector of this program or a threshold, learns from the
/// first windows of the data, as it would on a gateway that sees them first; --skip leaves them out of the figures.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("data").required(true))]
pub(crate) struct EvalArgs {
    /// A bundle (directory or tar file), the name of a configured model or, with --inputs, a detector of this program such as pca
    #[arg(value_name = "BUNDLE|NAME|DETECTOR")]
    model: String,
    /// What the detector of this program looks at: a role each, called like its column, or named with it: pressure,flow=f1
    #[arg(long, value_name = "ROLE[=COLUMN]", num_args = 1.., value_delimiter = ',')]
    inputs: Vec<String>,
    /// A key of `[[model]]` for the detector, such as train=400, grid=scan or limits={flow=5}
    #[arg(long, value_name = "KEY=VALUE", num_args = 1.., requires = "inputs", value_parser = key)]
    set: Vec<(String, String)>,
    /// Data: a heading, then one row a time with a column for each input; or an export of the store
    #[arg(long, value_name = "FILE", group = "data")]
    csv: Option<PathBuf>,
    /// Data: what the running agent has stored or, where none listens, its data directory
    #[arg(long, group = "data")]
    from_buffer: bool,
    /// Column of times [default: time, timestamp, datetime … where there is one; else rows are one grid step apart]
    #[arg(long, value_name = "COLUMN", requires = "csv")]
    time: Option<String>,
    /// Rows are so far apart, whatever their times say: for files whose clock jumps
    #[arg(long, value_name = "DURATION", requires = "csv", conflicts_with = "time", value_parser = humantime::parse_duration)]
    every: Option<Duration>,
    /// Column of an input that is not called like its role; with stored samples its tag: pressure=boiler/p1
    #[arg(long, value_name = "ROLE=COLUMN", num_args = 1.., value_parser = pair)]
    map: Vec<(String, String)>,
    /// Column that says which rows are anomalous: 0 is normal
    #[arg(long, value_name = "COLUMN", requires = "csv")]
    labels: Option<String>,
    /// The first N rows are scored but not counted in the figures, for they trained the model
    #[arg(long, value_name = "N", default_value_t = 0, requires = "labels")]
    skip: usize,
    /// Stored samples not before this time: 2026-11-21T08:00:00Z, Unix milliseconds, or 2h for two hours ago
    #[arg(long, value_name = "TIME", conflicts_with = "csv", value_parser = super::super::buffer::time)]
    since: Option<i64>,
    /// Stored samples not after this time
    #[arg(long, value_name = "TIME", conflicts_with = "csv", value_parser = super::super::buffer::time)]
    until: Option<i64>,
    /// Try another threshold than the bundle's
    #[arg(long, value_name = "SCORE", value_parser = threshold)]
    threshold: Option<f64>,
    /// Print every window, too
    #[arg(long)]
    windows: bool,
    /// Draw score, threshold, labels and events
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

/// What is fed to which input.
struct Wanted {
    /// Roles of the inputs, in order.
    roles: Vec<String>,
    /// Role and column or tag, where they are not called the same.
    map: Vec<(String, String)>,
    /// The column of times, where it is named.
    time: Option<String>,
    /// From one row to the next, whatever the times say.
    every: Option<Duration>,
    /// The same, where there are no times.
    untimed: Duration,
    /// The column of labels.
    labels: Option<String>,
}

impl Wanted {
    fn mapped(&self, role: &str) -> Option<&str> {
        let given = self.map.iter().find(|(of, _)| of == role);
        given.map(|(_, name)| name.as_str())
    }
}

impl EvalArgs {
    pub(super) fn run(&self, global: &Global) -> anyhow::Result<ExitCode> {
        if let Some(plot) = &self.plot
            && plot.extension().is_none_or(|extension| extension != "svg")
        {
            let other = format!("{} is no .svg file", plot.display());
            return Err(Failure::usage(other)
                .hint("plots are SVG, which every browser shows")
                .into());
        }
        let found = self.find(global)?;
        let wanted = self.wanted(&found)?;
        let (evaluation, rows, labels) = match &self.csv {
            Some(path) => self.of_file(path, &found, &wanted)?,
            None => self.of_buffer(&found, &wanted, global)?,
        };
        let counted = labels.get(self.skip..).unwrap_or_default();
        if self.labels.is_some() && counted.is_empty() {
            let none = format!("--skip {} leaves no row with a label", self.skip);
            return Err(Failure::usage(none).into());
        }
        if let Some(path) = &self.plot {
            self.draw(path, &found, &evaluation, &labels)?;
        }
        let report = Report {
            found: &found,
            data: self.data_name(),
            rows,
            evaluation: &evaluation,
            figures: (!counted.is_empty()).then(|| Figures::new(&evaluation, counted)),
            windows: self.windows,
        };
        match global.json {
            true => output::json(&report.json())?,
            false => output::text(&report.text())?,
        }
        Ok(ExitCode::SUCCESS)
    }

    /// The model that is meant.
    fn find(&self, global: &Global) -> Result<Found, Failure> {
        if self.inputs.is_empty() {
            return which::find(&self.model, global);
        }
        let roles: Vec<&str> = self.inputs.iter().map(|input| role(input)).collect();
        let detector = config::detector(&self.model, &roles, &self.set);
        detector.map(Found::detector).map_err(|problems| {
            let said: Vec<&str> = problems.iter().map(|it| it.message.as_str()).collect();
            let hint = problems.iter().find_map(|it| it.hint.clone());
            let hint =
                hint.unwrap_or_else(|| "docs/configuration.md has the keys of [[model]]".into());
            Failure::usage(said.join("; ")).hint(hint)
        })
    }

    fn data_name(&self) -> String {
        match &self.csv {
            Some(path) => path.display().to_string(),
            None => "stored samples".to_owned(),
        }
    }

    fn wanted(&self, found: &Found) -> Result<Wanted, Failure> {
        let spec = found.spec();
        let roles: Vec<String> = spec.inputs.iter().map(|it| it.role.clone()).collect();
        if let Some((role, _)) = self.map.iter().find(|(role, _)| !roles.contains(role)) {
            return Err(Failure::usage(format!("the model has no input {role}"))
                .hint(format!("its roles are {}", roles.join(", "))));
        }
        let mut map = self.map.clone();
        map.extend(self.inputs.iter().filter_map(|input| pair(input).ok()));
        if self.from_buffer {
            let configured = found.inputs.iter();
            map.extend(configured.map(|(role, tag)| (role.clone(), tag.clone())));
        }
        let window = &spec.window;
        let untimed = match window.grid {
            Grid::Every(step) => step,
            Grid::Scan => SCAN_EVERY.min(window.max_gap),
        };
        Ok(Wanted {
            roles,
            map,
            every: self.every,
            untimed,
            time: self.time.clone(),
            labels: self.labels.clone(),
        })
    }

    fn new_run(&self, found: &Found) -> Result<Run, Failure> {
        let mut spec = found.spec();
        if let Some(threshold) = self.threshold {
            spec.threshold = Threshold::Fixed(threshold);
        }
        Ok(Run::new(Monitor::of(&spec, found.scorer()?)))
    }

    fn of_file(
        &self,
        path: &Path,
        found: &Found,
        wanted: &Wanted,
    ) -> Result<(Evaluation, u64, Vec<LabelledRow>), Failure> {
        let file = CsvFile::open(path)?;
        if file.place.is_export() && self.labels.is_none() {
            let mut samples = Samples::new(wanted)?;
            samples.take_export(file)?;
            let rows = samples.count() as u64;
            let evaluation = self.of_samples(samples, found)?;
            return Ok((evaluation, rows, Vec::new()));
        }
        let mut run = self.new_run(found)?;
        let fed = table::feed(file, wanted, &mut run)?;
        Ok((run.finish(), fed.rows, fed.labels))
    }

    fn of_buffer(
        &self,
        found: &Found,
        wanted: &Wanted,
        global: &Global,
    ) -> anyhow::Result<(Evaluation, u64, Vec<LabelledRow>)> {
        let mut samples = Samples::new(wanted)?;
        for source in samples.sources() {
            super::super::buffer::exact_samples(
                global,
                &source,
                (self.since, self.until),
                |sample| Ok(samples.take(sample)?),
            )?;
        }
        let rows = samples.count() as u64;
        Ok((self.of_samples(samples, found)?, rows, Vec::new()))
    }

    fn of_samples(&self, samples: Samples, found: &Found) -> Result<Evaluation, Failure> {
        let absent = samples.absent();
        if !absent.is_empty() {
            return Err(
                Failure::usage(format!("there is no sample of {}", absent.join(", "))).hint(
                    "`millrace buffer peek 'DEVICE/*'` shows what is stored; --map ROLE=DEVICE/TAG names another tag",
                ),
            );
        }
        samples.feed(|| self.new_run(found))
    }

    fn draw(
        &self,
        path: &Path,
        found: &Found,
        evaluation: &Evaluation,
        labels: &[LabelledRow],
    ) -> Result<(), Failure> {
        let spec = found.spec();
        let title = format!("{} {} on {}", spec.name, spec.version, self.data_name());
        let time = |at: Moment| show::utc(at.0 as f64 / 1e6);
        let svg = plot::svg(&title, evaluation, labels, time);
        std::fs::write(path, svg).map_err(|error| {
            Failure::new(format!("cannot write {}", path.display())).because(error)
        })
    }
}

/// A sample of a time; without a value it is bad.
fn sample(value: Option<f64>, at: Moment) -> Sample {
    match value {
        Some(value) => Sample::good(TagId(0), Value::F64(value), at),
        None => Sample::bad(TagId(0), Reason::NotANumber, at),
    }
}

/// `role=column`
fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((role, column)) if !role.is_empty() && !column.is_empty() => {
            Ok((role.trim().to_owned(), column.trim().to_owned()))
        }
        _ => Err("expected ROLE=COLUMN, such as pressure=p1".to_owned()),
    }
}

/// `pressure` of `pressure=p1`, or all of it.
fn role(input: &str) -> &str {
    input.split_once('=').map_or(input, |(role, _)| role).trim()
}

/// `key=value`
fn key(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=');
    let pair = pair.filter(|(key, value)| !key.is_empty() && !value.is_empty());
    let (key, value) = pair.ok_or("expected KEY=VALUE, such as train=400")?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}

fn threshold(text: &str) -> Result<f64, String> {
    let number = text.parse().ok();
    let number = number.filter(|n: &f64| n.is_finite() && *n > 0.0);
    number.ok_or_else(|| "expected a number above 0".to_owned())
}

#[cfg(test)]
mod tests;
