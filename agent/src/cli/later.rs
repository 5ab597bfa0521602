//! Commands that a later version brings: they parse, and say in one sentence what to use meanwhile.

use std::process::ExitCode;

use clap::{Args, Subcommand};

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

/// `model`: versions of model bundles.
#[derive(Debug, Subcommand)]
pub(crate) enum ModelCommand {
    /// Draft the manifest of a model file
    New(AnyArgs),
    /// Versions on the shelf
    List(AnyArgs),
    /// Put a bundle on the shelf
    Install(AnyArgs),
    /// Score with a version beside the live one
    Shadow(AnyArgs),
    /// Make a version the live one
    Promote(AnyArgs),
    /// Go back to the version before
    Rollback(AnyArgs),
    /// Take a version off the shelf
    Remove(AnyArgs),
    /// Find the threshold on clean windows
    Calibrate(AnyArgs),
    /// Score a CSV file and print windows and events
    Eval(AnyArgs),
    /// Measure latency and memory
    Bench(AnyArgs),
}

impl ModelCommand {
    pub(super) fn refuse(self) -> anyhow::Result<ExitCode> {
        let configure =
            "set `bundle` of the `[[model]]` in the configuration and restart the agent";
        let fixed = "set `[threshold]` in the bundle's model.toml";
        let replay =
            "`millrace sim modbus --replay FILE.csv` feeds recorded data through the agent";
        match self {
            ModelCommand::New(_) => Later::new("model new", "write model.toml by hand"),
            ModelCommand::List(_) => {
                Later::new("model list", "`millrace status` shows the models that run")
            }
            ModelCommand::Install(_) => Later::new("model install", configure),
            ModelCommand::Shadow(_) => Later::new(
                "model shadow",
                "a second `[[model]]` in the configuration scores beside the first",
            ),
            ModelCommand::Promote(_) => Later::new("model promote", configure),
            ModelCommand::Rollback(_) => Later::new("model rollback", configure),
            ModelCommand::Remove(_) => Later::new("model remove", configure),
            ModelCommand::Calibrate(_) => Later::new("model calibrate", fixed),
            ModelCommand::Eval(_) => Later::new("model eval", replay),
            ModelCommand::Bench(_) => Later::new("model bench", replay),
        }
        .refuse()
    }
}
