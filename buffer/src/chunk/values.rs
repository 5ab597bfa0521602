//! Columns of values, exact to the bit.
//!
//! Numbers of a process are mostly decimals with few digits (a float that is an integer over a power of
//! ten) or counters: both become small integer differences. Other floats are stored as the exclusive or
//! with their predecessor, byte by byte in planes.

use std::sync::Arc;

use millrace_tags::Value;

use crate::wire::{Cursor, Malformed, put_signed, put_varint};

/// The most decimals that are tried; more do not shorten the result.
const DECIMALS_MAX: usize = 6;
const POWERS_OF_TEN: [f64; DECIMALS_MAX + 1] = [1.0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6];
/// Integers up to here survive the way through an f64.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

const NONE: u8 = 0;
const BOOL: u8 = 1;
const I64: u8 = 2;
const U64: u8 = 3;
const F64_SCALED: u8 = 4;
const F64_XOR: u8 = 5;
const F32_SCALED: u8 = 6;
const F32_XOR: u8 = 7;
const TEXT: u8 = 8;
const BYTES: u8 = 9;
const JSON: u8 = 10;
/// Values of several types: each with its own form.
const MIXED: u8 = 15;

/// Room for intermediate results, kept between columns.
#[derive(Default)]
pub(crate) struct Scratch {
    integers: Vec<i64>,
    floats: Vec<f64>,
    bits: Vec<u64>,
}

/// Writes the column and says which form it took (0 to 15).
pub(crate) fn put_values<'a>(
    out: &mut Vec<u8>,
    scratch: &mut Scratch,
    values: impl Iterator<Item = &'a Value> + Clone,
) -> u8 {
    let Some(first) = values.clone().next() else {
        return NONE;
    };
    let alike = match first {
        Value::I64(_) => gather(&mut scratch.integers, values.clone(), |v| match v {
            Value::I64(i) => Some(*i),
            _ => None,
        }),
        Value::U64(_) => gather(&mut scratch.integers, values.clone(), |v| match v {
            Value::U64(u) => Some(*u as i64),
            _ => None,
        }),
        Value::F64(_) => gather(&mut scratch.floats, values.clone(), |v| match v {
            Value::F64(f) => Some(*f),
            _ => None,
        }),
        Value::F32(_) => gather(&mut scratch.floats, values.clone(), |v| match v {
            Value::F32(f) => Some(f64::from(*f)),
            _ => None,
        }),
        Value::Bool(_) | Value::Text(_) | Value::Bytes(_) | Value::Json(_) => {
            let kind = std::mem::discriminant(first);
            values.clone().all(|v| std::mem::discriminant(v) == kind)
        }
    };
    if !alike {
        for value in values {
            let at = out.len();
            out.push(0);
            let form = put_values(out, scratch, std::iter::once(value));
            out[at] = form;
        }
        return MIXED;
    }
    match first {
        Value::Bool(_) => put_bools(out, values),
        Value::I64(_) => {
            put_integers(out, &scratch.integers);
            I64
        }
        Value::U64(_) => {
            put_integers(out, &scratch.integers);
            U64
        }
        Value::F64(_) => put_f64(out, scratch),
        Value::F32(_) => put_f32(out, scratch, values),
        Value::Text(_) => put_strings(out, values, TEXT),
        Value::Bytes(_) => put_strings(out, values, BYTES),
        Value::Json(_) => put_strings(out, values, JSON),
    }
}

/// Copies the values into `column` as far as they are of the type that `of` takes. `true`: all are.
fn gather<'a, T>(
    column: &mut Vec<T>,
    values: impl Iterator<Item = &'a Value>,
    of: impl Fn(&Value) -> Option<T>,
) -> bool {
    column.clear();
    for value in values {
        match of(value) {
            Some(value) => column.push(value),
            None => return false,
        }
    }
    true
}

fn put_bools<'a>(out: &mut Vec<u8>, values: impl Iterator<Item = &'a Value>) -> u8 {
    let bits = values.map(|v| matches!(v, Value::Bool(true)));
    put_bits(out, bits);
    BOOL
}

