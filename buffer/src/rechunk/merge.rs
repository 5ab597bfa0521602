//! Neighbouring chunks as one: what the small commits of an outage become.
//!
//! A merged chunk holds the records and voids of its parts under their numbers, and stands for all their
//! chunk numbers. It is unpacked and compared with its parts, bit by bit, before it is handed out.

use millrace_tags::{Event, Sample, Value};
use thiserror::Error;

use crate::chunk::{
    self, CHUNK_BYTES_MAX, Entry, Frame, FrameError, Header, Packer, RECORDS_MAX, Records, unpack,
};

/// Chunks that are merged into one at most: they are in memory until then.
const PARTS_MAX: usize = 4096;

/// What the parts of one chunk take unpacked at most: a bound for the memory, and for the time of a step.
const UNPACKED_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Why chunks are left as they are.
#[derive(Debug, Error)]
pub(crate) enum MergeError {
    /// A part, or what it was merged into, cannot be read.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// What was merged is not what the parts hold.
    #[error("merged chunks do not hold what their parts hold")]
    Differs,
}

/// The records of one directory entry, one by one.
enum Run {
    Samples(Vec<Sample>),
    Events(Vec<Event>),
}

fn runs(frame: &Frame<'_>) -> Result<Vec<Run>, FrameError> {
    let runs = unpack(frame)?.into_iter();
    let runs = runs.map(|run| match run {
        chunk::Run::Samples(rows) => Run::Samples(rows.cut(0..rows.len()).unwrap_or_default()),
        chunk::Run::Events(events) => Run::Events(events),
    });
    Ok(runs.collect())
}

/// A chunk to be merged.
pub(crate) struct Part {
    bytes: Vec<u8>,
    header: Header,
    entries: Vec<Entry>,
    /// As the entries; `None` for voids.
    runs: Vec<Option<Run>>,
    records: usize,
    unpacked: usize,
}

impl Part {
    pub(crate) fn read(bytes: Vec<u8>) -> Result<Self, FrameError> {
        let frame = Frame::parse(&bytes)?;
        let mut read = runs(&frame)?.into_iter();
        let runs = frame
            .entries
            .iter()
            .map(|e| if e.void.is_none() { read.next() } else { None })
            .collect();
        let unpacked = frame.unpacked_len;
        let (header, entries) = (frame.header, frame.entries);
        let records = entries.iter().filter(|e| e.void.is_none());
        Ok(Self {
            header,
            records: records.map(|e| e.count as usize).sum(),
            entries,
            runs,
            unpacked,
            bytes,
        })
    }

    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The largest tag number in it.
    pub(crate) fn largest_tag(&self) -> Option<u32> {
        let samples = self.runs.iter().flatten().flat_map(|run| match run {
            Run::Samples(samples) => samples.as_slice(),
            Run::Events(_) => &[],
        });
        samples.map(|s| s.tag.0).max()
    }

    fn last_number(&self) -> u64 {
        self.header.number + u64::from(self.header.span) - 1
    }

    /// Whether `next` can be in the same chunk.
    fn joins(&self, next: &Part) -> bool {
        let (a, b) = (&self.header, &next.header);
        a.log == b.log
            && a.stream == b.stream
            && a.timebase == b.timebase
            && self.last_number() + 1 == b.number
    }
}

/// A merged chunk, or a part that stays as it is.
#[derive(Debug)]
pub(crate) struct Merged {
    pub(crate) number: u64,
    pub(crate) frame: Vec<u8>,
    /// What its parts took.
    pub(crate) before: usize,
}

/// Gathers chunks until they are enough for one.
#[derive(Default)]
pub(crate) struct Merger {
    packer: Packer,
    parts: Vec<Part>,
    records: usize,
    unpacked: usize,
    /// Records that fit into one chunk, learned from the last ones; 0 until then.
    records_max: usize,
}

impl Merger {
    /// Adds the next chunk of the log. Returns what it completes.
    pub(crate) fn push(&mut self, part: Part) -> Result<Vec<Merged>, MergeError> {
        let max = match self.records_max {
            0 => RECORDS_MAX,
            max => max,
        };
        let fits = self.parts.last().is_none_or(|last| {
            last.joins(&part)
                && self.records + part.records <= max
                && self.unpacked + part.unpacked <= UNPACKED_BYTES_MAX
                && self.parts.len() < PARTS_MAX
        });
        let done = if fits { Vec::new() } else { self.flush()? };
        self.records += part.records;
        self.unpacked += part.unpacked;
        self.parts.push(part);
        Ok(done)
    }

    /// Completes what was gathered.
    pub(crate) fn flush(&mut self) -> Result<Vec<Merged>, MergeError> {
        let parts = std::mem::take(&mut self.parts);
        (self.records, self.unpacked) = (0, 0);
        let mut done = Vec::new();
        self.pack(&parts, &mut done)?;
        Ok(done)
    }

