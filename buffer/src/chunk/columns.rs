//! Samples as columns, grouped by tag.
//!
//! The body of a data chunk is five sections, each with its length in front: shapes, times, values,
//! source times, qualities. A run (the records of one directory entry) contributes its groups, one for
//! each tag in ascending order, to every section.
//!
//! The order of a run is (gateway time, tag, position), so no column is needed to get it back.

use std::rc::Rc;

use millrace_tags::{Quality, Reason, Sample, TagId, Timestamp, Value};

use super::Run;
use super::rows::{Group, Rows};
use super::times::{TimesReader, TimesWriter};
use super::values::{Scratch, bits, put_bits, put_values, read_values};
use crate::wire::{Cursor, Malformed, put_bytes, put_varint};

/// The form byte of a group: the value form in the low four bits, and these.
const HAS_ABSENT: u8 = 0x10;
const NOT_ALL_GOOD: u8 = 0x20;
const SOME_SOURCE_TIMES: u8 = 0x40;
const ALL_SOURCE_TIMES: u8 = 0x80;

/// Gathers the columns of a chunk.
#[derive(Default)]
pub(crate) struct Columns {
    shapes: Vec<u8>,
    times: Vec<u8>,
    values: Vec<u8>,
    source_times: Vec<u8>,
    qualities: Vec<u8>,
    gateway: TimesWriter,
    source: TimesWriter,
    scratch: Scratch,
    /// Group number + 1 by tag; zero outside of [`Columns::run`].
    group_of: Vec<u32>,
    /// Tag and count, by group.
    groups: Vec<(u32, u32)>,
    /// Group numbers by ascending tag, and where each group starts in `grouped`.
    by_tag: Vec<u32>,
    starts: Vec<u32>,
    /// Positions in the run, group after group.
    grouped: Vec<u32>,
    column: Vec<i64>,
}

impl Columns {
    pub(crate) fn clear(&mut self) {
        self.shapes.clear();
        self.times.clear();
        self.values.clear();
        self.source_times.clear();
        self.qualities.clear();
        self.gateway.clear();
        self.source.clear();
    }

    /// Adds a run whose samples are in order.
    pub(crate) fn run(&mut self, samples: &[&Sample]) {
        self.group(samples);
        put_varint(&mut self.shapes, self.by_tag.len() as u64);
        let by_tag = std::mem::take(&mut self.by_tag);
        let grouped = std::mem::take(&mut self.grouped);
        let (mut last_tag, mut from) = (0, 0);
        for &group in &by_tag {
            let (tag, count) = self.groups[group as usize];
            put_varint(&mut self.shapes, u64::from(tag - last_tag));
            put_varint(&mut self.shapes, u64::from(count));
            last_tag = tag;
            let to = from + count as usize;
            self.put_group(samples, &grouped[from..to]);
            from = to;
        }
        self.by_tag = by_tag;
        self.grouped = grouped;
    }

    /// Counting sort of the positions by tag: no hash, no allocation once the vectors have grown.
    fn group(&mut self, samples: &[&Sample]) {
        if samples.is_sorted_by(|a, b| a.tag < b.tag) {
            // One scan: every tag has its one sample, and they are where they should be.
            self.groups.clear();
            self.groups.extend(samples.iter().map(|s| (s.tag.0, 1)));
            self.by_tag.clear();
            self.by_tag.extend(0..samples.len() as u32);
            self.grouped.clone_from(&self.by_tag);
            return;
        }
        self.groups.clear();
        for sample in samples {
            let tag = sample.tag.0;
            if tag as usize >= self.group_of.len() {
                self.group_of.resize(tag as usize + 1, 0);
            }
            let group = &mut self.group_of[tag as usize];
            if *group == 0 {
                self.groups.push((tag, 0));
                *group = self.groups.len() as u32;
            }
            self.groups[*group as usize - 1].1 += 1;
        }
        self.by_tag.clear();
        self.by_tag.extend(0..self.groups.len() as u32);
        let groups = &self.groups;
        self.by_tag
            .sort_unstable_by_key(|&group| groups[group as usize].0);
        self.starts.clear();
        self.starts.resize(self.groups.len(), 0);
        let mut start = 0;
        for &group in &self.by_tag {
            self.starts[group as usize] = start;
            start += self.groups[group as usize].1;
        }
        self.grouped.clear();
        self.grouped.resize(samples.len(), 0);
        for (position, sample) in samples.iter().enumerate() {
            let group = self.group_of[sample.tag.0 as usize] as usize - 1;
            self.grouped[self.starts[group] as usize] = position as u32;
            self.starts[group] += 1;
        }
        for (tag, _) in &self.groups {
            self.group_of[*tag as usize] = 0;
        }
    }

