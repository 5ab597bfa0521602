//! Why a model cannot be built, and why a window cannot be scored.

use super::allow::RefusedOperator;
use super::ops::OperatorError;

/// What the engine says, as a chain of causes.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why a bundle's model does not run here. None of these goes away by trying again: the bundle has to be
/// made anew, as each message says.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The file is not ONNX, or ends too early.
    #[error("the model file is not a whole ONNX model")]
    Decode(#[source] Cause),
    /// The file holds no graph.
    #[error("the model file holds no graph\nhint: export the model again")]
    NoGraph,
    /// The graph uses operators that do not run here.
    #[error("{} operator(s) of the model do not run here:\n{}", refused.len(), operator_lines(refused))]
    Operators {
        /// Each of them, with a hint.
        refused: Vec<RefusedOperator>,
    },
    /// A node cannot be what the file says.
    #[error(
        "the model has an operator that cannot run: {0}\nhint: export the model again; in single precision, if it is not"
    )]
    Operator(OperatorError),
    /// A tensor would be far larger than any for a window: the file is damaged, or the model is none for windows.
    #[error(
        "{place:?} asks for too much memory: {what}\nhint: export the model again, for one window at a time"
    )]
    TooLarge {
        /// The node, or the tensor.
        place: String,
        /// What it asks for.
        what: String,
    },
    /// How large a tensor is hangs on the values of a window: no limit could be kept then.
    #[error(
        "how large {node:?} is becomes known only when it runs: {shape}\nhint: export with a fixed batch of 1 and fixed shapes"
    )]
    OpenShape {
        /// The node.
        node: String,
        /// As far as the engine knows it.
        shape: String,
    },
    /// A transposition names an axis twice, or one that is not there: the file is damaged.
    #[error(
        "perm of Transpose {node:?} is {perm:?}, which is no permutation\nhint: export the model again"
    )]
    Transpose {
        /// The node.
        node: String,
        /// Its axes.
        perm: Vec<i64>,
    },
    /// The weights lie in another file.
    #[error(
        "the weights of {tensor:?} lie outside the model file\nhint: save the model with its weights inside (save_as_external_data=False)"
    )]
    ExternalData {
        /// The first such tensor.
        tensor: String,
    },
    /// The manifest was written for another export.
    #[error("the model uses operator set {actual}; model.toml says {expected}")]
    Opset {
        /// What the manifest says.
        expected: usize,
        /// What the file says.
        actual: i64,
    },
    /// The graph has no input of that name, or more than one input.
    #[error("the graph's inputs are [{}]; expected one input{}", actual.join(", "), named(expected.as_deref()))]
    Inputs {
        /// The name that the manifest gives.
        expected: Option<String>,
        /// The inputs of the graph.
        actual: Vec<String>,
    },
    /// The graph's input has another shape than the manifest's window.
    #[error(
        "the graph's input has the shape {actual}; model.toml makes it {expected:?}\nhint: compare window.len, the number of [[input]] and model.layout with the export"
    )]
    InputShape {
        /// Batch, rows and inputs in the order of the layout.
        expected: Vec<usize>,
        /// As the file declares it.
        actual: String,
    },
    /// The graph's input is not single precision.
    #[error(
        "the graph's input is not a float32 tensor\nhint: export the model in single precision"
    )]
    InputType,
    /// The graph has no output of that name.
    #[error("{key} is {expected:?}; the graph's outputs are [{}]", actual.join(", "))]
    Output {
        /// The key of model.toml that names it.
        key: &'static str,
        /// The name that the manifest gives.
        expected: String,
        /// The outputs of the graph.
        actual: Vec<String>,
    },
    /// An output has another size than it should.
    #[error(
        "{key} has {actual} numbers for one window; expected {expected}{}",
        shape_hint(key)
    )]
    OutputShape {
        /// The key of model.toml that names it.
        key: &'static str,
        /// One score, one number for each input, or one for each role that is predicted.
        expected: usize,
        /// What the model gives.
        actual: usize,
    },
    /// The score is an element of an output that has no such one.
    #[error(
        "output.score asks for element {place}; the output has {actual} numbers for one window, counted from 0"
    )]
    OutputPlace {
        /// The element.
        place: usize,
        /// How many there are.
        actual: usize,
    },
    /// The engine refuses the graph: see the cause.
    #[error(
        "the model cannot be built ({step})\nhint: export with opset 17, a fixed batch of 1 and fixed shapes"
    )]
    Engine {
        /// What the engine was doing.
        step: &'static str,
        /// What it says.
        source: Cause,
    },
    /// The engine failed in a way that it should not: report it with the model.
    #[error("the engine broke down over the model: {message}")]
    Panic {
        /// The panic's message.
        message: String,
    },
    /// A window of the right size cannot be scored.
    #[error("the model cannot score a window")]
    Probe(#[source] ScoreError),
    /// A golden window cannot be scored.
    #[error("golden window {index} cannot be scored")]
    GoldenRun {
        /// Which window.
        index: usize,
        /// Why not.
        source: ScoreError,
    },
    /// The model gives other numbers here than where it was trained.
    #[error(
        "golden window {index}: {output} is {actual}; expected {expected}\nhint: the model does not compute here what it computed where it was trained; check the export in evaluation mode and single precision"
    )]
    Golden {
        /// Which window.
        index: usize,
        /// `score`, or `contribution` or `predicted` of a role.
        output: String,
        /// The number in the golden file.
        expected: f64,
        /// The number here.
        actual: f64,
    },
}

/// Why a window has no score.
#[derive(Debug, thiserror::Error)]
pub enum ScoreError {
    /// The window has another size than the model takes: a mistake of the caller.
    #[error("the window holds {actual} values; the model takes {expected}")]
    WindowSize {
        /// Rows times inputs.
        expected: usize,
        /// What was given.
        actual: usize,
    },
    /// The window holds something that is not a finite number.
    #[error("value {index} of the window is not a finite number")]
    NotFinite {
        /// Place in the window.
        index: usize,
    },
    /// The model's output is not a finite number.
    #[error("the model's {output} is not a finite number")]
    NotANumber {
        /// `score`, `contribution` or `predicted value`.
        output: &'static str,
    },
    /// A built-in detector found nothing to learn in its windows: look at its inputs. It begins anew.
    #[error("there was nothing to learn: no input has changed")]
    NothingLearned,
    /// The engine refuses to run the model: see the cause.
    #[error("the engine cannot run the model")]
    Engine(#[source] Cause),
    /// The engine failed in a way that it should not.
    #[error("the engine broke down over the window: {message}")]
    Panic {
        /// The panic's message.
        message: String,
    },
}

fn shape_hint(key: &str) -> &'static str {
    match key {
        "output.score" => "\nhint: choose one of them: \"NAME[0]\" is the first",
        "forecast.output" => ", or so many for each row up to the horizon",
        _ => "",
    }
}

fn operator_lines(refused: &[RefusedOperator]) -> String {
    let lines: Vec<String> = refused.iter().map(|op| format!("  {op}")).collect();
    lines.join("\n")
}

fn named(name: Option<&str>) -> String {
    name.map(|name| format!(" named {name:?}"))
        .unwrap_or_default()
}

/// The message of a caught panic.
pub(super) fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}
