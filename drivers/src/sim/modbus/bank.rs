//! The registers of a simulated device, what they are worth now, and what was served of them.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_modbus::{ExceptionCode, Request};

use super::encode::{bits_of, encode};
use super::faults::{Fault, Faults};
use super::frame::Framing;
use super::map::{Entry, RegisterMap, Source};
use super::replay::{Advance, Replay};
use crate::modbus::Table;
use crate::modbus::plan::COILS_MAX;
use crate::sim::signal::{Generator, Signal};

/// Most that functions 16, 15 and 23 can write (Modbus Application Protocol V1.1b3, 6.12, 6.11, 6.17).
const REGISTERS_WRITE_MAX: usize = 123;
const COILS_WRITE_MAX: usize = 1968;
const READ_WRITE_MAX: usize = 121;

/// Set in the function code of an exception.
const EXCEPTION_FLAG: u8 = 0x80;

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
    /// What was written, register by register or coil by coil: it stays.
    written: BTreeMap<(Table, u32), u16>,
    rng: fastrand::Rng,
    counts: Counts,
    exchanges: Option<Vec<Exchange>>,
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

/// What came to a device, and what it made of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests by function code.
    pub requests: BTreeMap<u8, u64>,
    /// Faults by name.
    pub faults: BTreeMap<&'static str, u64>,
}

/// A request and what became of it, for tests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    /// The request's PDU.
    pub request: Vec<u8>,
    /// The PDU of the right reply; `None` where a fault spoilt it or kept it back.
    pub reply: Option<Vec<u8>>,
    /// The fault that it met.
    pub fault: Option<Fault>,
}

