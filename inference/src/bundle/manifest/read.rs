//! Reads model.toml. The whole file is read before anything is refused, so that one run names every problem.

mod output;

use std::collections::BTreeSet;
use std::time::Duration;

use toml::de::DeTable;

use super::{
    Calibration, Column, DecisionRule, Fill, GoldenFile, Grid, Input, Layout, Manifest, ModelFile,
    Normalisation, Source, Threshold, Window,
};
use crate::bundle::fields::{Fields, Findings};
use crate::bundle::problem::Problem;

/// Rows of a window. A longer memory belongs into a coarser grid.
const WINDOW_ROWS_MAX: usize = 10_000;
/// Inputs of one model; its tags are bound one by one, by hand.
const INPUTS_MAX: usize = 256;
/// Rows times inputs: 4 MiB of f32 that are copied for each score.
const WINDOW_VALUES_MAX: usize = 1 << 20;
/// No driver polls faster than this.
const GRID_MIN: Duration = Duration::from_millis(1);
/// A day between rows; slower processes need no gateway.
const GRID_MAX: Duration = Duration::from_secs(24 * 3600);
/// Rows that one sample may be held for or bridged over, so that one sample cannot make endless rows.
const HOLD_ROWS_MAX: u32 = 10_000;
/// Scores that smoothing or a decision look back over.
const DECISION_WINDOWS_MAX: usize = 1_000;

/// Windows of a calibration: a month at a window in three seconds.
const CALIBRATION_WINDOWS_MAX: usize = 1_000_000;
/// Windows that a threshold can be learned from at all.
const CALIBRATION_WINDOWS_MIN: usize = 20;
/// Steps of severity that people can tell apart.
const SEVERITY_STEPS_MAX: usize = 9;
/// How long a row waits for late samples, where the manifest does not say: a reading's way through the gateway.
const LATENESS_DEFAULT: Duration = Duration::from_millis(100);

const MAX_GAP_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
const COOLDOWN_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
const TEXT_CHARS_MAX: usize = 128;

/// Share of good inputs below which a window is not scored, where the manifest does not say.
const MIN_GOOD_SHARE_DEFAULT: f64 = 0.9;
/// An event ends below this part of the threshold, so that noise at the threshold makes one event, not many.
const OFF_RATIO_DEFAULT: f64 = 0.9;
/// Relative tolerance of golden scores: f32 sums in another order, never another model.
const GOLDEN_RTOL_DEFAULT: f64 = 1e-3;
/// Absolute tolerance of golden scores, for scores near zero.
const GOLDEN_ATOL_DEFAULT: f64 = 1e-5;

impl Manifest {
    /// Reads a manifest from its TOML.
    ///
    /// # Errors
    /// Every problem of the text, in the order of its lines.
    pub fn parse(text: &str) -> Result<Self, Vec<Problem>> {
        let table = DeTable::parse(text).map_err(|error| vec![syntax(text, &error)])?;
        let findings = Findings::new(text);
        let manifest = read(Fields::root(&findings, table.get_ref()));
        let problems = findings.into_problems();
        match manifest {
            Some(manifest) if problems.is_empty() => Ok(manifest),
            _ => Err(problems),
        }
    }
}

fn syntax(text: &str, error: &toml::de::Error) -> Problem {
    let at = error.span().map_or(0, |span| span.start);
    let (line, column) = Findings::place(text, at);
    Problem {
        line,
        column,
        key: "model.toml".to_owned(),
        value: Some("not TOML".to_owned()),
        expected: "valid TOML".to_owned(),
        hint: Some(error.message().to_owned()),
    }
}

/// `None` only where a problem was noted.
fn read(root: Fields<'_>) -> Option<Manifest> {
    let name = name(&root, "name");
    let version = version(&root);
    let created = root.text("created", "a date and time as text", is_short);
    let model = model(root.table("model"));
    let (inputs, columns) = inputs(&root);
    let window = window(root.table("window"), &inputs, columns.len());
    let output = output::read(&root, &columns, window.as_ref());
    let threshold = threshold(root.table("threshold"));
    let decision = decision(root.table("decision"));
    let golden = root.has("golden").then(|| golden(root.table("golden")));
    // Free text for people: any keys.
    root.table("provenance");
    root.finish();
    Some(Manifest {
        name: name?,
        version: version?,
        created,
        model: model?,
        inputs,
        columns,
        window: window?,
        output: output?,
        threshold: threshold?,
        decision: decision?,
        golden: match golden {
            Some(golden) => Some(golden?),
            None => None,
        },
    })
}

