//! Which version of a model runs: what the shelf says, what is built of it, and what becomes of it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use millrace_inference::{Builtin, Bundle, Detector, ModelSpec, Trust};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::apply::Outcome;
use crate::config::{self, Config};
use crate::device::chain;
use crate::gateway::Gateway;
use crate::model::{Built, Model, Swapped, TakeVerdict, Verdict, VersionId};
use crate::shelf::{Shelf, State, Step};

/// Real models are built in some 0.3 s.
const MODEL_BUILD_MAX: Duration = Duration::from_secs(20);

/// The program may be started so often within a trial; then it may be the version that ends it.
const TRIAL_STARTS_MAX: u32 = 3;

/// Has all models begin, while everything else runs already. What must be examined first comes last: that may take minutes.
pub(super) async fn begin_all(gateway: &Gateway, shutdown: &CancellationToken) {
    let config = &gateway.config;
    let all: Vec<_> = config.models.iter().zip(&gateway.models).collect();
    let (asked, data_dir) = (config.models.clone(), config.gateway.data_dir.clone());
    let is_new = move |model: &config::Model| {
        model.detector.is_none() && Shelf::of(&data_dir, &model.name).lacks(model)
    };
    let new = tokio::task::spawn_blocking(move || asked.iter().map(is_new).collect::<Vec<_>>());
    let new = new.await.unwrap_or_else(|_| vec![true; all.len()]);
    for turn in [false, true] {
        for ((settings, model), is_new) in all.iter().zip(&new) {
            if *is_new == turn && !shutdown.is_cancelled() {
                // Whoever promotes another version waits.
                let _changing = model.changing.lock().await;
                begin(settings, model, config).await;
            }
        }
    }
}

/// Has the version score that the shelf says. A bundle that cannot be used leaves a model that says why.
async fn begin(settings: &config::Model, model: &Model, config: &Config) {
    let data_dir = &config.gateway.data_dir;
    if let Some(detector) = &settings.detector {
        let mut spec = detector.spec();
        spec.asset = asset(settings);
        let built = Built::new(&spec, Builtin::new(detector), None);
        model.begin(built.keep(data_dir, &spec, &settings.name), false);
        return;
    }
    let (built, shelf_error) = build_settled(settings, config).await;
    model.update(|status| status.shelf_error = shelf_error);
    let built = match built {
        Ok(built) => built,
        Err(error) => {
            tracing::error!(model = %settings.name, error, "the model cannot be used");
            return model.fail(error);
        }
    };
    let shelf = Shelf::of(&config.gateway.data_dir, &settings.name);
    match previous_on_trial(&shelf, built.id().clone(), (settings, config)).await {
        None => model.begin(built, false),
        Some((previous, starts)) if starts > TRIAL_STARTS_MAX => {
            let (failed, goes_on) = (built.id().clone(), previous.id().clone());
            model.begin(previous, false);
            let reason = format!("the agent was started {starts} times within its trial");
            model.take_back(failed, goes_on, reason);
        }
        Some((previous, _)) => {
            model.begin(previous, false);
            model.begin(built, true);
        }
    }
    if let Some(shadow) = shelf.state().ok().and_then(|state| state.shadow) {
        match build_installed(&shelf, shadow, (settings, config)).await {
            Ok(shadow) => model.shadow(shadow),
            Err(error) => {
                tracing::error!(model = %settings.name, error, "the shadow cannot be used");
            }
        }
    }
}

/// The version to go back to, and how often the program was started, where this one is on trial still.
async fn previous_on_trial(
    shelf: &Shelf,
    id: VersionId,
    of: (&config::Model, &Config),
) -> Option<(Built, u32)> {
    let found = shelf.start_in_trial().unwrap_or_else(|error| {
        tracing::error!(error, "the trial of a model is not known any more");
        None
    });
    let (previous, starts) = found?;
    if id.shelf.as_deref() == Some(previous.as_str()) {
        return None;
    }
    let previous = build_installed(shelf, previous, of).await;
    Some((previous.ok()?, starts))
}

/// Has a version score from the next window on, here and after a restart. Where it does not, the one before goes on.
pub(super) async fn promote(gateway: &Gateway, name: &str, step: &Step) -> Outcome {
    let found = gateway.model(name).map_err(|error| error.to_string());
    let (settings, model) = found?;
    if let Some(detector) = &settings.detector {
        return Err(format!(
            "{name} is a detector of this program ({}), which has no versions; change its keys in the configuration",
            detector.method.name()
        ));
    }
    let _changing = model.changing.lock().await;
    let config = &gateway.config;
    let shelf = Shelf::of(&config.gateway.data_dir, name);
    let before = shelf.step(step)?;
    if matches!(step, Step::Beside { .. } | Step::Alone) {
        return beside(&shelf, before, (settings, model), config).await;
    }
    let swapped = match build_active(&shelf, settings, config).await {
        Ok(built) => {
            let id = built.id().clone();
            let on_trial = *step != Step::Back;
            let swapped = model.swap(built, on_trial).await;
            swapped.map(|swapped| (id, swapped))
        }
        Err(error) => Err(error),
    };
    match swapped {
        Ok((id, swapped)) => {
            let state = match swapped {
                Swapped::Scores => "scores",
                Swapped::Filling => "fills its first window",
            };
            model.update(|status| status.shelf_error = None);
            Ok(json!({"name": name, "version": id.version, "sha256": id.sha256, "state": state}))
        }
        Err(error) => {
            if let Err(error) = shelf.restore(before) {
                tracing::error!(model = name, error, "the shelf cannot be written");
            }
            Err(format!("taken back: {error}"))
        }
    }
}

