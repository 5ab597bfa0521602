//! What was set aside, as the commands of people see it.

use std::sync::Arc;

use millrace_tags::Timestamp;

use crate::aside::{Aside, SetAside};
use crate::buffer::Buffer;
use crate::core::{Core, Request};
use crate::owed::OwedKey;

impl Buffer {
    /// What uplinks have set aside because the other side refuses it, the oldest first.
    ///
    /// It counts as queued and is not sent. It survives restarts; when the limits need the room it is dropped
    /// as any other.
    pub fn set_aside(&self) -> Vec<SetAside> {
        let core = self.shared().lock();
        let mut rows: Vec<SetAside> = core
            .uplinks
            .iter()
            .flat_map(|(name, uplink)| uplink.aside.iter().map(|aside| core.row(name, aside)))
            .collect();
        rows.sort_by_key(|row| row.id);
        rows
    }

    /// Sends again what was set aside. `false`: there is nothing of this id.
    pub fn retry(&self, id: u64) -> bool {
        self.resolve(id, |core, name, aside, _| {
            let Core {
                alarm,
                data,
                uplinks,
                ..
            } = core;
            let log = match aside.log {
                millrace_tags::LogKind::Alarm => alarm,
                millrace_tags::LogKind::Data => data,
            };
            if let Some(uplink) = uplinks.get_mut(name) {
                uplink.retry(aside, log);
            }
        })
    }

    /// Gives up what was set aside: it is counted as dropped (`poison`) and announced as a gap. `false`:
    /// there is nothing of this id.
    pub fn discard(&self, id: u64) -> bool {
        self.resolve(id, |core, name, aside, at| core.discard(name, aside, at))
    }

    fn resolve(
        &self,
        id: u64,
        how: impl FnOnce(&mut Core, &Arc<str>, &Aside, Option<Timestamp>),
    ) -> bool {
        let at = self.shared().utc();
        let wakes = {
            let mut core = self.shared().lock();
            let mut uplinks = core.uplinks.iter_mut();
            let found =
                uplinks.find_map(|(name, uplink)| Some((name.clone(), uplink.aside.take(id)?)));
            let Some((name, aside)) = found else {
                return false;
            };
            how(&mut core, &name, &aside, at);
            core.requests.push_back(Request::Save);
            core.wakes()
        };
        self.shared().work.notify_one();
        for wake in wakes {
            wake();
        }
        true
    }
}

impl Core {
    /// Counts what was set aside as poison, and owes the uplink a gap.
    pub(crate) fn discard(&mut self, uplink: &Arc<str>, aside: &Aside, at: Option<Timestamp>) {
        let Some(source) = self.registry.name(aside.line.source).cloned() else {
            return;
        };
        let key = OwedKey {
            log: aside.log,
            stream: self.log(aside.log).stream_of(aside.line),
            reason: millrace_tags::DropReason::Poison,
            source,
        };
        if let Some(uplink) = self.uplinks.get_mut(uplink) {
            uplink.discard(aside, &key, at);
        }
    }

    fn row(&self, uplink: &Arc<str>, aside: &Aside) -> SetAside {
        let mut ranges = aside.numbers.iter();
        let (first, mut last) = ranges.next().unwrap_or_default();
        if let Some((_, end)) = ranges.last() {
            last = end;
        }
        let source = self.registry.name(aside.line.source);
        SetAside {
            id: aside.id,
            uplink: uplink.clone(),
            source: source.cloned().unwrap_or_else(|| "".into()),
            log: aside.log,
            stream: self.log(aside.log).stream_of(aside.line),
            first_seq: first,
            last_seq: last,
            records: aside.numbers.count(),
            reason: aside.reason.clone(),
            tries: aside.tries,
            since: aside.since,
        }
    }
}
