//! What the cloud may have done by command, as far as `[local] commands` grants it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use millrace_tags::Command;
use millrace_uplink::fetch::{FetchError, FetchRules};
use serde_json::{Value, json};

use crate::apply::{ApplyRequest, Asker, Wanted, Wish, watch_time};
use crate::bootstrap;
use crate::command::{Ran, RunCommand, Undone};
use crate::config;
use crate::device::chain;
use crate::gateway::Gateway;
use crate::replay::{ReplayRequest, brief};
use crate::report::{WriteDone, WriteRequest};
use crate::shelf::Step;
use crate::write::WriteRefusal;

/// Operations of this version.
pub(crate) const OPERATIONS: [&str; 16] = [
    "read",
    "write",
    "status",
    "ledger",
    "buffer.status",
    "replay",
    "config.get",
    "config.apply",
    "config.rollback",
    "model.install",
    "model.shadow",
    "model.promote",
    "model.rollback",
    "bootstrap",
    "restart",
    "log",
];

/// The largest model that a gateway takes.
const MODEL_BYTES_MAX: u64 = 64 << 20;
/// A model of that size over a slow link.
const MODEL_LIMIT: Duration = Duration::from_secs(900);
/// The largest configuration: ten thousand tags written out.
const CONFIG_BYTES_MAX: u64 = 8 << 20;
const CONFIG_LIMIT: Duration = Duration::from_secs(120);

/// For how long another log level holds where nobody says.
const LOG_FOR_DEFAULT: Duration = Duration::from_secs(3600);
/// A gateway that logs everything for longer wears its flash.
const LOG_FOR_MAX: Duration = Duration::from_secs(24 * 3600);

/// Runs operations on this gateway.
pub(crate) struct Remote {
    /// What they look into.
    pub(crate) gateway: Arc<Gateway>,
    /// The uplink that the commands come from.
    pub(crate) uplink: String,
}

impl Remote {
    /// Writes a tag that `write_tags` grants.
    async fn write(&self, args: &Value) -> Result<WriteDone, Undone> {
        let request: WriteRequest = serde_json::from_value(args.clone()).map_err(|error| {
            let expected = "expected {\"tag\": \"device/tag\", \"value\": 1}";
            Undone::Rejected(format!("args: {}; {expected}", chain(&error)))
        })?;
        let mut granted = self.gateway.config.local.write_tags.iter();
        if !granted.any(|pattern| pattern.matches(&request.tag)) {
            let who = format!("uplink {}", self.uplink);
            tracing::warn!(target: "audit", who, tag = request.tag, value = %request.value, "write not granted");
            return Err(Undone::Rejected(format!(
                "{} is not granted for writing on this gateway; [local] write_tags in its own configuration grants it",
                request.tag
            )));
        }
        let who = format!("uplink {}", self.uplink);
        let written = self.gateway.write(&request.tag, &request.value, &who).await;
        written.map_err(|refusal| match refusal {
            WriteRefusal::Failed(sentence) => Undone::Failed(sentence),
            refusal => Undone::Rejected(refusal.to_string()),
        })
    }

    /// Has the core asked for an enrolment again. What came of it is in `status`: the answer would have to travel
    /// over the connection that a new enrolment replaces.
    fn bootstrap(&self) -> Result<Value, Undone> {
        match self.gateway.bootstrap.ask_for(bootstrap::Wish::Run) {
            true => Ok(json!({"asked": true})),
            false => Err(Undone::Rejected(
                "no [bootstrap] is configured on this gateway".to_owned(),
            )),
        }
    }

    /// Sends again what the core has lost: to the core that asks, unless it names another uplink.
    async fn replay(&self, args: &Value) -> Result<Value, String> {
        let request: ReplayRequest = serde_json::from_value(args.clone())
            .map_err(|error| format!("args: {}", chain(&error)))?;
        let replay = request.replay()?;
        let uplink = request.uplink.unwrap_or_else(|| self.uplink.clone());
        let buffer = self.gateway.buffer.clone();
        let work = move || buffer.replay(Some(&uplink), replay);
        let replayed = tokio::task::spawn_blocking(work).await;
        let replayed = replayed.map_err(|error| error.to_string())?;
        replayed.map(brief).map_err(|error| chain(&error))
    }
}

impl Remote {
    /// Tries a configuration as the cloud layer.
    async fn apply(&self, command: &Command) -> Result<Ran, Undone> {
        let request: ApplyRequest =
            serde_json::from_value(command.args.clone()).map_err(|error| {
                let expected = "expected {\"toml\": \"…\", \"watch\": \"60s\"}";
                Undone::Rejected(format!("args: {}; {expected}", chain(&error)))
            })?;
        let watch = watch_time(request.watch.as_deref()).map_err(Undone::Rejected)?;
        let text = match (request.toml, request.url, request.sha256) {
            (Some(text), None, None) => text,
            (None, Some(url), Some(sha256)) => self.fetch_text(url, sha256).await?,
            _ => {
                let sentence = "args must have `toml`, or `url` and `sha256`";
                return Err(Undone::Rejected(sentence.to_owned()));
            }
        };
        let layer = self.checked(text).await?;
        self.try_layer(Some(layer), watch, command)
    }

