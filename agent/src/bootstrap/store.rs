//! What is kept of enrolments, below `<data_dir>/secrets`, which only the service can read:
//!
//! - `enrolment.json`: which one is in force, how far it is, and what is known of the contact.
//! - `enrolment-N/`: the credentials of one, its configuration as it came (`layer.toml`), and, once another took its
//!   place, the configuration as it was then (`replaced.toml`).
//! - `current`: a link to the one in force. Configurations name credentials by it.
//! - `attempt.json`: key pair and request of the enrolment that is asked for (`attempt.rs` of the uplink).
//! - `bootstrap.key`: a static external key, moved here.
//! - `claim.toml`: what the claim said that was used, without its token.
//!
//! `enrolment.json` decides: it is replaced as a whole, and says whether link and configuration are still to follow,
//! so that a power cut leaves the old enrolment or the new one. The old one is removed when the new one has proved
//! itself.

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use millrace_uplink::Secret;
use millrace_uplink::bootstrap::{Attempt, AttemptError, Generation};
use serde::{Deserialize, Serialize};

use crate::config::{self, KnownContact};
use crate::durable;

/// Secrets are for the service alone.
pub(super) const SECRET_MODE: u32 = 0o600;
const SECRET_DIR_MODE: u32 = 0o700;
/// The core's configuration is not secret, and not for everybody either.
const CONFIG_MODE: u32 = 0o640;

/// The configuration as it came.
const LAYER: &str = "layer.toml";
/// The configuration as it was when another enrolment took the place of this one.
const REPLACED: &str = "replaced.toml";

const FORMAT: &str = "millrace-enrolment";
const VERSION: u32 = 1;

/// How far the enrolment in force is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Phase {
    /// It has not connected yet; the one before is still there.
    #[default]
    Trial,
    /// It has connected; the core is to be told.
    Confirming,
    /// The core knows.
    Settled,
}

/// What every version of `enrolment.json` begins with.
#[derive(Deserialize)]
struct Head {
    format: String,
    version: u32,
}

/// `enrolment.json`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct State {
    format: String,
    version: u32,
    /// The one in force.
    pub(super) active: Option<u64>,
    pub(super) phase: Phase,
    /// The last one that has proved itself.
    pub(super) previous: Option<u64>,
    /// Link and configuration are still to follow.
    applying: bool,
    /// The number of the next one.
    next: u64,
    /// Whom it came from.
    pub(super) contact: Option<KnownContact>,
    pub(super) generation: Option<Generation>,
    /// What the core wants to be told.
    pub(super) receipt: Option<String>,
    /// When the next certificate is due, Unix seconds.
    pub(super) renew_at: Option<u64>,
    /// SHA-256 of the key that the enrolment in force was asked for with.
    pub(super) asked_with: Option<String>,
    /// SHA-256 of a one-time key that was used.
    pub(super) spent: Option<String>,
}

impl State {
    /// When the next certificate is due.
    pub(super) fn renew_at(&self) -> Option<SystemTime> {
        Some(SystemTime::UNIX_EPOCH + Duration::from_secs(self.renew_at?))
    }
}

/// Why something was not kept.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    /// A file cannot be read or written.
    #[error("cannot keep {}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A newer version of the program wrote the state: install that one again. Nothing is changed meanwhile.
    #[error("{} is of a newer version of millrace; install that one again, or `millrace bootstrap reset` forgets the enrolment and asks again", .0.display())]
    Newer(PathBuf),
    /// The state was damaged: `millrace bootstrap reset` begins anew.
    #[error("{} is not what this version wrote; `millrace bootstrap reset` forgets the enrolment and asks again", .0.display())]
    State(PathBuf),
    /// There is no attempt.
    #[error(transparent)]
    Attempt(#[from] AttemptError),
}

/// The directory.
#[derive(Debug, Clone)]
pub(super) struct Store {
    data_dir: PathBuf,
}

/// A file of an enrolment: its name and its text.
pub(super) type SecretFile = (String, Secret);

impl Store {
    pub(super) fn new(data_dir: &Path) -> Self {
        Self {
            data_dir: data_dir.to_owned(),
        }
    }

    fn secrets(&self) -> PathBuf {
        self.data_dir.join("secrets")
    }

