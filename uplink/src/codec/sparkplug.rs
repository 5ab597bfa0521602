//! Sparkplug B 3.0: an edge node with its births, aliases and numbers, without a connection.
//!
//! The one codec that remembers: a host knows metrics only from births, so what may be sent follows from what was. An
//! [`EdgeNode`] makes the messages; whoever has the connection asks for the will before each CONNECT, for the births
//! right after it and whenever a host asks for a rebirth, and sends everything in order at QoS 0. No profile uses it
//! yet: our session publishes at QoS 1 with one will for all its connections.
//!
//! | value | travels as |
//! |---|---|
//! | bool | Boolean |
//! | integers | Int64, UInt64 |
//! | floats | Float, Double |
//! | text, JSON | String |
//! | bytes | Bytes |
//! | none | `is_null` |
//! | not good | the properties `Quality` (0 bad, 500 uncertain) and `Reason` |
//! | backlog | `is_historical` |
//!
//! A device is a source, one level of the topic. Aliases are unique in the whole node; a metric that is new, or whose
//! type has changed, makes a DBIRTH go before the data. Times are whole milliseconds and mandatory: before the clock
//! is known a record is refused. Sparkplug has no place for stream and numbers, and no acknowledgements.

mod wire;

use std::collections::BTreeMap;

use millrace_tags::{Lane, Parcel, Quality, Records, Value, ValueType};
use prost::Message as _;

use super::rows::{Row, rows};
use super::{EncodeError, TimeChoice, payload_limit};
use crate::message::Message;
use crate::topic::Names;
use wire::{Datatype, Metric, Payload, PropertySet, PropertyValue, Worth};

/// The metric by which a host asks for births.
const REBIRTH: &str = "Node Control/Rebirth";
const BAD: u32 = 0;
const STALE: u32 = 500;

/// What a host asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum HostCommand {
    /// All births again, at once.
    Rebirth,
    /// A value for a tag.
    Write {
        /// The device.
        source: String,
        /// The tag.
        tag: String,
        /// The value; `None`: the host sends null.
        value: Option<Value>,
    },
}

/// A metric as it was born, or will be.
#[derive(Debug, Clone)]
struct Known {
    alias: u64,
    datatype: Datatype,
    /// The newest that is not backlog, ready for a birth.
    last: Metric,
    /// The host knows it in this session.
    born: bool,
}

#[derive(Debug, Clone, Default)]
struct Device {
    metrics: BTreeMap<String, Known>,
}

/// An edge node of one group.
#[derive(Debug, Clone)]
pub struct EdgeNode {
    group: String,
    node: String,
    devices: BTreeMap<String, Device>,
    bd_seq: u8,
    seq: u8,
    next_alias: u64,
}

impl EdgeNode {
    /// A node without devices; ids become one level of a topic each.
    pub fn new(group: &str, node: &str) -> Self {
        Self {
            group: Names::Level.clean(group),
            node: Names::Level.clean(node),
            devices: BTreeMap::new(),
            bd_seq: 0,
            seq: 0,
            next_alias: 1,
        }
    }

