//! Versions of models in `<data_dir>/models/<name>/`: one tar file a version, named by the SHA-256 of its model.toml, and
//! `shelf.json`, which says which of them runs and which ran before.
//!
//! What is on the shelf was examined in a process of its own ([`inspector`]): its maker is trusted, its digests are right, it
//! builds, it reproduces its golden windows, and its roles are those that the configuration gives tags. `active` is what runs,
//! also after a restart. A configured bundle that the shelf lacks is put there and promoted once; from then on `active` wins,
//! until the configuration names another bundle. A file of the shelf that is damaged is named, and the version before runs.

mod change;
pub(crate) mod examine;
pub(crate) mod inspector;
mod list;
mod order;
mod request;
mod settle;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use crate::config::{self, ModelPolicy};
use crate::durable;
pub(crate) use change::Step;
use examine::{Examined, Probe, Question};
pub(crate) use list::{VersionRow, versions};
pub(crate) use request::{InstallQuery, Installed, ModelAction, ModelRequest};

const FORMAT: &str = "millrace-shelf";
const VERSION: u32 = 1;
const MODE: u32 = 0o640;
const STATE_FILE: &str = "shelf.json";

/// Versions that are kept of one model; the oldest that nothing needs goes.
const VERSIONS_MAX: usize = 8;

/// How far back one can go.
const BEFORE_MAX: usize = 4;

/// One change at a time, whoever asks for it.
static CHANGING: Mutex<()> = Mutex::new(());

/// One version.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Version {
    /// SHA-256 of its model.toml; its file is named so.
    pub(crate) digest: String,
    /// As its manifest says.
    pub(crate) version: String,
    /// SHA-256 of its model file, as events name it.
    pub(crate) sha256: String,
    /// `unsigned`, `unverified`, or the fingerprint of the key that signed it.
    pub(crate) signature: String,
    /// Who brought it.
    pub(crate) from: String,
    /// What it costs here.
    pub(crate) probe: Probe,
}

/// `shelf.json`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct State {
    format: String,
    version: u32,
    /// In the order in which they came.
    pub(crate) versions: Vec<Version>,
    /// The digest of the one that runs; `None` until the first one is promoted.
    pub(crate) active: Option<String>,
    /// What ran before, the last one last: what one can go back to.
    #[serde(default)]
    pub(crate) before: Vec<String>,
    /// The one that scores beside the active one.
    #[serde(default)]
    pub(crate) shadow: Option<String>,
    /// The version that was promoted and has not proved itself yet.
    #[serde(default)]
    trial: Option<OnTrial>,
    /// The digest of the configured bundle that was promoted last.
    #[serde(default)]
    configured: Option<String>,
}

/// A version that has not proved itself yet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct OnTrial {
    /// Its digest.
    digest: String,
    /// How often the program was started meanwhile.
    starts: u32,
}

impl State {
    /// The version of this number or digest.
    ///
    /// # Errors
    /// Names those that there are.
    pub(crate) fn find(&self, version: &str) -> Result<&Version, String> {
        let named = |it: &&Version| it.version == version || it.digest == version;
        self.versions.iter().find(named).ok_or_else(|| {
            let known: Vec<&str> = self.versions.iter().map(|it| it.version.as_str()).collect();
            match known.is_empty() {
                true => format!("there is no version {version}: the shelf is empty"),
                false => format!(
                    "there is no version {version} on the shelf; there are: {}",
                    known.join(", ")
                ),
            }
        })
    }

    /// The version that runs.
    pub(crate) fn running(&self) -> Option<&Version> {
        let active = self.active.as_deref()?;
        self.versions.iter().find(|it| it.digest == active)
    }

    /// Whether something would be missed without it.
    fn is_needed(&self, digest: &str) -> bool {
        let running = [&self.active, &self.shadow];
        running.iter().any(|it| it.as_deref() == Some(digest))
            || self.before.iter().any(|it| it == digest)
    }
}

/// Why the shelf is as it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ShelfError {
    /// It is not taken, for what it is: bring another one.
    #[error("{0}")]
    Refused(String),
    /// The disk refuses: it may be taken later.
    #[error("{0}")]
    Disk(String),
}

/// On which terms a version is taken.
#[derive(Debug, Clone)]
pub(crate) struct Terms {
    /// Whose, and what its examination may cost.
    pub(crate) policy: ModelPolicy,
    /// Only signed ones.
    pub(crate) signed: bool,
    /// Also one below the version that runs.
    pub(crate) older: bool,
    /// For the list.
    pub(crate) from: String,
}

/// What every version of the state begins with.
#[derive(Deserialize)]
struct Head {
    format: String,
    version: u32,
}

/// Why a state cannot be read.
#[derive(Debug, thiserror::Error)]
enum Unreadable {
    /// A newer version of the program wrote it: it stays as it is.
    #[error("{} is of a newer version of millrace; install that one again: what is on the shelf waits for it", .0.display())]
    Newer(PathBuf),
    /// The disk, or damage.
    #[error("{0}")]
    Other(String),
}

/// The shelf of one model.
#[derive(Debug, Clone)]
pub(crate) struct Shelf {
    directory: PathBuf,
}

