//! Reply bytes to values: every type in every order.
//!
//! Only raw values: scaling is the pipeline's. What is no value of its type gets a [`Reason`], never a
//! NaN and never a guess.

use std::fmt::Write;
use std::sync::Arc;

use millrace_tags::{Reason, Value, ValueType};

use super::address::Bits;
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
    /// So many bits from there on.
    PackedBits { first: u8, count: u16 },
    /// A bit of the register at `at`.
    RegisterBit(u8),
    /// Several bits of the register at `at`, as an unsigned number or as two's complement.
    RegisterBits { bits: Bits, signed: bool },
    /// A value of one or more registers.
    Registers(DataType),
}

impl Extract {
    /// How `spec` is found in the reply to `request`, which must cover it.
    pub(crate) fn new(spec: &PointSpec, request: &Request) -> Self {
        let distance = spec.address().offset - request.start;
        let (at, kind) = if request.table.is_bits() {
            let first = (distance % 8) as u8;
            let kind = match spec.data_type() {
                DataType::Array(_, count) => Kind::PackedBits { first, count },
                _ => Kind::PackedBit(first),
            };
            (distance / 8, kind)
        } else {
            (distance * 2, register_kind(spec))
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
            Kind::PackedBit(bit) => packed_bit(bytes, u16::from(bit)).map(Value::Bool),
            Kind::PackedBits { first, count } => {
                let bits = (0..count).map(|i| packed_bit(bytes, u16::from(first) + i));
                array(bits.map(|bit| bit.map(Value::Bool)))
            }
            Kind::RegisterBit(bit) => {
                let register = u16::from_be_bytes(words(bytes, self.order)?);
                Ok(Value::Bool(register >> bit & 1 == 1))
            }
            Kind::RegisterBits { bits, signed } => {
                let register = u16::from_be_bytes(words(bytes, self.order)?);
                let number = (register & bits.mask()) >> bits.first();
                let above = 16 - bits.count();
                Ok(if signed {
                    Value::I64(i64::from((number << above) as i16 >> above))
                } else {
                    Value::U64(u64::from(number))
                })
            }
            Kind::Registers(data_type) => registers(data_type, bytes, self.order),
        }
    }
}

fn register_kind(spec: &PointSpec) -> Kind {
    match (spec.address().bit, spec.data_type()) {
        (Some(bits), DataType::Bool) => Kind::RegisterBit(bits.first()),
        (Some(bits), data_type) => Kind::RegisterBits {
            bits,
            signed: data_type.value_type() == ValueType::I64,
        },
        (None, data_type) => Kind::Registers(data_type),
    }
}

fn packed_bit(bytes: &[u8], bit: u16) -> Result<bool, Reason> {
    let byte = bytes.get(usize::from(bit / 8));
    byte.map(|byte| byte >> (bit % 8) & 1 == 1)
        .ok_or(Reason::InvalidReply)
}

fn registers(data_type: DataType, bytes: &[u8], order: WordOrder) -> Result<Value, Reason> {
    Ok(match data_type {
        DataType::Bool => Value::Bool(words(bytes, order)? != [0, 0]),
        DataType::I8 => Value::I64(i64::from(low_byte(bytes, order)? as i8)),
        DataType::U8 => Value::U64(u64::from(low_byte(bytes, order)?)),
        DataType::I16 => Value::I64(i64::from(i16::from_be_bytes(words(bytes, order)?))),
        DataType::U16 => Value::U64(u64::from(u16::from_be_bytes(words(bytes, order)?))),
        DataType::I32 => Value::I64(i64::from(i32::from_be_bytes(words(bytes, order)?))),
        DataType::U32 => Value::U64(u64::from(u32::from_be_bytes(words(bytes, order)?))),
        DataType::I48 => Value::I64((six_bytes(bytes, order)? << 16) as i64 >> 16),
        DataType::U48 => Value::U64(six_bytes(bytes, order)?),
        DataType::I64 => Value::I64(i64::from_be_bytes(words(bytes, order)?)),
        DataType::U64 => Value::U64(u64::from_be_bytes(words(bytes, order)?)),
        DataType::F32 => finite_f32(f32::from_be_bytes(words(bytes, order)?))?,
        DataType::F64 => finite_f64(f64::from_be_bytes(words(bytes, order)?))?,
        DataType::Bcd16 => Value::U64(digits(&words::<2>(bytes, order)?)?),
        DataType::Bcd32 => Value::U64(digits(&words::<4>(bytes, order)?)?),
        DataType::Bcd48 => Value::U64(digits(&words::<6>(bytes, order)?)?),
        DataType::Bcd64 => Value::U64(digits(&words::<8>(bytes, order)?)?),
        DataType::Text(length) => Value::Text(text(bytes, usize::from(length), order)?),
        DataType::Array(element, count) => {
            let element = element.data_type();
            let length = usize::from(element.registers()) * 2;
            array((0..usize::from(count)).map(|i| {
                let bytes = bytes.get(i * length..).unwrap_or_default();
                registers(element, bytes, order)
            }))?
        }
    })
}

/// The elements as JSON text, `null` for what is no value.
fn array(elements: impl Iterator<Item = Result<Value, Reason>>) -> Result<Value, Reason> {
    let mut json = String::from("[");
    for (i, element) in elements.enumerate() {
        if i > 0 {
            json.push(',');
        }
        // Writing to a String cannot fail. Floats are finite, and print as JSON has them.
        let _ = match element {
            Ok(Value::Bool(bit)) => write!(json, "{bit}"),
            Ok(Value::I64(number)) => write!(json, "{number}"),
            Ok(Value::U64(number)) => write!(json, "{number}"),
            Ok(Value::F32(number)) => write!(json, "{number}"),
            Ok(Value::F64(number)) => write!(json, "{number}"),
            Err(Reason::InvalidReply) => return Err(Reason::InvalidReply),
            // No element is a text or an array.
            Ok(_) | Err(_) => write!(json, "null"),
        };
    }
    json.push(']');
    Ok(Value::Json(Arc::from(json)))
}

/// The value's `N` bytes, an even number, most significant first.
fn words<const N: usize>(bytes: &[u8], order: WordOrder) -> Result<[u8; N], Reason> {
    let mut words = *bytes.first_chunk::<N>().ok_or(Reason::InvalidReply)?;
    match order {
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

fn low_byte(bytes: &[u8], order: WordOrder) -> Result<u8, Reason> {
    words::<2>(bytes, order).map(|[_, low]| low)
}

fn six_bytes(bytes: &[u8], order: WordOrder) -> Result<u64, Reason> {
    let [a, b, c, d, e, f] = words(bytes, order)?;
    Ok(u64::from_be_bytes([0, 0, a, b, c, d, e, f]))
}

fn text(bytes: &[u8], length: usize, order: WordOrder) -> Result<Arc<str>, Reason> {
    let registers = bytes.get(..length.next_multiple_of(2));
    let mut text = registers.ok_or(Reason::InvalidReply)?.to_vec();
    if order.swaps_bytes() {
        swap_pairs(&mut text);
    }
    text.truncate(length);
    let end = text.iter().position(|b| *b == 0).unwrap_or(length);
    let text = std::str::from_utf8(&text[..end]).map_err(|_| Reason::InvalidEncoding)?;
    Ok(Arc::from(text.trim_end_matches(' ')))
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
