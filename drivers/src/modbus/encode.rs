//! Values to what a write sends: the counterpart of the decoder for every type that can be read.
//!
//! Raw values: scaling and the names of an enumeration are undone before. Nothing is cut, rounded or
//! guessed: what the device could not give back as it was written is refused, with the range.

use millrace_tags::Value;
use serde_json::Value as Json;

use super::address::Address;
use super::datatype::{DataType, WordOrder};
use super::point::PointSpec;

/// What a write sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Encoded {
    /// Coils, from the address on.
    Bits(Vec<bool>),
    /// Registers, from the address on.
    Registers(Vec<u16>),
    /// Some bits of the one register at the address; its others keep what they are worth. As function 22
    /// has it, the register becomes `(register & and) | (or & !and)`.
    Masked {
        /// Set where a bit keeps its value.
        and: u16,
        /// The value of the others.
        or: u16,
    },
}

/// Why a value cannot be written.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum EncodeError {
    /// Modbus has no function that writes this table.
    #[error("{address} can only be read")]
    ReadOnly {
        /// Where.
        address: Address,
    },
    /// A value of another kind: write one that is expected.
    #[error("{value} is no value of type {data_type} for {address}, which takes {expected}")]
    Kind {
        /// Where.
        address: Address,
        /// The type.
        data_type: DataType,
        /// The value.
        value: String,
        /// What it takes.
        expected: String,
    },
    /// A number that the type cannot hold.
    #[error("{value} does not fit {data_type} at {address}: the range is {low} to {high}")]
    Range {
        /// Where.
        address: Address,
        /// The type.
        data_type: DataType,
        /// The value.
        value: String,
        /// The lowest.
        low: String,
        /// The highest.
        high: String,
    },
    /// A number that would be read back as another one.
    #[error("{value} would become {nearest} as {data_type} at {address}")]
    Inexact {
        /// Where.
        address: Address,
        /// The type.
        data_type: DataType,
        /// The value.
        value: String,
        /// What the device would hold.
        nearest: String,
    },
    /// A text that is too long, or would end early.
    #[error("the text {value:?} does not fit {data_type} at {address}: {problem}")]
    Text {
        /// Where.
        address: Address,
        /// The type.
        data_type: DataType,
        /// The value.
        value: String,
        /// Why.
        problem: String,
    },
    /// An element of an array.
    #[error("element {index} of the array for {address}")]
    Element {
        /// Which, counted from 0.
        index: usize,
        /// Where the array is.
        address: Address,
        /// What is wrong with it.
        #[source]
        source: Box<EncodeError>,
    },
}

/// What a write of this value sends.
///
/// Whole floats are taken for integers, integers and f64 for floats, the latter rounded to the nearest
/// f32. A bool may be 0 or 1. An `i8` or `u8` leaves the other byte of its register as it is, in an
/// array it clears it.
///
/// # Errors
/// The table cannot be written, or the value does not fit the type.
pub fn encode(spec: &PointSpec, value: &Value) -> Result<Encoded, EncodeError> {
    let target = Target {
        address: spec.address(),
        data_type: spec.data_type(),
    };
    if !spec.address().table.is_writable() {
        return Err(EncodeError::ReadOnly {
            address: spec.address(),
        });
    }
    if spec.address().table.is_bits() {
        return target.coils(value).map(Encoded::Bits);
    }
    let order = spec.order();
    if let Some(bits) = spec.address().bit {
        let number = match (spec.data_type(), spec.whole_range()) {
            (DataType::Bool, _) | (_, None) => i128::from(target.bit(value)?),
            (_, Some((low, high))) => target.integer(value, low, high)?,
        };
        return Ok(masked(
            bits.mask(),
            (number as u16) << bits.first() & bits.mask(),
            order,
        ));
    }
    if let DataType::I8 | DataType::U8 = spec.data_type() {
        let byte = target.whole(value)? as u16 & 0x00FF;
        return Ok(masked(0x00FF, byte, order));
    }
    let words = match spec.data_type() {
        DataType::Array(element, count) => {
            let mut words = Vec::new();
            let element = Target {
                data_type: element.data_type(),
                ..target
            };
            for (index, value) in target.elements(value, count)?.iter().enumerate() {
                let encoded = element
                    .words(value)
                    .map_err(|source| EncodeError::Element {
                        index,
                        address: target.address,
                        source: Box::new(source),
                    })?;
                words.extend(in_order(encoded, order));
            }
            words
        }
        _ => in_order(target.words(value)?, order),
    };
    Ok(Encoded::Registers(words))
}

