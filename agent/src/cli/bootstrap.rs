//! `millrace bootstrap`: first contact with a cloud core.

use std::process::ExitCode;

use clap::Subcommand;

use super::later::AnyArgs;
use super::{Global, Later, output, status};

/// What can be done about the first contact.
#[derive(Debug, Subcommand)]
pub(crate) enum BootstrapCommand {
    /// Ask the core now
    Run(AnyArgs),
    /// How far it is and what it waits for
    Status,
    /// Forget the enrolment
    Reset(AnyArgs),
}

impl BootstrapCommand {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        match self {
            BootstrapCommand::Run(_) => Later::new(
                "bootstrap run",
                "a restart of the agent asks the core at once",
            )
            .refuse(),
            BootstrapCommand::Status => show(global),
            BootstrapCommand::Reset(_) => Later::new(
                "bootstrap reset",
                "stop the agent and remove DATA_DIR/secrets and DATA_DIR/config/cloud.toml",
            )
            .refuse(),
        }
    }
}

fn show(global: &Global) -> anyhow::Result<ExitCode> {
    let bootstrap = status::fetch(global)?.bootstrap;
    if global.json {
        output::json(&bootstrap)?;
    } else {
        match &bootstrap {
            Some(bootstrap) => output::text(&status::bootstrap_line(bootstrap))?,
            None => output::text("No [bootstrap] is configured.\n")?,
        }
    }
    Ok(ExitCode::SUCCESS)
}