fn is_short(text: &str) -> bool {
    !text.is_empty() && text.chars().count() <= TEXT_CHARS_MAX
}

fn is_name(text: &str) -> bool {
    is_short(text)
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
}

fn is_file_name(text: &str) -> bool {
    is_name(text) && !text.starts_with('.')
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.chars().all(|c| c.is_ascii_hexdigit())
}

fn name(fields: &Fields<'_>, key: &'static str) -> Option<String> {
    let expected = "a name of letters, digits, `.`, `_` and `-`";
    fields.required(key, expected, fields.text(key, expected, is_name))
}

fn version(fields: &Fields<'_>) -> Option<String> {
    let expected = "a version such as \"1.2.0\"";
    let accept = |text: &str| {
        is_short(text)
            && text.starts_with(|c: char| c.is_ascii_digit())
            && text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '+' | '-'))
    };
    fields.required(
        "version",
        expected,
        fields.text("version", expected, accept),
    )
}

fn sha256(fields: &Fields<'_>) -> Option<String> {
    let expected = "the SHA-256 of the file, 64 hexadecimal digits";
    let digest = fields.required(
        "sha256",
        expected,
        fields.text("sha256", expected, is_sha256),
    );
    digest.map(|digest| digest.to_ascii_lowercase())
}

fn file(fields: &Fields<'_>) -> Option<String> {
    let expected = "the name of a file in the bundle, without a path";
    fields.required(
        "file",
        expected,
        fields.text("file", expected, is_file_name),
    )
}

fn model(fields: Fields<'_>) -> Option<ModelFile> {
    let file = file(&fields);
    let sha256 = sha256(&fields);
    let opset = fields.count("opset", "an ONNX operator set, 9 to 20", 9..=20);
    let input = fields.text("input", "the name of the graph's input", is_short);
    let layout = fields.word("layout", &["NTF", "NFT", "NF"]);
    if fields
        .text("dtype", "a type", is_short)
        .is_some_and(|t| t != "f32")
    {
        fields.wrong(
            "dtype",
            "\"f32\"",
            Some("export the model in single precision".to_owned()),
        );
    }
    fields.finish();
    Some(ModelFile {
        file: file?,
        sha256: sha256?,
        opset,
        input,
        layout: match layout {
            Some(1) => Layout::Nft,
            Some(2) => Layout::Nf,
            _ => Layout::Ntf,
        },
    })
}

/// The inputs, and the columns that they and what is made of them are.
fn inputs(root: &Fields<'_>) -> (Vec<Input>, Vec<Column>) {
    let expected = "one [[input]] for each column of the window";
    let tables = root.tables("input", expected);
    if !root.has("input") || tables.len() > INPUTS_MAX {
        let expected = format!("{expected}, at most {INPUTS_MAX}");
        root.wrong("input", &expected, None);
    }
    let mut roles = BTreeSet::new();
    let (mut inputs, mut drafts) = (Vec::new(), Vec::new());
    for fields in tables {
        if fields.has("op") || fields.has("from") {
            drafts.extend(made(fields, &mut roles).map(Draft::Made));
        } else if let Some((input, is_column)) = input(fields, &mut roles) {
            if is_column {
                drafts.push(Draft::Input(inputs.len(), input.role.clone()));
            }
            inputs.push(input);
        }
    }
    let columns: Vec<Column> = drafts
        .into_iter()
        .filter_map(|draft| draft.column(&inputs))
        .collect();
    if columns.is_empty() && !inputs.is_empty() {
        root.wrong("input", "at least one input that is a column", None);
    }
    (inputs, columns)
}

fn role(fields: &Fields<'_>, roles: &mut BTreeSet<String>) -> Option<String> {
    let role = name(fields, "role");
    if let Some(role) = &role
        && !roles.insert(role.clone())
    {
        fields.wrong("role", "a role that no other input has", None);
    }
    role
}

