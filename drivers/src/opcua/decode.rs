//! From the server's values to samples.
//!
//! Numbers keep their width's meaning, times become RFC 3339 text, localised text loses its locale,
//! arrays and structures become JSON. A structure whose type we do not know is
//! `{"type": …, "binary": base64}`: nothing of it is lost. A value that is no finite number is bad quality.

use millrace_tags::{Moment, Quality, Reason, Sample, TagId, Timestamp, Value};
use opcua::types::{
    Array, ByteString, ContextOwned, DataValue, DateTime, ExtensionObject, StatusCode, Variant,
};
use serde_json::{Value as Json, json};

use super::status;

/// 100 ns ticks from 1601-01-01 to 1970-01-01.
const TICKS_TO_UNIX: i64 = 116_444_736_000_000_000;

/// The sample that a data value is. Only good and uncertain samples carry a value.
pub(super) fn sample(
    tag: TagId,
    data: DataValue,
    gateway_time: Moment,
    context: &ContextOwned,
) -> Sample {
    let source_time = data.source_timestamp.as_ref().and_then(timestamp);
    let status = data.status.unwrap_or(StatusCode::Good);
    let (value, quality) = match status::quality(status) {
        Quality::Bad(reason) => (None, Quality::Bad(reason)),
        quality => match value(data.value.unwrap_or_default(), context) {
            Ok(value) => (Some(value), quality),
            Err(reason) => (None, Quality::Bad(reason)),
        },
    };
    Sample {
        tag,
        value,
        quality,
        source_time,
        gateway_time,
    }
}

/// `None` for the null time and for times that do not fit into nanoseconds of 1970.
fn timestamp(time: &DateTime) -> Option<Timestamp> {
    if time.is_null() {
        return None;
    }
    let ticks = time.ticks().checked_sub(TICKS_TO_UNIX)?;
    ticks.checked_mul(100).map(Timestamp)
}

/// Whether a server's queue for this item ran over, so that older values are gone. Some servers forget
/// to set the info type that the bit belongs to (Part 4, 7.39.1), so it is not asked for.
pub(super) fn overflowed(data: &DataValue) -> bool {
    data.status.is_some_and(|status| status.overflow())
}

fn value(variant: Variant, context: &ContextOwned) -> Result<Value, Reason> {
    Ok(match variant {
        Variant::Empty => return Err(Reason::Status(StatusCode::BadNoData.bits())),
        Variant::Boolean(v) => Value::Bool(v),
        Variant::SByte(v) => Value::I64(v.into()),
        Variant::Int16(v) => Value::I64(v.into()),
        Variant::Int32(v) => Value::I64(v.into()),
        Variant::Int64(v) => Value::I64(v),
        Variant::Byte(v) => Value::U64(v.into()),
        Variant::UInt16(v) => Value::U64(v.into()),
        Variant::UInt32(v) => Value::U64(v.into()),
        Variant::UInt64(v) => Value::U64(v),
        Variant::Float(v) if v.is_finite() => Value::F32(v),
        Variant::Double(v) if v.is_finite() => Value::F64(v),
        Variant::Float(_) | Variant::Double(_) => return Err(Reason::NotANumber),
        Variant::ByteString(v) => Value::Bytes(v.as_ref().into()),
        Variant::StatusCode(v) => Value::U64(v.bits().into()),
        Variant::Variant(inner) => value(*inner, context)?,
        Variant::Array(array) => Value::Json(array_json(&array, context).to_string().into()),
        Variant::ExtensionObject(object) => {
            Value::Json(structure_json(&object, context).to_string().into())
        }
        Variant::DataValue(_) | Variant::DiagnosticInfo(_) => {
            Value::Json(json(&variant, context).to_string().into())
        }
        _ => match json(&variant, context) {
            Json::String(text) => Value::Text(text.into()),
            other => Value::Json(other.to_string().into()),
        },
    })
}

fn json(variant: &Variant, context: &ContextOwned) -> Json {
    match variant {
        Variant::Empty | Variant::DiagnosticInfo(_) => Json::Null,
        Variant::Boolean(v) => json!(v),
        Variant::SByte(v) => json!(v),
        Variant::Byte(v) => json!(v),
        Variant::Int16(v) => json!(v),
        Variant::UInt16(v) => json!(v),
        Variant::Int32(v) => json!(v),
        Variant::UInt32(v) => json!(v),
        Variant::Int64(v) => json!(v),
        Variant::UInt64(v) => json!(v),
        // A JSON number cannot say NaN: null then.
        Variant::Float(v) => json!(v),
        Variant::Double(v) => json!(v),
        Variant::String(v) => json!(v.as_ref()),
        Variant::DateTime(v) => json!(v.to_rfc3339()),
        Variant::Guid(v) => json!(v.to_string()),
        Variant::StatusCode(v) => json!(v.bits()),
        Variant::ByteString(v) => json!(v.as_base64()),
        Variant::XmlElement(v) => json!(v.to_string()),
        Variant::QualifiedName(v) => json!(v.name.as_ref()),
        Variant::LocalizedText(v) => json!(v.text.as_ref()),
        Variant::NodeId(v) => json!(v.to_string()),
        Variant::ExpandedNodeId(v) => json!(v.to_string()),
        Variant::ExtensionObject(v) => structure_json(v, context),
        Variant::Variant(v) => json(v, context),
        Variant::DataValue(v) => v.value.as_ref().map_or(Json::Null, |v| json(v, context)),
        Variant::Array(v) => array_json(v, context),
    }
}

/// An array with dimensions becomes arrays in arrays.
fn array_json(array: &Array, context: &ContextOwned) -> Json {
    let flat: Vec<Json> = array.values.iter().map(|v| json(v, context)).collect();
    match array.dimensions.as_deref() {
        Some(dimensions) if dimensions.len() > 1 && array.is_valid() => nest(flat, dimensions),
        _ => Json::Array(flat),
    }
}

/// Folds the last dimension first, as the values lie in row order.
fn nest(mut flat: Vec<Json>, dimensions: &[u32]) -> Json {
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

fn structure_json(object: &ExtensionObject, context: &ContextOwned) -> Json {
    let Some(body) = &object.body else {
        return Json::Null;
    };
    let mut bytes = Vec::new();
    match body.encode_binary(&mut bytes, &context.context()) {
        Ok(()) => json!({
            "type": object.binary_type_id().node_id.to_string(),
            "binary": ByteString::from(bytes).as_base64(),
        }),
        Err(_) => json!({ "type": object.binary_type_id().node_id.to_string() }),
    }
}

#[cfg(test)]
mod tests;
