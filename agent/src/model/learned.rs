//! What a version has learned, kept over restarts: one small file for each model, asset and setting.
//!
//! The format is that of `millrace-inference` (a line `millrace-learned 1`, then JSON). The file is written at each step of the
//! calibration, at most every [`SAVE_INTERVAL`] in between, and when the version ends. A power cut costs the windows since; a file
//! that is damaged costs the calibration, which begins anew; one of another version of the program is left alone.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use millrace_inference::{Calibration, ModelSpec, Monitor, RestoreError};

use crate::device::chain;
use crate::durable;

/// How many windows a power cut may cost, in time. Long enough to spare flash.
const SAVE_INTERVAL: Duration = Duration::from_secs(60);

/// Files that are kept of one model: of versions that may come back.
const FILES_MAX: usize = 8;

/// Keeps what one version learns.
pub(crate) struct Keeper {
    /// `None` where the file must be left alone.
    path: Option<PathBuf>,
    kept: u64,
    phase: Option<std::mem::Discriminant<Calibration>>,
    saved: Instant,
    has_failed: bool,
}

impl Keeper {
    /// Has the monitor go on from what was kept of it. `None` where it has nothing to learn.
    pub(crate) fn open(
        data_dir: &Path,
        spec: &ModelSpec,
        model: &str,
        monitor: &mut Monitor,
    ) -> Option<Self> {
        if !monitor.learns() {
            return None;
        }
        let directory = data_dir.join("calibration").join(model.replace('/', "%2F"));
        let path = directory.join(spec.fingerprint());
        let mut keeper = Self {
            path: Some(path.clone()),
            kept: monitor.learned_total(),
            phase: None,
            saved: Instant::now(),
            has_failed: false,
        };
        let kept = match std::fs::read(&path) {
            Ok(kept) => monitor
                .restore(&kept)
                .map_err(|error| (chain(&error), error)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                forget_oldest(&directory);
                Ok(())
            }
            Err(error) => {
                let path = path.display();
                tracing::error!(model, path = %path, error = %error, "what the model has learned cannot be read; it learns anew");
                Ok(())
            }
        };
        if let Err((text, error)) = kept {
            let path = path.display();
            tracing::error!(model, path = %path, error = text, "what the model has learned cannot be used; it learns anew");
            if matches!(error, RestoreError::Version { .. }) {
                keeper.path = None;
            }
        }
        keeper.phase = Some(std::mem::discriminant(&monitor.calibration()));
        Some(keeper)
    }

    /// Writes the file where it is time to.
    pub(super) fn look(&mut self, monitor: &Monitor) {
        let phase = Some(std::mem::discriminant(&monitor.calibration()));
        if self.kept != monitor.learned_total()
            && (phase != self.phase || self.saved.elapsed() >= SAVE_INTERVAL)
        {
            self.phase = phase;
            self.save(monitor);
        }
    }

    /// Writes the file where something was learned since.
    pub(super) fn save(&mut self, monitor: &Monitor) {
        let (Some(path), true) = (&self.path, self.kept != monitor.learned_total()) else {
            return;
        };
        let Some(learned) = monitor.learned() else {
            return;
        };
        let saved = durable::write(path, &learned, 0o640);
        self.saved = Instant::now();
        self.kept = monitor.learned_total();
        if let Err(error) = &saved
            && !self.has_failed
        {
            tracing::error!(path = %path.display(), error = %error, "what a model learns is not kept; after a restart it learns anew");
        }
        self.has_failed = saved.is_err();
    }
}

