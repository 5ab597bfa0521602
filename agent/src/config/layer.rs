//! Several files become one configuration: built-in defaults < cloud < local files.
//!
//! `[gateway]` and `[buffer]` merge by key, and the later local file wins. `[[line]]`, `[[device]]`, `[[model]]`
//! and `[[uplink]]` merge by name: where the cloud has a table of the same name, the local one holds, and
//! that is reported. Two local tables of one name are left to the reader, which refuses the second.

use super::keys::{KeyDoc, Kind, SectionDoc, nearest};
use super::problem::Problem;
use super::report::Report;
use super::section::tables_of;
use super::tree::{Entry, Node, Raw, Table};

/// The tables that a file may hold.
pub(crate) const ROOT: SectionDoc = SectionDoc {
    heading: "the configuration",
    keys: &[
        KeyDoc::new("gateway", Kind::Tables, "See `[gateway]`."),
        KeyDoc::new("buffer", Kind::Tables, "See `[buffer]`."),
        KeyDoc::new("line", Kind::Tables, "See `[[line]]`."),
        KeyDoc::new("device", Kind::Tables, "See `[[device]]`."),
        KeyDoc::new("model", Kind::Tables, "See `[[model]]`."),
        KeyDoc::new("uplink", Kind::Tables, "See `[[uplink]]`."),
        KeyDoc::new("bootstrap", Kind::Tables, "See `[bootstrap]`."),
        KeyDoc::new("local", Kind::Tables, "See `[local]`."),
    ],
};

/// Tables that mean something in local files only.
const LOCAL_ONLY: [&str; 2] = ["bootstrap", "local"];

/// Who wrote a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layer {
    /// The cloud core.
    Cloud,
    /// Somebody at this machine.
    Local,
}

/// Every table of all files, each once.
#[derive(Debug, Default)]
pub(crate) struct Merged {
    /// `[gateway]`.
    pub(crate) gateway: Option<Table>,
    /// `[buffer]`.
    pub(crate) buffer: Option<Table>,
    /// `[bootstrap]`.
    pub(crate) bootstrap: Option<Table>,
    /// `[local]`.
    pub(crate) local: Option<Table>,
    /// `[[line]]`.
    pub(crate) lines: Vec<Table>,
    /// `[[device]]`.
    pub(crate) devices: Vec<Table>,
    /// `[[model]]`.
    pub(crate) models: Vec<Table>,
    /// `[[uplink]]`.
    pub(crate) uplinks: Vec<Table>,
}

impl Merged {
    /// Adds the tables of a file; files come in the order in which later ones win.
    pub(crate) fn add(&mut self, root: Table, layer: Layer, report: &Report) {
        for entry in root.entries {
            if layer == Layer::Cloud && LOCAL_ONLY.contains(&entry.key.as_str()) {
                let message = format!(
                    "[{}] is ignored: it is taken from local files only",
                    entry.key
                );
                report.note(&entry.key_place, &entry.key, message, None);
                continue;
            }
            self.add_entry(entry, layer, report);
        }
    }

    fn add_entry(&mut self, entry: Entry, layer: Layer, report: &Report) {
        let single = match entry.key.as_str() {
            "gateway" => &mut self.gateway,
            "buffer" => &mut self.buffer,
            "bootstrap" => &mut self.bootstrap,
            "local" => &mut self.local,
            "line" => return add_named(&mut self.lines, entry, layer, report),
            "device" => return add_named(&mut self.devices, entry, layer, report),
            "model" => return add_named(&mut self.models, entry, layer, report),
            "uplink" => return add_named(&mut self.uplinks, entry, layer, report),
            _ => return report.problem(unknown_table(&entry)),
        };
        match entry.node.raw {
            Raw::Table(mut table) => {
                if layer == Layer::Cloud && entry.key == "gateway" {
                    ignore_data_dir(&mut table, report);
                }
                merge_keys(single, table, &entry.key, report);
            }
            _ => report.problem(no_table(&entry.key, &entry.node)),
        }
    }
}

/// The cloud layer lies in the data directory, so it cannot say where that is.
fn ignore_data_dir(gateway: &mut Table, report: &Report) {
    gateway.entries.retain(|entry| {
        let ignored = entry.key == "data_dir";
        if ignored {
            let message = "data_dir is ignored: it is taken from local files only".to_owned();
            report.note(&entry.key_place, "gateway.data_dir", message, None);
        }
        !ignored
    });
}

fn unknown_table(entry: &Entry) -> Problem {
    let names = ROOT.keys.iter().map(|key| key.name);
    let problem = Problem::new(
        entry.key_place.clone(),
        format!("{} is not a table of the configuration", entry.key),
    )
    .key(entry.key.as_str());
    match nearest(&entry.key, names) {
        Some(near) => problem.hint(format!("did you mean {near}?")),
        None => problem.hint("keys stand below the heading of their table, such as [gateway]"),
    }
}

fn no_table(key: &str, node: &Node) -> Problem {
    Problem::new(
        node.place.clone(),
        format!("{key} is {}; a table is expected", node.shown()),
    )
    .key(key)
    .value(node.shown())
    .expected("a table")
    .hint(format!("write [{key}] with one bracket"))
}

/// The cloud's file comes first, so that what is there already gives way to what comes.
fn merge_keys(into: &mut Option<Table>, table: Table, name: &str, report: &Report) {
    let Some(merged) = into else {
        *into = Some(table);
        return;
    };
    for entry in table.entries {
        let Some(earlier) = merged
            .entries
            .iter_mut()
            .find(|known| known.key == entry.key)
        else {
            merged.entries.push(entry);
            continue;
        };
        let message = format!(
            "{} is set here again; this value holds, not the one at {}",
            entry.key, earlier.node.place
        );
        report.note(
            &entry.node.place,
            &format!("{name}.{}", entry.key),
            message,
            None,
        );
        *earlier = entry;
    }
    merged.place = table.place;
}

fn add_named(into: &mut Vec<Table>, entry: Entry, layer: Layer, report: &Report) {
    for table in into_tables(entry.node, &entry.key, report) {
        let name = table.text("name").unwrap_or_default().to_owned();
        let clash = into
            .iter()
            .position(|known| !name.is_empty() && known.text("name") == Some(&name));
        match clash {
            Some(at) if layer == Layer::Local && report.is_from_cloud(&into[at].place) => {
                let message = format!(
                    "the cloud has a {} {name} too, at {}; the local one holds",
                    entry.key, into[at].place
                );
                report.note(
                    &table.place,
                    &format!("{}[{name}]", entry.key),
                    message,
                    None,
                );
                into[at] = table;
            }
            _ => into.push(table),
        }
    }
}

fn into_tables(node: Node, key: &str, report: &Report) -> Vec<Table> {
    // Reports what is no table.
    tables_of(&node, key, report);
    let Raw::List(items) = node.raw else {
        return Vec::new();
    };
    let tables = items.into_iter().filter_map(|item| match item.raw {
        Raw::Table(table) => Some(table),
        _ => None,
    });
    tables.collect()
}
