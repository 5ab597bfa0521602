//! Starts what the configuration asks for, and stops it in an order that loses nothing.
//!
//! Starting: buffer, models, devices, uplinks. Stopping: devices first, so that no sample is taken that
//! could not be kept; then models, which drain what they were given; then uplinks; the buffer last.

mod build;
mod driver;
mod exchange;
mod run;
mod runway;
pub(crate) mod stand_in;
pub(crate) mod store;
mod trial;
mod uplinks;
mod versions;
mod watchdog;

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::gateway::Gateway;
use crate::model::RunningModels;

pub(crate) use build::{Startup, start};
pub(crate) use driver::Drivers;
pub(crate) use run::{RunOptions, run};

/// The gateway that runs now. A new configuration replaces it; whoever asks gets the newest.
pub(crate) struct Current(RwLock<Arc<Gateway>>);

impl Current {
    /// Begins with this one.
    pub(crate) fn new(gateway: Arc<Gateway>) -> Arc<Self> {
        Arc::new(Self(RwLock::new(gateway)))
    }

    /// The one that runs now.
    pub(crate) fn get(&self) -> Arc<Gateway> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn replace(&self, gateway: Arc<Gateway>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = gateway;
    }
}

/// A gateway and the tasks that are its life.
pub(crate) struct Running {
    /// What can be looked into.
    pub(crate) gateway: Arc<Gateway>,
    /// Models that are examined and built.
    beginning: Stage,
    polling: Stage,
    scoring: Option<RunningModels>,
    sending: Stage,
}

/// Tasks that stop together.
#[derive(Default)]
struct Stage {
    tasks: JoinSet<()>,
    shutdown: CancellationToken,
}

impl Stage {
    /// Runs a task; one that ends by a mistake of this program is named in the log at once.
    fn spawn(&mut self, name: String, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(async move {
            if AssertUnwindSafe(task).catch_unwind().await.is_err() {
                tracing::error!(task = %name, "a task ended by a mistake in this program");
            }
        });
    }

    async fn stop(&mut self) {
        self.shutdown.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

/// An examination takes less where the bundle is good; one that takes longer ends by itself, and nothing waits for it.
const LAST_EXAMINATION_MAX: Duration = Duration::from_secs(5);

/// A window is scored in milliseconds; a thread that is not done by then is left behind.
const LAST_SCORES_MAX: Duration = Duration::from_secs(10);

impl Running {
    /// Stops polling and scoring; uplinks go on and drain what is queued.
    pub(crate) async fn stop_polling(&mut self) {
        // First, while there is polling still.
        let begun = tokio::time::timeout(LAST_EXAMINATION_MAX, self.beginning.stop()).await;
        if begun.is_err() {
            tracing::warn!("a model is still examined, and is not waited for");
        }
        self.polling.stop().await;
        if let Some(models) = self.scoring.take()
            && !models.stop(LAST_SCORES_MAX).await
        {
            tracing::error!("a thread of the models did not end and is left behind");
        }
    }

    /// Stops everything; returns when every sample is on disk.
    ///
    /// # Errors
    /// Where the last samples could not be committed.
    pub(crate) async fn stop(mut self) -> Result<(), millrace_buffer::CommitError> {
        self.stop_polling().await;
        self.sending.stop().await;
        let buffer = self.gateway.buffer.clone();
        match tokio::task::spawn_blocking(move || buffer.close()).await {
            Ok(closed) => closed,
            // Closing never panics; if it did, the next start finds no clean mark and says so.
            Err(error) => {
                tracing::error!(error = %error, "the buffer was not closed");
                Ok(())
            }
        }
    }
}
