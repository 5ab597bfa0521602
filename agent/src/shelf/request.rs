//! What people and cores ask of the shelves of a running gateway.

use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use super::{Shelf, ShelfError, Step, Terms, Version};
use crate::config;
use crate::gateway::{Gateway, NotFound};

/// Query of `POST /v1/models/install`; its body is the tar.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct InstallQuery {
    /// The configured model; may be missing where there is one only.
    pub(crate) model: Option<String>,
    /// Also a version below the one that runs.
    #[serde(default)]
    pub(crate) allow_downgrade: bool,
    /// It is to run at once.
    #[serde(default)]
    pub(crate) promote: bool,
}

/// What is to be done with a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ModelAction {
    /// It is to run.
    Promote,
    /// What ran before is to run.
    Rollback,
    /// It is to score beside the one that runs; where none is named, none is.
    Shadow,
    /// It is not needed any more.
    Remove,
}

/// `POST /v1/models`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ModelRequest {
    /// The configured model; may be missing where there is one only.
    #[serde(default)]
    pub(crate) model: Option<String>,
    /// What.
    pub(crate) action: ModelAction,
    /// Which, by number or digest.
    #[serde(default)]
    pub(crate) version: Option<String>,
    /// Also a version below the one that runs.
    #[serde(default)]
    pub(crate) allow_downgrade: bool,
}

/// What was put on the shelf.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Installed {
    /// The configured model.
    pub(crate) name: String,
    /// What it is like.
    #[serde(flatten)]
    pub(crate) version: Version,
    /// Whether it runs.
    pub(crate) promoted: bool,
}

impl ModelRequest {
    /// Which version is to run.
    ///
    /// # Errors
    /// Where none is named.
    pub(crate) fn step(&self) -> Result<Step, String> {
        match (self.action, &self.version) {
            (ModelAction::Rollback, _) => Ok(Step::Back),
            (ModelAction::Shadow, Some(version)) => Ok(Step::Beside {
                version: version.clone(),
            }),
            (ModelAction::Shadow, None) => Ok(Step::Alone),
            (_, Some(version)) => Ok(Step::To {
                version: version.clone(),
                older: self.allow_downgrade,
            }),
            (_, None) => Err("`version` is missing".to_owned()),
        }
    }
}

impl Gateway {
    /// The configured model of this name, or the only one.
    ///
    /// # Errors
    /// Names those that there are.
    pub(crate) fn configured_model(&self, name: Option<&str>) -> Result<config::Model, NotFound> {
        let models = &self.config.models;
        match (name, models.as_slice()) {
            (Some(name), _) => Ok(self.model(name)?.0.clone()),
            (None, [only]) => Ok(only.clone()),
            (None, _) => {
                let known = models.iter().map(|model| model.name.as_str());
                Err(NotFound::unnamed("model", known))
            }
        }
    }

    /// The shelf of a configured model.
    pub(crate) fn shelf(&self, model: &config::Model) -> Shelf {
        Shelf::of(&self.config.gateway.data_dir, &model.name)
    }

    /// Has what has arrived examined and puts it on the shelf.
    ///
    /// # Errors
    /// Says why it is not taken.
    pub(crate) async fn admit(
        &self,
        model: &config::Model,
        arrival: NamedTempFile,
        terms: Terms,
    ) -> Result<Installed, ShelfError> {
        let (shelf, model) = (self.shelf(model), model.clone());
        let work = move || {
            let version = shelf.admit(&model, arrival.path(), &terms)?;
            Ok(Installed {
                name: model.name,
                version,
                promoted: false,
            })
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(admitted) => admitted,
            Err(error) => Err(ShelfError::Refused(error.to_string())),
        }
    }

    /// On which terms this gateway takes a version.
    pub(crate) fn terms(&self, signed: bool, older: bool, from: String) -> Terms {
        Terms {
            policy: self.config.local.models.clone(),
            signed,
            older,
            from,
        }
    }
}
