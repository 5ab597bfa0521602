//! Versions of models that were installed by command, in `<data_dir>/models/<name>/`: one tar file a version, named by its SHA-256, and
//! `shelf.json`, which says which of them runs.
//!
//! What is on the shelf was admitted: its bundle loads, its roles are those that the configuration gives tags, and its detector
//! reproduces its golden windows. `active` wins over the configured bundle after a restart, until the configuration names another
//! version: that one runs then. Where the active one cannot be built, the configured one runs, and the status says so.

use std::path::{Path, PathBuf};

use millrace_inference::{Bundle, Detector};
use serde::{Deserialize, Serialize};

use crate::config;
use crate::device::chain;
use crate::durable;

const FORMAT: &str = "millrace-shelf";
const VERSION: u32 = 1;
const MODE: u32 = 0o640;

/// Versions that are kept of one model; the oldest that neither runs nor could be gone back to goes.
const VERSIONS_MAX: usize = 8;

/// One version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Installed {
    /// SHA-256 of its tar file.
    pub(crate) sha256: String,
    /// As its manifest says.
    pub(crate) version: String,
}

/// `shelf.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    format: String,
    version: u32,
    /// In the order in which they came.
    pub(crate) versions: Vec<Installed>,
    /// The one that runs; `None`: the configured bundle does.
    pub(crate) active: Option<String>,
    /// Whether anything was promoted yet, so that there is something to go back to.
    #[serde(default)]
    promoted: bool,
    /// What ran before; `None`: the configured bundle.
    #[serde(default)]
    previous: Option<String>,
    /// The configured bundle that `active` wins over.
    #[serde(default)]
    configured: Option<String>,
}