    /// The link that configurations name credentials by.
    pub(super) fn current(&self) -> PathBuf {
        self.secrets().join("current")
    }

    /// Where a static key is moved to.
    pub(super) fn kept_key(&self) -> PathBuf {
        self.secrets().join("bootstrap.key")
    }

    /// What is kept of the claim that was used.
    pub(super) fn kept_claim(&self) -> PathBuf {
        self.secrets().join("claim.toml")
    }

    pub(super) fn keep_claim(&self, text: &str) -> Result<(), StoreError> {
        self.write(&self.kept_claim(), text, SECRET_MODE)
    }

    fn dir(&self, number: u64) -> PathBuf {
        self.secrets().join(format!("enrolment-{number}"))
    }

    fn write(&self, path: &Path, text: &str, mode: u32) -> Result<(), StoreError> {
        let fail = |source| StoreError::File {
            path: path.to_owned(),
            source,
        };
        if path.starts_with(self.secrets()) {
            let parent = path.parent().unwrap_or(path);
            let mut builder = std::fs::DirBuilder::new();
            builder.recursive(true).mode(SECRET_DIR_MODE);
            builder.create(parent).map_err(fail)?;
        }
        durable::write(path, text.as_bytes(), mode).map_err(fail)
    }

    /// Writes a secret of the bootstrap itself.
    pub(super) fn write_secret(&self, path: &Path, text: &Secret) -> Result<(), StoreError> {
        self.write(path, text.expose(), SECRET_MODE)
    }

    fn state_path(&self) -> PathBuf {
        self.secrets().join("enrolment.json")
    }