/// The right reply to a request.
pub(super) struct Answer {
    pub(super) pdu: Vec<u8>,
    /// What it reads; `None` for a write or an exception.
    data: Option<Data>,
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
            written: BTreeMap::new(),
            rng: fastrand::Rng::with_seed(seed),
            counts: Counts::default(),
            exchanges: None,
            faults,
            injected: VecDeque::new(),
            served_total: 0,
            log: None,
        }
    }

    /// Counts a request; the fault that it meets.
    pub(super) fn begin_request(&mut self, function: u8, framing: Framing) -> Option<Fault> {
        *self.counts.requests.entry(function).or_default() += 1;
        let nth = self.counts.requests.values().sum();
        let injected = self.injected.pop_front();
        let fault = injected.or_else(|| self.faults.of_request(nth, &mut self.rng));
        let fault = fault.filter(|fault| fault.suits(framing))?;
        *self.counts.faults.entry(fault.name()).or_default() += 1;
        Some(fault)
    }

    /// Carries a request out. Doing so twice changes nothing more.
    pub(super) fn answer(&mut self, function: u8, request: &Request<'_>) -> Answer {
        match self.execute(function, request) {
            Ok(answer) => answer,
            Err(code) => Answer::exception(function, code),
        }
    }

    fn execute(&mut self, function: u8, request: &Request<'_>) -> Result<Answer, ExceptionCode> {
        let echo = |fields: &[u16]| {
            let fields = fields.iter().flat_map(|field| field.to_be_bytes());
            Ok(Answer {
                pdu: std::iter::once(function).chain(fields).collect(),
                data: None,
            })
        };
        match request {
            Request::ReadCoils(start, count) => self.reading(function, Table::Coil, *start, *count),
            Request::ReadDiscreteInputs(start, count) => {
                self.reading(function, Table::Discrete, *start, *count)
            }
            Request::ReadInputRegisters(start, count) => {
                self.reading(function, Table::Input, *start, *count)
            }
            Request::ReadHoldingRegisters(start, count) => {
                self.reading(function, Table::Holding, *start, *count)
            }
            Request::WriteSingleCoil(at, on) => {
                self.write(Table::Coil, *at, &[u16::from(*on)], 1)?;
                echo(&[*at, if *on { 0xFF00 } else { 0 }])
            }
            Request::WriteSingleRegister(at, value) => {
                self.write(Table::Holding, *at, &[*value], 1)?;
                echo(&[*at, *value])
            }
            Request::WriteMultipleCoils(start, bits) => {
                let bits: Vec<u16> = bits.iter().map(|bit| u16::from(*bit)).collect();
                self.write(Table::Coil, *start, &bits, COILS_WRITE_MAX)?;
                // At most 1968.
                echo(&[*start, bits.len() as u16])
            }
            Request::WriteMultipleRegisters(start, values) => {
                self.write(Table::Holding, *start, values, REGISTERS_WRITE_MAX)?;
                echo(&[*start, values.len() as u16])
            }
            Request::MaskWriteRegister(at, and, or) => {
                let before = self.read(Table::Holding, *at, 1)?.bytes;
                let before = u16::from_be_bytes([before[0], before[1]]);
                self.write(Table::Holding, *at, &[(before & and) | (or & !and)], 1)?;
                echo(&[*at, *and, *or])
            }
            Request::ReadWriteMultipleRegisters(start, count, write_start, values) => {
                self.write(Table::Holding, *write_start, values, READ_WRITE_MAX)?;
                self.reading(function, Table::Holding, *start, *count)
            }
            Request::ReadDeviceIdentification(code, object) => {
                identify(code.value(), *object).map(|pdu| Answer { pdu, data: None })
            }
            _ => Err(ExceptionCode::IllegalFunction),
        }
    }

    fn reading(
        &mut self,
        function: u8,
        table: Table,
        start: u16,
        count: u16,
    ) -> Result<Answer, ExceptionCode> {
        let data = self.read(table, start, count)?;
        // At most 250 data bytes.
        let mut pdu = vec![function, data.bytes.len() as u8];
        pdu.extend_from_slice(&data.bytes);
        Ok(Answer {
            pdu,
            data: Some(data),
        })
    }

    fn write(
        &mut self,
        table: Table,
        start: u16,
        values: &[u16],
        most: usize,
    ) -> Result<(), ExceptionCode> {
        if !(1..=most).contains(&values.len()) {
            return Err(ExceptionCode::IllegalDataValue);
        }
        let start = u32::from(start);
        self.check_exists(table, &(start..start + values.len() as u32))?;
        self.written.extend(
            (start..)
                .zip(values)
                .map(|(at, value)| ((table, at), *value)),
        );
        Ok(())
    }

    /// What a read of these addresses brings now.
    pub(super) fn read(
        &mut self,
        table: Table,
        start: u16,
        count: u16,
    ) -> Result<Data, ExceptionCode> {
        let most = if table.is_bits() {
            self.faults.max_coils
        } else {
            self.faults.max_registers
        };
        if !(1..=most).contains(&count) {
            return Err(ExceptionCode::IllegalDataValue);
        }
        let span = u32::from(start)..u32::from(start) + u32::from(count);
        self.check_exists(table, &span)?;
        self.fill(table, span)
    }

    fn check_exists(&self, table: Table, span: &Range<u32>) -> Result<(), ExceptionCode> {
        let exists = self.extents.iter().any(|(of, extent)| {
            *of == table && extent.start <= span.start && span.end <= extent.end
        });
        if !exists || self.faults.is_missing(table, span.start, span.end) {
            return Err(ExceptionCode::IllegalDataAddress);
        }
        Ok(())
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
            self.cells[i].generator.asked();
            let (mut bytes, mut bits) = self.cells[i].encode(elapsed, replay, row);
            if overwrite(&mut bytes, &self.written, table, spec.start()) {
                bits = bits_of(&spec, &bytes);
            }
            put(&mut data.bytes, &bytes, table, spec.start(), &span);
            if span.start <= spec.start() && spec.end() <= span.end {
                data.whole.push((i, bits));
            }
        }
        // Between the tags there are registers too.
        for (&(_, at), value) in self.written.range((table, span.start)..(table, span.end)) {
            let at = (at - span.start) as usize;
            if table.is_bits() {
                let bit = 1 << (at % 8);
                data.bytes[at / 8] &= !bit;
                data.bytes[at / 8] |= if *value == 0 { 0 } else { bit };
            } else {
                data.bytes[at * 2..][..2].copy_from_slice(&value.to_be_bytes());
            }
        }
        Ok(data)
    }

    /// This right reply was written to the socket.
    pub(super) fn commit(&mut self, answer: &Answer) {
        let Some(data) = &answer.data else { return };
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

    /// Signals and recordings begin anew, what was written is forgotten; what was served stays counted.
    pub(super) fn reboot(&mut self) {
        self.written.clear();
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

    pub(super) fn counts(&self) -> Counts {
        self.counts.clone()
    }

    pub(super) fn keep_exchanges(&mut self) {
        self.exchanges.get_or_insert_default();
    }

    pub(super) fn take_exchanges(&mut self) -> Vec<Exchange> {
        self.exchanges
            .as_mut()
            .map(std::mem::take)
            .unwrap_or_default()
    }

    pub(super) fn note(&mut self, request: &[u8], reply: Option<&[u8]>, fault: Option<Fault>) {
        if let Some(exchanges) = &mut self.exchanges {
            exchanges.push(Exchange {
                request: request.to_vec(),
                reply: reply.map(<[u8]>::to_vec),
                fault,
            });
        }
    }

    pub(super) fn rng(&mut self) -> &mut fastrand::Rng {
        &mut self.rng
    }

    pub(super) fn keep_log(&mut self) {
        self.log.get_or_insert_default();
    }

    pub(super) fn take_log(&mut self) -> Vec<ServedValue> {
        self.log.as_mut().map(std::mem::take).unwrap_or_default()
    }
}

impl Answer {
    pub(super) fn exception(function: u8, code: ExceptionCode) -> Self {
        Self {
            pdu: vec![function | EXCEPTION_FLAG, u8::from(code)],
            data: None,
        }
    }
}

/// The identification objects (Modbus Application Protocol V1.1b3, 6.21), in one reply.
fn identify(code: u8, first: u8) -> Result<Vec<u8>, ExceptionCode> {
    const OBJECTS: [(u8, &str); 5] = [
        (0, "Millrace"),
        (1, "sim-modbus"),
        (2, env!("CARGO_PKG_VERSION")),
        (4, "Simulated Modbus device"),
        (5, "sim modbus"),
    ];
    /// Basic and regular objects, as a stream or one by one.
    const CONFORMITY: u8 = 0x82;
    let wanted = |id: u8| match code {
        1 => id >= first && id <= 2,
        2 | 3 => id >= first,
        _ => id == first,
    };
    let objects: Vec<_> = OBJECTS.iter().filter(|(id, _)| wanted(*id)).collect();
    if objects.is_empty() {
        return Err(ExceptionCode::IllegalDataAddress);
    }
    let mut pdu = vec![0x2B, 0x0E, code, CONFORMITY, 0, 0, objects.len() as u8];
    for (id, text) in objects {
        pdu.extend([*id, text.len() as u8]);
        pdu.extend(text.as_bytes());
    }
    Ok(pdu)
}

/// Puts what was written in place of a value's own bytes; whether there was any.
fn overwrite(
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
