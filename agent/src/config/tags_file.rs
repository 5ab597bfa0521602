//! A CSV of tags: the first row names keys of `[[device.tag]]`, each further row is a tag.
//!
//! Rows become the same tables as those of TOML, so that they are read and judged in the same way. An
//! empty field is a key that is not written. Lines that begin with `#` are comments.

use std::path::Path;
use std::sync::Arc;

use super::device::TAGS_MAX;
use super::files::FileUse;
use super::keys::{SectionDoc, all_of, nearest};
use super::place::Place;
use super::problem::Problem;
use super::report::Report;
use super::section::Section;
use super::source::{Files, Role};
use super::tree::{Entry, Node, Raw, Table};

/// A column and its place in the file.
struct Column {
    key: Arc<str>,
    known: bool,
}

/// Reads the file that `tags_file` names. `None` where it cannot be read as a whole.
pub(super) fn read(section: &Section<'_>, doc: &SectionDoc, files: &Files) -> Option<Vec<Table>> {
    let path = section.file("tags_file", FileUse::Tags)?;
    let report = section.report();
    let named_at = section.node("tags_file").map(|node| &node.place);
    let text = match files.read(&path, Role::Tags, named_at) {
        Ok(text) => text,
        Err(problem) => {
            report.problem(problem.key(section.path_of("tags_file")));
            return None;
        }
    };
    rows(&Arc::from(path.as_path()), &text, doc, report)
}

/// The rows of a CSV as tables. `None` where a column is unknown or a row is not CSV.
fn rows(file: &Arc<Path>, text: &str, doc: &SectionDoc, report: &Report) -> Option<Vec<Table>> {
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(true)
        .flexible(true)
        .comment(Some(b'#'))
        .trim(csv::Trim::All)
        .delimiter(delimiter(text))
        .from_reader(text.as_bytes());
    let columns = columns(file, reader.headers().ok()?, doc, report);
    let mut tables = Vec::new();
    let mut readable = columns.iter().all(|column| column.known);
    for record in reader.records() {
        let row = match &record {
            Ok(record) => row(file, record, &columns),
            Err(error) => Err(Box::new(broken_row(file, error))),
        };
        match row {
            Ok(table) => tables.extend(table),
            Err(problem) => {
                report.problem(*problem);
                readable = false;
            }
        }
        if tables.len() > TAGS_MAX {
            let message = format!("there are more than {TAGS_MAX} tags in this file");
            report.problem(Problem::new(Place::file(file), message));
            return None;
        }
    }
    readable.then_some(tables)
}

/// Spreadsheets in many countries write semicolons.
fn delimiter(text: &str) -> u8 {
    let header = text
        .lines()
        .find(|line| !line.starts_with('#'))
        .unwrap_or_default();
    if header.contains(';') && !header.contains(',') {
        b';'
    } else {
        b','
    }
}

fn columns(
    file: &Arc<Path>,
    header: &csv::StringRecord,
    doc: &SectionDoc,
    report: &Report,
) -> Vec<Column> {
    let line = line_of(header);
    let mut columns: Vec<Column> = Vec::new();
    for (index, name) in header.iter().enumerate() {
        let key: Arc<str> = Arc::from(name.to_ascii_lowercase());
        let twice = columns.iter().any(|column| column.key == key);
        let known = doc.key(&key).is_some() && !twice;
        if !known {
            report.problem(unknown_column(file, line, index, name, twice, doc));
        }
        columns.push(Column { key, known });
    }
    columns
}

fn unknown_column(
    file: &Arc<Path>,
    line: usize,
    index: usize,
    name: &str,
    twice: bool,
    doc: &SectionDoc,
) -> Problem {
    let shown = if name.is_empty() { "(empty)" } else { name };
    let place = Place::cell(file, line, index + 1, &Arc::from(shown));
    if twice {
        return Problem::new(place, format!("column {name} is there twice")).value(name);
    }
    let names: Vec<&str> = doc.keys.iter().map(|key| key.name).collect();
    let hint = match nearest(name, names.iter().copied()) {
        Some(near) => format!("did you mean {near}?"),
        None => format!("the columns are {}", all_of(&names)),
    };
    let shown = if name.is_empty() { "(empty)" } else { name };
    Problem::new(
        place,
        format!("column {shown} is not a key of {}", doc.heading),
    )
    .value(name)
    .hint(hint)
}

/// A row as a table; `None` for a row of empty fields, as spreadsheets leave them.
fn row(
    file: &Arc<Path>,
    record: &csv::StringRecord,
    columns: &[Column],
) -> Result<Option<Table>, Box<Problem>> {
    let line = line_of(record);
    if record.iter().all(str::is_empty) {
        return Ok(None);
    }
    if record
        .iter()
        .skip(columns.len())
        .any(|field| !field.is_empty())
    {
        let message = format!(
            "the row has {} fields, the first row has {}",
            record.len(),
            columns.len()
        );
        let problem = Problem::new(Place::text(file, line, columns.len() + 1), message);
        return Err(Box::new(
            problem.hint("put fields that hold a comma into quotes"),
        ));
    }
    let entries = record
        .iter()
        .zip(columns)
        .enumerate()
        .filter_map(|(index, (field, column))| {
            if field.is_empty() {
                return None;
            }
            let place = Place::cell(file, line, index + 1, &column.key);
            Some(Entry {
                key: column.key.to_string(),
                key_place: place.clone(),
                node: Node {
                    place,
                    raw: Raw::Cell(field.to_owned()),
                },
            })
        });
    Ok(Some(Table {
        entries: entries.collect(),
        place: Place {
            column: None,
            ..Place::text(file, line, 1)
        },
    }))
}

fn broken_row(file: &Arc<Path>, error: &csv::Error) -> Problem {
    let place = match error.position() {
        Some(position) => Place::text(file, usize::try_from(position.line()).unwrap_or(1), 1),
        None => Place::file(file),
    };
    Problem::new(place, format!("this is not CSV: {error}"))
}

fn line_of(record: &csv::StringRecord) -> usize {
    let line = record.position().map_or(1, csv::Position::line);
    usize::try_from(line).unwrap_or(1)
}
