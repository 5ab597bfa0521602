//! What is read from a device for one tag.

use std::sync::Arc;
use std::time::Duration;

use millrace_tags::{Moment, Quality, Reason, TagId, Value, ValueType};

use super::address::{Address, Bits};
use super::datatype::{DataType, Element, WordOrder};
use super::encode::shown;
use super::plan::{COILS_MAX, REGISTERS_MAX};
use super::scale::{ScaleError, ScaleRegister, is_number};
use super::states::States;
use super::total::{Counting, Total};
use crate::WriteError;

/// The address space of a table ends here.
const TABLE_END: u32 = 0x1_0000;

/// A value of a device: where it lives and how it is read. The three parts fit together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PointSpec {
    address: Address,
    data_type: DataType,
    order: WordOrder,
    scale: Option<ScaleRegister>,
}

impl PointSpec {
    /// Checks that the parts fit together.
    ///
    /// # Errors
    /// A number in a table of bits, a bit of something that is no `bool`, a value past the end of its
    /// table, a text with its registers reversed.
    pub fn new(
        address: Address,
        data_type: DataType,
        order: WordOrder,
    ) -> Result<Self, PointError> {
        let spec = Self {
            address,
            data_type,
            order,
            scale: None,
        };
        if address.table.is_bits() && !is_of_bools(data_type) {
            return Err(PointError::NumberInBits { address, data_type });
        }
        if address.bit.is_some_and(|bits| !fits_bits(data_type, bits)) {
            return Err(PointError::BitOfNumber { address, data_type });
        }
        let most = if address.table.is_bits() {
            COILS_MAX
        } else {
            REGISTERS_MAX
        };
        if spec.registers() > most {
            return Err(PointError::TooLong {
                address,
                data_type,
                most,
            });
        }
        if matches!(data_type, DataType::Text(_)) && order.reverses_words() {
            return Err(PointError::ReversedText { address, order });
        }
        if spec.end() > TABLE_END {
            return Err(PointError::PastEnd { address, data_type });
        }
        Ok(spec)
    }

    /// The same, scaled by another register, which is read in the same order.
    ///
    /// # Errors
    /// The value is no number, or the register does not fit its address.
    pub fn scaled_by(self, scale: ScaleRegister) -> Result<Self, ScaleError> {
        if !is_number(self.data_type) {
            let data_type = self.data_type;
            return Err(ScaleError::Value { data_type });
        }
        scale.spec(self.order)?;
        Ok(Self {
            scale: Some(scale),
            ..self
        })
    }

    /// How this address is read where no type is written: one bit is a bool, several are an unsigned
    /// number; a register can be read in many ways.
    pub fn default_type(address: Address) -> Option<DataType> {
        match address.bit.map(Bits::count) {
            Some(1) => Some(DataType::Bool),
            Some(_) => Some(DataType::U16),
            None => address.table.is_bits().then_some(DataType::Bool),
        }
    }

    /// Where it lives.
    pub fn address(&self) -> Address {
        self.address
    }

    /// The type of the value in the device.
    pub fn data_type(&self) -> DataType {
        self.data_type
    }

    /// The order of its bytes.
    pub fn order(&self) -> WordOrder {
        self.order
    }

    /// The register that scales it.
    pub fn scale(&self) -> Option<ScaleRegister> {
        self.scale
    }

    /// The same without the register that scales it.
    pub(crate) fn bare(&self) -> PointSpec {
        Self {
            scale: None,
            ..*self
        }
    }

    /// The register that scales it, as a point of its own.
    pub(crate) fn scale_spec(&self) -> Option<PointSpec> {
        self.scale?.spec(self.order).ok()
    }

    /// The value by itself, and the register that scales it.
    pub fn parts(&self) -> impl Iterator<Item = PointSpec> {
        [Some(self.bare()), self.scale_spec()].into_iter().flatten()
    }

    /// Whether one request can bring the value and the register that scales it.
    pub fn scale_is_near(&self) -> bool {
        self.near_scale().is_some()
    }

    /// As [`PointSpec::scale_spec`], where one request can bring both.
    pub(crate) fn near_scale(&self) -> Option<PointSpec> {
        let scale = self.scale_spec()?;
        let start = self.address.offset.min(scale.address.offset);
        let end = self.bare().end().max(scale.end());
        let near = scale.address.table == self.address.table
            && end - u32::from(start) <= u32::from(REGISTERS_MAX);
        near.then_some(scale)
    }