    /// Goes back to the layer before the last change.
    async fn rollback(&self, command: &Command) -> Result<Ran, Undone> {
        let watch = command.args.get("watch").and_then(Value::as_str);
        let watch = watch_time(watch).map_err(Undone::Rejected)?;
        let previous = self.gateway.previous_layer().map_err(Undone::Rejected)?;
        let layer = match previous {
            Some(text) => Some(self.checked(text).await?),
            None => None,
        };
        self.try_layer(layer, watch, command)
    }

    async fn checked(&self, text: String) -> Result<String, Undone> {
        let changes = self.gateway.changes.clone();
        let checked = tokio::task::spawn_blocking(move || changes.check(&text)).await;
        let checked = checked.map_err(|error| Undone::Failed(error.to_string()))?;
        checked
            .map(|checked| checked.layer)
            .map_err(Undone::Rejected)
    }

    fn try_layer(
        &self,
        layer: Option<String>,
        watch: Duration,
        command: &Command,
    ) -> Result<Ran, Undone> {
        let what = Wanted::Layer(layer);
        self.ask(Wish::Try { what, watch }, command)?;
        if command.reply_to.fleeting {
            // Nobody would be there any more to take the outcome.
            let told = json!({"state": "trying", "watch_s": watch.as_secs(), "outcome": "see config.last_change of status"});
            return Ok(Ran::Done(told));
        }
        Ok(Ran::GoesOn)
    }

    fn ask(&self, wish: Wish, command: &Command) -> Result<(), Undone> {
        let asker = Asker::Core {
            uplink: self.uplink.clone(),
            id: command.id.clone(),
        };
        self.gateway
            .changes
            .ask(wish, asker)
            .map_err(Undone::Failed)
    }
}

impl Remote {
    /// What a download that this uplink asks for is held to.
    fn fetch_rules(&self, bytes_max: u64, limit: Duration) -> FetchRules {
        let config = &self.gateway.config;
        let uplink = config
            .uplinks
            .iter()
            .find(|uplink| uplink.name == self.uplink);
        let mut hosts: Vec<String> = uplink
            .map(|it| it.endpoint.host.clone())
            .into_iter()
            .collect();
        hosts.extend(config.local.fetch_hosts.iter().cloned());
        FetchRules {
            hosts,
            bytes_max,
            limit,
            ca_file: uplink.and_then(|uplink| uplink.tls.ca_file.clone()),
        }
    }

    async fn fetch(
        &self,
        url: String,
        sha256: String,
        to: PathBuf,
        rules: FetchRules,
    ) -> Result<(), Undone> {
        let (uplink, from) = (self.uplink.as_str(), url.clone());
        tracing::info!(target: "audit", uplink, url = from, "download");
        let work = move || millrace_uplink::fetch::fetch(&url, &sha256, &to, &rules);
        let fetched = tokio::task::spawn_blocking(work).await;
        let fetched = fetched.map_err(|error| Undone::Failed(error.to_string()))?;
        fetched.map_err(|error| match &error {
            FetchError::Url { .. } | FetchError::Host { .. } | FetchError::Digest(_) => {
                Undone::Rejected(chain(&error))
            }
            error => Undone::Failed(chain(error)),
        })
    }

    async fn fetch_text(&self, url: String, sha256: String) -> Result<String, Undone> {
        let failed = |error: std::io::Error| Undone::Failed(error.to_string());
        let directory = tempfile::tempdir().map_err(failed)?;
        let to = directory.path().join("layer");
        let rules = self.fetch_rules(CONFIG_BYTES_MAX, CONFIG_LIMIT);
        self.fetch(url, sha256, to.clone(), rules).await?;
        std::fs::read_to_string(to).map_err(failed)
    }

    /// Puts a version of a model on its shelf: `{"name", "url", "sha256"}`. It does not run yet.
    async fn install(&self, args: &Value) -> Result<Value, Undone> {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Install {
            name: Option<String>,
            url: String,
            sha256: String,
        }
        let Install { name, url, sha256 } =
            serde_json::from_value(args.clone()).map_err(|error| {
                let expected =
                    "expected {\"name\": \"…\", \"url\": \"https://…\", \"sha256\": \"…\"}";
                Undone::Rejected(format!("args: {}; {expected}", chain(&error)))
            })?;
        let model = self.model(name.as_deref())?;
        let arrival = self
            .gateway
            .shelf(&model)
            .arriving()
            .map_err(Undone::Failed)?;
        let rules = self.fetch_rules(MODEL_BYTES_MAX, MODEL_LIMIT);
        self.fetch(url, sha256, arrival.path().to_owned(), rules)
            .await?;
        let policy = &self.gateway.config.local.models;
        let (signed, older) = (!policy.unsigned, policy.older);
        let from = format!("uplink {}", self.uplink);
        let terms = self.gateway.terms(signed, older, from);
        let admitted = self.gateway.admit(&model, arrival, terms).await;
        let installed = admitted.map_err(|why| Undone::Failed(format!("not admitted: {why}")))?;
        Ok(json!(installed))
    }

