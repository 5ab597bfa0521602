//! From a value to what the server's own type takes.
//!
//! Nothing is cut, rounded or guessed: what could not be read back as it was written is refused, with what fits. The one
//! exception is a decimal number for a Float, which is the nearest one, because nobody means another by it.

use millrace_tags::Value;
use opcua::types::{
    Array, ByteString, DateTime, Guid, LocalizedText, NodeId, QualifiedName, StatusCode, UAString,
    Variant, VariantScalarTypeId,
};
use serde_json::Value as Json;

use super::types::{Names, Shape};

/// Arrays in arrays; no server has more dimensions.
const DIMENSIONS_MAX: usize = 8;

/// What a node takes.
pub(super) struct Target<'a> {
    /// Its data type.
    pub(super) shape: &'a Shape,
    /// Whether it holds an array.
    pub(super) is_array: bool,
    /// What it holds now: decides where its type leaves it open.
    pub(super) present: &'a Variant,
}

/// Why a value does not fit: a sentence.
type Unfit = String;

impl Target<'_> {
    /// The value as the server takes it.
    pub(super) fn encode(&self, value: &Value) -> Result<Variant, Unfit> {
        let (kind, names) = self.kind()?;
        if self.is_array {
            return self.array(kind, names, value);
        }
        self.scalar(kind, names, value)
    }

    /// What a person typed, as the node's type has it: a text may stand without quotes.
    pub(super) fn typed(&self, text: &str) -> Value {
        let is_text = match self.kind() {
            Ok((_, Some(_))) => true,
            Ok((kind, None)) => !self.is_array && is_text(kind),
            Err(_) => false,
        };
        let json = serde_json::from_str::<Json>(text.trim());
        match json {
            Ok(Json::String(quoted)) => Value::Text(quoted.into()),
            Ok(Json::Array(_)) if !is_text => Value::Json(text.trim().into()),
            // A number of an enumeration stays one.
            Ok(json) if !is_text || matches!(self.shape, Shape::Enumeration(_)) => {
                plain(&json).unwrap_or_else(|| Value::Text(text.into()))
            }
            _ if is_text => Value::Text(text.into()),
            _ => match text.trim() {
                "on" => Value::Bool(true),
                "off" => Value::Bool(false),
                plain => Value::Text(plain.into()),
            },
        }
    }

    /// The built-in type that goes over the wire, and the names of its numbers.
    fn kind(&self) -> Result<(VariantScalarTypeId, Option<&Names>), Unfit> {
        match self.shape {
            Shape::Enumeration(names) => Ok((VariantScalarTypeId::Int32, Some(names))),
            Shape::BuiltIn(VariantScalarTypeId::Variant) => {
                let present = match self.present {
                    Variant::Array(array) => Some(array.value_type),
                    present => present.scalar_type_id(),
                };
                let kind = present.ok_or("its type leaves open what it takes, and it holds nothing now")?;
                Ok((kind, None))
            }
            Shape::BuiltIn(kind) => Ok((*kind, None)),
            Shape::Structure(_) => Err(
                "it is a structure, which cannot be written as a whole; write the nodes of its fields, where the server has them".to_owned(),
            ),
            Shape::Unknown => Err("the server does not say what its type is".to_owned()),
        }
    }

    fn array(
        &self,
        kind: VariantScalarTypeId,
        names: Option<&Names>,
        value: &Value,
    ) -> Result<Variant, Unfit> {
        let wrong = || {
            format!(
                "{} is no array, and the node takes one, such as [1,2]",
                shown(value)
            )
        };
        let (Value::Json(text) | Value::Text(text)) = value else {
            return Err(wrong());
        };
        let Ok(Json::Array(elements)) = serde_json::from_str(text) else {
            return Err(wrong());
        };
        let (mut flat, mut dimensions) = (Vec::new(), Vec::new());
        flatten(&elements, 0, &mut dimensions, &mut flat)?;
        let mut values = Vec::with_capacity(flat.len());
        for (index, element) in flat.into_iter().enumerate() {
            let value = plain(element)
                .ok_or_else(|| format!("element {index}: {element} is no value of a node"))?;
            let value = self.scalar(kind, names, &value);
            values.push(value.map_err(|unfit| format!("element {index}: {unfit}"))?);
        }
        let array = match dimensions.len() {
            0 | 1 => Array::new(kind, values),
            _ => Array::new_multi(kind, values, dimensions),
        };
        let array = array.map_err(|error| format!("{} does not fit: {error:?}", shown(value)))?;
        Ok(Variant::from(array))
    }

    fn scalar(
        &self,
        kind: VariantScalarTypeId,
        names: Option<&Names>,
        value: &Value,
    ) -> Result<Variant, Unfit> {
        if let Some(names) = names {
            return enumerated(names, value);
        }
        let expects = |what: &str| {
            Err(format!(
                "{} is no {what}, and the node is a {kind}",
                shown(value)
            ))
        };
        Ok(match kind {
            VariantScalarTypeId::Boolean => match value {
                Value::Bool(on) => Variant::Boolean(*on),
                Value::I64(0) | Value::U64(0) => Variant::Boolean(false),
                Value::I64(1) | Value::U64(1) => Variant::Boolean(true),
                _ => return expects("true, false, 1 or 0"),
            },
            VariantScalarTypeId::SByte => Variant::SByte(whole(kind, value)?),
            VariantScalarTypeId::Byte => Variant::Byte(whole(kind, value)?),
            VariantScalarTypeId::Int16 => Variant::Int16(whole(kind, value)?),
            VariantScalarTypeId::UInt16 => Variant::UInt16(whole(kind, value)?),
            VariantScalarTypeId::Int32 => Variant::Int32(whole(kind, value)?),
            VariantScalarTypeId::UInt32 => Variant::UInt32(whole(kind, value)?),
            VariantScalarTypeId::Int64 => Variant::Int64(whole(kind, value)?),
            VariantScalarTypeId::UInt64 => Variant::UInt64(whole(kind, value)?),
            VariantScalarTypeId::Float => Variant::Float(single(value)?),
            VariantScalarTypeId::Double => Variant::Double(double(kind, value)?),
            VariantScalarTypeId::StatusCode => {
                Variant::StatusCode(StatusCode::from(whole::<u32>(kind, value)?))
            }
            VariantScalarTypeId::ByteString => match value {
                Value::Bytes(bytes) => Variant::ByteString(ByteString::from(bytes.to_vec())),
                Value::Text(text) => match ByteString::from_base64(text) {
                    Some(bytes) => Variant::ByteString(bytes),
                    None => return expects("base64"),
                },
                _ => return expects("base64"),
            },
            kind => {
                let Value::Text(text) = value else {
                    return expects("text (in quotes: '\"12\"')");
                };
                match self.text(kind, text) {
                    Some(variant) => variant,
                    None => return expects(form(kind)),
                }
            }
        })
    }

    /// Types that are written as text. `None` where it is not of the type's form.
    fn text(&self, kind: VariantScalarTypeId, text: &str) -> Option<Variant> {
        Some(match kind {
            VariantScalarTypeId::String => Variant::from(text),
            VariantScalarTypeId::XmlElement => Variant::XmlElement(UAString::from(text).into()),
            VariantScalarTypeId::LocalizedText => {
                let locale = match self.present {
                    Variant::LocalizedText(present) => present.locale.clone(),
                    _ => UAString::null(),
                };
                let text = UAString::from(text);
                Variant::from(LocalizedText { locale, text })
            }
            VariantScalarTypeId::DateTime => Variant::from(time(text)?),
            VariantScalarTypeId::Guid => Variant::from(text.parse::<Guid>().ok()?),
            VariantScalarTypeId::NodeId => Variant::from(text.parse::<NodeId>().ok()?),
            VariantScalarTypeId::QualifiedName => {
                let name = match text.split_once(':') {
                    Some((index, name)) if index.parse::<u16>().is_ok() => {
                        QualifiedName::new(index.parse().ok()?, name)
                    }
                    _ => QualifiedName::new(0, text),
                };
                Variant::from(name)
            }
            _ => return None,
        })
    }
}

