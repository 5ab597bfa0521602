//! Forecasts: what a model predicts, held against what was measured.
//!
//! A window of a forecast goes on to the row that is predicted. The model sees its first rows only; the newest row is what was
//! measured. So a forecast is a function of one window as every other score is: it spans no gap, is not carried
//! over a restart, and a window that is replayed gives the same residuals.

use std::sync::Arc;

use super::Scored;
use super::error::ScoreError;
use crate::bundle::{Forecast, Layout, Manifest};

/// Reads predicted values from the model's output and makes residuals and the score of them.
#[derive(Debug)]
pub(super) struct Forecaster {
    forecast: Forecast,
    layout: Layout,
    /// Mean and scale of each predicted column, where the model sees scaled values: what it predicts is scaled, too.
    scales: Option<Vec<(f64, f64)>>,
    names: Vec<Arc<str>>,
}

impl Forecaster {
    pub(super) fn new(forecast: &Forecast, manifest: &Manifest) -> Self {
        let columns = forecast.columns.iter();
        let scales = manifest.window.normalisation.as_ref().map(|it| {
            let scale = |column: &usize| (it.mean[*column], it.scale[*column]);
            columns.clone().map(scale).collect()
        });
        let role = |column: &usize| manifest.columns[*column].role.as_str();
        let names = columns.map(role).flat_map(|role| {
            [
                format!("predicted/{role}").into(),
                format!("residual/{role}").into(),
            ]
        });
        Self {
            names: names.collect(),
            forecast: forecast.clone(),
            layout: manifest.model.layout,
            scales,
        }
    }

    /// Name of the graph's output.
    pub(super) fn output(&self) -> &str {
        &self.forecast.output
    }

    /// Rows from the newest that the model sees to the one that is predicted.
    pub(super) fn horizon(&self) -> usize {
        self.forecast.horizon
    }

    /// The columns that are predicted.
    pub(super) fn columns(&self) -> &[usize] {
        &self.forecast.columns
    }

    /// Names of predicted values and residuals, in turn.
    pub(super) fn names(&self) -> &[Arc<str>] {
        &self.names
    }

    /// How many numbers the output may have: those of the last row, or of each row up to it.
    pub(super) fn sizes(&self) -> [usize; 2] {
        let roles = self.columns().len();
        [roles, roles * self.horizon()]
    }

    /// The value that the output predicts for each role.
    fn predicted(&self, output: &[f64]) -> Result<Vec<f64>, ScoreError> {
        let roles = self.columns().len();
        let rows = output.len() / roles;
        let predicted = (0..roles).map(|role| {
            let place = match self.layout {
                Layout::Nft => role * rows + rows.saturating_sub(1),
                Layout::Ntf | Layout::Nf => rows.saturating_sub(1) * roles + role,
            };
            let value = output.get(place).copied()?;
            let value = match &self.scales {
                Some(scales) => value * scales[role].1 + scales[role].0,
                None => value,
            };
            Some(value).filter(|value| value.is_finite())
        });
        let predicted: Option<Vec<f64>> = predicted.collect();
        predicted.ok_or(ScoreError::NotANumber {
            output: "predicted value",
        })
    }

    /// What comes of a forecast and the row that it was for, of whose cells these were measured.
    pub(super) fn scored(
        &self,
        output: &[f64],
        row: &[f32],
        measured: impl Fn(usize) -> bool,
    ) -> Result<Scored, ScoreError> {
        let predicted = self.predicted(output)?;
        let mut contribution = vec![0.0; row.len()];
        let mut values = Vec::with_capacity(self.names.len());
        let roles = self.columns().iter().zip(&self.forecast.sigma);
        for ((column, sigma), predicted) in roles.zip(predicted) {
            let residual = f64::from(row[*column]) - predicted;
            let residual = measured(*column).then_some(residual);
            contribution[*column] = residual.map_or(0.0, |residual| residual.abs() / sigma);
            values.extend([Some(predicted), residual]);
        }
        let score = contribution.iter().copied().fold(0.0, f64::max);
        match score.is_finite() {
            true => Ok(Scored {
                score,
                contribution: Some(contribution),
                values,
            }),
            false => Err(ScoreError::NotANumber { output: "score" }),
        }
    }
}
