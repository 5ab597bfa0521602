//! `millrace buffer export`: stored records as a file for other programs.

use std::fs::File;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use millrace_tags::LogKind;

use super::super::{Failure, Global, show};
use super::store::{self, Step};
use super::{Log, note_outcome};
use crate::stored::{Format, Request};

/// Write stored records as CSV or JSON lines
///
/// A running agent is asked for them; where none listens, its data directory is read. Only what is
/// committed is there: what came in the last second may be missing.
#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// Only tags whose full name matches, for example 'boiler/*'
    #[arg(long, value_name = "PATTERN")]
    tag: Option<String>,
    /// Only devices and models whose name matches
    #[arg(long, value_name = "PATTERN")]
    source: Option<String>,
    /// Not before this time: 2026-11-21T08:00:00Z, Unix milliseconds, or 2h for two hours ago
    #[arg(long, value_name = "TIME", value_parser = time)]
    from: Option<i64>,
    /// Not after this time
    #[arg(long, value_name = "TIME", value_parser = time)]
    to: Option<i64>,
    /// Samples, or events
    #[arg(long, value_enum, default_value_t = Log::Data)]
    log: Log,
    /// How to write them
    #[arg(long, value_enum, default_value_t = Format::Csv)]
    format: Format,
    /// Write to this file instead of stdout
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl ExportArgs {
    pub(super) fn run(&self, global: &Global) -> anyhow::Result<ExitCode> {
        let log = LogKind::from(self.log);
        if log == LogKind::Alarm && self.tag.is_some() {
            return Err(Failure::usage("events have no tag")
                .hint("--source chooses devices and models")
                .into());
        }
        let request = Request {
            log,
            format: match global.json {
                true => Format::Jsonl,
                false => self.format,
            },
            source: self.source.clone(),
            tag: self.tag.clone(),
            from: self.from,
            to: self.to,
            count: None,
            newest: false,
        };
        let mut out: Box<dyn Write> = match &self.output {
            None => Box::new(std::io::stdout().lock()),
            Some(path) => Box::new(File::create(path).map_err(|error| {
                Failure::new(format!("cannot write {}", path.display())).because(error)
            })?),
        };
        let progress = Bar::new(self.output.is_some() || !std::io::stdout().is_terminal());
        let outcome = store::records(global, &request, &mut out, |step| progress.step(step))?;
        out.flush()?;
        progress.end();
        if self.output.is_some() {
            eprintln!("{} records", show::count(outcome.records));
        }
        note_outcome(outcome);
        Ok(ExitCode::SUCCESS)
    }
}

/// A time as Unix nanoseconds.
pub(in crate::cli) fn time(text: &str) -> Result<i64, String> {
    if let Ok(ms) = text.parse::<i64>() {
        return Ok(ms.saturating_mul(1_000_000));
    }
    let ago = humantime::parse_duration(text).ok();
    let time = match ago {
        Some(ago) => SystemTime::now().checked_sub(ago),
        None => humantime::parse_rfc3339_weak(text).ok(),
    };
    let since_1970 = time.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    since_1970
        .and_then(|time| i64::try_from(time.as_nanos()).ok())
        .ok_or_else(|| {
            "expected 2026-11-21T08:00:00Z, Unix milliseconds, or a duration such as 2h".to_owned()
        })
}

/// Progress on stderr, where that is a terminal and data do not go there as well.
struct Bar(ProgressBar);

impl Bar {
    fn new(shown: bool) -> Self {
        let target = match shown && std::io::stderr().is_terminal() {
            true => ProgressDrawTarget::stderr_with_hz(5),
            false => ProgressDrawTarget::hidden(),
        };
        let bar = ProgressBar::with_draw_target(None, target);
        // A running agent does not say how much will come.
        bar.set_style(
            ProgressStyle::with_template("{spinner} {bytes} ({bytes_per_sec})")
                .unwrap_or_else(|_| ProgressStyle::default_spinner()),
        );
        Self(bar)
    }

    fn step(&self, step: Step) {
        match step {
            Step::Sent(bytes) => self.0.inc(bytes as u64),
            Step::Read(progress) => {
                if self.0.length() != Some(progress.total_bytes) {
                    self.0.set_length(progress.total_bytes);
                    self.0.set_style(
                        ProgressStyle::with_template("{bar:40} {percent} % {eta}")
                            .unwrap_or_else(|_| ProgressStyle::default_bar()),
                    );
                }
                self.0.set_position(progress.done_bytes);
            }
        }
    }

    fn end(&self) {
        self.0.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_absolute_or_ago() {
        assert_eq!(time("1763690000123"), Ok(1_763_690_000_123_000_000));
        assert_eq!(time("2025-11-21T01:53:20Z"), Ok(1_763_690_000_000_000_000));
        let hour_ago = time("1h").unwrap();
        assert!(time("0").unwrap() < hour_ago && hour_ago < time("1s").unwrap());
        assert!(time("yesterday").unwrap_err().contains("2h"));
    }
}
