//! Opening the store, whatever is in its directory.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use millrace_buffer::{Buffer, OpenError, Settings};
use millrace_tags::Clock;

use super::stand_in::StandIn;
use crate::device::chain;

/// What is added to the name of a directory that a newer program wrote.
const NEWER: &str = "newer";

/// Opens the store, or one in memory where the disk refuses: an agent that does not start is worse than one
/// that does not store.
///
/// # Errors
/// Another process has it, or there is not even room in memory.
pub(super) fn open(
    settings: &Settings,
    clock: &Arc<dyn Clock>,
) -> Result<(Buffer, Option<StandIn>), OpenError> {
    if let Some((buffer, stand_in)) = StandIn::left(settings, clock) {
        return Ok((buffer, Some(stand_in)));
    }
    match open_on_disk(settings.clone(), clock.clone()) {
        Ok(buffer) => Ok((buffer, None)),
        Err(error @ OpenError::Directory { .. }) => {
            tracing::error!(error = %chain(&error), "samples are kept in memory only");
            let (buffer, stand_in) = StandIn::begin(settings, clock, error)?;
            Ok((buffer, Some(stand_in)))
        }
        Err(error) => Err(error),
    }
}

/// Opens the store on the disk. One that a newer program wrote is kept as it is beside a fresh one, because an
/// agent that does not start is worse than one whose old data wait; see [`set_aside`].
fn open_on_disk(settings: Settings, clock: Arc<dyn Clock>) -> Result<Buffer, OpenError> {
    let newer = match Buffer::open(settings.clone(), clock.clone()) {
        Err(error @ OpenError::Newer { .. }) => error,
        opened => return opened,
    };
    tracing::error!(error = %newer, "the store is set aside");
    if let Err(error) = move_aside(&settings.dir) {
        tracing::error!(%error, "the store cannot be set aside");
        return Err(newer);
    }
    Buffer::open(settings, clock)
}

fn move_aside(dir: &Path) -> std::io::Result<()> {
    let free = (1..)
        .map(|count| match count {
            1 => dir.with_extension(NEWER),
            _ => dir.with_extension(format!("{NEWER}-{count}")),
        })
        .find(|path| !path.exists());
    // There is always one more number.
    if let (Some(free), Some(parent)) = (free, dir.parent()) {
        fs::rename(dir, free)?;
        File::open(parent)?.sync_all()?;
    }
    Ok(())
}

/// The stores that were set aside and are still there, one sentence each.
pub(crate) fn set_aside(dir: &Path) -> Vec<String> {
    let entries = dir.parent().and_then(|parent| fs::read_dir(parent).ok());
    let mut stores: Vec<PathBuf> = entries
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            let extension = path.extension().and_then(|e| e.to_str());
            path.file_stem() == dir.file_name() && extension.is_some_and(|e| e.starts_with(NEWER))
        })
        .collect();
    stores.sort();
    let say = |path: PathBuf| {
        format!(
            "a store that a newer millrace wrote is in {}; nothing in it is sent until that version runs on it",
            path.display()
        )
    };
    stores.into_iter().map(say).collect()
}