fn masked(mask: u16, bits: u16, order: WordOrder) -> Encoded {
    let swap = |word: u16| {
        if order.swaps_bytes() {
            word.swap_bytes()
        } else {
            word
        }
    };
    Encoded::Masked {
        and: swap(!mask),
        or: swap(bits),
    }
}

fn in_order(mut words: Vec<u16>, order: WordOrder) -> Vec<u16> {
    if order.reverses_words() {
        words.reverse();
    }
    if order.swaps_bytes() {
        words.iter_mut().for_each(|word| *word = word.swap_bytes());
    }
    words
}

/// Where a value goes and as what: for the errors.
#[derive(Clone, Copy)]
struct Target {
    address: Address,
    data_type: DataType,
}

impl Target {
    fn coils(&self, value: &Value) -> Result<Vec<bool>, EncodeError> {
        let DataType::Array(_, count) = self.data_type else {
            return Ok(vec![self.bit(value)?]);
        };
        let elements = self.elements(value, count)?;
        let bits = elements.iter().enumerate().map(|(index, value)| {
            self.bit(value).map_err(|source| EncodeError::Element {
                index,
                address: self.address,
                source: Box::new(source),
            })
        });
        bits.collect()
    }

    /// Most significant register first.
    fn words(&self, value: &Value) -> Result<Vec<u16>, EncodeError> {
        Ok(match self.data_type {
            DataType::Bool => vec![u16::from(self.bit(value)?)],
            DataType::I8 | DataType::U8 => vec![self.whole(value)? as u16 & 0x00FF],
            DataType::I16
            | DataType::I32
            | DataType::I48
            | DataType::I64
            | DataType::U16
            | DataType::U32
            | DataType::U48
            | DataType::U64 => low_words(self.whole(value)? as u64, self.registers()),
            DataType::Bcd16 | DataType::Bcd32 | DataType::Bcd48 | DataType::Bcd64 => {
                low_words(digits(self.whole(value)? as u64), self.registers())
            }
            DataType::F32 => low_words(u64::from(self.single(value)?.to_bits()), 2),
            DataType::F64 => low_words(self.double(value)?.to_bits(), 4),
            DataType::Text(length) => self.text(value, usize::from(length))?,
            // Neither a request nor a configuration has arrays of arrays.
            DataType::Array(..) => return Err(self.kind(value, "one value".to_owned())),
        })
    }

    fn bit(&self, value: &Value) -> Result<bool, EncodeError> {
        match value {
            Value::Bool(bit) => Ok(*bit),
            Value::I64(0) | Value::U64(0) => Ok(false),
            Value::I64(1) | Value::U64(1) => Ok(true),
            _ => Err(self.kind(value, "true, false, 1 or 0".to_owned())),
        }
    }

    fn registers(&self) -> usize {
        usize::from(self.data_type.registers())
    }

    /// A whole number of the type.
    fn whole(&self, value: &Value) -> Result<i128, EncodeError> {
        // Asked for types of whole numbers only; of others none is in range.
        let (low, high) = self.data_type.whole_range().unwrap_or((1, 0));
        self.integer(value, low, high)
    }

    /// A whole number within the range.
    fn integer(&self, value: &Value, low: i128, high: i128) -> Result<i128, EncodeError> {
        let float = |number: f64| {
            // Beyond 2^64 it fits no type; the cast keeps that so.
            if number.is_finite() && number.fract() == 0.0 {
                Some(number as i128)
            } else {
                None
            }
        };
        let number = match value {
            Value::I64(number) => Some(i128::from(*number)),
            Value::U64(number) => Some(i128::from(*number)),
            Value::F64(number) => float(*number),
            Value::F32(number) => float(f64::from(*number)),
            _ => None,
        };
        let Some(number) = number else {
            return Err(self.kind(value, format!("whole numbers from {low} to {high}")));
        };
        if !(low..=high).contains(&number) {
            return Err(EncodeError::Range {
                address: self.address,
                data_type: self.data_type,
                value: shown(value),
                low: low.to_string(),
                high: high.to_string(),
            });
        }
        Ok(number)
    }

