//! Readings: what the graph's outputs are taken for.

use tract_onnx::pb;

use super::Scored;
use super::error::{BuildError, ScoreError};
use super::forecast::Forecaster;
use super::pick::Pick;
use crate::bundle::{Manifest, ModelOutput};

/// What the graph's outputs are taken for.
#[derive(Debug)]
pub(super) enum Reading {
    /// The score, and then each input's part in it.
    Score {
        /// What of the first output is the score.
        score: Pick,
        /// Name of the second output, where there is one.
        contribution: Option<String>,
    },
    /// What will be measured.
    Forecast(Forecaster),
}

impl Reading {
    /// As the manifest says.
    pub(super) fn new(graph: &pb::GraphProto, manifest: &Manifest) -> Self {
        match &manifest.output {
            ModelOutput::Score(names) => Reading::Score {
                score: Pick::of(graph, &names.score),
                contribution: names.contribution.clone(),
            },
            ModelOutput::Forecast(forecast) => {
                Reading::Forecast(Forecaster::new(forecast, manifest))
            }
        }
    }

    /// The outputs that are needed, in order: the key of model.toml, and the name.
    pub(super) fn outputs(&self) -> Vec<(&'static str, &str)> {
        match self {
            Reading::Score {
                score,
                contribution,
            } => {
                let contribution = contribution.as_deref();
                [("output.score", score.output.as_str())]
                    .into_iter()
                    .chain(contribution.map(|name| ("output.contribution", name)))
                    .collect()
            }
            Reading::Forecast(forecaster) => vec![("forecast.output", forecaster.output())],
        }
    }

    /// Rows of a window beyond those that the model sees.
    pub(super) fn horizon(&self) -> usize {
        match self {
            Reading::Score { .. } => 0,
            Reading::Forecast(forecaster) => forecaster.horizon(),
        }
    }

    /// Whether the outputs have as many numbers as they should, of a model of so many inputs.
    pub(super) fn check_sizes(
        &self,
        outputs: &[Vec<f64>],
        inputs: usize,
    ) -> Result<(), BuildError> {
        let sizes = match self {
            Reading::Score { score, .. } => {
                if let (Some(place), Some(output)) = (score.place, outputs.first())
                    && place >= output.len()
                {
                    let actual = output.len();
                    return Err(BuildError::OutputPlace { place, actual });
                }
                vec![score.len().map(|len| [len; 2]), Some([inputs; 2])]
            }
            Reading::Forecast(forecaster) => vec![Some(forecaster.sizes())],
        };
        for (((key, _), sizes), output) in self.outputs().into_iter().zip(sizes).zip(outputs) {
            let actual = output.len();
            if let Some([expected, whole]) = sizes
                && ![expected, whole].contains(&actual)
            {
                return Err(BuildError::OutputShape {
                    key,
                    expected,
                    actual,
                });
            }
        }
        Ok(())
    }

    /// What the outputs say of a window whose newest row this is; of its cells, these were measured.
    pub(super) fn scored(
        &self,
        mut outputs: Vec<Vec<f64>>,
        row: &[f32],
        measured: impl Fn(usize) -> bool,
    ) -> Result<Scored, ScoreError> {
        let first = outputs.first().map(Vec::as_slice).unwrap_or_default();
        let score = match self {
            Reading::Score { score, .. } => score.from(first),
            Reading::Forecast(forecaster) => return forecaster.scored(first, row, measured),
        };
        let score = score.filter(|score| score.is_finite());
        let score = score.ok_or(ScoreError::NotANumber { output: "score" })?;
        let contribution = (outputs.len() > 1).then(|| outputs.swap_remove(1));
        if contribution.iter().flatten().any(|part| !part.is_finite()) {
            return Err(ScoreError::NotANumber {
                output: "contribution",
            });
        }
        Ok(Scored {
            score,
            contribution,
            values: Vec::new(),
        })
    }
}
