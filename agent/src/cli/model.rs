//! `millrace model`: versions of model bundles.

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::Global;

mod bench;
mod calibrate;
mod change;
mod eval;
mod install;
mod list;
mod new;
mod sign;
mod which;

/// What can be done with bundles.
#[derive(Debug, Subcommand)]
pub(crate) enum ModelCommand {
    New(new::NewArgs),
    Sign(sign::SignArgs),
    /// Versions on the shelf: which runs, who signed it, what it costs
    List,
    Install(install::InstallArgs),
    Shadow(change::ShadowArgs),
    Promote(change::PromoteArgs),
    Rollback(change::RollbackArgs),
    Remove(change::RemoveArgs),
    Calibrate(calibrate::CalibrateArgs),
    Eval(Box<eval::EvalArgs>),
    Bench(bench::BenchArgs),
    /// Examine a bundle for the agent, which asks on standard input
    #[command(hide = true)]
    Admit,
}

/// Which of the configured models.
#[derive(Debug, Clone, Args)]
struct Which {
    /// The configured model; may be left out where there is only one
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
}

impl ModelCommand {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        match self {
            ModelCommand::New(args) => args.run(global),
            ModelCommand::Sign(args) => args.run(global),
            ModelCommand::List => list::run(global),
            ModelCommand::Install(args) => args.run(global),
            ModelCommand::Promote(args) => args.run(global),
            ModelCommand::Rollback(args) => args.run(global),
            ModelCommand::Remove(args) => args.run(global),
            ModelCommand::Admit => crate::shelf::inspector::serve(),
            ModelCommand::Shadow(args) => args.run(global),
            ModelCommand::Calibrate(args) => args.run(global),
            ModelCommand::Eval(args) => args.run(global),
            ModelCommand::Bench(args) => args.run(global),
        }
    }
}