/// Writes bits, eight to a byte, lowest first.
pub(crate) fn put_bits(out: &mut Vec<u8>, bits: impl Iterator<Item = bool>) {
    let (mut byte, mut n) = (0u8, 0u8);
    for bit in bits {
        byte |= u8::from(bit) << n;
        n += 1;
        if n == 8 {
            out.push(byte);
            (byte, n) = (0, 0);
        }
    }
    if n > 0 {
        out.push(byte);
    }
}

/// Reads `count` bits.
pub(crate) fn bits<'a>(
    input: &mut Cursor<'a>,
    count: usize,
) -> Result<impl Iterator<Item = bool> + 'a, Malformed> {
    let bytes = input.take(count.div_ceil(8))?;
    Ok((0..count).map(move |i| bytes[i / 8] >> (i % 8) & 1 == 1))
}

fn put_integers(out: &mut Vec<u8>, integers: &[i64]) {
    let mut last = 0i64;
    for &i in integers {
        put_signed(out, i.wrapping_sub(last));
        last = i;
    }
}

/// Fills `integers` with `value * 10^k` for the smallest `k` that keeps every value exactly.
fn scale(
    integers: &mut Vec<i64>,
    values: &[f64],
    exact: impl Fn(f64, f64) -> bool,
) -> Option<usize> {
    let mut decimals = 0;
    'decimals: while decimals <= DECIMALS_MAX {
        let power = POWERS_OF_TEN[decimals];
        integers.clear();
        for &value in values {
            let scaled = value * power;
            if scaled.is_nan() || scaled.abs() > EXACT_MAX {
                return None;
            }
            let integer = nearest(scaled);
            // Never so for -0, since no integer is that.
            if !exact(integer as f64 / power, value) {
                decimals += 1;
                continue 'decimals;
            }
            integers.push(integer);
        }
        return Some(decimals);
    }
    None
}

/// The nearest integer to a float within [`EXACT_MAX`]: `round` is a call into the C library.
#[inline]
fn nearest(float: f64) -> i64 {
    let whole = float as i64;
    let rest = float - whole as f64;
    whole + i64::from(rest >= 0.5) - i64::from(rest <= -0.5)
}

fn put_f64(out: &mut Vec<u8>, scratch: &mut Scratch) -> u8 {
    // Compared as bits, so that -0.0 and 0.0 stay apart.
    let exact = |a: f64, b: f64| a.to_bits() == b.to_bits();
    if let Some(decimals) = scale(&mut scratch.integers, &scratch.floats, exact) {
        out.push(decimals as u8);
        put_integers(out, &scratch.integers);
        return F64_SCALED;
    }
    scratch.bits.clear();
    scratch
        .bits
        .extend(scratch.floats.iter().map(|f| f.to_bits()));
    put_xor(out, &mut scratch.bits, 8);
    F64_XOR
}

fn put_f32<'a>(
    out: &mut Vec<u8>,
    scratch: &mut Scratch,
    values: impl Iterator<Item = &'a Value>,
) -> u8 {
    let exact = |a: f64, b: f64| (a as f32).to_bits() == (b as f32).to_bits();
    if let Some(decimals) = scale(&mut scratch.integers, &scratch.floats, exact) {
        out.push(decimals as u8);
        put_integers(out, &scratch.integers);
        return F32_SCALED;
    }
    // The way through an f64 may change the bits of what is not a number.
    scratch.bits.clear();
    scratch.bits.extend(values.filter_map(|v| match v {
        Value::F32(f) => Some(u64::from(f.to_bits())),
        _ => None,
    }));
    put_xor(out, &mut scratch.bits, 4);
    F32_XOR
}

fn put_xor(out: &mut Vec<u8>, bits: &mut [u64], width: usize) {
    let mut last = 0;
    for value in bits.iter_mut() {
        (*value, last) = (*value ^ last, *value);
    }
    for plane in 0..width {
        out.extend(bits.iter().map(|b| (b >> (8 * plane)) as u8));
    }
}

