//! From the server's values to JSON: arrays, structures, and whatever else is no scalar of ours.
//!
//! Nothing is lost on the way: a number that JSON has no word for is `"NaN"`, `"Infinity"` or `"-Infinity"`, a time keeps
//! its 100 ns, and a structure whose type nobody knows is `{"type": …, "binary": base64}`.

use std::cell::RefCell;

use opcua::types::{
    Array, BuiltInDataEncoding, ByteString, ContextOwned, DataValue, DateTime, DiagnosticInfo,
    ExpandedNodeId, ExtensionObject, NodeId, QualifiedName, StatusCode, Variant,
};
use serde_json::{Map, Number, Value as Json, json};

use super::types::{Known, Names};

/// What is needed to understand a value: the types of the server, and the encoding of its messages.
pub(super) struct Lexicon<'a> {
    pub(super) known: &'a Known,
    pub(super) context: &'a ContextOwned,
    /// Encodings that were met and are not known.
    missing: RefCell<Vec<NodeId>>,
}

impl<'a> Lexicon<'a> {
    pub(super) fn new(known: &'a Known, context: &'a ContextOwned) -> Self {
        Self {
            known,
            context,
            missing: RefCell::default(),
        }
    }

    /// The encodings that were met and about which the server was not asked yet.
    pub(super) fn into_missing(self) -> Vec<NodeId> {
        self.missing.into_inner()
    }

    pub(super) fn json(&self, variant: &Variant) -> Json {
        match variant {
            Variant::Empty => Json::Null,
            Variant::Boolean(v) => json!(v),
            Variant::SByte(v) => json!(v),
            Variant::Byte(v) => json!(v),
            Variant::Int16(v) => json!(v),
            Variant::UInt16(v) => json!(v),
            Variant::Int32(v) => json!(v),
            Variant::UInt32(v) => json!(v),
            Variant::Int64(v) => json!(v),
            Variant::UInt64(v) => json!(v),
            Variant::Float(v) => single(*v),
            Variant::Double(v) => double(*v),
            Variant::String(v) => json!(v.as_ref()),
            Variant::DateTime(v) => json!(time(v)),
            Variant::Guid(v) => json!(v.to_string()),
            Variant::StatusCode(v) => json!(v.bits()),
            Variant::ByteString(v) => json!(v.as_base64()),
            Variant::XmlElement(v) => json!(v.to_string()),
            Variant::QualifiedName(v) => json!(qualified(v)),
            Variant::LocalizedText(v) => json!(v.text.as_ref()),
            Variant::NodeId(v) => json!(v.to_string()),
            Variant::ExpandedNodeId(v) => json!(expanded(v)),
            Variant::ExtensionObject(v) => self.structure(v),
            Variant::Variant(v) => self.json(v),
            Variant::DataValue(v) => self.data_value(v),
            Variant::DiagnosticInfo(v) => diagnostic(v),
            Variant::Array(v) => self.array(v, None),
        }
    }

    /// An array with dimensions becomes arrays in arrays; numbers that have names become those.
    pub(super) fn array(&self, array: &Array, names: Option<&Names>) -> Json {
        let element = |variant: &Variant| match (variant, names) {
            (Variant::Int32(number), Some(names)) => names.json(*number),
            _ => self.json(variant),
        };
        let flat: Vec<Json> = array.values.iter().map(element).collect();
        match array.dimensions.as_deref() {
            Some(dimensions) if dimensions.len() > 1 && array.is_valid() => nest(flat, dimensions),
            _ => Json::Array(flat),
        }
    }

    /// The fields of a structure by name.
    pub(super) fn structure(&self, object: &ExtensionObject) -> Json {
        let Some(body) = &object.body else {
            return Json::Null;
        };
        let encoding = object.binary_type_id().node_id;
        let mut bytes = Vec::new();
        if body
            .encode_binary(&mut bytes, &self.context.context())
            .is_err()
        {
            return json!({ "type": encoding.to_string() });
        }
        if let Some(BuiltInDataEncoding::XML) = body.override_encoding() {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            return json!({ "type": encoding.to_string(), "xml": text });
        }
        match self.known.encoded(&encoding) {
            Some(Some(structure)) => {
                if let Some(fields) = self.fields(structure, &bytes) {
                    return fields;
                }
            }
            Some(None) => {}
            None => self.missing.borrow_mut().push(encoding.clone()),
        }
        json!({
            "type": encoding.to_string(),
            "binary": ByteString::from(bytes).as_base64(),
        })
    }

