//! Configuration that a cloud core sends: the same tables as TOML, JSON or YAML.

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::layer::{Layer, Merged};
use super::place::Place;
use super::problem::{Problem, Problems};
use super::report::Report;
use super::tree;

/// The name that messages give to text that is in no file.
const NAME: &str = "content";

/// Longest text: ten thousand tags written out.
const TEXT_BYTES_MAX: usize = 8 << 20;

/// Turns text from the cloud, TOML, JSON or YAML, into the TOML of the cloud layer.
///
/// The text is checked to hold tables that a configuration knows; whether they fit with the local files
/// shows when both are loaded together.
///
/// # Errors
/// Where it is none of the three, or has tables that nobody knows.
pub(crate) fn layer_from_text(text: &str) -> Result<String, Problems> {
    let file: Arc<Path> = Arc::from(Path::new(NAME));
    let toml = to_toml(&file, text).map_err(|problem| Problems::one(*problem))?;
    let root = tree::parse(&file, &toml).map_err(|problem| Problems::one(*problem))?;
    let report = Report::new(None);
    Merged::default().add(root, Layer::Cloud, &report);
    let (problems, _, _) = report.into_parts();
    match problems.is_empty() {
        true => Ok(toml),
        false => Err(Problems::from(problems)),
    }
}

/// The same text as TOML, whatever its tables.
///
/// # Errors
/// Where it is neither TOML nor JSON nor YAML.
pub(crate) fn toml_from_text(text: &str) -> Result<String, Problems> {
    let file: Arc<Path> = Arc::from(Path::new(NAME));
    to_toml(&file, text).map_err(|problem| Problems::one(*problem))
}

fn to_toml(file: &Arc<Path>, text: &str) -> Result<String, Box<Problem>> {
    let text = text.trim_start_matches('\u{feff}');
    let refuse = |message: String| Box::new(Problem::new(Place::file(file), message));
    if text.len() > TEXT_BYTES_MAX {
        let message = format!(
            "the content has {} bytes; the maximum is {TEXT_BYTES_MAX}",
            text.len()
        );
        return Err(refuse(message));
    }
    if text.trim_start().starts_with('{') {
        let value: Value = serde_json::from_str(text).map_err(|error| {
            let place = Place::text(file, error.line(), error.column());
            Box::new(Problem::new(place, format!("this is not JSON: {error}")))
        })?;
        return render(file, &value);
    }
    let toml_problem = match tree::parse(file, text) {
        Ok(_) => return Ok(text.to_owned()),
        Err(problem) => problem,
    };
    match serde_yaml_ng::from_str::<Value>(text) {
        Ok(value @ Value::Object(_)) => render(file, &value),
        // YAML takes nearly every text for something: what it does not take for a table is a broken TOML.
        _ => Err(Box::new(toml_problem.hint(
            "the content may be TOML, JSON or YAML; it is none of them",
        ))),
    }
}

/// JSON has `null`, TOML has not: a key that is null is a key that is not written.
fn render(file: &Arc<Path>, value: &Value) -> Result<String, Box<Problem>> {
    let mut value = value.clone();
    drop_nulls(&mut value);
    toml_edit::ser::to_string_pretty(&value).map_err(|error| {
        let message = format!("the content has no form in TOML: {error}");
        Box::new(Problem::new(Place::file(file), message))
    })
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(object) => {
            object.retain(|_, value| !value.is_null());
            object.values_mut().for_each(drop_nulls);
        }
        Value::Array(array) => {
            array.retain(|value| !value.is_null());
            array.iter_mut().for_each(drop_nulls);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOML: &str = "[gateway]\nid = \"gw-1\"\n\n[[device]]\nname = \"a\"\nunit_id = 3\n";

    fn name_of_first_device(toml: &str) -> Option<String> {
        let document = toml.parse::<toml_edit::DocumentMut>().unwrap();
        let device = document["device"].as_array_of_tables()?.get(0)?;
        Some(device["name"].as_str()?.to_owned())
    }

    #[test]
    fn three_formats_mean_the_same() {
        let json =
            r#"{"gateway":{"id":"gw-1"},"device":[{"name":"a","unit_id":3,"timeout":null}]}"#;
        let yaml = "gateway:\n  id: gw-1\ndevice:\n  - name: a\n    unit_id: 3\n";
        for text in [TOML, json, yaml] {
            let toml = layer_from_text(text).unwrap();
            assert_eq!(name_of_first_device(&toml).as_deref(), Some("a"), "{text}");
        }
    }

    #[test]
    fn free_text_and_unknown_tables_are_refused() {
        for text in [
            "hello",
            "42",
            "{\"gateway\":",
            "- a\n- b\n",
            "[devices]\n",
            "{\"devise\":[]}",
        ] {
            assert!(layer_from_text(text).is_err(), "{text}");
        }
        let problems = layer_from_text("{\"devise\":[]}").unwrap_err();
        assert!(
            problems.to_string().contains("did you mean device?"),
            "{problems}"
        );
    }
}
