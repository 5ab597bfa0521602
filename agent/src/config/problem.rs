//! What is wrong with a configuration, and what is only worth saying.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::place::Place;
use super::source::SourceFile;

/// Something that must be put right before the configuration can be used.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Problem {
    /// Where it is written.
    #[serde(flatten)]
    pub(crate) place: Place,
    /// The full path of the key, for example `device[boiler].tag[pressure].scale`; empty where no key is meant.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) key: String,
    /// The value as written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) value: Option<String>,
    /// What failed, with which value, and what was expected: one sentence.
    pub(crate) message: String,
    /// What was expected in the value's place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) expected: Option<String>,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hint: Option<String>,
}

impl Problem {
    /// A problem that is no matter of one value.
    pub(crate) fn new(place: Place, message: impl Into<String>) -> Self {
        Self {
            place,
            key: String::new(),
            value: None,
            message: message.into(),
            expected: None,
            hint: None,
        }
    }

    /// The same, with what to do about it.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same, at a key.
    pub(crate) fn key(mut self, key: impl Into<String>) -> Self {
        self.key = key.into();
        self
    }

    /// The same, with the value as written.
    pub(crate) fn value(mut self, value: impl Into<String>) -> Self {
        self.value = Some(value.into());
        self
    }

    /// The same, with what was expected.
    pub(crate) fn expected(mut self, expected: impl Into<String>) -> Self {
        self.expected = Some(expected.into());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "error: {}", self.message)?;
        write_place(f, &self.place, &self.key)?;
        write_hint(f, self.hint.as_deref())
    }
}

/// Every problem of a configuration, in the order of files and lines.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(crate) struct Problems {
    list: Vec<Problem>,
    data_dir: Option<PathBuf>,
}

impl Problems {
    /// One problem that kept the configuration from being read at all.
    pub(crate) fn one(problem: Problem) -> Self {
        Self {
            list: vec![problem],
            data_dir: None,
        }
    }

    /// The problems of what was read from `sources`.
    pub(crate) fn new(mut list: Vec<Problem>, data_dir: PathBuf, sources: &[SourceFile]) -> Self {
        let order = |problem: &Problem| {
            let file = &*problem.place.file;
            let nth = sources.iter().position(|source| source.path == file);
            (nth, problem.place.line, problem.place.column)
        };
        list.sort_by_key(order);
        Self {
            list,
            data_dir: Some(data_dir),
        }
    }

    /// Each of them.
    pub(crate) fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.list.iter()
    }

    /// The data directory that the configuration means, where so much could be read of it: the last
    /// good configuration is there.
    pub(crate) fn data_dir(&self) -> Option<&Path> {
        self.data_dir.as_deref()
    }
}

impl From<Vec<Problem>> for Problems {
    fn from(list: Vec<Problem>) -> Self {
        Self {
            list,
            data_dir: None,
        }
    }
}

impl Serialize for Problems {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.list.serialize(serializer)
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.list {
            writeln!(f, "{problem}\n")?;
        }
        match self.list.len() {
            1 => write!(f, "1 problem"),
            n => write!(f, "{n} problems"),
        }
    }
}

/// Something that an operator should know, although the configuration can be used.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Note {
    /// Where it is written.
    #[serde(flatten)]
    pub(crate) place: Place,
    /// The full path of the key it is about, where there is one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) key: String,
    /// What to know: one sentence.
    pub(crate) message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hint: Option<String>,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "warning: {}", self.message)?;
        write_place(f, &self.place, &self.key)?;
        write_hint(f, self.hint.as_deref())
    }
}

fn write_place(f: &mut fmt::Formatter<'_>, place: &Place, key: &str) -> fmt::Result {
    write!(f, "  --> {place}")?;
    if !key.is_empty() {
        write!(f, ", {key}")?;
    }
    Ok(())
}

fn write_hint(f: &mut fmt::Formatter<'_>, hint: Option<&str>) -> fmt::Result {
    match hint {
        Some(hint) => write!(f, "\n  hint: {hint}"),
        None => Ok(()),
    }
}