/// Types whose values are written as text.
fn is_text(kind: VariantScalarTypeId) -> bool {
    !matches!(
        kind,
        VariantScalarTypeId::Boolean
            | VariantScalarTypeId::SByte
            | VariantScalarTypeId::Byte
            | VariantScalarTypeId::Int16
            | VariantScalarTypeId::UInt16
            | VariantScalarTypeId::Int32
            | VariantScalarTypeId::UInt32
            | VariantScalarTypeId::Int64
            | VariantScalarTypeId::UInt64
            | VariantScalarTypeId::Float
            | VariantScalarTypeId::Double
            | VariantScalarTypeId::StatusCode
    )
}

fn form(kind: VariantScalarTypeId) -> &'static str {
    match kind {
        VariantScalarTypeId::DateTime => {
            "time such as 2026-11-21T07:30:15.123Z (years 1601 to 9999, down to 100 ns)"
        }
        VariantScalarTypeId::Guid => "GUID",
        VariantScalarTypeId::NodeId => "node id such as ns=2;s=Name",
        _ => "value that can be written",
    }
}

/// What reads back as it was written: within the range of OPC UA, and no finer than its 100 ns.
fn time(text: &str) -> Option<DateTime> {
    let time = DateTime::parse_from_rfc3339(text).ok()?;
    let is_clipped = time.is_null() || time == DateTime::endtimes();
    let is_fine = time.as_chrono().timestamp_subsec_nanos() % 100 == 0;
    (is_fine && !is_clipped).then_some(time)
}

fn enumerated(names: &Names, value: &Value) -> Result<Variant, Unfit> {
    let number = match value {
        Value::Text(name) => names.number(name),
        value => {
            let number: i32 = whole(VariantScalarTypeId::Int32, value)?;
            names.name(number).map(|_| number)
        }
    };
    number
        .map(Variant::Int32)
        .ok_or_else(|| format!("{} is none of the node's: {}", shown(value), names.listed()))
}

