//! The lines of the journal's file.

use millrace_tags::{Reply, ReplyTo};
use serde::{Deserialize, Serialize};

use super::ids::{Entry, Key};

/// The version of the file's form.
pub(super) const VERSION: u32 = 2;

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Line {
    Head {
        millrace_commands: u32,
    },
    Ended {
        uplink: String,
        #[serde(flatten)]
        reply: Reply,
        #[serde(default)]
        to: ReplyTo,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        at: Option<i64>,
    },
    Began {
        uplink: String,
        began: String,
        #[serde(default)]
        to: ReplyTo,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        at: Option<i64>,
    },
    Told {
        uplink: String,
        told: String,
    },
}

pub(super) fn bytes(line: &Line) -> std::io::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(line)?;
    bytes.push(b'\n');
    Ok(bytes)
}

pub(super) fn began(key: &Key, entry: &Entry) -> Line {
    Line::Began {
        uplink: key.uplink.clone(),
        began: key.id.clone(),
        to: entry.to.clone(),
        at: entry.at,
    }
}

pub(super) fn ended(key: &Key, reply: &Reply, entry: &Entry) -> Line {
    Line::Ended {
        uplink: key.uplink.clone(),
        reply: reply.clone(),
        to: entry.to.clone(),
        at: entry.at,
    }
}
