//! Model bundles, windows, scores and events.
//!
//! A [`Bundle`] is one version of a model: `model.toml`, `model.onnx` and golden vectors. A [`Detector`]
//! is that model, built and proved; it is one kind of [`Scorer`]. A [`Monitor`] makes windows of samples, has them scored and decides
//! when an anomaly begins and ends. The way of a sample: [`Monitor::feed`] -> grid -> window ->
//! [`Scorer::score`] -> threshold -> decision -> [`Output`]. Detectors that need no file ([`Builtin`]) and thresholds
//! that are learned get what they need from the first windows; [`Monitor::learned`] keeps it over restarts.
//!
//! # Promises
//! - Nothing here has a clock, a thread, or does I/O but [`Bundle::load`]. Rows follow the gateway time of
//!   samples: what is replayed gets the same scores and events as when it was live.
//! - A window that is scored holds finite numbers only, and spans no gap. A window that cannot be scored
//!   says why.
//! - A model that does not run here is refused when it is built, by name and with the way out; a model
//!   whose numbers differ from those of its golden vectors is refused too.
//! - A bundle is what its maker signed: model.toml holds the digest of every other file, and the signature is compared
//!   before anything is parsed.
//! - A broken bundle, a panic of the engine and an endless gap are errors or outputs, never the end of the
//!   program.
//!
//! # Absent on purpose
//! Quantised models, which are refused by name. Time budgets belong to the caller, who has the threads.

mod builtin;
mod bundle;
mod column;
mod decision;
mod draft;
pub mod eval;
mod grid;
mod learned;
mod monitor;
mod onnx;
mod scorer;
mod threshold;
mod window;

pub use builtin::{Builtin, BuiltinSettings, Method, PCA_VALUES_MAX, Pca};
pub use bundle::{
    Bundle, BundleError, CONTEXT, Calibration as CalibrationRule, Column, DecisionRule,
    FILE_BYTES_MAX, Fill, Forecast, Golden, GoldenError, GoldenFile, GoldenWindow, Grid, Input,
    KeyError, Layout, MANIFEST_FILE, Manifest, ModelFile, ModelOutput, Normalisation, OutputNames,
    Problem, PublicKey, SIGNATURE_FILE, SignatureError, Signed, SigningKey, Source, Threshold,
    Trust, Window, sha256,
};
pub use draft::{Draft, METADATA, draft};
pub use learned::RestoreError;
pub use monitor::{Calibration, Gate, Monitor, NotScored, Output};
pub use onnx::{BuildError, Cause, Detector, OperatorError, RefusedOperator, ScoreError, Scored};
pub use scorer::{ModelSpec, ScoreFunction, Scorer, WindowView};
pub use threshold::Progress;
