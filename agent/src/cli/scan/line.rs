//! `millrace scan serial`: the settings of a line, and its units.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use millrace_drivers::modbus::scan::{self, FoundUnit, LineFound, LineSearch, Progress};
use millrace_drivers::modbus::{Caller, Parity, SerialSettings};

use super::super::reach::{self, Way};
use super::super::target::Target;
use super::super::{Failure, Global, output, show};
use super::printed::{line_config, stable_name, units_csv};
use super::progress::{Bar, stopped};
use super::report::Report;
use super::{Units, about, no_way, units, verdict};

/// Find the settings of a serial line and its units
///
/// Common settings and low units come first. Any answer counts, also a refusal. Prints the configuration of
/// what was found; Ctrl-C ends the search and prints what was found so far. On a line that the running agent
/// holds only its units are searched for, between the turns of its devices.
#[derive(Debug, Args)]
pub(crate) struct SerialArgs {
    /// The port, or a line of the running agent
    #[arg(value_name = "PORT|LINE")]
    port: String,
    /// Rates to try [default: 9600,19200,38400,115200,57600,4800,2400,1200]
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(300..=4_000_000))]
    baud: Vec<u32>,
    /// Parity and stop bits to try [default: 8N1,8E1,8O1,8N2]
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = frame)]
    frame: Vec<(Parity, u8)>,
    /// Units to ask
    #[arg(long, value_name = "LIST", default_value = "1-247", value_parser = units)]
    units: Units,
    /// How long a unit may take to answer
    #[arg(long, value_name = "DURATION", default_value = "200ms", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// Print unit,exception,identification lines instead of configuration
    #[arg(long)]
    csv: bool,
}

impl SerialArgs {
    pub(super) async fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let agent = reach::agent(global).await;
        if let Some(line) = agent.line(&self.port).cloned() {
            if !self.baud.is_empty() || !self.frame.is_empty() {
                let failure = Failure::new(format!(
                    "the agent holds {} at {}; other settings would cut off its devices",
                    line.port,
                    line.settings.as_deref().unwrap_or("its settings")
                ));
                return Err(failure
                    .hint("leave --baud and --frame out to find its units, or stop the agent")
                    .into());
            }
            let mut report = Report {
                at: line.port.clone(),
                line: Some(line.name.clone()),
                settings: line.settings.clone(),
                ..Report::default()
            };
            let way = reach::through(line, self.timeout, global).await?;
            let mut found = Vec::new();
            let looking = self.units_of(way, &mut found, &mut report);
            report.interrupted = stopped(looking).await?;
            report.keep(&found);
            return self.print(&report, None, global);
        }
        if !self.port.starts_with('/') {
            return Err(Failure::usage(format!(
                "{} is neither a port nor a line of a running agent",
                self.port
            ))
            .hint("ports are paths such as /dev/ttyUSB0; `millrace status` lists the devices")
            .into());
        }
        self.search(global).await
    }

    async fn units_of(
        &self,
        mut way: Way,
        found: &mut Vec<FoundUnit>,
        report: &mut Report,
    ) -> anyhow::Result<()> {
        let bar = Bar::new();
        let mut tell = |progress: Progress| bar.show(&progress);
        scan::find_units(
            &mut way.caller,
            &self.units.0,
            self.timeout,
            found,
            &mut tell,
        )
        .await
        .map_err(no_way)?;
        for unit in found {
            report.units.push(about(&mut way.caller, unit).await?);
        }
        Ok(())
    }

    async fn search(&self, global: &Global) -> anyhow::Result<ExitCode> {
        let bauds = match self.baud.as_slice() {
            [] => &scan::BAUDS[..],
            given => given,
        };
        let frames = match self.frame.as_slice() {
            [] => &scan::FRAMES[..],
            given => given,
        };
        let search = LineSearch {
            candidates: scan::candidates(&self.port, bauds, frames),
            units: self.units.0.clone(),
            timeout: self.timeout,
            clock: reach::clock(),
        };
        let bar = Bar::new();
        bar.say(&format!(
            "{} settings, {} units each: at most {}; Ctrl-C ends it",
            search.candidates.len(),
            search.units.len(),
            show::seconds(search.longest().as_secs()),
        ));
        let mut found = LineFound::default();
        let interrupted = stopped(async {
            let mut tell = |progress: Progress| bar.show(&progress);
            let searched = search.run(&mut found, &mut tell).await;
            Ok(searched.map_err(no_way)?)
        })
        .await?;
        let mut report = Report {
            at: stable_name(&self.port),
            settings: found.settings.as_ref().map(ToString::to_string),
            noise_at: found.noise.iter().map(ToString::to_string).collect(),
            interrupted,
            ..Report::default()
        };
        if let Some(settings) = &found.settings {
            let clock = reach::clock();
            let mut caller = Caller::serial(settings.clone(), self.timeout, &clock);
            for unit in &found.units {
                report.units.push(about(&mut caller, unit).await?);
            }
        }
        self.print(&report, found.settings.as_ref(), global)
    }

    fn print(
        &self,
        report: &Report,
        settings: Option<&SerialSettings>,
        global: &Global,
    ) -> anyhow::Result<ExitCode> {
        if global.json {
            output::json(report)?;
        } else if self.csv {
            output::text(&units_csv(report))?;
        } else {
            output::text(&line_config(report, settings))?;
        }
        Ok(verdict(report))
    }
}

fn frame(text: &str) -> Result<(Parity, u8), String> {
    Target::frame(text).ok_or_else(|| format!("{text:?} is none of 8N1, 8E1, 8O1, 8N2, 8E2, 8O2"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_checked() {
        assert_eq!(frame("8E2"), Ok((Parity::Even, 2)));
        assert!(frame("7E1").is_err() && frame("8X1").is_err());
    }
}
