//! What the buffer has to be told, and why it may not open.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use millrace_tags::LogKind;
use thiserror::Error;

/// Below this an epoch would be mostly sled's own pages.
pub(crate) const EPOCH_BYTES_MIN: u64 = 4 * 1024 * 1024;

/// Above this a scan of one epoch would hold up commits for too long.
pub(crate) const EPOCH_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// A shorter interval only wears the flash: one commit writes one page at least.
pub(crate) const COMMIT_INTERVAL_MIN: Duration = Duration::from_millis(10);

/// The alarm log's share of `max_bytes` unless it is given: events are few and small.
const ALARM_SHARE: u64 = 8;

/// What gives way when there is no room for more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenFull {
    /// The oldest data, whole epochs at a time.
    #[default]
    DropOldest,
    /// What is appended: it is refused, counted as `newest` and announced.
    DropNewest,
    /// Sources that can wait are held back ([`crate::Buffer::has_room`]); what others append is refused.
    Block,
}

/// How the buffer is set up.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its directory; created if need be.
    pub dir: PathBuf,
    /// Most that a power cut can take.
    pub commit_interval: Duration,
    /// Most that it may take on the disk, both logs together.
    pub max_bytes: u64,
    /// What gives way when the data log has no room.
    pub when_full: WhenFull,
    /// The alarm log's part of `max_bytes`; an eighth where it is not given.
    pub alarm_max_bytes: Option<u64>,
    /// What gives way when the alarm log has no room.
    pub alarm_when_full: WhenFull,
    /// Data older than this are removed.
    pub max_age: Option<Duration>,
    /// How long data stay that every uplink has settled, so that they can be sent again.
    pub keep: Duration,
    /// How much of the file system stays free; two epochs at least, a quarter of it at most.
    pub reserve: u64,
    /// Size of an epoch, 4 to 64 MiB; smaller ones cost less memory.
    pub epoch_bytes: u64,
    /// How often epochs with small chunks are looked for, to merge them.
    #[doc(hidden)]
    pub rechunk_interval: Duration,
    /// What is waited before a chunk that cannot be read is tried again; longer each time.
    #[doc(hidden)]
    pub read_retry: Duration,
}

impl Settings {
    /// Settings for a directory, with the defaults of the configuration and small epochs.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            commit_interval: Duration::from_secs(1),
            max_bytes: 4 * 1024 * 1024 * 1024,
            when_full: WhenFull::DropOldest,
            alarm_max_bytes: None,
            alarm_when_full: WhenFull::DropOldest,
            max_age: None,
            keep: Duration::from_secs(24 * 3600),
            reserve: 0,
            epoch_bytes: 16 * 1024 * 1024,
            rechunk_interval: Duration::from_secs(10),
            read_retry: Duration::from_secs(1),
        }
    }

    /// What a log may take on the disk.
    pub fn log_bytes_max(&self, log: LogKind) -> u64 {
        let alarm = self.alarm_max_bytes.unwrap_or(self.max_bytes / ALARM_SHARE);
        match log {
            LogKind::Alarm => alarm,
            LogKind::Data => self.max_bytes.saturating_sub(alarm),
        }
    }

    /// What gives way when a log has no room.
    pub(crate) fn when_full(&self, log: LogKind) -> WhenFull {
        match log {
            LogKind::Alarm => self.alarm_when_full,
            LogKind::Data => self.when_full,
        }
    }
}

/// Why the buffer cannot be opened. Damage is never among the reasons.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The directory cannot be made or written. Check its owner, and whether the disk is mounted
    /// read-only.
    #[error("cannot use the buffer's directory {}", path.display())]
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
