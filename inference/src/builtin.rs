//! Detectors that need no file: they learn what they need on the gateway, or are told.
//!
//! Each is a function of one window and of what was learned before: nothing is carried from one window to
//! the next, so that a window that is replayed scores the same. A score is what was seen as a part of the
//! detector's own limit: 1 is at the limit, whatever the detector.
//!
//! | method | scores | learns |
//! |---|---|---|
//! | PCA | T² and Q of the window's values, each over its limit; the larger | mean, deviation, components |
//! | EWMA | weighted mean of each input's rows, newest most, in its own standard errors | mean, deviation |
//! | CUSUM | sum of each input's drift over the window | mean, deviation |
//! | stuck | rows in a row in which an input did not change | |
//! | rate | change of an input over the window, per second | |
//! | range | distance of an input's newest value from the middle of its range | |
//! | missing | share of an input's rows without a good value | |

mod control;
mod distribution;
mod eigen;
mod moments;
mod pca;
mod plain;

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::bundle::{Column, DecisionRule, Input, Source, Threshold, Window};
use crate::onnx::{ScoreError, Scored};
use crate::scorer::{ModelSpec, WindowView};
use crate::threshold::Progress;
use moments::Moments;
pub use pca::Pca;

/// Values of one window of a PCA: its matrix has the square of so many numbers.
pub const PCA_VALUES_MAX: usize = 256;

/// How a built-in detector scores.
#[derive(Debug, Clone, PartialEq)]
pub enum Method {
    /// Principal components of the window's values: T² within them, Q beside them.
    Pca {
        /// Components are taken until they explain this share of the variance.
        variance: f64,
        /// The share of normal windows that the limits leave below them.
        confidence: f64,
        /// Windows to learn from.
        train: usize,
    },
    /// Exponentially weighted moving average.
    Ewma {
        /// The weight of the newest row.
        lambda: f64,
        /// The limit, in standard errors of the average.
        sigmas: f64,
        /// Windows to learn from.
        train: usize,
    },
    /// Cumulated sums of what exceeds a slack, upwards and downwards, over the window.
    Cusum {
        /// What is no drift, in standard deviations.
        slack: f64,
        /// The limit, in standard deviations.
        sigmas: f64,
        /// Windows to learn from.
        train: usize,
    },
    /// An input does not change all window long.
    Stuck {
        /// For each input, the largest change that is none.
        change: Vec<f64>,
    },
    /// An input changes too fast.
    Rate {
        /// For each input, the largest change in a second.
        limit: Vec<f64>,
    },
    /// An input is too small or too large.
    Range {
        /// For each input, smallest and largest.
        limits: Vec<(f64, f64)>,
    },
    /// An input has no good values.
    Missing {
        /// The share of a window's rows that may be without.
        allowed: f64,
    },
}

impl Method {
    /// Its name in configurations.
    pub fn name(&self) -> &'static str {
        match self {
            Method::Pca { .. } => "pca",
            Method::Ewma { .. } => "ewma",
            Method::Cusum { .. } => "cusum",
            Method::Stuck { .. } => "stuck",
            Method::Rate { .. } => "rate",
            Method::Range { .. } => "range",
            Method::Missing { .. } => "missing",
        }
    }

    fn train(&self) -> usize {
        match self {
            Method::Pca { train, .. }
            | Method::Ewma { train, .. }
            | Method::Cusum { train, .. } => *train,
            _ => 0,
        }
    }
}

/// A built-in detector as it was asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct BuiltinSettings {
    /// Name of the model.
    pub name: String,
    /// How it scores.
    pub method: Method,
    /// The inputs.
    pub inputs: Vec<Input>,
    /// How samples become windows.
    pub window: Window,
    /// The score that begins an event.
    pub threshold: Threshold,
    /// When scores become events.
    pub decision: DecisionRule,
}

