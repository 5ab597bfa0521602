//! The session's end of the task that takes what the server publishes, or reads in its place.

use std::sync::{Arc, Mutex, PoisonError};

use millrace_tags::{Reading, Receipt};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::acks::Acks;
use super::resume::Left;
use crate::SessionError;

/// Readings that wait for the agent. When it does not take them the server's queues fill, not ours.
const READINGS_WAITING_MAX: usize = 16;

/// The session's end of its publishing task.
pub(super) struct Subscribed {
    readings: mpsc::Receiver<Result<Reading, Ended>>,
    acks: Acks,
    task: JoinHandle<()>,
    device: String,
    /// Where the next session looks for what is left of this one.
    left: Arc<Mutex<Left>>,
}

/// The end of publishing.
pub(super) struct Ended {
    pub(super) error: SessionError,
    /// What the next session begins with.
    pub(super) left: Left,
}

impl Drop for Subscribed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Subscribed {
    /// Begins to publish, or to read instead.
    pub(super) fn begin<Task>(
        run: impl FnOnce(mpsc::Sender<Result<Reading, Ended>>) -> Task,
        acks: Acks,
        device: &str,
        left: Arc<Mutex<Left>>,
    ) -> Self
    where
        Task: Future<Output = ()> + Send + 'static,
    {
        let (sender, readings) = mpsc::channel(READINGS_WAITING_MAX);
        Self {
            readings,
            acks,
            task: tokio::spawn(run(sender)),
            device: device.to_owned(),
            left,
        }
    }

    /// The next notification. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Reading, SessionError> {
        match self.readings.recv().await {
            Some(Ok(reading)) => Ok(reading),
            Some(Err(ended)) => {
                // Only now: everything that came before the end has been taken.
                *self.left.lock().unwrap_or_else(PoisonError::into_inner) = ended.left;
                Err(ended.error)
            }
            // The task has said why it ended, or panicked.
            None => Err(SessionError::Lost {
                device: self.device.clone(),
                source: std::io::Error::other("publishing has ended"),
            }),
        }
    }

    pub(super) fn settle(&self, receipt: Receipt) {
        self.acks.settle(receipt);
    }
}