fn changing() -> MutexGuard<'static, ()> {
    CHANGING.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shelf {
    /// The shelf of the model of this name.
    pub(crate) fn of(data_dir: &Path, model: &str) -> Self {
        // Names may be divided.
        let directory = data_dir.join("models").join(model.replace('/', "%2F"));
        Self { directory }
    }

    /// What is on it.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub(crate) fn state(&self) -> Result<State, String> {
        self.read().map_err(|unreadable| unreadable.to_string())
    }

    fn read(&self) -> Result<State, Unreadable> {
        let path = self.directory.join(STATE_FILE);
        let text = match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(State::default());
            }
            text => {
                text.map_err(|error| Unreadable::Other(format!("{}: {error}", path.display())))?
            }
        };
        let damaged =
            |why: String| Unreadable::Other(format!("{} is damaged: {why}", path.display()));
        // Its version alone first, since a newer one may look otherwise.
        let head: Head =
            serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
        if head.format != FORMAT {
            return Err(damaged(format!(
                "format is {:?}; {FORMAT:?} is expected",
                head.format
            )));
        }
        if head.version > VERSION {
            return Err(Unreadable::Newer(path));
        }
        serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))
    }

    fn write(&self, mut state: State) -> Result<(), ShelfError> {
        FORMAT.clone_into(&mut state.format);
        state.version = VERSION;
        let path = self.directory.join(STATE_FILE);
        // Plain data with text keys always has a form in JSON.
        let text = serde_json::to_vec_pretty(&state).unwrap_or_default();
        durable::write(&path, &text, MODE).map_err(disk(&path))
    }

    /// A file for what comes next; it goes by itself unless it is kept.
    ///
    /// # Errors
    /// Where there can be no such file.
    pub(crate) fn arriving(&self) -> Result<NamedTempFile, String> {
        let made = std::fs::create_dir_all(&self.directory).and_then(|()| {
            tempfile::Builder::new()
                .prefix("arriving-")
                .tempfile_in(&self.directory)
        });
        made.map_err(|error| format!("{}: {error}", self.directory.display()))
    }

    /// Where a version lies.
    pub(crate) fn file(&self, digest: &str) -> PathBuf {
        self.directory.join(format!("{digest}.tar"))
    }

    /// The file of the version that runs.
    pub(crate) fn active(&self) -> Option<PathBuf> {
        Some(self.file(&self.state().ok()?.active?))
    }

    /// Has what has arrived examined and puts it on the shelf. Takes its time.
    ///
    /// # Errors
    /// Says why it is not taken; the shelf is as it was.
    pub(crate) fn admit(
        &self,
        model: &config::Model,
        arrival: &Path,
        terms: &Terms,
    ) -> Result<Version, ShelfError> {
        let examined = examined(model, arrival, terms).map_err(ShelfError::Refused)?;
        let Examined {
            version,
            digest,
            sha256,
            signature,
            probe,
            ..
        } = examined;
        let version = Version {
            digest,
            version,
            sha256,
            signature,
            from: terms.from.clone(),
            probe,
        };
        let _guard = changing();
        self.put(arrival, &version, terms.older)?;
        Ok(version)
    }

    fn put(&self, arrival: &Path, version: &Version, older: bool) -> Result<(), ShelfError> {
        let mut state = self.state().map_err(ShelfError::Disk)?;
        let same = |it: &&Version| it.version == version.version && it.digest != version.digest;
        if let Some(other) = state.versions.iter().find(same) {
            return Err(ShelfError::Refused(format!(
                "version {} is on the shelf with another content (model.toml has SHA-256 {}); a changed bundle needs a version of its own",
                other.version, other.digest
            )));
        }
        change::is_not_older(&state, &version.version, older).map_err(ShelfError::Refused)?;
        let file = self.file(&version.digest);
        std::fs::File::open(arrival)
            .and_then(|arrived| arrived.sync_all())
            .and_then(|()| std::fs::rename(arrival, &file))
            .map_err(disk(&file))?;
        state.versions.retain(|it| it.digest != version.digest);
        state.versions.push(version.clone());
        while state.versions.len() > VERSIONS_MAX {
            let idle =
                |old: &Version| old.digest != version.digest && !state.is_needed(&old.digest);
            let Some(at) = state.versions.iter().position(idle) else {
                break;
            };
            let old = state.versions.remove(at);
            // What stays is only room.
            let _ = std::fs::remove_file(self.file(&old.digest));
        }
        self.write(state)
    }
}

fn disk(path: &Path) -> impl FnOnce(std::io::Error) -> ShelfError {
    move |error| ShelfError::Disk(format!("{}: {error}", path.display()))
}

/// Has a bundle examined, and compares its roles with the configuration.
fn examined(model: &config::Model, bundle: &Path, terms: &Terms) -> Result<Examined, String> {
    if let Some(detector) = &model.detector {
        return Err(format!(
            "{} is a detector of this program ({}), which has no versions",
            model.name,
            detector.method.name()
        ));
    }
    let trust = terms.policy.trust(terms.signed)?;
    let question = Question::new(
        bundle.to_owned(),
        &trust,
        terms.policy.time,
        terms.policy.memory,
    );
    let examined = inspector::examine(&question)?;
    let mut roles: Vec<&str> = examined.roles.iter().map(String::as_str).collect();
    roles.sort_unstable();
    let given: Vec<&str> = model.inputs.keys().map(String::as_str).collect();
    if roles != given {
        return Err(format!(
            "the bundle has the roles {}; [model.inputs] of {} gives tags to {}",
            roles.join(", "),
            model.name,
            given.join(", ")
        ));
    }
    Ok(examined)
}

#[cfg(test)]
mod tests;
