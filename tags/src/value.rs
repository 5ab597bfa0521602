//! What a tag can be worth.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// One value of a tag. Integers stay integers; `F32` keeps the device's precision.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A coil, a discrete input, a bit.
    Bool(bool),
    /// Signed integers of any width.
    I64(i64),
    /// Unsigned integers of any width.
    U64(u64),
    /// A scaled value, or a 64-bit float of the device.
    F64(f64),
    /// A 32-bit float as the device sent it. Never NaN or infinite: that is bad quality instead.
    F32(f32),
    /// Text.
    Text(Arc<str>),
    /// Opaque bytes.
    Bytes(Arc<[u8]>),
    /// A structure or an array, as JSON text.
    Json(Arc<str>),
}

/// The kind of a [`Value`]; part of a tag's identity in the buffer's catalogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ValueType {
    /// See [`Value::Bool`].
    Bool,
    /// See [`Value::I64`].
    I64,
    /// See [`Value::U64`].
    U64,
    /// See [`Value::F64`].
    F64,
    /// See [`Value::F32`].
    F32,
    /// See [`Value::Text`].
    Text,
    /// See [`Value::Bytes`].
    Bytes,
    /// See [`Value::Json`].
    Json,
    /// The device decides at run time (an OPC UA node whose type is not configured).
    Any,
}

impl Value {
    /// The kind of this value.
    pub fn value_type(&self) -> ValueType {
        match self {
            Value::Bool(_) => ValueType::Bool,
            Value::I64(_) => ValueType::I64,
            Value::U64(_) => ValueType::U64,
            Value::F64(_) => ValueType::F64,
            Value::F32(_) => ValueType::F32,
            Value::Text(_) => ValueType::Text,
            Value::Bytes(_) => ValueType::Bytes,
            Value::Json(_) => ValueType::Json,
        }
    }

    /// The value as a number, where it is one; a bool is 0 or 1.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Value::Bool(b) => Some(f64::from(u8::from(*b))),
            Value::I64(i) => Some(*i as f64),
            Value::U64(u) => Some(*u as f64),
            Value::F64(f) => Some(*f),
            Value::F32(f) => Some(f64::from(*f)),
            Value::Text(_) | Value::Bytes(_) | Value::Json(_) => None,
        }
    }
}
