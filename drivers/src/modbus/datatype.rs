//! How registers are read: the type of the value and the order of its bytes.

use std::fmt;
use std::str::FromStr;

use millrace_tags::ValueType;

/// The longest text: what one read request can bring (125 registers of two bytes).
pub const TEXT_BYTES_MAX: u16 = 250;

/// The longest array: what one read request can bring, which is so many coils. One of registers is
/// shorter; [`PointSpec`](super::PointSpec) knows which it is.
const ARRAY_MAX: u16 = 2000;

/// The type of a value in a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DataType {
    /// A coil, a discrete input, one bit of a register, or a register that is not 0.
    Bool,
    /// The low byte of a register, signed; the high byte under order `badc` and `dcba`.
    I8,
    /// The low byte of a register; the high byte under order `badc` and `dcba`.
    U8,
    /// One register, signed.
    I16,
    /// One register.
    U16,
    /// Two registers, signed.
    I32,
    /// Two registers.
    U32,
    /// Four registers, signed.
    I64,
    /// Three registers, signed.
    I48,
    /// Three registers.
    U48,
    /// Four registers.
    U64,
    /// IEEE 754 single precision in two registers.
    F32,
    /// IEEE 754 double precision in four registers.
    F64,
    /// Four decimal digits in one register.
    Bcd16,
    /// Eight decimal digits in two registers.
    Bcd32,
    /// Twelve decimal digits in three registers.
    Bcd48,
    /// Sixteen decimal digits in four registers.
    Bcd64,
    /// So many bytes of text, two in a register; it ends at the first NUL, spaces at its end are cut.
    Text(u16),
    /// So many values of one type, each with its own order, one behind the other: one tag, whose value is a
    /// JSON array. An element that is no value of its type (a NaN) is `null` in it.
    Array(Element, u16),
}

/// The type of an array's elements: any but text and array.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Element(u8);

impl Element {
    /// The element of this type; `None` for a text or an array.
    pub fn of(data_type: DataType) -> Option<Self> {
        let at = PLAIN_TYPES.iter().position(|(_, t)| *t == data_type)?;
        u8::try_from(at).ok().map(Self)
    }

    /// The type.
    pub fn data_type(self) -> DataType {
        PLAIN_TYPES[usize::from(self.0)].1
    }
}

/// Every type but those that have a length.
const PLAIN_TYPES: [(&str, DataType); 17] = [
    ("bool", DataType::Bool),
    ("i8", DataType::I8),
    ("u8", DataType::U8),
    ("i16", DataType::I16),
    ("u16", DataType::U16),
    ("i32", DataType::I32),
    ("u32", DataType::U32),
    ("i48", DataType::I48),
    ("u48", DataType::U48),
    ("i64", DataType::I64),
    ("u64", DataType::U64),
    ("f32", DataType::F32),
    ("f64", DataType::F64),
    ("bcd16", DataType::Bcd16),
    ("bcd32", DataType::Bcd32),
    ("bcd48", DataType::Bcd48),
    ("bcd64", DataType::Bcd64),
];

/// What other programs call our types.
const FOREIGN_NAMES: [(&str, &str); 18] = [
    ("boolean", "bool"),
    ("bit", "bool"),
    ("int8", "i8"),
    ("uint8", "u8"),
    ("int16", "i16"),
    ("int", "i16"),
    ("uint16", "u16"),
    ("word", "u16"),
    ("int32", "i32"),
    ("uint32", "u32"),
    ("dword", "u32"),
    ("int64", "i64"),
    ("uint64", "u64"),
    ("float", "f32"),
    ("float32", "f32"),
    ("real", "f32"),
    ("double", "f64"),
    ("float64", "f64"),
];

impl DataType {
    /// How many registers the value takes; of coils, how many.
    pub fn registers(self) -> u16 {
        match self {
            DataType::Bool
            | DataType::I8
            | DataType::U8
            | DataType::I16
            | DataType::U16
            | DataType::Bcd16 => 1,
            DataType::I32 | DataType::U32 | DataType::F32 | DataType::Bcd32 => 2,
            DataType::I48 | DataType::U48 | DataType::Bcd48 => 3,
            DataType::I64 | DataType::U64 | DataType::F64 | DataType::Bcd64 => 4,
            DataType::Text(bytes) => bytes.div_ceil(2),
            DataType::Array(element, count) => {
                element.data_type().registers().saturating_mul(count)
            }
        }
    }

