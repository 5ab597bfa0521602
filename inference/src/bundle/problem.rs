//! What is wrong with a manifest, one finding at a time.

use std::fmt;

/// One thing in model.toml that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Line in model.toml, from 1.
    pub line: usize,
    /// Column, from 1.
    pub column: usize,
    /// Full key, such as `window.len` or `input[2].range`.
    pub key: String,
    /// The value as it is written; `None` where the key is missing.
    pub value: Option<String>,
    /// What would be right.
    pub expected: String,
    /// What to do about it, where that is not plain from `expected`.
    pub hint: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {} ", self.line, self.column, self.key)?;
        match &self.value {
            Some(value) => write!(f, "is {value}")?,
            None => write!(f, "is missing")?,
        }
        write!(f, "; expected {}", self.expected)?;
        match &self.hint {
            Some(hint) => write!(f, "\n  hint: {hint}"),
            None => Ok(()),
        }
    }
}
