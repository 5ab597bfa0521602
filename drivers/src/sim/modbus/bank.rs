//! The registers of a simulated device, what they are worth now, and what was served of them.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_modbus::ExceptionCode;

use super::encode::encode;
use super::faults::{Fault, Faults};
use super::map::{Entry, RegisterMap, Source};
use super::replay::{Advance, Replay};
use crate::modbus::Table;
use crate::modbus::plan::COILS_MAX;
use crate::sim::signal::{Generator, Signal};

/// Served values that are remembered where that was asked for: 400 MB, hours of a demo.
const LOG_MAX: usize = 10_000_000;

/// Everything about a device that changes.
pub(super) struct Bank {
    cells: Vec<Cell>,
    /// Indices into `cells` by address.
    order: Vec<usize>,
    /// First address to past the last, of each table that has tags.
    extents: Vec<(Table, Range<u32>)>,
    replay: Option<Playing>,
    seed: u64,
    begun: Instant,
    requests: u64,
    pub(super) faults: Faults,
    /// Faults for the next requests.
    pub(super) injected: VecDeque<Fault>,
    served_total: u64,
    log: Option<Vec<ServedValue>>,
}

struct Cell {
    entry: Entry,
    generator: Generator,
    served: u64,
}

/// A recording that is being served.
struct Playing {
    replay: Replay,
    /// The next row, or with ticks the one last served.
    row: usize,
    /// When the first read came.
    begun: Option<Instant>,
    /// The cell at the highest address.
    last_cell: usize,
}

/// A value that a reply carried to the socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedValue {
    /// The tag.
    pub tag: Arc<str>,
    /// The value's own bits: of the float, or of the integer as two's complement; 0 for a text.
    pub bits: u64,
}

/// What a device has served.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Served {
    /// Values in all.
    pub total: u64,
    /// Values by tag, in the order of the map.
    pub tags: Vec<(Arc<str>, u64)>,
}

/// The data of a reply, and the values that are in it whole.
pub(super) struct Data {
    pub(super) bytes: Vec<u8>,
    whole: Vec<(usize, u64)>,
}

impl Bank {
    pub(super) fn new(map: RegisterMap, faults: Faults, seed: u64) -> Self {
        let (entries, replay) = map.into_parts();
        let mut order: Vec<usize> = (0..entries.len()).collect();
        order.sort_by_key(|&i| entries[i].spec.address());
        let replay = replay
            .zip(order.last().copied())
            .map(|(replay, last_cell)| Playing {
                replay,
                row: 0,
                begun: None,
                last_cell,
            });
        let cells: Vec<Cell> = entries
            .into_iter()
            .zip(seed..)
            .map(|(entry, seed)| Cell::new(entry, seed))
            .collect();
        Self {
            extents: extents(order.iter().map(|&i| &cells[i])),
            cells,
            order,
            replay,
            seed,
            begun: Instant::now(),
            requests: 0,
            faults,
            injected: VecDeque::new(),
            served_total: 0,
            log: None,
        }
    }

    /// Counts a request; the fault that it meets.
    pub(super) fn begin_request(&mut self) -> Option<Fault> {
        self.requests += 1;
        let injected = self.injected.pop_front();
        injected.or_else(|| self.faults.of_request(self.requests))
    }

    /// What a read of these addresses brings now.
    pub(super) fn read(
        &mut self,
        table: Table,
        start: u16,
        count: u16,
    ) -> Result<Data, ExceptionCode> {
        let most = if table.is_bits() {
            COILS_MAX
        } else {
            self.faults.max_registers
        };
        if !(1..=most).contains(&count) {
            return Err(ExceptionCode::IllegalDataValue);
        }
        let span = u32::from(start)..u32::from(start) + u32::from(count);
        let exists = self.extents.iter().any(|(of, extent)| {
            *of == table && extent.start <= span.start && span.end <= extent.end
        });
        if !exists || self.faults.is_missing(table, span.start, span.end) {
            return Err(ExceptionCode::IllegalDataAddress);
        }
        self.fill(table, span)
    }

    fn fill(&mut self, table: Table, span: Range<u32>) -> Result<Data, ExceptionCode> {
        let row = match &mut self.replay {
            Some(playing) => playing.current_row()?,
            None => 0,
        };
        let elapsed = self.begun.elapsed();
        let length = (span.end - span.start) as usize;
        let mut data = Data {
            bytes: vec![
                0;
                if table.is_bits() {
                    length.div_ceil(8)
                } else {
                    length * 2
                }
            ],
            whole: Vec::new(),
        };
        // A value may begin before the span; none is longer than a request.
        let from = self.order.partition_point(|&i| {
            let spec = &self.cells[i].entry.spec;
            (spec.address().table, spec.start() + u32::from(COILS_MAX)) < (table, span.start)
        });
        for &i in &self.order[from..] {
            let spec = self.cells[i].entry.spec;
            if (spec.address().table, spec.start()) >= (table, span.end) {
                break;
            }
            if spec.address().table != table || spec.end() <= span.start {
                continue;
            }
            let replay = self.replay.as_ref().map(|playing| &playing.replay);
            let (bytes, bits) = self.cells[i].encode(elapsed, replay, row);
            put(&mut data.bytes, &bytes, table, spec.start(), &span);
            if span.start <= spec.start() && spec.end() <= span.end {
                data.whole.push((i, bits));
            }
        }
        Ok(data)
    }

