//! A chunk: what one commit adds to one log, as one self-describing frame.
//!
//! The frame's header and directory ([`frame`]) can be read without unpacking its columns
//! ([`columns`]). Everything is covered by one CRC32C, so that a frame can be found and judged in the
//! raw bytes of a file.

mod columns;
mod frame;
mod rows;
mod times;
mod values;

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use millrace_tags::{self as tags, Event, LogKind, Sample};
use thiserror::Error;
use zstd::bulk::{Compressor, Decompressor};

pub(crate) use columns::Columns;
pub(crate) use frame::{
    Entry, FRAME_BYTES_MAX, Frame, Header, MAGIC, claimed_number, reason_code, reason_from_code,
};
pub(crate) use rows::Rows;

use crate::wire::{Cursor, Malformed, put_bytes};

/// A chunk is cut at this many records: beyond it the columns hardly get smaller.
pub(crate) const RECORDS_MAX: usize = 32_000;

/// A chunk is cut at this size: sled keeps values below a quarter of its 512 KiB segment in the log
/// itself, larger ones would become files of their own.
pub(crate) const CHUNK_BYTES_MAX: usize = 96 * 1024;

/// What a damaged or hostile frame can make us unpack at most.
const UNPACKED_BYTES_MAX: usize = 32 * 1024 * 1024;

/// More effort than level 1 gains less than 2 % on plant data.
const ZSTD_LEVEL: i32 = 1;

/// A frame that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum FrameError {
    /// It is not a frame, or a damaged one.
    #[error("the frame is damaged: {0}")]
    Damaged(#[from] Malformed),
    /// A newer program wrote it.
    #[error("the frame has version {0}; this program reads up to version {VERSION}")]
    Newer(u8),
    /// Its columns do not unpack.
    #[error("the columns do not unpack")]
    Packing,
}

/// The format version of chunk frames.
pub(crate) const VERSION: u8 = 1;

/// The records of one directory entry.
#[derive(Debug, Clone)]
pub(crate) enum Run {
    Samples(Rows),
    Events(Vec<Event>),
}

impl Run {
    /// Some of the records; `None` where there are fewer.
    pub(crate) fn cut(&self, part: Range<usize>) -> Option<tags::Records> {
        match self {
            Run::Samples(rows) => rows.cut(part).map(tags::Records::Samples),
            Run::Events(events) => Some(tags::Records::Events(events.get(part)?.to_vec())),
        }
    }
}

/// Records on their way into a chunk.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Records<'a> {
    Samples(&'a [&'a Sample]),
    Events(&'a [&'a Event]),
}

/// Packs chunks; keeps its memory from one chunk to the next.
pub(crate) struct Packer {
    columns: Columns,
    body: Vec<u8>,
    packed: Vec<u8>,
    /// Making one costs as much as packing a small chunk. `None` where memory was short.
    zstd: Option<Compressor<'static>>,
}

impl Default for Packer {
    fn default() -> Self {
        Self {
            columns: Columns::default(),
            body: Vec::new(),
            packed: Vec::new(),
            zstd: Compressor::new(ZSTD_LEVEL).ok(),
        }
    }
}

impl Packer {
    /// Starts the body of a chunk.
    pub(crate) fn begin(&mut self) {
        self.columns.clear();
        self.body.clear();
    }

    /// Adds the records of the next directory entry.
    pub(crate) fn run(&mut self, records: Records<'_>) {
        match records {
            Records::Samples(samples) => self.columns.run(samples),
            Records::Events(events) => {
                for event in events {
                    // Plain data with names as keys: there is nothing in it that JSON could refuse.
                    let json = serde_json::to_vec(event).unwrap_or_default();
                    put_bytes(&mut self.body, &json);
                }
            }
        }
    }

    /// Completes the chunk and returns its frame.
    pub(crate) fn finish(&mut self, header: &Header, entries: &[Entry]) -> Vec<u8> {
        if header.log == LogKind::Data {
            self.columns.finish(&mut self.body);
        }
        self.packed.clear();
        self.packed
            .reserve(zstd::zstd_safe::compress_bound(self.body.len()));
        let zstd = self.zstd.as_mut();
        let packed = zstd.map(|z| z.compress_to_buffer(&self.body, &mut self.packed));
        match packed {
            Some(Ok(len)) if len < self.body.len() => {
                frame::write(header, entries, true, self.body.len(), &self.packed)
            }
            _ => frame::write(header, entries, false, self.body.len(), &self.body),
        }
    }
}

thread_local! {
    /// Making one costs more than unpacking a small chunk.
    static UNPACKER: RefCell<Option<Decompressor<'static>>> = RefCell::new(Decompressor::new().ok());
}

/// Unpacks the records of every entry that has any, in the order of the directory.
pub(crate) fn unpack(frame: &Frame<'_>) -> Result<Vec<Run>, FrameError> {
    if !frame.packed {
        return read(frame, frame.body);
    }
    if frame.unpacked_len > UNPACKED_BYTES_MAX {
        return Err(Malformed("a length is beyond its limit").into());
    }
    UNPACKER.with_borrow_mut(|unpacker| {
        let zstd = unpacker.as_mut().ok_or(FrameError::Packing)?;
        let body = zstd
            .decompress(frame.body, frame.unpacked_len)
            .map_err(|_| FrameError::Packing)?;
        read(frame, &body)
    })
}

fn read(frame: &Frame<'_>, body: &[u8]) -> Result<Vec<Run>, FrameError> {
    let counts = frame
        .entries
        .iter()
        .filter(|e| e.void.is_none())
        .map(|e| e.count as usize);
    match frame.header.log {
        LogKind::Data => Ok(columns::read(body, counts)?),
        LogKind::Alarm => read_events(body, counts),
    }
}

fn read_events(body: &[u8], counts: impl Iterator<Item = usize>) -> Result<Vec<Run>, FrameError> {
    let mut input = Cursor::new(body);
    let mut runs = Vec::new();
    for count in counts {
        let mut events = Vec::new();
        for _ in 0..count {
            let json = input.bytes()?;
            events.push(
                serde_json::from_slice(json).map_err(|_| Malformed("an event is not readable"))?,
            );
        }
        runs.push(Run::Events(events));
    }
    Ok(runs)
}

/// The records of an appended batch, shared by the tail, the commit and the uplinks.
#[derive(Debug, Clone)]
pub(crate) enum Shared {
    Samples(Arc<Vec<Sample>>),
    Events(Arc<Vec<Event>>),
}
