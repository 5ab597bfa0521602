//! What gives windows their scores.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use millrace_tags::Moment;
use sha2::{Digest, Sha256};

use crate::builtin::{Builtin, Training};
use crate::bundle::{Bundle, Column, DecisionRule, Input, ModelOutput, Source, Threshold, Window};
use crate::onnx::{Detector, ScoreError, Scored};
use crate::threshold::Progress;

/// What a monitor needs to know of a model, wherever the model comes from.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSpec {
    /// Name of the model.
    pub name: String,
    /// Its version.
    pub version: String,
    /// What tells its content from that of others: SHA-256, hex.
    pub sha256: String,
    /// The inputs, which samples are fed to.
    pub inputs: Vec<Input>,
    /// The columns of the window, made of the inputs.
    pub columns: Vec<Column>,
    /// How samples become windows.
    pub window: Window,
    /// The score that begins an event.
    pub threshold: Threshold,
    /// What a model of a bundle gives; `None` for other scorers.
    pub output: Option<ModelOutput>,
    /// When scores become events.
    pub decision: DecisionRule,
    /// What tells the asset from others that the model serves, such as the tags of its inputs. What was learned on
    /// another one is not used.
    pub asset: String,
    /// Whether rows are made, and windows scored, where inputs have no value: for detectors of missing data.
    pub scores_gaps: bool,
}

impl ModelSpec {
    /// How long before its row a value may count: the time that columns and inputs of another pace look back.
    pub fn memory(&self) -> Duration {
        let over = self
            .columns
            .iter()
            .filter_map(|column| match column.source {
                Source::Mean { over, .. }
                | Source::Deviation { over, .. }
                | Source::Band { over, .. } => Some(over),
                Source::Input(_) | Source::Difference { .. } => None,
            });
        let gaps = self.inputs.iter().filter_map(|input| input.max_gap);
        over.chain(gaps).max().unwrap_or_default()
    }

    /// SHA-256, hex, of everything that what is learned depends on: the model, the asset, windows, output and threshold.
    pub fn fingerprint(&self) -> String {
        let Self {
            sha256,
            inputs,
            columns,
            window,
            output,
            threshold,
            decision,
            asset,
            ..
        } = self;
        let smoothing = decision.smoothing;
        let text = format!(
            "{sha256} {inputs:?} {columns:?} {window:?} {output:?} {threshold:?} {smoothing} {asset:?}"
        );
        let digest = Sha256::digest(text.as_bytes());
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl From<&Bundle> for ModelSpec {
    fn from(bundle: &Bundle) -> Self {
        let manifest = bundle.manifest();
        Self {
            name: manifest.name.clone(),
            version: manifest.version.clone(),
            sha256: bundle.sha256().to_owned(),
            inputs: manifest.inputs.clone(),
            columns: manifest.columns.clone(),
            window: Window {
                len: manifest.window_rows(),
                ..manifest.window.clone()
            },
            output: Some(manifest.output.clone()),
            threshold: manifest.threshold,
            decision: manifest.decision.clone(),
            asset: String::new(),
            scores_gaps: false,
        }
    }
}

/// One window on its way to a scorer.
#[derive(Debug, Clone, Copy)]
pub struct WindowView<'a> {
    /// Finite values, row after row, in the units of the inputs.
    pub values: &'a [f32],
    /// Share of good cells of each column, 0 to 1.
    pub good: &'a [f64],
    /// The time of each row.
    pub times: &'a [Moment],
    /// Whether the newest cell of each column is good: measured, not a stand-in.
    pub measured: &'a [bool],
}

/// What gives windows their scores. It holds nothing from one window to the next but what a built-in detector learns
/// before its first score: the same window always gets the same score.
#[derive(Debug)]
pub enum Scorer {
    /// An ONNX model.
    Onnx(Detector),
    /// A function of the caller's: what tests and benches put into a model's place.
    Function(ScoreFunction),
    /// A detector that needs no file.
    Builtin(Builtin),
}

/// A function that scores windows. It must not keep anything from one window to the next.
pub struct ScoreFunction(Box<ScoreWindow>);

type ScoreWindow = dyn Fn(WindowView<'_>) -> Result<Scored, ScoreError> + Send + Sync;

impl ScoreFunction {
    /// A scorer of this function.
    pub fn new(
        score: impl Fn(WindowView<'_>) -> Result<Scored, ScoreError> + Send + Sync + 'static,
    ) -> Self {
        Self(Box::new(score))
    }
}

impl fmt::Debug for ScoreFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ScoreFunction")
    }
}

impl From<ScoreFunction> for Scorer {
    fn from(function: ScoreFunction) -> Self {
        Scorer::Function(function)
    }
}

impl From<Detector> for Scorer {
    fn from(detector: Detector) -> Self {
        Scorer::Onnx(detector)
    }
}

impl From<Builtin> for Scorer {
    fn from(builtin: Builtin) -> Self {
        Scorer::Builtin(builtin)
    }
}

impl Scorer {
    /// Scores one window.
    ///
    /// # Errors
    /// See [`ScoreError`]; the scorer stays usable.
    pub fn score(&self, window: WindowView<'_>) -> Result<Scored, ScoreError> {
        match self {
            Scorer::Onnx(detector) => detector.score_measured(window.values, window.measured),
            Scorer::Function(function) => (function.0)(window),
            Scorer::Builtin(builtin) => builtin.score(window),
        }
    }

    /// Names of the further values that come with each score, in the order of [`Scored::values`].
    pub fn value_names(&self) -> &[Arc<str>] {
        match self {
            Scorer::Onnx(detector) => detector.value_names(),
            Scorer::Function(_) => &[],
            Scorer::Builtin(builtin) => builtin.value_names(),
        }
    }

    /// Columns of which one at least must have been measured in the newest row; empty where that does not matter.
    pub(crate) fn measured_columns(&self) -> &[usize] {
        match self {
            Scorer::Onnx(detector) => detector.predicted_columns(),
            Scorer::Function(_) | Scorer::Builtin(_) => &[],
        }
    }

    /// How far its training is; `None` where it can score.
    pub fn training(&self) -> Option<Progress> {
        match self {
            Scorer::Onnx(_) | Scorer::Function(_) => None,
            Scorer::Builtin(builtin) => builtin.progress(),
        }
    }

    pub(crate) fn learn(&mut self, window: WindowView<'_>) -> Result<(), ScoreError> {
        match self {
            Scorer::Onnx(_) | Scorer::Function(_) => Ok(()),
            Scorer::Builtin(builtin) => builtin.learn(window),
        }
    }

    pub(crate) fn restart(&mut self) {
        if let Scorer::Builtin(builtin) = self {
            builtin.restart();
        }
    }

    pub(crate) fn learned(&self) -> Option<&Training> {
        match self {
            Scorer::Onnx(_) | Scorer::Function(_) => None,
            Scorer::Builtin(builtin) => builtin.training(),
        }
    }

    pub(crate) fn restore(&mut self, kept: Training) -> bool {
        match self {
            Scorer::Onnx(_) | Scorer::Function(_) => false,
            Scorer::Builtin(builtin) => builtin.restore(kept),
        }
    }
}
