//! First contact: asks the core for an enrolment, keeps it, and has it applied.
//!
//! Runs only while there is no enrolment yet. Credentials are written first, each by an atomic rename; then
//! the core's configuration, which names them, is checked against the local files; it is kept last, and it
//! is what makes the enrolment count. So a power cut at any step leaves either none or a whole one.

mod enrolment;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use millrace_uplink::bootstrap::{BootstrapError, Cadence, Enrolment, MainfluxSettings, Outcome};
use tokio::sync::mpsc;

use crate::config::{self, BootstrapSettingsError};
use crate::device::chain;
use crate::report::BootstrapStatus;

use enrolment::EnrolmentError;

/// The task that asks until there is an enrolment.
pub(crate) struct Bootstrap {
    /// Whom to ask, and as whom.
    pub(crate) settings: config::Bootstrap,
    /// Where the enrolment is kept.
    pub(crate) data_dir: PathBuf,
    /// The local configuration that the core's must go together with.
    pub(crate) config: Option<PathBuf>,
    /// Shown by `millrace status`.
    pub(crate) status: Arc<Mutex<Option<BootstrapStatus>>>,
    /// Has the new configuration applied.
    pub(crate) enrolled: mpsc::Sender<()>,
    /// Asks the core.
    pub(crate) fetch: Fetch,
}

/// Asks a core for an enrolment; waits for the network.
pub(crate) type Fetch = fn(&MainfluxSettings) -> Result<Enrolment, BootstrapError>;

/// One attempt that brought nothing.
#[derive(Debug, thiserror::Error)]
enum AttemptError {
    #[error(transparent)]
    Fetch(#[from] BootstrapError),
    #[error(transparent)]
    Settings(#[from] BootstrapSettingsError),
    #[error("the core's enrolment cannot be used")]
    Enrolment(#[from] EnrolmentError),
}

impl AttemptError {
    fn outcome(&self) -> Outcome {
        match self {
            AttemptError::Fetch(error) => error.outcome(),
            AttemptError::Enrolment(EnrolmentError::NoContent) => Outcome::Pending,
            AttemptError::Enrolment(_) | AttemptError::Settings(_) => Outcome::Denied,
        }
    }
}

impl Bootstrap {
    /// Asks until there is an enrolment; returns at once where there is one already.
    pub(crate) async fn run(self) {
        if self.is_enrolled() {
            self.say("ready", None);
            return;
        }
        let mut cadence = Cadence::new();
        self.say(
            "pending",
            Some("asking the core for the first time".to_owned()),
        );
        tokio::time::sleep(cadence.first(fastrand::f64())).await;
        loop {
            let outcome = self.try_once().await;
            match cadence.after(outcome, fastrand::f64()) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => break,
            }
        }
        tracing::info!("enrolled");
        self.say("ready", None);
        // The agent stops: the enrolment is applied at its next start.
        let _ = self.enrolled.send(()).await;
    }

    fn is_enrolled(&self) -> bool {
        config::cloud_file(&self.data_dir).exists()
    }

    async fn try_once(&self) -> Outcome {
        if self.is_enrolled() {
            // An attempt from before a new configuration has come to its end meanwhile.
            return Outcome::Ready;
        }
        match self.attempt().await {
            Ok(()) => Outcome::Ready,
            Err(error) => {
                let outcome = error.outcome();
                tracing::warn!(error = %chain(&error), "no enrolment yet");
                self.say(name(outcome), Some(chain(&error)));
                outcome
            }
        }
    }

    async fn attempt(&self) -> Result<(), AttemptError> {
        // Anew for each attempt: somebody may just have brought the key.
        let settings = self.settings.settings()?;
        let (data_dir, config) = (self.data_dir.clone(), self.config.clone());
        let fetch = self.fetch;
        let attempt = tokio::task::spawn_blocking(move || {
            let enrolment = fetch(&settings)?;
            enrolment::keep(&enrolment, &data_dir, config.as_deref())?;
            Ok(())
        });
        attempt
            .await
            .unwrap_or_else(|error| Err(EnrolmentError::Interrupted(error).into()))
    }

    fn say(&self, state: &str, message: Option<String>) {
        let status = BootstrapStatus {
            provider: "mainflux".to_owned(),
            state: state.to_owned(),
            message,
        };
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = Some(status);
    }
}

fn name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Ready => "ready",
        Outcome::Pending => "pending",
        Outcome::Denied => "denied",
        Outcome::Transient => "transient",
    }
}