/// Makes room for one more file.
fn forget_oldest(directory: &Path) {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return;
    };
    let written =
        |entry: std::fs::DirEntry| Some((entry.metadata().ok()?.modified().ok()?, entry.path()));
    let mut files: Vec<_> = entries.flatten().filter_map(written).collect();
    files.sort();
    let most = files.len().saturating_sub(FILES_MAX - 1);
    for (_, path) in files.into_iter().take(most) {
        // What stays is only room.
        let _ = std::fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use millrace_inference::{
        Builtin, BuiltinSettings, DecisionRule, Fill, Grid, Input, Method, Threshold, Window,
    };
    use millrace_tags::{Moment, Sample, TagId, Value};

    use super::*;

    fn settings() -> BuiltinSettings {
        BuiltinSettings {
            name: "watch".to_owned(),
            method: Method::Ewma {
                lambda: 0.2,
                sigmas: 3.0,
                train: 20,
            },
            inputs: vec![Input {
                role: "p".to_owned(),
                unit: String::new(),
                fill: Fill::Hold,
                range: None,
                required: true,
                max_gap: None,
            }],
            window: Window {
                len: 1,
                stride: 1,
                grid: Grid::Scan,
                max_gap: Duration::from_secs(10),
                min_good_share: 0.9,
                lateness: Duration::ZERO,
                normalisation: None,
            },
            threshold: Threshold::Fixed(1.0),
            decision: DecisionRule {
                smoothing: 1,
                on: 1,
                on_of: 1,
                off: 1,
                off_ratio: 0.9,
                cooldown: Duration::ZERO,
                severity: Vec::new(),
            },
        }
    }

    fn open(data_dir: &Path, asset: &str) -> (Monitor, Keeper) {
        let settings = settings();
        let mut spec = settings.spec();
        asset.clone_into(&mut spec.asset);
        let mut monitor = Monitor::of(&spec, Builtin::new(&settings));
        let keeper = Keeper::open(data_dir, &spec, "hall/watch", &mut monitor).unwrap();
        (monitor, keeper)
    }

    fn scan(monitor: &mut Monitor, second: i64) {
        let at = Moment(second * 1_000_000_000);
        monitor.feed(
            0,
            &Sample::good(TagId(1), Value::F64((second % 5) as f64), at),
        );
        monitor.end_scan(at);
    }

    #[test]
    fn what_was_learned_is_there_after_a_restart_for_this_asset_only() {
        let dir = tempfile::tempdir().unwrap();
        let (mut monitor, mut keeper) = open(dir.path(), "p = a/b");
        (0..12).for_each(|second| scan(&mut monitor, second));
        keeper.look(&monitor);
        assert!(
            !dir.path().join("calibration").exists(),
            "it is not time yet"
        );
        keeper.save(&monitor);
        let (mut again, mut keeper) = open(dir.path(), "p = a/b");
        assert_eq!(again.calibration(), monitor.calibration());
        assert_ne!(
            open(dir.path(), "p = a/c").0.calibration(),
            monitor.calibration()
        );
        // The end of the training is a step.
        (12..20).for_each(|second| scan(&mut again, second));
        keeper.look(&again);
        let done = open(dir.path(), "p = a/b").0.calibration();
        assert!(matches!(done, Calibration::Done { .. }), "{done:?}");
    }

    #[test]
    fn damage_begins_anew_and_another_version_is_left_alone() {
        for (text, left) in [("garbage", false), ("millrace-learned 2\n{}", true)] {
            let dir = tempfile::tempdir().unwrap();
            let (mut monitor, mut keeper) = open(dir.path(), "");
            scan(&mut monitor, 0);
            keeper.save(&monitor);
            let directory = dir.path().join("calibration/hall%2Fwatch");
            let path = std::fs::read_dir(directory)
                .unwrap()
                .next()
                .unwrap()
                .unwrap()
                .path();
            std::fs::write(&path, text).unwrap();
            let (mut monitor, mut keeper) = open(dir.path(), "");
            scan(&mut monitor, 0);
            keeper.save(&monitor);
            let after = std::fs::read_to_string(&path).unwrap();
            assert_eq!(after == text, left, "{after}");
        }
    }

    #[test]
    fn files_of_old_versions_go() {
        let dir = tempfile::tempdir().unwrap();
        for asset in 0..20 {
            let (mut monitor, mut keeper) = open(dir.path(), &asset.to_string());
            scan(&mut monitor, 0);
            keeper.save(&monitor);
        }
        let directory = dir.path().join("calibration/hall%2Fwatch");
        assert_eq!(std::fs::read_dir(directory).unwrap().count(), FILES_MAX);
    }
}
