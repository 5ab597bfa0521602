//! Values to register bytes: the counterpart of the driver's decoder, written apart from it.

use crate::modbus::{DataType, PointSpec};

/// A value as it is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Encoded {
    /// The bytes of its registers, as they go over the wire; one byte, 0 or 1, for a coil.
    pub(super) bytes: Vec<u8>,
    /// The value's own bits: of the float, of the integer as two's complement, 0 for a text.
    pub(super) bits: u64,
}

/// Encodes a number, or a text for text. What does not fit into the type is cut to its range.
pub(super) fn encode(spec: &PointSpec, number: f64, text: Option<&str>) -> Encoded {
    if spec.address().table.is_bits() {
        let bit = u8::from(number != 0.0);
        return Encoded {
            bytes: vec![bit],
            bits: u64::from(bit),
        };
    }
    let (mut bytes, bits) = big_endian(spec, number, text);
    if spec.order().reverses_words() {
        let words: Vec<[u8; 2]> = bytes.chunks_exact(2).map(|w| [w[0], w[1]]).collect();
        bytes = words.into_iter().rev().flatten().collect();
    }
    if spec.order().swaps_bytes() {
        bytes = bytes.chunks_exact(2).flat_map(|w| [w[1], w[0]]).collect();
    }
    Encoded { bytes, bits }
}

fn big_endian(spec: &PointSpec, number: f64, text: Option<&str>) -> (Vec<u8>, u64) {
    // `as` cuts a float to the integer's range, and NaN to 0.
    let whole = number.round();
    let signed = |value: i64, bytes: &[u8]| (bytes.to_vec(), value as u64);
    match spec.data_type() {
        DataType::Bool => {
            let bit = u16::from(number != 0.0);
            let register = bit << spec.address().bit.unwrap_or(0);
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
        DataType::I64 => signed(whole as i64, &(whole as i64).to_be_bytes()),
        DataType::U64 => ((whole as u64).to_be_bytes().to_vec(), whole as u64),
        DataType::F32 => {
            let float = number as f32;
            (float.to_be_bytes().to_vec(), u64::from(float.to_bits()))
        }
        DataType::F64 => (number.to_be_bytes().to_vec(), number.to_bits()),
        DataType::Bcd16 => bcd(whole as u64 % 10_000, 2),
        DataType::Bcd32 => bcd(whole as u64 % 100_000_000, 4),
        DataType::Text(length) => {
            let text = text.map_or_else(|| number.to_string(), str::to_owned);
            let mut bytes = text.into_bytes();
            bytes.truncate(usize::from(length));
            bytes.resize(usize::from(spec.registers()) * 2, 0);
            (bytes, 0)
        }
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
