//! The sessions that OPC UA servers hold for us, so that the next agent can close those that this one left behind.
//!
//! Format: a line `millrace-opcua-sessions 1`, then one JSON object by device. Whoever reads the file can speak as the
//! session (where the channel is secured, only with our key as well), so it has the rights of a key. A session that began
//! right before a kill is not in it, and ends at the server when that has heard nothing for a minute.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use futures_util::future::select_all;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::durable;

/// The first line of the file.
const HEAD: &str = "millrace-opcua-sessions 1";

/// A session, and the server that it is at: no other one is shown it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Session {
    address: String,
    session: String,
}

/// The sessions of all OPC UA devices.
#[derive(Default)]
pub(crate) struct Sessions {
    path: PathBuf,
    kept: BTreeMap<String, Session>,
    running: Vec<Running>,
}

struct Running {
    device: String,
    address: String,
    session: watch::Receiver<Option<String>>,
}

impl Sessions {
    /// Those that were kept in the directory.
    pub(crate) fn open(data_dir: &Path) -> Self {
        let path = data_dir.join("opcua-sessions");
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let body = text.strip_prefix(HEAD).unwrap_or("{}");
        let kept = serde_json::from_str(body).unwrap_or_else(|error| {
            tracing::error!(path = %path.display(), error = %error, "the sessions at OPC UA servers are damaged; old ones end there by themselves");
            BTreeMap::new()
        });
        Self {
            path,
            kept,
            running: Vec::new(),
        }
    }

    /// The session of a device that the server at this address may still hold.
    pub(crate) fn of(&self, device: &str, address: &str) -> Option<String> {
        let kept = self.kept.get(device)?;
        (kept.address == address).then(|| kept.session.clone())
    }

    /// Keeps the session of a device from now on.
    pub(crate) fn keep(
        &mut self,
        device: &str,
        address: &str,
        session: watch::Receiver<Option<String>>,
    ) {
        self.running.push(Running {
            device: device.to_owned(),
            address: address.to_owned(),
            session,
        });
    }

    /// Saves whenever one begins or ends, until `shutdown`, and once more then.
    pub(crate) async fn save_always(mut self, shutdown: CancellationToken) {
        if self.running.is_empty() {
            return;
        }
        let mut failed = false;
        loop {
            let changed = self.running.iter_mut();
            let changed = changed.map(|running| Box::pin(running.session.changed()));
            let last = tokio::select! {
                () = shutdown.cancelled() => true,
                // A driver that is gone has nothing more to say.
                (changed, ..) = select_all(changed) => changed.is_err(),
            };
            let text = self.text();
            let path = self.path.clone();
            let saved =
                tokio::task::spawn_blocking(move || durable::write(&path, text.as_bytes(), 0o600))
                    .await;
            let error = match saved {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(error) => Some(error.to_string()),
            };
            if let Some(error) = error.as_ref().filter(|_| !failed) {
                tracing::error!(error = %error, "the sessions at OPC UA servers are not kept; after a kill they end there by themselves");
            }
            failed = error.is_some();
            if last {
                return;
            }
        }
    }

    /// Those of devices that are not there now stay: one may be switched off for a while.
    fn text(&mut self) -> String {
        for running in &mut self.running {
            match running.session.borrow_and_update().clone() {
                Some(session) => {
                    let address = running.address.clone();
                    let session = Session { address, session };
                    self.kept.insert(running.device.clone(), session);
                }
                None => {
                    self.kept.remove(&running.device);
                }
            }
        }
        // Our own plain structs always serialise.
        let body = serde_json::to_string_pretty(&self.kept).unwrap_or_default();
        format!("{HEAD}\n{body}\n")
    }
}