fn input(fields: Fields<'_>, roles: &mut BTreeSet<String>) -> Option<(Input, bool)> {
    let role = role(&fields, roles);
    let unit = unit(&fields);
    let fill = fields.word("fill", &["hold", "linear"]);
    let range = fields.numbers(
        "range",
        "[smallest, largest]",
        |range| matches!(range, [smallest, largest] if smallest < largest),
    );
    let required = fields.flag("required");
    let gap = "how long a value may stand in for newer ones, such as \"5m\"";
    let max_gap = fields.duration("max_gap", gap, GRID_MIN..=MAX_GAP_MAX);
    let column = fields.flag("column");
    fields.finish();
    let input = Input {
        role: role?,
        unit: unit.unwrap_or_default(),
        fill: if fill == Some(1) {
            Fill::Linear
        } else {
            Fill::Hold
        },
        range: range.map(|range| (range[0], range[1])),
        required: required.unwrap_or(true),
        max_gap,
    };
    Some((input, column.unwrap_or(true)))
}

fn unit(fields: &Fields<'_>) -> Option<String> {
    fields.text("unit", "a unit", |text| {
        text.chars().count() <= TEXT_CHARS_MAX
    })
}

/// A column before the places of all inputs are known.
enum Draft<'t> {
    Input(usize, String),
    Made(Made<'t>),
}

/// A column that is made of inputs.
struct Made<'t> {
    fields: Fields<'t>,
    role: String,
    from: Vec<String>,
    op: usize,
    over: Option<Duration>,
    band: Option<Vec<f64>>,
}

const OPS: [&str; 4] = ["difference", "mean", "std", "band"];

fn made<'t>(fields: Fields<'t>, roles: &mut BTreeSet<String>) -> Option<Made<'t>> {
    let role = role(&fields, roles);
    unit(&fields);
    let op = fields.word("op", &OPS);
    let op = fields.required("op", "\"difference\", \"mean\", \"std\" or \"band\"", op);
    let (number, expected) = match op {
        Some(0) => (
            2,
            "the roles of two inputs, of which the second is taken away",
        ),
        _ => (1, "the role of one input, in a list"),
    };
    let from = fields.texts("from", expected, |from| from.len() == number);
    let from = fields.required("from", expected, from);
    let expected = "the time up to the row that it is made of, such as \"10s\", at most 1day";
    let over = fields.duration("over", expected, GRID_MIN..=GRID_MAX);
    let over = match op {
        Some(0) | None => over,
        Some(_) => Some(fields.required("over", expected, over)?),
    };
    if op == Some(0) && over.is_some() {
        fields.wrong(
            "over",
            "no such key for op = \"difference\"",
            Some("remove it".to_owned()),
        );
    }
    let expected = "[lower, upper] end of the band in Hz, from 0";
    let ends = |band: &[f64]| matches!(band, [lower, upper] if 0.0 <= *lower && lower < upper);
    let band = fields.numbers("band", expected, ends);
    let band = match op {
        Some(3) => Some(fields.required("band", expected, band)?),
        _ => None,
    };
    Some(Made {
        role: role?,
        from: from?,
        op: op?,
        over,
        band,
        fields,
    })
}

impl Draft<'_> {
    fn column(self, inputs: &[Input]) -> Option<Column> {
        let made = match self {
            Draft::Input(place, role) => {
                return Some(Column {
                    role,
                    source: Source::Input(place),
                });
            }
            Draft::Made(made) => made,
        };
        let place = |role: &String| inputs.iter().position(|input| input.role == *role);
        let places: Option<Vec<usize>> = made.from.iter().map(place).collect();
        if places.is_none() {
            let roles: Vec<&str> = inputs.iter().map(|input| input.role.as_str()).collect();
            let hint = format!("inputs that are bound to tags are {}", roles.join(", "));
            made.fields
                .wrong("from", "roles of inputs that are bound to tags", Some(hint));
        }
        made.fields.finish();
        let over = made.over.unwrap_or_default();
        let source = match (made.op, places?.as_slice()) {
            (0, [from, take]) => Source::Difference {
                from: *from,
                take: *take,
            },
            (1, [input]) => Source::Mean {
                input: *input,
                over,
            },
            (2, [input]) => Source::Deviation {
                input: *input,
                over,
            },
            (3, [input]) => {
                let band = made.band?;
                Source::Band {
                    input: *input,
                    over,
                    from_hz: band[0],
                    to_hz: band[1],
                }
            }
            _ => return None,
        };
        Some(Column {
            role: made.role,
            source,
        })
    }
}

