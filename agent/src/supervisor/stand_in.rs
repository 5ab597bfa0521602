//! A store in memory, while the one on the disk cannot be opened.
//!
//! It is an ordinary store, small, in a directory of a file system that lies in memory. The agent polls and
//! delivers from it as always, says so, and takes the store on the disk as soon as that can be written and
//! everything in memory is sent. It outlives the agent and not the machine: where an earlier agent has left
//! one, it is used, and emptied, first.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use millrace_buffer::{Buffer, OpenError, Settings};
use millrace_tags::Clock;

use crate::device::chain;

/// What it may take: memory of a small gateway.
const MAX_BYTES: u64 = 32 << 20;

/// The directory of the store in memory, and why there is one.
#[derive(Debug, Clone)]
pub(crate) struct StandIn {
    /// Where it is.
    pub(crate) dir: PathBuf,
    /// What is wrong with the store on the disk.
    pub(crate) why: String,
}

impl StandIn {
    /// Opens what an earlier agent left in memory.
    pub(super) fn left(settings: &Settings, clock: &Arc<dyn Clock>) -> Option<(Buffer, Self)> {
        let dir = places(&settings.dir).find(|place| is_ours(place))?;
        let why = "what an earlier run kept in memory is sent first".to_owned();
        Self { dir, why }.open(settings, clock).ok()
    }

    /// Opens a new one, because the store on the disk cannot be opened.
    ///
    /// # Errors
    /// There is no place for it.
    pub(super) fn begin(
        settings: &Settings,
        clock: &Arc<dyn Clock>,
        error: OpenError,
    ) -> Result<(Buffer, Self), OpenError> {
        let why = chain(&error);
        let make = |dir: &PathBuf| DirBuilder::new().mode(0o700).create(dir).is_ok();
        match places(&settings.dir).find(make) {
            Some(dir) => Self { dir, why }.open(settings, clock),
            None => Err(error),
        }
    }

    fn open(
        self,
        settings: &Settings,
        clock: &Arc<dyn Clock>,
    ) -> Result<(Buffer, Self), OpenError> {
        let settings = Settings {
            dir: self.dir.clone(),
            max_bytes: settings.max_bytes.min(MAX_BYTES),
            alarm_max_bytes: None,
            keep: Duration::ZERO,
            reserve: 0,
            ..settings.clone()
        };
        Ok((Buffer::open(settings, clock.clone())?, self))
    }

    /// Everything in it is sent, and it is closed.
    pub(super) fn remove(&self) {
        if let Err(error) = fs::remove_dir_all(&self.dir) {
            tracing::warn!(dir = %self.dir.display(), %error, "the store in memory stays");
        }
    }
}

/// Whether the store on the disk can be written by now.
pub(super) fn is_writable(dir: &Path) -> bool {
    let lock = || {
        fs::create_dir_all(dir)?;
        let path = dir.join("lock");
        OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
    };
    lock().is_ok()
}

/// Where it may be, the best place first: one for each store.
fn places(dir: &Path) -> impl Iterator<Item = PathBuf> {
    let own = std::env::var_os("RUNTIME_DIRECTORY").map(|run| PathBuf::from(run).join("buffer"));
    let name = dir.to_string_lossy().replace('/', "-");
    let shared = [PathBuf::from("/dev/shm"), std::env::temp_dir()];
    let shared = shared.map(|base| base.join(format!("millrace{name}")));
    own.into_iter().chain(shared)
}

/// A directory that somebody else made where everybody may is none of ours.
fn is_ours(place: &Path) -> bool {
    let ours = || -> io::Result<bool> {
        let (found, own) = (fs::symlink_metadata(place)?, fs::metadata("/proc/self")?);
        Ok(found.is_dir() && found.uid() == own.uid())
    };
    ours().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use millrace_tags::SystemClock;

    use super::*;

    #[test]
    fn it_is_used_until_it_is_removed() {
        let home = tempfile::tempdir().unwrap();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let settings = Settings::new(home.path().join("nowhere"));
        assert!(StandIn::left(&settings, &clock).is_none());
        let error = OpenError::Directory {
            path: settings.dir.clone(),
            source: io::Error::from_raw_os_error(30),
        };
        let (buffer, stand_in) = StandIn::begin(&settings, &clock, error).unwrap();
        assert!(stand_in.why.contains("Read-only"), "{}", stand_in.why);
        buffer.close().unwrap();
        drop(buffer);
        let (buffer, again) = StandIn::left(&settings, &clock).unwrap();
        assert_eq!(again.dir, stand_in.dir);
        buffer.close().unwrap();
        stand_in.remove();
        assert!(StandIn::left(&settings, &clock).is_none());
        assert!(is_writable(&settings.dir));
    }
}
