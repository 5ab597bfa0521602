//! Reads one table: typed values out, a problem for each that does not fit, and one for each key that
//! is not known.

use std::path::{Path, PathBuf};
use std::time::Duration;

use millrace_uplink::SecretSource;

use super::complaint::{Complaint, choice_complaint};
use super::files::{FileReference, FileUse};
use super::keys::{Absent, KeyDoc, Kind, SectionDoc, all_of, nearest};
use super::place::Place;
use super::problem::Problem;
use super::report::Report;
use super::secret::{self, Written};
use super::tree::{Node, Raw, Table};
use super::units::{parse_duration, parse_size, show_duration, show_size};

/// A table, what is known of its keys, and where to report.
pub(crate) struct Section<'a> {
    table: &'a Table,
    doc: &'static SectionDoc,
    path: String,
    report: &'a Report,
    quiet: bool,
}

impl<'a> Section<'a> {
    /// Reads the table at `path`, which messages show.
    pub(crate) fn new(
        table: &'a Table,
        doc: &'static SectionDoc,
        path: impl Into<String>,
        report: &'a Report,
    ) -> Self {
        Self {
            table,
            doc,
            path: path.into(),
            report,
            quiet: false,
        }
    }

    /// No message shows a value: any of them may be a secret.
    pub(crate) fn quiet(mut self) -> Self {
        self.quiet = true;
        self
    }

