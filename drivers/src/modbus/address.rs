//! Where a value lives in a Modbus device, in a notation that leaves nobody off by one.

use std::fmt;
use std::str::FromStr;

/// The four tables of a Modbus device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Single bits that can be written; function 01.
    Coil,
    /// Single bits that can only be read; function 02.
    Discrete,
    /// Registers that can only be read; function 04.
    Input,
    /// Registers that can be written; function 03.
    Holding,
}

impl Table {
    /// Every table.
    pub const ALL: [Table; 4] = [Table::Coil, Table::Discrete, Table::Input, Table::Holding];

    /// `coil`, `discrete`, `input` or `holding`.
    pub fn name(self) -> &'static str {
        match self {
            Table::Coil => "coil",
            Table::Discrete => "discrete",
            Table::Input => "input",
            Table::Holding => "holding",
        }
    }

    /// Whether an address of this table is one bit, not a register of sixteen.
    pub fn is_bits(self) -> bool {
        matches!(self, Table::Coil | Table::Discrete)
    }

    /// Whether Modbus has functions that write it.
    pub fn is_writable(self) -> bool {
        matches!(self, Table::Coil | Table::Holding)
    }

    fn from_name(name: &str) -> Option<Self> {
        Table::ALL
            .into_iter()
            .find(|table| table.name().eq_ignore_ascii_case(name))
    }

    /// The table that a Modicon number's first digit stands for.
    fn from_modicon_digit(digit: u32) -> Option<Self> {
        match digit {
            0 => Some(Table::Coil),
            1 => Some(Table::Discrete),
            3 => Some(Table::Input),
            4 => Some(Table::Holding),
            _ => None,
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Neighbouring bits of a register; bit 0 is the least significant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bits {
    first: u8,
    last: u8,
}

impl Bits {
    /// From the lower bit to the higher, both included; `None` past bit 15 or in the wrong order.
    pub fn new(first: u8, last: u8) -> Option<Self> {
        (first <= last && last < 16).then_some(Self { first, last })
    }

    /// The lowest bit.
    pub fn first(self) -> u8 {
        self.first
    }

    /// How many there are, 1 to 16.
    pub fn count(self) -> u8 {
        self.last - self.first + 1
    }

    /// The register with these bits set and all others not.
    pub fn mask(self) -> u16 {
        (u16::MAX >> (16 - self.count())) << self.first
    }
}

impl fmt::Display for Bits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.count() {
            1 => write!(f, "{}", self.first),
            _ => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

/// A place in a Modbus device.
///
/// Written `holding:0`, zero-based as on the wire; `holding:12.3` is bit 3 of a register and
/// `holding:12.0-3` its four lowest, bit 0 being the least significant. Modicon numbers of five or six digits are understood too: `40001` and
/// `400001` are both `holding:0`. A bare number below 10000 has two readings and is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// The table.
    pub table: Table,
    /// The zero-based offset in the table, as it goes over the wire.
    pub offset: u16,
    /// The bits of the register; `None` for the whole of it.
    pub bit: Option<Bits>,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.table, self.offset)?;
        match self.bit {
            Some(bit) => write!(f, ".{bit}"),
            None => Ok(()),
        }
    }
}

/// Why a text is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// A bare number that could be zero-based or one-based.
    #[error("address {given} has two readings")]
    Ambiguous {
        /// The text.
        given: String,
        /// Its number.
        number: u32,
    },
    /// The word before the colon names no table.
    #[error("address {given} names no table")]
    UnknownTable {
        /// The text.
        given: String,
    },
    /// The first digit of a Modicon number names no table.
    #[error("Modicon address {given} begins with no table's digit")]
    UnknownDigit {
        /// The text.
        given: String,
    },
    /// What should be an offset is not a number from 0 to 65535.
    #[error("address {given} has no offset from 0 to 65535")]
    Offset {
        /// The text.
        given: String,
    },
    /// What should be a bit, or a range of them, is none from 0 to 15.
    #[error("address {given} has no bit from 0 to 15")]
    Bit {
        /// The text.
        given: String,
    },
    /// A coil or a discrete input is one bit already.
    #[error("address {given} asks for a bit of a single bit")]
    BitOfBit {
        /// The text.
        given: String,
    },
    /// Neither a table with an offset nor a Modicon number.
    #[error("{given:?} is not an address")]
    Shape {
        /// The text.
        given: String,
    },
}