/// The shelf of one model.
pub(crate) struct Shelf {
    directory: PathBuf,
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
        let path = self.directory.join("shelf.json");
        let text = match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(State::default());
            }
            text => text.map_err(|error| format!("{}: {error}", path.display()))?,
        };
        let state: State = serde_json::from_slice(&text)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        if state.format != FORMAT || state.version > VERSION {
            return Err(format!("{} is of a newer version", path.display()));
        }
        Ok(state)
    }

    fn write(&self, mut state: State) -> Result<(), String> {
        FORMAT.clone_into(&mut state.format);
        state.version = VERSION;
        let path = self.directory.join("shelf.json");
        // Plain data with text keys always has a form in JSON.
        let text = serde_json::to_vec_pretty(&state).unwrap_or_default();
        durable::write(&path, &text, MODE).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// Where a download for it goes first.
    ///
    /// # Errors
    /// Where there can be no such file.
    pub(crate) fn arriving(&self) -> Result<PathBuf, String> {
        std::fs::create_dir_all(&self.directory)
            .map_err(|error| format!("{}: {error}", self.directory.display()))?;
        Ok(self.directory.join("arriving.tar"))
    }

    fn file(&self, sha256: &str) -> PathBuf {
        self.directory.join(format!("{sha256}.tar"))
    }

    /// The file of the version that runs, where it wins over the configured bundle.
    pub(crate) fn active(&self, model: &config::Model) -> Option<PathBuf> {
        let state = self.state();
        let state = state
            .inspect_err(
                |error| tracing::error!(model = %model.name, error, "the shelf cannot be read"),
            )
            .ok()?;
        let active = state.active?;
        // Another bundle was configured meanwhile: it was meant to run.
        let same = state.configured.is_none() || state.configured == identity(&model.bundle);
        same.then(|| self.file(&active))
    }

    /// Admits the bundle that has arrived and puts it on the shelf. Building takes its time.
    ///
    /// # Errors
    /// Says why it is not admitted; the shelf is as it was.
    pub(crate) fn admit(&self, model: &config::Model, sha256: &str) -> Result<Installed, String> {
        let arriving = self.arriving()?;
        let admitted = admitted(&arriving, model).and_then(|version| {
            let installed = Installed {
                sha256: sha256.to_lowercase(),
                version,
            };
            self.put(installed)
        });
        if admitted.is_err() {
            // It may be on the shelf already.
            let _ = std::fs::remove_file(&arriving);
        }
        admitted
    }

    fn put(&self, installed: Installed) -> Result<Installed, String> {
        let mut state = self.state()?;
        let file = self.file(&installed.sha256);
        let known = state
            .versions
            .iter()
            .any(|known| known.sha256 == installed.sha256);
        let same = |known: &&Installed| known.version == installed.version;
        if let Some(other) = state.versions.iter().find(same).filter(|_| !known) {
            return Err(format!(
                "version {} is on the shelf with another content ({})",
                other.version, other.sha256
            ));
        }
        std::fs::rename(self.arriving()?, &file)
            .map_err(|error| format!("{}: {error}", file.display()))?;
        if !known {
            state.versions.push(installed.clone());
            while state.versions.len() > VERSIONS_MAX {
                let needed = [&state.active, &state.previous];
                let idle = |old: &Installed| {
                    let is_needed = |it: &&Option<String>| it.as_ref() == Some(&old.sha256);
                    !needed.iter().any(is_needed)
                };
                let Some(at) = state.versions.iter().position(idle) else {
                    break;
                };
                let old = state.versions.remove(at);
                // What stays is only room.
                let _ = std::fs::remove_file(self.file(&old.sha256));
            }
            self.write(state)?;
        }
        Ok(installed)
    }

    /// Makes a version, or `None` the configured bundle, the one that runs from the next start of the model on.
    ///
    /// # Errors
    /// Where there is no such version.
    pub(crate) fn promote(
        &self,
        model: &config::Model,
        version: Option<&str>,
    ) -> Result<State, String> {
        let mut state = self.state()?;
        let before = state.clone();
        let active = match version {
            None => None,
            Some(version) => {
                let named = |it: &&Installed| it.version == version || it.sha256 == version;
                let found = state.versions.iter().find(named);
                let known: Vec<&str> = state
                    .versions
                    .iter()
                    .map(|it| it.version.as_str())
                    .collect();
                let found = found.ok_or_else(|| {
                    format!(
                        "there is no version {version} on the shelf; there are: {}",
                        known.join(", ")
                    )
                })?;
                Some(found.sha256.clone())
            }
        };
        state.previous = std::mem::replace(&mut state.active, active);
        state.promoted = true;
        state.configured = identity(&model.bundle);
        self.write(state)?;
        Ok(before)
    }

    /// The version to go back to; inner `None`: the configured bundle.
    ///
    /// # Errors
    /// Where nothing was promoted yet.
    pub(crate) fn previous(&self) -> Result<Option<String>, String> {
        let state = self.state()?;
        match state.promoted {
            true => Ok(state.previous),
            false => Err("no version was promoted yet: there is none to go back to".to_owned()),
        }
    }

    /// A version was taken back: the one that goes on runs after a restart, too, unless something else was promoted meanwhile.
    /// There is none to go back to then.
    ///
    /// # Errors
    /// Where the disk refuses.
    pub(crate) fn take_back(
        &self,
        model: &config::Model,
        failed: Option<&str>,
        goes_on: Option<&str>,
    ) -> Result<(), String> {
        let mut state = self.state()?;
        if state.active.as_deref() != failed {
            return Ok(());
        }
        state.active = goes_on.map(str::to_owned);
        state.previous = None;
        state.promoted = false;
        state.configured = identity(&model.bundle);
        self.write(state)
    }

    /// As it was before a promotion that did not work.
    ///
    /// # Errors
    /// Where the disk refuses.
    pub(crate) fn restore(&self, before: State) -> Result<(), String> {
        self.write(before)
    }
}

/// What tells one bundle from another.
fn identity(bundle: &Path) -> Option<String> {
    let bundle = Bundle::load(bundle).ok()?;
    Some(format!("{}/{}", bundle.version(), bundle.sha256()))
}

