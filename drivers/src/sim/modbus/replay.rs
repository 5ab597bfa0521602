//! A recorded data set that a simulated device serves row by row.
//!
//! A CSV file with a header, comma or semicolon: every column of numbers is a tag. The first column is
//! left out where it is the time: by its name (`time`, `date…`, `t` …), or because it holds no numbers.
//! So is every column that begins with something else than a number. An empty field is served as NaN.
//!
//! With [`Advance::Read`] the first read gets row 0, and the next row follows when a reply that holds
//! the last register of the map was written. With [`Advance::Tick`] rows follow by the clock, which
//! starts at the first read. After the last row, reads are answered with exception 04 (device failure),
//! so that a reader has every row exactly once among its good samples and sees the end.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

/// Names of a column of times, which may be numbers and yet no tag.
const TIME_NAMES: [&str; 7] = ["t", "ts", "time", "timestamp", "date", "datetime", "epoch"];

/// A recording is held in memory: 256 MB of it.
const VALUES_MAX: usize = 64 << 20;

/// What makes the next row come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Advance {
    /// Time: a row each interval.
    Tick {
        /// From one row to the next.
        interval: Duration,
    },
    /// A read of the last register.
    Read,
}

/// A recording, and how it is served.
#[derive(Debug, Clone, PartialEq)]
pub struct Replay {
    columns: Vec<Arc<str>>,
    values: Arc<[f32]>,
    advance: Advance,
}

/// Why a file is no recording.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// The text is not CSV.
    #[error("the recording cannot be read as CSV")]
    Csv(#[source] csv::Error),
    /// It cannot be read at all.
    #[error("the recording cannot be read")]
    Io(#[source] std::io::Error),
    /// No column of numbers besides the time.
    #[error("the recording has no column of numbers besides the time")]
    NoColumn,
    /// No row after the header.
    #[error("the recording has no row after the header")]
    NoRow,
    /// A field that is no number.
    #[error("line {line} of the recording, column {column}: {field:?} is not a number")]
    NotANumber {
        /// The line, counted from 1.
        line: u64,
        /// The name of the column.
        column: Arc<str>,
        /// The field.
        field: String,
    },
    /// More values than are held in memory.
    #[error("the recording has more than {VALUES_MAX} values")]
    TooLong,
}

impl ReplayError {
    /// What to change.
    pub fn hint(&self) -> &'static str {
        match self {
            ReplayError::Csv(_) | ReplayError::Io(_) => {
                "give it a header line, and as many fields in every line"
            }
            ReplayError::NoColumn => {
                "give it columns of numbers, with comma or semicolon between them"
            }
            ReplayError::NoRow => "add rows below the header",
            ReplayError::NotANumber { .. } => {
                "remove the column, or leave the field empty to serve it as NaN"
            }
            ReplayError::TooLong => "cut the file into pieces",
        }
    }
}

impl Replay {
    /// Reads a CSV file.
    ///
    /// # Errors
    /// The first place that is wrong.
    pub fn from_csv(mut text: impl Read, advance: Advance) -> Result<Self, ReplayError> {
        let mut bytes = Vec::new();
        text.read_to_end(&mut bytes).map_err(ReplayError::Io)?;
        let header = bytes.split(|b| *b == b'\n').next().unwrap_or_default();
        let delimiter = if header.contains(&b';') { b';' } else { b',' };
        let mut reader = csv::ReaderBuilder::new()
            .trim(csv::Trim::All)
            .delimiter(delimiter)
            .from_reader(&bytes[..]);
        let header = reader.headers().map_err(ReplayError::Csv)?.clone();
        let records: Result<Vec<_>, _> = reader.records().collect();
        let records = records.map_err(ReplayError::Csv)?;
        let served: Vec<usize> = (0..header.len())
            .filter(|at| is_tag(*at, &header, records.first()))
            .collect();
        if served.len() * records.len() > VALUES_MAX {
            return Err(ReplayError::TooLong);
        }
        let columns: Vec<Arc<str>> = served.iter().map(|at| Arc::from(&header[*at])).collect();
        let mut values = Vec::with_capacity(served.len() * records.len());
        for record in &records {
            let line = record.position().map_or(0, csv::Position::line);
            for (&at, column) in served.iter().zip(&columns) {
                values.push(value(&record[at], line, column)?);
            }
        }
        Self::from_rows(columns, values, advance)
    }