    fn single(&self, value: &Value) -> Result<f32, EncodeError> {
        let single = match value {
            Value::F32(number) => *number,
            // To the nearest; 0.1 has no exact f32 and nobody means another number by it.
            Value::F64(number) => *number as f32,
            _ => self.exact(value, |whole| f64::from(whole as f32))? as f32,
        };
        if single.is_finite() {
            return Ok(single);
        }
        if value.as_f64().is_some_and(f64::is_finite) {
            return Err(EncodeError::Range {
                address: self.address,
                data_type: self.data_type,
                value: shown(value),
                low: format!("{:e}", f32::MIN),
                high: format!("{:e}", f32::MAX),
            });
        }
        Err(self.kind(value, "finite numbers".to_owned()))
    }

    fn double(&self, value: &Value) -> Result<f64, EncodeError> {
        let double = match value {
            Value::F64(number) => *number,
            Value::F32(number) => f64::from(*number),
            _ => self.exact(value, |whole| whole as f64)?,
        };
        if double.is_finite() {
            return Ok(double);
        }
        Err(self.kind(value, "finite numbers".to_owned()))
    }

    /// A whole number that the float holds exactly: a set point of 16777217 must not become 16777216.
    fn exact(&self, value: &Value, round: fn(i128) -> f64) -> Result<f64, EncodeError> {
        let whole = match value {
            Value::I64(number) => i128::from(*number),
            Value::U64(number) => i128::from(*number),
            _ => return Err(self.kind(value, "numbers".to_owned())),
        };
        let nearest = round(whole);
        if nearest as i128 == whole {
            return Ok(nearest);
        }
        Err(EncodeError::Inexact {
            address: self.address,
            data_type: self.data_type,
            value: shown(value),
            nearest: format!("{nearest}"),
        })
    }

    fn text(&self, value: &Value, length: usize) -> Result<Vec<u16>, EncodeError> {
        let Value::Text(text) = value else {
            return Err(self.kind(value, "text".to_owned()));
        };
        let problem = if text.len() > length {
            format!("it has {} bytes", text.len())
        } else if text.contains('\0') {
            "it would end at the NUL in it".to_owned()
        } else if text.ends_with(' ') {
            "spaces at its end are not read back".to_owned()
        } else {
            let mut bytes = text.as_bytes().to_vec();
            bytes.resize(length.next_multiple_of(2), 0);
            let words = bytes.chunks_exact(2);
            return Ok(words
                .map(|word| u16::from_be_bytes([word[0], word[1]]))
                .collect());
        };
        Err(EncodeError::Text {
            address: self.address,
            data_type: self.data_type,
            value: text.to_string(),
            problem,
        })
    }

    fn elements(&self, value: &Value, count: u16) -> Result<Vec<Value>, EncodeError> {
        let wrong = || self.kind(value, format!("a JSON array of {count} elements"));
        let (Value::Json(json) | Value::Text(json)) = value else {
            return Err(wrong());
        };
        let elements: Vec<Json> = serde_json::from_str(json).map_err(|_| wrong())?;
        if elements.len() != usize::from(count) {
            return Err(wrong());
        }
        let value = |element: &Json| match element {
            Json::Bool(bit) => Some(Value::Bool(*bit)),
            Json::Number(number) => (number.as_u64().map(Value::U64))
                .or_else(|| number.as_i64().map(Value::I64))
                .or_else(|| number.as_f64().map(Value::F64)),
            _ => None,
        };
        elements
            .iter()
            .map(|e| value(e).ok_or_else(wrong))
            .collect()
    }

    fn kind(&self, value: &Value, expected: String) -> EncodeError {
        EncodeError::Kind {
            address: self.address,
            data_type: self.data_type,
            value: shown(value),
            expected,
        }
    }
}

/// The least significant registers of a number, most significant first.
fn low_words(number: u64, registers: usize) -> Vec<u16> {
    (0..registers)
        .rev()
        .map(|i| (number >> (i * 16)) as u16)
        .collect()
}

/// Four bits for each decimal digit.
fn digits(mut number: u64) -> u64 {
    let mut packed = 0;
    for digit in 0..16 {
        packed |= (number % 10) << (digit * 4);
        number /= 10;
    }
    packed
}

pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::Bool(bit) => bit.to_string(),
        Value::I64(number) => number.to_string(),
        Value::U64(number) => number.to_string(),
        Value::F64(number) => number.to_string(),
        Value::F32(number) => number.to_string(),
        Value::Text(text) => format!("{text:?}"),
        Value::Bytes(bytes) => format!("{} bytes", bytes.len()),
        Value::Json(json) => json.to_string(),
    }
}

#[cfg(test)]
mod tests;
