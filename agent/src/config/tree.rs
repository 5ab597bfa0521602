//! A configuration as written: tables and values, each with its place.
//!
//! TOML files and CSVs of tags become the same tree, so that one reader understands both.

use std::path::Path;
use std::sync::Arc;

use toml_edit::{Item, Key, TableLike, Value};

use super::place::{LineIndex, Place};
use super::problem::Problem;

/// A table as written.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    /// Where it begins.
    pub(crate) place: Place,
    /// Its keys, in the order of the file.
    pub(crate) entries: Vec<Entry>,
}

/// A key of a table, and what it is set to.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// The key.
    pub(crate) key: String,
    /// Where the key is written.
    pub(crate) key_place: Place,
    /// The value.
    pub(crate) node: Node,
}

/// A value with its place.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    /// Where it is written.
    pub(crate) place: Place,
    /// What is written.
    pub(crate) raw: Raw,
}

/// A value as written.
#[derive(Debug, Clone)]
pub(crate) enum Raw {
    /// A quoted string.
    Text(String),
    /// A field of a CSV: a string, a number or a bool, as the key wants it.
    Cell(String),
    /// A whole number.
    Int(i64),
    /// Any other number.
    Float(f64),
    /// `true` or `false`.
    Bool(bool),
    /// A date or a time, which no key takes.
    Time(String),
    /// An array, also an array of tables.
    List(Vec<Node>),
    /// A table.
    Table(Table),
}

impl Table {
    /// An empty table.
    pub(crate) fn empty(place: Place) -> Self {
        Self {
            place,
            entries: Vec::new(),
        }
    }

    /// What the key is set to.
    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        self.entries
            .iter()
            .find(|entry| entry.key == key)
            .map(|entry| &entry.node)
    }

    /// The text that the key is set to, if it is one.
    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Node::as_text)
    }
}

impl Node {
    /// The text, if it is one.
    pub(crate) fn as_text(&self) -> Option<&str> {
        match &self.raw {
            Raw::Text(text) | Raw::Cell(text) => Some(text),
            _ => None,
        }
    }

    /// The bool, if it is one.
    pub(crate) fn as_bool(&self) -> Option<bool> {
        match &self.raw {
            Raw::Bool(bool) => Some(*bool),
            Raw::Cell(text) => match text.to_ascii_lowercase().as_str() {
                "true" | "yes" | "1" => Some(true),
                "false" | "no" | "0" => Some(false),
                _ => None,
            },
            _ => None,
        }
    }

    /// The whole number, if it is one.
    pub(crate) fn as_int(&self) -> Option<i64> {
        match &self.raw {
            Raw::Int(int) => Some(*int),
            Raw::Cell(text) => text.parse().ok(),
            _ => None,
        }
    }

    /// The number, if it is one that can be calculated with.
    pub(crate) fn as_number(&self) -> Option<f64> {
        let number = match &self.raw {
            Raw::Int(int) => Some(*int as f64),
            Raw::Float(float) => Some(*float),
            Raw::Cell(text) => text.parse().ok(),
            _ => None,
        };
        number.filter(|number: &f64| number.is_finite())
    }

    /// The value for a message: short, on one line, strings quoted only where they need it.
    pub(crate) fn shown(&self) -> String {
        match &self.raw {
            Raw::Text(text) | Raw::Cell(text) => shown_text(text),
            Raw::Int(int) => int.to_string(),
            Raw::Float(float) => float.to_string(),
            Raw::Bool(bool) => bool.to_string(),
            Raw::Time(text) => text.clone(),
            Raw::List(_) => "an array".to_owned(),
            Raw::Table(_) => "a table".to_owned(),
        }
    }
}

/// Longest value that a message repeats in full; a pasted certificate would bury the sentence.
const SHOWN_CHARS_MAX: usize = 80;

fn shown_text(text: &str) -> String {
    let text = &without_credentials(text);
    if text.is_empty() || text.chars().any(|c| c.is_control() || c == '"') || text.trim() != text {
        return shorten(&format!("{text:?}"));
    }
    shorten(text)
}

/// A URL may carry a password that nobody meant to show.
fn without_credentials(text: &str) -> String {
    let credentials = text.split_once("://").and_then(|(scheme, rest)| {
        let (_, host) = rest.rsplit_once('@')?;
        Some(format!("{scheme}://…@{host}"))
    });
    credentials.unwrap_or_else(|| text.to_owned())
}

fn shorten(text: &str) -> String {
    if text.chars().count() <= SHOWN_CHARS_MAX {
        return text.to_owned();
    }
    let head: String = text.chars().take(SHOWN_CHARS_MAX).collect();
    format!("{head}…")
}

/// Reads TOML text. The parser stops at the first mistake of syntax, so there is one problem at most.
pub(crate) fn parse(file: &Arc<Path>, text: &str) -> Result<Table, Box<Problem>> {
    let lines = LineIndex::new(text);
    let document = toml_edit::Document::parse(text).map_err(|error| {
        let offset = error.span().map_or(0, |span| span.start);
        let (line, column) = lines.position(offset);
        let message = error.message().trim().replace('\n', ", ");
        Box::new(Problem::new(
            Place::text(file, line, column),
            format!("this is not TOML: {message}"),
        ))
    })?;
    let converter = Converter { file, lines };
    Ok(converter.table(document.as_table(), Place::text(file, 1, 1)))
}

struct Converter<'t> {
    file: &'t Arc<Path>,
    lines: LineIndex<'t>,
}

impl Converter<'_> {
    fn place(&self, span: Option<std::ops::Range<usize>>, or: &Place) -> Place {
        span.map_or_else(
            || or.clone(),
            |span| {
                let (line, column) = self.lines.position(span.start);
                Place::text(self.file, line, column)
            },
        )
    }

    fn table(&self, table: &dyn TableLike, place: Place) -> Table {
        let entries = table
            .iter()
            .filter_map(|(name, item)| {
                let key = table.key(name)?;
                Some(self.entry(key, item, &place))
            })
            .collect();
        Table { place, entries }
    }

    fn entry(&self, key: &Key, item: &Item, parent: &Place) -> Entry {
        let key_place = self.place(key.span(), parent);
        Entry {
            key: key.get().to_owned(),
            node: self.item(item, &key_place),
            key_place,
        }
    }

    fn item(&self, item: &Item, key_place: &Place) -> Node {
        let place = self.place(item.span(), key_place);
        let raw = match item {
            Item::None => Raw::Table(Table::empty(place.clone())),
            Item::Value(value) => return self.value(value, key_place),
            Item::Table(table) => Raw::Table(self.table(table, place.clone())),
            Item::ArrayOfTables(tables) => Raw::List(
                tables
                    .iter()
                    .map(|table| {
                        let place = self.place(table.span(), key_place);
                        Node {
                            place: place.clone(),
                            raw: Raw::Table(self.table(table, place)),
                        }
                    })
                    .collect(),
            ),
        };
        Node { place, raw }
    }

    fn value(&self, value: &Value, key_place: &Place) -> Node {
        let place = self.place(value.span(), key_place);
        let raw = match value {
            Value::String(text) => Raw::Text(text.value().clone()),
            Value::Integer(int) => Raw::Int(*int.value()),
            Value::Float(float) => Raw::Float(*float.value()),
            Value::Boolean(bool) => Raw::Bool(*bool.value()),
            Value::Datetime(time) => Raw::Time(time.value().to_string()),
            Value::Array(array) => {
                Raw::List(array.iter().map(|item| self.value(item, &place)).collect())
            }
            Value::InlineTable(table) => Raw::Table(self.table(table, place.clone())),
        };
        Node { place, raw }
    }
}
