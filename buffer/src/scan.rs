//! Finds frames in the raw bytes of an epoch's file, whatever else is wrong with it.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use millrace_tags::{LogKind, Moment, StreamId, Timebase, Timestamp};

use crate::catalogue::{self, Catalogue};
use crate::chunk::{self, Entry, FRAME_BYTES_MAX, Frame};

/// How much of the file is looked at in one go.
const WINDOW_BYTES: usize = 1024 * 1024;

/// A broken frame counts as a trace of a newer commit only if its number is this close: anything
/// further is noise that happens to look like a frame.
const TRACE_NUMBERS: u64 = 4096;

/// A chunk that was found intact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) number: u64,
    pub(crate) span: u32,
    pub(crate) offset: u64,
    pub(crate) len: u32,
    pub(crate) stream: StreamId,
    /// Ties its moments to UTC.
    pub(crate) timebase: Timebase,
    /// Its newest record.
    pub(crate) newest: Moment,
    pub(crate) entries: Vec<Entry>,
}

impl Found {
    /// What a frame says of itself, wherever it came from.
    pub(crate) fn of(frame: &Frame<'_>) -> Self {
        Self {
            number: frame.header.number,
            span: frame.header.span,
            offset: 0,
            len: frame.len as u32,
            stream: frame.header.stream,
            timebase: frame.header.timebase,
            newest: frame.header.newest,
            entries: frame.entries.clone(),
        }
    }

    /// Time of its newest record, where the clock was known.
    pub(crate) fn utc(&self) -> Option<Timestamp> {
        self.timebase.utc(self.newest)
    }

    pub(crate) fn last_number(&self) -> u64 {
        self.number.saturating_add(u64::from(self.span) - 1)
    }
}

/// What a file holds.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// By ascending number, each once.
    pub(crate) chunks: Vec<Found>,
    pub(crate) catalogue: Catalogue,
    /// Where the catalogue frames are.
    pub(crate) catalogue_at: Vec<(u64, u32)>,
    /// Frames that begin like one and are not intact.
    pub(crate) broken: usize,
    /// Whether one of them may be newer than every intact chunk.
    pub(crate) broken_newer: bool,
    /// Whether a frame of a newer format version is there.
    pub(crate) newer_format: bool,
}

/// Reads the whole file.
pub(crate) fn scan(path: &Path, log: LogKind) -> io::Result<Scan> {
    let mut file = File::open(path)?;
    let mut scan = Scan::default();
    let mut claims = Vec::new();
    let mut window = Vec::with_capacity(WINDOW_BYTES + FRAME_BYTES_MAX);
    let mut base = 0u64;
    loop {
        let read = (&mut file)
            .take(WINDOW_BYTES as u64)
            .read_to_end(&mut window)?;
        let last = read == 0;
        // A frame that begins before this position lies in the window completely.
        let safe = match last {
            true => window.len(),
            false => window.len().saturating_sub(FRAME_BYTES_MAX),
        };
        let done = scan.window(&window, safe, base, log, &mut claims);
        window.drain(..done);
        base += done as u64;
        if last {
            break;
        }
    }
    scan.chunks.sort_by_key(|c| c.number);
    scan.chunks.dedup_by_key(|c| c.number);
    let newest = scan.chunks.last().map_or(0, Found::last_number);
    scan.broken_newer = claims
        .iter()
        .any(|&claim| claim > newest && (newest == 0 || claim - newest < TRACE_NUMBERS));
    Ok(scan)
}

impl Scan {
    /// Looks for frames that begin before `safe`; returns how many bytes are dealt with.
    fn window(
        &mut self,
        window: &[u8],
        safe: usize,
        base: u64,
        log: LogKind,
        claims: &mut Vec<u64>,
    ) -> usize {
        let mut at = 0;
        while at < safe {
            let Some(step) = window[at..safe].iter().position(|&b| b == chunk::MAGIC[0]) else {
                return safe.max(at);
            };
            at += step;
            let bytes = &window[at..];
            let offset = base + at as u64;
            if bytes.starts_with(&chunk::MAGIC) {
                match Frame::parse(bytes) {
                    Ok(frame) if frame.header.log == log => {
                        at += frame.len;
                        self.chunk(frame, offset);
                        continue;
                    }
                    Ok(_) => {}
                    Err(chunk::FrameError::Newer(_)) => self.newer_format = true,
                    Err(_) => {
                        self.broken += 1;
                        claims.extend(chunk::claimed_number(bytes));
                    }
                }
            } else if bytes.starts_with(&catalogue::MAGIC) {
                match Catalogue::parse(bytes) {
                    Ok((of, part, len)) if of == log => {
                        self.catalogue.extend(part);
                        self.catalogue_at.push((offset, len as u32));
                        at += len;
                        continue;
                    }
                    Ok(_) => {}
                    Err(_) => self.broken += 1,
                }
            }
            at += 1;
        }
        at
    }

    fn chunk(&mut self, frame: Frame<'_>, offset: u64) {
        self.chunks.push(Found {
            offset,
            ..Found::of(&frame)
        });
    }
}
