//! What the buffer has to be told, and why it may not open.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

/// Below this an epoch would be mostly sled's own pages.
pub(crate) const EPOCH_BYTES_MIN: u64 = 4 * 1024 * 1024;

/// Above this a scan of one epoch would hold up commits for too long.
pub(crate) const EPOCH_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// A shorter interval only wears the flash: one commit writes one page at least.
pub(crate) const COMMIT_INTERVAL_MIN: Duration = Duration::from_millis(10);

/// How the buffer is set up.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its directory; created if need be.
    pub dir: PathBuf,
    /// Most that a power cut can take.
    pub commit_interval: Duration,
    /// Most that it may take on the disk, both logs together.
    pub max_bytes: u64,
    /// Data older than this are removed.
    pub max_age: Option<Duration>,
    /// Size of an epoch, 4 to 64 MiB; smaller ones cost less memory.
    pub epoch_bytes: u64,
}

impl Settings {
    /// Settings for a directory, with the defaults of the configuration and small epochs.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            commit_interval: Duration::from_secs(1),
            max_bytes: 4 * 1024 * 1024 * 1024,
            max_age: None,
            epoch_bytes: 16 * 1024 * 1024,
        }
    }
}

/// Why the buffer cannot be opened. Damage is never among the reasons.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The directory cannot be made or written. Check its owner, and whether the disk is mounted
    /// read-only.
    #[error("cannot write to the buffer's directory {}", path.display())]
    Directory {
        /// What was tried.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Another process has it open. Stop that one first.
    #[error("the buffer in {} is in use by another process", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// A newer program wrote it. Use that program, or another directory.
    #[error("the buffer in {} has format {found}; this program knows formats up to {known}", path.display())]
    Newer {
        /// The buffer's directory.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest format that this program knows.
        known: u32,
    },
    /// The buffer's thread did not start: the system is out of memory or threads.
    #[error("cannot start the buffer's thread")]
    Thread {
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}
