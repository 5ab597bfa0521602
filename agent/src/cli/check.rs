//! `millrace check`: every problem of the configuration at once.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::{EXIT_CONFIG, Failure, Global, output};
use crate::config::{self, Loaded, Note, Problems};

/// Check the configuration: every problem at once, exit 0 or 2
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Try devices and brokers too
    #[arg(long)]
    live: bool,
}

impl CheckArgs {
    pub(super) fn run(&self, global: &Global) -> anyhow::Result<ExitCode> {
        if self.live {
            return Err(Failure::new(
                "`millrace check --live` is not in this version yet; `millrace device test NAME` and \
                 `millrace uplink test NAME` try them from the running agent",
            )
            .into());
        }
        let loaded = match config::load(global.config.as_deref(), global.data_dir.as_deref()) {
            Ok(loaded) => loaded,
            Err(problems) => return bad(&problems, global),
        };
        match config::check_surroundings(&loaded) {
            (Ok(()), notes) => good(&loaded, &notes, global),
            (Err(problems), _) => bad(&problems, global),
        }
    }
}

fn good(loaded: &Loaded, notes: &[Note], global: &Global) -> anyhow::Result<ExitCode> {
    let summary = config::summary(&loaded.config);
    let warnings: Vec<&Note> = loaded.warnings.iter().chain(notes).collect();
    if global.json {
        output::json(&json!({
            "ok": true, "problems": [], "warnings": warnings, "summary": summary,
        }))?;
    } else {
        let warnings: String = warnings.iter().map(|note| format!("{note}\n\n")).collect();
        output::text(&format!(
            "{warnings}{summary}\nThe configuration is good.\n"
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn bad(problems: &Problems, global: &Global) -> anyhow::Result<ExitCode> {
    if global.json {
        output::json(&json!({ "ok": false, "problems": problems }))?;
    } else {
        // What is wrong is the very data that was asked for, as with any linter.
        output::text(&format!("{problems}\n"))?;
    }
    Ok(ExitCode::from(EXIT_CONFIG))
}
