//! `millrace model promote|rollback|remove`: which version runs.

use std::process::ExitCode;

use clap::Args;
use serde_json::Value;

use super::Which;
use crate::cli::client::Client;
use crate::cli::{Global, output};
use crate::shelf::{ModelAction, ModelRequest};

/// Make a version the live one
///
/// Where it does not start, the version before goes on and the reason is told.
#[derive(Debug, Args)]
pub(crate) struct PromoteArgs {
    /// Its version or digest, as `millrace model list` shows them
    version: String,
    #[command(flatten)]
    which: Which,
    /// Also a version below the one that runs
    #[arg(long)]
    allow_downgrade: bool,
}

/// Score with a version beside the live one
///
/// Its scores are compared with those of the live one in `millrace status`, and go nowhere else. It is there again after a
/// restart.
#[derive(Debug, Args)]
pub(crate) struct ShadowArgs {
    /// Its version or digest, as `millrace model list` shows them
    #[arg(required_unless_present = "stop")]
    version: Option<String>,
    /// Stop the one that scores beside the live one
    #[arg(long, conflicts_with = "version")]
    stop: bool,
    #[command(flatten)]
    which: Which,
}

/// Go back to the version before
///
/// Once more goes back further, up to four versions.
#[derive(Debug, Args)]
pub(crate) struct RollbackArgs {
    #[command(flatten)]
    which: Which,
}

/// Take a version off the shelf
///
/// Never the one that runs, nor the one to go back to.
#[derive(Debug, Args)]
pub(crate) struct RemoveArgs {
    /// Its version or digest, as `millrace model list` shows them
    version: String,
    #[command(flatten)]
    which: Which,
}

impl PromoteArgs {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let request = ModelRequest {
            model: self.which.model,
            action: ModelAction::Promote,
            version: Some(self.version),
            allow_downgrade: self.allow_downgrade,
        };
        ask(global, &request, "runs")
    }
}

impl ShadowArgs {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let done = match self.stop {
            true => "does not score beside the live one any more",
            false => "scores beside the live one",
        };
        let request = ModelRequest {
            model: self.which.model,
            action: ModelAction::Shadow,
            version: self.version,
            allow_downgrade: false,
        };
        ask(global, &request, done)
    }
}

impl RollbackArgs {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let request = ModelRequest {
            model: self.which.model,
            action: ModelAction::Rollback,
            version: None,
            allow_downgrade: false,
        };
        ask(global, &request, "runs again")
    }
}

impl RemoveArgs {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let request = ModelRequest {
            model: self.which.model,
            action: ModelAction::Remove,
            version: Some(self.version),
            allow_downgrade: false,
        };
        ask(global, &request, "is off the shelf")
    }
}

fn ask(global: &Global, request: &ModelRequest, done: &str) -> anyhow::Result<ExitCode> {
    let told: Value = Client::new(global).post("/v1/models", request)?;
    if global.json {
        output::json(&told)?;
    } else {
        let text = |key: &str| told[key].as_str().unwrap_or("-").to_owned();
        let soon = match told["state"].as_str() {
            Some("scores") | None => String::new(),
            Some(state) => format!(" ({state})"),
        };
        output::text(&format!(
            "{} {} {done}{soon}.\n",
            text("name"),
            text("version")
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}
