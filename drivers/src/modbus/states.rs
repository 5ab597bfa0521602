//! Enumerations: numbers of a device that have names.

use std::fmt::Write;
use std::str::FromStr;
use std::sync::Arc;

use millrace_tags::Value;

use super::point::PointSpec;

/// The most names of one tag: more is a table of the device's maker, not something that a person reads.
const STATES_MAX: usize = 1_000;

/// The names of an enumeration, by number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct States(Vec<(i128, Arc<str>)>);

/// Why a text is no enumeration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StatesError {
    /// A part is no `number=name`.
    #[error("{part:?} is no number=name")]
    Form {
        /// The part.
        part: String,
    },
    /// A number has two names.
    #[error("{number} has two names")]
    Number {
        /// The number.
        number: i128,
    },
    /// Two numbers have one name, so that a write of it could mean either.
    #[error("two numbers are named {name}")]
    Name {
        /// The name.
        name: Arc<str>,
    },
    /// There are none, or too many.
    #[error("1 to {STATES_MAX} names are expected")]
    Count,
    /// The value has no whole numbers.
    #[error("a value of type {data_type} has no states")]
    Type {
        /// The type of the value.
        data_type: super::DataType,
    },
    /// A number that the value can never have.
    #[error("{number} ({name}) is no {data_type} at {address}: the range is {low} to {high}")]
    Range {
        /// The number.
        number: i128,
        /// Its name.
        name: Arc<str>,
        /// The type of the value.
        data_type: super::DataType,
        /// Where the value is.
        address: super::Address,
        /// The lowest.
        low: i128,
        /// The highest.
        high: i128,
    },
}

impl StatesError {
    /// What to write instead.
    pub fn hint(&self) -> String {
        match self {
            StatesError::Form { .. } | StatesError::Count => {
                "for example \"0=off, 1=running, 2=fault\"".to_owned()
            }
            StatesError::Number { .. } => "remove one".to_owned(),
            StatesError::Name { name } => format!("rename one, for example {name}-2"),
            StatesError::Type { .. } => {
                "states are of bools, whole numbers and bits; remove them".to_owned()
            }
            StatesError::Range { .. } => {
                "correct the number, or the type; signed types have negative numbers".to_owned()
            }
        }
    }
}

impl States {
    /// Whether the value can have each of these numbers.
    ///
    /// # Errors
    /// It is no whole number, or has another range.
    pub fn check(&self, spec: &PointSpec) -> Result<(), StatesError> {
        let data_type = spec.data_type();
        let Some((low, high)) = spec.whole_range() else {
            return Err(StatesError::Type { data_type });
        };
        match self.0.iter().find(|(n, _)| !(low..=high).contains(n)) {
            None => Ok(()),
            Some((number, name)) => Err(StatesError::Range {
                number: *number,
                name: Arc::clone(name),
                data_type,
                address: spec.address(),
                low,
                high,
            }),
        }
    }

    /// The name of a raw value.
    pub(crate) fn name(&self, raw: &Value) -> Option<Arc<str>> {
        let number = whole(raw)?;
        let named = self.0.iter().find(|(n, _)| *n == number);
        named.map(|(_, name)| Arc::clone(name))
    }

    /// The number that is meant by a name, or by a number that has a name.
    pub(crate) fn number(&self, written: &Value) -> Option<Value> {
        let by_name = match written {
            Value::Text(text) => self.0.iter().find(|(_, name)| name == text),
            _ => None,
        };
        let number = match (by_name, written) {
            (Some((number, _)), _) => *number,
            (None, Value::Text(text)) => text.trim().parse().ok()?,
            (None, written) => whole(written)?,
        };
        self.0.iter().find(|(n, _)| *n == number)?;
        // Checked against the value's range, which lies within one of these.
        i64::try_from(number)
            .map(Value::I64)
            .or_else(|_| u64::try_from(number).map(Value::U64))
            .ok()
    }
}

/// A whole number; a bool is 0 or 1.
fn whole(value: &Value) -> Option<i128> {
    match value {
        Value::Bool(bit) => Some(i128::from(*bit)),
        Value::I64(number) => Some(i128::from(*number)),
        Value::U64(number) => Some(i128::from(*number)),
        Value::F64(number) if number.fract() == 0.0 => Some(*number as i128),
        _ => None,
    }
}

