//! A part of an array: `3`, `2:5`, `1:2,0:1` (Part 4, 7.27).

use std::fmt;
use std::str::FromStr;

use opcua::types::{Array, DataValue, NumericRange, Variant};

/// The part of an array that an address means.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct IndexRange {
    text: String,
    /// First and last index, where there is one dimension.
    flat: Option<(usize, usize)>,
    /// One element, not an array of one.
    single: bool,
}

impl IndexRange {
    /// `None` where the text is no range.
    pub(super) fn parse(text: &str) -> Option<Self> {
        NumericRange::from_str(text)
            .ok()
            .filter(NumericRange::has_range)?;
        let bounds = match text.split_once(':') {
            _ if text.contains(',') => None,
            Some((first, last)) => Some((first.parse().ok()?, last.parse().ok()?)),
            None => text.parse().ok().map(|index| (index, index)),
        };
        Some(Self {
            text: text.to_owned(),
            flat: bounds,
            single: !text.contains([':', ',']),
        })
    }

    /// As a request says it.
    pub(super) fn numeric(&self) -> NumericRange {
        NumericRange::from_str(&self.text).unwrap_or(NumericRange::None)
    }

    /// The part of what the server has sent: there are servers that send the whole array. One element is no array.
    pub(super) fn cut(&self, data: DataValue) -> DataValue {
        let Some(Variant::Array(array)) = &data.value else {
            return data;
        };
        let Some(part) = self.part(array) else {
            return data;
        };
        DataValue {
            value: Some(part),
            ..data
        }
    }

    fn part(&self, array: &Array) -> Option<Variant> {
        let (first, last) = self.flat?;
        let sent = array.values.len();
        let from = if sent > last - first + 1 { first } else { 0 };
        let values = array.values.get(from..sent.min(from + last - first + 1))?;
        match values {
            [one] if self.single => Some(one.clone()),
            _ => Array::new(array.value_type, values.to_vec())
                .ok()
                .map(|part| Variant::Array(Box::new(part))),
        }
    }
}

impl fmt::Display for IndexRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(range: &str, values: &[i32]) -> Option<Variant> {
        let data = DataValue {
            value: Some(Variant::from(values.to_vec())),
            ..DataValue::default()
        };
        IndexRange::parse(range).expect("a range").cut(data).value
    }

    #[test]
    fn one_element_is_no_array() {
        assert_eq!(cut("3", &[40]), Some(Variant::Int32(40)));
        assert_eq!(cut("3", &[10, 20, 30, 40]), Some(Variant::Int32(40)));
    }

    #[test]
    fn a_part_is_cut_out_where_the_server_sent_everything() {
        let part = Some(Variant::from(vec![20, 30]));
        assert_eq!(cut("1:2", &[20, 30]), part);
        assert_eq!(cut("1:2", &[10, 20, 30, 40]), part);
    }

    #[test]
    fn what_is_no_range_is_none() {
        for text in ["", "x", "5:2", "2:2", "-1", "1:"] {
            assert_eq!(IndexRange::parse(text), None, "{text}");
        }
        assert!(IndexRange::parse("1:2,0:1").is_some());
    }
}