    /// Adds a device with its tags, before it has values. Devices and tags that are not added are born with
    /// their first data.
    pub fn add<'a>(&mut self, source: &str, tags: impl IntoIterator<Item = (&'a str, ValueType)>) {
        for (tag, value_type) in tags {
            self.learn(source, tag, of_type(value_type), None);
        }
        self.devices.entry(source.to_owned()).or_default();
    }

    /// Begins a session: the will of this CONNECT. `bd_seq` is one more than that of the CONNECT before, also over
    /// restarts; whoever has a disk counts.
    pub fn connecting(&mut self, bd_seq: u8) -> Message {
        self.bd_seq = bd_seq;
        for device in self.devices.values_mut() {
            for known in device.metrics.values_mut() {
                known.born = false;
            }
        }
        self.death()
    }

    /// NDEATH: the will, and what goes before a clean DISCONNECT.
    pub fn death(&self) -> Message {
        let payload = Payload {
            timestamp: None,
            metrics: vec![self.bd_seq_metric(None)],
            seq: None,
        };
        Message::new(self.topic("NDEATH", None), payload.encode_to_vec())
    }

    /// NBIRTH and all DBIRTHs: right after CONNECT and on [`HostCommand::Rebirth`]. Numbers begin at 0.
    pub fn births(&mut self, now_ms: u64) -> Vec<Message> {
        self.seq = 0;
        let control = Metric {
            name: Some(REBIRTH.to_owned()),
            timestamp: Some(now_ms),
            datatype: Some(Datatype::Boolean as u32),
            value: Some(Worth::Boolean(false)),
            ..Metric::default()
        };
        let metrics = vec![self.bd_seq_metric(Some(now_ms)), control];
        let mut messages = vec![self.message("NBIRTH", None, now_ms, metrics)];
        let sources: Vec<String> = self.devices.keys().cloned().collect();
        for source in sources {
            messages.push(self.device_birth(&source, now_ms));
        }
        messages
    }

    /// DDEATH of a device that was lost.
    pub fn lost(&mut self, source: &str, now_ms: u64) -> Option<Message> {
        let device = self.devices.get_mut(source)?;
        for known in device.metrics.values_mut() {
            known.born = false;
        }
        Some(self.message("DDEATH", Some(source), now_ms, Vec::new()))
    }

    /// The samples of a parcel as DDATA, each no larger than `max_message`, with the DBIRTH before it that the host
    /// needs. Events make no message. After an error nothing has changed.
    ///
    /// # Errors
    /// When a record cannot be encoded; it names the record.
    pub fn encode(
        &mut self,
        parcel: &Parcel,
        max_message: usize,
    ) -> Result<Vec<Message>, EncodeError> {
        let mut next = self.clone();
        let messages = next.try_encode(parcel, max_message)?;
        *self = next;
        Ok(messages)
    }

    fn try_encode(
        &mut self,
        parcel: &Parcel,
        max_message: usize,
    ) -> Result<Vec<Message>, EncodeError> {
        let Records::Samples(samples) = &parcel.records else {
            return Ok(Vec::new());
        };
        let rows = rows(parcel, samples, TimeChoice::Source)?;
        let historical = parcel.lane == Lane::Backlog;
        let source: &str = &parcel.source;
        let mut messages = Vec::new();
        let mut metrics: Vec<Metric> = Vec::new();
        let mut bytes = 0;
        let mut at = 0;
        let limit = payload_limit(&self.topic("DDATA", Some(source)), max_message);
        for row in &rows {
            let time = row
                .time
                .and_then(|time| u64::try_from(time / 1_000_000).ok());
            let time = time.ok_or_else(|| EncodeError::NoClock {
                source_name: source.to_owned(),
                seq: row.seq,
            })?;
            let mut metric = of_row(row, time);
            // A birth tells what is now: backlog is none of that.
            let now = (!historical).then_some(&metric);
            let known = self.learn(source, row.tag, row.value.map(of_value), now);
            if !known {
                // What was gathered is of the type that the host knows still.
                if !metrics.is_empty() {
                    let gathered = std::mem::take(&mut metrics);
                    messages.push(self.message("DDATA", Some(source), at, gathered));
                    bytes = 0;
                }
                messages.push(self.device_birth(source, time));
            }
            metric.is_historical = historical.then_some(true);
            metric.alias = self.alias(source, row.tag);
            // Tag and length of the metric in the payload.
            let size = metric.encoded_len() + 6;
            // Time and number of the payload.
            if size + 16 > limit {
                return Err(EncodeError::TooLarge {
                    source_name: source.to_owned(),
                    seq: row.seq,
                    bytes: size + 16 + (max_message - limit.min(max_message)),
                    limit: max_message,
                });
            }
            if bytes + size + 16 > limit {
                let gathered = std::mem::take(&mut metrics);
                messages.push(self.message("DDATA", Some(source), at, gathered));
                bytes = 0;
            }
            if !historical {
                self.remember(source, row.tag, &metric);
            }
            bytes += size;
            at = time;
            metrics.push(metric);
        }
        if !metrics.is_empty() {
            messages.push(self.message("DDATA", Some(source), at, metrics));
        }
        Ok(messages)
    }

    /// What a host asks for in an NCMD or DCMD; metrics that are not known are skipped, as Sparkplug wants.
    pub fn commands(&self, topic: &str, payload: &[u8]) -> Vec<HostCommand> {
        let Ok(payload) = Payload::decode(payload) else {
            return Vec::new();
        };
        if topic == self.topic("NCMD", None) {
            let asks = payload.metrics.iter().any(|metric| {
                metric.name.as_deref() == Some(REBIRTH)
                    && metric.value == Some(Worth::Boolean(true))
            });
            return asks.then_some(HostCommand::Rebirth).into_iter().collect();
        }
        let mut commands = Vec::new();
        for (source, device) in &self.devices {
            if topic != self.topic("DCMD", Some(source)) {
                continue;
            }
            for metric in &payload.metrics {
                let found = device
                    .metrics
                    .iter()
                    .find(|(tag, known)| match &metric.name {
                        Some(name) => name == *tag,
                        None => metric.alias == Some(known.alias),
                    });
                if let Some((tag, known)) = found {
                    commands.push(HostCommand::Write {
                        source: source.clone(),
                        tag: tag.clone(),
                        value: written(metric, known.datatype),
                    });
                }
            }
        }
        commands
    }

    /// The topic filters of a host's commands, to subscribe at QoS 1 before the births.
    pub fn subscriptions(&self) -> Vec<String> {
        vec![
            self.topic("NCMD", None),
            format!("{}/+", self.topic("DCMD", None)),
        ]
    }

    fn topic(&self, kind: &str, source: Option<&str>) -> String {
        let (group, node) = (&self.group, &self.node);
        match source {
            None => format!("spBv1.0/{group}/{kind}/{node}"),
            Some(source) => format!(
                "spBv1.0/{group}/{kind}/{node}/{}",
                Names::Level.clean(source)
            ),
        }
    }

    fn bd_seq_metric(&self, timestamp: Option<u64>) -> Metric {
        Metric {
            name: Some("bdSeq".to_owned()),
            timestamp,
            datatype: Some(Datatype::Int64 as u32),
            value: Some(Worth::Long(u64::from(self.bd_seq))),
            ..Metric::default()
        }
    }

    fn message(
        &mut self,
        kind: &str,
        source: Option<&str>,
        timestamp: u64,
        metrics: Vec<Metric>,
    ) -> Message {
        let payload = Payload {
            timestamp: Some(timestamp),
            metrics,
            seq: Some(u64::from(self.seq)),
        };
        self.seq = self.seq.wrapping_add(1);
        Message::new(self.topic(kind, source), payload.encode_to_vec())
    }

    fn device_birth(&mut self, source: &str, now_ms: u64) -> Message {
        let mut metrics = Vec::new();
        if let Some(device) = self.devices.get_mut(source) {
            for (tag, known) in &mut device.metrics {
                known.born = true;
                metrics.push(Metric {
                    name: Some(tag.clone()),
                    alias: Some(known.alias),
                    timestamp: Some(known.last.timestamp.unwrap_or(now_ms)),
                    datatype: Some(known.datatype as u32),
                    ..known.last.clone()
                });
            }
        }
        self.message("DBIRTH", Some(source), now_ms, metrics)
    }

    /// Makes the metric known; whether the host knows it already, with this type.
    fn learn(
        &mut self,
        source: &str,
        tag: &str,
        datatype: Option<Datatype>,
        first: Option<&Metric>,
    ) -> bool {
        let device = self.devices.entry(source.to_owned()).or_default();
        if let Some(known) = device.metrics.get_mut(tag) {
            // A missing value has the type that the metric has.
            if let Some(datatype) = datatype.filter(|datatype| *datatype != known.datatype) {
                known.datatype = datatype;
                known.last = first.map_or_else(nothing, Metric::clone);
                known.born = false;
            }
            return known.born;
        }
        let alias = self.next_alias;
        self.next_alias += 1;
        let known = Known {
            alias,
            datatype: datatype.unwrap_or(Datatype::Text),
            last: first.map_or_else(nothing, Metric::clone),
            born: false,
        };
        device.metrics.insert(tag.to_owned(), known);
        false
    }

    fn alias(&self, source: &str, tag: &str) -> Option<u64> {
        Some(self.devices.get(source)?.metrics.get(tag)?.alias)
    }

    fn remember(&mut self, source: &str, tag: &str, metric: &Metric) {
        let device = self.devices.get_mut(source);
        if let Some(known) = device.and_then(|device| device.metrics.get_mut(tag)) {
            known.last = metric.clone();
        }
    }
}

