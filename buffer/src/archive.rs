//! Looking into a store without opening it: what is on the disk, as parcels or as a list of chunks.
//!
//! An [`Archive`] takes no lock and writes nothing, so that it works on the store of a running agent, of
//! a stopped one, on a damaged one and on a copy. It sees what is committed, no more. Files come and go
//! under it: an epoch that was removed is left out, one that was merged is found again under its new
//! name, and no number of a stream is given twice, whatever lies on the disk meanwhile.

mod epoch;
mod reading;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use millrace_tags::{BootId, LogKind, Parcel, StreamId, Timestamp};
use serde::Serialize;
use thiserror::Error;

use crate::boots::Boots;
use crate::disk::NEWER;
use crate::state::{State, StateFile};
use epoch::Place;
pub use reading::Reading;
use reading::Walk;

/// A store, to be read only.
///
/// It holds as much in memory as one epoch's list of chunks and one chunk.
pub struct Archive {
    dir: PathBuf,
    state: State,
}

/// Why there is nothing to look into.
#[derive(Debug, Error)]
pub enum ArchiveError {
    /// There is no store. See whether the path is right.
    #[error("there is no store in {}", path.display())]
    Missing {
        /// Where one was looked for.
        path: PathBuf,
    },
    /// The directory cannot be read. Ask as root or as the user that runs the agent.
    #[error("cannot read the store in {}", path.display())]
    Unreadable {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A newer program wrote it. Use that program.
    #[error("the store in {} has format {found}; this program knows formats up to {known}", path.display())]
    Newer {
        /// The store's directory.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest format that this program knows.
        known: u32,
    },
}

/// Which end to begin at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// With the chunk that was stored first.
    OldestFirst,
    /// With the chunk that was stored last. Within a chunk the order stays.
    NewestFirst,
}

/// What to read.
pub struct Selection<'a> {
    /// Which log.
    pub log: LogKind,
    /// Which end to begin at.
    pub order: Order,
    /// Sources that are asked for.
    pub source: &'a (dyn Fn(&str) -> bool + 'a),
    /// Chunks that are known to have nothing at or after this time are passed over. Whoever wants exact
    /// limits looks at the records.
    pub from: Option<Timestamp>,
}

/// Consecutive numbers of one source, as one chunk holds them.
#[derive(Debug, Clone, PartialEq)]
pub struct Piece {
    /// The chunk that they come from.
    pub chunk: u64,
    /// The records. The lane is `backlog`: they are read from the disk.
    pub parcel: Parcel,
}

/// One chunk, as it lies on the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ChunkInfo {
    /// Its number, or the first that it stands for.
    pub chunk: u64,
    /// The last number that it stands for: higher where chunks were merged.
    pub last_chunk: u64,
    /// The epoch that it lies in, by its name.
    pub epoch: String,
    /// Where in the epoch's file.
    pub offset: u64,
    /// Length of its frame; 0 where it is lost.
    pub bytes: u64,
    /// Samples or events.
    pub records: u64,
    /// Numbers that never come.
    pub voids: u64,
    /// Sources that it has records or voids of.
    pub sources: usize,
    /// The stream that its numbers belong to.
    pub stream: StreamId,
    /// The boot that wrote it.
    pub boot: BootId,
    /// The clock was set when it was stored.
    pub clock_set: bool,
    /// Time of its newest record, where that is known by now.
    pub newest: Option<Timestamp>,
}

/// How far a reading has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// Bytes of the files that are done.
    pub done_bytes: u64,
    /// Bytes of all files, as far as they are known.
    pub total_bytes: u64,
    /// Chunks that could not be read.
    pub damaged_chunks: u64,
}

impl Archive {
    /// Looks at the store in `dir`.
    ///
    /// # Errors
    /// There is none, it cannot be read, or a newer program wrote it. Damage is no error.
    pub fn open(dir: &Path) -> Result<Archive, ArchiveError> {
        let path = dir.to_owned();
        match fs::read_dir(dir) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(ArchiveError::Missing { path });
            }
            Err(source) => return Err(ArchiveError::Unreadable { path, source }),
        }
        if let Some((found, known)) = crate::open::newer_format(dir) {
            return Err(ArchiveError::Newer { path, found, known });
        }
        let is_store = |log: LogKind| dir.join(log.name()).is_dir();
        if !is_store(LogKind::Alarm) && !is_store(LogKind::Data) {
            return Err(ArchiveError::Missing { path });
        }
        // Without it, a clock that became known later is not.
        let state = StateFile::open(dir).ok().and_then(|(_, state, _)| state);
        let mut archive = Archive {
            dir: path,
            state: state.unwrap_or_default(),
        };
        archive.state.boots = archive.boots();
        Ok(archive)
    }

    /// Reads records, chunk by chunk.
    pub fn read<'a>(&'a self, selection: Selection<'a>) -> Reading<'a> {
        Reading::new(self, selection)
    }

    /// All chunks of a log, by number.
    pub fn chunks(&self, log: LogKind, order: Order) -> impl Iterator<Item = ChunkInfo> {
        let mut walk = Walk::new(self, log, order, None);
        let boots = &self.state.boots;
        std::iter::from_fn(move || {
            let (at, found) = walk.next()?;
            let count = |void: bool| {
                let entries = found.entries.iter().filter(|e| e.void.is_some() == void);
                entries.map(|e| e.count).sum()
            };
            let mut sources: Vec<_> = found.entries.iter().map(|e| e.source).collect();
            sources.sort_unstable();
            sources.dedup();
            Some(ChunkInfo {
                chunk: found.number,
                last_chunk: found.last_number(),
                epoch: at.name().to_owned(),
                offset: found.offset,
                bytes: u64::from(found.len),
                records: count(false),
                voids: count(true),
                sources: sources.len(),
                stream: found.stream,
                boot: found.timebase.boot,
                clock_set: found.timebase.offset_ns.is_some(),
                newest: boots.complete(found.timebase).utc(found.newest),
            })
        })
    }

    /// Epochs of a log that a newer program wrote: nothing here can read them.
    pub fn newer_epochs(&self, log: LogKind) -> u64 {
        let entries = fs::read_dir(self.dir.join(log.name()));
        let paths = entries.into_iter().flatten().flatten().map(|e| e.path());
        paths
            .filter(|path| path.extension().is_some_and(|e| e == NEWER))
            .count() as u64
    }

    /// Where the epochs of a log are now, by first chunk.
    fn places(&self, log: LogKind) -> Vec<Place> {
        epoch::places(&self.dir.join(log.name()))
    }

    /// What the sealed epochs know of the time of their boots; what was saved wins.
    fn boots(&self) -> Boots {
        let mut boots = Boots::default();
        for log in [LogKind::Alarm, LogKind::Data] {
            for place in self.places(log) {
                for times in place.summary().iter().flat_map(|s| &s.boots) {
                    boots.learn(times.first);
                }
            }
        }
        boots.restore(&self.state.boots);
        boots
    }
}
