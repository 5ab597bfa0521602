//! Drafts of model.toml from a model file: what the file says of itself, and what a person must fill in.
//!
//! Files say the operator set, names and shapes. Whoever exports a model can write the rest into the file's
//! `metadata_props`, under the keys of [`METADATA`]. What neither says is left out of the draft, with a comment: a bundle with
//! such a manifest does not load, and the error names the line.

use std::collections::HashMap;
use std::fmt::Write as _;

use tract_onnx::pb;
use tract_onnx::pb::tensor_shape_proto::dimension::Value as DimensionValue;
use tract_onnx::pb::type_proto::Value as TypeValue;
use tract_onnx::prelude::Framework as _;

use crate::bundle::sha256;
use crate::onnx::{BuildError, RefusedOperator, refused_operators};

/// Keys of `metadata_props` that a draft takes: lists are divided by commas.
pub const METADATA: [&str; 11] = [
    "millrace.name",
    "millrace.version",
    "millrace.roles",
    "millrace.units",
    "millrace.grid",
    "millrace.max_gap",
    "millrace.threshold",
    "millrace.forecast",
    "millrace.horizon",
    "millrace.sigma",
    "millrace.dataset",
];

/// Rows from which on a flat window is not taken for one row any more.
const FLAT_ROWS: usize = 1;

/// A draft, and what is to be filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// The text of model.toml.
    pub manifest: String,
    /// What the file does not say: each as one sentence.
    pub open: Vec<String>,
    /// Operators that do not run here, as [`crate::Detector::build`] would refuse them.
    pub refused: Vec<RefusedOperator>,
}

/// What a model file says of itself.
struct Told {
    properties: HashMap<String, String>,
    producer: String,
    opset: i64,
    input: Option<(String, Vec<Option<usize>>)>,
    outputs: Vec<String>,
}

/// Drafts the manifest of a model file; `name` is what the model is called unless the file says so, `golden` its
/// golden vectors.
///
/// # Errors
/// Where it is no ONNX model.
pub fn draft(
    file: &str,
    onnx: &[u8],
    golden: Option<(&str, &[u8])>,
    name: &str,
) -> Result<Draft, BuildError> {
    let proto = tract_onnx::onnx()
        .proto_model_for_read(&mut &*onnx)
        .map_err(|error| BuildError::Decode(error.into()))?;
    let told = told(&proto)?;
    let mut writer = Writer {
        told,
        text: String::new(),
        open: Vec::new(),
    };
    let refused = refused_operators(&proto, &writer.wanted_outputs());
    writer.head(name);
    writer.refused(&refused);
    writer.model(file, &sha256(onnx));
    writer.rest();
    if let Some((file, bytes)) = golden {
        let digest = sha256(bytes);
        writer.line(&format!(
            "\n[golden]\nfile = \"{file}\"\nsha256 = \"{digest}\"\nrtol = 1e-3\natol = 1e-5"
        ));
    } else {
        writer.line("\n# [golden] file, sha256: windows with the scores that the model gave where it was trained. Recommended.");
    }
    writer.provenance();
    Ok(Draft {
        manifest: writer.text,
        open: writer.open,
        refused,
    })
}

fn told(proto: &pb::ModelProto) -> Result<Told, BuildError> {
    let graph = proto.graph.as_ref().ok_or(BuildError::NoGraph)?;
    let is_weight = |name: &str| graph.initializer.iter().any(|t| t.name == name);
    let properties = proto.metadata_props.iter();
    let standard = proto
        .opset_import
        .iter()
        .find(|import| matches!(import.domain.as_str(), "" | "ai.onnx"));
    let mut inputs = graph.input.iter().filter(|input| !is_weight(&input.name));
    Ok(Told {
        properties: properties
            .map(|property| (property.key.clone(), property.value.clone()))
            .collect(),
        producer: format!("{} {}", proto.producer_name, proto.producer_version),
        opset: standard.map_or(0, |import| import.version),
        input: inputs
            .next()
            .map(|input| (input.name.clone(), shape(input))),
        outputs: graph.output.iter().map(|it| it.name.clone()).collect(),
    })
}

