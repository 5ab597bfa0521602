//! Detectors: an ONNX model, built and proved, that gives windows their scores.
//!
//! Each window runs in a fresh state, since a state that is used again keeps what recurrent layers
//! remember and gives silently wrong scores. The batch is fixed to 1: several times faster than an
//! open one. Recorded shapes of inner values are ignored, because exporters with an open batch record
//! some that contradict a batch of 1.

mod admit;
mod allow;
mod bounds;
mod error;
mod forecast;
mod guard;
mod ops;
mod pick;
mod prune;
mod reading;

use std::borrow::Cow;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tract_onnx::pb;
use tract_onnx::prelude::*;

pub use allow::RefusedOperator;
use error::panic_message;
pub use error::{BuildError, Cause, ScoreError};
use guard::TooLarge;
pub use ops::OperatorError;
use reading::Reading;

use crate::bundle::{Bundle, GoldenFile, GoldenWindow, Layout, Manifest, Normalisation};

/// What a model says about one window.
#[derive(Debug, Clone, PartialEq)]
pub struct Scored {
    /// The score: larger is less normal.
    pub score: f64,
    /// Each input's part in the score, in the order of the inputs, where the model tells.
    pub contribution: Option<Vec<f64>>,
    /// Further values, in the order of [`crate::Scorer::value_names`]; `None` where one is not known.
    pub values: Vec<Option<f64>>,
}

/// A built model. It holds no state between windows: the same window always gets the same score.
pub struct Detector {
    plan: Arc<TypedRunnableModel>,
    shape: Vec<usize>,
    layout: Layout,
    rows: usize,
    inputs: usize,
    normalisation: Option<Normalisation>,
    reading: Reading,
}

impl fmt::Debug for Detector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Detector")
            .field("shape", &self.shape)
            .field("layout", &self.layout)
            .finish_non_exhaustive()
    }
}

impl Detector {
    /// Builds the model of a bundle and proves it with the bundle's golden vectors.
    ///
    /// # Errors
    /// See [`BuildError`]. A model that makes the engine panic is an error like the others.
    pub fn build(bundle: &Bundle) -> Result<Self, BuildError> {
        let manifest = bundle.manifest();
        let built = catch_unwind(AssertUnwindSafe(|| Self::build_unproved(bundle)));
        let detector = built.map_err(|panic| BuildError::Panic {
            message: panic_message(&*panic),
        })??;
        detector.probe()?;
        if let (Some(golden), Some(file)) = (bundle.golden(), &manifest.golden) {
            for (index, window) in golden.windows.iter().enumerate() {
                detector.prove(index, window, file, manifest)?;
            }
        }
        Ok(detector)
    }

    fn build_unproved(bundle: &Bundle) -> Result<Self, BuildError> {
        let manifest = bundle.manifest();
        let onnx = guard::engine();
        let mut proto = onnx
            .proto_model_for_read(&mut bundle.model())
            .map_err(|error| BuildError::Decode(error.into()))?;
        let graph = proto.graph.as_mut().ok_or(BuildError::NoGraph)?;
        let reading = Reading::new(graph, manifest);
        for (key, name) in reading.outputs() {
            admit::check_output(graph, key, name)?;
        }
        let outputs: Vec<&str> = reading.outputs().into_iter().map(|it| it.1).collect();
        prune::prune(graph, &outputs);
        let input = admit::check(&proto, manifest)?;
        proto.graph.as_ref().map_or(Ok(()), bounds::check_file)?;
        let shape = admit::input_shape(manifest);

        let mut graph = onnx
            .model_for_proto_model(&proto)
            .map_err(engine("reading the graph"))?;
        graph
            .select_inputs_by_name([&input])
            .and_then(|()| graph.select_outputs_by_name(outputs))
            .and_then(|()| graph.set_input_fact(0, f32::fact(&shape).into()))
            .map_err(engine("setting inputs and outputs"))?;
        let graph = graph
            .into_typed()
            .map_err(engine("working out types and shapes"))?;
        bounds::check_shapes(&graph)?;
        let plan = graph
            .into_decluttered()
            .map_err(engine("simplifying the graph"))?
            .into_optimized()
            .map_err(engine("optimising the graph"))?
            .into_runnable()
            .map_err(engine("planning the run"))?;
        Ok(Self {
            plan,
            shape,
            layout: manifest.model.layout,
            rows: manifest.window.len,
            inputs: manifest.columns.len(),
            normalisation: manifest.window.normalisation.clone(),
            reading,
        })
    }