impl BuiltinSettings {
    /// What a monitor needs to know of it. Its version is the method's name; its SHA-256 is that of its settings.
    pub fn spec(&self) -> ModelSpec {
        let digest = Sha256::digest(format!("{self:?}").as_bytes());
        let is_missing = matches!(self.method, Method::Missing { .. });
        let mut spec = ModelSpec {
            name: self.name.clone(),
            version: self.method.name().to_owned(),
            sha256: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
            inputs: self.inputs.clone(),
            columns: self
                .inputs
                .iter()
                .enumerate()
                .map(|(place, input)| Column {
                    role: input.role.clone(),
                    source: Source::Input(place),
                })
                .collect(),
            window: self.window.clone(),
            output: None,
            threshold: self.threshold,
            decision: self.decision.clone(),
            asset: String::new(),
            scores_gaps: is_missing,
        };
        if is_missing {
            // What is looked for must not keep windows from being scored.
            spec.window.min_good_share = 0.0;
            for input in &mut spec.inputs {
                input.required = false;
            }
        }
        spec
    }
}

/// What a detector has learned; this is what is kept over restarts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Training {
    windows: usize,
    moments: Moments,
}

/// A built-in detector.
#[derive(Debug)]
pub struct Builtin {
    method: Method,
    inputs: usize,
    rows: usize,
    training: Training,
    fitted: Option<Fitted>,
    names: Vec<Arc<str>>,
}

/// What follows from the training.
#[derive(Debug)]
enum Fitted {
    Pca(Box<Pca>),
    Moments { mean: Vec<f64>, deviation: Vec<f64> },
}

impl Builtin {
    /// A detector that has learned nothing yet.
    pub fn new(settings: &BuiltinSettings) -> Self {
        let names: &[&str] = match settings.method {
            Method::Pca { .. } => &["t2", "q"],
            _ => &[],
        };
        let (inputs, rows) = (settings.inputs.len(), settings.window.len);
        Self {
            training: Training::new(&settings.method, inputs, rows),
            method: settings.method.clone(),
            inputs,
            rows,
            fitted: None,
            names: names.iter().map(|name| Arc::from(*name)).collect(),
        }
    }

    pub(crate) fn value_names(&self) -> &[Arc<str>] {
        &self.names
    }

    /// How far the training is; `None` where there is nothing to learn, or no more.
    pub fn progress(&self) -> Option<Progress> {
        let needed = self.method.train();
        (needed > 0 && self.fitted.is_none()).then_some(Progress {
            windows: self.training.windows,
            needed,
        })
    }

    /// The components and limits, where it is a PCA that is trained.
    pub fn pca(&self) -> Option<&Pca> {
        match &self.fitted {
            Some(Fitted::Pca(pca)) => Some(pca),
            _ => None,
        }
    }

    /// Learns from one window of a detector that is in training.
    ///
    /// # Errors
    /// Where the last window of the training came, and nothing could be learned from all of them: it begins anew.
    pub(crate) fn learn(&mut self, window: WindowView<'_>) -> Result<(), ScoreError> {
        let numbers = |values: &[f32]| {
            values
                .iter()
                .map(|value| f64::from(*value))
                .collect::<Vec<_>>()
        };
        self.training.windows += 1;
        match self.method {
            Method::Pca { .. } => self.training.moments.push(&numbers(window.values)),
            // Rows of windows that overlap are learned once each: the newest row, but all of the first window.
            _ if self.training.windows == 1 => {
                for row in window.values.chunks(self.inputs) {
                    self.training.moments.push(&numbers(row));
                }
            }
            _ => {
                let newest = window.values.len().saturating_sub(self.inputs);
                self.training
                    .moments
                    .push(&numbers(&window.values[newest..]));
            }
        }
        if self.training.windows < self.method.train() {
            return Ok(());
        }
        self.fitted = self.fit();
        if self.fitted.is_none() {
            self.restart();
            return Err(ScoreError::NothingLearned);
        }
        Ok(())
    }

