//! What is stored, as rows for people and other programs: `buffer peek` and `buffer export`.
//!
//! The same code runs in the agent, where an engineer may not read the data directory, and in the
//! command line on the store of a stopped agent. Nothing is held in memory but one chunk. What is not
//! committed yet is not there yet.

mod csv;
mod exact;

use std::io::{self, Write};

use millrace_buffer::{Archive, Order, Piece, Progress, Selection};
use millrace_tags::{LogKind, Moment, Records, Timestamp};
use millrace_uplink::codec;
use serde::{Deserialize, Serialize};

use crate::config::Pattern;
pub(crate) use exact::ExactSample;

/// Which records, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Request {
    /// Which log.
    pub(crate) log: LogKind,
    /// How to write them.
    pub(crate) format: Format,
    /// Sources by pattern.
    pub(crate) source: Option<String>,
    /// Tags by pattern of their full name.
    pub(crate) tag: Option<String>,
    /// Not before, Unix nanoseconds.
    pub(crate) from: Option<i64>,
    /// Not after.
    pub(crate) to: Option<i64>,
    /// Only so many.
    pub(crate) count: Option<usize>,
    /// Of those, the newest instead of the oldest. They come in order of time, too.
    #[serde(default)]
    pub(crate) newest: bool,
}

/// Which chunks to list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ChunksRequest {
    /// Which log.
    pub(crate) log: LogKind,
    /// Only so many.
    pub(crate) count: usize,
    /// Of those, the newest instead of the oldest.
    #[serde(default)]
    pub(crate) newest: bool,
}

/// How records are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    /// A heading, then one line a record
    Csv,
    /// One JSON object a line, with the members that the record has in a message of profile `generic`
    Jsonl,
    /// Samples as this program reads them again, bit for bit
    #[value(skip)]
    Exact,
}

/// What came of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// Records that were written.
    pub(crate) records: u64,
    /// Records that were left out because their time is not known and limits were asked for.
    pub(crate) undated: u64,
    /// Chunks that could not be read.
    pub(crate) damaged_chunks: u64,
    /// Epochs that a newer program wrote, and this one cannot read.
    #[serde(default)]
    pub(crate) newer_epochs: u64,
}

/// Most records that `count` may ask for: they are held in memory.
pub(crate) const COUNT_MAX: usize = 10_000;

/// A record that was asked for, written already.
struct Row {
    chunk: u64,
    time: Moment,
    line: Vec<u8>,
}

/// Writes what the request asks for; tells `progress` after each piece.
///
/// # Errors
/// Where `out` cannot be written.
pub(crate) fn write(
    archive: &Archive,
    request: &Request,
    out: &mut impl Write,
    mut progress: impl FnMut(Progress, u64),
) -> io::Result<Outcome> {
    let filter = Filter::new(request);
    let source = |name: &str| filter.source(name);
    let mut reading = archive.read(Selection {
        log: request.log,
        order: match request.newest {
            true => Order::NewestFirst,
            false => Order::OldestFirst,
        },
        source: &source,
        from: request.from.map(Timestamp),
    });
    let mut outcome = Outcome::default();
    let mut line = Vec::new();
    if request.format == Format::Csv {
        out.write_all(csv::heading(request.log).as_bytes())?;
    }
    if let Some(count) = request.count {
        for row in rows(&mut reading, &filter, request, count.min(COUNT_MAX)) {
            out.write_all(&row.line)?;
            outcome.records += 1;
        }
    } else {
        while let Some(piece) = reading.next() {
            for at in 0..piece.parcel.records.len() {
                match filter.record(&piece, at) {
                    Fit::Yes => {
                        line.clear();
                        write_line(&mut line, request.format, &piece, at);
                        out.write_all(&line)?;
                        outcome.records += 1;
                    }
                    Fit::Undated => outcome.undated += 1,
                    Fit::No => {}
                }
            }
            progress(reading.progress(), outcome.records);
        }
    }
    outcome.damaged_chunks = reading.progress().damaged_chunks;
    outcome.newer_epochs = archive.newer_epochs(request.log);
    out.flush()?;
    Ok(outcome)
}

