//! Commands as they come from the core.

use millrace_tags::Command;
use serde::Deserialize;

/// The largest command: a whole configuration as TOML fits well.
pub const COMMAND_BYTES_MAX: usize = 1024 * 1024;
/// The longest id: it becomes part of a topic and of the journal of commands.
const ID_CHARS_MAX: usize = 128;
/// The longest name of an operation; real ones have some 20.
const OP_CHARS_MAX: usize = 64;

/// Why a payload is no command.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// Too large; nobody is answered.
    #[error("the command has {bytes} bytes; the limit is {COMMAND_BYTES_MAX}")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// Not JSON, or not an object; nobody can be answered.
    #[error("the command is no JSON object with `id` and `op`")]
    NotJson(#[source] serde_json::Error),
    /// There is no id to answer to.
    #[error("the command's `id` {problem}; expected 1 to {ID_CHARS_MAX} printable characters")]
    Id {
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A member is not what it should be. Answer `rejected`.
    #[error("`{member}` of command {id} is {found}; expected {expected}")]
    Member {
        /// The command's id.
        id: String,
        /// Which member.
        member: &'static str,
        /// What it is.
        found: &'static str,
        /// What it should be.
        expected: &'static str,
    },
}

impl CommandError {
    /// The id to answer to, where there is one.
    pub fn id(&self) -> Option<&str> {
        match self {
            CommandError::Member { id, .. } => Some(id),
            _ => None,
        }
    }
}

/// As written, so that a wrong member can be named and answered.
#[derive(Deserialize)]
struct RawCommand {
    #[serde(default)]
    id: serde_json::Value,
    #[serde(default)]
    op: serde_json::Value,
    #[serde(default)]
    args: serde_json::Value,
    #[serde(default)]
    expires: serde_json::Value,
    #[serde(default)]
    sig: serde_json::Value,
}

pub(super) fn parse(payload: &[u8]) -> Result<Command, CommandError> {
    if payload.len() > COMMAND_BYTES_MAX {
        return Err(CommandError::TooLarge {
            bytes: payload.len(),
        });
    }
    let raw: RawCommand = serde_json::from_slice(payload).map_err(CommandError::NotJson)?;
    let id = checked_id(&raw.id)?;
    let wrong = |member, value: &serde_json::Value, expected| CommandError::Member {
        id: id.clone(),
        member,
        found: kind(value),
        expected,
    };
    let op = match raw.op.as_str() {
        Some(op) if !op.is_empty() && op.chars().count() <= OP_CHARS_MAX => op.to_owned(),
        _ => return Err(wrong("op", &raw.op, "the name of an operation")),
    };
    let expires = match &raw.expires {
        serde_json::Value::Null => None,
        value => Some(
            value
                .as_i64()
                .or_else(|| whole(value))
                .ok_or_else(|| wrong("expires", value, "Unix milliseconds"))?,
        ),
    };
    let sig = match &raw.sig {
        serde_json::Value::Null => None,
        serde_json::Value::String(text) => Some(text.clone()),
        value => return Err(wrong("sig", value, "hex digits in a string")),
    };
    Ok(Command {
        id,
        op,
        args: raw.args,
        expires,
        sig,
    })
}

fn checked_id(value: &serde_json::Value) -> Result<String, CommandError> {
    let problem = match value {
        serde_json::Value::Null => "is missing",
        serde_json::Value::String(id) if id.is_empty() => "is empty",
        serde_json::Value::String(id) if id.chars().count() > ID_CHARS_MAX => "is too long",
        serde_json::Value::String(id) if id.chars().any(char::is_control) => {
            "holds control characters"
        }
        serde_json::Value::String(id) => return Ok(id.clone()),
        _ => "is no string",
    };
    Err(CommandError::Id { problem })
}

/// Some cores write every number as a float.
fn whole(value: &serde_json::Value) -> Option<i64> {
    let number = value.as_f64()?;
    // Below 2^53 the conversion is exact.
    (number.fract() == 0.0 && number.abs() < 9e15).then_some(number as i64)
}

fn kind(value: &serde_json::Value) -> &'static str {
    match value {
        serde_json::Value::Null => "missing",
        serde_json::Value::Bool(_) => "a boolean",
        serde_json::Value::Number(_) => "a number of another kind",
        serde_json::Value::String(_) => "a string of another kind",
        serde_json::Value::Array(_) => "an array",
        serde_json::Value::Object(_) => "an object",
    }
}