    fn model(&self, name: Option<&str>) -> Result<config::Model, Undone> {
        let model = self.gateway.configured_model(name);
        model.map_err(|error| Undone::Rejected(format!("args.name: {error}")))
    }

    fn promote(&self, command: &Command) -> Result<Ran, Undone> {
        let model = self.model(command.args.get("name").and_then(Value::as_str))?;
        let version = command.args.get("version").and_then(Value::as_str);
        let version =
            version.ok_or_else(|| Undone::Rejected("args has no `version`".to_owned()))?;
        let step = Step::To {
            version: version.to_owned(),
            older: self.gateway.config.local.models.older,
        };
        self.run_version(model.name, step, command)
    }

    /// `{"name", "version"}`; `"version": null` stops it.
    fn shadow(&self, command: &Command) -> Result<Ran, Undone> {
        let model = self.model(command.args.get("name").and_then(Value::as_str))?;
        let step = match command.args.get("version") {
            Some(Value::String(version)) => Step::Beside {
                version: version.clone(),
            },
            Some(Value::Null) => Step::Alone,
            _ => {
                let sentence = "args must have `version`: the one that is to score beside, or null";
                return Err(Undone::Rejected(sentence.to_owned()));
            }
        };
        self.run_version(model.name, step, command)
    }

    fn rollback_model(&self, command: &Command) -> Result<Ran, Undone> {
        let model = self.model(command.args.get("name").and_then(Value::as_str))?;
        self.run_version(model.name, Step::Back, command)
    }

    fn run_version(&self, model: String, step: Step, command: &Command) -> Result<Ran, Undone> {
        self.ask(Wish::Promote { model, step }, command)?;
        if command.reply_to.fleeting {
            return Ok(Ran::Done(
                json!({"state": "trying", "outcome": "see models of status"}),
            ));
        }
        Ok(Ran::GoesOn)
    }
}

/// Logs at another level for a while: `{"level": "debug", "for": "1h"}`.
fn log(args: &Value) -> Result<Value, Undone> {
    let level = args
        .get("level")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let time = match args.get("for").and_then(Value::as_str) {
        None => LOG_FOR_DEFAULT,
        Some(text) => humantime::parse_duration(text)
            .ok()
            .filter(|time| *time <= LOG_FOR_MAX)
            .ok_or_else(|| {
                Undone::Rejected(format!(
                    "for is {text}; expected a duration up to 24h, such as 1h"
                ))
            })?,
    };
    let change = crate::cli::set_log_level(level).map_err(Undone::Rejected)?;
    tokio::spawn(async move {
        tokio::time::sleep(time).await;
        crate::cli::restore_log_level(change);
    });
    Ok(json!({"level": level, "for_s": time.as_secs()}))
}

impl RunCommand for Remote {
    async fn run(&self, command: &Command) -> Result<Ran, Undone> {
        let (op, args) = (command.op.as_str(), &command.args);
        let result = match op {
            "read" => json!(
                self.gateway
                    .read(&tags(args)?)
                    .await
                    .map_err(|error| error.to_string())?
            ),
            "write" => json!(self.write(args).await?),
            "status" => json!(self.gateway.status()),
            "ledger" => json!(self.gateway.buffer.ledger()),
            "buffer.status" => json!(self.gateway.buffer_report()),
            "replay" => self.replay(args).await?,
            "config.get" => self.gateway.config_tables(),
            "config.apply" => return self.apply(command).await,
            "config.rollback" => return self.rollback(command).await,
            "model.install" => self.install(args).await?,
            "model.shadow" => return self.shadow(command),
            "model.promote" => return self.promote(command),
            "model.rollback" => return self.rollback_model(command),
            "bootstrap" => self.bootstrap()?,
            "restart" => {
                self.ask(Wish::Restart, command)?;
                json!({"restarting": true})
            }
            "log" => log(args)?,
            _ => return Err(Undone::Rejected(format!("`{op}` is not in this version"))),
        };
        Ok(Ran::Done(result))
    }

    fn knows(&self, op: &str) -> bool {
        OPERATIONS.contains(&op)
    }
}

/// `args` of `read`: `{"tags": ["boiler/pressure"]}`.
fn tags(args: &Value) -> Result<Vec<String>, String> {
    let tags = args
        .get("tags")
        .ok_or("args has no `tags`; expected {\"tags\": [\"device/tag\"]}")?;
    serde_json::from_value(tags.clone()).map_err(|error| format!("args.tags: {}", chain(&error)))
}