    fn fit(&self) -> Option<Fitted> {
        let moments = &self.training.moments;
        match self.method {
            Method::Pca {
                variance,
                confidence,
                ..
            } => {
                let pca = Pca::fit(moments, variance, confidence)?;
                Some(Fitted::Pca(Box::new(pca)))
            }
            _ => {
                let deviation = moments.deviations();
                deviation
                    .iter()
                    .any(|deviation| *deviation > 0.0)
                    .then(|| Fitted::Moments {
                        mean: moments.mean().to_vec(),
                        deviation,
                    })
            }
        }
    }

    /// Forgets what was learned.
    pub(crate) fn restart(&mut self) {
        self.training = Training::new(&self.method, self.inputs, self.rows);
        self.fitted = None;
    }

    /// What is kept over restarts.
    pub(crate) fn training(&self) -> Option<&Training> {
        (self.method.train() > 0).then_some(&self.training)
    }

    /// Goes on from what was kept, where that fits.
    pub(crate) fn restore(&mut self, kept: Training) -> bool {
        let needed = self.method.train();
        if needed == 0 || kept.windows > needed || !kept.moments.fits(&self.training.moments) {
            return false;
        }
        self.training = kept;
        if self.training.windows == needed {
            self.fitted = self.fit();
            if self.fitted.is_none() {
                self.restart();
                return false;
            }
        }
        true
    }

    /// Scores one window.
    pub(crate) fn score(&self, window: WindowView<'_>) -> Result<Scored, ScoreError> {
        let expected = self.rows * self.inputs;
        if window.values.len() != expected {
            return Err(ScoreError::WindowSize {
                expected,
                actual: window.values.len(),
            });
        }
        if let Some(index) = window.values.iter().position(|value| !value.is_finite()) {
            return Err(ScoreError::NotFinite { index });
        }
        let columns = (0..self.inputs).map(|input| {
            let column = window.values.iter().skip(input).step_by(self.inputs);
            column.map(|value| f64::from(*value)).collect::<Vec<_>>()
        });
        let parts: Vec<f64> = match (&self.method, &self.fitted) {
            (_, Some(Fitted::Pca(pca))) => return Ok(pca.score(window.values, self.inputs)),
            (Method::Ewma { lambda, sigmas, .. }, Some(Fitted::Moments { mean, deviation })) => {
                columns
                    .zip(mean.iter().zip(deviation))
                    .map(|(rows, (mean, deviation))| {
                        control::ewma(&rows, *mean, *deviation, *lambda) / sigmas
                    })
                    .collect()
            }
            (Method::Cusum { slack, sigmas, .. }, Some(Fitted::Moments { mean, deviation })) => {
                columns
                    .zip(mean.iter().zip(deviation))
                    .map(|(rows, (mean, deviation))| {
                        control::cusum(&rows, *mean, *deviation, *slack) / sigmas
                    })
                    .collect()
            }
            (Method::Stuck { change }, _) => columns
                .zip(change)
                .map(|(rows, change)| plain::stuck(&rows, *change))
                .collect(),
            (Method::Rate { limit }, _) => columns
                .zip(limit)
                .map(|(rows, limit)| plain::rate(&rows, window.times) / limit)
                .collect(),
            (Method::Range { limits }, _) => columns
                .zip(limits)
                .map(|(rows, (least, most))| plain::outside(&rows, *least, *most))
                .collect(),
            (Method::Missing { allowed }, _) => window
                .good
                .iter()
                .map(|good| (1.0 - good) / allowed)
                .collect(),
            (Method::Pca { .. } | Method::Ewma { .. } | Method::Cusum { .. }, _) => {
                return Err(ScoreError::NothingLearned);
            }
        };
        let score = parts.iter().copied().fold(0.0, f64::max);
        if !score.is_finite() {
            return Err(ScoreError::NotANumber { output: "score" });
        }
        Ok(Scored {
            score,
            contribution: Some(parts),
            values: Vec::new(),
        })
    }
}

impl Training {
    fn new(method: &Method, inputs: usize, rows: usize) -> Self {
        let moments = match method {
            Method::Pca { .. } => Moments::with_products(inputs * rows),
            _ => Moments::new(inputs),
        };
        Self {
            windows: 0,
            moments,
        }
    }
}
