//! `[[model]]`: which bundles and detectors score which tags.

mod detector;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use millrace_inference::BuiltinSettings;

use super::complaint::Complaint;
use super::files::FileUse;
use super::keys::{KeyDoc, Kind, SectionDoc, nearest};
use super::names::{self, Taken};
use super::problem::Problem;
use super::report::Report;
use super::section::Section;
use super::tree::{self, Raw, Table};
use crate::model::Bounds;

/// All detectors that need no bundle.
const DETECTORS: &[&str] = &["pca", "ewma", "cusum", "stuck", "rate", "range", "missing"];

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
        .means("`bundle` or `detector` must be written"),
        KeyDoc::new(
            "detector",
            Kind::Choice(&["pca", "ewma", "cusum", "stuck", "rate", "range", "missing"]),
            "A detector that needs no bundle. It gives scores and events as bundles do; a score of 1 is at its limit. `pca`: T² and Q of \
             all inputs together. `ewma`: the mean of an input leaves its place. `cusum`: an input drifts. `stuck`: an input does not change. \
             `rate`: an input changes too fast. `range`: an input leaves its limits. `missing`: an input has no good values. The first three \
             learn what is normal from their first windows, which are kept in the data directory.",
        ),
        KeyDoc::new(
            "train",
            Kind::Integer {
                min: 20,
                max: 1_000_000,
            },
            "Windows that are normal, to learn from. `millrace model calibrate` shows how far it is, and begins anew.",
        )
        .default("1000")
        .only(&["pca", "ewma", "cusum"]),
        KeyDoc::new(
            "variance",
            Kind::Number,
            "Principal components are taken until they explain this share of the variance.",
        )
        .default("0.85")
        .only(&["pca"]),
        KeyDoc::new(
            "confidence",
            Kind::Number,
            "The share of normal windows that the limits of T² and Q leave below them, as far as these are independent of each other.",
        )
        .default("0.999")
        .only(&["pca"]),
        KeyDoc::new("lambda", Kind::Number, "The weight of the newest row in the mean.")
            .default("0.2")
            .only(&["ewma"]),
        KeyDoc::new(
            "slack",
            Kind::Number,
            "What is no drift, in standard deviations.",
        )
        .default("0.5")
        .only(&["cusum"]),
        KeyDoc::new(
            "sigmas",
            Kind::Number,
            "The limit: standard errors of the mean (`ewma`), standard deviations that add up (`cusum`).",
        )
        .means("3 (`ewma`), 5 (`cusum`)")
        .only(&["ewma", "cusum"]),
        KeyDoc::new(
            "limits",
            Kind::Form("`[model.limits]` with a line for each role"),
            "What each role may do. `range`: `[smallest, largest]`. `rate`: the largest change in a second, over the whole window. `stuck`: \
             the largest change that is none; 0 where it is not written.",
        )
        .only(&["range", "rate", "stuck"]),
        KeyDoc::new(
            "allowed",
            Kind::Number,
            "The share of a window's rows that may be without a good value.",
        )
        .default("0.5")
        .only(&["missing"]),
        KeyDoc::new(
            "rows",
            Kind::Integer { min: 1, max: 10_000 },
            "Rows of a window.",
        )
        .means("1 (`pca`, `range`), 50 (`ewma`), 100 (`cusum`), 60 (`stuck`, `missing`), 2 (`rate`)")
        .only(DETECTORS),
        KeyDoc::new(
            "stride",
            Kind::Integer { min: 1, max: 10_000 },
            "Rows from one window to the next.",
        )
        .default("1")
        .only(DETECTORS),
        KeyDoc::new(
            "grid",
            Kind::Form("a duration such as 1s, or scan"),
            "A row at each multiple of this, in event time; `scan`: a row at the end of each poll cycle.",
        )
        .means("`1s`")
        .only(DETECTORS),
        KeyDoc::new(
            "max_gap",
            Kind::Duration {
                min: Duration::from_millis(1),
                max: Duration::from_secs(30 * 86_400),
            },
            "How long a value may stand in for newer ones. Longer, and the window begins anew.",
        )
        .default("10s")
        .only(DETECTORS),
        KeyDoc::new(
            "min_good_share",
            Kind::Number,
            "A window with a smaller share of good values is not scored. `missing` scores every window.",
        )
        .default("0.9")
        .only(DETECTORS),
        KeyDoc::new(
            "lateness",
            Kind::Duration {
                min: Duration::ZERO,
                max: Duration::from_secs(86_400),
            },
            "How long a row waits for samples that come late. Not with `grid = \"scan\"`.",
        )
        .default("100ms")
        .only(DETECTORS),
        KeyDoc::new(
            "threshold",
            Kind::Choice(&["fixed", "quantile", "pot"]),
            "The score that begins an event: `threshold_value`; or found from the first windows that have scores: by a quantile, or by the \
             largest of them (peaks over threshold), which reaches beyond what was seen.",
        )
        .default("fixed")
        .only(DETECTORS),
        KeyDoc::new("threshold_value", Kind::Number, "Of `fixed`: a score above 0.")
            .default("1")
            .only(DETECTORS),
        KeyDoc::new(
            "threshold_q",
            Kind::Number,
            "Of `quantile` and `pot`: the share of windows whose scores are to be below.",
        )
        .means("0.999; of `pot` 0.9999")
        .only(DETECTORS),
        KeyDoc::new(
            "threshold_factor",
            Kind::Number,
            "Of `quantile` and `pot`: what the quantile is multiplied by.",
        )
        .means("4/3; of `pot` 1")
        .only(DETECTORS),
        KeyDoc::new(
            "threshold_windows",
            Kind::Integer {
                min: 20,
                max: 1_000_000,
            },
            "Of `quantile` and `pot`: windows to find it from.",
        )
        .means("1000; of `pot` 2000")
        .only(DETECTORS),
        KeyDoc::new(
            "smoothing",
            Kind::Integer { min: 1, max: 1_000 },
            "The decision looks at the median of so many scores.",
        )
        .default("1")
        .only(DETECTORS),
        KeyDoc::new(
            "on",
            Kind::Integer { min: 1, max: 1_000 },
            "Windows above the threshold that begin an event, among the newest `on_of`.",
        )
        .default("3")
        .only(DETECTORS),
        KeyDoc::new("on_of", Kind::Integer { min: 1, max: 1_000 }, "See `on`; at least that.")
            .means("as `on`: windows in a row")
            .only(DETECTORS),
        KeyDoc::new(
            "off",
            Kind::Integer { min: 1, max: 1_000 },
            "Windows in a row below `off_ratio` times the threshold that end an event.",
        )
        .default("3")
        .only(DETECTORS),
        KeyDoc::new("off_ratio", Kind::Number, "See `off`; above 0, up to 1.")
            .default("0.9")
            .only(DETECTORS),
        KeyDoc::new(
            "cooldown",
            Kind::Duration {
                min: Duration::ZERO,
                max: Duration::from_secs(7 * 86_400),
            },
            "After an event none begins for so long.",
        )
        .default("0s")
        .only(DETECTORS),
        KeyDoc::new(
            "severity",
            Kind::Form("a list of ratios to the threshold, from 1 on and rising"),
            "An event's severity is how many of these ratios of peak to threshold it has reached.",
        )
        .means("`[1, 1.5, 3]`")
        .only(DETECTORS),
        KeyDoc::new(
            "inputs",
            Kind::Tables,
            "`[model.inputs]`: for each role that the bundle names, and for each input of a detector by a role of your choice, the full name of a tag, as in \
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
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Model {
    /// Its name.
    pub(crate) name: String,
    /// The directory or tar file; of a detector that needs none, nothing.
    pub(crate) bundle: PathBuf,
    /// A detector that needs no bundle, in place of one.
    pub(crate) detector: Option<BuiltinSettings>,
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
        let method = section.has("detector").then(|| section.choice("detector"));
        section.finish(match method {
            None => Some("a bundle"),
            Some(method) => method,
        });
        let name = names::divided_name(&section, "name");
        let shown = name.as_deref().unwrap_or_default().to_owned();
        let inputs = read_inputs(&section, tags);
        let (bundle, detector) = match method {
            None if !section.has("bundle") => {
                let complaint =
                    Complaint::whole("neither bundle nor detector is written".to_owned());
                let hint =
                    "name the bundle, or a detector that needs none, such as detector = \"pca\"";
                section.complain("bundle", complaint.hint(hint));
                (None, None)
            }
            None => (
                section.file("bundle", FileUse::Bundle { model: shown }),
                None,
            ),
            Some(_) if section.has("bundle") => {
                let complaint =
                    Complaint::whole("bundle and detector exclude each other".to_owned());
                section.complain("bundle", complaint.hint("remove one of them"));
                (None, None)
            }
            Some(method) => {
                let roles = inputs.iter().flat_map(BTreeMap::keys);
                let roles: Vec<&str> = roles.map(String::as_str).collect();
                let detector =
                    method.and_then(|method| detector::read(&section, &shown, method, &roles));
                (detector.is_some().then(PathBuf::new), detector)
            }
        };
        let bounds = Bounds {
            trial: section.duration("trial")?,
            window_budget: section.duration("window_budget")?,
            events: section.integer("trial_events")?,
        };
        Some(Self {
            name: name?,
            bundle: bundle?,
            detector,
            inputs: inputs?,
            bounds,
        })
    }
}

