//! An epoch that holds nothing but where the lines stand.
//!
//! The newest epoch's catalogue says which numbers were given last, so the last epoch of a log cannot
//! simply go. Where it must (too old, purged), a chunk without entries begins a new epoch first, whose
//! catalogue says the same.

use std::collections::HashMap;

use millrace_tags::LogKind;

use crate::chunk::{Header, Packer};
use crate::commit::Packed;
use crate::keeper::{Keeper, self_store};
use crate::log::Snapshot;
use crate::store::Names;
use crate::uplink::Directory;

impl Keeper {
    /// Begins a new epoch, because the only one that is there is about to go.
    pub(crate) fn anchor(&mut self, kind: LogKind) {
        let timebase = self.shared.clock.timebase();
        let now = self.shared.clock.now();
        let (names, number, through) = {
            let core = self.shared.lock();
            let log = core.log(kind);
            if log.volatile {
                // The disk refuses, and the stream that the catalogue would name is not on it.
                return;
            }
            let names = Names {
                sources: core.registry.sources().to_vec(),
                tags: core.registry.tags().clone(),
                stream: log.streams[log.current as usize],
                now,
            };
            (names, log.last_chunk + 1, log.durable)
        };
        let header = Header {
            log: kind,
            number,
            span: 1,
            stream: names.stream,
            timebase,
            newest: now,
        };
        let mut packer = Packer::default();
        packer.begin();
        let chunk = Packed {
            directory: Directory {
                number,
                last: number,
                entries: Vec::new(),
            },
            frame: packer.finish(&header, &[]),
        };
        let chunks = [chunk];
        if let Err(error) = self_store(&mut self.alarm, &mut self.data, kind).write(&names, &chunks)
        {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, log = kind.name(), "a new epoch cannot be begun");
            self.seal(kind);
            return;
        }
        let nothing = Snapshot {
            batches: Vec::new(),
            through,
            limits: HashMap::new(),
            unsaid: None,
        };
        let directories = chunks.map(|chunk| chunk.directory);
        let mut core = self.shared.lock();
        core.committed(kind, &nothing, &[], &directories);
        drop(core);
        self.set_mark();
    }
}
