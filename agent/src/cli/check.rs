//! `millrace check`: every problem of the configuration at once.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::{EXIT_CONFIG, Failure, Global, output};
use crate::config::{self, Loaded, Problems};

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
        match config::load(global.config.as_deref(), global.data_dir.as_deref()) {
            Ok(loaded) => good(&loaded, global),
            Err(problems) => bad(&problems, global),
        }
    }
}

fn good(loaded: &Loaded, global: &Global) -> anyhow::Result<ExitCode> {
    let config = &loaded.config;
    let tags: usize = config.devices.iter().map(|device| device.tags.len()).sum();
    if global.json {
        output::json(&json!({
            "ok": true, "problems": [], "warnings": loaded.warnings,
            "devices": config.devices.len(), "tags": tags,
            "models": config.models.len(), "uplinks": config.uplinks.len(),
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut text = String::new();
    for warning in &loaded.warnings {
        text.push_str(&format!("{warning}\n\n"));
    }
    text.push_str(&format!(
        "The configuration is good: {}, {}, {}, {}.\n",
        counted(config.devices.len(), "device"),
        counted(tags, "tag"),
        counted(config.models.len(), "model"),
        counted(config.uplinks.len(), "uplink"),
    ));
    output::text(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn bad(problems: &Problems, global: &Global) -> anyhow::Result<ExitCode> {
    if global.json {
        output::json(&json!({"ok": false, "problems": problems}))?;
    } else {
        // What is wrong is the very data that was asked for, as with any other linter.
        output::text(&format!("{problems}\n"))?;
    }
    Ok(ExitCode::from(EXIT_CONFIG))
}

fn counted(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nouns_agree_with_their_number() {
        assert_eq!(counted(0, "tag"), "0 tags");
        assert_eq!(counted(1, "tag"), "1 tag");
    }
}
