//! Opening the buffer's directory: lock, format, recovery.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use millrace_tags::{Clock, DropReason};

use crate::commit::Committer;
use crate::core::Core;
use crate::disk::Gauge;
use crate::epoch::{StoreError, sync_directory};
use crate::keeper::{Keeper, LOGS};
use crate::mark::Mark;
use crate::patience::patiently;
use crate::rechunk::Rechunk;
use crate::recovery::{LogRecovery, Recovery, adopt_names, read_clean_mark, remove_clean_mark};
use crate::settings::{OpenError, Settings};
use crate::shared::Shared;
use crate::state::{Damage, StateFile};

/// The format of the directory as a whole.
const FORMAT: u32 = 1;
const FORMAT_FILE: &str = "format";
const LOCK_FILE: &str = "lock";

/// Makes the directory ours and reads what is in it.
pub(crate) fn open(
    settings: Settings,
    clock: Arc<dyn Clock>,
    gauge: Gauge,
) -> Result<(Keeper, Arc<Shared>), OpenError> {
    let dir = settings.dir.clone();
    let lock = lock(&dir)?;
    check_format(&dir)?;
    recover(settings, clock, gauge, lock).map_err(|error| unusable(&dir, error))
}

fn directory_error(path: &Path) -> impl FnOnce(std::io::Error) -> OpenError {
    let path = path.to_owned();
    move |source| OpenError::Directory { path, source }
}

fn unusable(dir: &Path, error: StoreError) -> OpenError {
    match error {
        StoreError::Io { path, source, .. } => OpenError::Directory { path, source },
        other => OpenError::Directory {
            path: dir.to_owned(),
            source: std::io::Error::other(other),
        },
    }
}

fn lock(dir: &Path) -> Result<File, OpenError> {
    fs::create_dir_all(dir).map_err(directory_error(dir))?;
    sync_ancestors(dir);
    let path = dir.join(LOCK_FILE);
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(directory_error(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked { path }),
        Err(TryLockError::Error(source)) => Err(OpenError::Directory { path, source }),
    }
}

/// Makes the way to the directory durable: whoever has made it may not have.
fn sync_ancestors(dir: &Path) {
    let whole = fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned());
    for ancestor in whole.ancestors().skip(1) {
        // One that may not be read was not made by this program either.
        if sync_directory(ancestor).is_err() {
            return;
        }
    }
}

fn check_format(dir: &Path) -> Result<(), OpenError> {
    let path = dir.join(FORMAT_FILE);
    let read = patiently(|| fs::read(&path)).map_err(directory_error(&path))?;
    let text = read.and_then(|bytes| String::from_utf8(bytes).ok());
    match stored_format(&text.unwrap_or_default()) {
        Some(found) if found > FORMAT => Err(OpenError::Newer {
            path: dir.to_owned(),
            found,
            known: FORMAT,
        }),
        Some(_) => Ok(()),
        // There is none yet, or it is damaged: what it says is known.
        None => fs::write(&path, format_line(FORMAT)).map_err(directory_error(&path)),
    }
}

/// The directory's format and the newest known one, where a newer program wrote it.
pub(crate) fn newer_format(dir: &Path) -> Option<(u32, u32)> {
    let text = fs::read_to_string(dir.join(FORMAT_FILE)).ok()?;
    let found = stored_format(&text)?;
    (found > FORMAT).then_some((found, FORMAT))
}

/// The format's number with a checksum: a flipped bit must not look like a newer program.
fn format_line(format: u32) -> String {
    let text = format!("millrace-buffer {format}");
    let checksum = crc32c::crc32c(text.as_bytes());
    format!("{text} {checksum:08x}\n")
}

fn stored_format(line: &str) -> Option<u32> {
    let format = line.split(' ').nth(1)?.parse().ok()?;
    (line == format_line(format)).then_some(format)
}

fn recover(
    settings: Settings,
    clock: Arc<dyn Clock>,
    gauge: Gauge,
    lock: File,
) -> Result<(Keeper, Arc<Shared>), StoreError> {
    let mut recovery = Recovery::default();
    let dir = settings.dir.clone();
    let (state_file, state, damage) = StateFile::open(&dir)?;
    let clean = read_clean_mark(&dir)?;
    let fresh = state.is_none() && LOGS.iter().all(|log| !dir.join(log.name()).exists());
    recovery.clean = clean.is_some() || fresh;
    let mark = Mark::read(&dir)?;
    if damage == Damage::Slot {
        recovery
            .notes
            .push("a slot of the state file is damaged; some data may be sent again".into());
    }
    let at = clock.timebase().utc(clock.now());
    let mut core = Core::new();
    let mut logs = Vec::new();
    for (index, kind) in LOGS.into_iter().enumerate() {
        let mut log = LogRecovery {
            kind,
            dir: dir.join(kind.name()),
            state: state.as_ref().unwrap_or(&crate::state::EMPTY),
            state_known: state.is_some(),
            clean: clean.map(|last| last[index]),
            mark: mark.map(|last| last[index]),
            at,
            recovery: Recovery::default(),
            newer_last: 0,
        };
        let epochs = log.find(&mut core)?;
        logs.push((log, epochs));
    }
    adopt_names(&mut core, &mut logs)?;
    let mut stores = Vec::new();
    for (mut log, epochs) in logs {
        stores.push(log.fill(&mut core, &epochs)?);
        recovery.add(log.recovery);
    }
    remove_clean_mark(&dir)?;
    if let Some(state) = &state {
        core.boots.restore(&state.boots);
    }
    core.boots.learn(clock.timebase());
    for store in &mut stores {
        store.date(&core.boots);
    }
    let timebase = clock.timebase();
    for (kind, source, count) in std::mem::take(&mut core.pending_voids) {
        core.log_mut(kind)
            .void(source, count, DropReason::Crash, timebase);
    }
    if recovery.crash_void > 0 {
        recovery.notes.push(format!(
            "the last stop was not a clean one; up to {} numbers were not committed",
            recovery.crash_void
        ));
    }
    let last = [core.alarm.last_chunk, core.data.last_chunk];
    let mark = Mark::begin(&dir, last)
        .inspect_err(|error| {
            let error = error as &dyn std::error::Error;
            tracing::warn!(error, "there is no mark: a damaged tail may go unnoticed");
        })
        .ok();
    let shared = Arc::new(Shared::new(core, clock, recovery));
    let mut stores = stores.into_iter();
    let (Some(alarm), Some(data)) = (stores.next(), stores.next()) else {
        unreachable!("there are two logs");
    };
    let rechunk = Rechunk::new(settings.rechunk_interval);
    let mut keeper = Keeper {
        _lock: lock,
        shared: shared.clone(),
        settings,
        alarm,
        data,
        state_file,
        mark,
        committer: Committer::default(),
        saved_at: Instant::now(),
        retry_at: None,
        space: gauge(),
        gauge,
        bytes_aside: [0; 2],
        refused_written_at: Instant::now(),
        told_room: true,
        rechunk,
    };
    keeper.measure_aside();
    Ok((keeper, shared))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_format_is_refused_and_a_damaged_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        check_format(dir.path()).unwrap();
        check_format(dir.path()).unwrap();
        fs::write(dir.path().join(FORMAT_FILE), format_line(FORMAT + 1)).unwrap();
        let refused = check_format(dir.path());
        assert!(matches!(refused, Err(OpenError::Newer { found, .. }) if found == FORMAT + 1));
        let flipped = format_line(FORMAT).replace('1', "3");
        fs::write(dir.path().join(FORMAT_FILE), flipped).unwrap();
        check_format(dir.path()).unwrap();
    }
}
