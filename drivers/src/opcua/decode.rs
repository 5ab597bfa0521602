//! From the server's values to samples.
//!
//! Numbers keep their width's meaning, numbers of an enumeration become its names, times become RFC 3339 text, localised
//! text loses its locale, a null text or byte string is an empty one; arrays and structures become JSON ([`super::json`]).
//! A value that is no finite number is bad quality.

use millrace_tags::{Moment, Quality, Reason, Sample, TagId, Timestamp, Value};
use opcua::types::{DataValue, DateTime, NodeId, StatusCode, Variant};
use serde_json::Value as Json;

use super::channel::Channel;
use super::json::Lexicon;
use super::settings::Item;
use super::status;
use super::types::{Names, Types};
use crate::SessionError;

/// 100 ns ticks from 1601-01-01 to 1970-01-01.
const TICKS_TO_UNIX: i64 = 116_444_736_000_000_000;

/// Where values come from: what is needed to understand them.
#[derive(Clone, Copy)]
pub(super) struct Origin<'a> {
    pub(super) channel: &'a Channel,
    pub(super) types: &'a Types,
    pub(super) items: &'a [Item],
    /// Of the items, by place.
    pub(super) nodes: &'a [Option<NodeId>],
}

/// The samples of values by the place of their items, each with its place. Asks the server for types that are met for the first time.
///
/// # Errors
/// Where the session breaks over that.
pub(super) async fn samples(
    origin: Origin<'_>,
    values: Vec<(usize, DataValue)>,
    gateway_time: Moment,
) -> Result<Vec<(usize, Sample)>, SessionError> {
    let node = |place: usize| {
        origin.items.get(place).filter(|item| item.named)?;
        origin.nodes.get(place)?.clone()
    };
    let borrowed = values.iter().map(|(place, data)| (*place, data));
    let channel = origin.channel;
    origin.types.learn(channel, borrowed, node).await?;
    let (known, context) = (origin.types.read(), channel.context().read());
    let lexicon = Lexicon::new(&known, &context);
    let sample = |(place, data): (usize, DataValue)| {
        let names = known.names(place).map(|names| &**names);
        let item = origin.items.get(place)?;
        let data = match item.node.range() {
            Some(range) => range.cut(data),
            None => data,
        };
        let sample = sample(item.tag, data, gateway_time, names, &lexicon);
        Some((place, sample))
    };
    Ok(values.into_iter().filter_map(sample).collect())
}

/// The sample that a data value is. Only good and uncertain samples carry a value. `names` are those of its numbers,
/// where it is of an enumeration.
pub(super) fn sample(
    tag: TagId,
    data: DataValue,
    gateway_time: Moment,
    names: Option<&Names>,
    lexicon: &Lexicon<'_>,
) -> Sample {
    // Some servers know only when they saw the value.
    let source_time = [&data.source_timestamp, &data.server_timestamp];
    let mut source_time = source_time.into_iter().flatten().filter_map(timestamp);
    let status = data.status.unwrap_or(StatusCode::Good);
    let (value, quality) = match status::quality(status) {
        Quality::Bad(reason) => (None, Quality::Bad(reason)),
        quality => match meant(data.value.unwrap_or_default(), names, lexicon) {
            Ok((value, None)) => (Some(value), quality),
            Ok((value, Some(doubt))) => (Some(value), Quality::Uncertain(doubt)),
            Err(reason) => (None, Quality::Bad(reason)),
        },
    };
    Sample {
        tag,
        value,
        quality,
        source_time: source_time.next(),
        gateway_time,
    }
}

/// The value as a person sees it; `None` where there is none.
pub(super) fn shown(
    data: &DataValue,
    names: Option<&Names>,
    lexicon: &Lexicon<'_>,
) -> Option<Value> {
    let held = data.value.clone()?;
    meant(held, names, lexicon).ok().map(|(value, _)| value)
}

/// The value, by name where its number has one. As with `states` of Modbus, a number that has none among the names is
/// shown as itself and is uncertain.
fn meant(
    variant: Variant,
    names: Option<&Names>,
    lexicon: &Lexicon<'_>,
) -> Result<(Value, Option<Reason>), Reason> {
    Ok(match (variant, names) {
        (Variant::Int32(number), Some(names)) => match names.name(number) {
            Some(name) => (Value::Text(name.into()), None),
            None => (Value::I64(number.into()), Some(Reason::OutOfRange)),
        },
        (Variant::Array(array), Some(names)) => {
            let json = lexicon.array(&array, Some(names));
            (Value::Json(json.to_string().into()), None)
        }
        (variant, _) => (value(variant, lexicon)?, None),
    })
}

/// `None` for times that do not fit into nanoseconds of 1970, such as the null time of 1601.
pub(super) fn timestamp(time: &DateTime) -> Option<Timestamp> {
    // The library's own way, by ticks, takes several times as long.
    time.as_chrono().timestamp_nanos_opt().map(Timestamp)
}

/// The time as servers write it.
pub(super) fn date_time(time: Timestamp) -> DateTime {
    DateTime::from((time.0 / 100).saturating_add(TICKS_TO_UNIX))
}

/// Whether a server's queue for this item ran over, so that older values are gone. Some servers forget
/// to set the info type that the bit belongs to (Part 4, 7.39.1), so it is not asked for.
pub(super) fn overflowed(data: &DataValue) -> bool {
    data.status.is_some_and(|status| status.overflow())
}

pub(super) fn value(variant: Variant, lexicon: &Lexicon<'_>) -> Result<Value, Reason> {
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
        Variant::Variant(inner) => value(*inner, lexicon)?,
        _ => match lexicon.json(&variant) {
            Json::String(text) => Value::Text(text.into()),
            other => Value::Json(other.to_string().into()),
        },
    })
}

#[cfg(test)]
mod tests;