    fn data_value(&self, data: &DataValue) -> Json {
        let mut members = Map::new();
        let value = data.value.as_ref().map_or(Json::Null, |v| self.json(v));
        members.insert("value".to_owned(), value);
        if let Some(status) = data.status.filter(|status| *status != StatusCode::Good) {
            members.insert("status".to_owned(), json!(status.bits()));
        }
        for (name, at) in [
            ("source_time", &data.source_timestamp),
            ("server_time", &data.server_timestamp),
        ] {
            if let Some(at) = at {
                members.insert(name.to_owned(), json!(time(at)));
            }
        }
        Json::Object(members)
    }
}

/// The shortest digits that give this number back, not those of the f64 that it would widen to.
fn single(number: f32) -> Json {
    match number.to_string().parse::<f64>() {
        Ok(shortest) if number.is_finite() => double(shortest),
        _ => double(f64::from(number)),
    }
}

fn double(number: f64) -> Json {
    match Number::from_f64(number) {
        Some(number) => Json::Number(number),
        None if number.is_nan() => json!("NaN"),
        None if number > 0.0 => json!("Infinity"),
        None => json!("-Infinity"),
    }
}

/// RFC 3339 with milliseconds, and with as many further digits as the 100 ns of OPC UA need.
pub(super) fn time(time: &DateTime) -> String {
    let text = time.to_rfc3339();
    let ticks = time.ticks().rem_euclid(10_000);
    match text.strip_suffix('Z') {
        Some(whole) if ticks != 0 => {
            let digits = format!("{ticks:04}");
            format!("{whole}{}Z", digits.trim_end_matches('0'))
        }
        _ => text,
    }
}

/// The name, with its namespace before it where that is not the standard's own.
pub(super) fn qualified(name: &QualifiedName) -> String {
    match name.namespace_index {
        0 => name.name.to_string(),
        index => format!("{index}:{}", name.name.as_ref()),
    }
}

/// As a node id where it means one of this server.
fn expanded(id: &ExpandedNodeId) -> String {
    match (id.server_index, id.namespace_uri.is_empty()) {
        (0, true) => id.node_id.to_string(),
        (0, false) => format!("nsu={};{}", id.namespace_uri, id.node_id.identifier),
        _ => id.to_string(),
    }
}

fn diagnostic(info: &DiagnosticInfo) -> Json {
    let mut members = Map::new();
    for (name, index) in [
        ("symbolic_id", info.symbolic_id),
        ("namespace_uri", info.namespace_uri),
        ("locale", info.locale),
        ("localized_text", info.localized_text),
    ] {
        if let Some(index) = index {
            members.insert(name.to_owned(), json!(index));
        }
    }
    if let Some(more) = &info.additional_info {
        members.insert("additional_info".to_owned(), json!(more.as_ref()));
    }
    if let Some(status) = &info.inner_status_code {
        members.insert("inner_status_code".to_owned(), json!(status.bits()));
    }
    if let Some(inner) = &info.inner_diagnostic_info {
        members.insert("inner_diagnostic_info".to_owned(), diagnostic(inner));
    }
    Json::Object(members)
}

/// Folds the last dimension first, as the values lie in row order.
pub(super) fn nest(mut flat: Vec<Json>, dimensions: &[u32]) -> Json {
    for &dimension in dimensions[1..].iter().rev() {
        let width = (dimension as usize).max(1);
        let mut rows = Vec::with_capacity(flat.len() / width);
        let mut values = flat.into_iter().peekable();
        while values.peek().is_some() {
            rows.push(Json::Array(values.by_ref().take(width).collect()));
        }
        flat = rows;
    }
    Json::Array(flat)
}