    /// Packs the parts as one chunk, or as two halves where they do not fit.
    fn pack(&mut self, parts: &[Part], done: &mut Vec<Merged>) -> Result<(), MergeError> {
        let Some(first) = parts.first() else {
            return Ok(());
        };
        if parts.len() == 1 {
            done.push(Merged {
                number: first.header.number,
                frame: first.bytes.clone(),
                before: first.bytes.len(),
            });
            return Ok(());
        }
        let (entries, stretches) = stretches(parts);
        self.packer.begin();
        for stretch in &stretches {
            match stretch {
                Stretch::Samples(samples) => self.packer.run(Records::Samples(samples)),
                Stretch::Events(events) => self.packer.run(Records::Events(events)),
            }
        }
        let header = Header {
            span: parts.iter().map(|p| p.header.span).sum(),
            newest: parts
                .iter()
                .map(|p| p.header.newest)
                .max()
                .unwrap_or(first.header.newest),
            ..first.header.clone()
        };
        let frame = self.packer.finish(&header, &entries);
        if frame.len() > CHUNK_BYTES_MAX {
            let records: usize = parts.iter().map(|p| p.records).sum();
            self.records_max = (records / 2).max(1);
            let (left, right) = parts.split_at(parts.len() / 2);
            self.pack(left, done)?;
            return self.pack(right, done);
        }
        if frame.len() < CHUNK_BYTES_MAX / 2 {
            self.records_max = (self.records_max * 2).min(RECORDS_MAX);
        }
        check(&frame, &header, &entries, &stretches)?;
        done.push(Merged {
            number: header.number,
            frame,
            before: parts.iter().map(|p| p.bytes.len()).sum(),
        });
        Ok(())
    }
}

/// The records of one entry of the merged chunk.
enum Stretch<'a> {
    Samples(Vec<&'a Sample>),
    Events(Vec<&'a Event>),
}

/// The directory of the merged chunk, and the records of each entry that has any.
fn stretches(parts: &[Part]) -> (Vec<Entry>, Vec<Stretch<'_>>) {
    let mut pieces: Vec<(Entry, Option<&Run>)> = Vec::new();
    for part in parts {
        let runs = part.runs.iter().map(Option::as_ref);
        pieces.extend(part.entries.iter().copied().zip(runs));
    }
    pieces.sort_by_key(|(entry, _)| (entry.source, entry.first));
    let (mut entries, mut records) = (Vec::new(), Vec::new());
    for stretch in pieces.chunk_by(joins) {
        let (head, tail) = (stretch[0].0, stretch[stretch.len() - 1].0);
        entries.push(Entry {
            count: tail.last() - head.first + 1,
            ahead: tail.ahead,
            ..head
        });
        let runs = stretch.iter().filter_map(|(_, run)| *run);
        match stretch[0].1 {
            None => {}
            Some(Run::Samples(_)) => {
                let samples = runs.flat_map(|run| match run {
                    Run::Samples(samples) => samples.as_slice(),
                    Run::Events(_) => &[],
                });
                records.push(Stretch::Samples(samples.collect()));
            }
            Some(Run::Events(_)) => {
                let events = runs.flat_map(|run| match run {
                    Run::Events(events) => events.as_slice(),
                    Run::Samples(_) => &[],
                });
                records.push(Stretch::Events(events.collect()));
            }
        }
    }
    (entries, records)
}

/// Whether one entry can hold both, so that its columns decode to the order of the line.
fn joins((a, run): &(Entry, Option<&Run>), (b, next): &(Entry, Option<&Run>)) -> bool {
    let in_order = match (run, next) {
        (Some(Run::Samples(run)), Some(Run::Samples(next))) => match (run.last(), next.first()) {
            (Some(a), Some(b)) => (a.gateway_time, a.tag) <= (b.gateway_time, b.tag),
            _ => false,
        },
        (Some(Run::Events(_)), Some(Run::Events(_))) | (None, None) => true,
        _ => false,
    };
    in_order && a.source == b.source && a.void == b.void && a.last() + 1 == b.first
}

/// Unpacks the frame and compares it with what it was made of.
fn check(
    bytes: &[u8],
    header: &Header,
    entries: &[Entry],
    stretches: &[Stretch<'_>],
) -> Result<(), MergeError> {
    let frame = Frame::parse(bytes)?;
    let runs = runs(&frame)?;
    let same = frame.header == *header
        && frame.entries == entries
        && runs.len() == stretches.len()
        && runs.iter().zip(stretches).all(|pair| match pair {
            (Run::Samples(read), Stretch::Samples(samples)) => {
                read.len() == samples.len()
                    && read.iter().zip(samples).all(|(a, b)| identical(a, b))
            }
            (Run::Events(read), Stretch::Events(events)) => read.iter().eq(events.iter().copied()),
            _ => false,
        });
    same.then_some(()).ok_or(MergeError::Differs)
}

/// Equality of every bit: a NaN equals itself, and 0.0 is not -0.0.
fn identical(a: &Sample, b: &Sample) -> bool {
    let same_value = match (&a.value, &b.value) {
        (Some(Value::F64(a)), Some(Value::F64(b))) => a.to_bits() == b.to_bits(),
        (Some(Value::F32(a)), Some(Value::F32(b))) => a.to_bits() == b.to_bits(),
        (a, b) => a == b,
    };
    same_value
        && a.tag == b.tag
        && a.quality == b.quality
        && a.source_time == b.source_time
        && a.gateway_time == b.gateway_time
}
