//! Values as metrics and back.

use millrace_tags::{Quality, Reason, Value, ValueType};

use super::wire::{Datatype, Metric, PropertySet, PropertyValue, Worth};

const BAD: u32 = 0;
const STALE: u32 = 500;

/// A metric without a name: what is known of a tag at this time.
pub(super) fn metric(value: Option<&Value>, quality: Quality, time_ms: u64) -> Metric {
    let value = value.map(worth);
    Metric {
        timestamp: Some(time_ms),
        is_null: value.is_none().then_some(true),
        properties: properties(quality),
        value,
        ..Metric::default()
    }
}

/// A metric that had no value yet.
pub(super) fn nothing() -> Metric {
    Metric {
        is_null: Some(true),
        properties: properties(Quality::Bad(Reason::NotConnected)),
        ..Metric::default()
    }
}

fn worth(value: &Value) -> Worth {
    match value {
        Value::Bool(flag) => Worth::Boolean(*flag),
        // Two's complement in an unsigned field.
        Value::I64(number) => Worth::Long(*number as u64),
        Value::U64(number) => Worth::Long(*number),
        Value::F64(number) => Worth::Double(*number),
        Value::F32(number) => Worth::Float(*number),
        Value::Text(text) | Value::Json(text) => Worth::Text(text.to_string()),
        Value::Bytes(bytes) => Worth::Bytes(bytes.to_vec()),
    }
}

fn properties(quality: Quality) -> Option<PropertySet> {
    let code = match quality {
        Quality::Good => return None,
        Quality::Uncertain(_) => STALE,
        Quality::Bad(_) => BAD,
    };
    let reason = quality.reason().map(|reason| reason.name().into_owned());
    Some(PropertySet {
        keys: vec!["Quality".to_owned(), "Reason".to_owned()],
        values: vec![
            PropertyValue {
                datatype: Some(Datatype::Int32 as u32),
                int: Some(code),
                text: None,
            },
            PropertyValue {
                datatype: Some(Datatype::Text as u32),
                int: None,
                text: Some(reason.unwrap_or_default()),
            },
        ],
    })
}

/// `None` where the type says nothing.
pub(super) fn of_type(value_type: ValueType) -> Option<Datatype> {
    Some(match value_type {
        ValueType::Bool => Datatype::Boolean,
        ValueType::I64 => Datatype::Int64,
        ValueType::U64 => Datatype::UInt64,
        ValueType::F64 => Datatype::Double,
        ValueType::F32 => Datatype::Float,
        ValueType::Text | ValueType::Json => Datatype::Text,
        ValueType::Bytes => Datatype::Bytes,
        ValueType::Any => return None,
    })
}

/// What a host writes, by the type that the metric has; some hosts send 32 bits in either field.
pub(super) fn asked(metric: &Metric, datatype: Datatype) -> Option<Value> {
    Some(match (metric.value.as_ref()?, datatype) {
        (Worth::Int(number), Datatype::Int64) => Value::I64(i64::from(*number as i32)),
        (Worth::Int(number), _) => Value::U64(u64::from(*number)),
        (Worth::Long(number), Datatype::Int64) => Value::I64(*number as i64),
        (Worth::Long(number), _) => Value::U64(*number),
        (Worth::Float(number), _) => Value::F32(*number),
        (Worth::Double(number), _) => Value::F64(*number),
        (Worth::Boolean(flag), _) => Value::Bool(*flag),
        (Worth::Text(text), _) => Value::Text(text.as_str().into()),
        (Worth::Bytes(bytes), _) => Value::Bytes(bytes.as_slice().into()),
    })
}

/// A value that was read back after a write, as the metric has it; `None` where it is of another kind.
pub(super) fn read_back(value: &serde_json::Value, datatype: Datatype) -> Option<Value> {
    Some(match datatype {
        Datatype::Boolean => Value::Bool(value.as_bool()?),
        Datatype::Int32 | Datatype::Int64 => Value::I64(value.as_i64()?),
        Datatype::UInt64 => Value::U64(value.as_u64()?),
        // It was one of 32 bits before it became a decimal.
        Datatype::Float => Value::F32(value.as_f64()? as f32),
        Datatype::Double => Value::F64(value.as_f64()?),
        Datatype::Text => match value {
            serde_json::Value::String(text) => Value::Text(text.as_str().into()),
            other => Value::Text(other.to_string().into()),
        },
        Datatype::Bytes => return None,
    })
}