/// The elements one after the other; every array of a dimension must be as long as the others.
fn flatten<'j>(
    elements: &'j [Json],
    depth: usize,
    dimensions: &mut Vec<u32>,
    flat: &mut Vec<&'j Json>,
) -> Result<(), Unfit> {
    let uneven = || "its inner arrays are not of one length".to_owned();
    let length = u32::try_from(elements.len()).map_err(|_| uneven())?;
    match dimensions.get(depth) {
        Some(known) if *known != length => return Err(uneven()),
        Some(_) => {}
        None if !flat.is_empty() || depth >= DIMENSIONS_MAX => return Err(uneven()),
        None => dimensions.push(length),
    }
    for element in elements {
        match element {
            Json::Array(inner) => flatten(inner, depth + 1, dimensions, flat)?,
            _ if dimensions.len() > depth + 1 => return Err(uneven()),
            element => flat.push(element),
        }
    }
    Ok(())
}

fn plain(json: &Json) -> Option<Value> {
    Some(match json {
        Json::Bool(on) => Value::Bool(*on),
        Json::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
            (Some(whole), ..) => Value::U64(whole),
            (_, Some(whole), _) => Value::I64(whole),
            (.., number) => Value::F64(number?),
        },
        Json::String(text) => Value::Text(text.as_str().into()),
        _ => return None,
    })
}

/// Integer types with their ranges.
trait Whole: TryFrom<i128> {
    const LOW: i128;
    const HIGH: i128;
}

macro_rules! wholes {
    ($($kind:ty),*) => {
        $(impl Whole for $kind {
            const LOW: i128 = <$kind>::MIN as i128;
            const HIGH: i128 = <$kind>::MAX as i128;
        })*
    };
}

wholes!(i8, u8, i16, u16, i32, u32, i64, u64);

/// A whole number of the type; a whole float is taken for one.
fn whole<T: Whole>(kind: VariantScalarTypeId, value: &Value) -> Result<T, Unfit> {
    let (low, high) = (T::LOW, T::HIGH);
    let float =
        |number: f64| (number.is_finite() && number.fract() == 0.0).then_some(number as i128);
    let number = match value {
        Value::I64(number) => Some(i128::from(*number)),
        Value::U64(number) => Some(i128::from(*number)),
        Value::F64(number) => float(*number),
        Value::F32(number) => float(f64::from(*number)),
        _ => None,
    };
    let Some(number) = number else {
        return Err(format!(
            "{} is no whole number, and the node is a {kind}: {low} to {high}",
            shown(value)
        ));
    };
    T::try_from(number).map_err(|_| {
        format!(
            "{} does not fit the node's {kind}: the range is {low} to {high}",
            shown(value)
        )
    })
}

fn single(value: &Value) -> Result<f32, Unfit> {
    let kind = VariantScalarTypeId::Float;
    let single = match value {
        Value::F32(number) => *number,
        Value::F64(number) => *number as f32,
        _ => exact(kind, value, |whole| f64::from(whole as f32))? as f32,
    };
    let vanishes = single == 0.0 && value.as_f64().is_some_and(|number| number != 0.0);
    if single.is_finite() && !vanishes {
        return Ok(single);
    }
    Err(format!(
        "{} does not fit the node's {kind}: the range is {:e} to {:e}",
        shown(value),
        f32::MIN,
        f32::MAX
    ))
}

fn double(kind: VariantScalarTypeId, value: &Value) -> Result<f64, Unfit> {
    let double = match value {
        Value::F64(number) => *number,
        Value::F32(number) => f64::from(*number),
        _ => exact(kind, value, |whole| whole as f64)?,
    };
    match double.is_finite() {
        true => Ok(double),
        false => Err(format!(
            "{} is no finite number, and the node is a {kind}",
            shown(value)
        )),
    }
}

/// A whole number that the float holds exactly: a set point of 16777217 must not become 16777216.
fn exact(kind: VariantScalarTypeId, value: &Value, round: fn(i128) -> f64) -> Result<f64, Unfit> {
    let whole = match value {
        Value::I64(number) => i128::from(*number),
        Value::U64(number) => i128::from(*number),
        _ => {
            return Err(format!(
                "{} is no number, and the node is a {kind}",
                shown(value)
            ));
        }
    };
    let nearest = round(whole);
    match nearest as i128 == whole {
        true => Ok(nearest),
        false => Err(format!(
            "{whole} would become {nearest} in the node's {kind}"
        )),
    }
}

/// As a person reads it.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::Bool(bit) => bit.to_string(),
        Value::I64(number) => number.to_string(),
        Value::U64(number) => number.to_string(),
        Value::F64(number) => number.to_string(),
        Value::F32(number) => number.to_string(),
        Value::Text(text) => format!("{text:?}"),
        Value::Bytes(bytes) => format!("{} bytes", bytes.len()),
        Value::Json(json) => json.to_string(),
    }
}

#[cfg(test)]
mod tests;