    fn put_group(&mut self, samples: &[&Sample], positions: &[u32]) {
        // Samples of a tag lie far apart: one look at each says which columns there are.
        let group = positions.iter().map(|&p| samples[p as usize]);
        let (mut good, mut present, mut timed) = (true, 0, 0);
        self.column.clear();
        for sample in group.clone() {
            self.column.push(sample.gateway_time.0);
            good &= sample.quality.is_good();
            present += usize::from(sample.value.is_some());
            timed += usize::from(sample.source_time.is_some());
        }
        self.gateway.put(&mut self.times, &self.column);

        let mut flags = 0;
        if timed > 0 {
            flags |= self.put_source_times(group.clone(), timed, positions.len());
        }
        if !good {
            flags |= NOT_ALL_GOOD;
            put_qualities(&mut self.qualities, group.clone().map(|s| s.quality));
        }
        if present < positions.len() {
            flags |= HAS_ABSENT;
            put_bits(&mut self.values, group.clone().map(|s| s.value.is_some()));
        }
        let present = group.filter_map(|s| s.value.as_ref());
        let form = put_values(&mut self.values, &mut self.scratch, present);
        self.shapes.push(form | flags);
    }

    fn put_source_times<'a>(
        &mut self,
        group: impl Iterator<Item = &'a Sample> + Clone,
        timed: usize,
        count: usize,
    ) -> u8 {
        self.column.clear();
        self.column
            .extend(group.clone().filter_map(|s| s.source_time.map(|t| t.0)));
        let mut flag = ALL_SOURCE_TIMES;
        if timed < count {
            flag = SOME_SOURCE_TIMES;
            put_varint(&mut self.source_times, timed as u64);
            put_bits(
                &mut self.source_times,
                group.map(|s| s.source_time.is_some()),
            );
        }
        self.source.put(&mut self.source_times, &self.column);
        flag
    }

    /// Writes the sections to `body`.
    pub(crate) fn finish(&self, body: &mut Vec<u8>) {
        for section in [
            &self.shapes,
            &self.times,
            &self.values,
            &self.source_times,
            &self.qualities,
        ] {
            put_bytes(body, section);
        }
    }
}

/// Run lengths of equal qualities: length, severity, reason.
fn put_qualities(out: &mut Vec<u8>, qualities: impl Iterator<Item = Quality>) {
    let mut runs: Vec<(u64, Quality)> = Vec::new();
    for quality in qualities {
        match runs.last_mut() {
            Some((len, last)) if *last == quality => *len += 1,
            _ => runs.push((1, quality)),
        }
    }
    for (len, quality) in runs {
        put_varint(out, len);
        let (severity, reason) = match quality {
            Quality::Good => (0, None),
            Quality::Uncertain(reason) => (1, Some(reason)),
            Quality::Bad(reason) => (2, Some(reason)),
        };
        out.push(severity);
        if let Some(reason) = reason {
            let (code, status) = reason.code();
            out.push(code);
            put_varint(out, u64::from(status));
        }
    }
}

