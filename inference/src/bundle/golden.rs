//! Golden vectors: windows with the scores that the model gave where it was trained.
//!
//! ```json
//! {"windows": [{"values": [4.9, 42.1, …], "score": 0.83, "contribution": [0.1, …]}]}
//! ```
//! `values` are `len * inputs` numbers, row after row, in the units of the inputs (before any
//! normalisation); `contribution` is optional. A window of a forecast goes on to the row that is predicted, so that it is scored
//! as live ones are; `predicted` is what the model gave for each role of the forecast, in their units, and is optional.

use serde::Deserialize;

use super::manifest::Manifest;

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
    /// As many rows as a window has, row after row.
    pub values: Vec<f32>,
    /// The score.
    pub score: f64,
    /// One number for each input, where it is known.
    pub contribution: Option<Vec<f64>>,
    /// One number for each role that is predicted, where it is known.
    pub predicted: Option<Vec<f64>>,
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
    /// A window has predicted values for another number of roles.
    #[error(
        "windows[{index}].predicted holds {actual} numbers; model.toml predicts {expected} role(s)"
    )]
    Predicted {
        /// Which window.
        index: usize,
        /// Roles of the forecast; 0 where the model is none.
        expected: usize,
        /// What the file holds.
        actual: usize,
    },
}

impl Golden {
    pub(super) fn parse(bytes: &[u8], manifest: &Manifest) -> Result<Self, GoldenError> {
        let inputs = manifest.columns.len();
        let values = manifest.window_rows() * inputs;
        let forecast = manifest.output.forecast();
        let roles = forecast.map_or(0, |forecast| forecast.columns.len());
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
            if let Some(predicted) = &window.predicted
                && predicted.len() != roles
            {
                return Err(GoldenError::Predicted {
                    index,
                    expected: roles,
                    actual: predicted.len(),
                });
            }
        }
        Ok(golden)
    }
}
