//! Values that compare exactly, wherever they were seen.

use serde_json::Value;

/// A value as it was served or as it arrived. Numbers compare by the bits of their `f64`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Key {
    /// Any number.
    Number(u64),
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn numbers_compare_by_value_not_by_spelling() {
        assert_eq!(Key::of(&json!(2)), Key::of(&json!(2.0)));
        assert_ne!(Key::of(&json!(2)), Key::of(&json!(true)));
        assert_eq!(Key::of(&json!(null)), Key::Bad);
    }
}