    /// The reply that carries this data was written to the socket.
    pub(super) fn commit(&mut self, data: &Data) {
        self.served_total += data.whole.len() as u64;
        for &(i, bits) in &data.whole {
            let cell = &mut self.cells[i];
            cell.served += 1;
            cell.generator.served();
            if let Some(log) = self.log.as_mut().filter(|log| log.len() < LOG_MAX) {
                log.push(ServedValue {
                    tag: Arc::clone(&cell.entry.name),
                    bits,
                });
            }
        }
        if let Some(playing) = &mut self.replay {
            let by_read = playing.replay.advance() == Advance::Read;
            if by_read && data.whole.iter().any(|(i, _)| *i == playing.last_cell) {
                playing.row += 1;
            }
        }
    }

    /// Signals and recordings begin anew; what was served stays counted.
    pub(super) fn reboot(&mut self) {
        self.begun = Instant::now();
        for (cell, seed) in self.cells.iter_mut().zip(self.seed..) {
            cell.generator = generator(&cell.entry, seed);
        }
        if let Some(playing) = &mut self.replay {
            playing.row = 0;
            playing.begun = None;
        }
    }

    /// Whether the tag exists and now follows `signal`, which begins with the device.
    pub(super) fn set_signal(&mut self, tag: &str, signal: Signal) -> bool {
        let seeds = self.seed..;
        let found = self
            .cells
            .iter_mut()
            .zip(seeds)
            .find(|(c, _)| &*c.entry.name == tag);
        let Some((cell, seed)) = found else {
            return false;
        };
        cell.entry.source = Source::Signal(signal);
        cell.generator = generator(&cell.entry, seed);
        true
    }

    /// Whether the recording, where there is one, has been served to its end.
    pub(super) fn is_replayed(&self) -> bool {
        self.replay.as_ref().is_some_and(|playing| {
            let row = playing.peek_row();
            row >= playing.replay.rows()
        })
    }

    pub(super) fn served(&self) -> Served {
        let tags = self.cells.iter();
        Served {
            total: self.served_total,
            tags: tags
                .map(|c| (Arc::clone(&c.entry.name), c.served))
                .collect(),
        }
    }

    pub(super) fn keep_log(&mut self) {
        self.log.get_or_insert_default();
    }

    pub(super) fn take_log(&mut self) -> Vec<ServedValue> {
        self.log.as_mut().map(std::mem::take).unwrap_or_default()
    }
}

impl Cell {
    fn new(entry: Entry, seed: u64) -> Self {
        Self {
            generator: generator(&entry, seed),
            entry,
            served: 0,
        }
    }

    fn encode(&mut self, elapsed: Duration, replay: Option<&Replay>, row: usize) -> (Vec<u8>, u64) {
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

impl Playing {
    /// The row that is served now; an exception past the last.
    fn current_row(&mut self) -> Result<usize, ExceptionCode> {
        self.begun.get_or_insert_with(Instant::now);
        let row = self.peek_row();
        if row < self.replay.rows() {
            Ok(row)
        } else {
            Err(ExceptionCode::ServerDeviceFailure)
        }
    }

    fn peek_row(&self) -> usize {
        match (self.replay.advance(), self.begun) {
            (Advance::Read, _) => self.row,
            (Advance::Tick { .. }, None) => 0,
            (Advance::Tick { interval }, Some(begun)) => {
                let ticks = begun.elapsed().as_nanos() / interval.as_nanos().max(1);
                usize::try_from(ticks).unwrap_or(usize::MAX)
            }
        }
    }
}

fn generator(entry: &Entry, seed: u64) -> Generator {
    let signal = match &entry.source {
        Source::Signal(signal) => signal.clone(),
        Source::Column(_) => Signal::Constant(0.0),
    };
    Generator::new(signal, seed)
}

/// The extent of each table; `cells` come by address.
fn extents<'a>(cells: impl Iterator<Item = &'a Cell>) -> Vec<(Table, Range<u32>)> {
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

/// Puts what falls into the span of a value that begins at `start`; bits of one register come together.
fn put(data: &mut [u8], value: &[u8], table: Table, start: u32, span: &Range<u32>) {
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
