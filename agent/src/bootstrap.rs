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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use millrace_uplink::Secret;
    use millrace_uplink::bootstrap::Authorization;

    use super::*;

    fn enrolment(content: Option<&str>) -> Enrolment {
        Enrolment {
            id: "thing-1".to_owned(),
            key: Some(Secret::new("s3cret")),
            channels: Vec::new(),
            content: content.map(str::to_owned),
            client_cert: None,
            client_key: None,
            ca_cert: None,
            authorization: Authorization::Thing,
        }
    }

    /// A first contact in `dir`, and where it says that it has enrolled.
    fn bootstrap(dir: &Path, fetch: Fetch) -> (Bootstrap, mpsc::Receiver<()>) {
        std::fs::write(dir.join("key"), "external").unwrap();
        let local = dir.join("millrace.toml");
        let text = "[gateway]\nid = \"gw-1\"\ndata_dir = \"data\"\n\n[bootstrap]\nprovider = \"mainflux\"\n\
                    url = \"https://core.example/things/bootstrap\"\nexternal_id = \"gw-1\"\n\
                    external_key_file = \"key\"\n";
        std::fs::write(&local, text).unwrap();
        let loaded = config::load(Some(&local), None);
        let config = loaded
            .unwrap_or_else(|problems| panic!("{problems}"))
            .config;
        let (enrolled, applied) = mpsc::channel(1);
        let bootstrap = Bootstrap {
            settings: config.bootstrap.unwrap(),
            data_dir: config.gateway.data_dir,
            config: Some(local),
            status: Arc::default(),
            enrolled,
            fetch,
        };
        (bootstrap, applied)
    }

    fn said(bootstrap: &Bootstrap) -> (String, String) {
        let status = bootstrap.status.lock().unwrap().clone().unwrap();
        (status.state, status.message.unwrap_or_default())
    }

    #[tokio::test]
    async fn each_failure_has_its_state_and_its_sentence() {
        let dir = tempfile::tempdir().unwrap();
        let cases: [(Fetch, &str, &str); 4] = [
            (
                |settings| {
                    let url = settings.url.clone();
                    Err(BootstrapError::Denied { url, status: 403 })
                },
                "denied",
                "403",
            ),
            (
                |settings| {
                    let url = settings.url.clone();
                    Err(BootstrapError::Unavailable { url, status: 503 })
                },
                "transient",
                "503",
            ),
            (|_| Ok(enrolment(None)), "pending", "content"),
            (
                |_| Ok(enrolment(Some("[[device]\nname="))),
                "denied",
                "content",
            ),
        ];
        for (fetch, state, sentence) in cases {
            let (bootstrap, _) = bootstrap(dir.path(), fetch);
            let outcome = bootstrap.try_once().await;
            let (shown, message) = said(&bootstrap);
            assert_eq!((name(outcome), shown.as_str()), (state, state));
            assert!(message.contains(sentence), "{message}");
            assert!(!bootstrap.is_enrolled());
        }
    }

    #[tokio::test]
    async fn an_enrolment_is_kept_and_not_asked_for_again() {
        let dir = tempfile::tempdir().unwrap();
        let content = "[[uplink]]\nname = \"cloud\"\nurl = \"mqtt://core.example\"\n";
        let fetch: Fetch = |_| {
            Ok(enrolment(Some(
                "[[uplink]]\nname = \"cloud\"\nurl = \"mqtt://core.example\"\n",
            )))
        };
        let (first, _) = bootstrap(dir.path(), fetch);
        assert_eq!(first.try_once().await, Outcome::Ready);
        let kept = std::fs::read_to_string(config::cloud_file(&first.data_dir)).unwrap();
        assert!(kept.contains(content.lines().last().unwrap()), "{kept}");

        let (again, mut applied) = bootstrap(dir.path(), |_| panic!("it was asked for again"));
        assert_eq!(again.try_once().await, Outcome::Ready);
        let status = again.status.clone();
        again.run().await;
        assert_eq!(status.lock().unwrap().clone().unwrap().state, "ready");
        // It runs already: there is nothing to apply.
        assert!(applied.recv().await.is_none());
    }

    #[tokio::test]
    async fn a_missing_key_is_named_and_nothing_is_sent() {
        let dir = tempfile::tempdir().unwrap();
        let (bootstrap, _) = bootstrap(dir.path(), |_| panic!("nothing may be sent"));
        std::fs::remove_file(dir.path().join("key")).unwrap();
        assert_eq!(bootstrap.try_once().await, Outcome::Denied);
        assert!(said(&bootstrap).1.contains("key"), "{:?}", said(&bootstrap));
    }
}