/// Has the version score beside that the shelf says, or none.
async fn beside(
    shelf: &Shelf,
    before: State,
    (settings, model): (&config::Model, &Model),
    config: &Config,
) -> Outcome {
    let name = settings.name.as_str();
    let Some(digest) = shelf.state()?.shadow else {
        let stopped = model.stop_shadow().await;
        return Ok(
            json!({"name": name, "version": stopped.map(|id| id.version), "state": "stopped"}),
        );
    };
    match build_installed(shelf, digest, (settings, config)).await {
        Ok(built) => {
            let id = built.id().clone();
            model.shadow(built);
            let (version, sha256) = (id.version, id.sha256);
            Ok(json!({"name": name, "version": version, "sha256": sha256, "state": "shadow"}))
        }
        Err(error) => {
            if let Err(error) = shelf.restore(before) {
                tracing::error!(model = name, error, "the shelf cannot be written");
            }
            Err(error)
        }
    }
}

/// Keeps on the shelves what trials bring.
pub(super) fn keeper(config: &Config, models: &[Arc<Model>]) -> TakeVerdict {
    let data_dir = config.gateway.data_dir.clone();
    let settings = config.models.clone();
    let models = models.to_vec();
    Box::new(move |name, verdict| {
        let Some(at) = settings.iter().position(|it| it.name == name) else {
            return;
        };
        let model = models[at].clone();
        let shelf = Shelf::of(&data_dir, name);
        tokio::spawn(async move {
            // Whoever promoted it may still be about it.
            let _changing = model.changing.lock().await;
            let kept = tokio::task::spawn_blocking(move || match verdict {
                Verdict::TakenBack {
                    failed, goes_on, ..
                } => {
                    let goes_on = goes_on.and_then(|id| id.shelf);
                    shelf.take_back(failed.shelf.as_deref(), goes_on.as_deref())
                }
                Verdict::Proved(id) => shelf.end_trial(id.shelf.as_deref()),
            });
            let kept = kept.await.map_err(|error| error.to_string()).flatten();
            if let Err(error) = kept {
                tracing::error!(
                    error,
                    "the shelf cannot be written: after a restart the version that was taken back is tried again"
                );
            }
        });
    })
}

/// What tells the machine that the model looks at from others: what was learned of another one is not used.
fn asset(settings: &config::Model) -> String {
    let bound = settings.inputs.iter();
    let lines: Vec<String> = bound.map(|(role, tag)| format!("{role} = {tag}")).collect();
    lines.join("\n")
}

/// Builds what a model begins with: what the shelf says, or the version before where that cannot be used; and what is not as it
/// should be.
async fn build_settled(
    settings: &config::Model,
    config: &Config,
) -> (Result<Built, String>, Option<String>) {
    let shelf = Shelf::of(&config.gateway.data_dir, &settings.name);
    let (model, policy) = (settings.clone(), config.local.models.clone());
    let settled = tokio::task::spawn_blocking(move || shelf.settle(&model, &policy)).await;
    let settled = settled.unwrap_or_default();
    let mut trouble = settled.trouble;
    let mut built = Err("there is no version of it that can be used".to_owned());
    for (path, digest) in settled.candidates {
        match build(path, digest, settled.trust.clone(), (settings, config)).await {
            Ok(good) => {
                built = Ok(good);
                break;
            }
            Err(error) => trouble.push(error),
        }
    }
    for error in &trouble {
        tracing::error!(model = %settings.name, error, "the model's shelf");
    }
    let trouble = (!trouble.is_empty()).then(|| trouble.join("; "));
    match built {
        Ok(built) => (Ok(built), trouble),
        Err(error) => (Err(trouble.unwrap_or(error)), None),
    }
}

/// Builds the version that is to run.
async fn build_active(
    shelf: &Shelf,
    settings: &config::Model,
    config: &Config,
) -> Result<Built, String> {
    let active = shelf.state()?.active;
    let active = active.ok_or("no version is promoted")?;
    build_installed(shelf, active, (settings, config)).await
}

/// Builds a version that is on the shelf.
async fn build_installed(
    shelf: &Shelf,
    digest: String,
    (settings, config): (&config::Model, &Config),
) -> Result<Built, String> {
    let trust = config.local.models.trust(false)?;
    let trust = Trust {
        revoked: trust.revoked,
        ..Trust::default()
    };
    build(shelf.file(&digest), Some(digest), trust, (settings, config)).await
}

/// Loads a bundle and builds its detector on a thread of its own, which is left behind where it does not
/// come to an end.
async fn build(
    bundle: PathBuf,
    shelf: Option<String>,
    trust: Trust,
    (settings, config): (&config::Model, &Config),
) -> Result<Built, String> {
    let (asset, name) = (asset(settings), settings.name.clone());
    let data_dir = config.gateway.data_dir.clone();
    let built = tokio::task::spawn_blocking(move || {
        let bundle = Bundle::load_trusted(&bundle, &trust).map_err(|error| chain(&error))?;
        let detector = Detector::build(&bundle).map_err(|error| chain(&error))?;
        let spec = ModelSpec {
            asset,
            ..ModelSpec::from(&bundle)
        };
        Ok(Built::new(&spec, detector, shelf).keep(&data_dir, &spec, &name))
    });
    match tokio::time::timeout(MODEL_BUILD_MAX, built).await {
        Ok(built) => built.unwrap_or_else(|error| Err(error.to_string())),
        Err(_) => Err(format!(
            "the model was not built within {} s; it is too large for this gateway, or damaged",
            MODEL_BUILD_MAX.as_secs()
        )),
    }
}
