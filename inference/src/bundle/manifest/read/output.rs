//! What a model gives: `[output]`, or `[forecast]`.

use std::collections::BTreeSet;

use super::super::{Column, Forecast, ModelOutput, OutputNames, Window};
use super::{WINDOW_ROWS_MAX, WINDOW_VALUES_MAX, is_short};
use crate::bundle::fields::Fields;

/// `[output]` or `[forecast]`, not both.
pub(super) fn read(
    root: &Fields<'_>,
    columns: &[Column],
    window: Option<&Window>,
) -> Option<ModelOutput> {
    if !root.has("forecast") {
        return score(root.table("output")).map(ModelOutput::Score);
    }
    if root.has("output") {
        let hint = "a forecast is scored by its residuals; remove one of the tables".to_owned();
        root.wrong("output", "no such table beside [forecast]", Some(hint));
    }
    let len = window.map_or(1, |window| window.len);
    forecast(root.table("forecast"), columns, len).map(ModelOutput::Forecast)
}

fn forecast(fields: Fields<'_>, columns: &[Column], len: usize) -> Option<Forecast> {
    let expected = "the name of the graph's output that holds the predicted values";
    let output = fields.text("output", expected, is_short);
    let output = fields.required("output", expected, output);
    let known: Vec<&str> = columns.iter().map(|it| it.role.as_str()).collect();
    let place = |role: &String| known.iter().position(|known| known == role);
    let expected = "the roles of the columns that are predicted, each once";
    let roles = fields.texts("roles", expected, |roles| {
        let places: BTreeSet<usize> = roles.iter().filter_map(place).collect();
        !roles.is_empty() && places.len() == roles.len()
    });
    let roles = fields.required("roles", expected, roles);
    let places: Option<Vec<usize>> = roles.map(|roles| roles.iter().filter_map(place).collect());
    let rows_max = WINDOW_ROWS_MAX.min(WINDOW_VALUES_MAX / columns.len().max(1));
    let most = rows_max.saturating_sub(len).max(1);
    let expected = format!("a whole number of rows, 1 to {most}");
    let horizon = fields.count("horizon", &expected, 1..=most);
    let number = places.as_ref().map(Vec::len);
    let expected = match number {
        Some(number) => format!("{number} numbers above 0, one for each of the roles"),
        None => "a number above 0 for each of the roles".to_owned(),
    };
    let sigma = fields.numbers("sigma", &expected, |sigma| {
        number.is_none_or(|number| sigma.len() == number) && sigma.iter().all(|it| *it > 0.0)
    });
    let sigma = fields.required("sigma", &expected, sigma);
    fields.finish();
    Some(Forecast {
        output: output?,
        columns: places?,
        horizon: horizon.unwrap_or(1),
        sigma: sigma?,
    })
}

fn score(fields: Fields<'_>) -> Option<OutputNames> {
    let expected = "the name of the graph's output that is the score";
    let score = fields.required("score", expected, fields.text("score", expected, is_short));
    let contribution = fields.text(
        "contribution",
        "the name of the graph's output with one number for each input",
        is_short,
    );
    fields.finish();
    Some(OutputNames {
        score: score?,
        contribution,
    })
}