/// `0=off, 1=running`, as it is written.
impl std::fmt::Display for States {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, (number, name)) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{number}=")?;
            name.chars().try_for_each(|c| f.write_char(c))?;
        }
        Ok(())
    }
}

impl FromStr for States {
    type Err = StatesError;

    fn from_str(text: &str) -> Result<Self, StatesError> {
        let mut states: Vec<(i128, Arc<str>)> = Vec::new();
        for part in text.split([',', ';']).map(str::trim) {
            if part.is_empty() {
                continue;
            }
            let form = || StatesError::Form {
                part: part.to_owned(),
            };
            let (number, name) = part.split_once('=').ok_or_else(form)?;
            let number: i128 = number.trim().parse().map_err(|_| form())?;
            let name = name.trim();
            // A name that looks like a number could be meant for the number.
            if name.is_empty() || name.parse::<f64>().is_ok() {
                return Err(form());
            }
            if states.iter().any(|(n, _)| *n == number) {
                return Err(StatesError::Number { number });
            }
            if states.iter().any(|(_, other)| &**other == name) {
                return Err(StatesError::Name { name: name.into() });
            }
            states.push((number, name.into()));
        }
        if states.is_empty() || states.len() > STATES_MAX {
            return Err(StatesError::Count);
        }
        Ok(Self(states))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn states(text: &str) -> Result<States, StatesError> {
        text.parse()
    }

    fn spec(address: &str, data_type: &str) -> PointSpec {
        let (address, data_type) = (address.parse().unwrap(), data_type.parse().unwrap());
        PointSpec::new(address, data_type, super::super::WordOrder::Abcd).unwrap()
    }

    #[test]
    fn names_and_numbers_find_each_other() {
        let pump = states("0=off, 1=running; -2 = fault").unwrap();
        assert_eq!(pump.to_string(), "0=off, 1=running, -2=fault");
        assert_eq!(pump.name(&Value::I64(-2)).as_deref(), Some("fault"));
        assert_eq!(pump.name(&Value::Bool(true)).as_deref(), Some("running"));
        assert_eq!(pump.name(&Value::U64(7)), None);
        assert_eq!(
            pump.number(&Value::Text("fault".into())),
            Some(Value::I64(-2))
        );
        assert_eq!(pump.number(&Value::Text("1".into())), Some(Value::I64(1)));
        assert_eq!(pump.number(&Value::F64(1.0)), Some(Value::I64(1)));
        assert_eq!(pump.number(&Value::I64(7)), None, "it has no name");
        assert_eq!(pump.number(&Value::Text("Fault".into())), None);
    }

    #[test]
    fn what_is_no_enumeration() {
        assert!(matches!(states("0=off, 1"), Err(StatesError::Form { .. })));
        assert!(matches!(states("off=0"), Err(StatesError::Form { .. })));
        assert!(matches!(states("0=1, 1=0"), Err(StatesError::Form { .. })));
        assert!(matches!(states(" "), Err(StatesError::Count)));
        assert_eq!(
            states("0=off, 0=on").unwrap_err(),
            StatesError::Number { number: 0 }
        );
        let error = states("0=off, 1=off").unwrap_err();
        assert_eq!(error.hint(), "rename one, for example off-2");
    }

    #[test]
    fn numbers_are_within_the_range_of_the_value() {
        let three = states("0=a, 3=b").unwrap();
        for (address, data_type) in [
            ("holding:0", "u16"),
            ("holding:0", "bcd16"),
            ("holding:0.4-5", "u8"),
            ("input:0", "i64"),
        ] {
            assert_eq!(three.check(&spec(address, data_type)), Ok(()));
        }
        let error = three.check(&spec("coil:0", "bool")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "3 (b) is no bool at coil:0: the range is 0 to 1"
        );
        assert!(
            states("-1=a")
                .unwrap()
                .check(&spec("holding:0", "u16"))
                .is_err()
        );
        assert!(
            states("10000=a")
                .unwrap()
                .check(&spec("holding:0", "bcd16"))
                .is_err()
        );
        assert!(three.check(&spec("holding:0", "f32")).is_err());
        assert!(three.check(&spec("holding:0", "u16[2]")).is_err());
    }
}
