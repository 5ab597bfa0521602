//! `millrace check`: every problem of the configuration at once.

mod live;
mod trial;

use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use super::client::block_on;
use super::{EXIT_CONFIG, Global, output};
use crate::config::{self, Loaded, Note, Problems};

/// Check the configuration: every problem at once, exit 0 or 2
///
/// With --live every device and every uplink is tried once besides: each tag is read, each broker is asked whether it
/// would take us, nothing is written or published. Exit 1 where one of them fails. What the running agent holds is tried
/// through the agent.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Try devices and brokers, too
    #[arg(long)]
    live: bool,
}

impl CheckArgs {
    pub(super) fn run(&self, global: &Global) -> anyhow::Result<ExitCode> {
        let loaded = match config::load(global.config.as_deref(), global.data_dir.as_deref()) {
            Ok(loaded) => loaded,
            Err(problems) => return bad(&problems, global),
        };
        match config::check_surroundings(&loaded) {
            (Ok(()), notes) if self.live => block_on(live(&loaded, &notes, global)),
            (Ok(()), notes) => good(&loaded, &notes, global),
            (Err(problems), _) => bad(&problems, global),
        }
    }
}

/// What is good as written may still be wrong in the plant.
async fn live(loaded: &Loaded, notes: &[Note], global: &Global) -> anyhow::Result<ExitCode> {
    if !global.json {
        good(loaded, notes, global)?;
        output::text("\n")?;
    }
    let trials = live::run(&loaded.config, global, |trial| match global.json {
        true => Ok(()),
        false => Ok(output::text(&trial.text())?),
    })
    .await?;
    let failed = trials.iter().filter(|trial| !trial.ok).count();
    if global.json {
        let mut report = report(loaded, notes);
        report["ok"] = (failed == 0).into();
        report["live"] = serde_json::to_value(&trials)?;
        output::json(&report)?;
    } else {
        output::text(&match (failed, trials.len()) {
            (_, 0) => "There is no device and no uplink to try.\n".to_owned(),
            (0, 1) => "It works.\n".to_owned(),
            (0, all) => format!("All {all} work.\n"),
            (failed, all) => format!("{failed} of {all} failed.\n"),
        })?;
    }
    Ok(match failed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

fn report(loaded: &Loaded, notes: &[Note]) -> Value {
    let warnings: Vec<&Note> = loaded.warnings.iter().chain(notes).collect();
    json!({
        "ok": true, "problems": [], "warnings": warnings, "summary": config::summary(&loaded.config),
    })
}

fn good(loaded: &Loaded, notes: &[Note], global: &Global) -> anyhow::Result<ExitCode> {
    let summary = config::summary(&loaded.config);
    let warnings: Vec<&Note> = loaded.warnings.iter().chain(notes).collect();
    if global.json {
        output::json(&report(loaded, notes))?;
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