    /// The lowest and the highest raw number, where it has whole ones; a bool is 0 or 1.
    pub fn whole_range(&self) -> Option<(i128, i128)> {
        match self.address.bit.map(Bits::count) {
            None | Some(1) => self.data_type.whole_range(),
            Some(bits) if matches!(self.data_type, DataType::I8 | DataType::I16) => {
                Some((-(1 << (bits - 1)), (1 << (bits - 1)) - 1))
            }
            Some(bits) => Some((0, (1 << bits) - 1)),
        }
    }

    /// How many addresses of its table the value takes: registers, or one coil.
    pub fn registers(&self) -> u16 {
        self.data_type.registers()
    }

    /// The type of the decoded value.
    pub fn value_type(&self) -> ValueType {
        match self.scale {
            Some(_) => ValueType::F64,
            None => self.data_type.value_type(),
        }
    }

    /// The first address of its table that a request for it brings; with a scale that is near, the first of
    /// both.
    pub(crate) fn start(&self) -> u32 {
        let own = u32::from(self.address.offset);
        self.near_scale()
            .map_or(own, |scale| own.min(scale.start()))
    }

    /// The first address of its table that a request for it does not bring any more.
    pub(crate) fn end(&self) -> u32 {
        let own = u32::from(self.address.offset) + u32::from(self.registers());
        self.near_scale().map_or(own, |scale| own.max(scale.end()))
    }
}

/// Whether a coil can hold it, or a row of coils.
fn is_of_bools(data_type: DataType) -> bool {
    match data_type {
        DataType::Bool => true,
        DataType::Array(element, _) => element.data_type() == DataType::Bool,
        _ => false,
    }
}

/// Whether so many bits of a register can be read as this type.
fn fits_bits(data_type: DataType, bits: Bits) -> bool {
    match data_type {
        DataType::Bool => bits.count() == 1,
        DataType::I8 | DataType::U8 => (2..=8).contains(&bits.count()),
        DataType::I16 | DataType::U16 => bits.count() >= 2,
        _ => false,
    }
}

/// What a raw value is taken for, beyond its type.
#[derive(Debug, Clone, Default)]
pub enum Meaning {
    /// Itself.
    #[default]
    Plain,
    /// One of several states, by name. A number without a name is shown as such, and uncertain.
    States(Arc<States>),
    /// A counter that rolls over; the value is the total.
    Total(Arc<Total>),
}

impl Meaning {
    /// What this raw value, which was read at a moment, stands for.
    pub(crate) fn of(&self, raw: Value, at: Moment) -> Result<(Value, Quality), Reason> {
        Ok(match self {
            Meaning::Plain => (raw, Quality::Good),
            Meaning::States(states) => match states.name(&raw) {
                Some(name) => (Value::Text(name), Quality::Good),
                None => {
                    let number = Value::Text(shown(&raw).into());
                    (number, Quality::Uncertain(Reason::OutOfRange))
                }
            },
            Meaning::Total(total) => {
                // Only whole numbers without a sign are counters.
                let Value::U64(raw) = raw else {
                    return Err(Reason::InvalidEncoding);
                };
                match total.count(raw, at) {
                    Counting::Total(total) => (Value::U64(total), Quality::Good),
                    Counting::Reset(total) => {
                        let quality = Quality::Uncertain(Reason::CounterReset);
                        (Value::U64(total), quality)
                    }
                    Counting::Beyond => return Err(Reason::OutOfRange),
                }
            }
        })
    }
}

impl Meaning {
    /// The raw value that is meant by a written one.
    pub(crate) fn raw(&self, spec: &PointSpec, value: &Value) -> Result<Value, WriteError> {
        let message = match self {
            Meaning::Plain => return Ok(value.clone()),
            Meaning::States(states) => match states.number(value) {
                Some(number) => return Ok(number),
                None => format!(
                    "{} is no state of {}: they are {states}",
                    shown(value),
                    spec.address()
                ),
            },
            Meaning::Total(_) => format!(
                "{} is a total, which is counted by the gateway; a tag of its own for the address, without \
                 totaliser, can set the counter",
                spec.address()
            ),
        };
        Err(WriteError::Unfit { message })
    }
}

/// A tag of a Modbus device.
#[derive(Debug, Clone)]
pub struct Point {
    /// The tag that the value becomes a sample of.
    pub tag: TagId,
    /// What is read.
    pub spec: PointSpec,
    /// What it is taken for.
    pub meaning: Meaning,
    /// From one read to the next; points of one interval make a poll group.
    pub interval: Duration,
}

