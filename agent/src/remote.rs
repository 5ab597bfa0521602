//! What the cloud may have done by command, as far as `[local] commands` grants it.

use std::sync::Arc;

use millrace_tags::Command;
use serde_json::{Value, json};

use crate::command::{Ran, RunCommand, Undone};
use crate::device::chain;
use crate::gateway::Gateway;
use crate::replay::{ReplayRequest, brief};
use crate::report::{WriteDone, WriteRequest};
use crate::write::WriteRefusal;

/// Operations of this version.
const OPERATIONS: [&str; 6] = [
    "read",
    "write",
    "status",
    "ledger",
    "buffer.status",
    "replay",
];

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
