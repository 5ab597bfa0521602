//! CSV files: heading, fields, and errors that name their place.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek};
use std::path::{Path, PathBuf};

use csv::StringRecord;
use millrace_tags::Moment;

use super::super::super::Failure;

/// What is larger are milliseconds: as seconds it would be the year 5138.
const SECONDS_MAX: f64 = 1e11;

/// A heading longer than this is no heading.
const HEADING_BYTES_MAX: u64 = 1 << 20;

/// A CSV file whose heading was read.
pub(super) struct CsvFile {
    /// Where it is, and its columns.
    pub(super) place: Place,
    reader: csv::Reader<BufReader<File>>,
}

/// A file's name and its columns.
pub(super) struct Place {
    path: PathBuf,
    heading: Vec<String>,
}

impl CsvFile {
    /// Opens a file and reads its heading. Comma, semicolon or tab: what the heading has most of.
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        let unreadable =
            |error| Failure::usage(format!("cannot read {}", path.display())).because(error);
        let mut file = BufReader::new(File::open(path).map_err(unreadable)?);
        let mut first = Vec::new();
        file.by_ref()
            .take(HEADING_BYTES_MAX)
            .read_until(b'\n', &mut first)
            .map_err(unreadable)?;
        file.rewind().map_err(unreadable)?;
        let count = |delimiter: &u8| first.iter().filter(|byte| *byte == delimiter).count();
        let delimiter = b"\t;,".iter().copied().max_by_key(count);
        let mut reader = csv::ReaderBuilder::new()
            .delimiter(delimiter.unwrap_or(b','))
            .trim(csv::Trim::All)
            .from_reader(file);
        let heading = reader.headers().map_err(|error| not_csv(path, error))?;
        let heading: Vec<String> = heading
            .iter()
            .map(|name| name.trim_start_matches('\u{feff}').to_owned())
            .collect();
        if heading.iter().all(String::is_empty) {
            let none = format!("{} has no heading", path.display());
            return Err(Failure::usage(none).hint("its first line names the columns"));
        }
        let path = path.to_owned();
        let place = Place { path, heading };
        Ok(Self { place, reader })
    }

    /// Its columns, and its records with their lines.
    pub(super) fn records(
        self,
    ) -> (
        Place,
        impl Iterator<Item = Result<(u64, StringRecord), Failure>>,
    ) {
        let path = self.place.path.clone();
        let records = self.reader.into_records().map(move |record| {
            let record = record.map_err(|error| not_csv(&path, error))?;
            let line = record.position().map_or(0, csv::Position::line);
            Ok((line, record))
        });
        (self.place, records)
    }
}

impl Place {
    /// The file's name.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The names of the columns, for people.
    pub(super) fn columns(&self) -> String {
        self.heading.join(", ")
    }

    /// Whether it is what `buffer export` writes: a sample a line.
    pub(super) fn is_export(&self) -> bool {
        let has = |name: &&str| self.heading.iter().any(|column| column == name);
        ["source", "seq", "n", "t", "v", "q"].iter().all(has)
    }

    /// The column of this name, as it is written or in other case.
    pub(super) fn column(&self, name: &str) -> Option<usize> {
        let exact = self.heading.iter().position(|column| column == name);
        let alike = |column: &String| column.eq_ignore_ascii_case(name);
        exact.or_else(|| self.heading.iter().position(alike))
    }

    /// The column of this name, which must be there.
    pub(super) fn named(&self, name: &str) -> Result<usize, Failure> {
        self.column(name).ok_or_else(|| {
            Failure::usage(format!("{} has no column {name}", self.path.display()))
                .hint(format!("its columns are {}", self.columns()))
        })
    }

    /// A field that is not what is expected there.
    pub(super) fn wrong(&self, line: u64, column: usize, what: &str) -> Failure {
        let name = self.heading.get(column).map_or("", String::as_str);
        let path = self.path.display();
        Failure::usage(format!("{path}, line {line}, column {name}: {what}"))
    }