    /// Where the table begins.
    pub(crate) fn place(&self) -> &'a Place {
        &self.table.place
    }

    /// The full path of a key.
    pub(crate) fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    /// Where to report.
    pub(crate) fn report(&self) -> &'a Report {
        self.report
    }

    /// The value as written. A key that the reader asks for and the table of keys lacks is our bug.
    pub(crate) fn node(&self, key: &str) -> Option<&'a Node> {
        debug_assert!(
            self.doc.key(key).is_some(),
            "{key} is not documented in {}",
            self.doc.heading
        );
        self.table.get(key)
    }

    /// Whether the key is written.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.node(key).is_some()
    }

    /// Reports that the value of a key does not fit, or that it is missing.
    pub(crate) fn complain(&self, key: &str, complaint: Complaint) {
        let problem = match self.table.get(key) {
            Some(node) if self.quiet => {
                complaint.into_problem(node.place.clone(), &format!("{key} does not fit"))
            }
            Some(node) => {
                let value = node.shown();
                complaint
                    .into_problem(node.place.clone(), &format!("{key} is {value}"))
                    .value(value)
            }
            None => complaint.into_problem(self.place().clone(), &format!("{key} is missing")),
        };
        self.report.problem(problem.key(self.path_of(key)));
    }

    /// Reports something worth saying about a key.
    pub(crate) fn note(&self, key: &str, message: String, hint: Option<String>) {
        let place = self
            .table
            .get(key)
            .map_or(&self.table.place, |node| &node.place);
        self.report.note(place, &self.path_of(key), message, hint);
    }

    /// The one way that every kind of value is read: the written value, else the default.
    fn read<T>(
        &self,
        key: &str,
        from_node: impl FnOnce(&Node, &KeyDoc) -> Result<T, Complaint>,
        from_default: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let node = self.node(key);
        let doc = self.doc.key(key)?;
        let Some(node) = node else {
            return match doc.default {
                Absent::Default(text) => from_default(text),
                Absent::Required => {
                    self.complain(key, Complaint::new(doc.kind.wanted()).hint(doc.doc));
                    None
                }
                Absent::Nothing | Absent::Means(_) => None,
            };
        };
        match from_node(node, doc) {
            Ok(value) => Some(value),
            Err(complaint) => {
                self.complain(key, complaint);
                None
            }
        }
    }

    /// A text that is not empty.
    pub(crate) fn text(&self, key: &str) -> Option<&'a str> {
        let node = self.node(key);
        let doc = self.doc.key(key)?;
        let text = node
            .and_then(Node::as_text)
            .filter(|text| !text.trim().is_empty());
        if text.is_none() && (node.is_some() || doc.default == Absent::Required) {
            let complaint = Complaint::new(doc.kind.wanted());
            let number = node.filter(|node| node.as_number().is_some() && !self.quiet);
            self.complain(
                key,
                match (number, node) {
                    (Some(number), _) => complaint.hint(format!("write \"{}\"", number.shown())),
                    (None, None) => complaint.hint(doc.doc),
                    (None, Some(_)) => complaint,
                },
            );
        }
        text
    }

    /// A text of its own form.
    pub(crate) fn form<T>(
        &self,
        key: &str,
        parse: impl FnOnce(&str) -> Result<T, Complaint>,
    ) -> Option<T> {
        let text = self.text(key)?;
        match parse(text) {
            Ok(value) => Some(value),
            Err(complaint) => {
                self.complain(key, complaint);
                None
            }
        }
    }

    /// `true` or `false`.
    pub(crate) fn bool(&self, key: &str) -> Option<bool> {
        self.read(
            key,
            |node, doc| {
                node.as_bool()
                    .ok_or_else(|| Complaint::new(doc.kind.wanted()))
            },
            |text| text.parse().ok(),
        )
    }

    /// A whole number within its range.
    pub(crate) fn integer<T: TryFrom<i64>>(&self, key: &str) -> Option<T> {
        let number = self.read(
            key,
            |node, doc| {
                let fits = |n: &i64| match doc.kind {
                    Kind::Integer { min, max } => (min..=max).contains(n),
                    _ => true,
                };
                node.as_int()
                    .filter(fits)
                    .ok_or_else(|| Complaint::new(doc.kind.wanted()))
            },
            |text| text.parse().ok(),
        )?;
        T::try_from(number).ok()
    }

    /// A number.
    pub(crate) fn number(&self, key: &str) -> Option<f64> {
        self.read(
            key,
            |node, doc| {
                node.as_number()
                    .ok_or_else(|| Complaint::new(doc.kind.wanted()))
            },
            |text| text.parse().ok(),
        )
    }

    /// A duration within its range.
    pub(crate) fn duration(&self, key: &str) -> Option<Duration> {
        self.read(key, read_duration, parse_duration)
    }

    /// A size within its range.
    pub(crate) fn size(&self, key: &str) -> Option<u64> {
        self.read(key, read_size, parse_size)
    }

    /// One of the words that the key takes.
    pub(crate) fn choice(&self, key: &str) -> Option<&'static str> {
        let doc = self.doc.key(key)?;
        let Kind::Choice(words) = &doc.kind else {
            return None;
        };
        let known = |text: &str| words.iter().find(|word| **word == text).copied();
        self.read(
            key,
            |node, doc| {
                let text = node.as_text().unwrap_or_default();
                known(text).ok_or_else(|| choice_complaint(text, words, &doc.kind))
            },
            known,
        )
    }

    /// A list of texts, none of them empty; one text alone counts as a list of one.
    pub(crate) fn texts(&self, key: &str) -> Option<Vec<(String, Place)>> {
        let node = self.node(key)?;
        let single = std::slice::from_ref(node);
        let items = match &node.raw {
            Raw::List(items) => items.as_slice(),
            _ => single,
        };
        let mut texts = Vec::with_capacity(items.len());
        for item in items {
            match item.as_text().filter(|text| !text.trim().is_empty()) {
                Some(text) => texts.push((text.to_owned(), item.place.clone())),
                None => {
                    self.complain_item(key, item, Complaint::new("a list of strings is expected"));
                    return None;
                }
            }
        }
        Some(texts)
    }

    /// Reports that one item of a list does not fit.
    pub(crate) fn complain_item(&self, key: &str, item: &Node, complaint: Complaint) {
        self.complain_at(key, &item.place, &item.shown(), complaint);
    }

    /// Reports that a part of a key's value does not fit.
    pub(crate) fn complain_at(&self, key: &str, place: &Place, value: &str, complaint: Complaint) {
        let problem = complaint
            .into_problem(place.clone(), &format!("{key} has {value}"))
            .key(self.path_of(key))
            .value(value);
        self.report.problem(problem);
    }

    /// The path of a file, resolved against the directory of the file that names it.
    pub(crate) fn file(&self, key: &str, used_as: FileUse) -> Option<PathBuf> {
        let text = self.text(key)?;
        let path = self.resolve(key, text)?;
        self.remember_file(key, &path, used_as);
        Some(path)
    }

    /// The path of a file that a list of texts names.
    pub(crate) fn listed_file(
        &self,
        key: &str,
        text: &str,
        place: &Place,
        used_as: FileUse,
    ) -> Option<PathBuf> {
        let path = self.resolve(key, text)?;
        self.report.file(FileReference {
            path: path.clone(),
            place: place.clone(),
            key: self.path_of(key),
            used_as,
        });
        Some(path)
    }

    /// Where a secret is.
    pub(crate) fn secret(&self, key: &str) -> Option<SecretSource> {
        self.secret_used(key, &FileUse::Secret)
    }

    /// Where a secret of a certain use is.
    pub(crate) fn secret_used(&self, key: &str, used_as: &FileUse) -> Option<SecretSource> {
        let text = self.text(key)?;
        let written = secret::parse(text);
        if let Written::File(text) = written {
            let path = self.resolve(key, text)?;
            self.remember_file(key, &path, used_as.clone());
            return Some(SecretSource::File(path));
        }
        if self
            .report
            .cloud_bounds_at(&self.node(key)?.place)
            .is_some()
        {
            let complaint =
                Complaint::new("the cloud layer may name only files in the data directory");
            self.complain(key, complaint);
            return None;
        }
        match written {
            Written::Env(name) => Some(secret::from_env(name)),
            Written::Credential(name) | Written::File(name) => {
                let path = secret::credential_path(name);
                self.remember_file(key, &path, used_as.clone());
                Some(SecretSource::File(path))
            }
        }
    }

    fn remember_file(&self, key: &str, path: &Path, used_as: FileUse) {
        let place = self
            .table
            .get(key)
            .map_or(&self.table.place, |node| &node.place);
        self.report.file(FileReference {
            path: path.to_owned(),
            place: place.clone(),
            key: self.path_of(key),
            used_as,
        });
    }

    /// What the cloud layer names must lie in the data directory: else it could have any file of the
    /// gateway sent to a broker of its choice as a password.
    fn resolve(&self, key: &str, text: &str) -> Option<PathBuf> {
        let place = &self.node(key)?.place;
        let base = place.file.parent().unwrap_or(Path::new("."));
        let path = base.join(text);
        let Some(cloud) = self.report.cloud_bounds_at(place) else {
            return Some(path);
        };
        let climbs = Path::new(text)
            .components()
            .any(|part| part == std::path::Component::ParentDir);
        if path.starts_with(&cloud.data_dir) && !climbs {
            return Some(path);
        }
        self.complain(
            key,
            Complaint::new("the cloud layer may name only files in the data directory").hint(
                format!(
                    "write the table into a local file, or put the file below {}",
                    cloud.data_dir.display()
                ),
            ),
        );
        None
    }

    /// The tables under a key.
    pub(crate) fn tables(&self, key: &str) -> Vec<&'a Table> {
        match self.node(key) {
            Some(node) => tables_of(node, &self.path_of(key), self.report),
            None => Vec::new(),
        }
    }

    /// Reports every key that nobody knows, that another driver knows, or that a later version knows.
    pub(crate) fn finish(&self, driver: Option<&str>) {
        for entry in &self.table.entries {
            match self.doc.key(&entry.key) {
                None => self.unknown_key(&entry.key, &entry.key_place, driver),
                Some(key) => self.misplaced_key(key, driver),
            }
        }
    }

    fn misplaced_key(&self, key: &KeyDoc, driver: Option<&str>) {
        if let Some(driver) = driver
            && let Some(owner) = key.only.first()
            && !key.only.contains(&driver)
        {
            let place = self
                .table
                .get(key.name)
                .map_or(self.place(), |node| &node.place);
            self.report.problem(
                Problem::new(
                    place.clone(),
                    format!(
                        "{} is a key of {}; this is {driver}",
                        key.name,
                        all_of(key.only)
                    ),
                )
                .key(self.path_of(key.name))
                .hint(format!(
                    "remove it, or set {} = \"{owner}\"",
                    self.doc.chooser()
                )),
            );
        } else if matches!(key.kind, Kind::Later) {
            let message = format!("{} is not in this version yet", key.name);
            self.complain(key.name, Complaint::whole(message).hint("remove it"));
        }
    }

    fn unknown_key(&self, key: &str, place: &Place, driver: Option<&str>) {
        let known = self.doc.keys.iter().filter(|doc| {
            doc.only.is_empty() || driver.is_none_or(|driver| doc.only.contains(&driver))
        });
        let names: Vec<&str> = known.map(|doc| doc.name).collect();
        let hint = match key {
            "password" | "key" | "secret" if !self.quiet => Some(
                "secrets stay out of configuration files: write it into a file of mode 0600 and set \
                 password_file, or use env:NAME or credential:NAME there"
                    .to_owned(),
            ),
            _ => nearest(key, names.iter().copied())
                .map(|near| format!("did you mean {near}?"))
                .or_else(|| Some(format!("known here: {}", all_of(&names)))),
        };
        let mut problem = Problem::new(
            place.clone(),
            format!("{key} is not a key of {}", self.doc.heading),
        )
        .key(self.path_of(key));
        problem.hint = hint;
        self.report.problem(problem);
    }
}