    /// What is kept; nothing where there never was an enrolment.
    pub(super) fn state(&self) -> Result<State, StoreError> {
        let path = self.state_path();
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(State::default()),
            Err(source) => return Err(StoreError::File { path, source }),
        };
        // Its version alone, since a newer one may look otherwise.
        let head = serde_json::from_str::<Head>(&text).ok();
        match head.filter(|head| head.format == FORMAT) {
            Some(head) if head.version > VERSION => Err(StoreError::Newer(path)),
            Some(_) => serde_json::from_str(&text).map_err(|_| StoreError::State(path)),
            None => Err(StoreError::State(path)),
        }
    }

    pub(super) fn save(&self, state: &State) -> Result<(), StoreError> {
        let state = State {
            format: FORMAT.to_owned(),
            version: VERSION,
            ..state.clone()
        };
        // Plain data with text keys always has a form in JSON.
        let text = serde_json::to_string_pretty(&state).unwrap_or_default();
        self.write(&self.state_path(), &text, SECRET_MODE)
    }

    fn attempt_path(&self) -> PathBuf {
        self.secrets().join("attempt.json")
    }

    /// The attempt for a gateway of this name: the one that is kept, else a new one, kept before anybody uses it.
    pub(super) fn attempt(&self, external_id: &str) -> Result<Attempt, StoreError> {
        let path = self.attempt_path();
        let kept = Secret::from_file(&path).ok();
        if let Some(attempt) = kept.and_then(|text| Attempt::from_text(&text, external_id).ok()) {
            return Ok(attempt);
        }
        let attempt = Attempt::new(external_id)?;
        self.write_secret(&path, &attempt.to_text())?;
        Ok(attempt)
    }

    /// The attempt has come to its end.
    pub(super) fn forget_attempt(&self) {
        let _ = std::fs::remove_file(self.attempt_path());
    }

    /// Text of a file of an enrolment.
    pub(super) fn read(&self, number: u64, name: &str) -> Option<String> {
        std::fs::read_to_string(self.dir(number).join(name)).ok()
    }

    /// The credentials of the one in force.
    pub(super) fn files(&self, state: &State) -> Result<Vec<SecretFile>, StoreError> {
        let Some(active) = state.active else {
            return Ok(Vec::new());
        };
        let dir = self.dir(active);
        let fail = |source| StoreError::File {
            path: dir.clone(),
            source,
        };
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&dir).map_err(fail)? {
            let name = entry
                .map_err(fail)?
                .file_name()
                .to_string_lossy()
                .into_owned();
            if name != LAYER && name != REPLACED {
                let text = std::fs::read_to_string(dir.join(&name)).map_err(fail)?;
                files.push((name, Secret::new(text)));
            }
        }
        Ok(files)
    }

    /// The configuration of the core as it is now.
    pub(super) fn cloud_layer(&self) -> Option<String> {
        std::fs::read_to_string(config::cloud_file(&self.data_dir)).ok()
    }

    /// The configuration of the one in force, as it came.
    pub(super) fn layer(&self, state: &State) -> Option<String> {
        self.read(state.active?, LAYER)
    }

    /// Whether the one in force holds the very same.
    pub(super) fn is_in_force(&self, state: &State, layer: &str, files: &[SecretFile]) -> bool {
        let Some(active) = state.active else {
            return false;
        };
        let same = |name: &str, text: &str| self.read(active, name).as_deref() == Some(text);
        same(LAYER, layer) && files.iter().all(|(name, text)| same(name, text.expose()))
    }

    /// Keeps a new one and puts it into force, on trial.
    pub(super) fn put(
        &self,
        state: &mut State,
        layer: &str,
        files: &[SecretFile],
    ) -> Result<(), StoreError> {
        let number = state.next;
        let dir = self.dir(number);
        // Of an attempt that a power cut ended.
        remove(&dir)?;
        for (name, text) in files {
            self.write(&dir.join(name), text.expose(), SECRET_MODE)?;
        }
        self.write(&dir.join(LAYER), layer, SECRET_MODE)?;
        if let (Some(active), Some(cloud)) = (state.active, self.cloud_layer()) {
            self.write(&self.dir(active).join(REPLACED), &cloud, SECRET_MODE)?;
        }
        let unproven = state.active.filter(|_| state.phase == Phase::Trial);
        if unproven.is_none() {
            state.previous = state.active;
        }
        state.active = Some(number);
        state.phase = Phase::Trial;
        state.next = number + 1;
        self.apply(state)?;
        if let Some(unproven) = unproven {
            remove(&self.dir(unproven))?;
        }
        Ok(())
    }

    /// The last one that has proved itself is in force again. False where there is none.
    pub(super) fn go_back(&self, state: &mut State) -> Result<bool, StoreError> {
        let (Some(previous), Some(failed)) = (state.previous, state.active) else {
            return Ok(false);
        };
        state.active = Some(previous);
        state.previous = None;
        state.phase = Phase::Settled;
        state.receipt = None;
        self.apply(state)?;
        remove(&self.dir(failed))?;
        Ok(true)
    }

    /// The one in force has proved itself: the one before goes.
    pub(super) fn forget_previous(&self, state: &mut State) -> Result<(), StoreError> {
        if let Some(previous) = state.previous.take() {
            self.save(state)?;
            remove(&self.dir(previous))?;
        }
        Ok(())
    }

    /// Link and configuration follow the state.
    fn apply(&self, state: &mut State) -> Result<(), StoreError> {
        state.applying = true;
        self.save(state)?;
        self.follow(state)
    }

    /// Does what a power cut left undone. True where there was something.
    pub(super) fn recover(&self, state: &mut State) -> Result<bool, StoreError> {
        let undone = state.applying;
        if undone {
            self.follow(state)?;
        }
        Ok(undone)
    }

    fn follow(&self, state: &mut State) -> Result<(), StoreError> {
        if let Some(active) = state.active {
            let link = self.current();
            let fail = |source| StoreError::File {
                path: link.clone(),
                source,
            };
            let fresh = self.secrets().join("current.new");
            let _ = std::fs::remove_file(&fresh);
            std::os::unix::fs::symlink(format!("enrolment-{active}"), &fresh).map_err(fail)?;
            std::fs::rename(&fresh, &link).map_err(fail)?;
            let layer = self
                .read(active, REPLACED)
                .or_else(|| self.read(active, LAYER));
            let cloud = config::cloud_file(&self.data_dir);
            match layer {
                Some(layer) if !layer.trim().is_empty() => {
                    self.write(&cloud, &layer, CONFIG_MODE)?
                }
                _ => remove(&cloud)?,
            }
        }
        state.applying = false;
        self.save(state)
    }

    /// Forgets every enrolment, and which key was spent; a static key that was moved here stays, and what its claim
    /// said. That of a one-time token goes with it: without the token nobody can be asked.
    pub(super) fn reset(&self) -> Result<(), StoreError> {
        remove(&config::cloud_file(&self.data_dir))?;
        if !self.kept_key().exists() {
            remove(&self.kept_claim())?;
        }
        remove(&self.state_path())?;
        self.forget_attempt();
        let _ = std::fs::remove_file(self.current());
        let entries = std::fs::read_dir(self.secrets());
        for entry in entries.into_iter().flatten().flatten() {
            if entry
                .file_name()
                .to_string_lossy()
                .starts_with("enrolment-")
            {
                remove(&entry.path())?;
            }
        }
        Ok(())
    }
}

