//! The registers of a simulated device, what they are worth now, and what was served of them.

mod cell;
mod identity;
mod ledger;
mod recording;

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use tokio::time::Instant;
use tokio_modbus::{ExceptionCode, Request};

use super::encode::bits_of;
use super::faults::{Fault, Faults};
use super::frame::Framing;
use super::map::{RegisterMap, Source};
use super::replay::Advance;
use crate::modbus::Table;
use crate::modbus::plan::COILS_MAX;
use crate::sim::signal::Signal;
use cell::{Cell, extents, generator, overwrite, put};
use identity::identify;
use ledger::Ledger;
pub use ledger::{Counts, Exchange, Served, ServedValue};
use recording::Playing;

/// Most that functions 16, 15 and 23 can write (Modbus Application Protocol V1.1b3, 6.12, 6.11, 6.17).
const REGISTERS_WRITE_MAX: usize = 123;
const COILS_WRITE_MAX: usize = 1968;
const READ_WRITE_MAX: usize = 121;

/// Set in the function code of an exception.
const EXCEPTION_FLAG: u8 = 0x80;

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
    pub(super) ledger: Ledger,
    pub(super) faults: Faults,
    /// Faults for the next requests.
    pub(super) injected: VecDeque<Fault>,
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
            ledger: Ledger::default(),
            faults,
            injected: VecDeque::new(),
        }
    }

    /// Counts a request; the fault that it meets.
    pub(super) fn begin_request(&mut self, function: u8, framing: Framing) -> Option<Fault> {
        *self.ledger.counts.requests.entry(function).or_default() += 1;
        let nth = self.ledger.counts.requests.values().sum();
        let injected = self.injected.pop_front();
        let fault = injected.or_else(|| self.faults.of_request(nth, &mut self.rng));
        let fault = fault.filter(|fault| fault.suits(framing))?;
        *self.ledger.counts.faults.entry(fault.name()).or_default() += 1;
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
        for &(i, bits) in &data.whole {
            let cell = &mut self.cells[i];
            cell.served += 1;
            cell.generator.served();
            self.ledger.served(&cell.entry.name, bits);
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
            total: self.ledger.served_total,
            tags: tags
                .map(|c| (Arc::clone(&c.entry.name), c.served))
                .collect(),
        }
    }

    pub(super) fn rng(&mut self) -> &mut fastrand::Rng {
        &mut self.rng
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
