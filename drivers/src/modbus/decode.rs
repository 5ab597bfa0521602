//! Reply bytes to values: every type in every order.
//!
//! Only raw values: scaling is the pipeline's. What is no value of its type gets a [`Reason`], never a
//! NaN and never a guess.

use std::sync::Arc;

use millrace_tags::{Reason, Value};

use super::datatype::{DataType, WordOrder};
use super::plan::Request;
use super::point::PointSpec;

/// Where and how a point's value is taken out of a reply's data bytes; worked out once, with the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extract {
    /// The first byte.
    at: u16,
    kind: Kind,
    order: WordOrder,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A bit of the byte at `at`, from a table of bits.
    PackedBit(u8),
    /// A bit of the register at `at`.
    RegisterBit(u8),
    /// A value of one or more registers.
    Registers(DataType),
}

impl Extract {
    /// How `spec` is found in the reply to `request`, which must cover it.
    pub(crate) fn new(spec: &PointSpec, request: &Request) -> Self {
        let distance = spec.address().offset - request.start;
        let (at, kind) = match spec.address().bit {
            _ if request.table.is_bits() => (distance / 8, Kind::PackedBit((distance % 8) as u8)),
            Some(bit) => (distance * 2, Kind::RegisterBit(bit)),
            None => (distance * 2, Kind::Registers(spec.data_type())),
        };
        Self {
            at,
            kind,
            order: spec.order(),
        }
    }

    /// The value in these data bytes, which are as many as the request asked for.
    pub(crate) fn value(&self, data: &[u8]) -> Result<Value, Reason> {
        // The reply's length was checked; a slice that is too short all the same is our bug, and
        // even then no value is made of it.
        let bytes = data.get(usize::from(self.at)..).unwrap_or_default();
        match self.kind {
            Kind::PackedBit(bit) => {
                let byte = bytes.first().ok_or(Reason::InvalidReply)?;
                Ok(Value::Bool(byte >> bit & 1 == 1))
            }
            Kind::RegisterBit(bit) => {
                let register = u16::from_be_bytes(self.words(bytes)?);
                Ok(Value::Bool(register >> bit & 1 == 1))
            }
            Kind::Registers(data_type) => self.registers(data_type, bytes),
        }
    }

    fn registers(&self, data_type: DataType, bytes: &[u8]) -> Result<Value, Reason> {
        Ok(match data_type {
            DataType::Bool => Value::Bool(self.words(bytes)? != [0, 0]),
            DataType::I8 => Value::I64(i64::from(self.low_byte(bytes)? as i8)),
            DataType::U8 => Value::U64(u64::from(self.low_byte(bytes)?)),
            DataType::I16 => Value::I64(i64::from(i16::from_be_bytes(self.words(bytes)?))),
            DataType::U16 => Value::U64(u64::from(u16::from_be_bytes(self.words(bytes)?))),
            DataType::I32 => Value::I64(i64::from(i32::from_be_bytes(self.words(bytes)?))),
            DataType::U32 => Value::U64(u64::from(u32::from_be_bytes(self.words(bytes)?))),
            DataType::I64 => Value::I64(i64::from_be_bytes(self.words(bytes)?)),
            DataType::U64 => Value::U64(u64::from_be_bytes(self.words(bytes)?)),
            DataType::F32 => finite_f32(f32::from_be_bytes(self.words(bytes)?))?,
            DataType::F64 => finite_f64(f64::from_be_bytes(self.words(bytes)?))?,
            DataType::Bcd16 => Value::U64(digits(&self.words::<2>(bytes)?)?),
            DataType::Bcd32 => Value::U64(digits(&self.words::<4>(bytes)?)?),
            DataType::Text(length) => Value::Text(self.text(bytes, usize::from(length))?),
        })
    }

    /// The value's `N` bytes, an even number, most significant first.
    fn words<const N: usize>(&self, bytes: &[u8]) -> Result<[u8; N], Reason> {
        let mut words = *bytes.first_chunk::<N>().ok_or(Reason::InvalidReply)?;
        match self.order {
            WordOrder::Abcd => {}
            WordOrder::Badc => swap_pairs(&mut words),
            WordOrder::Cdab => {
                words.reverse();
                swap_pairs(&mut words);
            }
            WordOrder::Dcba => words.reverse(),
        }
        Ok(words)
    }

    fn low_byte(&self, bytes: &[u8]) -> Result<u8, Reason> {
        self.words::<2>(bytes).map(|[_, low]| low)
    }

    fn text(&self, bytes: &[u8], length: usize) -> Result<Arc<str>, Reason> {
        let registers = bytes.get(..length.next_multiple_of(2));
        let mut text = registers.ok_or(Reason::InvalidReply)?.to_vec();
        if self.order.swaps_bytes() {
            swap_pairs(&mut text);
        }
        text.truncate(length);
        let end = text.iter().position(|b| *b == 0).unwrap_or(length);
        let text = std::str::from_utf8(&text[..end]).map_err(|_| Reason::InvalidEncoding)?;
        Ok(Arc::from(text.trim_end_matches(' ')))
    }
}

fn swap_pairs(bytes: &mut [u8]) {
    for pair in bytes.chunks_exact_mut(2) {
        pair.swap(0, 1);
    }
}

fn finite_f32(value: f32) -> Result<Value, Reason> {
    if value.is_finite() {
        Ok(Value::F32(value))
    } else {
        Err(Reason::NotANumber)
    }
}

fn finite_f64(value: f64) -> Result<Value, Reason> {
    if value.is_finite() {
        Ok(Value::F64(value))
    } else {
        Err(Reason::NotANumber)
    }
}

/// Two decimal digits a byte.
fn digits(bytes: &[u8]) -> Result<u64, Reason> {
    bytes.iter().try_fold(0, |number, byte| {
        let (high, low) = (byte >> 4, byte & 0x0F);
        if high > 9 || low > 9 {
            return Err(Reason::InvalidEncoding);
        }
        Ok(number * 100 + u64::from(high) * 10 + u64::from(low))
    })
}

#[cfg(test)]
mod tests;
