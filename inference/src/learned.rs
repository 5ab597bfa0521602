//! What a monitor has learned, as it is kept over restarts.
//!
//! Format: a line `millrace-learned 1`, then one JSON object: `model`, the fingerprint of what it was learned
//! for ([`crate::ModelSpec::fingerprint`]); `detector`, a built-in detector's training; `limit`, the calibration of the
//! threshold. Numbers are the bits of an f64 in hexadecimal, so that a restart changes no score by a bit.

use serde::{Deserialize, Serialize};

use crate::builtin::Training;
use crate::threshold::Calibrating;

/// The first line.
const HEAD: &str = "millrace-learned 1";

/// What the first line of any version begins with.
const MAGIC: &str = "millrace-learned ";

/// What was learned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Learned {
    /// For which model, asset and settings.
    pub(crate) model: String,
    /// Of the detector.
    pub(crate) detector: Option<Training>,
    /// Of the threshold.
    pub(crate) limit: Option<Calibrating>,
}

/// Why what was kept cannot be used. In each case the monitor is as new, and learns.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// It is of another version of the program: leave the file to that one, or remove it.
    #[error("another version of the program wrote it ({head:?}); this one reads {HEAD:?}")]
    Version {
        /// The first line.
        head: String,
    },
    /// It is not what this program writes: the file is damaged.
    #[error("it is damaged")]
    Damaged(#[source] Option<serde_json::Error>),
    /// It was learned for another model, asset or setting, which is usual after a change.
    #[error("it was learned for another model, other tags or other settings")]
    Another,
}

impl Learned {
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        // Plain data with text keys always has a form in JSON.
        let body = serde_json::to_string(self).unwrap_or_default();
        format!("{HEAD}\n{body}\n").into_bytes()
    }

    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, RestoreError> {
        let text = std::str::from_utf8(bytes).map_err(|_| RestoreError::Damaged(None))?;
        let (head, body) = text.split_once('\n').unwrap_or((text, ""));
        if head != HEAD {
            return Err(match head.starts_with(MAGIC) && head.len() < 64 {
                true => RestoreError::Version {
                    head: head.to_owned(),
                },
                false => RestoreError::Damaged(None),
            });
        }
        serde_json::from_str(body).map_err(|error| RestoreError::Damaged(Some(error)))
    }
}

/// Numbers as the bits of an f64, 16 hexadecimal digits each.
pub(crate) mod bits {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    const DIGITS: usize = 16;

    fn write(numbers: &[f64]) -> String {
        numbers
            .iter()
            .map(|number| format!("{:016x}", number.to_bits()))
            .collect()
    }

    fn read(text: &str) -> Option<Vec<f64>> {
        if !text.is_ascii() || !text.len().is_multiple_of(DIGITS) {
            return None;
        }
        let number = |at: usize| u64::from_str_radix(text.get(at..at + DIGITS)?, 16).ok();
        let numbers = (0..text.len())
            .step_by(DIGITS)
            .map(|at| number(at).map(f64::from_bits));
        numbers.collect()
    }

    /// A list of numbers.
    pub(crate) mod list {
        use super::{Deserialize, Deserializer, Error, Serializer, read, write};

        pub(crate) fn serialize<S: Serializer>(
            numbers: &[f64],
            serializer: S,
        ) -> Result<S::Ok, S::Error> {
            serializer.serialize_str(&write(numbers))
        }

        pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
            deserializer: D,
        ) -> Result<Vec<f64>, D::Error> {
            let text = String::deserialize(deserializer)?;
            read(&text).ok_or_else(|| D::Error::custom("expected numbers of 16 hexadecimal digits"))
        }
    }

    /// A number or none.
    pub(crate) mod option {
        use super::{Deserialize, Deserializer, Error, Serializer, read, write};

        pub(crate) fn serialize<S: Serializer>(
            number: &Option<f64>,
            serializer: S,
        ) -> Result<S::Ok, S::Error> {
            match number {
                Some(number) => serializer.serialize_some(&write(&[*number])),
                None => serializer.serialize_none(),
            }
        }

        pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
            deserializer: D,
        ) -> Result<Option<f64>, D::Error> {
            let text = Option::<String>::deserialize(deserializer)?;
            let wrong = || D::Error::custom("expected a number of 16 hexadecimal digits");
            match text {
                None => Ok(None),
                Some(text) => match read(&text).as_deref() {
                    Some([number]) => Ok(Some(*number)),
                    _ => Err(wrong()),
                },
            }
        }
    }
}
