//! Local files that are tried, or were taken back: the agent does not start with them before they change.
//!
//! People's files are theirs: a trial that fails leaves them as they are. `<data_dir>/config/refused.json` remembers which ones
//! ran on trial, from before they run until they are kept; a restart meanwhile, or after they were taken back, starts the last
//! good configuration instead. Whatever is kept, and SIGHUP, forgets them.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::durable;

/// As the layers beside it.
const MODE: u32 = 0o640;

const FORMAT: &str = "millrace-refused";
const VERSION: u32 = 1;

/// Files that are not to be started with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Refused {
    format: String,
    version: u32,
    /// Of all local files.
    sha256: String,
    /// Why they were taken back; `None`: they are on trial.
    pub(crate) why: Option<String>,
}

impl Refused {
    fn path(data_dir: &Path) -> PathBuf {
        crate::config::cloud_file(data_dir).with_file_name("refused.json")
    }

    /// What is known of the files with this digest. A file that cannot be read says nothing.
    pub(crate) fn of(data_dir: &Path, sha256: &str) -> Option<Self> {
        let text = std::fs::read_to_string(Self::path(data_dir)).ok()?;
        let refused: Self = serde_json::from_str(&text).ok()?;
        let ours = refused.format == FORMAT && refused.version == VERSION;
        (ours && refused.sha256 == sha256).then_some(refused)
    }

    /// They run on trial (`None`), or were taken back.
    ///
    /// # Errors
    /// Where the disk refuses: then they must not be tried.
    pub(crate) fn note(data_dir: &Path, sha256: &str, why: Option<&str>) -> io::Result<()> {
        let refused = Self {
            format: FORMAT.to_owned(),
            version: VERSION,
            sha256: sha256.to_owned(),
            why: why.map(str::to_owned),
        };
        durable::write(&Self::path(data_dir), &serde_json::to_vec(&refused)?, MODE)
    }

    /// The files on disk are good, or somebody wants them as they are.
    pub(crate) fn forget(data_dir: &Path) {
        let path = Self::path(data_dir);
        if let Err(error) = std::fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::error!(path = %path.display(), %error, "a configuration that is good cannot be told from one that is not");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_refused_until_they_change_or_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = dir.path();
        assert_eq!(Refused::of(data_dir, "a"), None);
        Refused::note(data_dir, "a", None).unwrap();
        assert_eq!(Refused::of(data_dir, "a").unwrap().why, None);
        assert_eq!(Refused::of(data_dir, "b"), None);
        Refused::note(data_dir, "a", Some("no good data")).unwrap();
        let why = Refused::of(data_dir, "a").unwrap().why;
        assert_eq!(why.as_deref(), Some("no good data"));
        Refused::forget(data_dir);
        Refused::forget(data_dir);
        assert_eq!(Refused::of(data_dir, "a"), None);
    }
}
