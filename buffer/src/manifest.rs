//! The manifest of a sealed epoch: what it holds, where, and which numbers of which source.
//!
//! Two sections, each with its own checksum: a summary that is read when the buffer opens, and a table
//! of all chunks with their directories that is read when the epoch is drained, removed or recounted.
//! A manifest that is lost or damaged is made again from the epoch's file (`again.rs`).

mod again;

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use millrace_tags::{BootId, DropReason, Moment, SourceId, StreamId, Timebase, Timestamp};
use uuid::Uuid;

use crate::chunk::{Entry, reason_code, reason_from_code};
use crate::epoch::{StoreError, log_file, sync_directory};
use crate::patience::patiently;
use crate::scan::{Found, Scan};
use crate::wire::{Cursor, Malformed, put_bytes, put_signed, put_varint};

pub(crate) use again::{restored, seal, summarise};

const MAGIC: [u8; 4] = [0xF1, b'M', b'R', b'm'];
const VERSION: u8 = 1;
pub(crate) const FILE: &str = "manifest";

/// A section that claims to be longer is damaged: a 64 MiB epoch of the smallest chunks needs a tenth.
const SECTION_BYTES_MAX: usize = 64 * 1024 * 1024;

/// One source's numbers in an epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) stream: StreamId,
    pub(crate) source: SourceId,
    /// Empty where the catalogue frame was lost.
    pub(crate) name: Arc<str>,
    /// The last number before the epoch.
    pub(crate) base: u64,
    /// The last number in it.
    pub(crate) end: u64,
    /// The last number that may have been published.
    pub(crate) limit: u64,
    pub(crate) records: u64,
    pub(crate) voids: Vec<(DropReason, u64)>,
}

impl Line {}

/// What an epoch says of the time of one boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BootTimes {
    /// The boot, with the offset of the first chunk that has one.
    pub(crate) first: Timebase,
    /// The newest record that was stored before the clock was set.
    pub(crate) newest_unset: Option<Moment>,
}

/// What an epoch holds, in sums.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Summary {
    pub(crate) first: u64,
    pub(crate) last: u64,
    /// Chunk numbers that it holds; a merged chunk counts for all that it stands for.
    pub(crate) chunks: u64,
    /// It was made of other epochs, and is not merged again.
    pub(crate) merged: bool,
    /// Length of the file when it was sealed.
    pub(crate) file_len: u64,
    /// Time of the newest record whose time was known when it was stored.
    pub(crate) newest: Option<Timestamp>,
    /// The boots that wrote it.
    pub(crate) boots: Vec<BootTimes>,
    /// The stream of the newest chunk.
    pub(crate) stream: Option<StreamId>,
    pub(crate) lines: Vec<Line>,
}

/// All that is known of a sealed epoch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Manifest {
    pub(crate) summary: Summary,
    pub(crate) table: Table,
}

/// Where the frames are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Table {
    pub(crate) chunks: Vec<Found>,
    pub(crate) catalogues: Vec<(u64, u32)>,
}

impl Manifest {
    /// Sums up what a scan of the epoch's file has found.
    pub(crate) fn of(scan: &Scan, first: u64, file_len: u64) -> Self {
        let mut lines: BTreeMap<(StreamId, SourceId), Line> = BTreeMap::new();
        let names = &scan.catalogue.sources;
        for source in names {
            let Some(stream) = scan.catalogue.stream else {
                continue;
            };
            let line = Line {
                stream,
                source: source.id,
                name: source.name.clone(),
                base: source.last,
                end: source.last,
                limit: source.limit,
                records: 0,
                voids: Vec::new(),
            };
            lines.insert((stream, source.id), line);
        }
        for chunk in &scan.chunks {
            for entry in &chunk.entries {
                let line = lines
                    .entry((chunk.stream, entry.source))
                    .or_insert_with(|| {
                        let known = names.iter().find(|s| s.id == entry.source);
                        Line {
                            stream: chunk.stream,
                            source: entry.source,
                            name: known.map_or_else(|| "".into(), |s| s.name.clone()),
                            base: entry.first - 1,
                            end: entry.first - 1,
                            limit: 0,
                            records: 0,
                            voids: Vec::new(),
                        }
                    });
                line.add(entry);
            }
        }
        Self {
            summary: Summary {
                first,
                last: scan.chunks.last().map_or(first, Found::last_number),
                chunks: scan.chunks.iter().map(|c| u64::from(c.span)).sum(),
                merged: scan.chunks.iter().any(|c| c.span > 1),
                file_len,
                newest: scan.chunks.iter().filter_map(Found::utc).max(),
                boots: boots(&scan.chunks),
                stream: scan.chunks.last().map(|c| c.stream),
                lines: lines.into_values().collect(),
            },
            table: Table {
                chunks: scan.chunks.clone(),
                catalogues: scan.catalogue_at.clone(),
            },
        }
    }

