//! Scale by another register: devices that say in one register how another one is to be read.
//!
//! The register belongs to its value. Both come in one request wherever one can bring them, and in the same
//! poll cycle otherwise; a value without its scale, or with one that cannot be meant, is bad and never the
//! bare number.

use std::fmt;

use millrace_tags::Value;

use super::address::Address;
use super::datatype::{DataType, WordOrder};
use super::point::{PointError, PointSpec};

/// The greatest power of ten, up or down. SunSpec permits 10; its "not implemented" is -32768, and must not
/// become a value.
const EXPONENT_MAX: f64 = 18.0;

/// How a scale register is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ScaleRule {
    /// value = raw × 10^register, as SunSpec has it.
    Exponent,
    /// value = raw × register.
    Factor,
    /// value = raw ÷ register.
    Divisor,
}

impl ScaleRule {
    /// The type of a register whose type is not written.
    pub fn default_type(self) -> DataType {
        match self {
            ScaleRule::Exponent => DataType::I16,
            ScaleRule::Factor | ScaleRule::Divisor => DataType::U16,
        }
    }

    /// What the register's value does; `None` where it cannot be meant: a factor of 0, an exponent beyond reason.
    fn read(self, register: &Value) -> Option<Scale> {
        let number = register.as_f64().filter(|number| number.is_finite())?;
        match self {
            ScaleRule::Exponent => {
                let power = number as i32;
                if number.fract() != 0.0 || number.abs() > EXPONENT_MAX {
                    return None;
                }
                // Division by a power of ten is exact where multiplying by 0.01 is not.
                Some(if power < 0 {
                    Scale::Over(10f64.powi(-power))
                } else {
                    Scale::Times(10f64.powi(power))
                })
            }
            _ if number == 0.0 => None,
            ScaleRule::Factor => Some(Scale::Times(number)),
            ScaleRule::Divisor => Some(Scale::Over(number)),
        }
    }
}

/// What is done with a raw value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Scale {
    Times(f64),
    Over(f64),
}

impl Scale {
    /// The value of these counts; `None` where that is no finite number.
    pub(crate) fn apply(self, raw: f64) -> Option<f64> {
        let value = match self {
            Scale::Times(factor) => raw * factor,
            Scale::Over(divisor) => raw / divisor,
        };
        value.is_finite().then_some(value)
    }

    /// The counts of this value.
    pub(crate) fn undo(self, value: f64) -> f64 {
        match self {
            Scale::Times(factor) => value / factor,
            Scale::Over(divisor) => value * divisor,
        }
    }
}

impl fmt::Display for Scale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scale::Times(factor) => write!(f, "× {factor}"),
            Scale::Over(divisor) => write!(f, "÷ {divisor}"),
        }
    }
}

/// A register that scales another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ScaleRegister {
    address: Address,
    data_type: DataType,
    rule: ScaleRule,
}

impl ScaleRegister {
    /// Checks that the register can hold a number.
    ///
    /// # Errors
    /// A coil, a bool, a text or an array.
    pub fn new(address: Address, data_type: DataType, rule: ScaleRule) -> Result<Self, ScaleError> {
        if address.table.is_bits() {
            return Err(ScaleError::Bits { address });
        }
        if !is_number(data_type) {
            return Err(ScaleError::Type { address, data_type });
        }
        Ok(Self {
            address,
            data_type,
            rule,
        })
    }

    /// Where it is.
    pub fn address(&self) -> Address {
        self.address
    }

    /// How it is read, in the order of its value.
    ///
    /// # Errors
    /// As [`PointSpec::new`].
    pub fn spec(&self, order: WordOrder) -> Result<PointSpec, PointError> {
        PointSpec::new(self.address, self.data_type, order)
    }

    pub(crate) fn read(&self, register: &Value) -> Option<Scale> {
        self.rule.read(register)
    }
}

/// Whether a value of this type can be scaled, or scale another.
pub(crate) fn is_number(data_type: DataType) -> bool {
    !matches!(
        data_type,
        DataType::Bool | DataType::Text(_) | DataType::Array(..)
    )
}

/// Why a register scales nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScaleError {
    /// A coil or a discrete input is no number.
    #[error("{address} is one bit, which scales nothing")]
    Bits {
        /// Where.
        address: Address,
    },
    /// Its type is no number.
    #[error("{address} is of type {data_type}, which scales nothing")]
    Type {
        /// Where.
        address: Address,
        /// The type.
        data_type: DataType,
    },
    /// The value that it should scale is no number.
    #[error("a value of type {data_type} has no scale")]
    Value {
        /// The type of the value.
        data_type: DataType,
    },
    /// It does not fit its own address.
    #[error(transparent)]
    Point(#[from] PointError),
}

impl ScaleError {
    /// What to write instead.
    pub fn hint(&self) -> String {
        match self {
            ScaleError::Bits { .. } => "name a register, such as holding:71".to_owned(),
            ScaleError::Type { .. } => {
                "the types are i8 u8 i16 u16 i32 u32 i48 u48 i64 u64, f32 f64, bcd16 to bcd64"
                    .to_owned()
            }
            ScaleError::Value { .. } => "remove it: only numbers are scaled".to_owned(),
            ScaleError::Point(error) => error.hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scaled(rule: ScaleRule, register: Value, raw: f64) -> Option<f64> {
        rule.read(&register)?.apply(raw)
    }

    #[test]
    fn rules() {
        let exponent = |n| scaled(ScaleRule::Exponent, Value::I64(n), 1234.0);
        assert_eq!(exponent(-2), Some(12.34));
        assert_eq!(exponent(0), Some(1234.0));
        assert_eq!(exponent(3), Some(1_234_000.0));
        assert_eq!(scaled(ScaleRule::Factor, Value::U64(5), 7.0), Some(35.0));
        assert_eq!(scaled(ScaleRule::Divisor, Value::F32(0.5), 7.0), Some(14.0));
    }

    #[test]
    fn what_cannot_be_meant_scales_nothing() {
        // SunSpec's "not implemented".
        assert_eq!(scaled(ScaleRule::Exponent, Value::I64(-32_768), 1.0), None);
        assert_eq!(scaled(ScaleRule::Exponent, Value::I64(19), 1.0), None);
        assert_eq!(scaled(ScaleRule::Exponent, Value::F32(0.5), 1.0), None);
        assert_eq!(scaled(ScaleRule::Factor, Value::U64(0), 1.0), None);
        assert_eq!(scaled(ScaleRule::Divisor, Value::F64(0.0), 1.0), None);
        assert_eq!(scaled(ScaleRule::Factor, Value::F64(1e300), 1e300), None);
    }
}
