//! `millrace config`: the configuration that runs, and changing it as a transaction.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::client::Client;
use super::{Failure, Global, output};
use crate::apply::ApplyRequest;
use crate::config::written::Difference;

/// What can be done with the configuration.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print the files that the running agent has read; secrets are in files of their own
    Show,
    /// What a changed configuration would change
    ///
    /// Without FILE: the files on disk against what runs. With FILE: the same with its text (TOML, JSON or YAML) as the cloud
    /// layer.
    Diff(FileArgs),
    /// Check, try and keep a configuration
    ///
    /// Without FILE: the files as they are now on disk. With FILE: its text (TOML, JSON or YAML) becomes the cloud layer, as if the core
    /// had sent it; local files stay as they are and win. Either way what is wrong is said at once and changes nothing; then the new
    /// configuration runs and is watched, and goes back by itself when devices stop to deliver good values or no uplink connects any
    /// more.
    Apply(ApplyArgs),
    /// Go back to the cloud layer before the last change
    Rollback(WatchArgs),
    /// JSON schema of the configuration
    Schema,
}

/// A text that could be the cloud layer.
#[derive(Debug, Args)]
pub(crate) struct FileArgs {
    /// The text, - for standard input
    file: Option<PathBuf>,
}

/// For how long.
#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    /// How long it is watched before it is kept, 5s to 10m [default: 60s]
    #[arg(long, value_name = "TIME")]
    watch: Option<String>,
}

/// What to try.
#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    #[command(flatten)]
    file: FileArgs,
    #[command(flatten)]
    watch: WatchArgs,
}

/// One file of the running configuration.
#[derive(Debug, Serialize, Deserialize)]
struct ConfigFile {
    path: String,
    text: String,
}

impl ConfigCommand {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let client = Client::new(global);
        match self {
            ConfigCommand::Show => {
                let files: Vec<ConfigFile> = client.get("/v1/config")?;
                say(global, &files, || render(&files))
            }
            ConfigCommand::Diff(args) => {
                let request = ApplyRequest {
                    toml: args.text()?,
                    ..ApplyRequest::default()
                };
                let differences: Vec<Difference> = client.post("/v1/config/diff", &request)?;
                say(global, &differences, || render_diff(&differences))
            }
            ConfigCommand::Apply(args) => {
                let request = ApplyRequest {
                    toml: args.file.text()?,
                    watch: args.watch.watch,
                    ..ApplyRequest::default()
                };
                let kept: Value = client.post("/v1/config/apply", &request)?;
                say(global, &kept, || render_kept(&kept))
            }
            ConfigCommand::Rollback(args) => {
                let request = ApplyRequest {
                    watch: args.watch,
                    ..ApplyRequest::default()
                };
                let kept: Value = client.post("/v1/config/rollback", &request)?;
                say(global, &kept, || render_kept(&kept))
            }
            ConfigCommand::Schema => {
                output::json(&crate::config::schema())?;
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

impl FileArgs {
    fn text(&self) -> anyhow::Result<Option<String>> {
        let Some(path) = &self.file else {
            return Ok(None);
        };
        let read = match path == Path::new("-") {
            true => std::io::read_to_string(std::io::stdin()),
            false => std::fs::read_to_string(path),
        };
        let text = read.map_err(|error| {
            Failure::new(format!("cannot read {}", path.display())).because(error)
        })?;
        Ok(Some(text))
    }
}

fn say<T: Serialize>(
    global: &Global,
    answer: &T,
    text: impl FnOnce() -> String,
) -> anyhow::Result<ExitCode> {
    match global.json {
        true => output::json(answer)?,
        false => output::text(&text())?,
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

fn render_diff(differences: &[Difference]) -> String {
    if differences.is_empty() {
        return "Nothing would change.\n".into();
    }
    let mut text = String::new();
    for Difference { key, before, after } in differences {
        // Writing into a String cannot fail.
        let _ = match (before, after) {
            (None, Some(after)) => writeln!(text, "+ {key} = {after}"),
            (Some(before), None) => writeln!(text, "- {key} = {before}"),
            (before, after) => writeln!(
                text,
                "~ {key}: {} -> {}",
                before.as_deref().unwrap_or_default(),
                after.as_deref().unwrap_or_default()
            ),
        };
    }
    text
}

fn render_kept(kept: &Value) -> String {
    let number = |key: &str| kept[key].as_u64().unwrap_or_default();
    let mut text = format!(
        "Kept: {} keys changed, watched for {} s.\n",
        number("changed"),
        number("watched_s")
    );
    for warning in kept["warnings"].as_array().into_iter().flatten() {
        let _ = writeln!(text, "{}", warning.as_str().unwrap_or_default());
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

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

    #[test]
    fn differences_are_lines() {
        let difference = |key: &str, before: Option<&str>, after: Option<&str>| Difference {
            key: key.into(),
            before: before.map(str::to_owned),
            after: after.map(str::to_owned),
        };
        let differences = [
            difference("device[a].unit_id", Some("1"), Some("2")),
            difference("device[b].name", None, Some("\"b\"")),
            difference("uplink[c].url", Some("\"mqtt://c\""), None),
        ];
        assert_eq!(
            render_diff(&differences),
            "~ device[a].unit_id: 1 -> 2\n+ device[b].name = \"b\"\n- uplink[c].url = \"mqtt://c\"\n"
        );
        assert_eq!(render_diff(&[]), "Nothing would change.\n");
        let kept = json!({"changed": 2, "watched_s": 60, "warnings": ["a note"]});
        assert_eq!(
            render_kept(&kept),
            "Kept: 2 keys changed, watched for 60 s.\na note\n"
        );
    }
}
