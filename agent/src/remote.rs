//! What the cloud may have done by command, as far as `[local] commands` grants it.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::command::RunCommand;
use crate::device::chain;
use crate::gateway::Gateway;

/// Operations of this version.
const OPERATIONS: [&str; 4] = ["read", "status", "ledger", "buffer.status"];

/// Runs operations on this gateway.
pub(crate) struct Remote {
    /// What they look into.
    pub(crate) gateway: Arc<Gateway>,
}

impl RunCommand for Remote {
    async fn run(&self, op: &str, args: &Value) -> Result<Value, String> {
        let result = match op {
            "read" => json!(
                self.gateway
                    .read(&tags(args)?)
                    .await
                    .map_err(|error| error.to_string())?
            ),
            "status" => json!(self.gateway.status()),
            "ledger" => json!(self.gateway.buffer.ledger()),
            "buffer.status" => json!(self.gateway.buffer_report()),
            _ => return Err(format!("`{op}` is not in this version")),
        };
        Ok(result)
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
