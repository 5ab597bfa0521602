//! Finds frames in the raw bytes of an epoch's file, whatever else is wrong with it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use millrace_tags::{LogKind, Moment, StreamId, Timebase, Timestamp};

use crate::catalogue::{self, Catalogue};
use crate::chunk::{self, Entry, FRAME_BYTES_MAX, Frame};
use crate::patience::{Trouble, patiently};

/// How much of the file is looked at in one go.
const WINDOW_BYTES: usize = 1024 * 1024;

/// What a device reads, or does not.
const PAGE_BYTES: usize = 4096;

/// How many pages of one file are tried again before they are taken for lost.
const UNREADABLE_PAGES_TRIED: usize = 8;

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
    /// How many intact frames of a newer format version are there.
    pub(crate) newer: usize,
    /// The last chunk number that one of those claims.
    pub(crate) newer_last: u64,
}

/// What becomes of a page that the device cannot read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// The scan fails: it can be done again later.
    Fails,
    /// After some attempts the page is taken for lost: what lies around it is not.
    IsLost,
}

/// Reads the whole file. A file that is not there holds nothing.
///
/// # Errors
/// One that says nothing of the file; of the file too, where `unreadable` says so.
pub(crate) fn scan(path: &Path, log: LogKind, unreadable: Unreadable) -> io::Result<Scan> {
    let open = || File::open(path);
    let file = match unreadable {
        Unreadable::Fails => open().map(Some)?,
        Unreadable::IsLost => patiently(open)?,
    };
    let Some(file) = file else {
        return Ok(Scan {
            broken: usize::from(path.exists()),
            ..Scan::default()
        });
    };
    let mut pages = Pages {
        file,
        at: 0,
        unreadable,
        patience: UNREADABLE_PAGES_TRIED,
        lost: 0,
    };
    let mut scan = Scan::default();
    let mut claims = Vec::new();
    let mut window = Vec::with_capacity(WINDOW_BYTES + FRAME_BYTES_MAX);
    let mut base = 0u64;
    loop {
        let last = pages.read(&mut window)? == 0;
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
        .any(|&claim| claim > newest && (newest == 0 || claim - newest < TRACE_NUMBERS))
        || pages.lost > 0;
    scan.broken += pages.lost;
    Ok(scan)
}

/// A file that is read from its beginning to its end.
struct Pages {
    file: File,
    at: u64,
    unreadable: Unreadable,
    /// How many more pages are tried again: a device that takes its time for each of thousands would keep
    /// the program from starting.
    patience: usize,
    /// How many stay unreadable.
    lost: usize,
}

impl Pages {
    /// Adds the next part of the file to `window`; returns how much that was.
    fn read(&mut self, window: &mut Vec<u8>) -> io::Result<usize> {
        let begin = window.len();
        window.resize(begin + WINDOW_BYTES, 0);
        let read = match self.read_part(&mut window[begin..]) {
            Err(error) if self.skips(&error) => self.read_pages(&mut window[begin..]),
            read => read,
        };
        window.truncate(begin + read.as_ref().map_or(0, |len| *len));
        self.at += *read.as_ref().unwrap_or(&0) as u64;
        read
    }

    fn skips(&self, error: &io::Error) -> bool {
        self.unreadable == Unreadable::IsLost && Trouble::of(error) != Trouble::Gone
    }

    fn read_part(&self, part: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < part.len() {
            match self.file.read_at(&mut part[done..], self.at + done as u64) {
                Ok(0) => break,
                Ok(len) => done += len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    /// Reads page by page; one that stays unreadable is a page of zeroes.
    fn read_pages(&mut self, part: &mut [u8]) -> io::Result<usize> {
        let len = self.file.metadata()?.len().saturating_sub(self.at);
        let len = part.len().min(usize::try_from(len).unwrap_or(usize::MAX));
        for from in (0..len).step_by(PAGE_BYTES) {
            let page = &mut part[from..len.min(from + PAGE_BYTES)];
            let at = self.at + from as u64;
            let mut read = || self.file.read_exact_at(page, at);
            let read = match self.patience {
                0 => read().map_or_else(
                    |error| match Trouble::of(&error) {
                        Trouble::Passing => Err(error),
                        Trouble::Gone | Trouble::Sick => Ok(None),
                    },
                    |()| Ok(Some(())),
                ),
                _ => patiently(read),
            };
            if read?.is_none() {
                tracing::error!(at, "a page of an epoch cannot be read");
                page.fill(0);
                self.lost += 1;
                self.patience = self.patience.saturating_sub(1);
            }
        }
        Ok(len)
    }
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
                    Err(chunk::FrameError::Newer(_)) => {
                        self.newer += 1;
                        let claim = chunk::claimed_number(bytes);
                        self.newer_last = self.newer_last.max(claim.unwrap_or(0));
                        claims.extend(claim);
                    }
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
                    Err(catalogue::NEWER) => self.newer += 1,
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
