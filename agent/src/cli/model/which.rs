//! Which bundle is meant: a path, or the name of a configured model.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use millrace_inference::Bundle;

use super::super::{Failure, Global};
use crate::config;
use crate::device::chain;
use crate::shelf::Shelf;

/// A bundle that was found and loaded.
pub(super) struct Found {
    /// Where it is.
    pub(super) path: PathBuf,
    /// Its manifest and its model.
    pub(super) bundle: Bundle,
    /// The tag that plays each role, where a configured model was named.
    pub(super) inputs: BTreeMap<String, String>,
}

/// Loads the bundle of this path or, where there is none, the one that runs for the configured model of this name.
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
        let method = detector.method.name();
        return Err(Failure::new(format!(
            "{name} is a detector of this program ({method}), which has no bundle"
        ))
        .hint("`millrace model calibrate` shows what it has learned"));
    }
    let active = Shelf::of(&config.gateway.data_dir, &model.name).active();
    let path = active.unwrap_or_else(|| model.bundle.clone());
    load(path, model.inputs.clone())
}

fn load(path: PathBuf, inputs: BTreeMap<String, String>) -> Result<Found, Failure> {
    let bundle = Bundle::load(&path).map_err(|error| Failure::usage(chain(&error)))?;
    Ok(Found {
        path,
        bundle,
        inputs,
    })
}
