//! JSON, written straight into a byte buffer.

use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use millrace_tags::Value;
use serde_json::ser::{CompactFormatter, Formatter};

// Writing into a `Vec` cannot fail, so the results of the formatter are dropped in this file.

/// An unsigned integer.
pub(in crate::codec) fn unsigned(out: &mut Vec<u8>, number: u64) {
    let _ = CompactFormatter.write_u64(out, number);
}

pub(in crate::codec) fn signed(out: &mut Vec<u8>, number: i64) {
    let _ = CompactFormatter.write_i64(out, number);
}

/// A float, or `null` where JSON has no word for it.
pub(in crate::codec) fn float(out: &mut Vec<u8>, number: f64) {
    if number.is_finite() {
        let _ = CompactFormatter.write_f64(out, number);
    } else {
        out.extend_from_slice(b"null");
    }
}

/// A finite `f32`: the shortest digits that give it back, not those of the `f64` it would widen to.
pub(in crate::codec) fn float32(out: &mut Vec<u8>, number: f32) {
    let _ = CompactFormatter.write_f32(out, number);
}

/// Nanoseconds as milliseconds, exactly: decimals only where there are any.
pub(crate) fn millis(out: &mut Vec<u8>, nanos: i64) {
    decimal::<6>(out, nanos, 1_000_000);
}

/// Nanoseconds as seconds, exactly: decimals only where there are any.
pub(in crate::codec) fn seconds(out: &mut Vec<u8>, nanos: i64) {
    decimal::<9>(out, nanos, 1_000_000_000);
}

/// `number / one` with at most `DIGITS` decimals.
fn decimal<const DIGITS: usize>(out: &mut Vec<u8>, number: i64, one: u64) {
    if number < 0 {
        out.push(b'-');
    }
    let number = number.unsigned_abs();
    unsigned(out, number / one);
    let mut fraction = number % one;
    if fraction == 0 {
        return;
    }
    let mut digits = [b'0'; DIGITS];
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (fraction % 10) as u8;
        fraction /= 10;
    }
    let used = digits
        .iter()
        .rposition(|d| *d != b'0')
        .map_or(0, |last| last + 1);
    out.push(b'.');
    out.extend_from_slice(&digits[..used]);
}

/// A string with its quotes.
pub(in crate::codec) fn string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let plain = |byte: &u8| *byte >= 0x20 && *byte != b'"' && *byte != b'\\';
    if text.as_bytes().iter().all(plain) {
        out.extend_from_slice(text.as_bytes());
    } else {
        escaped(out, text);
    }
    out.push(b'"');
}

fn escaped(out: &mut Vec<u8>, text: &str) {
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0..0x20 => {
                let _ = write!(out, "\\u{byte:04x}");
            }
            _ => out.push(byte),
        }
    }
}

/// Bytes as base64 with its quotes.
pub(in crate::codec) fn base64(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    out.extend_from_slice(STANDARD.encode(bytes).as_bytes());
    out.push(b'"');
}

/// Why a value is not written as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoValue {
    /// It is NaN or infinite.
    NotANumber,
    /// It says that it is JSON and is not.
    NotJson,
}

/// The member of a value: `"v":…`, or `"x":"…"` for bytes. What JSON cannot carry is `"v":null`.
pub(crate) fn value(out: &mut Vec<u8>, value: Option<&Value>) -> Result<(), NoValue> {
    if let Some(Value::Bytes(bytes)) = value {
        out.extend_from_slice(b"\"x\":");
        base64(out, bytes);
        return Ok(());
    }
    out.extend_from_slice(b"\"v\":");
    let null = |out: &mut Vec<u8>| out.extend_from_slice(b"null");
    match value {
        None | Some(Value::Bytes(_)) => null(out),
        Some(Value::Bool(true)) => out.extend_from_slice(b"true"),
        Some(Value::Bool(false)) => out.extend_from_slice(b"false"),
        Some(Value::I64(number)) => signed(out, *number),
        Some(Value::U64(number)) => unsigned(out, *number),
        Some(Value::F64(number)) if number.is_finite() => {
            let _ = CompactFormatter.write_f64(out, *number);
        }
        Some(Value::F32(number)) if number.is_finite() => float32(out, *number),
        Some(Value::F64(_) | Value::F32(_)) => {
            null(out);
            return Err(NoValue::NotANumber);
        }
        Some(Value::Text(text)) => string(out, text),
        Some(Value::Json(text)) => match serde_json::from_str::<serde::de::IgnoredAny>(text) {
            Ok(_) => out.extend_from_slice(text.as_bytes()),
            Err(_) => {
                null(out);
                return Err(NoValue::NotJson);
            }
        },
    }
    Ok(())
}
