//! What the file system has left, and what of the buffer's directory is not an epoch.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::epoch::disk_bytes;

/// The room of a file system.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// What we may still write.
    pub free: u64,
    /// All of it.
    pub total: u64,
}

/// Asks for the room of the file system; a test answers what it likes.
pub(crate) type Gauge = Box<dyn Fn() -> Option<Space> + Send>;

impl Space {
    /// The room of the file system that holds `dir`; `None` where it does not say.
    pub(crate) fn of(dir: &Path) -> Option<Space> {
        // Numbers of 64 bits on every processor.
        let stat = rustix::fs::statvfs(dir).ok()?;
        Some(Space {
            free: stat.f_frsize.saturating_mul(stat.f_bavail),
            total: stat.f_frsize.saturating_mul(stat.f_blocks),
        })
    }

    /// How much of it has to stay free: what is asked for, but two epochs, so that rotation never meets a
    /// full disk; and never more than a quarter, so that a small partition can be used at all.
    pub(crate) fn reserve(&self, asked: u64, epoch_bytes: u64) -> u64 {
        asked.max(2 * epoch_bytes).min(self.total / 4)
    }
}

/// How epochs end that a newer program wrote. They are no part of this store: it never removes them, and
/// counts only what it may.
pub(crate) const NEWER: &str = "newer";

/// What the entries of a directory take on the disk that are not epochs: files, epochs that are set
/// aside or half removed, and the directory itself.
pub(crate) fn bytes_aside(dir: &Path, skip: &[&str]) -> u64 {
    let own = fs::metadata(dir).map_or(0, |meta| meta.blocks() * 512);
    let Ok(entries) = fs::read_dir(dir) else {
        return own;
    };
    let aside = entries.flatten().map(|entry| {
        let path = entry.path();
        let name = entry.file_name();
        let skipped = skip.iter().any(|s| name == *s);
        if skipped || path.extension().is_some_and(|e| e == "ep" || e == NEWER) {
            return 0;
        }
        match entry.metadata() {
            Ok(meta) if meta.is_dir() => disk_bytes(&path),
            Ok(meta) => meta.blocks() * 512,
            Err(_) => 0,
        }
    });
    own + aside.sum::<u64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn the_reserve_is_two_epochs_at_least_and_a_quarter_at_most() {
        let disk = |total| Space { free: 0, total };
        assert_eq!(disk(1 << 40).reserve(0, 16 * MIB), 32 * MIB);
        assert_eq!(disk(1 << 40).reserve(256 * MIB, 16 * MIB), 256 * MIB);
        assert_eq!(disk(64 * MIB).reserve(256 * MIB, 16 * MIB), 16 * MIB);
    }

    #[test]
    fn the_file_system_says_what_it_has() {
        let dir = tempfile::tempdir().unwrap();
        let space = Space::of(dir.path()).unwrap();
        assert!(space.total > 0 && space.free <= space.total);
        assert_eq!(Space::of(&dir.path().join("missing")), None);
    }
}