    /// Writes it beside the epoch's file, durably.
    pub(crate) fn write(&self, epoch_dir: &Path) -> Result<(), StoreError> {
        let mut out = MAGIC.to_vec();
        out.push(VERSION);
        put_section(&mut out, &self.summary.to_bytes());
        put_section(&mut out, &self.table.to_bytes());
        let fresh = epoch_dir.join("manifest.new");
        let path = path(epoch_dir);
        File::create(&fresh)
            .and_then(|mut file| {
                file.write_all(&out)?;
                file.sync_all()
            })
            .and_then(|()| fs::rename(&fresh, &path))
            .map_err(StoreError::io("cannot write", &path))?;
        sync_directory(epoch_dir)
    }

    /// Writes it where that is possible: it is only a shortcut, without it the epoch is scanned when the
    /// buffer opens.
    pub(crate) fn write_or_warn(&self, epoch_dir: &Path) {
        if let Err(error) = self.write(epoch_dir) {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "an epoch has no manifest");
        }
    }

    /// Reads both sections; `None` where one of them is lost.
    ///
    /// # Errors
    /// One that says nothing of the file.
    pub(crate) fn read(epoch_dir: &Path) -> Result<Option<Manifest>, StoreError> {
        let path = path(epoch_dir);
        let bytes = patiently(|| fs::read(&path)).map_err(StoreError::io("cannot read", &path))?;
        Ok(bytes.and_then(|bytes| Self::from_bytes(&bytes)))
    }

    fn from_bytes(bytes: &[u8]) -> Option<Manifest> {
        let mut input = sections(bytes)?;
        let summary = Summary::from_bytes(section(&mut input).ok()?).ok()?;
        let table = Table::from_bytes(section(&mut input).ok()?).ok()?;
        Some(Manifest { summary, table })
    }
}

fn boots(chunks: &[Found]) -> Vec<BootTimes> {
    let mut boots: Vec<BootTimes> = Vec::new();
    for chunk in chunks {
        let boot = chunk.timebase.boot;
        let at = boots.iter().position(|b| b.first.boot == boot);
        let at = at.unwrap_or_else(|| {
            boots.push(BootTimes {
                first: chunk.timebase,
                newest_unset: None,
            });
            boots.len() - 1
        });
        let times = &mut boots[at];
        match chunk.timebase.offset_ns {
            None => times.newest_unset = times.newest_unset.max(Some(chunk.newest)),
            known => times.first.offset_ns = times.first.offset_ns.or(known),
        }
    }
    boots
}

impl Line {
    fn add(&mut self, entry: &Entry) {
        self.end = self.end.max(entry.last());
        self.limit = entry.last().saturating_add(entry.ahead);
        match entry.void {
            None => self.records += entry.count,
            Some(reason) => match self.voids.iter_mut().find(|(r, _)| *r == reason) {
                Some((_, count)) => *count += entry.count,
                None => self.voids.push((reason, entry.count)),
            },
        }
    }
}

fn path(epoch_dir: &Path) -> PathBuf {
    epoch_dir.join(FILE)
}

fn put_section(out: &mut Vec<u8>, body: &[u8]) {
    out.extend_from_slice(&(body.len() as u32).to_le_bytes());
    out.extend_from_slice(&crc32c::crc32c(body).to_le_bytes());
    out.extend_from_slice(body);
}

fn sections(bytes: &[u8]) -> Option<Cursor<'_>> {
    let mut input = Cursor::new(bytes);
    (input.array::<4>().ok()? == MAGIC && input.u8().ok()? <= VERSION).then_some(input)
}

fn section<'a>(input: &mut Cursor<'a>) -> Result<&'a [u8], Malformed> {
    let (len, checksum) = (input.u32()? as usize, input.u32()?);
    let body = input.take(len)?;
    if crc32c::crc32c(body) != checksum {
        return Err(Malformed("the checksum does not match"));
    }
    Ok(body)
}

impl Summary {
    /// What was stored before a clock was set, by boot.
    pub(crate) fn undated(&self) -> Vec<(BootId, Moment)> {
        let boots = self.boots.iter();
        boots
            .filter_map(|b| Some((b.first.boot, b.newest_unset?)))
            .collect()
    }

