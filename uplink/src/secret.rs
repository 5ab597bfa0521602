//! Passwords and keys, kept out of logs.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Text that never shows in logs, reports or `Debug` output.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

/// A password or key file is some hundred bytes (a token a few thousand); a larger one is the wrong file.
const SECRET_FILE_BYTES_MAX: u64 = 64 * 1024;

impl Secret {
    /// Wraps the text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Reads the text of a file; a line break at its end is not part of the secret.
    ///
    /// # Errors
    /// When the file cannot be read, is empty, or is too large to be a secret.
    pub fn from_file(path: &Path) -> Result<Self, SecretError> {
        let fail = |source| SecretError::Read {
            path: path.to_owned(),
            source,
        };
        let mut text = String::new();
        std::fs::File::open(path)
            .map_err(fail)?
            .take(SECRET_FILE_BYTES_MAX + 1)
            .read_to_string(&mut text)
            .map_err(fail)?;
        if text.len() as u64 > SECRET_FILE_BYTES_MAX {
            return Err(SecretError::TooLarge {
                path: path.to_owned(),
            });
        }
        let trimmed = text.trim_end_matches(['\r', '\n']);
        if trimmed.is_empty() {
            return Err(SecretError::Empty {
                path: path.to_owned(),
            });
        }
        Ok(Self(trimmed.to_owned()))
    }

    /// The text itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Where a secret comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// A file, read again whenever the secret is needed, so that a new one needs no restart.
    File(PathBuf),
    /// Given directly, by an enrolment or a test.
    Given(Secret),
}

impl SecretSource {
    /// The secret as it is now.
    ///
    /// # Errors
    /// See [`Secret::from_file`].
    pub fn load(&self) -> Result<Secret, SecretError> {
        match self {
            SecretSource::File(path) => Secret::from_file(path),
            SecretSource::Given(secret) => Ok(secret.clone()),
        }
    }
}

/// Why a secret could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be read: check path and permissions.
    #[error("cannot read the secret in {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file holds nothing: write the secret into it.
    #[error("{} is empty; it should hold the secret on one line", path.display())]
    Empty {
        /// Which file.
        path: PathBuf,
    },
    /// The file is too large to be a secret: the path names another file.
    #[error("{} is larger than {SECRET_FILE_BYTES_MAX} bytes; it should hold nothing but the secret", path.display())]
    TooLarge {
        /// Which file.
        path: PathBuf,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "Secret(…)");
    }

    #[test]
    fn line_break_is_not_part_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        std::fs::write(&path, "hunter 2 \r\n").unwrap();
        assert_eq!(Secret::from_file(&path).unwrap().expose(), "hunter 2 ");
        std::fs::write(&path, "\n").unwrap();
        assert!(matches!(
            Secret::from_file(&path),
            Err(SecretError::Empty { .. })
        ));
        std::fs::write(&path, vec![b'x'; 70_000]).unwrap();
        assert!(matches!(
            Secret::from_file(&path),
            Err(SecretError::TooLarge { .. })
        ));
    }
}
