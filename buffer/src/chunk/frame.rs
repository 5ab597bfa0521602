//! The frame of a chunk: header, directory, and the checksum over all of it.

use millrace_tags::{BootId, DropReason, LogKind, Moment, SourceId, StreamId, Timebase};
use uuid::Uuid;

use super::{FrameError, RECORDS_MAX, VERSION};
use crate::wire::{Cursor, Malformed, put_varint};

/// What a chunk frame begins with; the first byte is rare in compressed data and absent from text.
pub(crate) const MAGIC: [u8; 4] = [0xF1, b'M', b'R', b'c'];

/// Length of the fixed part: everything before the directory.
pub(crate) const HEADER_BYTES: usize = 86;

/// No frame is longer; what claims to be is damaged.
pub(crate) const FRAME_BYTES_MAX: usize = 124 * 1024;

const CHECKSUM_AT: usize = HEADER_BYTES - 4;
const FLAG_ALARM: u8 = 1;
const FLAG_PACKED: u8 = 2;
const FLAG_OFFSET_KNOWN: u8 = 4;

/// What a chunk says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) log: LogKind,
    /// The chunk's number in its log.
    pub(crate) number: u64,
    /// How many chunk numbers it stands for: more than one where chunks were merged.
    pub(crate) span: u32,
    pub(crate) stream: StreamId,
    /// Ties all moments of the chunk to UTC.
    pub(crate) timebase: Timebase,
    /// The newest moment in the chunk, for retention by age.
    pub(crate) newest: Moment,
}

impl Header {}

/// Consecutive numbers of one source in a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) source: SourceId,
    pub(crate) first: u64,
    pub(crate) count: u64,
    /// How far beyond this entry's last number numbers may have been published.
    pub(crate) ahead: u64,
    /// Numbers that never come, and why; such an entry has no columns.
    pub(crate) void: Option<DropReason>,
}

impl Entry {
    pub(crate) fn last(&self) -> u64 {
        self.first.saturating_add(self.count - 1)
    }
}

/// A frame, taken apart and checked.
#[derive(Debug, Clone)]
pub(crate) struct Frame<'a> {
    pub(crate) header: Header,
    pub(crate) entries: Vec<Entry>,
    pub(super) packed: bool,
    pub(crate) unpacked_len: usize,
    pub(super) body: &'a [u8],
    /// Length of the whole frame.
    pub(crate) len: usize,
}

/// The stored number of a reason.
pub(crate) fn reason_code(reason: DropReason) -> u8 {
    match reason {
        DropReason::Crash => 1,
        DropReason::Full => 2,
        DropReason::Age => 3,
        DropReason::Newest => 4,
        DropReason::Damage => 5,
        DropReason::Purged => 6,
        DropReason::Poison => 7,
        DropReason::BeforeStart => 8,
        DropReason::NotRouted => 9,
    }
}

/// The reason of a stored number.
pub(crate) fn reason_from_code(code: u8) -> Option<DropReason> {
    Some(match code {
        1 => DropReason::Crash,
        2 => DropReason::Full,
        3 => DropReason::Age,
        4 => DropReason::Newest,
        5 => DropReason::Damage,
        6 => DropReason::Purged,
        7 => DropReason::Poison,
        8 => DropReason::BeforeStart,
        9 => DropReason::NotRouted,
        _ => return None,
    })
}

pub(super) fn write(
    header: &Header,
    entries: &[Entry],
    packed: bool,
    unpacked_len: usize,
    body: &[u8],
) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_BYTES + entries.len() * 8 + body.len());
    let mut directory = Vec::with_capacity(entries.len() * 8);
    for entry in entries {
        put_varint(&mut directory, u64::from(entry.source.0));
        directory.push(entry.void.map_or(0, reason_code));
        put_varint(&mut directory, entry.first);
        put_varint(&mut directory, entry.count);
        put_varint(&mut directory, entry.ahead);
    }
    let mut flags = 0;
    if header.log == LogKind::Alarm {
        flags |= FLAG_ALARM;
    }
    if packed {
        flags |= FLAG_PACKED;
    }
    if header.timebase.offset_ns.is_some() {
        flags |= FLAG_OFFSET_KNOWN;
    }
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&[VERSION, flags]);
    out.extend_from_slice(&header.number.to_le_bytes());
    out.extend_from_slice(&header.span.to_le_bytes());
    out.extend_from_slice(header.stream.0.as_bytes());
    out.extend_from_slice(header.timebase.boot.0.as_bytes());
    out.extend_from_slice(&header.timebase.offset_ns.unwrap_or(0).to_le_bytes());
    out.extend_from_slice(&header.newest.0.to_le_bytes());
    for len in [entries.len(), directory.len(), unpacked_len, body.len(), 0] {
        // None of them comes near four gigabytes: a chunk is cut long before.
        out.extend_from_slice(&(len as u32).to_le_bytes());
    }
    out.extend_from_slice(&directory);
    out.extend_from_slice(body);
    let checksum = crc32c::crc32c(&out);
    out[CHECKSUM_AT..HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
    out
}