    /// All records of the epoch.
    pub(crate) fn records(&self) -> u64 {
        self.lines.iter().map(|l| l.records).sum()
    }

    /// Reads the first section only, if it is intact and belongs to this file.
    ///
    /// # Errors
    /// One that says nothing of the file.
    pub(crate) fn read(epoch_dir: &Path) -> Result<Option<Summary>, StoreError> {
        let path = path(epoch_dir);
        let read = patiently(|| Self::read_once(epoch_dir));
        let read = read.map_err(StoreError::io("cannot read", &path))?;
        Ok(read.flatten())
    }

    fn read_once(epoch_dir: &Path) -> io::Result<Option<Summary>> {
        // One call of the system each, where there are thousands.
        let mut file = BufReader::new(File::open(path(epoch_dir))?);
        let mut head = [0; 13];
        file.read_exact(&mut head)?;
        let Some((len, stored)) = Self::head(&head) else {
            return Ok(None);
        };
        let mut body = Vec::new();
        file.take(len as u64).read_to_end(&mut body)?;
        if crc32c::crc32c(&body) != stored {
            return Ok(None);
        }
        let len = fs::metadata(log_file(epoch_dir))?.len();
        let summary = Summary::from_bytes(&body).ok();
        Ok(summary.filter(|summary| summary.file_len == len))
    }

    /// Length and checksum of the first section.
    fn head(head: &[u8]) -> Option<(usize, u32)> {
        let mut input = sections(head)?;
        let (len, stored) = (input.u32().ok()? as usize, input.u32().ok()?);
        (len <= SECTION_BYTES_MAX).then_some((len, stored))
    }

    /// How many numbers it holds, those that never come included.
    pub(crate) fn numbers(&self) -> u64 {
        let voids = |line: &Line| line.voids.iter().map(|(_, count)| *count).sum::<u64>();
        self.lines.iter().map(|l| l.records + voids(l)).sum()
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for n in [self.first, self.last, self.chunks, self.file_len] {
            put_varint(&mut out, n);
        }
        out.push(u8::from(self.merged));
        out.push(u8::from(self.newest.is_some()));
        put_signed(&mut out, self.newest.map_or(0, |t| t.0));
        out.push(u8::from(self.stream.is_some()));
        out.extend_from_slice(self.stream.unwrap_or(StreamId(Uuid::nil())).0.as_bytes());
        put_varint(&mut out, self.boots.len() as u64);
        for boot in &self.boots {
            put_timebase(&mut out, boot.first);
            put_optional(&mut out, boot.newest_unset.map(|m| m.0));
        }
        for line in &self.lines {
            out.extend_from_slice(line.stream.0.as_bytes());
            put_varint(&mut out, u64::from(line.source.0));
            put_bytes(&mut out, line.name.as_bytes());
            for n in [line.base, line.end, line.limit, line.records] {
                put_varint(&mut out, n);
            }
            put_varint(&mut out, line.voids.len() as u64);
            for (reason, count) in &line.voids {
                out.push(reason_code(*reason));
                put_varint(&mut out, *count);
            }
        }
        out
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut input = Cursor::new(bytes);
        let mut summary = Summary {
            first: input.varint()?,
            last: input.varint()?,
            chunks: input.varint()?,
            file_len: input.varint()?,
            ..Summary::default()
        };
        summary.merged = input.u8()? == 1;
        let known = input.u8()? == 1;
        let newest = Timestamp(input.signed()?);
        summary.newest = known.then_some(newest);
        let known = input.u8()? == 1;
        let stream = stream(&mut input)?;
        summary.stream = known.then_some(stream);
        for _ in 0..input.varint()? {
            summary.boots.push(BootTimes {
                first: timebase(&mut input)?,
                newest_unset: optional(&mut input)?.map(Moment),
            });
        }
        while !input.is_empty() {
            summary.lines.push(read_line(&mut input)?);
        }
        Ok(summary)
    }
}

fn stream(input: &mut Cursor<'_>) -> Result<StreamId, Malformed> {
    Ok(StreamId(Uuid::from_bytes(input.array()?)))
}

fn put_optional(out: &mut Vec<u8>, number: Option<i64>) {
    out.push(u8::from(number.is_some()));
    put_signed(out, number.unwrap_or(0));
}

fn optional(input: &mut Cursor<'_>) -> Result<Option<i64>, Malformed> {
    let known = input.u8()? == 1;
    let number = input.signed()?;
    Ok(known.then_some(number))
}

fn put_timebase(out: &mut Vec<u8>, timebase: Timebase) {
    out.extend_from_slice(timebase.boot.0.as_bytes());
    put_optional(out, timebase.offset_ns);
}

