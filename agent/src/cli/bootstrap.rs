//! `millrace bootstrap`: first contact with a cloud core.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};

use super::client::Client;
use super::{Failure, Global, output, status};
use crate::api::BootstrapRequest;
use crate::bootstrap::Wish;
use crate::report::BootstrapStatus;

/// How long `run` watches what comes of it.
const WATCH: Duration = Duration::from_secs(20);

/// What can be done about the first contact.
#[derive(Debug, Subcommand)]
pub(crate) enum BootstrapCommand {
    /// Ask the core now, and say what comes of it
    Run,
    /// How far it is and what it waits for
    Status,
    Reset(ResetArgs),
}

/// Forget the enrolment, and ask for one anew
///
/// Credentials and the core's configuration are removed; devices and uplinks of local files run on. For root and the
/// service user only. A one-time key that was used cannot be used again: have a new one at hand.
#[derive(Debug, Args)]
pub(crate) struct ResetArgs {
    /// Yes, forget it
    #[arg(long)]
    yes: bool,
}

impl BootstrapCommand {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        match self {
            BootstrapCommand::Run => ask(global, Wish::Run),
            BootstrapCommand::Status => {
                show(global, status::fetch(global)?.bootstrap.as_ref())?;
                Ok(ExitCode::SUCCESS)
            }
            BootstrapCommand::Reset(ResetArgs { yes: true }) => ask(global, Wish::Reset),
            BootstrapCommand::Reset(_) => Err(Failure::usage(
                "this forgets credentials and configuration that came from the core",
            )
            .hint("--yes does it")
            .into()),
        }
    }
}

/// Has it done, and watches until the agent has an answer.
fn ask(global: &Global, wish: Wish) -> anyhow::Result<ExitCode> {
    let client = Client::new(global);
    let before: Option<BootstrapStatus> =
        client.post("/v1/bootstrap", &BootstrapRequest { wish })?;
    let began = Instant::now();
    loop {
        std::thread::sleep(Duration::from_millis(250));
        let now = status::fetch(global)?.bootstrap;
        if now != before || began.elapsed() >= WATCH {
            show(global, now.as_ref())?;
            let good = now.is_none_or(|now| matches!(now.state.as_str(), "ready" | "trial"));
            return Ok(match good || wish == Wish::Reset {
                true => ExitCode::SUCCESS,
                false => ExitCode::FAILURE,
            });
        }
    }
}

fn show(global: &Global, bootstrap: Option<&BootstrapStatus>) -> anyhow::Result<()> {
    if global.json {
        return output::json(&bootstrap);
    }
    match bootstrap {
        Some(bootstrap) => output::text(&status::bootstrap_line(bootstrap))?,
        None => output::text("No [bootstrap] is configured, and no claim was brought.\n")?,
    }
    Ok(())
}