/// Length + 1 and the bytes; 0 stands for the same as before.
fn put_strings<'a>(out: &mut Vec<u8>, values: impl Iterator<Item = &'a Value>, form: u8) -> u8 {
    let mut last: Option<&[u8]> = None;
    for value in values {
        let bytes = match value {
            Value::Text(text) | Value::Json(text) => text.as_bytes(),
            Value::Bytes(bytes) => bytes,
            _ => &[],
        };
        if last == Some(bytes) {
            put_varint(out, 0);
        } else {
            put_varint(out, bytes.len() as u64 + 1);
            out.extend_from_slice(bytes);
        }
        last = Some(bytes);
    }
    form
}

/// Appends `count` values of the form to `values`.
pub(crate) fn read_values(
    input: &mut Cursor<'_>,
    form: u8,
    count: usize,
    values: &mut Vec<Option<Value>>,
) -> Result<(), Malformed> {
    match form {
        NONE if count == 0 => Ok(()),
        BOOL => {
            values.extend(bits(input, count)?.map(|bit| Some(Value::Bool(bit))));
            Ok(())
        }
        I64 => read_integers(input, count, |i| values.push(Some(Value::I64(i)))),
        U64 => read_integers(input, count, |i| values.push(Some(Value::U64(i as u64)))),
        F64_SCALED => {
            let power = power(input)?;
            read_integers(input, count, |i| {
                values.push(Some(Value::F64(i as f64 / power)));
            })
        }
        F32_SCALED => {
            let power = power(input)?;
            read_integers(input, count, |i| {
                values.push(Some(Value::F32((i as f64 / power) as f32)));
            })
        }
        F64_XOR => read_xor(input, count, 8, |b| {
            values.push(Some(Value::F64(f64::from_bits(b))));
        }),
        F32_XOR => read_xor(input, count, 4, |b| {
            values.push(Some(Value::F32(f32::from_bits(b as u32))));
        }),
        TEXT | BYTES | JSON => read_strings(input, form, count, values),
        MIXED => {
            for _ in 0..count {
                let form = input.u8()?;
                if form == MIXED || form == NONE {
                    return Err(Malformed("a mixed column holds an unknown form"));
                }
                read_values(input, form, 1, values)?;
            }
            Ok(())
        }
        _ => Err(Malformed("a value column has an unknown form")),
    }
}

fn power(input: &mut Cursor<'_>) -> Result<f64, Malformed> {
    POWERS_OF_TEN
        .get(usize::from(input.u8()?))
        .copied()
        .ok_or(Malformed("a value column has too many decimals"))
}

#[inline]
fn read_integers(
    input: &mut Cursor<'_>,
    count: usize,
    mut push: impl FnMut(i64),
) -> Result<(), Malformed> {
    let mut last = 0i64;
    for _ in 0..count {
        last = last.wrapping_add(input.signed()?);
        push(last);
    }
    Ok(())
}

fn read_xor(
    input: &mut Cursor<'_>,
    count: usize,
    width: usize,
    mut push: impl FnMut(u64),
) -> Result<(), Malformed> {
    let planes = input.take(count * width)?;
    let mut last = 0u64;
    for i in 0..count {
        for plane in 0..width {
            last ^= u64::from(planes[plane * count + i]) << (8 * plane);
        }
        push(last);
    }
    Ok(())
}

fn read_strings(
    input: &mut Cursor<'_>,
    form: u8,
    count: usize,
    values: &mut Vec<Option<Value>>,
) -> Result<(), Malformed> {
    let text = |bytes: &[u8]| -> Result<Arc<str>, Malformed> {
        std::str::from_utf8(bytes)
            .map(Arc::from)
            .map_err(|_| Malformed("a text is not UTF-8"))
    };
    let mut last: Option<Value> = None;
    for _ in 0..count {
        let value = match input.varint()? {
            0 => last
                .clone()
                .ok_or(Malformed("a text repeats one that is not there"))?,
            len => {
                let len = usize::try_from(len - 1)
                    .map_err(|_| Malformed("a length is beyond its limit"))?;
                let bytes = input.take(len)?;
                match form {
                    TEXT => Value::Text(text(bytes)?),
                    JSON => Value::Json(text(bytes)?),
                    _ => Value::Bytes(bytes.into()),
                }
            }
        };
        last = Some(value.clone());
        values.push(Some(value));
    }
    Ok(())
}
