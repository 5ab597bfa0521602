//! Values to register bytes: the counterpart of the driver's decoder, written apart from it.

use crate::modbus::{Bits, DataType, PointSpec, WordOrder};

/// A value as it is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Encoded {
    /// The bytes of its registers, as they go over the wire; one byte, 0 or 1, for a coil.
    pub(super) bytes: Vec<u8>,
    /// The value's own bits: of the float, of the integer as two's complement, 0 for a text or an array.
    pub(super) bits: u64,
}

/// Encodes a number, or a text for text. What does not fit into the type is cut to its range. Element `i`
/// of an array is `i` more than the number.
pub(super) fn encode(spec: &PointSpec, number: f64, text: Option<&str>) -> Encoded {
    let elements = match spec.data_type() {
        DataType::Array(element, count) => Some((element.data_type(), count)),
        _ => None,
    };
    let numbers = (0..elements.map_or(1, |(_, count)| count)).map(|i| number + f64::from(i));
    if spec.address().table.is_bits() {
        let bytes: Vec<u8> = numbers.map(|number| u8::from(number != 0.0)).collect();
        let bits = if elements.is_none() {
            u64::from(bytes[0])
        } else {
            0
        };
        return Encoded { bytes, bits };
    }
    let Some((element, _)) = elements else {
        let (bytes, bits) = match spec.address().bit {
            Some(field) if spec.data_type() != DataType::Bool => {
                let bits = number.round() as i64 as u16 & (field.mask() >> field.first());
                let register = bits << field.first();
                (register.to_be_bytes().to_vec(), u64::from(bits))
            }
            _ => big_endian(spec, spec.data_type(), number, text),
        };
        let bytes = in_order(bytes, spec.order());
        return Encoded { bytes, bits };
    };
    let bytes = numbers.flat_map(|number| {
        let (bytes, _) = big_endian(spec, element, number, None);
        in_order(bytes, spec.order())
    });
    Encoded {
        bytes: bytes.collect(),
        bits: 0,
    }
}

/// The value's own bits, as in [`Encoded`], of registers that were written.
pub(super) fn bits_of(spec: &PointSpec, bytes: &[u8]) -> u64 {
    if spec.address().table.is_bits() {
        return u64::from(bytes.first().copied().unwrap_or(0));
    }
    // Both steps of an order undo themselves.
    let bytes = in_order(bytes.to_vec(), spec.order());
    let number = bytes
        .iter()
        .take(8)
        .fold(0u64, |number, byte| number << 8 | u64::from(*byte));
    let signed = |bits: u32| ((number << (64 - bits)) as i64 >> (64 - bits)) as u64;
    if let Some(field) = spec.address().bit {
        return number >> field.first() & u64::from(field.mask() >> field.first());
    }
    match spec.data_type() {
        DataType::Bool => u64::from(number != 0),
        DataType::I8 => signed(8),
        DataType::U8 => number & 0xFF,
        DataType::I16 => signed(16),
        DataType::I32 => signed(32),
        DataType::I48 => signed(48),
        DataType::Bcd16 | DataType::Bcd32 | DataType::Bcd48 | DataType::Bcd64 => {
            (0..16).rev().fold(0, |decimal, digit| {
                decimal * 10 + (number >> (digit * 4) & 0xF)
            })
        }
        DataType::Text(_) | DataType::Array(..) => 0,
        DataType::U16
        | DataType::U32
        | DataType::U48
        | DataType::I64
        | DataType::U64
        | DataType::F32
        | DataType::F64 => number,
    }
}

fn in_order(mut bytes: Vec<u8>, order: WordOrder) -> Vec<u8> {
    if order.reverses_words() {
        let words: Vec<[u8; 2]> = bytes.chunks_exact(2).map(|w| [w[0], w[1]]).collect();
        bytes = words.into_iter().rev().flatten().collect();
    }
    if order.swaps_bytes() {
        bytes = bytes.chunks_exact(2).flat_map(|w| [w[1], w[0]]).collect();
    }
    bytes
}

fn big_endian(
    spec: &PointSpec,
    data_type: DataType,
    number: f64,
    text: Option<&str>,
) -> (Vec<u8>, u64) {
    // `as` cuts a float to the integer's range, and NaN to 0.
    let whole = number.round();
    let signed = |value: i64, bytes: &[u8]| (bytes.to_vec(), value as u64);
    match data_type {
        DataType::Bool => {
            let bit = u16::from(number != 0.0);
            let register = bit << spec.address().bit.map_or(0, Bits::first);
            (register.to_be_bytes().to_vec(), u64::from(bit))
        }
        DataType::I8 => signed(i64::from(whole as i8), &[0, whole as i8 as u8]),
        DataType::U8 => (vec![0, whole as u8], u64::from(whole as u8)),
        DataType::I16 => signed(i64::from(whole as i16), &(whole as i16).to_be_bytes()),
        DataType::U16 => (
            (whole as u16).to_be_bytes().to_vec(),
            u64::from(whole as u16),
        ),
        DataType::I32 => signed(i64::from(whole as i32), &(whole as i32).to_be_bytes()),
        DataType::U32 => (
            (whole as u32).to_be_bytes().to_vec(),
            u64::from(whole as u32),
        ),
        DataType::I48 => {
            let most = (1i64 << 47) - 1;
            let value = (whole as i64).clamp(-most - 1, most);
            signed(value, &value.to_be_bytes()[2..])
        }
        DataType::U48 => {
            let value = (whole as u64).min((1 << 48) - 1);
            (value.to_be_bytes()[2..].to_vec(), value)
        }
        DataType::I64 => signed(whole as i64, &(whole as i64).to_be_bytes()),
        DataType::U64 => ((whole as u64).to_be_bytes().to_vec(), whole as u64),
        DataType::F32 => {
            let float = number as f32;
            (float.to_be_bytes().to_vec(), u64::from(float.to_bits()))
        }
        DataType::F64 => (number.to_be_bytes().to_vec(), number.to_bits()),
        DataType::Bcd16 => bcd(whole as u64 % 10_000, 2),
        DataType::Bcd32 => bcd(whole as u64 % 100_000_000, 4),
        DataType::Bcd48 => bcd(whole as u64 % 1_000_000_000_000, 6),
        DataType::Bcd64 => bcd(whole as u64 % 10_000_000_000_000_000, 8),
        DataType::Text(length) => {
            let text = text.map_or_else(|| number.to_string(), str::to_owned);
            let mut bytes = text.into_bytes();
            bytes.truncate(usize::from(length));
            bytes.resize(usize::from(spec.registers()) * 2, 0);
            (bytes, 0)
        }
        // No array has arrays for elements.
        DataType::Array(..) => (Vec::new(), 0),
    }
}

fn bcd(number: u64, count: usize) -> (Vec<u8>, u64) {
    let mut rest = number;
    let mut bytes = vec![0; count];
    for byte in bytes.iter_mut().rev() {
        let pair = (rest % 100) as u8;
        *byte = ((pair / 10) << 4) | (pair % 10);
        rest /= 100;
    }
    (bytes, number)
}