/// Removes a file or a directory, if it is there.
fn remove(path: &Path) -> Result<(), StoreError> {
    let outcome = match path.is_dir() {
        true => std::fs::remove_dir_all(path),
        false => std::fs::remove_file(path),
    };
    match outcome {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(StoreError::File {
            path: path.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(password: &str) -> Vec<SecretFile> {
        vec![("mqtt.password".to_owned(), Secret::new(password))]
    }

    fn password(store: &Store) -> String {
        std::fs::read_to_string(store.current().join("mqtt.password")).unwrap()
    }

    #[test]
    fn the_old_one_stays_until_the_new_one_has_proved_itself() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        let mut state = store.state().unwrap();
        assert_eq!(state, State::default());
        store.put(&mut state, "# one\n", &files("one")).unwrap();
        assert_eq!(
            (
                password(&store).as_str(),
                store.cloud_layer().unwrap().as_str()
            ),
            ("one", "# one\n")
        );
        state.phase = Phase::Settled;
        store.save(&state).unwrap();
        // Meanwhile the core changed its configuration by other ways.
        std::fs::write(config::cloud_file(dir.path()), "# one, changed\n").unwrap();

        store.put(&mut state, "# two\n", &files("two")).unwrap();
        assert!(store.is_in_force(&state, "# two\n", &files("two")));
        assert_eq!((state.active, state.previous), (Some(1), Some(0)));
        // A second trial does not make the first the one to go back to.
        store.put(&mut state, "# three\n", &files("three")).unwrap();
        assert_eq!((state.active, state.previous), (Some(2), Some(0)));
        assert_eq!(password(&store), "three");

        assert!(store.go_back(&mut state).unwrap());
        assert_eq!(password(&store), "one");
        assert_eq!(store.cloud_layer().unwrap(), "# one, changed\n");
        let mut kept = store.state().unwrap();
        assert_eq!((kept.active, kept.phase), (Some(0), Phase::Settled));
        assert!(!store.go_back(&mut kept).unwrap());
        assert!(!dir.path().join("secrets/enrolment-2").exists());
    }

    #[test]
    fn a_power_cut_between_the_steps_is_made_good() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        let mut state = State::default();
        store.put(&mut state, "# one\n", &files("one")).unwrap();
        state.phase = Phase::Settled;
        store.put(&mut state, "# two\n", &files("two")).unwrap();
        // As if neither link nor configuration had been written.
        std::fs::remove_file(store.current()).unwrap();
        std::fs::write(config::cloud_file(dir.path()), "# one\n").unwrap();
        state.applying = true;
        store.save(&state).unwrap();
        let mut found = store.state().unwrap();
        assert!(store.recover(&mut found).unwrap());
        assert_eq!(
            (
                password(&store).as_str(),
                store.cloud_layer().unwrap().as_str()
            ),
            ("two", "# two\n")
        );
        assert!(!store.recover(&mut store.state().unwrap()).unwrap());
    }

    #[test]
    fn damage_is_named_and_reset_begins_anew() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        let mut state = State::default();
        store.put(&mut state, "# one\n", &files("one")).unwrap();
        let first = store.attempt("gw").unwrap();
        assert_eq!(store.attempt("gw").unwrap(), first);
        assert_ne!(store.attempt("another").unwrap(), first);
        std::fs::write(store.state_path(), "{}").unwrap();
        let error = store.state().unwrap_err().to_string();
        assert!(error.contains("bootstrap reset"), "{error}");
        store.reset().unwrap();
        assert_eq!(store.state().unwrap(), State::default());
        assert_eq!(store.cloud_layer(), None);
        assert!(!store.current().exists());
        let mode =
            std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(store.secrets()).unwrap());
        assert_eq!(mode & 0o777, SECRET_DIR_MODE);
    }
}
