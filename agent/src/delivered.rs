//! What OPC UA devices have delivered, over restarts: from there the next agent asks the servers' histories, and nothing
//! that is stored comes twice.
//!
//! Each device has its [`Told`], which moves with every append. It is kept in one file, written at the start, every
//! [`SAVE_INTERVAL`] and when polling has ended, and only after a commit of all that it tells of. So it never runs ahead
//! of the store; a kill or a power cut leaves it behind, and then the chunks after it are read from the store itself.
//!
//! # The file `delivered` (format 1)
//!
//! ```text
//! F1 'M' 'R' 'd'    version u8
//! u64 u64           the last chunks of the data and the alarm log when it was made: later ones may tell more
//! u32               length of the JSON that follows: alarms that have begun
//! u32               number of tags; for each
//!   u64 u64         FNV-1a of `device/tag` and of the node's address: another node begins anew
//!   …               its cursor, see `millrace_drivers::opcua::Cursor::write`
//! u64               FNV-1a of all that
//! ```
//!
//! Numbers are little-endian. A damaged file is named in the log, and all begins anew; one of another version is left alone.

mod file;
mod scan;
mod sessions;
mod told;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use millrace_buffer::{Archive, Buffer, Order, Registration};
use millrace_drivers::opcua::{Collect, Cursor, Memory, OpenAlarm};
use millrace_tags::{Clock, LogKind};
use tokio_util::sync::CancellationToken;

use crate::config::{Config, Connection, Device, TagPoint};
use crate::device::chain;

use file::{Contents, Tag, name_print};
pub(crate) use sessions::Sessions;
pub(crate) use told::Told;

/// What a kill leaves to be read from the store at the next start is at most this old.
const SAVE_INTERVAL: Duration = Duration::from_secs(120);

/// Tags that are remembered although no device has them now: one may be switched off for a while.
const ABSENT_MAX: usize = 50_000;

/// What all OPC UA devices of a configuration have delivered.
#[derive(Default)]
pub(crate) struct Delivered {
    /// `None` where the file must be left alone.
    path: Option<PathBuf>,
    store: PathBuf,
    devices: BTreeMap<String, Arc<Told>>,
    /// What is known of tags that no device has now.
    absent: Vec<Tag>,
    /// As it is on the disk, but for the chunks.
    written: Mutex<Option<Vec<u8>>>,
}