    /// The number in a field; `None` where it is empty or NaN: there is no value then.
    pub(super) fn number(
        &self,
        line: u64,
        column: usize,
        record: &StringRecord,
    ) -> Result<Option<f64>, Failure> {
        let field = record.get(column).unwrap_or_default();
        number(field).ok_or_else(|| {
            let wrong = self.wrong(line, column, &format!("{field:?} is not a number"));
            match field.replace(',', ".").parse::<f64>() {
                Ok(_) => wrong.hint("decimals are written with a point"),
                Err(_) => wrong.hint("an empty field is a missing value"),
            }
        })
    }

    /// The time in a field.
    pub(super) fn time(
        &self,
        line: u64,
        column: usize,
        record: &StringRecord,
    ) -> Result<Moment, Failure> {
        let field = record.get(column).unwrap_or_default();
        time(field).ok_or_else(|| {
            self.wrong(line, column, &format!("{field:?} is not a time"))
                .hint(
                    "expected 2026-11-21 08:00:00 (UTC), Unix seconds, or Unix milliseconds; --time names another column",
                )
        })
    }
}

fn not_csv(path: &Path, error: csv::Error) -> Failure {
    let hint = match error.kind() {
        csv::ErrorKind::UnequalLengths { .. } => "every line has as many fields as the first",
        _ => "expected CSV in UTF-8 with a heading",
    };
    Failure::usage(format!("{} cannot be read as CSV", path.display()))
        .because(error)
        .hint(hint)
}

fn number(field: &str) -> Option<Option<f64>> {
    match field {
        "" => Some(None),
        "true" | "True" | "TRUE" => Some(Some(1.0)),
        "false" | "False" | "FALSE" => Some(Some(0.0)),
        _ => field.parse().ok().map(|v: f64| v.is_finite().then_some(v)),
    }
}

/// A time as nanoseconds since 1970, in UTC.
fn time(field: &str) -> Option<Moment> {
    if let Ok(number) = field.parse::<f64>() {
        let digits = if number.abs() < SECONDS_MAX { 9 } else { 6 };
        let nanos = number * [1e6, 1e9][usize::from(digits == 9)];
        let rough = nanos.is_finite().then_some(nanos as i64);
        return decimal(field, digits).or(rough).map(Moment);
    }
    let time = humantime::parse_rfc3339_weak(field).ok()?;
    let since_1970 = time.duration_since(std::time::UNIX_EPOCH).ok()?;
    i64::try_from(since_1970.as_nanos()).ok().map(Moment)
}

/// A plain decimal number times ten to the power of `digits`, exactly: a float has not the digits of nanoseconds.
fn decimal(text: &str, digits: usize) -> Option<i64> {
    let (sign, plain) = match text.strip_prefix('-') {
        Some(plain) => (-1, plain),
        None => (1, text),
    };
    let (whole, fraction) = plain.split_once('.').unwrap_or((plain, ""));
    let fraction = fraction.get(..digits).unwrap_or(fraction);
    let all = format!("{whole}{fraction:0<digits$}");
    let is_plain = all.bytes().all(|byte| byte.is_ascii_digit());
    is_plain.then(|| all.parse::<i64>().ok())?.map(|n| sign * n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_text_seconds_or_milliseconds() {
        let ns = |field| time(field).map(|at| at.0);
        assert_eq!(ns("2020-03-09 10:34:33"), Some(1_583_750_073_000_000_000));
        assert_eq!(
            ns("2020-03-09T10:34:33.5Z"),
            Some(1_583_750_073_500_000_000)
        );
        assert_eq!(ns("1583750073.123456789"), Some(1_583_750_073_123_456_789));
        assert_eq!(ns("1583750073123.456789"), Some(1_583_750_073_123_456_789));
        assert_eq!(ns("-0.5"), Some(-500_000_000));
        assert_eq!(ns("1.5e3"), Some(1_500_000_000_000));
        for wrong in ["", "noon", "09.03.2020 10:34", "nan"] {
            assert_eq!(ns(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn fields_are_numbers_or_missing() {
        assert_eq!(number("1.5"), Some(Some(1.5)));
        assert_eq!(number(""), Some(None));
        assert_eq!(number("NaN"), Some(None));
        assert_eq!(number("True"), Some(Some(1.0)));
        assert_eq!(number("on"), None);
    }
}
