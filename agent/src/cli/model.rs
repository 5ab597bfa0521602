//! `millrace model`: versions of model bundles.

use std::process::ExitCode;

use clap::Subcommand;

use super::later::AnyArgs;
use super::{Global, Later};

mod bench;
mod calibrate;
mod eval;
mod which;

/// What can be done with bundles.
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
    Calibrate(calibrate::CalibrateArgs),
    Eval(eval::EvalArgs),
    Bench(bench::BenchArgs),
}

impl ModelCommand {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let configure =
            "set `bundle` of the `[[model]]` in the configuration and restart the agent";
        let later = match self {
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
            ModelCommand::Calibrate(args) => return args.run(global),
            ModelCommand::Eval(args) => return args.run(global),
            ModelCommand::Bench(args) => return args.run(global),
        };
        later.refuse()
    }
}