    /// A recording made by code: the values row by row.
    ///
    /// # Errors
    /// There is no column, or not one whole row.
    pub fn from_rows(
        columns: Vec<Arc<str>>,
        values: Vec<f32>,
        advance: Advance,
    ) -> Result<Self, ReplayError> {
        if columns.is_empty() {
            return Err(ReplayError::NoColumn);
        }
        if values.len() < columns.len() {
            return Err(ReplayError::NoRow);
        }
        Ok(Self {
            columns,
            values: values.into(),
            advance,
        })
    }

    /// The names of the tags.
    pub fn columns(&self) -> &[Arc<str>] {
        &self.columns
    }

    /// How many rows there are.
    pub fn rows(&self) -> usize {
        self.values.len() / self.columns.len()
    }

    /// What makes the next row come.
    pub fn advance(&self) -> Advance {
        self.advance
    }

    /// A value; `None` past the last row.
    pub fn value(&self, row: usize, column: usize) -> Option<f32> {
        let at = row.checked_mul(self.columns.len())?.checked_add(column)?;
        self.values.get(at).copied()
    }
}

/// Whether a column is served: it begins with a number, or with nothing, and is not the time.
fn is_tag(at: usize, header: &csv::StringRecord, first: Option<&csv::StringRecord>) -> bool {
    let is_time = at == 0 && TIME_NAMES.contains(&header[at].to_ascii_lowercase().as_str());
    let begins = first.map_or("", |record| &record[at]);
    !is_time && (begins.is_empty() || begins.parse::<f32>().is_ok())
}

fn value(field: &str, line: u64, column: &Arc<str>) -> Result<f32, ReplayError> {
    if field.is_empty() {
        return Ok(f32::NAN);
    }
    field.parse().map_err(|_| ReplayError::NotANumber {
        line,
        column: Arc::clone(column),
        field: field.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_delimiters() {
        for text in ["t,a,b\n1,2,3\n2,,5.5\n", "t;a;b\r\n1;2;3\r\n2;;5.5\r\n"] {
            let replay = Replay::from_csv(text.as_bytes(), Advance::Read).unwrap();
            assert_eq!(replay.rows(), 2);
            assert_eq!(&*replay.columns()[1], "b");
            assert_eq!(replay.value(0, 0), Some(2.0));
            assert!(replay.value(1, 0).unwrap().is_nan());
            assert_eq!(replay.value(1, 1), Some(5.5));
            assert_eq!(replay.value(2, 0), None);
        }
    }

    #[test]
    fn only_columns_of_numbers_are_served() {
        let columns = |text: &str| {
            let replay = Replay::from_csv(text.as_bytes(), Advance::Read).unwrap();
            replay.columns().join(" ")
        };
        assert_eq!(columns("speed,flow\n1,2\n"), "speed flow");
        assert_eq!(
            columns("when,speed,state\n2020-03-09 10:14:33,1,on\n"),
            "speed"
        );
        assert_eq!(columns("Timestamp,speed\n1600000000,1\n"), "speed");
        assert_eq!(columns("t,speed,flow\n1,,2\n"), "speed flow");
    }

    #[test]
    fn wrong_files_name_the_place() {
        let read = |text: &str| Replay::from_csv(text.as_bytes(), Advance::Read).unwrap_err();
        assert_eq!(
            read("t,a\n1,2\n2,on\n").to_string(),
            "line 3 of the recording, column a: \"on\" is not a number"
        );
        assert!(matches!(read("t\n1\n"), ReplayError::NoColumn));
        assert!(matches!(read("t,a\n"), ReplayError::NoRow));
        assert!(matches!(read("t,a\n1\n"), ReplayError::Csv(_)));
    }
}
