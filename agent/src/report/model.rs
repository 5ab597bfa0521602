//! A model, as the local API and `status` show it.

use millrace_inference::{Calibration, Progress};
use serde::{Deserialize, Serialize};

/// One model.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct ModelStatus {
    /// Its name.
    pub(crate) name: String,
    /// Version of the bundle.
    pub(crate) version: Option<String>,
    /// SHA-256 of the model file.
    pub(crate) sha256: Option<String>,
    /// `running`, `warming-up`, `starved` or `failed`.
    pub(crate) state: String,
    /// Why it does not score.
    pub(crate) error: Option<String>,
    /// Why the version that was promoted does not run; the configured bundle does instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) shelf_error: Option<String>,
    /// The newest score.
    pub(crate) score: Option<f64>,
    /// The newest score over the threshold.
    pub(crate) ratio: Option<f64>,
    /// Whether an anomaly lasts.
    pub(crate) anomaly: bool,
    /// Windows scored.
    pub(crate) windows_total: u64,
    /// Windows that were not scored for want of processor time.
    #[serde(default)]
    pub(crate) windows_shed_total: u64,
    /// Samples shed because scoring could not keep up.
    pub(crate) samples_shed_total: u64,
    /// Processor time of a window, in the mean.
    #[serde(default)]
    pub(crate) window_ms: Option<f64>,
    /// Why it runs at normal priority, where the system does not permit a low one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) at_normal_priority: Option<String>,
    /// What it has to learn on this gateway; absent where there is nothing to learn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) calibration: Option<CalibrationStatus>,
    /// The version was promoted, and is on trial.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) trial: Option<TrialStatus>,
    /// A version that was promoted and fills its first window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) next: Option<NextStatus>,
    /// The version that scores beside this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) shadow: Option<ShadowStatus>,
    /// The version that was promoted last and taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) taken_back: Option<TakenBackStatus>,
}

/// How far a model is that learns what is normal, or its threshold.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct CalibrationStatus {
    /// `training` (no scores yet), `calibrating` (scores, and no events yet) or `done`.
    pub(crate) state: String,
    /// Windows so far; absent once it is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) windows: Option<usize>,
    /// Windows that this step needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) needed: Option<usize>,
    /// The score that begins an event, once it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) threshold: Option<f64>,
}

impl From<Calibration> for CalibrationStatus {
    fn from(calibration: Calibration) -> Self {
        let on_the_way = |state: &str, progress: Progress| Self {
            state: state.to_owned(),
            windows: Some(progress.windows),
            needed: Some(progress.needed),
            threshold: None,
        };
        match calibration {
            Calibration::Training(progress) => on_the_way("training", progress),
            Calibration::Calibrating(progress) => on_the_way("calibrating", progress),
            Calibration::Done { threshold } => Self {
                state: "done".to_owned(),
                threshold: Some(threshold),
                ..Self::default()
            },
        }
    }
}

/// The trial of a promoted version.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct TrialStatus {
    /// Seconds that it goes on.
    pub(crate) left_s: u64,
    /// The version that goes on where it fails.
    pub(crate) previous: Option<String>,
}

/// A version that is to take over.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct NextStatus {
    /// Version of its bundle.
    pub(crate) version: String,
    /// SHA-256 of its model file.
    pub(crate) sha256: String,
}

/// A version that did not pass its trial.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct TakenBackStatus {
    /// Version of its bundle.
    pub(crate) version: String,
    /// SHA-256 of its model file.
    pub(crate) sha256: String,
    /// Why.
    pub(crate) reason: String,
    /// When, in Unix ms; `None` while the clock is not set.
    pub(crate) t: Option<f64>,
}

/// A version that scores beside the one that counts, and what both say of the same windows since it began.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct ShadowStatus {
    /// Version of its bundle.
    pub(crate) version: String,
    /// SHA-256 of its model file.
    pub(crate) sha256: String,
    /// Why it does not score.
    pub(crate) error: Option<String>,
    /// Its newest score.
    pub(crate) score: Option<f64>,
    /// Its newest score over its threshold.
    pub(crate) ratio: Option<f64>,
    /// Windows that it scored.
    pub(crate) windows_total: u64,
    /// Windows that both scored.
    pub(crate) windows_compared: u64,
    /// The mean difference of their scores.
    pub(crate) score_difference_mean: Option<f64>,
    /// The largest.
    pub(crate) score_difference_max: Option<f64>,
    /// The mean difference of score over threshold.
    pub(crate) ratio_difference_mean: Option<f64>,
    /// The largest.
    pub(crate) ratio_difference_max: Option<f64>,
    /// Windows where only the version that counts is over its threshold.
    pub(crate) alarms_only_live: u64,
    /// Windows where only the shadow is.
    pub(crate) alarms_only_shadow: u64,
    /// Events that began.
    pub(crate) events_live: u64,
    /// Events that would have begun.
    pub(crate) events_shadow: u64,
    /// Windows that failed.
    pub(crate) failures_total: u64,
    /// Windows that were not scored for want of processor time.
    pub(crate) windows_shed_total: u64,
}