/// Lists chunks as JSON, one a line, by number.
///
/// # Errors
/// Where `out` cannot be written.
pub(crate) fn write_chunks(
    archive: &Archive,
    request: &ChunksRequest,
    out: &mut impl Write,
) -> io::Result<Outcome> {
    let order = match request.newest {
        true => Order::NewestFirst,
        false => Order::OldestFirst,
    };
    let chunks = archive.chunks(request.log, order);
    let mut chunks: Vec<_> = chunks.take(request.count.min(COUNT_MAX)).collect();
    chunks.sort_by_key(|chunk| chunk.chunk);
    for chunk in &chunks {
        serde_json::to_writer(&mut *out, chunk)?;
        out.write_all(b"\n")?;
    }
    out.flush()?;
    Ok(Outcome {
        records: chunks.len() as u64,
        newer_epochs: archive.newer_epochs(request.log),
        ..Outcome::default()
    })
}

/// The first or last `count` records, in order of time.
fn rows(
    reading: &mut impl Iterator<Item = Piece>,
    filter: &Filter,
    request: &Request,
    count: usize,
) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for piece in reading {
        // Sources that were stored together lie side by side in a chunk: it is taken as a whole.
        let complete = rows.last().is_some_and(|row| row.chunk != piece.chunk);
        if complete && rows.len() >= count {
            break;
        }
        for at in 0..piece.parcel.records.len() {
            if filter.record(&piece, at) == Fit::Yes {
                let mut line = Vec::new();
                write_line(&mut line, request.format, &piece, at);
                rows.push(Row {
                    chunk: piece.chunk,
                    time: moment(&piece, at),
                    line,
                });
            }
        }
    }
    // Moments of one boot compare, and chunks of different boots lie one after the other.
    rows.sort_by_key(|row| (row.chunk, row.time));
    if request.newest {
        rows.drain(..rows.len().saturating_sub(count));
    } else {
        rows.truncate(count);
    }
    rows
}

fn write_line(line: &mut Vec<u8>, format: Format, piece: &Piece, at: usize) {
    match format {
        Format::Csv => csv::line(line, &piece.parcel, at),
        Format::Jsonl => codec::json::line(line, &piece.parcel, at),
        Format::Exact => exact::line(line, &piece.parcel, at),
    }
    line.push(b'\n');
}

/// Whether a record was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fit {
    Yes,
    No,
    /// Its time is not known, and it would have to be.
    Undated,
}

struct Filter {
    source: Option<Pattern>,
    tag: Option<Pattern>,
    from: Option<i64>,
    to: Option<i64>,
}

impl Filter {
    fn new(request: &Request) -> Self {
        Self {
            source: request.source.as_ref().map(Pattern::new),
            tag: request.tag.as_ref().map(Pattern::new),
            from: request.from,
            to: request.to,
        }
    }

    fn source(&self, name: &str) -> bool {
        self.source.as_ref().is_none_or(|p| p.matches(name))
    }

    fn record(&self, piece: &Piece, at: usize) -> Fit {
        let parcel = &piece.parcel;
        if let (Some(pattern), Records::Samples(samples)) = (&self.tag, &parcel.records) {
            let tag = samples.get(at).and_then(|s| parcel.tags.get(s.tag));
            let name = tag.map_or("", |tag| &tag.name);
            if !pattern.matches(&format!("{}/{name}", parcel.source)) {
                return Fit::No;
            }
        }
        if self.from.is_none() && self.to.is_none() {
            return Fit::Yes;
        }
        let Some(time) = parcel.timebase.utc(moment(piece, at)) else {
            return Fit::Undated;
        };
        let early = self.from.is_some_and(|from| time.0 < from);
        let late = self.to.is_some_and(|to| time.0 > to);
        if early || late { Fit::No } else { Fit::Yes }
    }
}

fn moment(piece: &Piece, at: usize) -> Moment {
    let time = match &piece.parcel.records {
        Records::Samples(samples) => samples.get(at).map(|s| s.gateway_time),
        Records::Events(events) => events.get(at).map(|e| e.at),
    };
    time.unwrap_or_default()
}

#[cfg(test)]
mod tests;