/// A metric that had no value yet.
fn nothing() -> Metric {
    Metric {
        is_null: Some(true),
        ..Metric::default()
    }
}

fn of_type(value_type: ValueType) -> Option<Datatype> {
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

fn of_value(value: &Value) -> Datatype {
    of_type(value.value_type()).unwrap_or(Datatype::Text)
}

fn of_row(row: &Row<'_>, time: u64) -> Metric {
    let value = row.value.map(|value| match value {
        Value::Bool(flag) => Worth::Boolean(*flag),
        // Two's complement in an unsigned field.
        Value::I64(number) => Worth::Long(*number as u64),
        Value::U64(number) => Worth::Long(*number),
        Value::F64(number) => Worth::Double(*number),
        Value::F32(number) => Worth::Float(*number),
        Value::Text(text) | Value::Json(text) => Worth::Text(text.to_string()),
        Value::Bytes(bytes) => Worth::Bytes(bytes.to_vec()),
    });
    let quality = match row.quality {
        Quality::Good => None,
        Quality::Uncertain(_) => Some(STALE),
        Quality::Bad(_) => Some(BAD),
    };
    let properties = quality.map(|quality| PropertySet {
        keys: vec!["Quality".to_owned(), "Reason".to_owned()],
        values: vec![
            PropertyValue {
                datatype: Some(Datatype::Int32 as u32),
                int: Some(quality),
                text: None,
            },
            PropertyValue {
                datatype: Some(Datatype::Text as u32),
                int: None,
                text: Some(row.reason().into_owned()),
            },
        ],
    });
    Metric {
        timestamp: Some(time),
        is_null: value.is_none().then_some(true),
        properties,
        value,
        ..Metric::default()
    }
}

/// What a host writes, by the type that the metric has; some hosts send 32 bits in either field.
fn written(metric: &Metric, datatype: Datatype) -> Option<Value> {
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
