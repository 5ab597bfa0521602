//! Reading the backlog ahead of the uplinks, and what happens when a chunk cannot be read.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use millrace_tags::{DropReason, LogKind};

use crate::chunk::{Frame, unpack};
use crate::core::Core;
use crate::epoch::{StoreError, causes};
use crate::keeper::{Keeper, LOGS, self_store};
use crate::log::Log;
use crate::routes::Routes;
use crate::scan::{Found, Unreadable};
use crate::store::{EpochNames, Read};
use crate::uplink::{Directory, Loaded, Unread};

/// How often a chunk is tried that the device says it cannot read, before it counts as damaged: some two
/// minutes, with waits that double. Errors that say nothing of the data are tried for ever.
const SICK_TRIES: u32 = 7;

/// How many times the first wait is the longest one.
const WAIT_MAX: u32 = 60;

impl Keeper {
    /// Reads one chunk ahead for each uplink and log that asked for it.
    pub(crate) fn read_ahead(&mut self) {
        let names: Vec<Arc<str>> = self.shared.lock().uplinks.keys().cloned().collect();
        for name in names {
            for kind in LOGS {
                self.read_ahead_for(&name, kind);
            }
        }
    }

    fn read_ahead_for(&mut self, name: &Arc<str>, kind: LogKind) {
        let (number, routes, tries) = {
            let mut core = self.shared.lock();
            let Core {
                alarm,
                data,
                uplinks,
                registry,
                ..
            } = &mut *core;
            let log: &Log = if kind == LogKind::Alarm { alarm } else { data };
            let Some(uplink) = uplinks.get_mut(name) else {
                return;
            };
            uplink.routes.learn(registry);
            let routes = uplink.routes.clone();
            let reader = uplink.reader_mut(kind);
            let now = Instant::now();
            if reader.load_at(now).is_none_or(|at| at > now) {
                return;
            }
            let Some(number) = reader.next_chunk(log) else {
                reader.wants_chunk = false;
                reader.unread = None;
                return;
            };
            let before = reader.unread.take().filter(|u| u.chunk == number);
            (number, routes, before.map_or(0, |unread| unread.tries))
        };
        let unreadable = match tries >= SICK_TRIES {
            true => Unreadable::IsLost,
            false => Unreadable::Fails,
        };
        let loaded = match self.load(kind, number, &routes, unreadable) {
            Ok(Some(loaded)) => loaded,
            // It is lost and counted; the uplink still wants the next one.
            Ok(None) => return,
            Err(error) => return self.read_later(name, kind, number, tries + 1, &error),
        };
        let wake = {
            let mut core = self.shared.lock();
            let Core {
                alarm,
                data,
                uplinks,
                ..
            } = &mut *core;
            let log: &Log = if kind == LogKind::Alarm { alarm } else { data };
            let Some(uplink) = uplinks.get_mut(name) else {
                return;
            };
            let reader = uplink.reader_mut(kind);
            reader.wants_chunk = false;
            reader.load(log, loaded);
            reader.ask(log);
            let idle = std::mem::take(&mut uplink.idle);
            uplink.wake.clone().filter(|_| idle)
        };
        if let Some(wake) = wake {
            wake();
        }
    }

    /// Notes that a chunk cannot be read now, and when it is tried again.
    fn read_later(
        &mut self,
        name: &Arc<str>,
        kind: LogKind,
        chunk: u64,
        tries: u32,
        error: &StoreError,
    ) {
        let (log, why) = (kind.name(), causes(error));
        if tries == 1 {
            tracing::warn!(log, chunk, error = why, "a chunk cannot be read now");
        }
        let wait = self.settings.read_retry * 2u32.saturating_pow(tries - 1).min(WAIT_MAX);
        let mut core = self.shared.lock();
        if let Some(uplink) = core.uplinks.get_mut(name) {
            uplink.reader_mut(kind).unread = Some(Unread {
                chunk,
                tries,
                again_at: Instant::now() + wait,
                error: format!("chunk {chunk} of the {log} log, tried {tries} times: {why}"),
            });
        }
    }