impl AddressError {
    /// What to write instead.
    pub fn hint(&self) -> String {
        match self {
            AddressError::Ambiguous { given, number } => ambiguous_hint(given, *number),
            AddressError::UnknownTable { .. } => {
                "the tables are coil:, discrete:, input: and holding:".to_owned()
            }
            AddressError::UnknownDigit { .. } => {
                "Modicon numbers begin with 0 (coil), 1 (discrete), 3 (input) or 4 (holding); \
                 or write holding:0"
                    .to_owned()
            }
            AddressError::Offset { .. } => {
                "offsets are zero-based: the first register is holding:0; \
                 Modicon numbers are one-based: the first is 40001, the last 465536"
                    .to_owned()
            }
            AddressError::Bit { .. } => {
                "holding:12.3 is bit 3 of register 12, holding:12.0-3 the bits 0 to 3; bit 0 is the least \
                 significant"
                    .to_owned()
            }
            AddressError::BitOfBit { .. } => "leave out the part after the dot".to_owned(),
            AddressError::Shape { .. } => {
                "write table:offset, as holding:0, or a Modicon number, as 40001".to_owned()
            }
        }
    }
}

/// Both readings of a bare number, each as an address to paste.
fn ambiguous_hint(given: &str, number: u32) -> String {
    let zero_based = format!("holding:{number} if the manual counts from 0");
    if number == 0 {
        return format!("write {zero_based}");
    }
    let previous = number - 1;
    if given.len() >= 5 {
        return format!("write coil:{previous} for the Modicon coil {given}, or {zero_based}");
    }
    format!(
        "write {zero_based}, or holding:{previous} (Modicon {}) if it counts from 1",
        40_000 + number
    )
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let given = text.trim();
        let (place, bit) = split_bit(given)?;
        let (table, offset) = match place.split_once(':') {
            Some((name, offset)) => named(given, name.trim(), offset.trim())?,
            None => modicon(given, place)?,
        };
        if bit.is_some() && table.is_bits() {
            return Err(AddressError::BitOfBit {
                given: given.to_owned(),
            });
        }
        Ok(Address { table, offset, bit })
    }
}

fn split_bit(given: &str) -> Result<(&str, Option<Bits>), AddressError> {
    let Some((place, bits)) = given.split_once('.') else {
        return Ok((given, None));
    };
    let (first, last) = bits.split_once('-').unwrap_or((bits, bits));
    let number = |text| decimal(text).and_then(|bit| u8::try_from(bit).ok());
    match number(first).zip(number(last)) {
        Some((first, last)) if Bits::new(first, last).is_some() => {
            Ok((place, Bits::new(first, last)))
        }
        _ => Err(AddressError::Bit {
            given: given.to_owned(),
        }),
    }
}

fn named(given: &str, name: &str, offset: &str) -> Result<(Table, u16), AddressError> {
    let table = Table::from_name(name).ok_or_else(|| AddressError::UnknownTable {
        given: given.to_owned(),
    })?;
    let number = match offset.strip_prefix("0x") {
        Some(hex) if hex.bytes().all(|b| b.is_ascii_hexdigit()) => {
            u32::from_str_radix(hex, 16).ok()
        }
        Some(_) => None,
        None => decimal(offset),
    };
    offset_of(given, number).map(|offset| (table, offset))
}

/// A Modicon number: a digit for the table, then a one-based number of four or five digits.
fn modicon(given: &str, place: &str) -> Result<(Table, u16), AddressError> {
    let number = decimal(place).ok_or_else(|| AddressError::Shape {
        given: given.to_owned(),
    })?;
    if number < 10_000 {
        return Err(AddressError::Ambiguous {
            given: place.to_owned(),
            number,
        });
    }
    let unit = match place.len() {
        5 => 10_000,
        6 => 100_000,
        _ => {
            return Err(AddressError::Shape {
                given: given.to_owned(),
            });
        }
    };
    let table =
        Table::from_modicon_digit(number / unit).ok_or_else(|| AddressError::UnknownDigit {
            given: given.to_owned(),
        })?;
    offset_of(given, (number % unit).checked_sub(1)).map(|offset| (table, offset))
}

fn offset_of(given: &str, number: Option<u32>) -> Result<u16, AddressError> {
    number
        .and_then(|n| u16::try_from(n).ok())
        .ok_or_else(|| AddressError::Offset {
            given: given.to_owned(),
        })
}

