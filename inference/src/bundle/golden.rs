//! Golden vectors: windows with the scores that the model gave where it was trained.
//!
//! ```json
//! {"windows": [{"values": [4.9, 42.1, …], "score": 0.83, "contribution": [0.1, …]}]}
//! ```
//! `values` are `len * inputs` numbers, row after row, in the units of the inputs (before any
//! normalisation); `contribution` is optional.

use serde::Deserialize;

/// More vectors would prove nothing more, and all of them run at each load.
const WINDOWS_MAX: usize = 1_024;

/// The golden vectors of a bundle.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Golden {
    /// The windows, at least one.
    pub windows: Vec<GoldenWindow>,
}

/// One window with its known score.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GoldenWindow {
    /// `len * inputs` values, row after row.
    pub values: Vec<f32>,
    /// The score.
    pub score: f64,
    /// One number for each input, where it is known.
    pub contribution: Option<Vec<f64>>,
}

/// Why golden vectors cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum GoldenError {
    /// It is not the JSON of this format.
    #[error("not golden vectors in JSON")]
    Json(#[from] serde_json::Error),
    /// There are none, or far too many.
    #[error("it holds {0} windows; expected 1 to {WINDOWS_MAX}")]
    Count(usize),
    /// A window has another size than the manifest says.
    #[error("windows[{index}].values holds {actual} numbers; model.toml makes it {expected}")]
    Values {
        /// Which window.
        index: usize,
        /// Rows times inputs.
        expected: usize,
        /// What the file holds.
        actual: usize,
    },
    /// A window has contributions for another number of inputs.
    #[error(
        "windows[{index}].contribution holds {actual} numbers; model.toml has {expected} columns"
    )]
    Contribution {
        /// Which window.
        index: usize,
        /// Inputs of the model.
        expected: usize,
        /// What the file holds.
        actual: usize,
    },
}

impl Golden {
    pub(super) fn parse(bytes: &[u8], values: usize, inputs: usize) -> Result<Self, GoldenError> {
        let golden: Golden = serde_json::from_slice(bytes)?;
        if golden.windows.is_empty() || golden.windows.len() > WINDOWS_MAX {
            return Err(GoldenError::Count(golden.windows.len()));
        }
        for (index, window) in golden.windows.iter().enumerate() {
            if window.values.len() != values {
                return Err(GoldenError::Values {
                    index,
                    expected: values,
                    actual: window.values.len(),
                });
            }
            if let Some(contribution) = &window.contribution
                && contribution.len() != inputs
            {
                return Err(GoldenError::Contribution {
                    index,
                    expected: inputs,
                    actual: contribution.len(),
                });
            }
        }
        Ok(golden)
    }
}