fn admitted(path: &Path, model: &config::Model) -> Result<String, String> {
    let bundle = Bundle::load(path).map_err(|error| chain(&error))?;
    let mut roles: Vec<&str> = bundle
        .inputs()
        .iter()
        .map(|input| input.role.as_str())
        .collect();
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
    Detector::build(&bundle).map_err(|error| chain(&error))?;
    Ok(bundle.version().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUMP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/pump-anomaly");

    fn model() -> config::Model {
        let bundle = Bundle::load(Path::new(PUMP)).unwrap();
        let inputs = bundle.inputs().iter();
        config::Model {
            name: "hall/pump".into(),
            bundle: PUMP.into(),
            detector: None,
            inputs: inputs
                .map(|input| (input.role.clone(), "a/b".into()))
                .collect(),
            bounds: crate::model::Bounds::default(),
        }
    }

    /// A tar of the bundle with another version.
    fn arrive(shelf: &Shelf, version: &str) {
        let dir = tempfile::tempdir().unwrap();
        for name in ["model.toml", "model.onnx", "golden.json"] {
            std::fs::copy(Path::new(PUMP).join(name), dir.path().join(name)).unwrap();
        }
        let manifest = dir.path().join("model.toml");
        let text = std::fs::read_to_string(&manifest).unwrap();
        let own = Bundle::load(Path::new(PUMP)).unwrap().version().to_owned();
        let text = text.replace(
            &format!("version = \"{own}\""),
            &format!("version = \"{version}\""),
        );
        std::fs::write(&manifest, text).unwrap();
        let status = std::process::Command::new("tar")
            .args(["-C", dir.path().to_str().unwrap(), "-cf"])
            .arg(shelf.arriving().unwrap())
            .arg(".")
            .status();
        assert!(status.unwrap().success());
    }

    #[test]
    fn versions_are_admitted_promoted_and_gone_back_from_over_restarts() {
        let dir = tempfile::tempdir().unwrap();
        let model = model();
        let shelf = || Shelf::of(dir.path(), &model.name);
        assert_eq!(shelf().active(&model), None);
        assert!(shelf().previous().is_err());
        for (version, digest) in [("9.1.0", "aa"), ("9.2.0", "bb")] {
            arrive(&shelf(), version);
            assert_eq!(shelf().admit(&model, digest).unwrap().version, version);
        }
        assert_eq!(shelf().active(&model), None, "installed is not promoted");
        let active = || {
            shelf()
                .active(&model)
                .map(|it| it.file_name().unwrap().to_owned())
        };
        shelf().promote(&model, Some("9.1.0")).unwrap();
        let before = shelf().promote(&model, Some("9.2.0")).unwrap();
        assert_eq!(active().unwrap(), "bb.tar");
        shelf().restore(before).unwrap();
        assert_eq!(active().unwrap(), "aa.tar");
        let previous = shelf().previous().unwrap();
        shelf().promote(&model, previous.as_deref()).unwrap();
        assert_eq!(active(), None, "the configured bundle again");
        let error = shelf().promote(&model, Some("9.3.0")).unwrap_err();
        assert!(error.contains("9.1.0, 9.2.0"), "{error}");
        // A version cannot become another one.
        arrive(&shelf(), "9.2.0");
        assert!(
            shelf()
                .admit(&model, "cc")
                .unwrap_err()
                .contains("another content")
        );
    }

    #[test]
    fn what_is_no_bundle_or_another_one_is_not_admitted() {
        let dir = tempfile::tempdir().unwrap();
        let mut model = model();
        let shelf = Shelf::of(dir.path(), &model.name);
        std::fs::write(shelf.arriving().unwrap(), b"no tar").unwrap();
        assert!(shelf.admit(&model, "aa").is_err());
        arrive(&shelf, "9.1.0");
        model.inputs.clear();
        assert!(
            shelf
                .admit(&model, "aa")
                .unwrap_err()
                .contains("[model.inputs]")
        );
        assert_eq!(shelf.state().unwrap(), State::default());
        assert!(!shelf.arriving().unwrap().exists());
    }
}
