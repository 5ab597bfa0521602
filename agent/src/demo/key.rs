//! Values that compare exactly, wherever they were seen.

use serde_json::Value;

/// A value as it was served or as it arrived. Numbers compare by their bits.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Key {
    /// A number, as the bits of an `f64`.
    Number(u64),
    /// A number of a tag that has single precision, as the bits of an `f32`.
    Single(u32),
    /// A bool.
    Bool(bool),
    /// Text.
    Text(String),
    /// No value, because the quality was bad.
    Bad,
}

impl Key {
    /// The key of a JSON value.
    pub(super) fn of(value: &Value) -> Self {
        match value {
            Value::Bool(b) => Key::Bool(*b),
            Value::String(text) => Key::Text(text.clone()),
            other => other
                .as_f64()
                .map_or(Key::Bad, |number| Key::Number(number.to_bits())),
        }
    }

    /// The number as a tag of single precision holds it. Two decimals can be the shortest of one `f32`
    /// (51.007812 and 51.007813): which of them is written is no difference of values.
    pub(super) fn single(&self) -> Self {
        match self {
            Key::Number(bits) => Key::Single((f64::from_bits(*bits) as f32).to_bits()),
            other => other.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn either_shortest_decimal_of_a_single_is_the_same_value() {
        let value = 51.0 + 1.0 / 128.0_f32;
        for decimal in [json!(51.007812), json!(51.007813)] {
            assert_eq!(Key::of(&decimal).single(), Key::Single(value.to_bits()));
        }
    }

    #[test]
    fn numbers_compare_by_value_not_by_spelling() {
        assert_eq!(Key::of(&json!(2)), Key::of(&json!(2.0)));
        assert_ne!(Key::of(&json!(2)), Key::of(&json!(true)));
        assert_eq!(Key::of(&json!(null)), Key::Bad);
    }
}