fn read_qualities(
    input: &mut Cursor<'_>,
    count: usize,
    out: &mut Vec<Quality>,
) -> Result<(), Malformed> {
    let end = out.len() + count;
    while out.len() < end {
        let len = input.length(end - out.len())?;
        let severity = input.u8()?;
        let mut reason = || -> Result<Reason, Malformed> {
            let (code, status) = (input.u8()?, input.varint32()?);
            Reason::from_code(code, status).ok_or(Malformed("an unknown reason"))
        };
        let quality = match severity {
            0 => Quality::Good,
            1 => Quality::Uncertain(reason()?),
            2 => Quality::Bad(reason()?),
            _ => return Err(Malformed("an unknown quality")),
        };
        if len == 0 {
            return Err(Malformed("a quality run is empty"));
        }
        out.resize(out.len() + len, quality);
    }
    Ok(())
}

/// The sections while they are being read.
struct Sections<'a> {
    shapes: Cursor<'a>,
    times: Cursor<'a>,
    values: Cursor<'a>,
    source_times: Cursor<'a>,
    qualities: Cursor<'a>,
    gateway: TimesReader,
    source: TimesReader,
}

/// Reads runs of the given lengths.
pub(super) fn read(
    body: &[u8],
    counts: impl Iterator<Item = usize>,
) -> Result<Vec<Run>, Malformed> {
    let mut body = Cursor::new(body);
    let mut section = || body.bytes().map(Cursor::new);
    let mut sections = Sections {
        shapes: section()?,
        times: section()?,
        values: section()?,
        source_times: section()?,
        qualities: section()?,
        gateway: TimesReader::default(),
        source: TimesReader::default(),
    };
    counts
        .map(|count| Ok(Run::Samples(read_run(&mut sections, count)?)))
        .collect()
}

/// Where the samples of a run go: sorted by time, and within one time by tag.
///
/// Tags share few columns of times, so the rank of each time is worked out once for each column.
struct Places {
    columns: Vec<(Rc<Vec<i64>>, Vec<u32>)>,
    /// Each time that occurs, ascending.
    distinct: Vec<i64>,
    /// Where the next sample of each time goes.
    next: Vec<u32>,
}

impl Places {
    fn new(times: &[Rc<Vec<i64>>]) -> Self {
        let mut columns: Vec<(Rc<Vec<i64>>, Vec<u32>)> = Vec::new();
        let mut distinct: Vec<i64> = Vec::new();
        let mut last: Option<&Rc<Vec<i64>>> = None;
        for column in times {
            if last.is_some_and(|l| Rc::ptr_eq(l, column))
                || columns
                    .iter()
                    .rev()
                    .take(8)
                    .any(|(c, _)| Rc::ptr_eq(c, column))
            {
                continue;
            }
            last = Some(column);
            distinct.extend_from_slice(column);
            columns.push((column.clone(), Vec::new()));
        }
        distinct.sort_unstable();
        distinct.dedup();
        for (column, ranks) in &mut columns {
            let mut rank = 0;
            ranks.extend(column.iter().map(|time| {
                // Times of a column ascend; only damage that passes a checksum could say otherwise.
                while rank + 1 < distinct.len() && distinct[rank] < *time {
                    rank += 1;
                }
                rank as u32
            }));
        }
        let mut counts = vec![0u32; distinct.len()];
        let mut places = Self {
            columns,
            next: vec![0; distinct.len()],
            distinct,
        };
        let mut at = 0;
        for column in times {
            for &rank in places.ranks(column) {
                counts[rank as usize] += 1;
            }
        }
        for (next, count) in places.next.iter_mut().zip(counts) {
            *next = at;
            at += count;
        }
        places
    }

    fn ranks(&self, column: &Rc<Vec<i64>>) -> &[u32] {
        let found = self
            .columns
            .iter()
            .rev()
            .find(|(c, _)| Rc::ptr_eq(c, column));
        found.map_or(&[], |(_, ranks)| ranks)
    }
}

