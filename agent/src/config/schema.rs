//! The configuration as JSON Schema, out of the tables of keys that the reader uses.

use serde_json::{Map, Value, json};

use super::bootstrap::BOOTSTRAP;
use super::buffer::BUFFER;
use super::device::DEVICE;
use super::gateway::GATEWAY;
use super::keys::{Absent, KeyDoc, Kind, SectionDoc};
use super::line::LINE;
use super::local::LOCAL;
use super::model::MODEL;
use super::tag::TAG;
use super::uplink::UPLINK;

/// The schema (draft 2020-12) of the tables as JSON or YAML has them, and TOML means them.
pub(crate) fn schema() -> Value {
    let mut device = table(&DEVICE);
    device["properties"]["tag"] = list(table(&TAG));
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Configuration of Millrace",
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "gateway": table(&GATEWAY),
            "buffer": table(&BUFFER),
            "line": list(table(&LINE)),
            "device": list(device),
            "model": list(table(&MODEL)),
            "uplink": list(table(&UPLINK)),
            "bootstrap": table(&BOOTSTRAP),
            "local": table(&LOCAL),
        },
    })
}

fn list(items: Value) -> Value {
    json!({"type": "array", "items": items})
}

fn table(section: &SectionDoc) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for key in section.keys {
        if matches!(key.kind, Kind::Later) {
            continue;
        }
        properties.insert(key.name.to_owned(), property(key));
        // What only some drivers have cannot be asked of all.
        if key.default == Absent::Required && key.only.is_empty() {
            required.push(key.name);
        }
    }
    json!({
        "type": "object", "additionalProperties": false, "properties": properties, "required": required,
    })
}

fn property(key: &KeyDoc) -> Value {
    let mut property = match &key.kind {
        Kind::Bool => json!({"type": "boolean"}),
        Kind::Integer { min, max } => json!({"type": "integer", "minimum": min, "maximum": max}),
        Kind::Number => json!({"type": "number"}),
        Kind::Choice(words) => json!({"enum": words}),
        Kind::Texts => json!({"type": "array", "items": {"type": "string"}}),
        Kind::Text | Kind::File | Kind::Secret | Kind::Duration { .. } | Kind::Size { .. } => {
            json!({"type": "string"})
        }
        // Of forms of their own, tables and lists among them, the reader says what is wrong.
        Kind::Form(_) | Kind::Tables | Kind::Later => json!({}),
    };
    property["description"] = key.doc.into();
    if let Absent::Default(text) = key.default {
        property["default"] = match &key.kind {
            Kind::Bool | Kind::Integer { .. } | Kind::Number => {
                serde_json::from_str(text).unwrap_or_else(|_| text.into())
            }
            _ => text.into(),
        };
    }
    property
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_its_place() {
        let schema = schema();
        let uplink = &schema["properties"]["uplink"]["items"];
        assert_eq!(uplink["properties"]["max_inflight"]["default"], 100);
        assert_eq!(uplink["required"], json!(["name", "url"]));
        let tag = &schema["properties"]["device"]["items"]["properties"]["tag"]["items"];
        assert!(
            tag["properties"]["address"]["description"].is_string(),
            "{tag}"
        );
        assert_eq!(
            schema["properties"]["buffer"]["properties"]["when_full"]["enum"][0],
            "drop-oldest"
        );
    }
}
