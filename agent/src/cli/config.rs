//! `millrace config`: the configuration that runs.

use std::process::ExitCode;

use clap::Subcommand;
use serde::{Deserialize, Serialize};

use super::client::Client;
use super::later::AnyArgs;
use super::{Global, Later, output};

/// What can be done with the configuration.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print the files that the running agent has read; secrets are in files of their own
    Show,
    /// What a changed configuration would change
    Diff(AnyArgs),
    /// Check, try and keep a configuration
    Apply(AnyArgs),
    /// Go back to the one before
    Rollback(AnyArgs),
    /// JSON schema of the configuration
    Schema(AnyArgs),
}

/// One file of the running configuration.
#[derive(Debug, Serialize, Deserialize)]
struct ConfigFile {
    path: String,
    text: String,
}

impl ConfigCommand {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        match self {
            ConfigCommand::Show => show(global),
            ConfigCommand::Diff(_) => Later::new(
                "config diff",
                "`millrace check` finds problems in changed files before the agent reads them",
            )
            .refuse(),
            ConfigCommand::Apply(_) => Later::new(
                "config apply",
                "edit the files, run `millrace check`, then restart the agent",
            )
            .refuse(),
            ConfigCommand::Rollback(_) => Later::new(
                "config rollback",
                "the agent starts with the last good configuration where the files are bad",
            )
            .refuse(),
            ConfigCommand::Schema(_) => Later::new(
                "config schema",
                "`millrace check` names unknown keys and the nearest known one",
            )
            .refuse(),
        }
    }
}

fn show(global: &Global) -> anyhow::Result<ExitCode> {
    let files: Vec<ConfigFile> = Client::new(global).get("/v1/config")?;
    if global.json {
        output::json(&files)?;
    } else {
        output::text(&render(&files))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn render(files: &[ConfigFile]) -> String {
    if files.is_empty() {
        return "No configuration runs.\n".into();
    }
    let parts: Vec<String> = files
        .iter()
        .map(|file| format!("# {}\n{}\n", file.path, file.text.trim_end()))
        .collect();
    parts.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_follow_each_other() {
        let file = |path: &str, text: &str| ConfigFile {
            path: path.into(),
            text: text.into(),
        };
        let files = [
            file(
                "/etc/millrace/millrace.toml",
                "[gateway]\nid = \"gw-1\"\n\n",
            ),
            file("/etc/millrace/conf.d/a.toml", "[buffer]\n"),
        ];
        assert_eq!(
            render(&files),
            "# /etc/millrace/millrace.toml\n[gateway]\nid = \"gw-1\"\n\n# /etc/millrace/conf.d/a.toml\n[buffer]\n"
        );
        assert_eq!(render(&[]), "No configuration runs.\n");
    }
}