    /// Scores one window: [`Manifest::window_rows`] times inputs values, row after row, in the units of the inputs.
    ///
    /// # Errors
    /// See [`ScoreError`]; the detector stays usable.
    pub fn score(&self, window: &[f32]) -> Result<Scored, ScoreError> {
        self.score_where(window, |_| true)
    }

    /// Scores one window, of whose newest row only these values were measured.
    pub(crate) fn score_measured(
        &self,
        window: &[f32],
        measured: &[bool],
    ) -> Result<Scored, ScoreError> {
        self.score_where(window, |column| measured.get(column) == Some(&true))
    }

    fn score_where(
        &self,
        window: &[f32],
        measured: impl Fn(usize) -> bool,
    ) -> Result<Scored, ScoreError> {
        let expected = (self.rows + self.reading.horizon()) * self.inputs;
        check(window, expected)?;
        let outputs = self.run(&window[..self.rows * self.inputs])?;
        let newest = &window[expected - self.inputs..];
        self.reading.scored(outputs, newest, measured)
    }

    /// The outputs of the graph for the rows that it sees.
    fn run(&self, window: &[f32]) -> Result<Vec<Vec<f64>>, ScoreError> {
        let run = || -> TractResult<Vec<Vec<f64>>> {
            let input = Tensor::from_shape(&self.shape, &self.prepare(window))?;
            // A fresh state for each window: see the module's documentation.
            let outputs = self.plan.run(tvec!(input.into_tvalue()))?;
            outputs.iter().map(numbers).collect()
        };
        match catch_unwind(AssertUnwindSafe(run)) {
            Ok(Ok(outputs)) => Ok(outputs),
            Ok(Err(error)) => Err(ScoreError::Engine(error.into())),
            Err(panic) => Err(ScoreError::Panic {
                message: panic_message(&*panic),
            }),
        }
    }

    /// Normalises a window and brings it into the layout of the model.
    fn prepare<'a>(&self, window: &'a [f32]) -> Cow<'a, [f32]> {
        let mut window = Cow::Borrowed(window);
        if let Some(normalisation) = &self.normalisation {
            for row in window.to_mut().chunks_exact_mut(self.inputs) {
                for (input, value) in row.iter_mut().enumerate() {
                    *value = normalise(normalisation, input, *value);
                }
            }
        }
        match self.layout {
            Layout::Ntf | Layout::Nf => window,
            Layout::Nft => (0..self.inputs)
                .flat_map(|input| window[input..].iter().step_by(self.inputs))
                .copied()
                .collect(),
        }
    }

    /// Runs one window of a plausible kind and checks the sizes of what comes out.
    fn probe(&self) -> Result<(), BuildError> {
        let window: Vec<f32> = match &self.normalisation {
            Some(normalisation) => {
                let row = normalisation.mean.iter().map(|mean| *mean as f32);
                row.cycle().take(self.rows * self.inputs).collect()
            }
            None => vec![0.0; self.rows * self.inputs],
        };
        let outputs = self.run(&window).map_err(BuildError::Probe)?;
        self.reading.check_sizes(&outputs, self.inputs)
    }

    fn prove(
        &self,
        index: usize,
        window: &GoldenWindow,
        file: &GoldenFile,
        manifest: &Manifest,
    ) -> Result<(), BuildError> {
        let scored = self
            .score(&window.values)
            .map_err(|source| BuildError::GoldenRun { index, source })?;
        let check = |output: String, expected: f64, actual: f64| {
            if (actual - expected).abs() <= file.atol + file.rtol * expected.abs() {
                return Ok(());
            }
            Err(BuildError::Golden {
                index,
                output,
                expected,
                actual,
            })
        };
        check("score".to_owned(), window.score, scored.score)?;
        let parts = window.contribution.iter().flatten();
        let actual = scored.contribution.iter().flatten();
        for ((input, expected), actual) in manifest.columns.iter().zip(parts).zip(actual) {
            check(
                format!("contribution of {}", input.role),
                *expected,
                *actual,
            )?;
        }
        // Predicted values and residuals come in turn.
        let predicted = scored.values.iter().step_by(2).copied().flatten();
        let expected = window.predicted.iter().flatten();
        for ((name, expected), actual) in self
            .value_names()
            .iter()
            .step_by(2)
            .zip(expected)
            .zip(predicted)
        {
            check(name.to_string(), *expected, actual)?;
        }
        Ok(())
    }

    /// Whether the model tells each input's part in the score.
    pub fn has_contribution(&self) -> bool {
        match &self.reading {
            Reading::Score { contribution, .. } => contribution.is_some(),
            Reading::Forecast(_) => true,
        }
    }

    /// Names of what comes with each score: `predicted/ROLE` and `residual/ROLE` of a forecast.
    pub(crate) fn value_names(&self) -> &[Arc<str>] {
        match &self.reading {
            Reading::Score { .. } => &[],
            Reading::Forecast(forecaster) => forecaster.names(),
        }
    }

    /// The columns that are predicted.
    pub(crate) fn predicted_columns(&self) -> &[usize] {
        match &self.reading {
            Reading::Score { .. } => &[],
            Reading::Forecast(forecaster) => forecaster.columns(),
        }
    }
}