    /// The lowest and the highest number, of a type of whole numbers; a bool is 0 or 1.
    pub fn whole_range(self) -> Option<(i128, i128)> {
        let bits = u32::from(self.registers()) * 16;
        Some(match self {
            DataType::Bool => (0, 1),
            DataType::I8 => (-0x80, 0x7F),
            DataType::U8 => (0, 0xFF),
            DataType::I16 | DataType::I32 | DataType::I48 | DataType::I64 => {
                (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
            }
            DataType::U16 | DataType::U32 | DataType::U48 | DataType::U64 => (0, (1 << bits) - 1),
            // Four bits a digit.
            DataType::Bcd16 | DataType::Bcd32 | DataType::Bcd48 | DataType::Bcd64 => {
                (0, 10i128.pow(bits / 4) - 1)
            }
            DataType::F32 | DataType::F64 | DataType::Text(_) | DataType::Array(..) => return None,
        })
    }

    /// The type of the decoded value.
    pub fn value_type(self) -> ValueType {
        match self {
            DataType::Bool => ValueType::Bool,
            DataType::I8 | DataType::I16 | DataType::I32 | DataType::I48 | DataType::I64 => {
                ValueType::I64
            }
            DataType::U8
            | DataType::U16
            | DataType::U32
            | DataType::U48
            | DataType::U64
            | DataType::Bcd16
            | DataType::Bcd32
            | DataType::Bcd48
            | DataType::Bcd64 => ValueType::U64,
            DataType::F32 => ValueType::F32,
            DataType::F64 => ValueType::F64,
            DataType::Text(_) => ValueType::Text,
            DataType::Array(..) => ValueType::Json,
        }
    }
}

impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DataType::Text(bytes) => return write!(f, "string:{bytes}"),
            DataType::Array(element, count) => {
                return write!(f, "{}[{count}]", element.data_type());
            }
            _ => {}
        }
        let name = PLAIN_TYPES.iter().find(|(_, plain)| plain == self);
        f.write_str(name.map_or("", |(name, _)| name))
    }
}

/// Why a text is no type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TypeError {
    /// Not one of the types.
    #[error("{given:?} is not a type")]
    Unknown {
        /// The text.
        given: String,
    },
    /// A text without a length that fits into one request.
    #[error("{given:?} has no length from 1 to {TEXT_BYTES_MAX}")]
    TextLength {
        /// The text.
        given: String,
    },
    /// An array without a length that fits into one request, or of texts or arrays.
    #[error("{given:?} is no array of 1 to {ARRAY_MAX} numbers or bools")]
    Array {
        /// The text.
        given: String,
    },
}

impl TypeError {
    /// What to write instead.
    pub fn hint(&self) -> String {
        match self {
            TypeError::Unknown { given } => {
                let given = given.to_ascii_lowercase();
                match FOREIGN_NAMES.iter().find(|(name, _)| *name == given) {
                    Some((_, ours)) => format!("write {ours}"),
                    None => {
                        "the types are bool, i8 u8 i16 u16 i32 u32 i48 u48 i64 u64, f32 f64, bcd16 bcd32 \
                         bcd48 bcd64, string:N and arrays such as u16[10]"
                            .to_owned()
                    }
                }
            }
            TypeError::TextLength { .. } => format!(
                "write string:N, N being the bytes of the text, at most {TEXT_BYTES_MAX}: \
                 that is what one Modbus request can bring"
            ),
            TypeError::Array { .. } => {
                "write TYPE[N], for example u16[10]; a text is string:N".to_owned()
            }
        }
    }
}

impl FromStr for DataType {
    type Err = TypeError;

    fn from_str(text: &str) -> Result<Self, TypeError> {
        let name = text.trim().to_ascii_lowercase();
        let plain = PLAIN_TYPES.iter().find(|(plain, _)| *plain == name);
        if let Some((_, plain)) = plain {
            return Ok(*plain);
        }
        if let Some((element, count)) = name.split_once('[') {
            return array(element, count).ok_or_else(|| TypeError::Array {
                given: text.to_owned(),
            });
        }
        let Some(rest) = name.strip_prefix("string") else {
            return Err(TypeError::Unknown {
                given: text.to_owned(),
            });
        };
        rest.strip_prefix(':')
            .and_then(|length| length.parse().ok())
            .filter(|length| (1..=TEXT_BYTES_MAX).contains(length))
            .map(DataType::Text)
            .ok_or_else(|| TypeError::TextLength {
                given: text.to_owned(),
            })
    }
}

