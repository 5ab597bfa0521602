//! Commands that a later version brings: they parse, and say in one sentence what to use meanwhile.

use std::process::ExitCode;

use clap::Args;

use super::Failure;

/// Whatever follows a command that is not there yet.
#[derive(Debug, Args)]
pub(crate) struct AnyArgs {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    _rest: Vec<String>,
}

/// A command that is not in this version.
pub(crate) struct Later {
    command: &'static str,
    meanwhile: &'static str,
}

impl Later {
    /// The command as typed, and what to do until it is there.
    pub(crate) fn new(command: &'static str, meanwhile: &'static str) -> Self {
        Self { command, meanwhile }
    }

    /// The refusal: exit 1.
    pub(crate) fn refuse(self) -> anyhow::Result<ExitCode> {
        Err(Failure::new(format!(
            "`millrace {}` is not in this version yet; {}",
            self.command, self.meanwhile
        ))
        .into())
    }

    /// The refusal of a command whose feature was not built in.
    #[cfg(not(feature = "sim"))]
    pub(crate) fn left_out(command: &str) -> anyhow::Result<ExitCode> {
        Err(Failure::new(format!(
            "`millrace {command}` is not in this build; build with the feature `sim`, which is on by default"
        ))
        .into())
    }
}