    /// Reads and unpacks a chunk. One that is not there any more is counted as lost.
    ///
    /// # Errors
    /// It cannot be read now, and may be later.
    fn load(
        &mut self,
        kind: LogKind,
        number: u64,
        routes: &Routes,
        unreadable: Unreadable,
    ) -> Result<Option<Loaded>, StoreError> {
        if self.store(kind).is_active(number) {
            if let Some(bytes) = self.store(kind).read_active(number)
                && let Some(loaded) = self.decode(kind, number, &bytes, routes)?
            {
                return Ok(Some(loaded));
            }
            // Something is wrong with sled's handle: the file itself decides.
            self.seal(kind);
        }
        let lost = match self.store(kind).read_sealed(number, unreadable) {
            Read::Frame(bytes) => match self.decode(kind, number, &bytes, routes)? {
                Some(loaded) => return Ok(Some(loaded)),
                None => Frame::parse(&bytes).ok().map(|frame| Found::of(&frame)),
            },
            Read::Lost(found) => found,
            Read::Failed(error) => return Err(error),
        };
        let names = {
            let mut core = self.shared.lock();
            let store = self_store(&mut self.alarm, &mut self.data, kind);
            store.names(number, &mut core.registry, unreadable)?
        };
        self.lose(kind, number, lost, names);
        Ok(None)
    }

    /// A chunk that our decoder panics on is as good as damaged; were it kept, nothing would come after it.
    fn decode(
        &mut self,
        kind: LogKind,
        number: u64,
        bytes: &[u8],
        routes: &Routes,
    ) -> Result<Option<Loaded>, StoreError> {
        let names = match self.store(kind).is_active(number) {
            true => Arc::new(EpochNames::identity(&self.shared.lock().registry)),
            false => {
                let mut core = self.shared.lock();
                let store = self_store(&mut self.alarm, &mut self.data, kind);
                match store.names(number, &mut core.registry, Unreadable::Fails)? {
                    Some(names) => names,
                    None => return Ok(None),
                }
            }
        };
        let decode = AssertUnwindSafe(|| self.decode_chunk(kind, bytes, &names, routes));
        Ok(catch_unwind(decode).unwrap_or(None))
    }

    /// Unpacks a chunk, unless the uplink sends nothing of it: its directory says that.
    fn decode_chunk(
        &mut self,
        kind: LogKind,
        bytes: &[u8],
        names: &EpochNames,
        routes: &Routes,
    ) -> Option<Loaded> {
        let frame = Frame::parse(bytes).ok()?;
        let (directory, tags) = {
            let mut core = self.shared.lock();
            let core = &mut *core;
            let tags = names.tags.clone();
            let tags = tags.unwrap_or_else(|| core.registry.tags().clone());
            let found = Found::of(&frame);
            (names.directory(&found, core.log_mut(kind))?, tags)
        };
        let mut lines = directory.entries.iter().map(|(line, ..)| line);
        let runs = match lines.any(|line| routes.takes(line.source)) {
            true => unpack(&frame).ok()?,
            false => Vec::new(),
        };
        let mut runs = runs.into_iter();
        let runs = frame
            .entries
            .iter()
            .map(|e| if e.void.is_none() { runs.next() } else { None })
            .collect();
        Some(Loaded {
            directory,
            timebase: frame.header.timebase,
            tags,
            runs,
            at: 0,
        })
    }

    /// A chunk that was durable cannot be read any more: counts and announces it.
    pub(crate) fn lose(
        &mut self,
        kind: LogKind,
        number: u64,
        found: Option<Found>,
        names: Option<Arc<EpochNames>>,
    ) {
        tracing::error!(
            log = kind.name(),
            chunk = number,
            "a chunk is damaged and lost"
        );
        let at = self.shared.utc();
        let mut core = self.shared.lock();
        let core = &mut *core;
        let last = found.as_ref().map_or(number, Found::last_number);
        let directory = found
            .zip(names)
            .and_then(|(found, names)| names.directory(&found, core.log_mut(kind)));
        let directory = directory
            .or_else(|| core.pending_directory(kind, number))
            .unwrap_or(Directory {
                number,
                last,
                entries: Vec::new(),
            });
        core.lose_chunk(kind, &directory, Some(DropReason::Damage), at);
    }
}