/// The operators that these outputs hang on and that do not run here. [`Detector::build`] refuses them in the same words.
pub(crate) fn refused_operators(
    model: &pb::ModelProto,
    outputs: &[String],
) -> Vec<RefusedOperator> {
    let mut graph = model.graph.clone().unwrap_or_default();
    let outputs: Vec<&str> = outputs.iter().map(String::as_str).collect();
    prune::prune(&mut graph, &outputs);
    allow::refused(&graph)
}

/// Whether a window has so many values, all of them finite.
fn check(window: &[f32], expected: usize) -> Result<(), ScoreError> {
    if window.len() != expected {
        return Err(ScoreError::WindowSize {
            expected,
            actual: window.len(),
        });
    }
    // Over all of them, which compilers turn into wide instructions; a search for the first ends at each value.
    if window
        .iter()
        .fold(true, |all, value| all & value.is_finite())
    {
        return Ok(());
    }
    let index = window.iter().position(|value| !value.is_finite());
    Err(ScoreError::NotFinite {
        index: index.unwrap_or_default(),
    })
}

fn engine(step: &'static str) -> impl FnOnce(TractError) -> BuildError {
    move |error| {
        let fault = error
            .chain()
            .find_map(|it| it.downcast_ref::<OperatorError>());
        let size = error.chain().find_map(|it| it.downcast_ref::<TooLarge>());
        match (fault, size) {
            (Some(fault), _) => BuildError::Operator(fault.clone()),
            (_, Some(TooLarge { place, what })) => BuildError::TooLarge {
                place: place.clone(),
                what: what.clone(),
            },
            _ => BuildError::Engine {
                step,
                source: error.into(),
            },
        }
    }
}

/// In f64, so that large values with a small scale keep their digits.
fn normalise(normalisation: &Normalisation, input: usize, value: f32) -> f32 {
    let scaled = (f64::from(value) - normalisation.mean[input]) / normalisation.scale[input];
    match normalisation.clip {
        Some(clip) => scaled.clamp(-clip, clip) as f32,
        None => scaled.clamp(f64::from(f32::MIN), f64::from(f32::MAX)) as f32,
    }
}

fn numbers(output: &TValue) -> TractResult<Vec<f64>> {
    if output.datum_type() == DatumType::F32 {
        let plain = output.try_as_plain_ram()?;
        return Ok(plain
            .as_slice::<f32>()?
            .iter()
            .map(|it| f64::from(*it))
            .collect());
    }
    let output = output.cast_to::<f64>()?;
    Ok(output
        .to_plain_array_view::<f64>()?
        .iter()
        .copied()
        .collect())
}