/// A detector without a configuration around it: its method, the roles of its inputs, further keys of `[[model]]` with their
/// values. A value that is no TOML is a text.
///
/// # Errors
/// Every problem at once.
pub(crate) fn detector(
    method: &str,
    roles: &[&str],
    keys: &[(String, String)],
) -> Result<BuiltinSettings, Vec<Problem>> {
    let text = |text: &str| toml_edit::Value::from(text).to_string();
    let mut written = format!("name = {0}\ndetector = {0}\n", text(method));
    for (key, value) in keys {
        let value = match value.parse::<toml_edit::Value>() {
            Ok(_) => value.clone(),
            Err(_) => text(value),
        };
        let _ = writeln!(written, "{key} = {value}");
    }
    // Tags of no device: whoever asks has values of his own for the roles.
    let mut tags = Taken::default();
    tags.unknown_below(NO_DEVICE);
    written.push_str("[inputs]\n");
    for role in roles {
        let tag = text(&format!("{NO_DEVICE}/{role}"));
        let _ = writeln!(written, "{} = {tag}", text(role));
    }
    let report = Report::new(None);
    let table = tree::parse(&Arc::from(Path::new("detector")), &written);
    let table = table.map_err(|problem| vec![*problem])?;
    let model = Model::read(&table, 0, &tags, &report);
    let (problems, _, _) = report.into_parts();
    match model.and_then(|model| model.detector) {
        Some(detector) if problems.is_empty() => Ok(detector),
        _ => Err(problems),
    }
}

/// Stands for a device where there is none.
const NO_DEVICE: &str = "data";

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