/// Digits only: no sign, no space, no underscore.
fn decimal(text: &str) -> Option<u32> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(table: Table, offset: u16, bit: Option<u8>) -> Address {
        let bit = bit.and_then(|bit| Bits::new(bit, bit));
        Address { table, offset, bit }
    }

    #[test]
    fn understands_both_notations() {
        for (text, expected) in [
            ("holding:0", at(Table::Holding, 0, None)),
            ("Holding:65535", at(Table::Holding, 65535, None)),
            ("holding:0x10", at(Table::Holding, 16, None)),
            ("input:12.3", at(Table::Input, 12, Some(3))),
            ("coil:7", at(Table::Coil, 7, None)),
            ("discrete:8", at(Table::Discrete, 8, None)),
            ("40001", at(Table::Holding, 0, None)),
            ("49999", at(Table::Holding, 9998, None)),
            ("400001", at(Table::Holding, 0, None)),
            ("465536", at(Table::Holding, 65535, None)),
            ("30010.15", at(Table::Input, 9, Some(15))),
            ("10001", at(Table::Discrete, 0, None)),
            ("010000", at(Table::Coil, 9999, None)),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn bits_are_a_range() {
        let address: Address = "holding:12.4-7".parse().unwrap();
        let bits = address.bit.unwrap();
        assert_eq!((bits.first(), bits.count(), bits.mask()), (4, 4, 0x00F0));
        assert_eq!(Bits::new(0, 15).unwrap().mask(), 0xFFFF);
        assert_eq!(
            "holding:1.3-3".parse::<Address>().unwrap().to_string(),
            "holding:1.3"
        );
        for text in [
            "holding:1.3-2",
            "holding:1.0-16",
            "holding:1.-3",
            "holding:1.0-",
            "holding:1.0-1-2",
        ] {
            let error = text.parse::<Address>().unwrap_err();
            assert!(matches!(error, AddressError::Bit { .. }), "{text}");
        }
    }

    #[test]
    fn bare_number_is_refused_with_both_readings() {
        let error = "100".parse::<Address>().unwrap_err();
        assert_eq!(error.to_string(), "address 100 has two readings");
        assert_eq!(
            error.hint(),
            "write holding:100 if the manual counts from 0, or holding:99 (Modicon 40100) if it counts from 1"
        );
        let error = "00001".parse::<Address>().unwrap_err();
        assert!(error.hint().contains("coil:0"), "{}", error.hint());
        let error = "0".parse::<Address>().unwrap_err();
        assert!(error.hint().contains("holding:0"), "{}", error.hint());
    }

    #[test]
    fn refuses_with_the_fitting_error() {
        type Check = fn(&AddressError) -> bool;
        let cases: [(&str, Check); 12] = [
            ("", |e| matches!(e, AddressError::Shape { .. })),
            ("pressure", |e| matches!(e, AddressError::Shape { .. })),
            ("1234567", |e| matches!(e, AddressError::Shape { .. })),
            ("-40001", |e| matches!(e, AddressError::Shape { .. })),
            ("register:1", |e| {
                matches!(e, AddressError::UnknownTable { .. })
            }),
            ("50001", |e| matches!(e, AddressError::UnknownDigit { .. })),
            ("40000", |e| matches!(e, AddressError::Offset { .. })),
            ("465537", |e| matches!(e, AddressError::Offset { .. })),
            ("holding:65536", |e| {
                matches!(e, AddressError::Offset { .. })
            }),
            ("holding:+1", |e| matches!(e, AddressError::Offset { .. })),
            ("holding:1.16", |e| matches!(e, AddressError::Bit { .. })),
            ("coil:1.0", |e| matches!(e, AddressError::BitOfBit { .. })),
        ];
        for (text, check) in cases {
            let error = text.parse::<Address>().unwrap_err();
            assert!(check(&error), "{text}: {error:?}");
            assert!(!error.hint().is_empty());
        }
    }

    proptest::proptest! {
        #[test]
        fn display_round_trips(table in 0u8..4, offset: u16, bits in proptest::option::of((0u8..16, 0u8..16))) {
            let table = [Table::Coil, Table::Discrete, Table::Input, Table::Holding][table as usize];
            let bit = bits
                .filter(|_| !table.is_bits())
                .and_then(|(a, b)| Bits::new(a.min(b), a.max(b)));
            let address = Address { table, offset, bit };
            proptest::prop_assert_eq!(address.to_string().parse(), Ok(address));
        }

        #[test]
        fn any_text_is_answered(text in ".{0,12}") {
            if let Err(error) = text.parse::<Address>() {
                proptest::prop_assert!(!error.hint().is_empty());
            }
        }
    }
}