fn array(element: &str, count: &str) -> Option<DataType> {
    let (_, element) = PLAIN_TYPES.iter().find(|(name, _)| *name == element)?;
    let count = count.strip_suffix(']')?.parse().ok()?;
    (1..=ARRAY_MAX).contains(&count).then_some(())?;
    Some(DataType::Array(Element::of(*element)?, count))
}

/// In which order the bytes of a value arrive, A being the most significant of four.
///
/// The rule holds for every width: `badc` swaps the bytes in each register, `cdab` reverses the
/// registers, `dcba` does both. A value of one register knows only the swap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum WordOrder {
    /// Big-endian, as the Modbus specification has it.
    #[default]
    Abcd,
    /// Bytes swapped in each register.
    Badc,
    /// Registers reversed.
    Cdab,
    /// Little-endian: both.
    Dcba,
}

impl WordOrder {
    /// All four.
    pub const ALL: [WordOrder; 4] = [
        WordOrder::Abcd,
        WordOrder::Badc,
        WordOrder::Cdab,
        WordOrder::Dcba,
    ];

    /// Whether the two bytes of each register are swapped.
    pub fn swaps_bytes(self) -> bool {
        matches!(self, WordOrder::Badc | WordOrder::Dcba)
    }

    /// Whether the least significant register comes first.
    pub fn reverses_words(self) -> bool {
        matches!(self, WordOrder::Cdab | WordOrder::Dcba)
    }

    /// `abcd`, `badc`, `cdab` or `dcba`.
    pub fn name(self) -> &'static str {
        match self {
            WordOrder::Abcd => "abcd",
            WordOrder::Badc => "badc",
            WordOrder::Cdab => "cdab",
            WordOrder::Dcba => "dcba",
        }
    }
}

impl fmt::Display for WordOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A text that is no order.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is not a byte order")]
pub struct OrderError {
    /// The text.
    pub given: String,
}

impl OrderError {
    /// What to write instead.
    pub fn hint(&self) -> String {
        "write abcd (big-endian), badc (bytes swapped in each register), cdab (registers reversed) \
         or dcba (both)"
            .to_owned()
    }
}

impl FromStr for WordOrder {
    type Err = OrderError;

    fn from_str(text: &str) -> Result<Self, OrderError> {
        WordOrder::ALL
            .into_iter()
            .find(|order| order.name().eq_ignore_ascii_case(text.trim()))
            .ok_or_else(|| OrderError {
                given: text.to_owned(),
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for (name, data_type) in PLAIN_TYPES {
            assert_eq!(name.parse(), Ok(data_type));
            assert_eq!(data_type.to_string(), name);
        }
        assert_eq!("string:16".parse(), Ok(DataType::Text(16)));
        assert_eq!(DataType::Text(16).to_string(), "string:16");
        for order in WordOrder::ALL {
            assert_eq!(order.name().to_uppercase().parse(), Ok(order));
        }
    }

    #[test]
    fn foreign_name_is_translated_in_the_hint() {
        let error = "Float32".parse::<DataType>().unwrap_err();
        assert_eq!(error.to_string(), "\"Float32\" is not a type");
        assert_eq!(error.hint(), "write f32");
    }

    #[test]
    fn arrays_have_a_length_and_an_element() {
        let array: DataType = "f32[10]".parse().unwrap();
        assert_eq!(
            (array.registers(), array.to_string().as_str()),
            (20, "f32[10]")
        );
        for text in [
            "u16[0]",
            "u16[]",
            "u16[2001]",
            "string:4[2]",
            "u16[2][3]",
            "u16[4",
            "x[3]",
        ] {
            let error = text.parse::<DataType>().unwrap_err();
            assert!(matches!(error, TypeError::Array { .. }), "{text}");
        }
    }

    #[test]
    fn text_needs_a_length() {
        for text in ["string", "string:0", "string:251", "string:x"] {
            let error = text.parse::<DataType>().unwrap_err();
            assert!(matches!(error, TypeError::TextLength { .. }), "{text}");
        }
        assert!(
            "swap"
                .parse::<WordOrder>()
                .unwrap_err()
                .hint()
                .contains("cdab")
        );
    }
}