fn window(fields: Fields<'_>, inputs: &[Input], columns: usize) -> Option<Window> {
    let len_max = WINDOW_ROWS_MAX.min(WINDOW_VALUES_MAX / columns.max(1));
    let rows = format!("a whole number of rows, 1 to {len_max}");
    let len = fields.required("len", &rows, fields.count("len", &rows, 1..=len_max));
    let stride = fields.count("stride", &rows, 1..=len_max);
    let grid = grid(&fields);
    let gap = "how long a value may stand in for newer ones, such as \"2s\"";
    let max_gap = fields.duration("max_gap", gap, GRID_MIN..=MAX_GAP_MAX);
    let max_gap = fields.required("max_gap", gap, max_gap);
    if let (Some(Grid::Every(grid)), Some(max_gap)) = (grid, max_gap)
        && (max_gap < grid || max_gap > grid.saturating_mul(HOLD_ROWS_MAX))
    {
        let expected = format!("at least the grid, and at most {HOLD_ROWS_MAX} times it");
        fields.wrong("max_gap", &expected, None);
    }
    if grid == Some(Grid::Scan) && inputs.iter().any(|input| input.fill == Fill::Linear) {
        fields.wrong(
            "grid",
            "a duration, since an input has fill = \"linear\"",
            Some("a scan takes the values of its own poll cycle; use fill = \"hold\"".to_owned()),
        );
    }
    let share = |share: f64| share > 0.0 && share <= 1.0;
    let min_good_share = fields.number("min_good_share", "a share above 0, up to 1", share);
    let late = "how long a row waits for late samples, such as \"2s\", at most 1day";
    let lateness = fields.duration("lateness", late, Duration::ZERO..=GRID_MAX);
    if lateness.is_some() && grid == Some(Grid::Scan) {
        let hint = "a scan is over when it is over; remove the key".to_owned();
        fields.wrong("lateness", "a grid in time", Some(hint));
    }
    let normalisation = fields
        .has("normalisation")
        .then(|| normalisation(fields.table("normalisation"), columns));
    fields.finish();
    Some(Window {
        len: len?,
        stride: stride.unwrap_or(1),
        grid: grid?,
        max_gap: max_gap?,
        min_good_share: min_good_share.unwrap_or(MIN_GOOD_SHARE_DEFAULT),
        lateness: lateness.unwrap_or(LATENESS_DEFAULT),
        normalisation: match normalisation {
            Some(normalisation) => Some(normalisation?),
            None => None,
        },
    })
}

fn grid(fields: &Fields<'_>) -> Option<Grid> {
    let expected = "\"scan\", or a duration from 1ms to 1day";
    let text = fields.required("grid", expected, fields.text("grid", expected, is_short))?;
    if text == "scan" {
        return Some(Grid::Scan);
    }
    let duration = fields.duration("grid", expected, GRID_MIN..=GRID_MAX);
    duration.map(Grid::Every)
}

fn normalisation(fields: Fields<'_>, columns: usize) -> Option<Normalisation> {
    let expected = format!("{columns} numbers, one for each column");
    let mean = fields.numbers("mean", &expected, |mean| mean.len() == columns);
    let mean = fields.required("mean", &expected, mean);
    let expected = format!("{columns} numbers above 0, one for each column");
    let scale = fields.numbers("scale", &expected, |scale| {
        scale.len() == columns && scale.iter().all(|scale| *scale > 0.0)
    });
    let scale = fields.required("scale", &expected, scale);
    let clip = fields.number("clip", "a number above 0", |clip| clip > 0.0);
    fields.finish();
    Some(Normalisation {
        mean: mean?,
        scale: scale?,
        clip,
    })
}

