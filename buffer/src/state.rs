//! The state file: what each uplink has settled, what it is owed, and the counts of what is gone.
//!
//! Two slots, written in turn and in place, each with a generation and a checksum: a write that is
//! cut short leaves the other slot. Losing both only sends again what was already sent.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use millrace_tags::{DropReason, LogKind, StreamId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::boots::Boots;
use crate::epoch::{StoreError, sync_directory};
use crate::patience::patiently;
use crate::ranges::Ranges;

const MAGIC: [u8; 4] = [0xF1, b'M', b'R', b's'];
const VERSION: u8 = 1;
const HEADER_BYTES: usize = 21;

/// Room that a slot takes from the start, so that saving works on a full disk.
const SLOT_BYTES: usize = 64 * 1024;

/// A slot that claims to be longer is damaged.
const SLOT_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Ranges of settled chunks that are kept for each uplink; beyond, the smallest are sent again. Of numbers
/// that it has given up, this many of each line: beyond, a replay offers them once more.
pub(crate) const SETTLED_RANGES_MAX: usize = 64;

/// All that the file holds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct State {
    pub(crate) alarm: LogState,
    pub(crate) data: LogState,
    pub(crate) uplinks: BTreeMap<String, UplinkState>,
    pub(crate) boots: Boots,
    /// The newest id of what was set aside.
    pub(crate) last_aside: u64,
}

impl State {
    pub(crate) fn log(&self, kind: LogKind) -> &LogState {
        match kind {
            LogKind::Alarm => &self.alarm,
            LogKind::Data => &self.data,
        }
    }

    pub(crate) fn log_mut(&mut self, kind: LogKind) -> &mut LogState {
        match kind {
            LogKind::Alarm => &mut self.alarm,
            LogKind::Data => &mut self.data,
        }
    }
}

/// The state of a buffer that has none.
pub(crate) static EMPTY: std::sync::LazyLock<State> = std::sync::LazyLock::new(State::default);

/// One log: what was removed from it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct LogState {
    /// Chunk numbers that are gone for good, settled for everyone.
    pub(crate) removed: Ranges,
    /// The newest chunk that was durable when the state was saved.
    pub(crate) last_chunk: u64,
    /// What the removed chunks held, by source.
    pub(crate) sources: BTreeMap<String, RemovedCounts>,
    /// Where the lines stood after the removed chunks.
    pub(crate) ends: Vec<LineEnd>,
}

/// Sums over the removed chunks of a source.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct RemovedCounts {
    pub(crate) records: u64,
    pub(crate) voids: BTreeMap<DropReason, u64>,
    /// Of the records: removed for a reason while there was no uplink.
    pub(crate) unsent: BTreeMap<DropReason, u64>,
}

/// The last number of a line in the removed chunks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LineEnd {
    pub(crate) stream: StreamId,
    pub(crate) source: String,
    pub(crate) end: u64,
    /// Which numbers they held: epochs do not go in the order of their age.
    #[serde(default)]
    pub(crate) numbers: Ranges,
}

/// One uplink.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct UplinkState {
    pub(crate) alarm: UplinkLogState,
    pub(crate) data: UplinkLogState,
    /// Holes that it has still to be told of.
    pub(crate) owed: Vec<OwedState>,
    /// What the other side refuses.
    pub(crate) aside: Vec<AsideState>,
}

impl UplinkState {
    pub(crate) fn log(&self, kind: LogKind) -> &UplinkLogState {
        match kind {
            LogKind::Alarm => &self.alarm,
            LogKind::Data => &self.data,
        }
    }

    pub(crate) fn log_mut(&mut self, kind: LogKind) -> &mut UplinkLogState {
        match kind {
            LogKind::Alarm => &mut self.alarm,
            LogKind::Data => &mut self.data,
        }
    }
}

/// One uplink's view of one log.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct UplinkLogState {
    /// Chunk numbers that it has settled.
    pub(crate) settled: Ranges,
    /// Records of settled or removed chunks that it did not get, by source.
    pub(crate) dropped: BTreeMap<String, BTreeMap<DropReason, u64>>,
    /// The last chunk from before it was added.
    pub(crate) begins: u64,
    /// Records of settled chunks that it has given up: a replay does not bring them.
    pub(crate) refused: Vec<RefusedState>,
    /// Records of chunks that are not settled, given up as poison: they are not offered again.
    pub(crate) poison: Vec<PoisonState>,
}

/// Numbers of a line that an uplink has given up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct RefusedState {
    pub(crate) stream: StreamId,
    pub(crate) source: String,
    pub(crate) reason: DropReason,
    pub(crate) numbers: Ranges,
}

/// Numbers that an uplink has set aside.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct AsideState {
    pub(crate) id: u64,
    pub(crate) log: LogKind,
    pub(crate) stream: StreamId,
    pub(crate) source: String,
    pub(crate) numbers: Ranges,
    pub(crate) reason: String,
    pub(crate) tries: u32,
    pub(crate) since: Option<Timestamp>,
}

/// Numbers of a line that were given up as poison.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct PoisonState {
    pub(crate) stream: StreamId,
    pub(crate) source: String,
    pub(crate) numbers: Ranges,
}

/// Numbers that an uplink is owed a gap for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct OwedState {
    pub(crate) log: LogKind,
    pub(crate) stream: StreamId,
    pub(crate) reason: DropReason,
    pub(crate) source: String,
    pub(crate) at: Option<Timestamp>,
    pub(crate) numbers: Ranges,
}

