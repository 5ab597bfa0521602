//! The recount: what is queued, counted from the chunks on the disk.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use millrace_tags::{LogKind, SourceId, StreamId};

use crate::core::{StoreFailure, VerifyError};
use crate::keeper::{Keeper, LOGS};
use crate::ledger::{Ledger, Row};
use crate::log::{Content, Log};
use crate::ranges::Ranges;
use crate::retention::covered;
use crate::uplink::Reader;

/// What an uplink has settled of a log, at one instant.
struct View {
    settled: Ranges,
    acked: HashMap<(StreamId, SourceId), Ranges>,
    /// By name of the source.
    queued: BTreeMap<String, u64>,
}

impl View {
    fn of(reader: &Reader, log: &Log) -> Self {
        let acked = reader.all_acked();
        Self {
            settled: reader.settled.clone(),
            acked: acked
                .map(|(line, acked)| ((log.stream_of(line), line.source), acked.clone()))
                .collect(),
            queued: BTreeMap::new(),
        }
    }

    fn count(&mut self, name: &str, line: (StreamId, SourceId), first: u64, last: u64) {
        let acked = self.acked.get(&line).map_or(0, |a| a.overlap(first, last));
        *self.queued.entry(name.to_owned()).or_default() += last - first + 1 - acked;
    }
}

/// One log's views at one instant: those of the uplinks and, where there is none, that of nobody.
struct Frozen {
    kind: LogKind,
    removed: Ranges,
    views: BTreeMap<Option<Arc<str>>, View>,
}

impl Keeper {
    pub(crate) fn verify(&mut self) -> Result<Ledger, VerifyError> {
        let (mut ledger, frozen, ids) = self.freeze();
        let names = self.same_names();
        for mut log in frozen {
            let store = match log.kind {
                LogKind::Alarm => &mut self.alarm,
                LogKind::Data => &mut self.data,
            };
            store
                .recount(|chunk, catalogue| {
                    for entry in chunk.entries.iter().filter(|e| e.void.is_none()) {
                        let stored = catalogue.sources.iter().find(|s| s.id == entry.source);
                        let name = match stored {
                            Some(stored) => Some(stored.name.clone()),
                            None => names.get(&entry.source).cloned(),
                        };
                        let Some(name) = name else { continue };
                        let Some(id) = ids.get(&name) else { continue };
                        for view in log.views.values_mut() {
                            let (first, last) = (chunk.number, chunk.last_number());
                            if !covered(&view.settled, &log.removed, first, last) {
                                let line = (chunk.stream, *id);
                                view.count(&name, line, entry.first, entry.last());
                            }
                        }
                    }
                })
                .map_err(|source| VerifyError::Store {
                    log: log.kind,
                    source: Arc::new(StoreFailure(source)),
                })?;
            replace_queued(&mut ledger, log);
        }
        Ok(ledger)
    }

    /// Names of sources whose catalogue frame may be lost.
    fn same_names(&self) -> HashMap<SourceId, Arc<str>> {
        let core = self.shared.lock();
        let registry = &core.registry;
        let nameless = registry.nameless_known();
        nameless
            .filter_map(|(stored, meant)| Some((stored, registry.name(meant)?.clone())))
            .collect()
    }

    /// The running counts and, of the same instant, what is settled and what is open.
    fn freeze(&self) -> (Ledger, Vec<Frozen>, HashMap<Arc<str>, SourceId>) {
        let core = self.shared.lock();
        let mut frozen = Vec::new();
        for kind in LOGS {
            let log = core.log(kind);
            let mut views = BTreeMap::new();
            for (name, uplink) in &core.uplinks {
                views.insert(Some(name.clone()), View::of(uplink.reader(kind), log));
            }
            if views.is_empty() {
                views.insert(None, View::of(&Reader::default(), log));
            }
            for batch in log.open() {
                if !matches!(batch.content, Content::Records(_)) {
                    continue;
                }
                let line = (log.stream_of(batch.line), batch.line.source);
                if let Some(name) = core.registry.name(batch.line.source) {
                    for view in views.values_mut() {
                        view.count(name, line, batch.first, batch.last);
                    }
                }
            }
            frozen.push(Frozen {
                kind,
                removed: log.removed.clone(),
                views,
            });
        }
        let sources = core.registry.sources().iter();
        let ids = sources
            .zip((0u32..).map(SourceId))
            .map(|(s, id)| (s.name.clone(), id));
        (core.ledger(), frozen, ids.collect())
    }
}

fn replace_queued(ledger: &mut Ledger, log: Frozen) {
    let replace = |rows: &mut BTreeMap<String, Row>, view: &View| {
        for (name, row) in rows.iter_mut() {
            row.queued = view.queued.get(name).copied().unwrap_or(0);
        }
    };
    let mut behind: BTreeMap<String, Row> = BTreeMap::new();
    for (uplink, view) in &log.views {
        match uplink {
            Some(name) => {
                let Some(uplink) = ledger.uplinks.get_mut(&**name) else {
                    continue;
                };
                let rows = match log.kind {
                    LogKind::Alarm => &mut uplink.events,
                    LogKind::Data => &mut uplink.devices,
                };
                replace(rows, view);
                crate::core::furthest_behind(&mut behind, rows);
            }
            None => {
                let rows = match log.kind {
                    LogKind::Alarm => &mut ledger.events,
                    LogKind::Data => &mut ledger.devices,
                };
                replace(rows, view);
                return;
            }
        }
    }
    match log.kind {
        LogKind::Alarm => ledger.events = behind,
        LogKind::Data => ledger.devices = behind,
    }
}
