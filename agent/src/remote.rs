//! What the cloud may have done by command, as far as `[local] commands` grants it.

use std::sync::Arc;
use std::time::Duration;

use millrace_tags::Command;
use serde_json::{Value, json};

use crate::apply::{ApplyRequest, Asker, Wanted, Wish, watch_time};
use crate::bootstrap;
use crate::command::{Ran, RunCommand, Undone};
use crate::device::chain;
use crate::gateway::Gateway;
use crate::replay::{ReplayRequest, brief};
use crate::report::{WriteDone, WriteRequest};
use crate::write::WriteRefusal;

/// Operations of this version.
pub(crate) const OPERATIONS: [&str; 12] = [
    "read",
    "write",
    "status",
    "ledger",
    "buffer.status",
    "replay",
    "config.get",
    "config.apply",
    "config.rollback",
    "bootstrap",
    "restart",
    "log",
];

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
        let text = request
            .toml
            .ok_or_else(|| Undone::Rejected("args has no `toml`".to_owned()))?;
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
