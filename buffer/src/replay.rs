//! Sending again what is settled: a broker may lose what it has acknowledged.
//!
//! Settled numbers that are still on the disk go back to the queue of an uplink, under their old numbers.
//! Whatever was never given to the uplink stays so: voids, and what it has given up.

use std::collections::BTreeMap;
use std::sync::Arc;

use millrace_tags::{LogKind, SourceId, StreamId, Timestamp};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::core::{CommitError, StoreFailure};
use crate::epoch::StoreError;
use crate::keeper::{Keeper, LOGS, self_store};
use crate::log::LineKey;
use crate::ranges::Ranges;
use crate::scan::{Found, Unreadable};
use crate::uplink::Directory;

/// What is to be sent again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replay {
    /// Numbers of one line.
    Numbers {
        /// The device or model.
        source: String,
        /// The stream that the numbers belong to.
        stream: StreamId,
        /// The first number.
        first_seq: u64,
        /// The last number.
        last_seq: u64,
    },
    /// All chunks with records that are not older than this.
    Since(Timestamp),
}

/// What is sent again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replayed {
    /// For each uplink that was asked for.
    pub uplinks: BTreeMap<String, ReplayedTo>,
    /// No record of the oldest sealed epoch is newer than this: what is older is not there any more.
    pub oldest: Option<Timestamp>,
}

/// What is sent again to one uplink.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayedTo {
    /// How many records are offered again.
    pub records: u64,
    /// Their numbers.
    pub again: Vec<Span>,
    /// Numbers that were asked for and are still to be sent for the first time.
    pub waiting: Vec<Span>,
    /// Numbers that were asked for and cannot be sent: they are not there any more, never came, or the
    /// uplink has given them up.
    pub missing: Vec<Span>,
}

/// Numbers of one line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// The device or model.
    pub source: String,
    /// The stream, as messages name it.
    pub stream: String,
    /// The first number.
    pub first_seq: u64,
    /// The last number.
    pub last_seq: u64,
}

