//! A configuration as a transaction: checked, applied, watched, kept or taken back, and the outcome told.
//!
//! What comes by the command `config.apply` or `millrace config apply FILE` becomes the cloud layer; local files stay as they are,
//! and so does what they grant. [`layers`] keeps on disk what is tried and what was there before, so that a restart amid the
//! trial goes back; [`refused`] does so for local files, which stay as people left them. [`watch`] decides: devices that delivered good values before must do so again, and an uplink must connect
//! again. The supervisor does the steps in its main loop.

pub(crate) mod layers;
pub(crate) mod refused;
pub(crate) mod watch;

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use crate::config;
use crate::shelf::Step;

/// How long a new configuration is watched where nobody says.
pub(crate) const WATCH_DEFAULT: Duration = Duration::from_secs(60);
/// Less does not show whether data come; it is also what a reconnect may take.
const WATCH_MIN: Duration = Duration::from_secs(5);
/// Meanwhile nothing else can be tried.
const WATCH_MAX: Duration = Duration::from_secs(600);

/// Changes that may wait; more are refused.
const WAITING_MAX: usize = 4;

/// What is asked of the main loop.
#[derive(Debug)]
pub(crate) struct Change {
    /// What.
    pub(crate) wish: Wish,
    /// Who is told.
    pub(crate) asker: Asker,
}

/// What is to be done.
#[derive(Debug)]
pub(crate) enum Wish {
    /// A configuration is to be tried.
    Try {
        /// Which.
        what: Wanted,
        /// For how long it is watched.
        watch: Duration,
    },
    /// A version of a model is to run.
    Promote {
        /// The model's name.
        model: String,
        /// Which version.
        step: Step,
    },
    /// The program ends and starts again.
    Restart,
}

/// Which configuration.
#[derive(Debug)]
pub(crate) enum Wanted {
    /// This text as the cloud layer; `None`: none.
    Layer(Option<String>),
    /// The files as they are on disk now.
    Files,
}

/// Who asked.
#[derive(Debug)]
pub(crate) enum Asker {
    /// Somebody at the local API, who waits.
    Person {
        /// For the audit.
        who: String,
        /// Takes the outcome.
        answer: oneshot::Sender<Outcome>,
    },
    /// A core, by a command that is in the journal.
    Core {
        /// The uplink that it came by.
        uplink: String,
        /// The command's id.
        id: String,
    },
}

impl Asker {
    /// For the audit.
    pub(crate) fn named(&self) -> String {
        match self {
            Asker::Person { who, .. } => who.clone(),
            Asker::Core { uplink, .. } => format!("uplink {uplink}"),
        }
    }
}

/// How a change ended: what to tell, or why it was not kept.
pub(crate) type Outcome = Result<Value, String>;

/// Request of `POST /v1/config/apply`; `config.apply` has the same arguments.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ApplyRequest {
    /// The cloud layer as TOML, JSON or YAML. Missing: the files on disk as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) toml: Option<String>,
    /// Where the layer is instead, and its SHA-256; for the command only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) url: Option<String>,
    /// See `url`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sha256: Option<String>,
    /// For how long it is watched, as in `60s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) watch: Option<String>,
}

/// The way to the main loop, and where configurations come from.
#[derive(Debug, Clone)]
pub(crate) struct Changes {
    sender: mpsc::Sender<Change>,
    /// The configuration that the program was told to read.
    pub(crate) config: Option<PathBuf>,
    /// The data directory that the program was told to use.
    pub(crate) data_dir: Option<PathBuf>,
}

impl Changes {
    /// The way, and its end in the main loop.
    pub(crate) fn channel(
        config: Option<PathBuf>,
        data_dir: Option<PathBuf>,
    ) -> (Self, mpsc::Receiver<Change>) {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        let changes = Self {
            sender,
            config,
            data_dir,
        };
        (changes, receiver)
    }

    /// Asks for a change.
    ///
    /// # Errors
    /// Where too much is asked for already.
    pub(crate) fn ask(&self, wish: Wish, asker: Asker) -> Result<(), String> {
        self.sender
            .try_send(Change { wish, asker })
            .map_err(|_| "other changes are waiting; ask again later".to_owned())
    }

    /// Asks for a change and waits for its outcome.
    ///
    /// # Errors
    /// Says why it was not kept.
    pub(crate) async fn ask_and_wait(&self, wish: Wish, who: &str) -> Outcome {
        let (answer, outcome) = oneshot::channel();
        let asker = Asker::Person {
            who: who.to_owned(),
            answer,
        };
        self.ask(wish, asker)?;
        outcome
            .await
            .unwrap_or_else(|_| Err("the agent stopped before the outcome was known".to_owned()))
    }

    /// Checks a text that is to become the cloud layer, together with the local files and what it names.
    ///
    /// # Errors
    /// Every problem at once.
    pub(crate) fn check(&self, text: &str) -> Result<Checked, String> {
        let layer = config::layer_from_text(text).map_err(|problems| problems.to_string())?;
        let layer = match self.load() {
            Ok(now) => crate::bootstrap::with_login(&layer, &now.config.gateway.data_dir),
            Err(_) => layer,
        };
        let loaded = self.load_with(&layer)?;
        let problems = config::problems_around_cloud(&loaded);
        if let Some(problems) = problems {
            return Err(problems.to_string());
        }
        Ok(Checked { layer, loaded })
    }

    /// The configuration as it is on disk.
    ///
    /// # Errors
    /// Every problem at once.
    pub(crate) fn load(&self) -> Result<config::Loaded, config::Problems> {
        config::load(self.config.as_deref(), self.data_dir.as_deref())
    }

    /// The configuration with this cloud layer.
    ///
    /// # Errors
    /// Every problem at once.
    pub(crate) fn load_with(&self, layer: &str) -> Result<config::Loaded, String> {
        let (path, data_dir) = (self.config.as_deref(), self.data_dir.as_deref());
        config::load_with_layer(path, data_dir, layer).map_err(|problems| problems.to_string())
    }
}

/// A layer that can be tried.
pub(crate) struct Checked {
    /// As TOML.
    pub(crate) layer: String,
    /// The whole configuration with it.
    pub(crate) loaded: config::Loaded,
}

/// How long to watch.
///
/// # Errors
/// Says what was expected.
pub(crate) fn watch_time(text: Option<&str>) -> Result<Duration, String> {
    let Some(text) = text else {
        return Ok(WATCH_DEFAULT);
    };
    let time = humantime::parse_duration(text).ok();
    time.filter(|time| (WATCH_MIN..=WATCH_MAX).contains(time))
        .ok_or_else(|| format!("watch is {text}; expected a duration from 5s to 10m, such as 60s"))
}
