//! What a cloud core asks of the gateway, and the answer.

use serde::{Deserialize, Serialize};

/// A command, as every command codec delivers it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Command {
    /// The gateway runs one id of one uplink at most once.
    pub id: String,
    /// The core's ids begin anew with each connection (or there are none): the id counts on this connection
    /// only.
    pub fleeting: bool,
    /// The operation, for example `read`.
    pub op: String,
    /// Arguments of the operation.
    pub args: serde_json::Value,
    /// Unix milliseconds after which it must not run.
    pub expires: Option<i64>,
    /// What shows that it may be asked.
    pub proof: Proof,
    /// Where the answer goes.
    pub reply_to: ReplyTo,
}

/// What a command brings to show that whoever sent it may ask.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Proof {
    /// HMAC-SHA256 over [`Proof::signed`], hexadecimal, where the command brings one.
    pub sig: Option<String>,
    /// What is signed: `id|op|args|expires`, each exactly as the message has it, empty where it has none.
    pub signed: String,
    /// The shared secret itself, where the core's format has a place for that only.
    pub token: Option<String>,
}

/// Where an answer goes, and what its codec has to know of the command: enough to answer after a restart.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ReplyTo {
    /// The word of the codec that understood the command.
    #[serde(default)]
    pub codec: String,
    /// The topic; `{status}` in it is filled in with the answer. Empty: nobody waits for one.
    #[serde(default)]
    pub topic: String,
    /// What the core calls the command.
    #[serde(default)]
    pub id: String,
    /// What the asker wants to see again beside the answer (MQTT 5), hexadecimal.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub correlation: String,
    /// The answer has a meaning on the connection that the command came by, and on no later one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fleeting: bool,
    /// What else the codec needs.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
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

impl ReplyStatus {
    /// The word in every format.
    pub fn as_str(self) -> &'static str {
        match self {
            ReplyStatus::Done => "done",
            ReplyStatus::Failed => "failed",
            ReplyStatus::Rejected => "rejected",
            ReplyStatus::Expired => "expired",
        }
    }
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