/// The dimensions; `None` where one is open.
fn shape(input: &pb::ValueInfoProto) -> Vec<Option<usize>> {
    let Some(TypeValue::TensorType(tensor)) = input.r#type.as_ref().and_then(|t| t.value.as_ref())
    else {
        return Vec::new();
    };
    let dimensions = tensor.shape.iter().flat_map(|shape| &shape.dim);
    dimensions
        .map(|dimension| match dimension.value {
            Some(DimensionValue::DimValue(size)) => usize::try_from(size).ok().filter(|n| *n > 0),
            _ => None,
        })
        .collect()
}

/// Rows and inputs of a window, and how they lie.
struct Shape {
    layout: &'static str,
    rows: Option<usize>,
    inputs: Option<usize>,
}

impl Shape {
    /// `roles`: how many inputs there are, where that is known.
    fn guess(dimensions: &[Option<usize>], roles: Option<usize>) -> Self {
        match *dimensions {
            [_, inputs, rows] if roles.is_some() && inputs == roles && rows != roles => Shape {
                layout: "NFT",
                rows,
                inputs,
            },
            [_, rows, inputs] => Shape {
                layout: "NTF",
                rows,
                inputs: inputs.or(roles),
            },
            [_, flat] => {
                let inputs = roles.or(flat);
                let rows = match (flat, inputs) {
                    (Some(flat), Some(inputs)) if inputs > 0 && flat % inputs == 0 => flat / inputs,
                    _ => FLAT_ROWS,
                };
                Shape {
                    layout: "NF",
                    rows: Some(rows),
                    inputs,
                }
            }
            _ => Shape {
                layout: "NTF",
                rows: None,
                inputs: roles,
            },
        }
    }
}

struct Writer {
    told: Told,
    text: String,
    open: Vec<String>,
}

impl Writer {
    fn line(&mut self, line: &str) {
        let _ = writeln!(self.text, "{line}");
    }

