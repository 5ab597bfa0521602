//! Which model is meant: the path of a bundle, the name of a configured model, or a detector of this program.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use millrace_inference::{Builtin, BuiltinSettings, Bundle, Detector, ModelSpec, Scorer};

use super::super::{Failure, Global};
use crate::config;
use crate::device::chain;
use crate::shelf::Shelf;

/// A model that was found.
pub(super) struct Found {
    pub(super) what: What,
    /// The tag that plays each role, where a configured model was named.
    pub(super) inputs: BTreeMap<String, String>,
}

/// What scores.
pub(super) enum What {
    /// A bundle that was loaded, and where it is.
    Bundle(PathBuf, Box<Bundle>),
    /// A detector that needs none.
    Detector(Box<BuiltinSettings>),
}

impl Found {
    /// A detector with these settings.
    pub(super) fn detector(settings: BuiltinSettings) -> Self {
        Self {
            what: What::Detector(Box::new(settings)),
            inputs: BTreeMap::new(),
        }
    }

    /// What a monitor needs to know of it.
    pub(super) fn spec(&self) -> ModelSpec {
        match &self.what {
            What::Bundle(_, bundle) => ModelSpec::from(&**bundle),
            What::Detector(settings) => settings.spec(),
        }
    }

    /// What scores windows; a detector has learned nothing yet.
    ///
    /// # Errors
    /// Where the model does not run here.
    pub(super) fn scorer(&self) -> Result<Scorer, Failure> {
        Ok(match &self.what {
            What::Bundle(_, bundle) => Detector::build(bundle)
                .map_err(|error| Failure::new(chain(&error)))?
                .into(),
            What::Detector(settings) => Builtin::new(settings).into(),
        })
    }

    /// The bundle and where it is.
    ///
    /// # Errors
    /// Where it is a detector that has none.
    pub(super) fn bundle(&self) -> Result<(&Path, &Bundle), Failure> {
        match &self.what {
            What::Bundle(path, bundle) => Ok((path, bundle)),
            What::Detector(settings) => {
                let (name, method) = (&settings.name, settings.method.name());
                Err(Failure::new(format!(
                    "{name} is a detector of this program ({method}), which has no bundle"
                ))
                .hint("`millrace model eval` scores data with it; `millrace model calibrate` shows what it has learned"))
            }
        }
    }

    /// Where it comes from, for people.
    pub(super) fn place(&self) -> String {
        match &self.what {
            What::Bundle(path, _) => path.display().to_string(),
            What::Detector(_) => "detector of this program".to_owned(),
        }
    }
}

/// Loads the bundle of this path or, where there is none, what runs for the configured model of this name.
pub(super) fn find(name: &str, global: &Global) -> Result<Found, Failure> {
    let path = Path::new(name);
    if path.exists() {
        return load(path.to_owned(), BTreeMap::new());
    }
    let loaded = config::load(global.config.as_deref(), global.data_dir.as_deref());
    let Ok(loaded) = loaded else {
        return Err(Failure::usage(format!(
            "there is no bundle {name}, nor a configuration that could name a model so"
        ))
        .hint("give a bundle's directory or tar file; `millrace check` says what the configuration lacks"));
    };
    let config = loaded.config;
    let Some(model) = config.models.iter().find(|model| model.name == name) else {
        let names: Vec<&str> = config.models.iter().map(|m| m.name.as_str()).collect();
        let known = match names.is_empty() {
            true => "the configuration has no model".to_owned(),
            false => format!("configured models are {}", names.join(", ")),
        };
        return Err(
            Failure::usage(format!("{name} is neither a bundle nor a configured model"))
                .hint(known),
        );
    };
    if let Some(detector) = &model.detector {
        return Ok(Found {
            inputs: model.inputs.clone(),
            ..Found::detector(detector.clone())
        });
    }
    let active = Shelf::of(&config.gateway.data_dir, &model.name).active();
    let path = active.unwrap_or_else(|| model.bundle.clone());
    load(path, model.inputs.clone())
}

fn load(path: PathBuf, inputs: BTreeMap<String, String>) -> Result<Found, Failure> {
    let bundle = Bundle::load(&path).map_err(|error| Failure::usage(chain(&error)))?;
    let what = What::Bundle(path, Box::new(bundle));
    Ok(Found { what, inputs })
}