fn threshold(fields: Fields<'_>) -> Option<Threshold> {
    let methods = ["fixed", "quantile", "pot"];
    let method = fields.word("method", &methods);
    let method = fields.required("method", "\"fixed\", \"quantile\" or \"pot\"", method);
    let expected = "a score above 0";
    let value = fields.number("value", expected, |value| value > 0.0);
    let q = fields.number("q", "a quantile between 0 and 1", |q| q > 0.0 && q < 1.0);
    let factor = fields.number("factor", "a number above 0", |factor| factor > 0.0);
    let range = CALIBRATION_WINDOWS_MIN..=CALIBRATION_WINDOWS_MAX;
    let many = format!(
        "a whole number of windows, {CALIBRATION_WINDOWS_MIN} to {CALIBRATION_WINDOWS_MAX}"
    );
    let windows = fields.count("windows", &many, range);
    if method == Some(0) {
        fields.required("value", expected, value);
    }
    fields.finish();
    let learned = |default: Calibration| Calibration {
        q: q.unwrap_or(default.q),
        factor: factor.unwrap_or(default.factor),
        windows: windows.unwrap_or(default.windows),
    };
    match method? {
        0 => Some(Threshold::Fixed(value?)),
        1 => Some(Threshold::Quantile(learned(Calibration::QUANTILE))),
        _ => Some(Threshold::Pot(learned(Calibration::POT))),
    }
}

fn decision(fields: Fields<'_>) -> Option<DecisionRule> {
    let windows = format!("a whole number of windows, 1 to {DECISION_WINDOWS_MAX}");
    let range = 1..=DECISION_WINDOWS_MAX;
    let smoothing = fields.count("smoothing", &windows, range.clone());
    let (on, on_of) = if fields.is_table("on") {
        let table = fields.table("on");
        let k = table.required("k", &windows, table.count("k", &windows, range.clone()));
        let expected = "a whole number of windows, at least k";
        let least = k.unwrap_or(1);
        let of = table.count("of", expected, least..=DECISION_WINDOWS_MAX);
        table.finish();
        (k, of.or(k))
    } else {
        let k = fields.count("on", &windows, range.clone());
        (k, k)
    };
    let (off, off_ratio) = if fields.is_table("off") {
        let table = fields.table("off");
        let ratio = table.number(
            "ratio",
            "a part of the threshold, above 0, up to 1",
            |ratio| ratio > 0.0 && ratio <= 1.0,
        );
        let k = table.count("k", &windows, range);
        table.finish();
        (k, ratio)
    } else {
        (fields.count("off", &windows, range), None)
    };
    let expected = "a duration such as \"30s\"";
    let cooldown = fields.duration("cooldown", expected, Duration::ZERO..=COOLDOWN_MAX);
    let steps = format!("up to {SEVERITY_STEPS_MAX} ratios to the threshold, from 1 on and rising");
    let severity = fields.numbers("severity", &steps, |steps| {
        steps.len() <= SEVERITY_STEPS_MAX
            && steps.first().is_none_or(|first| *first >= 1.0)
            && steps.windows(2).all(|pair| pair[0] < pair[1])
    });
    fields.finish();
    Some(DecisionRule {
        smoothing: smoothing.unwrap_or(1),
        on: on.unwrap_or(1),
        on_of: on_of.unwrap_or(1),
        off: off.unwrap_or(1),
        off_ratio: off_ratio.unwrap_or(OFF_RATIO_DEFAULT),
        cooldown: cooldown.unwrap_or(Duration::ZERO),
        severity: severity.unwrap_or_default(),
    })
}

fn golden(fields: Fields<'_>) -> Option<GoldenFile> {
    let file = file(&fields);
    let sha256 = sha256(&fields);
    let positive = |tolerance: f64| (0.0..1.0).contains(&tolerance);
    let rtol = fields.number("rtol", "a relative tolerance from 0 to 1", positive);
    let atol = fields.number("atol", "an absolute tolerance from 0 to 1", positive);
    fields.finish();
    Some(GoldenFile {
        file: file?,
        sha256: sha256?,
        rtol: rtol.unwrap_or(GOLDEN_RTOL_DEFAULT),
        atol: atol.unwrap_or(GOLDEN_ATOL_DEFAULT),
    })
}
