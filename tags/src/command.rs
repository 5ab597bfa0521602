//! What a cloud core asks of the gateway, and the answer.

use serde::{Deserialize, Serialize};

/// A command, as every command codec delivers it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Command {
    /// The core's name for it; the gateway runs one id at most once.
    pub id: String,
    /// The operation, for example `read`.
    pub op: String,
    /// Arguments of the operation.
    #[serde(default)]
    pub args: serde_json::Value,
    /// Unix milliseconds after which it must not run.
    #[serde(default)]
    pub expires: Option<i64>,
    /// HMAC-SHA256 over `id|op|args|expires`, hex, where the gateway asks for it.
    #[serde(default)]
    pub sig: Option<String>,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReplyStatus {
    /// It ran and did what it was asked.
    Done,
    /// It ran and failed.
    Failed,
    /// It was not allowed, or not understood.
    Rejected,
    /// It came too late.
    Expired,
}

/// The answer to a [`Command`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// The command's id.
    pub id: String,
    /// How it ended.
    pub status: ReplyStatus,
    /// What it brought.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<serde_json::Value>,
    /// What went wrong, and what to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}
