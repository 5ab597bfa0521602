//! Reading the backlog ahead of the uplinks, and what happens when a chunk cannot be read.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use millrace_tags::{DropReason, LogKind};

use crate::chunk::{Frame, unpack};
use crate::core::Core;
use crate::keeper::{Keeper, LOGS, self_store};
use crate::log::Log;
use crate::routes::Routes;
use crate::scan::Found;
use crate::store::{EpochNames, Read};
use crate::uplink::{Directory, Loaded};

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
        let (number, routes) = {
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
            if !reader.wants_chunk {
                return;
            }
            match reader.next_chunk(log) {
                Some(number) => (number, routes),
                None => {
                    reader.wants_chunk = false;
                    return;
                }
            }
        };
        let Some(loaded) = self.load(kind, number, &routes) else {
            // It is lost and counted; the uplink still wants the next one.
            return;
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

    /// Reads and unpacks a chunk. One that cannot be read is counted as lost.
    fn load(&mut self, kind: LogKind, number: u64, routes: &Routes) -> Option<Loaded> {
        if self.store(kind).is_active(number) {
            if let Some(loaded) = self
                .store(kind)
                .read_active(number)
                .and_then(|bytes| self.decode(kind, number, &bytes, routes))
            {
                return Some(loaded);
            }
            // Something is wrong with sled's handle: the file itself decides.
            self.seal(kind);
        }
        let lost = match self.store(kind).read_sealed(number) {
            Read::Frame(bytes) => match self.decode(kind, number, &bytes, routes) {
                Some(loaded) => return Some(loaded),
                None => Frame::parse(&bytes).ok().map(|frame| Found::of(&frame)),
            },
            Read::Lost(found) => found,
        };
        self.lose(kind, number, lost);
        None
    }

    /// A chunk that our decoder panics on is as good as damaged; were it kept, nothing would come after it.
    fn decode(
        &mut self,
        kind: LogKind,
        number: u64,
        bytes: &[u8],
        routes: &Routes,
    ) -> Option<Loaded> {
        let decode = AssertUnwindSafe(|| self.decode_chunk(kind, number, bytes, routes));
        catch_unwind(decode).unwrap_or(None)
    }

    /// Unpacks a chunk, unless the uplink sends nothing of it: its directory says that.
    fn decode_chunk(
        &mut self,
        kind: LogKind,
        number: u64,
        bytes: &[u8],
        routes: &Routes,
    ) -> Option<Loaded> {
        let frame = Frame::parse(bytes).ok()?;
        let active = self.store(kind).is_active(number);
        let (directory, tags) = {
            let mut core = self.shared.lock();
            let core = &mut *core;
            let names = match active {
                true => Arc::new(EpochNames::identity(&core.registry)),
                false => self_store(&mut self.alarm, &mut self.data, kind)
                    .names(number, &mut core.registry)?,
            };
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
    pub(crate) fn lose(&mut self, kind: LogKind, number: u64, found: Option<Found>) {
        tracing::error!(
            log = kind.name(),
            chunk = number,
            "a chunk is damaged and lost"
        );
        let at = self.shared.utc();
        let mut core = self.shared.lock();
        let core = &mut *core;
        let last = found.as_ref().map_or(number, Found::last_number);
        let directory = found.and_then(|found| {
            let names = self_store(&mut self.alarm, &mut self.data, kind)
                .names(number, &mut core.registry)?;
            names.directory(&found, core.log_mut(kind))
        });
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
