//! Messages that a core refuses: set aside by the uplink, sent again or given up by command.

use millrace_buffer::SetAside;
use serde::{Deserialize, Serialize};

use crate::gateway::Gateway;

/// `GET /v1/buffer/poison`: what was set aside.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct PoisonRow {
    /// Its number for `retry` and `drop`.
    pub(crate) id: u64,
    /// Whose core refuses it.
    pub(crate) uplink: String,
    /// The device or model.
    pub(crate) source: String,
    /// `data` or `alarm`.
    pub(crate) log: String,
    /// The stream of the numbers.
    pub(crate) stream: String,
    /// The first number.
    pub(crate) first_seq: u64,
    /// The last number.
    pub(crate) last_seq: u64,
    /// How many samples or events.
    pub(crate) records: u64,
    /// Why it was refused.
    pub(crate) reason: String,
    /// How often it was tried.
    pub(crate) tries: u32,
    /// Since when, Unix milliseconds; `null` where the clock was not set.
    pub(crate) since_ms: Option<f64>,
}

/// `POST /v1/buffer/poison`: what to do, and with which.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PoisonRequest {
    /// What.
    pub(crate) action: PoisonAction,
    /// Which; all where empty.
    pub(crate) ids: Vec<u64>,
}

/// What can be done with a message that was set aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum PoisonAction {
    /// Send it again.
    Retry,
    /// Count it as dropped, and announce the gap.
    Drop,
}

/// What was done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PoisonDone {
    /// These were sent again or given up.
    pub(crate) done: Vec<u64>,
    /// Nothing was set aside under these.
    pub(crate) unknown: Vec<u64>,
}

impl From<SetAside> for PoisonRow {
    fn from(row: SetAside) -> Self {
        Self {
            id: row.id,
            uplink: row.uplink.to_string(),
            source: row.source.to_string(),
            log: row.log.name().to_owned(),
            stream: row.stream.to_string(),
            first_seq: row.first_seq,
            last_seq: row.last_seq,
            records: row.records,
            reason: row.reason,
            tries: row.tries,
            since_ms: row.since.map(|time| time.0 as f64 / 1e6),
        }
    }
}

impl Gateway {
    /// What was set aside, the oldest first.
    pub(crate) fn poison(&self) -> Vec<PoisonRow> {
        self.buffer
            .set_aside()
            .into_iter()
            .map(Into::into)
            .collect()
    }

    /// Sends again, or gives up.
    pub(crate) fn resolve_poison(&self, request: &PoisonRequest) -> PoisonDone {
        let all = || {
            self.buffer
                .set_aside()
                .into_iter()
                .map(|row| row.id)
                .collect()
        };
        let ids = match request.ids.is_empty() {
            true => all(),
            false => request.ids.clone(),
        };
        let (done, unknown) = ids.into_iter().partition(|id| match request.action {
            PoisonAction::Retry => self.buffer.retry(*id),
            PoisonAction::Drop => self.buffer.discard(*id),
        });
        PoisonDone { done, unknown }
    }
}
