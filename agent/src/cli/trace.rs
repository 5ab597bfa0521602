//! `millrace trace`: frames in hex with their meaning.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use millrace_drivers::modbus::trace::Frame;

use super::client::block_on;
use super::interrupt::interrupted;
use super::listen::{Listening, Printer};
use super::{Failure, Global, output};

/// Show the frames of a device or a line in hex, with their meaning
///
/// Listens in on the running agent until Ctrl-C: -> is what it sends, <- what comes back, with the time since the
/// frame before. Of a device on a shared line only its own frames are shown; name the line to see all of them, those of
/// tools included. Polling is not slowed: where this command is too slow, it says how much it has missed.
#[derive(Debug, Args)]
pub(crate) struct TraceArgs {
    /// A Modbus device or a line of the running agent
    #[arg(value_name = "DEVICE|LINE")]
    name: String,
    /// End after this time
    #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
    for_time: Option<Duration>,
    /// End after so many frames
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

impl TraceArgs {
    pub(super) fn run(&self, global: &Global) -> anyhow::Result<ExitCode> {
        block_on(self.follow(global))
    }

    async fn follow(&self, global: &Global) -> anyhow::Result<ExitCode> {
        let interrupted = interrupted()?;
        let mut listening = Listening::begin(&self.name, global).await?;
        let mut printer = Printer::new(listening.kind(), listening.timebase());
        let mut left = self.count.unwrap_or(u64::MAX);
        let ending = ending(self.for_time, interrupted);
        tokio::pin!(ending);
        loop {
            let frames = tokio::select! {
                biased;
                frames = listening.next() => frames?,
                () = &mut ending => break,
            };
            let Some(frames) = frames else {
                return Err(not_there(&self.name).into());
            };
            left = print(&frames, &mut printer, left, global)?;
            if left == 0 {
                return Ok(ExitCode::SUCCESS);
            }
        }
        print(&listening.end(), &mut printer, left, global)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Ready when the time is over, or somebody says so.
pub(super) async fn ending(for_time: Option<Duration>, interrupted: impl Future<Output = ()>) {
    let over = async {
        match for_time {
            Some(time) => tokio::time::sleep(time).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = over => {}
        () = interrupted => {}
    }
}

/// The agent has ended the answer by itself.
pub(super) fn not_there(name: &str) -> Failure {
    Failure::new(format!(
        "{name} is not configured any more, or the agent stops"
    ))
}

/// Prints up to `left` frames; how many are left then.
fn print(
    frames: &[Frame],
    printer: &mut Printer,
    mut left: u64,
    global: &Global,
) -> anyhow::Result<u64> {
    for frame in frames {
        if left == 0 {
            break;
        }
        left -= 1;
        match global.json {
            true => output::json_line(&printer.json(frame)?)?,
            false => output::text(&printer.text(frame))?,
        }
    }
    Ok(left)
}