/// Why address, type and order do not fit together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PointError {
    /// A coil or a discrete input holds one bit.
    #[error("type {data_type} does not fit into {address}, which is one bit")]
    NumberInBits {
        /// Where.
        address: Address,
        /// The configured type.
        data_type: DataType,
    },
    /// One bit of a register is no number, several are no bool.
    #[error("type {data_type} does not fit {address}, which is {} of a register", bits(.address))]
    BitOfNumber {
        /// Where.
        address: Address,
        /// The configured type.
        data_type: DataType,
    },
    /// No request could bring it whole.
    #[error(
        "type {data_type} at {address} does not fit into one request, which brings {most} addresses"
    )]
    TooLong {
        /// Where.
        address: Address,
        /// The configured type.
        data_type: DataType,
        /// What a request can bring.
        most: u16,
    },
    /// No device keeps text with its last characters first.
    #[error("order {order} would reverse the text at {address}")]
    ReversedText {
        /// Where.
        address: Address,
        /// The configured order.
        order: WordOrder,
    },
    /// The value ends past offset 65535.
    #[error("type {data_type} at {address} ends past offset 65535")]
    PastEnd {
        /// Where.
        address: Address,
        /// The configured type.
        data_type: DataType,
    },
}

fn bits(address: &Address) -> String {
    match address.bit.map_or(0, Bits::count) {
        0 | 1 => "one bit".to_owned(),
        count => format!("{count} bits"),
    }
}

impl PointError {
    /// What to write instead.
    pub fn hint(&self) -> String {
        match self {
            PointError::NumberInBits { .. } => {
                "write type bool, or a register: holding:0, input:0".to_owned()
            }
            PointError::BitOfNumber { address, .. } => {
                let fitting = match address.bit.map_or(0, Bits::count) {
                    0 | 1 => "bool",
                    2..=8 => "u8, i8, u16 or i16",
                    _ => "u16 or i16",
                };
                format!(
                    "write type {fitting}, or the whole register: {}:{}",
                    address.table, address.offset
                )
            }
            PointError::TooLong {
                data_type: DataType::Array(element, _),
                most,
                ..
            } => {
                let element: Element = *element;
                let fit = most / element.data_type().registers();
                format!("make it several arrays of at most {fit} elements")
            }
            PointError::TooLong { .. } => "make it several shorter ones".to_owned(),
            PointError::ReversedText { .. } => {
                "write order abcd, or badc where the characters come in swapped pairs".to_owned()
            }
            PointError::PastEnd { data_type, .. } => format!(
                "the last place for it is offset {}",
                TABLE_END - u32::from(data_type.registers())
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(address: &str, data_type: &str, order: &str) -> Result<PointSpec, PointError> {
        PointSpec::new(
            address.parse().unwrap(),
            data_type.parse().unwrap(),
            order.parse().unwrap(),
        )
    }

    #[test]
    fn parts_that_fit_are_taken() {
        let float = spec("holding:65534", "f32", "cdab").unwrap();
        assert_eq!((float.registers(), float.value_type()), (2, ValueType::F32));
        assert_eq!(spec("input:0", "string:15", "badc").unwrap().registers(), 8);
        assert_eq!(spec("coil:3", "bool", "abcd").unwrap().registers(), 1);
        assert!(spec("holding:12.3", "bool", "abcd").is_ok());
    }

    #[test]
    fn parts_that_do_not_fit_are_refused() {
        let error = spec("coil:3", "u16", "abcd").unwrap_err();
        assert_eq!(
            error.to_string(),
            "type u16 does not fit into coil:3, which is one bit"
        );
        let error = spec("holding:3.1", "u16", "abcd").unwrap_err();
        assert!(error.hint().contains("holding:3"), "{}", error.hint());
        assert!(spec("holding:3.0-3", "u8", "abcd").is_ok());
        assert!(spec("coil:3", "bool[20]", "abcd").is_ok());
        let error = spec("holding:3.0-11", "u8", "abcd").unwrap_err();
        assert_eq!(
            error.to_string(),
            "type u8 does not fit holding:3.0-11, which is 12 bits of a register"
        );
        assert!(error.hint().contains("u16"), "{}", error.hint());
        let error = spec("holding:3", "f64[32]", "abcd").unwrap_err();
        assert_eq!(
            error.hint(),
            "make it several arrays of at most 31 elements"
        );
        let error = spec("holding:65535", "f32", "abcd").unwrap_err();
        assert_eq!(error.hint(), "the last place for it is offset 65534");
        assert!(matches!(
            spec("holding:0", "string:4", "dcba"),
            Err(PointError::ReversedText { .. })
        ));
    }
}