fn timebase(input: &mut Cursor<'_>) -> Result<Timebase, Malformed> {
    Ok(Timebase {
        boot: BootId(Uuid::from_bytes(input.array()?)),
        offset_ns: optional(input)?,
    })
}

fn reason(input: &mut Cursor<'_>) -> Result<DropReason, Malformed> {
    reason_from_code(input.u8()?).ok_or(Malformed("an unknown reason"))
}

fn read_line(input: &mut Cursor<'_>) -> Result<Line, Malformed> {
    let mut line = Line {
        stream: stream(input)?,
        source: SourceId(input.varint32()?),
        name: input.text()?.into(),
        base: input.varint()?,
        end: input.varint()?,
        limit: input.varint()?,
        records: input.varint()?,
        voids: Vec::new(),
    };
    for _ in 0..input.varint()? {
        line.voids.push((reason(input)?, input.varint()?));
    }
    Ok(line)
}

impl Table {
    fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_varint(&mut out, self.catalogues.len() as u64);
        for (offset, len) in &self.catalogues {
            put_varint(&mut out, *offset);
            put_varint(&mut out, u64::from(*len));
        }
        let mut streams: Vec<StreamId> = Vec::new();
        let mut timebases: Vec<Timebase> = Vec::new();
        for chunk in &self.chunks {
            put_varint(&mut out, chunk.number);
            put_varint(&mut out, u64::from(chunk.span));
            put_varint(&mut out, chunk.offset);
            put_varint(&mut out, u64::from(chunk.len));
            put_signed(&mut out, chunk.newest.0);
            // A timebase and a stream are written in full where they come first, and by their position
            // from then on.
            let known = timebases.iter().rposition(|t| *t == chunk.timebase);
            put_varint(&mut out, known.map_or(0, |at| at as u64 + 1));
            if known.is_none() {
                put_timebase(&mut out, chunk.timebase);
                timebases.push(chunk.timebase);
            }
            let known = streams.iter().position(|s| *s == chunk.stream);
            put_varint(&mut out, known.map_or(0, |at| at as u64 + 1));
            if known.is_none() {
                out.extend_from_slice(chunk.stream.0.as_bytes());
                streams.push(chunk.stream);
            }
            put_varint(&mut out, chunk.entries.len() as u64);
            for entry in &chunk.entries {
                put_varint(&mut out, u64::from(entry.source.0));
                put_varint(&mut out, entry.first);
                put_varint(&mut out, entry.count);
                put_varint(&mut out, entry.ahead);
                out.push(entry.void.map_or(0, reason_code));
            }
        }
        out
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut input = Cursor::new(bytes);
        let mut table = Table::default();
        for _ in 0..input.varint()? {
            table.catalogues.push((input.varint()?, input.varint32()?));
        }
        let mut streams: Vec<StreamId> = Vec::new();
        let mut timebases: Vec<Timebase> = Vec::new();
        let mut seen = HashSet::new();
        while !input.is_empty() {
            let (number, span) = (input.varint()?, input.varint32()?);
            let (offset, len) = (input.varint()?, input.varint32()?);
            let newest = Moment(input.signed()?);
            let at = input.length(timebases.len())?;
            if at == 0 {
                timebases.push(timebase(&mut input)?);
            }
            let timebase = timebases[if at == 0 { timebases.len() } else { at } - 1];
            let at = input.length(streams.len())?;
            if at == 0 {
                streams.push(stream(&mut input)?);
            }
            let stream = streams[if at == 0 { streams.len() } else { at } - 1];
            let mut entries = Vec::new();
            for _ in 0..input.varint()? {
                entries.push(read_entry(&mut input)?);
            }
            if span == 0 || !seen.insert(number) {
                return Err(Malformed("a chunk is listed twice"));
            }
            table.chunks.push(Found {
                number,
                span,
                offset,
                len,
                stream,
                timebase,
                newest,
                entries,
            });
        }
        Ok(table)
    }
}

fn read_entry(input: &mut Cursor<'_>) -> Result<Entry, Malformed> {
    let entry = Entry {
        source: SourceId(input.varint32()?),
        first: input.varint()?,
        count: input.varint()?,
        ahead: input.varint()?,
        void: match input.u8()? {
            0 => None,
            code => Some(reason_from_code(code).ok_or(Malformed("an unknown reason"))?),
        },
    };
    if entry.first == 0 || entry.count == 0 {
        return Err(Malformed("a directory entry has no numbers"));
    }
    Ok(entry)
}