/// Why it was not kept.
#[derive(Debug, thiserror::Error)]
enum KeepError {
    #[error("the store is not durable")]
    Commit(#[from] millrace_buffer::CommitError),
    #[error("the store cannot be looked into")]
    Archive(#[from] millrace_buffer::ArchiveError),
    #[error("the file cannot be written")]
    Write(#[from] std::io::Error),
}

impl Delivered {
    /// What was kept, and what the store has since then. `stands_in`: a store in memory takes the place of the one on
    /// the disk, and nothing of it counts.
    pub(crate) fn open(
        config: &Config,
        registered: &[Registration],
        clock: &dyn Clock,
        stands_in: bool,
    ) -> Self {
        let subscribed = config.enabled_devices().zip(registered);
        let subscribed: Vec<(&Device, &Registration)> = subscribed
            .filter(|(device, _)| {
                let subscribes = |settings: &millrace_drivers::opcua::Settings| {
                    settings.collect == Collect::Subscribe
                };
                matches!(&device.connection, Connection::Opcua(settings) if subscribes(settings))
            })
            .collect();
        if subscribed.is_empty() {
            return Self::default();
        }
        let path = config.gateway.data_dir.join("delivered");
        let (kept, is_ours) = file::read(&path);
        let known = kept.is_some();
        let mut kept = kept.unwrap_or_default();
        let mut cursors: HashMap<u64, Tag> =
            kept.tags.drain(..).map(|tag| (tag.name, tag)).collect();
        let mut devices = BTreeMap::new();
        for (device, registration) in subscribed {
            let told = Told::default();
            for (tag, id) in device.tags.iter().zip(&registration.tags) {
                let TagPoint::Opcua(node) = &tag.point else {
                    continue;
                };
                let name = name_print(&format!("{}/{}", device.name, tag.name));
                let node = name_print(&node.to_string());
                let before = cursors.remove(&name).filter(|tag| tag.node == node);
                told.lock().know(*id, &tag.name, before, name, node);
            }
            let of_device = kept.alarms.iter().filter(|open| open.device == device.name);
            of_device.for_each(|open| told.lock().begin(open.clone(), clock));
            devices.insert(device.name.clone(), Arc::new(told));
        }
        let store = config.buffer_dir();
        if known && let Err(error) = scan::catch_up(&store, kept.chunks, &devices) {
            tracing::error!(error = %chain(&error), "what was stored last is not known; it may come twice from the devices' histories");
        }
        let mut absent: Vec<Tag> = cursors.into_values().collect();
        absent.truncate(ABSENT_MAX);
        Self {
            path: (is_ours && !stands_in).then_some(path),
            store,
            devices,
            absent,
            written: Mutex::default(),
        }
    }

    /// What is noted of a device, where anything is.
    pub(crate) fn told(&self, device: &str) -> Option<Arc<Told>> {
        self.devices.get(device).cloned()
    }

    /// What its driver has to know, by device; sessions are another matter.
    pub(crate) fn memories(&self, clock: &dyn Clock) -> HashMap<String, Memory> {
        let memory = |(device, told): (&String, &Arc<Told>)| {
            let table = told.lock();
            let cursors: Vec<Cursor> = table.tags().map(|tag| tag.cursor.clone()).collect();
            let alarms: Vec<OpenAlarm> = table.alarms(clock);
            let memory = Memory {
                cursors,
                alarms,
                session: None,
            };
            (device.clone(), memory)
        };
        self.devices.iter().map(memory).collect()
    }

    /// Saves now, then now and then until `shutdown`, and once more then.
    pub(crate) async fn save_regularly(self, buffer: Buffer, shutdown: CancellationToken) {
        if self.path.is_none() {
            return;
        }
        let delivered = Arc::new(self);
        let mut failed = false;
        loop {
            let last = shutdown.is_cancelled();
            let (saving, store) = (delivered.clone(), buffer.clone());
            let saved = tokio::task::spawn_blocking(move || saving.save(&store)).await;
            let error = match saved {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(chain(&error)),
                Err(error) => Some(error.to_string()),
            };
            if let Some(error) = error.as_ref().filter(|_| !failed || last) {
                tracing::error!(error = %error, "what OPC UA devices have delivered is not kept; the next start reads it from the store");
            }
            failed = error.is_some();
            if last {
                return;
            }
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = tokio::time::sleep(SAVE_INTERVAL) => {}
            }
        }
    }

    /// Writes the file where something has changed.
    fn save(&self, buffer: &Buffer) -> Result<(), KeepError> {
        let Some(path) = &self.path else {
            return Ok(());
        };
        // The chunks first, the commit last: what is told lies between the two.
        let chunks = [self.newest(LogKind::Data)?, self.newest(LogKind::Alarm)?];
        let mut contents = Contents {
            chunks,
            ..Contents::default()
        };
        for (device, told) in &self.devices {
            let table = told.lock();
            contents.tags.extend(table.tags().cloned());
            contents.alarms.extend(table.kept_alarms(device));
        }
        contents.tags.extend(self.absent.iter().cloned());
        let body = contents.body();
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if written.as_ref() == Some(&body) {
            return Ok(());
        }
        buffer.commit()?;
        contents.write(path, &body)?;
        *written = Some(body);
        Ok(())
    }

    /// The last chunk of a log that is on the disk.
    fn newest(&self, log: LogKind) -> Result<u64, millrace_buffer::ArchiveError> {
        let archive = Archive::open(&self.store)?;
        let newest = archive.chunks(log, Order::NewestFirst).next();
        Ok(newest.map_or(0, |chunk| chunk.last_chunk))
    }
}

#[cfg(test)]
mod tests;