/// The chunk number that a damaged frame at the start of `bytes` claims to have.
pub(crate) fn claimed_number(bytes: &[u8]) -> Option<u64> {
    let mut input = Cursor::new(bytes);
    (input.array::<4>().ok()? == MAGIC).then_some(())?;
    input.take(2).ok()?;
    input.u64().ok()
}

impl<'a> Frame<'a> {
    /// Takes apart the frame at the start of `bytes`; more may follow it.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, FrameError> {
        let mut input = Cursor::new(bytes);
        if input.array::<4>()? != MAGIC {
            return Err(Malformed("the magic is missing").into());
        }
        let (version, flags) = (input.u8()?, input.u8()?);
        let (number, span) = (input.u64()?, input.u32()?);
        let stream = StreamId(Uuid::from_bytes(input.array()?));
        let boot = BootId(Uuid::from_bytes(input.array()?));
        let (offset, newest) = (input.i64()?, Moment(input.i64()?));
        let entry_count = input.u32()? as usize;
        let directory_len = input.u32()? as usize;
        let unpacked_len = input.u32()? as usize;
        let body_len = input.u32()? as usize;
        let stored = input.u32()?;
        let len = HEADER_BYTES
            .saturating_add(directory_len)
            .saturating_add(body_len);
        if len > FRAME_BYTES_MAX {
            return Err(Malformed("a length is beyond its limit").into());
        }
        let directory = input.take(directory_len)?;
        let body = input.take(body_len)?;
        if checksum(bytes, len) != stored {
            return Err(Malformed("the checksum does not match").into());
        }
        // Only now is the version what the writer wrote.
        if version > VERSION {
            return Err(FrameError::Newer(version));
        }
        if span == 0 {
            return Err(Malformed("it stands for no chunk number").into());
        }
        let header = Header {
            log: match flags & FLAG_ALARM {
                0 => LogKind::Data,
                _ => LogKind::Alarm,
            },
            number,
            span,
            stream,
            timebase: Timebase {
                boot,
                offset_ns: (flags & FLAG_OFFSET_KNOWN != 0).then_some(offset),
            },
            newest,
        };
        Ok(Self {
            header,
            entries: read_directory(directory, entry_count)?,
            packed: flags & FLAG_PACKED != 0,
            unpacked_len,
            body,
            len,
        })
    }
}

/// The checksum over the frame, its own field taken as zero.
fn checksum(bytes: &[u8], len: usize) -> u32 {
    let head = crc32c::crc32c(&bytes[..CHECKSUM_AT]);
    let field = crc32c::crc32c_append(head, &[0; 4]);
    crc32c::crc32c_append(field, &bytes[HEADER_BYTES..len])
}

fn read_directory(bytes: &[u8], count: usize) -> Result<Vec<Entry>, Malformed> {
    let mut input = Cursor::new(bytes);
    let mut entries = Vec::with_capacity(count.min(bytes.len()));
    let mut records = 0u64;
    for _ in 0..count {
        let source = SourceId(input.varint32()?);
        let void = match input.u8()? {
            0 => None,
            code => Some(reason_from_code(code).ok_or(Malformed("an unknown reason"))?),
        };
        let entry = Entry {
            source,
            void,
            first: input.varint()?,
            count: input.varint()?,
            ahead: input.varint()?,
        };
        if entry.first == 0 || entry.count == 0 || entry.first.checked_add(entry.count).is_none() {
            return Err(Malformed("a directory entry has no numbers"));
        }
        if entry.void.is_none() {
            records = records.saturating_add(entry.count);
        }
        entries.push(entry);
    }
    if records > RECORDS_MAX as u64 {
        return Err(Malformed("a chunk has too many records"));
    }
    Ok(entries)
}
