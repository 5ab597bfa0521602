//! What is on the shelves, as `millrace model list` shows it.

use millrace_inference::{Bundle, Trust};
use serde::{Deserialize, Serialize};

use super::{Shelf, State, Version};
use crate::config::Config;
use crate::device::chain;
use crate::report::ShadowStatus;

/// One version on the shelf of a model.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct VersionRow {
    /// The configured model.
    pub(crate) model: String,
    /// What it is like.
    #[serde(flatten)]
    pub(crate) version: Version,
    /// `active`, `shadow`, `previous` or `installed`.
    pub(crate) state: String,
    /// What it and the version that runs say of the same windows, where it scores beside that one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) comparison: Option<ShadowStatus>,
    /// Why it could not run: its file is damaged, or its key revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) problem: Option<String>,
}

/// The versions of every configured model; reads their files.
///
/// # Errors
/// Where a shelf cannot be read.
pub(crate) fn versions(config: &Config) -> Result<Vec<VersionRow>, String> {
    let revoked = config.local.models.trust(false)?.revoked;
    let trust = Trust {
        revoked,
        ..Trust::default()
    };
    let mut rows = Vec::new();
    for model in config.models.iter().filter(|it| it.detector.is_none()) {
        let shelf = Shelf::of(&config.gateway.data_dir, &model.name);
        let state = shelf.state()?;
        for version in &state.versions {
            let loaded = Bundle::load_trusted(&shelf.file(&version.digest), &trust);
            let problem = match loaded {
                Ok(bundle) if bundle.digest() == version.digest => None,
                Ok(_) => Some("its model.toml is not the one that was installed".to_owned()),
                Err(error) => Some(chain(&error)),
            };
            rows.push(VersionRow {
                model: model.name.clone(),
                state: part(&state, version).to_owned(),
                version: version.clone(),
                comparison: None,
                problem,
            });
        }
    }
    Ok(rows)
}

/// The part that a version plays.
fn part(state: &State, version: &Version) -> &'static str {
    let digest = Some(&version.digest);
    match () {
        () if state.active.as_ref() == digest => "active",
        () if state.shadow.as_ref() == digest => "shadow",
        () if state.before.last() == digest => "previous",
        () => "installed",
    }
}