/// The two slots on the disk.
pub(crate) struct StateFile {
    dir: PathBuf,
    generation: u64,
    /// What was saved last.
    saved: Option<State>,
}

impl StateFile {
    /// Reads the newer intact slot. The state is `None` where there is none.
    ///
    /// # Errors
    /// One that says nothing of the file: without it, what is there would be sent again.
    pub(crate) fn open(dir: &Path) -> Result<(Self, Option<State>, Damage), StoreError> {
        let slots = [
            read_slot(&slot_path(dir, 0))?,
            read_slot(&slot_path(dir, 1))?,
        ];
        let damage = match &slots {
            [Err(()), _] | [_, Err(())] => Damage::Slot,
            _ => Damage::None,
        };
        let newest = slots
            .into_iter()
            .filter_map(Result::unwrap_or_default)
            .max_by_key(|(generation, _)| *generation);
        let (generation, state) = newest.map_or((0, None), |(g, state)| (g, Some(state)));
        let file = Self {
            dir: dir.to_owned(),
            generation,
            saved: state.clone(),
        };
        Ok((file, state, damage))
    }

    /// Makes `state` durable, unless it is what was saved last.
    pub(crate) fn save(&mut self, state: State) -> Result<(), StoreError> {
        if self.saved.as_ref() == Some(&state) {
            return Ok(());
        }
        let generation = self.generation + 1;
        let path = slot_path(&self.dir, generation % 2);
        write_slot(&path, &self.dir, generation, &state)
            .map_err(StoreError::io("cannot write", &path))?;
        self.generation = generation;
        self.saved = Some(state);
        Ok(())
    }
}

/// What was wrong with the slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Damage {
    None,
    /// At least one slot was not readable.
    Slot,
}

fn slot_path(dir: &Path, slot: u64) -> PathBuf {
    dir.join(format!("state.{slot}"))
}

fn write_slot(path: &Path, dir: &Path, generation: u64, state: &State) -> std::io::Result<()> {
    let fresh = !path.exists();
    let body = serde_json::to_vec(state)?;
    let mut out = Vec::with_capacity(HEADER_BYTES + body.len());
    out.extend_from_slice(&MAGIC);
    out.push(VERSION);
    out.extend_from_slice(&generation.to_le_bytes());
    out.extend_from_slice(&(body.len() as u32).to_le_bytes());
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&out), &body);
    out.extend_from_slice(&checksum.to_le_bytes());
    out.extend_from_slice(&body);
    if fresh && out.len() < SLOT_BYTES {
        out.resize(SLOT_BYTES, 0);
    }
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)?;
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&out)?;
    file.sync_data()?;
    if fresh {
        sync_directory(dir).map_err(std::io::Error::other)?;
    }
    Ok(())
}

/// What a slot holds: nothing if there is none, an error inside if it is damaged.
type Slot = Result<Option<(u64, State)>, ()>;

fn read_slot(path: &Path) -> Result<Slot, StoreError> {
    let bytes = patiently(|| {
        let mut bytes = Vec::new();
        let file = File::open(path)?;
        file.take(SLOT_BYTES_MAX).read_to_end(&mut bytes)?;
        Ok(bytes)
    });
    let bytes = bytes.map_err(StoreError::io("cannot read", path))?;
    Ok(match bytes {
        Some(bytes) => parse_slot(&bytes),
        None if path.exists() => Err(()),
        None => Ok(None),
    })
}

fn parse_slot(bytes: &[u8]) -> Slot {
    let mut input = crate::wire::Cursor::new(bytes);
    let mut parse = || -> Result<(u64, State), crate::wire::Malformed> {
        let malformed = crate::wire::Malformed("the slot is damaged");
        if input.array::<4>()? != MAGIC || input.u8()? > VERSION {
            return Err(malformed);
        }
        let generation = input.u64()?;
        let len = input.u32()? as usize;
        let stored = input.u32()?;
        let body = input.take(len)?;
        let head = crc32c::crc32c(&bytes[..HEADER_BYTES - 4]);
        if crc32c::crc32c_append(head, body) != stored {
            return Err(malformed);
        }
        let state: State = serde_json::from_slice(body).map_err(|_| malformed)?;
        Ok((generation, state.repaired()))
    };
    parse().map(Some).map_err(drop)
}

impl State {
    fn repaired(mut self) -> State {
        for kind in [LogKind::Alarm, LogKind::Data] {
            let log = self.log_mut(kind);
            log.removed = std::mem::take(&mut log.removed).repaired();
            for end in &mut log.ends {
                end.numbers = std::mem::take(&mut end.numbers).repaired();
            }
            for uplink in self.uplinks.values_mut() {
                let log = uplink.log_mut(kind);
                log.settled = std::mem::take(&mut log.settled).repaired();
            }
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_slot_leaves_the_other() {
        let dir = tempfile::tempdir().unwrap();
        let (mut file, state, _) = StateFile::open(dir.path()).unwrap();
        assert_eq!(state, None);
        let mut state = State::default();
        for last in 1..=3 {
            state.data.last_chunk = last;
            file.save(state.clone()).unwrap();
        }
        let (_, read, damage) = StateFile::open(dir.path()).unwrap();
        assert_eq!((read.unwrap().data.last_chunk, damage), (3, Damage::None));

        let newest = dir.path().join("state.1");
        let mut bytes = std::fs::read(&newest).unwrap();
        bytes[30] ^= 1;
        std::fs::write(&newest, bytes).unwrap();
        let (_, read, damage) = StateFile::open(dir.path()).unwrap();
        assert_eq!((read.unwrap().data.last_chunk, damage), (2, Damage::Slot));
    }
}
