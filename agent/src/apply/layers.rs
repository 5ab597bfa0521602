//! The cloud layer on disk while another one is tried.
//!
//! `<data_dir>/config/trial.json` says that a trial goes on, who wanted it, and what the layer was before; it is there before the
//! layer changes and goes after the outcome. `previous.json` is the layer that the last kept change replaced, for `config.rollback`.
//! Both are replaced as a whole and begin with the name of their form and its version.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::cloud_file;
use crate::durable;

/// The configuration is not secret, and not for everybody either.
const MODE: u32 = 0o640;

const FORMAT: &str = "millrace-layer";
const VERSION: u32 = 1;

/// A layer that can be gone back to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    format: String,
    version: u32,
    /// `None`: there was none.
    layer: Option<String>,
    /// The command that wanted the trial.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    command: Option<Command>,
}

/// A command of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Command {
    /// The uplink that it came by.
    pub(crate) uplink: String,
    /// Its id.
    pub(crate) id: String,
}

/// The layer cannot be changed; it is as it was.
#[derive(Debug, thiserror::Error)]
#[error("cannot use {}", .path.display())]
pub(crate) struct LayerError {
    path: PathBuf,
    #[source]
    source: std::io::Error,
}

/// The layers of one data directory.
#[derive(Debug, Clone)]
pub(crate) struct Layers {
    cloud: PathBuf,
}

impl Layers {
    /// Those of this data directory.
    pub(crate) fn of(data_dir: &Path) -> Self {
        Self {
            cloud: cloud_file(data_dir),
        }
    }

    fn beside(&self, name: &str) -> PathBuf {
        self.cloud.with_file_name(name)
    }

    /// The layer as it is.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub(crate) fn current(&self) -> Result<Option<String>, LayerError> {
        read(&self.cloud)
    }

    /// Puts the new layer into the place of the old one, to be kept or taken back.
    ///
    /// # Errors
    /// Where the disk refuses: the old layer is there still.
    pub(crate) fn begin(
        &self,
        layer: Option<&str>,
        command: Option<Command>,
    ) -> Result<(), LayerError> {
        let before = self.current()?;
        self.write_kept("trial.json", before, command)?;
        self.put(layer)
    }

    /// The trial went well.
    ///
    /// # Errors
    /// Where the disk refuses.
    pub(crate) fn keep(&self) -> Result<(), LayerError> {
        if let Some(trial) = self.read_kept("trial.json")? {
            self.write_kept("previous.json", trial.layer, None)?;
        }
        self.remove("trial.json")
    }

    /// The trial did not go well, or was cut off. The command that wanted it, where one did; the caller answers it, and
    /// then says [`Layers::forget`].
    ///
    /// # Errors
    /// Where the disk refuses.
    pub(crate) fn take_back(&self) -> Result<Option<Tried>, LayerError> {
        let Some(trial) = self.read_kept("trial.json")? else {
            return Ok(None);
        };
        self.put(trial.layer.as_deref())?;
        Ok(Some(Tried {
            command: trial.command,
        }))
    }

    /// Nothing is tried any more.
    ///
    /// # Errors
    /// Where the disk refuses: it is taken back once more at the next start.
    pub(crate) fn forget(&self) -> Result<(), LayerError> {
        self.remove("trial.json")
    }

    /// The layer before the last change that was kept; outer `None`: there was none.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub(crate) fn previous(&self) -> Result<Option<Option<String>>, LayerError> {
        Ok(self.read_kept("previous.json")?.map(|kept| kept.layer))
    }

    fn put(&self, layer: Option<&str>) -> Result<(), LayerError> {
        match layer {
            Some(text) => {
                durable::write(&self.cloud, text.as_bytes(), MODE).map_err(failed(&self.cloud))
            }
            None => remove(&self.cloud),
        }
    }

    fn write_kept(
        &self,
        name: &str,
        layer: Option<String>,
        command: Option<Command>,
    ) -> Result<(), LayerError> {
        let kept = Kept {
            format: FORMAT.to_owned(),
            version: VERSION,
            layer,
            command,
        };
        // Plain data with text keys always has a form in JSON.
        let text = serde_json::to_vec_pretty(&kept).unwrap_or_default();
        let path = self.beside(name);
        durable::write(&path, &text, MODE).map_err(failed(&path))
    }

    fn read_kept(&self, name: &str) -> Result<Option<Kept>, LayerError> {
        let path = self.beside(name);
        let Some(text) = read(&path)? else {
            return Ok(None);
        };
        let kept: Kept = serde_json::from_str(&text)
            .map_err(std::io::Error::from)
            .map_err(failed(&path))?;
        if kept.format != FORMAT || kept.version > VERSION {
            let what = format!(
                "it is {} {}; this program reads {FORMAT} {VERSION}: install the newer version of millrace again",
                kept.format, kept.version
            );
            return Err(failed(&path)(std::io::Error::other(what)));
        }
        Ok(Some(kept))
    }

    fn remove(&self, name: &str) -> Result<(), LayerError> {
        remove(&self.beside(name))
    }
}

/// A trial that was taken back.
#[derive(Debug)]
pub(crate) struct Tried {
    /// The command that wanted it.
    pub(crate) command: Option<Command>,
}

fn failed(path: &Path) -> impl Fn(std::io::Error) -> LayerError {
    let path = path.to_owned();
    move |source| LayerError {
        path: path.clone(),
        source,
    }
}

fn read(path: &Path) -> Result<Option<String>, LayerError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(path)(error)),
    }
}

fn remove(path: &Path) -> Result<(), LayerError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed(path)(error)),
        _ => match path.parent().filter(|dir| dir.exists()) {
            Some(dir) => std::fs::File::open(dir)
                .and_then(|dir| dir.sync_all())
                .map_err(failed(path)),
            None => Ok(()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trial_is_kept_or_taken_back_whatever_was_there() {
        for before in [None, Some("[gateway]\n")] {
            let dir = tempfile::tempdir().unwrap();
            let layers = Layers::of(dir.path());
            layers.put(before).unwrap();
            let command = Command {
                uplink: "cloud".into(),
                id: "1".into(),
            };
            layers.begin(Some("new"), Some(command.clone())).unwrap();
            assert_eq!(layers.current().unwrap().as_deref(), Some("new"));
            // The agent starts again here.
            let tried = Layers::of(dir.path()).take_back().unwrap().unwrap();
            assert_eq!(tried.command, Some(command));
            assert_eq!(layers.current().unwrap().as_deref(), before);
            layers.forget().unwrap();
            assert!(layers.take_back().unwrap().is_none());
            assert_eq!(layers.previous().unwrap(), None);

            layers.begin(Some("new"), None).unwrap();
            layers.keep().unwrap();
            assert!(layers.take_back().unwrap().is_none());
            assert_eq!(layers.current().unwrap().as_deref(), Some("new"));
            assert_eq!(layers.previous().unwrap(), Some(before.map(str::to_owned)));
        }
    }

    #[test]
    fn what_a_newer_version_wrote_is_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        let layers = Layers::of(dir.path());
        layers.begin(Some("new"), None).unwrap();
        let trial = dir.path().join("config/trial.json");
        let text = std::fs::read_to_string(&trial).unwrap();
        std::fs::write(&trial, text.replace("\"version\": 1", "\"version\": 2")).unwrap();
        let error = crate::device::chain(&layers.take_back().unwrap_err());
        assert!(error.contains("millrace-layer 2"), "{error}");
    }
}