/// The tables of an array of tables; everything else in it is a problem.
pub(crate) fn tables_of<'n>(node: &'n Node, path: &str, report: &Report) -> Vec<&'n Table> {
    let refuse = |node: &Node| {
        let name = path.rsplit('.').next().unwrap_or(path);
        report.problem(
            Problem::new(
                node.place.clone(),
                format!("{name} is {}; [[{name}]] tables are expected", node.shown()),
            )
            .key(path)
            .hint(format!("write [[{name}]] with two brackets for each")),
        );
    };
    let Raw::List(items) = &node.raw else {
        refuse(node);
        return Vec::new();
    };
    items
        .iter()
        .filter_map(|item| match &item.raw {
            Raw::Table(table) => Some(table),
            _ => {
                refuse(item);
                None
            }
        })
        .collect()
}

fn read_duration(node: &Node, doc: &KeyDoc) -> Result<Duration, Complaint> {
    let duration = match node.as_text() {
        Some(text) => parse_duration(text),
        None => None,
    };
    let Some(duration) = duration else {
        let complaint = Complaint::new("a duration with a unit is expected");
        return Err(match node.as_number() {
            Some(n) => complaint.hint(format!(
                "write \"{n}s\" for seconds, \"{n}ms\" for milliseconds"
            )),
            None => complaint.hint("for example \"100ms\", \"1s\", \"10m\", \"24h\" or \"30d\""),
        });
    };
    match doc.kind {
        Kind::Duration { min, .. } if duration < min => Err(Complaint::new(format!(
            "the minimum is {}",
            show_duration(min)
        ))),
        Kind::Duration { max, .. } if duration > max => Err(Complaint::new(format!(
            "the maximum is {}",
            show_duration(max)
        ))),
        _ => Ok(duration),
    }
}

fn read_size(node: &Node, doc: &KeyDoc) -> Result<u64, Complaint> {
    let Some(size) = node.as_text().and_then(parse_size) else {
        let complaint = Complaint::new("a size with a unit is expected");
        return Err(complaint.hint("for example \"512MB\" or \"4GiB\""));
    };
    match doc.kind {
        Kind::Size { min, .. } if size < min => {
            Err(Complaint::new(format!("the minimum is {}", show_size(min))))
        }
        Kind::Size { max, .. } if size > max => {
            Err(Complaint::new(format!("the maximum is {}", show_size(max))))
        }
        _ => Ok(size),
    }
}