/// Why nothing is sent again.
#[derive(Debug, Error)]
pub enum ReplayError {
    /// The buffer has no such uplink. Its name is in the configuration.
    #[error("there is no uplink {0}")]
    Uplink(String),
    /// What is only in memory could not be stored first.
    #[error("what is not stored yet cannot be stored")]
    Commit(#[from] CommitError),
    /// The store cannot be read now. What was found before is offered again; ask again for the rest.
    #[error("the store cannot be read")]
    Read(#[source] StoreFailure),
    /// It is offered again, but that would not outlive a crash.
    #[error("the state cannot be saved; a crash now would forget what is to be sent again")]
    State(#[source] StoreFailure),
    /// The buffer is closed.
    #[error("the buffer is closed")]
    Closed,
}

/// Numbers of lines.
type Lines = BTreeMap<LineKey, Ranges>;

/// What came of it for one uplink and log.
#[derive(Default)]
struct Outcome {
    again: Lines,
    waiting: Lines,
}

impl Replay {
    /// The part of a chunk's records that is meant.
    fn of(&self, chunk: &Directory, utc: Option<Timestamp>, line: Option<LineKey>) -> Vec<Part> {
        let records = chunk.entries.iter().filter(|e| e.3.is_none());
        match self {
            Replay::Numbers {
                first_seq,
                last_seq,
                ..
            } => records
                .filter(|e| Some(e.0) == line)
                .map(|&(line, a, b, _)| (line, a.max(*first_seq), b.min(*last_seq)))
                .filter(|&(_, a, b)| a <= b)
                .collect(),
            Replay::Since(since) if utc.is_some_and(|utc| utc >= *since) => {
                records.map(|&(line, a, b, _)| (line, a, b)).collect()
            }
            Replay::Since(_) => Vec::new(),
        }
    }
}

/// Consecutive numbers of a line.
pub(crate) type Part = (LineKey, u64, u64);

impl Keeper {
    /// Puts settled numbers back into the queue of one uplink, or of all.
    pub(crate) fn replay(
        &mut self,
        uplink: Option<Arc<str>>,
        replay: &Replay,
    ) -> Result<Replayed, ReplayError> {
        let uplinks: Vec<Arc<str>> = {
            let core = self.shared.lock();
            let all = core.uplinks.keys().cloned();
            all.filter(|name| uplink.as_ref().is_none_or(|u| u == name))
                .collect()
        };
        if let Some(name) = uplink.filter(|_| uplinks.is_empty()) {
            return Err(ReplayError::Uplink(name.to_string()));
        }
        // What is acked and not stored yet can be found in chunks then.
        self.commit()?;
        let mut replayed = Replayed::default();
        for name in &uplinks {
            replayed
                .uplinks
                .insert(name.to_string(), ReplayedTo::default());
        }
        for kind in LOGS {
            self.replay_log(kind, &uplinks, replay, &mut replayed)
                .map_err(|error| ReplayError::Read(error.into()))?;
            let oldest = self.store(kind).sealed.front().and_then(|e| e.newest);
            replayed.oldest = [replayed.oldest, oldest].into_iter().flatten().min();
        }
        self.complete(replay, &mut replayed);
        let saved = self.save();
        let wakes = self.shared.lock().wakes();
        for wake in wakes {
            wake();
        }
        saved.map_err(|error| ReplayError::State(error.into()))?;
        Ok(replayed)
    }

    fn replay_log(
        &mut self,
        kind: LogKind,
        uplinks: &[Arc<str>],
        replay: &Replay,
        replayed: &mut Replayed,
    ) -> Result<(), StoreError> {
        let line = self.replay_line(kind, replay);
        if matches!(replay, Replay::Numbers { .. }) && line.is_none() {
            return Ok(());
        }
        let mut outcomes: Vec<Outcome> = uplinks.iter().map(|_| Outcome::default()).collect();
        let sealed: Vec<u64> = self.store(kind).sealed.iter().map(|e| e.first).collect();
        for first in sealed {
            let chunks = self.store(kind).table(first, Unreadable::Fails)?.chunks;
            self.replay_chunks(kind, &chunks, uplinks, replay, line, &mut outcomes)?;
        }
        let chunks = self.store(kind).active_chunks();
        self.replay_chunks(kind, &chunks, uplinks, replay, line, &mut outcomes)?;
        let core = self.shared.lock();
        let spans = |lines: &Lines| -> Vec<Span> {
            let spans = lines.iter().flat_map(|(line, numbers)| {
                let source = core.registry.name(line.source).map(ToString::to_string);
                let stream = core.log(kind).stream_of(*line).to_string();
                numbers.iter().map(move |(first_seq, last_seq)| Span {
                    source: source.clone().unwrap_or_default(),
                    stream: stream.clone(),
                    first_seq,
                    last_seq,
                })
            });
            spans.collect()
        };
        for (name, outcome) in uplinks.iter().zip(&outcomes) {
            let to = replayed.uplinks.entry(name.to_string()).or_default();
            to.records += outcome.again.values().map(Ranges::count).sum::<u64>();
            to.again.extend(spans(&outcome.again));
            if line.is_some() {
                to.waiting.extend(spans(&outcome.waiting));
            }
        }
        Ok(())
    }

    /// The line that is asked for, if this log has it.
    fn replay_line(&self, kind: LogKind, replay: &Replay) -> Option<LineKey> {
        let Replay::Numbers { source, stream, .. } = replay else {
            return None;
        };
        let mut core = self.shared.lock();
        let source: SourceId = core.registry.find(source)?;
        // A stream that is only on the disk gets its place here.
        let stream = core.log_mut(kind).stream(*stream);
        Some(LineKey { stream, source })
    }

    fn replay_chunks(
        &mut self,
        kind: LogKind,
        chunks: &[Found],
        uplinks: &[Arc<str>],
        replay: &Replay,
        line: Option<LineKey>,
        outcomes: &mut [Outcome],
    ) -> Result<(), StoreError> {
        for found in chunks {
            let mut core = self.shared.lock();
            let core = &mut *core;
            let (first, last) = (found.number, found.last_number());
            if core.log(kind).removed.covers(first, last) {
                continue;
            }
            let store = self_store(&mut self.alarm, &mut self.data, kind);
            let names = store.names_of(first, &mut core.registry, Unreadable::Fails)?;
            let Some(chunk) = names.and_then(|n| n.directory(found, core.log_mut(kind))) else {
                continue;
            };
            let utc = core.boots.complete(found.timebase).utc(found.newest);
            let parts = replay.of(&chunk, utc, line);
            if parts.is_empty() {
                continue;
            }
            for (name, outcome) in uplinks.iter().zip(outcomes.iter_mut()) {
                let Some(uplink) = core.uplinks.get_mut(name) else {
                    continue;
                };
                let (again, waiting) = uplink.reader_mut(kind).replay(&chunk, &parts);
                for (lines, parts) in [(&mut outcome.again, again), (&mut outcome.waiting, waiting)]
                {
                    for (line, a, b) in parts {
                        lines.entry(line).or_default().insert(a, b);
                    }
                }
            }
        }
        Ok(())
    }

    /// Says what was asked for by number and is neither sent again nor waits.
    fn complete(&self, replay: &Replay, replayed: &mut Replayed) {
        let Replay::Numbers {
            source,
            stream,
            first_seq,
            last_seq,
        } = replay
        else {
            return;
        };
        for to in replayed.uplinks.values_mut() {
            let mut there = Ranges::default();
            for span in to.again.iter().chain(&to.waiting) {
                there.insert(span.first_seq, span.last_seq);
            }
            let missing = there.free(*first_seq, *last_seq).into_iter();
            let span = |(first_seq, last_seq)| Span {
                source: source.clone(),
                stream: stream.to_string(),
                first_seq,
                last_seq,
            };
            to.missing = missing.map(span).collect();
        }
    }
}
