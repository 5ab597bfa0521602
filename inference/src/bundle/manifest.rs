//! model.toml: what a bundle says about its model.

mod read;

use std::time::Duration;

/// One input of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Input {
    /// What the input is to the model; the configuration binds it to a tag.
    pub role: String,
    /// The unit that the model was trained with; empty where there is none.
    pub unit: String,
    /// How rows between samples are filled.
    pub fill: Fill,
    /// Smallest and largest plausible value; what lies outside is not a good input.
    pub range: Option<(f64, f64)>,
    /// Whether a window without this input is a gap. Of an input that is not required, the last good
    /// value is used, however old it is, and counts as not good.
    pub required: bool,
    /// How long a value of this input may stand in for newer ones, where that is not the window's `max_gap`: for inputs that
    /// come at another pace.
    pub max_gap: Option<Duration>,
}

/// One column of the window.
#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    /// The role of the input, or the name of what is made of inputs.
    pub role: String,
    /// What it holds. Inputs are told by their places.
    pub source: Source,
}

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Source {
    /// An input.
    Input(usize),
    /// One input less another.
    Difference {
        /// The input.
        from: usize,
        /// What is taken away.
        take: usize,
    },
    /// The mean of an input's values in the time up to the row.
    Mean {
        /// The input.
        input: usize,
        /// The time.
        over: Duration,
    },
    /// Their standard deviation.
    Deviation {
        /// The input.
        input: usize,
        /// The time.
        over: Duration,
    },
    /// The effective value of a band of their spectrum.
    Band {
        /// The input.
        input: usize,
        /// The time.
        over: Duration,
        /// Lower end.
        from_hz: f64,
        /// Upper end.
        to_hz: f64,
    },
}

/// How a row between two samples is filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fill {
    /// The last good value.
    Hold,
    /// On the straight line to the next good value; the row waits for that value, at most `max_gap`.
    Linear,
}

/// When a row is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grid {
    /// One row at the end of each poll cycle.
    Scan,
    /// One row at each multiple of this, in event time.
    Every(Duration),
}

/// How samples become windows.
#[derive(Debug, Clone, PartialEq)]
pub struct Window {
    /// Rows of a window. In a manifest: as many as the model sees.
    pub len: usize,
    /// Rows from one window to the next.
    pub stride: usize,
    /// When a row is taken.
    pub grid: Grid,
    /// How long a value may stand in for newer ones. Longer, and the window starts anew.
    pub max_gap: Duration,
    /// Share of good cells below which a window is not scored.
    pub min_good_share: f64,
    /// How long a row of a grid in time waits for samples that come late.
    pub lateness: Duration,
    /// Scaling before the model, where the model does not scale by itself.
    pub normalisation: Option<Normalisation>,
}

/// `(value - mean) / scale` for each input, clipped.
#[derive(Debug, Clone, PartialEq)]
pub struct Normalisation {
    /// Mean of each input.
    pub mean: Vec<f64>,
    /// Scale of each input, above zero.
    pub scale: Vec<f64>,
    /// Largest magnitude that is handed to the model.
    pub clip: Option<f64>,
}

/// The shape that the model takes its window in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// `[1, rows, inputs]`.
    Ntf,
    /// `[1, inputs, rows]`.
    Nft,
    /// `[1, rows * inputs]`, row after row.
    Nf,
}

/// The model file and how it is fed.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelFile {
    /// Name of the file in the bundle.
    pub file: String,
    /// SHA-256 of the file, hex.
    pub sha256: String,
    /// Operator set that the model was exported for, where the manifest says.
    pub opset: Option<usize>,
    /// Name of the graph's input, where the manifest says.
    pub input: Option<String>,
    /// The shape that the model takes its window in.
    pub layout: Layout,
}

/// Names of the graph's outputs.
#[derive(Debug, Clone, PartialEq)]
pub struct OutputNames {
    /// The score: one number, larger is less normal.
    pub score: String,
    /// One number for each input: its part in the score.
    pub contribution: Option<String>,
}

