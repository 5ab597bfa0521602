//! `millrace model calibrate`: how far models are that learn, and learning anew.

use std::process::ExitCode;

use clap::Args;

use super::super::client::Client;
use super::super::table::Table;
use super::super::{Failure, Global, output, show, status};
use crate::api::CalibrateRequest;
use crate::report::{CalibrationStatus, ModelStatus};

/// How far a model is that learns what is normal, or its threshold
///
/// Models learn from their first windows on this gateway: `training` is before the first score, `calibrating` before the first
/// event. What was learned is kept over restarts.
#[derive(Debug, Args)]
pub(crate) struct CalibrateArgs {
    /// The model; all that learn where it is left out
    name: Option<String>,
    /// Forget what it has learned, and learn anew from the next window on
    #[arg(long, requires = "name")]
    restart: bool,
}

impl CalibrateArgs {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let models = match (self.name, self.restart) {
            (Some(model), true) => {
                let request = CalibrateRequest { model };
                let _: ModelStatus = Client::new(global).post("/v1/models/calibrate", &request)?;
                let done = format!("{} learns anew from the next window on.\n", request.model);
                if global.json {
                    output::json(
                        &serde_json::json!({"name": request.model, "state": "restarted"}),
                    )?;
                } else {
                    output::text(&done)?;
                }
                return Ok(ExitCode::SUCCESS);
            }
            (Some(name), false) => vec![named(status::fetch(global)?.models, &name)?],
            (None, _) => status::fetch(global)?.models,
        };
        if global.json {
            let told: Vec<_> = models
                .iter()
                .map(|model| {
                    serde_json::json!({
                        "name": model.name, "version": model.version, "sha256": model.sha256,
                        "calibration": model.calibration,
                    })
                })
                .collect();
            output::json(&told)?;
        } else {
            output::text(&table(&models))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn named(models: Vec<ModelStatus>, name: &str) -> Result<ModelStatus, Failure> {
    let known: Vec<String> = models.iter().map(|model| model.name.clone()).collect();
    models
        .into_iter()
        .find(|model| model.name == name)
        .ok_or_else(|| {
            Failure::new(match known.is_empty() {
                true => format!("there is no model {name}; none is configured"),
                false => format!("there is no model {name}; there are: {}", known.join(", ")),
            })
        })
}

fn table(models: &[ModelStatus]) -> String {
    let mut table = Table::new(["NAME", "VERSION", "STATE", ">WINDOWS", ">OF", ">THRESHOLD"]);
    for model in models {
        let fixed = CalibrationStatus {
            state: "nothing to learn".to_owned(),
            ..CalibrationStatus::default()
        };
        let calibration = model.calibration.as_ref().unwrap_or(&fixed);
        let count = |count: Option<usize>| {
            count.map_or_else(|| "-".to_owned(), |count| show::count(count as u64))
        };
        table.row([
            model.name.clone(),
            model.version.clone().unwrap_or_else(|| "-".into()),
            calibration.state.clone(),
            count(calibration.windows),
            count(calibration.needed),
            show::decimal(calibration.threshold),
        ]);
    }
    table.render("")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_how_far_each_model_is() {
        let model = |name: &str, calibration| ModelStatus {
            name: name.to_owned(),
            version: Some("1.0.0".to_owned()),
            calibration,
            ..ModelStatus::default()
        };
        let training = CalibrationStatus {
            state: "training".to_owned(),
            windows: Some(120),
            needed: Some(1_000),
            threshold: None,
        };
        let done = CalibrationStatus {
            state: "done".to_owned(),
            threshold: Some(1.25),
            ..CalibrationStatus::default()
        };
        let models = [
            model("pump", Some(training)),
            model("fan", Some(done)),
            model("press", None),
        ];
        let shown = table(&models);
        let rows: Vec<Vec<&str>> = shown
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(rows[1], ["pump", "1.0.0", "training", "120", "1,000", "-"]);
        assert_eq!(rows[2][..5], ["fan", "1.0.0", "done", "-", "-"]);
        assert!(rows[2][5].starts_with("1.25"), "{shown}");
        assert!(shown.contains("nothing to learn"), "{shown}");
        assert_eq!(named(models.to_vec(), "fan").unwrap().name, "fan");
        let error = named(models.to_vec(), "fen").unwrap_err();
        assert!(error.to_string().contains("pump, fan, press"), "{error}");
    }
}
