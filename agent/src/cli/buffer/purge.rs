//! `millrace buffer purge`: throws stored data away.

use std::io::{BufRead, IsTerminal, Write};
use std::os::unix::fs::MetadataExt;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use millrace_buffer::{Buffer, OpenError, Purge, Purged, Settings, WhenFull};
use millrace_tags::{LogKind, SystemClock, Timestamp};
use nix::unistd::Uid;

use super::super::{Failure, Global, output, show};
use super::export::time;
use super::{Log, store};
use crate::device::chain;
use crate::report::PurgeRequest;

/// Throw stored data away, sent or not
///
/// What an uplink has not sent is counted as `purged` and announced to it. Whole files of the store go, so a
/// little more may stay than TIME says. Asks before it does it; on a running agent for root and the service
/// user only.
#[derive(Debug, Args)]
pub(crate) struct PurgeArgs {
    /// Only what is older: 2026-11-21T08:00:00Z, Unix milliseconds, or a duration such as 7d
    #[arg(long, value_name = "TIME", value_parser = time)]
    before: Option<i64>,
    /// Only samples, or only events
    #[arg(long, value_enum)]
    log: Option<Log>,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

impl PurgeArgs {
    pub(super) fn run(&self, global: &Global) -> anyhow::Result<ExitCode> {
        if !self.yes && !confirmed(&self.question())? {
            eprintln!("nothing was thrown away");
            return Ok(ExitCode::FAILURE);
        }
        let log = self.log.map(LogKind::from);
        let request = PurgeRequest {
            before_ms: self.before.map(|nanoseconds| nanoseconds / 1_000_000),
            log,
        };
        let client = store::client(global);
        let purged = match client.post_if_running("/v1/buffer/purge", &request)? {
            Some(purged) => purged,
            None => {
                let before = request.before_ms.map(Timestamp::from_unix_ms);
                stopped(global, Purge { before, log })?
            }
        };
        if global.json {
            output::json(&purged)?;
        } else {
            output::text(&render(&purged))?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn question(&self) -> String {
        let what = match self.log {
            None => "all samples and events",
            Some(Log::Data) => "all samples",
            Some(Log::Alarm) => "all events",
        };
        let when = match self.before {
            None => "",
            Some(_) => " that are older than --before",
        };
        format!("This throws {what}{when} away, sent or not. Type yes to do it: ")
    }
}

/// Asks on the terminal.
fn confirmed(question: &str) -> anyhow::Result<bool> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Err(Failure::usage("there is no terminal to ask on")
            .hint("--yes throws the data away without a question")
            .into());
    }
    let mut stderr = std::io::stderr();
    write!(stderr, "{question}")?;
    stderr.flush()?;
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer)?;
    Ok(answer.trim() == "yes")
}

/// Opens the store of an agent that does not run.
fn stopped(global: &Global, purge: Purge) -> anyhow::Result<Purged> {
    let dir = store::buffer_dir(global);
    let hint =
        "no agent listens, so its directory is opened: --data-dir or --config names another one";
    let owner = std::fs::metadata(&dir).map_err(|error| {
        let failure = Failure::new(format!("there is no store in {}", dir.display()));
        failure.because(error).hint(hint)
    })?;
    if owner.uid() != Uid::effective().as_raw() {
        let message = format!("the store in {} belongs to another user", dir.display());
        return Err(Failure::new(message)
            .hint("the agent could not write what you leave there: run this as its user, for example `sudo -u millrace`")
            .into());
    }
    // Nothing may go but what is asked for, whatever the limits of the agent are.
    let settings = Settings {
        max_bytes: u64::MAX / 2,
        when_full: WhenFull::DropNewest,
        alarm_when_full: WhenFull::DropNewest,
        keep: Duration::MAX,
        ..Settings::new(&dir)
    };
    let opened = Buffer::open(settings, Arc::new(SystemClock::new()));
    let buffer = opened.map_err(|error| match error {
        OpenError::Locked { .. } => Failure::new(chain(&error))
            .hint("an agent has it, but does not listen where it was looked for: --socket names its socket"),
        error => Failure::new(chain(&error)).hint(hint),
    })?;
    let purged = buffer.purge(purge);
    buffer.close()?;
    Ok(purged?)
}

fn render(purged: &Purged) -> String {
    if purged.epochs == 0 {
        return "Nothing was there to throw away.\n".to_owned();
    }
    let bytes = show::bytes(purged.bytes);
    let mut text = format!("{} epochs with {bytes} are gone.\n", purged.epochs);
    for (uplink, records) in &purged.unsent {
        let records = show::count(*records);
        text.push_str(&format!(
            "{uplink} is told of {records} records that it never got.\n"
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn what_went() {
        let text = render(&Purged {
            epochs: 12,
            bytes: 48 << 20,
            unsent: BTreeMap::from([("cloud".to_owned(), 120_010)]),
        });
        insta::assert_snapshot!(text, @"
        12 epochs with 48.0 MiB are gone.
        cloud is told of 120,010 records that it never got.
        ");
    }

    #[test]
    fn a_stopped_store_is_opened_and_left_clean() {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("buffer");
        let clock = Arc::new(SystemClock::new());
        let buffer = Buffer::open(Settings::new(&store), clock.clone()).unwrap();
        let boiler = buffer.register("boiler", millrace_tags::SourceKind::Device, &[]);
        let message = "hot".to_owned();
        buffer.append_event(
            boiler.source,
            millrace_tags::Event {
                state: millrace_tags::EventState::Begin,
                at: millrace_tags::Moment(1),
                start: millrace_tags::Moment(1),
                end: None,
                detail: millrace_tags::EventDetail::alarm(message),
            },
        );
        buffer.close().unwrap();
        let line = ["millrace", "buffer", "purge", "--yes", "--data-dir"];
        let args = line.iter().map(std::ffi::OsStr::new);
        let cli = <super::super::super::Cli as clap::Parser>::try_parse_from(
            args.chain([dir.path().as_os_str()]),
        )
        .unwrap();
        cli.command.run(&cli.global).unwrap();
        let buffer = Buffer::open(Settings::new(&store), clock).unwrap();
        assert!(buffer.recovery().clean);
        let row = buffer.verify().unwrap().events["boiler"].clone();
        let purged = row.dropped[&millrace_tags::DropReason::Purged];
        assert_eq!((row.queued, purged), (0, 1));
    }
}
