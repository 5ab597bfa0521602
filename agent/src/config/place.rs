//! Where something was written: file, line, column.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

/// A place in a configuration file or in a CSV of tags.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Place {
    /// The file.
    pub(crate) file: Arc<Path>,
    /// The line, from 1; `None`: the file as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) line: Option<usize>,
    /// The character in the line, or the number of the CSV field, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) column: Option<usize>,
    /// The heading of the CSV column.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) heading: Option<Arc<str>>,
}

impl Place {
    /// The file as a whole.
    pub(crate) fn file(file: &Arc<Path>) -> Self {
        Self {
            file: file.clone(),
            line: None,
            column: None,
            heading: None,
        }
    }

    /// A line and column of a text.
    pub(crate) fn text(file: &Arc<Path>, line: usize, column: usize) -> Self {
        Self {
            file: file.clone(),
            line: Some(line),
            column: Some(column),
            heading: None,
        }
    }

    /// A field of a CSV.
    pub(crate) fn cell(file: &Arc<Path>, line: usize, column: usize, heading: &Arc<str>) -> Self {
        Self {
            file: file.clone(),
            line: Some(line),
            column: Some(column),
            heading: Some(heading.clone()),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        match (&self.heading, self.line, self.column) {
            (Some(heading), Some(line), Some(column)) => {
                write!(f, ":{line} (column {column}, {heading})")
            }
            (None, Some(line), Some(column)) => write!(f, ":{line}:{column}"),
            (_, Some(line), None) => write!(f, ":{line}"),
            _ => Ok(()),
        }
    }
}

/// Turns byte offsets of a text into lines and columns.
pub(crate) struct LineIndex<'t> {
    text: &'t str,
    starts: Vec<usize>,
}

impl<'t> LineIndex<'t> {
    /// The lines of the text.
    pub(crate) fn new(text: &'t str) -> Self {
        let starts = std::iter::once(0)
            .chain(text.match_indices('\n').map(|(at, _)| at + 1))
            .collect();
        Self { text, starts }
    }

    /// Line and column of a byte offset, both from 1; the column counts characters.
    pub(crate) fn position(&self, offset: usize) -> (usize, usize) {
        let offset = offset.min(self.text.len());
        let line = self.starts.partition_point(|start| *start <= offset);
        let start = self
            .starts
            .get(line.saturating_sub(1))
            .copied()
            .unwrap_or(0);
        let column = self
            .text
            .get(start..offset)
            .map_or(offset - start, |before| before.chars().count());
        (line, column + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_become_lines_and_characters() {
        let index = LineIndex::new("a\nbü = x\n");
        assert_eq!(index.position(0), (1, 1));
        assert_eq!(index.position(2), (2, 1));
        assert_eq!(index.position(8), (2, 6));
        assert_eq!(index.position(1000), (3, 1));
    }
}
