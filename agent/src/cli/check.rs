//! `millrace check`: every problem of the configuration at once.

use std::process::ExitCode;

use clap::Args;

use super::{Failure, Global};

/// Check the configuration: every problem at once, exit 0 or 2
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Try devices and brokers too
    #[arg(long)]
    live: bool,
}

impl CheckArgs {
    pub(super) fn run(&self, _global: &Global) -> anyhow::Result<ExitCode> {
        if self.live {
            return Err(Failure::new(
                "`millrace check --live` is not in this version yet; `millrace device test NAME` and \
                 `millrace uplink test NAME` try them from the running agent",
            )
            .into());
        }
        anyhow::bail!("soon")
    }
}
