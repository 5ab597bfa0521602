//! What is read from a device for one tag.

use std::time::Duration;

use millrace_tags::{TagId, ValueType};

use super::address::Address;
use super::datatype::{DataType, WordOrder};

/// The address space of a table ends here.
const TABLE_END: u32 = 0x1_0000;

/// A value of a device: where it lives and how it is read. The three parts fit together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PointSpec {
    address: Address,
    data_type: DataType,
    order: WordOrder,
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
        };
        if address.table.is_bits() && data_type != DataType::Bool {
            return Err(PointError::NumberInBits { address, data_type });
        }
        if address.bit.is_some() && data_type != DataType::Bool {
            return Err(PointError::BitOfNumber { address, data_type });
        }
        if matches!(data_type, DataType::Text(_)) && order.reverses_words() {
            return Err(PointError::ReversedText { address, order });
        }
        if spec.end() > TABLE_END {
            return Err(PointError::PastEnd { address, data_type });
        }
        Ok(spec)
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

    /// How many addresses of its table the value takes: registers, or one coil.
    pub fn registers(&self) -> u16 {
        self.data_type.registers()
    }

    /// The type of the decoded value.
    pub fn value_type(&self) -> ValueType {
        self.data_type.value_type()
    }

    /// The first address of its table.
    pub(crate) fn start(&self) -> u32 {
        u32::from(self.address.offset)
    }

    /// The first address of its table that is not the value's any more.
    pub(crate) fn end(&self) -> u32 {
        self.start() + u32::from(self.registers())
    }
}

/// A tag of a Modbus device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Point {
    /// The tag that the value becomes a sample of.
    pub tag: TagId,
    /// What is read.
    pub spec: PointSpec,
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
    /// One bit of a register is no number.
    #[error("type {data_type} does not fit into {address}, which is one bit of a register")]
    BitOfNumber {
        /// Where.
        address: Address,
        /// The configured type.
        data_type: DataType,
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

impl PointError {
    /// What to write instead.
    pub fn hint(&self) -> String {
        match self {
            PointError::NumberInBits { .. } => {
                "write type bool, or a register: holding:0, input:0".to_owned()
            }
            PointError::BitOfNumber { address, .. } => format!(
                "write type bool, or the whole register: {}:{}",
                address.table, address.offset
            ),
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
        let error = spec("holding:65535", "f32", "abcd").unwrap_err();
        assert_eq!(error.hint(), "the last place for it is offset 65534");
        assert!(matches!(
            spec("holding:0", "string:4", "dcba"),
            Err(PointError::ReversedText { .. })
        ));
    }
}
