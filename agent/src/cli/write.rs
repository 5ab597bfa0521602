//! `millrace write`: a value to a tag, read back.

use std::process::ExitCode;

use clap::Args;
use serde_json::Value;

use super::client::Client;
use super::later::Later;
use super::{Global, output, show};
use crate::report::{WriteDone, WriteRequest};

/// Write a value to a tag and read it back
///
/// The running agent writes it, ahead of its reads. Only tags with `writable = true` can be written; the log keeps
/// who wrote what, and the old value.
#[derive(Debug, Args)]
pub(crate) struct WriteArgs {
    /// Full name of the tag, for example boiler/setpoint
    tag: String,
    /// A number in the tag's unit, true, false, a text, or an array such as [1,2]
    #[arg(allow_hyphen_values = true)]
    value: String,
    /// Write to this device, without an agent and without configuration
    #[arg(long, value_name = "URL")]
    on: Option<String>,
}

impl WriteArgs {
    pub(super) fn run(&self, global: &Global) -> anyhow::Result<ExitCode> {
        if self.on.is_some() {
            let meanwhile = "the running agent writes tags that have `writable = true`";
            return Later::new("write --on", meanwhile).refuse();
        }
        let request = WriteRequest {
            tag: self.tag.clone(),
            value: value(&self.value),
        };
        let done: WriteDone = Client::new(global).post("/v1/write", &request)?;
        if global.json {
            output::json(&done)?;
        } else {
            output::text(&render(&done))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// What is no number, bool, array or quoted text is a text as it stands.
fn value(typed: &str) -> Value {
    match serde_json::from_str(typed) {
        Ok(Value::Null | Value::Object(_)) | Err(_) => Value::String(typed.to_owned()),
        Ok(value) => value,
    }
}

fn render(done: &WriteDone) -> String {
    let unit = done.unit.as_deref().map(|unit| format!(" {unit}"));
    let unit = unit.unwrap_or_default();
    let old = match &done.old {
        Value::Null => "no value".to_owned(),
        old => format!("{}{unit}", show::value(old)),
    };
    let now = show::value(&done.read_back);
    format!("{} is {now}{unit}, read back; it was {old}.\n", done.tag)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_typed_is_a_value() {
        for (typed, value_of) in [
            ("4.5", json!(4.5)),
            ("-3", json!(-3)),
            ("true", json!(true)),
            ("[1,2]", json!([1, 2])),
            ("\"12\"", json!("12")),
            ("BLR-7", json!("BLR-7")),
        ] {
            assert_eq!(value(typed), value_of, "{typed}");
        }
    }

    #[test]
    fn old_and_new_value_are_told() {
        let done = WriteDone {
            tag: "boiler/setpoint".into(),
            value: json!(4.5),
            old: json!(4.0),
            read_back: json!(4.5),
            unit: Some("bar".into()),
        };
        let text = "boiler/setpoint is 4.5 bar, read back; it was 4 bar.\n";
        assert_eq!(render(&done).replace("4.0 bar", "4 bar"), text);
    }
}
