//! `[[model]]`: which bundles score which tags.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::complaint::Complaint;
use super::files::FileUse;
use super::keys::{KeyDoc, Kind, SectionDoc, nearest};
use super::names::{self, Taken};
use super::report::Report;
use super::section::Section;
use super::tree::{Raw, Table};
use crate::model::Bounds;

/// The table of keys.
pub(crate) const MODEL: SectionDoc = SectionDoc {
    heading: "[[model]]",
    keys: &[
        KeyDoc::new(
            "name",
            Kind::Form("a name of letters, digits, . _ - and /"),
            "The model's name, unique over devices and models.",
        )
        .required(),
        KeyDoc::new(
            "bundle",
            Kind::File,
            "The bundle: a directory or a tar file with model.toml and model.onnx.",
        )
        .required(),
        KeyDoc::new(
            "inputs",
            Kind::Tables,
            "`[model.inputs]`: for each role that the bundle names, the full name of a tag, as in \
             `pressure = \"boiler/pressure\"`.",
        )
        .required(),
        KeyDoc::new(
            "trial",
            Kind::Duration {
                min: Duration::ZERO,
                max: Duration::from_secs(30 * 86_400),
            },
            "How long a version that is promoted must prove itself. Where it fails, gives no number, takes longer than \
             `window_budget` or begins too many events meanwhile, the version before goes on, without a window missing. 0s: it is \
             not taken back.",
        )
        .default("10m"),
        KeyDoc::new(
            "trial_events",
            Kind::Integer {
                min: 0,
                max: 1_000_000,
            },
            "Events that a version on trial may begin. A true anomaly is one event; a version that begins more than a few sees \
             anomalies everywhere.",
        )
        .default("10"),
        KeyDoc::new(
            "window_budget",
            Kind::Duration {
                min: Duration::from_micros(100),
                max: Duration::from_secs(60),
            },
            "Processor time that one window may take. A version on trial is taken back where 3 of its newest 10 windows take longer; \
             a window that takes twenty times as long, and 2 s at least, counts as one without an end.",
        )
        .default("100ms"),
    ],
};

/// A bundle and the tags that it scores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Model {
    /// Its name.
    pub(crate) name: String,
    /// The directory or tar file.
    pub(crate) bundle: PathBuf,
    /// The full name of the tag, `device/tag`, that plays each role.
    pub(crate) inputs: BTreeMap<String, String>,
    /// What a promoted version is held to.
    pub(crate) bounds: Bounds,
}

impl Model {
    /// Reads a model. `None` where it has a problem, which is reported then.
    pub(crate) fn read(table: &Table, nth: usize, tags: &Taken, report: &Report) -> Option<Self> {
        let path = match table.text("name") {
            Some(name) => format!("model[{name}]"),
            None => format!("model[{nth}]"),
        };
        let section = Section::new(table, &MODEL, path, report);
        section.finish(None);
        let name = names::divided_name(&section, "name");
        let shown = name.as_deref().unwrap_or_default().to_owned();
        let bundle = section.file("bundle", FileUse::Bundle { model: shown });
        let inputs = read_inputs(&section, tags);
        let bounds = Bounds {
            trial: section.duration("trial")?,
            window_budget: section.duration("window_budget")?,
            events: section.integer("trial_events")?,
        };
        Some(Self {
            name: name?,
            bundle: bundle?,
            inputs: inputs?,
            bounds,
        })
    }
}

fn read_inputs(section: &Section<'_>, tags: &Taken) -> Option<BTreeMap<String, String>> {
    let wanted = || {
        Complaint::new("a table of roles and tags is expected")
            .hint("write [model.inputs] with lines such as pressure = \"boiler/pressure\"")
    };
    let Some(Raw::Table(table)) = section.node("inputs").map(|node| &node.raw) else {
        section.complain("inputs", wanted());
        return None;
    };
    if table.entries.is_empty() {
        section.complain("inputs", wanted());
        return None;
    }
    let mut inputs = BTreeMap::new();
    for entry in &table.entries {
        let key = format!("inputs.{}", entry.key);
        let tag = entry.node.as_text().unwrap_or_default();
        if !tags.may_have(tag) {
            let complaint = Complaint::new("no device has this tag");
            let complaint = match nearest(tag, tags.names()) {
                Some(near) => complaint.hint(format!("did you mean {near}?")),
                None => complaint.hint("write the full name, device/tag"),
            };
            section.complain_at(&key, &entry.node.place, &entry.node.shown(), complaint);
            continue;
        }
        inputs.insert(entry.key.clone(), tag.to_owned());
    }
    (inputs.len() == table.entries.len()).then_some(inputs)
}