    fn property(&self, key: &str) -> Option<String> {
        let value = self.told.properties.get(&format!("millrace.{key}"))?;
        Some(value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    fn list(&self, key: &str) -> Option<Vec<String>> {
        let text = self.property(key)?;
        Some(text.split(',').map(|it| it.trim().to_owned()).collect())
    }

    /// What must be written by a person: it is left out, so that it cannot be forgotten.
    fn leave_open(&mut self, example: &str, what: &str) {
        self.line(&format!("# FILL IN: {example}  # {what}"));
        self.open.push(format!("{example}: {what}"));
    }

    fn head(&mut self, name: &str) {
        let name = self.property("name").unwrap_or_else(|| name.to_owned());
        let version = self.property("version").unwrap_or_else(|| "1.0.0".into());
        self.line(&format!(
            "name = {}\nversion = {}                # a changed bundle needs another one\n",
            quoted(&name),
            quoted(&version)
        ));
    }

    /// Before a person fills in what would not help.
    fn refused(&mut self, refused: &[RefusedOperator]) {
        if refused.is_empty() {
            return;
        }
        self.line("# DOES NOT RUN HERE: export the model again without");
        for operator in refused {
            for line in operator.to_string().lines() {
                self.line(&format!("#   {line}"));
            }
        }
        self.line("");
    }

    /// The outputs that are the score and the inputs' parts in it, or what is predicted, as far as names tell.
    fn wanted_outputs(&self) -> Vec<String> {
        let outputs = &self.told.outputs;
        let named = |names: &[&str]| outputs.iter().find(|it| names.contains(&it.as_str()));
        let (first, second) = match self.property("forecast") {
            Some(_) => (named(&["predicted", "forecast", "prediction"]), None),
            None => (named(&["score"]), named(&["contribution"])),
        };
        let first = first.or(outputs.first()).into_iter();
        first.chain(second).cloned().collect()
    }

    fn model(&mut self, file: &str, digest: &str) {
        let roles = self.list("roles");
        let (input, dimensions) = self.told.input.clone().unwrap_or_default();
        let shape = Shape::guess(&dimensions, roles.as_ref().map(Vec::len));
        self.line(&format!(
            "[model]\nfile = {}\nsha256 = \"{digest}\"\nopset = {}\ninput = {}\nlayout = \"{}\"                 # NTF [1, rows, inputs], NFT [1, inputs, rows], NF [1, rows * inputs]\ndtype = \"f32\"",
            quoted(file), self.told.opset, quoted(&input), shape.layout
        ));
        self.inputs(roles, shape.inputs);
        self.line("\n[window]");
        match shape.rows {
            Some(rows) => self.line(&format!("len = {rows}                         # rows")),
            None => self.leave_open(
                "len = 60",
                "rows of a window; the model file leaves them open",
            ),
        }
        match self.property("grid") {
            Some(grid) => self.line(&format!("grid = {}", quoted(&grid))),
            None => self.leave_open(
                "grid = \"1s\"",
                "time between two rows of the training data, or \"scan\"",
            ),
        }
        match self.property("max_gap") {
            Some(gap) => self.line(&format!("max_gap = {}", quoted(&gap))),
            None => self.leave_open(
                "max_gap = \"5s\"",
                "how long a value may stand in for newer ones",
            ),
        }
        self.line("stride = 1\nmin_good_share = 0.9");
    }

    fn inputs(&mut self, roles: Option<Vec<String>>, count: Option<usize>) {
        let units = self.list("units").unwrap_or_default();
        let Some(count) = count else {
            self.line("");
            self.leave_open(
                "[[input]] role = \"…\"",
                "one for each column of the window",
            );
            return;
        };
        if roles.as_ref().is_none_or(|roles| roles.len() != count) {
            self.open.push(format!(
                "role of the {count} [[input]]: what each column is, in the order of training"
            ));
        }
        for index in 0..count {
            let role = roles.as_ref().and_then(|roles| roles.get(index));
            let role = role.map_or_else(
                || {
                    "role = \"\"                       # to be filled in: what this column is"
                        .to_owned()
                },
                |role| format!("role = {}", quoted(role)),
            );
            let unit = units.get(index).map(String::as_str).unwrap_or_default();
            self.line(&format!(
                "\n[[input]]\n{role}\nunit = {}\nfill = \"hold\"                   # or \"linear\"\n# range = [0, 16]               # what lies outside is not good",
                quoted(unit)
            ));
        }
    }

    fn rest(&mut self) {
        let others = self.told.outputs.join(", ");
        match self.list("forecast") {
            Some(roles) => self.forecast(&roles, &others),
            None => self.output(&others),
        }
        match self.property("threshold") {
            Some(value) => self.line(&format!(
                "\n[threshold]\nmethod = \"fixed\"\nvalue = {value}"
            )),
            None => self.line(
                "\n[threshold]\nmethod = \"quantile\"             # learned on each gateway; or \"pot\", or \"fixed\" with `value`",
            ),
        }
        self.line("\n[decision]\nsmoothing = 3                   # median of so many scores\non = 3                          # windows in a row that begin an event\noff = { ratio = 0.9, k = 8 }");
    }

    fn output(&mut self, others: &str) {
        let mut wanted = self.wanted_outputs().into_iter();
        self.line(&format!(
            "\n[output]                        # the model has: {others}"
        ));
        match wanted.next() {
            Some(score) => self.line(&format!("score = {}", quoted(&score))),
            None => self.leave_open("score = \"score\"", "the output that is the score"),
        }
        if let Some(contribution) = wanted.next() {
            self.line(&format!("contribution = {}", quoted(&contribution)));
        }
    }

    fn forecast(&mut self, roles: &[String], others: &str) {
        self.line(&format!(
            "\n[forecast]                      # the model has: {others}"
        ));
        let output = self.wanted_outputs().into_iter().next();
        self.line(&format!("output = {}", quoted(&output.unwrap_or_default())));
        let roles: Vec<String> = roles.iter().map(|role| quoted(role)).collect();
        self.line(&format!("roles = [{}]", roles.join(", ")));
        let horizon = self.property("horizon").unwrap_or_else(|| "1".to_owned());
        self.line(&format!("horizon = {horizon}"));
        match self.property("sigma") {
            Some(sigma) => self.line(&format!("sigma = [{sigma}]")),
            None => self.leave_open(
                "sigma = [0.1]",
                "for each role, the deviation of its residuals in training",
            ),
        }
    }

    fn provenance(&mut self) {
        let producer = self.told.producer.trim().to_owned();
        let dataset = self.property("dataset").unwrap_or_default();
        self.line(&format!(
            "\n[provenance]\nexporter = {}\ndataset = {}",
            quoted(&producer),
            quoted(&dataset)
        ));
    }
}

/// A text as TOML writes it.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::{Manifest, ModelOutput, OutputNames};

    fn model(name: &str) -> Vec<u8> {
        let path = format!("{}/tests/models/{name}.onnx", env!("CARGO_MANIFEST_DIR"));
        std::fs::read(path).unwrap()
    }

    /// What a person would do.
    fn fill_in(manifest: &str) -> String {
        let mut index = 0;
        let lines = manifest.lines().map(|line| {
            if line.starts_with("role = \"\"") {
                index += 1;
                return format!("role = \"r{index}\"");
            }
            line.strip_prefix("# FILL IN: ").unwrap_or(line).to_owned()
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_draft_is_refused_until_it_is_filled_in() {
        let onnx = model("magnitude");
        let golden = br#"{"windows": []}"#;
        let drafted = draft("model.onnx", &onnx, Some(("golden.json", golden)), "pump").unwrap();
        let problems = Manifest::parse(&drafted.manifest).unwrap_err();
        let keys: Vec<&str> = problems.iter().map(|it| it.key.as_str()).collect();
        assert_eq!(
            keys,
            [
                "input[0].role",
                "input[1].role",
                "window.grid",
                "window.max_gap",
            ],
            "{}",
            drafted.manifest
        );
        assert_eq!(drafted.open.len(), 3, "{:?}", drafted.open);
        let manifest = Manifest::parse(&fill_in(&drafted.manifest)).unwrap();
        assert_eq!((manifest.window.len, manifest.inputs.len()), (3, 2));
        assert_eq!(manifest.model.sha256, sha256(&onnx));
        assert_eq!(
            manifest.output,
            ModelOutput::Score(OutputNames {
                score: "score".to_owned(),
                contribution: Some("contribution".to_owned()),
            })
        );
        assert_eq!(manifest.golden.unwrap().sha256, sha256(golden));
    }

    #[test]
    fn operators_that_do_not_run_are_told_at_once() {
        let drafted = draft("model.onnx", &model("operators"), None, "pump").unwrap();
        let names: Vec<&str> = drafted
            .refused
            .iter()
            .map(|it| it.operator.as_str())
            .collect();
        assert_eq!(names, ["DequantizeLinear", "QuantizeLinear"]);
        let told = "# DOES NOT RUN HERE: export the model again without\n#   DequantizeLinear";
        assert!(drafted.manifest.contains(told), "{}", drafted.manifest);
        assert!(
            drafted
                .manifest
                .contains("#     hint: export the model in single precision")
        );
        // The draft is a draft none the less.
        assert!(drafted.manifest.contains("[model]"));
        let drafted = draft("model.onnx", &model("magnitude"), None, "pump").unwrap();
        assert!(drafted.refused.is_empty() && !drafted.manifest.contains("NOT RUN"));
    }

    #[test]
    fn shapes_are_read_as_they_lie() {
        let told = |dimensions: &[Option<usize>], roles| {
            let shape = Shape::guess(dimensions, roles);
            (shape.layout, shape.rows, shape.inputs)
        };
        assert_eq!(
            told(&[Some(1), Some(60), Some(8)], None),
            ("NTF", Some(60), Some(8))
        );
        assert_eq!(
            told(&[None, Some(8), Some(60)], Some(8)),
            ("NFT", Some(60), Some(8))
        );
        assert_eq!(told(&[None, None, Some(8)], None), ("NTF", None, Some(8)));
        assert_eq!(told(&[None, Some(8)], None), ("NF", Some(1), Some(8)));
        assert_eq!(told(&[None, Some(48)], Some(8)), ("NF", Some(6), Some(8)));
        assert_eq!(told(&[], None), ("NTF", None, None));
    }

    #[test]
    fn what_is_no_model_is_refused() {
        assert!(matches!(
            draft("model.onnx", b"\xff\xff\xff", None, "x"),
            Err(BuildError::Decode(_))
        ));
    }
}
