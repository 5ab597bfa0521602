//! One tag of a simulated device: what it is worth, and where its bytes go.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use super::super::encode::encode;
use super::super::map::{Entry, Source};
use super::super::replay::Replay;
use crate::modbus::Table;
use crate::sim::signal::{Generator, Signal};

/// A tag and its signal.
pub(super) struct Cell {
    pub(super) entry: Entry,
    pub(super) generator: Generator,
    pub(super) served: u64,
}

impl Cell {
    pub(super) fn new(entry: Entry, seed: u64) -> Self {
        Self {
            generator: generator(&entry, seed),
            entry,
            served: 0,
        }
    }

    pub(super) fn encode(
        &mut self,
        elapsed: Duration,
        replay: Option<&Replay>,
        row: usize,
    ) -> (Vec<u8>, u64) {
        let number = match self.entry.source {
            Source::Signal(_) => self.generator.number(elapsed),
            Source::Column(column) => {
                let recorded = replay.and_then(|replay| replay.value(row, column));
                f64::from(recorded.unwrap_or(f32::NAN))
            }
        };
        let encoded = encode(&self.entry.spec, number, self.generator.text());
        (encoded.bytes, encoded.bits)
    }
}

/// The signal of a tag; a recorded one has none.
pub(super) fn generator(entry: &Entry, seed: u64) -> Generator {
    let signal = match &entry.source {
        Source::Signal(signal) => signal.clone(),
        Source::Column(_) => Signal::Constant(0.0),
    };
    Generator::new(signal, seed)
}

/// The extent of each table; `cells` come by address.
pub(super) fn extents<'a>(cells: impl Iterator<Item = &'a Cell>) -> Vec<(Table, Range<u32>)> {
    let mut extents: Vec<(Table, Range<u32>)> = Vec::new();
    for cell in cells {
        let spec = &cell.entry.spec;
        match extents.last_mut() {
            Some((table, extent)) if *table == spec.address().table => {
                extent.end = extent.end.max(spec.end());
            }
            _ => extents.push((spec.address().table, spec.start()..spec.end())),
        }
    }
    extents
}

/// Puts what was written in place of a value's own bytes; whether there was any.
pub(super) fn overwrite(
    bytes: &mut [u8],
    written: &BTreeMap<(Table, u32), u16>,
    table: Table,
    start: u32,
) -> bool {
    if written.is_empty() {
        return false;
    }
    let width = if table.is_bits() { 1 } else { 2 };
    let end = start + (bytes.len() / width) as u32;
    let mut any = false;
    for (&(_, at), value) in written.range((table, start)..(table, end)) {
        let at = (at - start) as usize * width;
        if table.is_bits() {
            bytes[at] = u8::from(*value != 0);
        } else {
            bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
        }
        any = true;
    }
    any
}

/// Puts what falls into the span of a value that begins at `start`; bits of one register come together.
pub(super) fn put(data: &mut [u8], value: &[u8], table: Table, start: u32, span: &Range<u32>) {
    if table.is_bits() {
        for (place, bit) in (start..).zip(value) {
            if span.contains(&place) {
                let at = (place - span.start) as usize;
                data[at / 8] |= bit << (at % 8);
            }
        }
        return;
    }
    for (place, byte) in (u64::from(start) * 2..).zip(value) {
        let at = place.checked_sub(u64::from(span.start) * 2);
        if let Some(target) = at.and_then(|at| data.get_mut(at as usize)) {
            *target |= byte;
        }
    }
}