/// A model that predicts columns: the score is how far the measured values are from what it predicted.
#[derive(Debug, Clone, PartialEq)]
pub struct Forecast {
    /// Name of the graph's output.
    pub output: String,
    /// The columns that are predicted, by their places.
    pub columns: Vec<usize>,
    /// How many rows after the newest one that the model sees.
    pub horizon: usize,
    /// For each of the columns, the residual that makes a score of 1.
    pub sigma: Vec<f64>,
}

/// What the model gives.
#[derive(Debug, Clone, PartialEq)]
pub enum ModelOutput {
    /// Scores.
    Score(OutputNames),
    /// Values that are still to be measured.
    Forecast(Forecast),
}

impl ModelOutput {
    /// Name of the graph's output that everything else is made of.
    pub fn name(&self) -> &str {
        match self {
            ModelOutput::Score(names) => &names.score,
            ModelOutput::Forecast(forecast) => &forecast.output,
        }
    }

    /// What is predicted, where the model predicts.
    pub fn forecast(&self) -> Option<&Forecast> {
        match self {
            ModelOutput::Score(_) => None,
            ModelOutput::Forecast(forecast) => Some(forecast),
        }
    }
}

/// How the score that begins an event is found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Threshold {
    /// It is given.
    Fixed(f64),
    /// From a quantile of the first windows.
    Quantile(Calibration),
    /// From the tail of the first windows, peaks over threshold.
    Pot(Calibration),
}

/// How a threshold is learned from the first windows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Calibration {
    /// The share of clean windows whose scores are to be below the threshold, before `factor`.
    pub q: f64,
    /// What the quantile is multiplied by.
    pub factor: f64,
    /// Windows that are scored before there is a threshold.
    pub windows: usize,
}

impl Calibration {
    /// What `method = "quantile"` means without further keys: what did well on recorded plant data.
    pub const QUANTILE: Self = Self {
        q: 0.999,
        factor: 4.0 / 3.0,
        windows: 1_000,
    };

    /// What `method = "pot"` means without further keys. The fit reaches beyond what was seen by itself, and needs more windows.
    pub const POT: Self = Self {
        q: 0.999_9,
        factor: 1.0,
        windows: 2_000,
    };
}

/// When scores become events.
#[derive(Debug, Clone, PartialEq)]
pub struct DecisionRule {
    /// The decision looks at the median of this many scores.
    pub smoothing: usize,
    /// Windows above the threshold that begin an event...
    pub on: usize,
    /// ...among this many.
    pub on_of: usize,
    /// Windows in a row below `off_ratio` times the threshold that end an event.
    pub off: usize,
    /// See `off`.
    pub off_ratio: f64,
    /// Time after an event in which no other begins.
    pub cooldown: Duration,
    /// Ratios of score to threshold, rising: an event's severity is how many of them its peak has reached. Empty: it has none.
    pub severity: Vec<f64>,
}

/// Windows with known scores, to prove that the model runs here as it did where it was trained.
#[derive(Debug, Clone, PartialEq)]
pub struct GoldenFile {
    /// Name of the file in the bundle.
    pub file: String,
    /// SHA-256 of the file, hex.
    pub sha256: String,
    /// Relative tolerance.
    pub rtol: f64,
    /// Absolute tolerance.
    pub atol: f64,
}

/// A checked model.toml.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// Name of the model.
    pub name: String,
    /// Version of the bundle.
    pub version: String,
    /// When it was made, as written.
    pub created: Option<String>,
    /// The model file.
    pub model: ModelFile,
    /// The inputs: what the configuration binds to tags.
    pub inputs: Vec<Input>,
    /// The columns of the window, in order.
    pub columns: Vec<Column>,
    /// How samples become windows.
    pub window: Window,
    /// What the model gives.
    pub output: ModelOutput,
    /// The score that begins an event.
    pub threshold: Threshold,
    /// When scores become events.
    pub decision: DecisionRule,
    /// Golden vectors, where the bundle has them.
    pub golden: Option<GoldenFile>,
}

impl Manifest {
    /// Rows of a window that is scored: those that the model sees and, of a forecast, those up to the one that it
    /// predicts.
    pub fn window_rows(&self) -> usize {
        let horizon = self.output.forecast().map_or(0, |it| it.horizon);
        self.window.len + horizon
    }
}