fn read_run(sections: &mut Sections<'_>, count: usize) -> Result<Rows, Malformed> {
    let groups = sections.shapes.length(count)?;
    let mut shapes = Vec::with_capacity(groups);
    let mut times = Vec::with_capacity(groups);
    let (mut tag, mut total) = (0u32, 0usize);
    for _ in 0..groups {
        let step = sections.shapes.varint32()?;
        tag = tag
            .checked_add(step)
            .ok_or(Malformed("a tag number is too large"))?;
        let len = sections.shapes.length(count - total)?;
        total += len;
        times.push(sections.gateway.next(&mut sections.times, len)?);
        shapes.push((TagId(tag), sections.shapes.u8()?));
    }
    if total != count {
        return Err(Malformed("the groups of a run do not add up"));
    }
    let mut places = Places::new(&times);
    let mut rows = Rows {
        groups: Vec::with_capacity(groups),
        order: vec![(0, 0); count],
        values: Vec::with_capacity(count),
        ..Rows::default()
    };
    let mut cached: (Option<&Rc<Vec<i64>>>, usize) = (None, 0);
    for ((tag, form), column) in shapes.iter().zip(&times) {
        if !cached.0.is_some_and(|c| Rc::ptr_eq(c, column)) {
            let at = places
                .columns
                .iter()
                .rposition(|(c, _)| Rc::ptr_eq(c, column));
            cached = (Some(column), at.unwrap_or(0));
        }
        let (group, start) = (rows.groups.len() as u32, rows.values.len() as u32);
        let ranks = &places.columns[cached.1].1;
        for (at, &rank) in (start..).zip(ranks) {
            let place = &mut places.next[rank as usize];
            rows.order[*place as usize] = (group, at);
            *place += 1;
        }
        read_group(sections, &mut rows, *tag, *form, column.len())?;
    }
    // Every row has its place, so each time's next place is the one behind its last row.
    rows.times = places.distinct.into_iter().zip(places.next).collect();
    Ok(rows)
}

fn read_group(
    sections: &mut Sections<'_>,
    rows: &mut Rows,
    tag: TagId,
    form: u8,
    count: usize,
) -> Result<(), Malformed> {
    let mut group = Group {
        tag,
        start: rows.values.len() as u32,
        qualities: None,
        source_times: None,
    };
    let start = rows.values.len();
    if form & HAS_ABSENT != 0 {
        let present: Vec<bool> = bits(&mut sections.values, count)?.collect();
        let len = present.iter().filter(|p| **p).count();
        read_values(&mut sections.values, form & 0x0F, len, &mut rows.values)?;
        spread(&mut rows.values, start, &present);
    } else {
        read_values(&mut sections.values, form & 0x0F, count, &mut rows.values)?;
    }
    if rows.values.len() != start + count {
        return Err(Malformed("a value column is too short"));
    }
    if form & NOT_ALL_GOOD != 0 {
        group.qualities = Some(rows.qualities.len() as u32);
        read_qualities(&mut sections.qualities, count, &mut rows.qualities)?;
    }
    let input = &mut sections.source_times;
    if form & (ALL_SOURCE_TIMES | SOME_SOURCE_TIMES) != 0 {
        group.source_times = Some(rows.source_times.len() as u32);
    }
    if form & ALL_SOURCE_TIMES != 0 {
        let column = sections.source.next(input, count)?;
        rows.source_times
            .extend(column.iter().map(|&t| Some(Timestamp(t))));
    } else if form & SOME_SOURCE_TIMES != 0 {
        let len = input.length(count)?;
        let has: Vec<bool> = bits(input, count)?.collect();
        let column = sections.source.next(input, len)?;
        let mut column = column.iter();
        rows.source_times.extend(
            has.into_iter()
                .map(|has| has.then(|| column.next().map(|&t| Timestamp(t))).flatten()),
        );
    }
    rows.groups.push(group);
    Ok(())
}

/// Moves the values from `start` on to the places that have one.
fn spread(values: &mut Vec<Option<Value>>, start: usize, present: &[bool]) {
    let mut next = values.len();
    values.resize(start + present.len(), None);
    for (at, present) in present.iter().enumerate().rev() {
        if *present && next > start {
            next -= 1;
            values.swap(start + at, next);
        }
    }
}
