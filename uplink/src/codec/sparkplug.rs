//! Sparkplug B 3.0: an edge node with its births, aliases and numbers, without a connection.
//!
//! The one codec that remembers: a host knows metrics only from births, so what may be sent follows from what was. An
//! [`EdgeNode`] makes the messages; whoever has the connection asks for the will before each CONNECT, for the births
//! before anything else and whenever a host asks for a rebirth, and sends everything in order at QoS 0.
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
//! | backlog, and what is older than what the host has of the metric | `is_historical` |
//!
//! A device is a source, one level of the topic. Aliases are unique in the whole node; a metric that is new, or whose
//! type has changed, makes a DBIRTH go before the data, and so does data of a device that the host takes for lost.
//! Times are whole milliseconds and mandatory: before the clock is known a record is refused. Sparkplug has no place for
//! stream and numbers, and no acknowledgements.

mod host;
mod metric;
mod wire;

use std::collections::BTreeMap;

use millrace_tags::{Lane, Parcel, Records, Sample, Value, ValueType};
use prost::Message as _;

use super::rows::{rows, shown};
use super::{BACKLOG_MESSAGE_BYTES, EncodeError, TimeChoice, payload_limit};
use crate::message::Message;
use crate::topic::Names;
use metric::{asked, metric, nothing, of_type, read_back};
use wire::{Datatype, Metric, Payload, Worth};

pub use host::{HostNews, PrimaryHost};

/// The metric by which a host asks for births.
const REBIRTH: &str = "Node Control/Rebirth";

/// What a metric takes in a payload beside itself, at most: tag and length, alias, `is_historical`.
const METRIC_OVERHEAD: usize = 6 + 11 + 2;

/// Time and number of a payload.
const PAYLOAD_OVERHEAD: usize = 16;

/// What a host asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum HostCommand {
    /// All births again, at once.
    Rebirth,
    /// A value for a tag.
    Write {
        /// Names the command: the same message delivered twice has the same id.
        id: String,
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
    /// The host takes it for alive.
    born: bool,
}

impl Device {
    fn unborn(&mut self) {
        self.born = false;
        for known in self.metrics.values_mut() {
            known.born = false;
        }
    }
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

/// Metrics of one device on their way into messages.
#[derive(Default)]
struct Gathered {
    metrics: Vec<Metric>,
    bytes: usize,
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

    /// The newest that is known of a tag, for the births to come.
    pub fn see(&mut self, source: &str, tag: &str, sample: &Sample, time_ms: u64) {
        let (value, quality) = shown(sample);
        let metric = metric(value, quality, time_ms);
        let datatype = value.and_then(|value| of_type(value.value_type()));
        self.learn(source, tag, datatype, Some(&metric));
        if let Some(known) = self.known(source, tag) {
            known.last = metric;
        }
    }

    /// The clock was set back: what is known is not newer than what comes, whatever its time says.
    pub fn clock_set_back(&mut self) {
        let devices = self.devices.values_mut();
        for known in devices.flat_map(|device| device.metrics.values_mut()) {
            known.last.timestamp = None;
        }
    }

    /// Begins a session: NDEATH, the will of this CONNECT and what goes before a clean DISCONNECT. `bd_seq` is one more than that of the CONNECT before, also over
    /// restarts; whoever has a disk counts.
    pub fn connecting(&mut self, bd_seq: u8) -> Message {
        self.bd_seq = bd_seq;
        self.devices.values_mut().for_each(Device::unborn);
        self.death()
    }

    fn death(&self) -> Message {
        let payload = Payload {
            timestamp: None,
            metrics: vec![self.bd_seq_metric(None)],
            seq: None,
        };
        Message::new(self.topic("NDEATH", None), payload.encode_to_vec())
    }

    /// NBIRTH and all DBIRTHs but those of devices that are `absent`: after CONNECT and on [`HostCommand::Rebirth`].
    /// Numbers begin at 0.
    pub fn births(&mut self, now_ms: u64, absent: impl Fn(&str) -> bool) -> Vec<Message> {
        self.seq = 0;
        self.devices.values_mut().for_each(Device::unborn);
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
        for source in sources.iter().filter(|source| !absent(source)) {
            messages.push(self.device_birth(source, now_ms));
        }
        messages
    }

    /// Whether the host takes the device for alive.
    pub fn is_born(&self, source: &str) -> bool {
        self.devices.get(source).is_some_and(|device| device.born)
    }

    /// DBIRTH of a device that is back; `None` where the host takes it for alive, or nobody knows it.
    pub fn back(&mut self, source: &str, now_ms: u64) -> Option<Message> {
        let is_lost = self.devices.get(source).is_some_and(|device| !device.born);
        is_lost.then(|| self.device_birth(source, now_ms))
    }

    /// DDEATH of a device that was lost; `None` where the host does not take it for alive.
    pub fn lost(&mut self, source: &str, now_ms: u64) -> Option<Message> {
        let device = self.devices.get_mut(source).filter(|device| device.born)?;
        device.unborn();
        Some(self.message("DDEATH", Some(source), now_ms, Vec::new()))
    }

    /// The samples of a parcel as DDATA, each no larger than `max_message` (backlog:
    /// [`BACKLOG_MESSAGE_BYTES`](super::BACKLOG_MESSAGE_BYTES)), with the DBIRTH before it that the host needs. Events make
    /// no message. Of a device that is `absent` all is historical, and what has no value makes no message: its DDEATH says
    /// so. After an error nothing has changed.
    ///
    /// # Errors
    /// When a record cannot be encoded; it names the record.
    pub fn encode(
        &mut self,
        parcel: &Parcel,
        max_message: usize,
        now_ms: u64,
        absent: bool,
    ) -> Result<Vec<Message>, EncodeError> {
        let Records::Samples(samples) = &parcel.records else {
            return Ok(Vec::new());
        };
        let source: &str = &parcel.source;
        let historical = absent || parcel.lane == Lane::Backlog;
        let topic = self.topic("DDATA", Some(source));
        let most = payload_limit(&topic, max_message);
        let wanted = match historical {
            true => most.min(payload_limit(&topic, BACKLOG_MESSAGE_BYTES)),
            false => most,
        };
        let rows = rows(parcel, samples, TimeChoice::Source)?;
        let mut metrics = Vec::with_capacity(rows.len());
        for row in rows.iter().filter(|row| !absent || row.value.is_some()) {
            let time = row
                .time
                .and_then(|time| u64::try_from(time / 1_000_000).ok());
            let time = time.ok_or_else(|| EncodeError::NoClock {
                source_name: source.to_owned(),
                seq: row.seq,
            })?;
            let metric = metric(row.value, row.quality, time);
            let size = metric.encoded_len() + METRIC_OVERHEAD;
            if size + PAYLOAD_OVERHEAD > most {
                return Err(EncodeError::TooLarge {
                    source_name: source.to_owned(),
                    seq: row.seq,
                    bytes: size + PAYLOAD_OVERHEAD + (max_message - most.min(max_message)),
                    limit: max_message,
                });
            }
            metrics.push((row, metric, size));
        }
        // From here on nothing fails.
        let datatype = |value: Option<&Value>| value.and_then(|value| of_type(value.value_type()));
        // A birth tells what is now: backlog is none of that.
        let tells = !historical;
        for (row, metric, _) in &metrics {
            // One birth for all that are new.
            if self.known(source, row.tag).is_none() {
                self.learn(
                    source,
                    row.tag,
                    datatype(row.value),
                    tells.then_some(metric),
                );
            }
        }
        let mut messages = Vec::new();
        let mut gathered = Gathered::default();
        for (row, mut metric, size) in metrics {
            let now = tells.then_some(&metric);
            let is_known = self.learn(source, row.tag, datatype(row.value), now);
            if !is_known || !self.is_born(source) {
                // What was gathered is of the type that the host knows still.
                messages.extend(self.data(source, now_ms, &mut gathered));
                messages.push(self.device_birth(source, now_ms));
            }
            if gathered.bytes + size + PAYLOAD_OVERHEAD > wanted {
                messages.extend(self.data(source, now_ms, &mut gathered));
            }
            if let Some(known) = self.known(source, row.tag) {
                metric.alias = Some(known.alias);
                let older = metric.timestamp < known.last.timestamp;
                if historical || older {
                    metric.is_historical = Some(true);
                } else {
                    known.last = metric.clone();
                }
            }
            gathered.bytes += size;
            gathered.metrics.push(metric);
        }
        messages.extend(self.data(source, now_ms, &mut gathered));
        Ok(messages)
    }

    /// DDATA with what was gathered, in order of time.
    fn data(&mut self, source: &str, now_ms: u64, gathered: &mut Gathered) -> Option<Message> {
        let mut metrics = std::mem::take(gathered).metrics;
        if metrics.is_empty() {
            return None;
        }
        metrics.sort_by_key(|metric| metric.timestamp);
        Some(self.message("DDATA", Some(source), now_ms, metrics))
    }

    /// DDATA with a value that a host has written, as it was read back: Sparkplug's answer to a write. `None` where the
    /// host does not know the metric, or the value is none of its type.
    pub fn written(
        &mut self,
        source: &str,
        tag: &str,
        value: &serde_json::Value,
        now_ms: u64,
    ) -> Option<Message> {
        let known = self.known(source, tag).filter(|known| known.born)?;
        let value = read_back(value, known.datatype)?;
        let metric = Metric {
            alias: Some(known.alias),
            ..metric(Some(&value), millrace_tags::Quality::Good, now_ms)
        };
        known.last = metric.clone();
        Some(self.message("DDATA", Some(source), now_ms, vec![metric]))
    }

    /// What a host asks for in an NCMD or DCMD; metrics that are not known are skipped, as Sparkplug wants.
    pub fn commands(&self, topic: &str, payload: &[u8]) -> Vec<HostCommand> {
        let Ok(decoded) = Payload::decode(payload) else {
            return Vec::new();
        };
        if topic == self.topic("NCMD", None) {
            let asks = decoded.metrics.iter().any(|metric| {
                metric.name.as_deref() == Some(REBIRTH)
                    && metric.value == Some(Worth::Boolean(true))
            });
            return asks.then_some(HostCommand::Rebirth).into_iter().collect();
        }
        let mut devices = self.devices.iter();
        let Some((source, device)) =
            devices.find(|(source, _)| topic == self.topic("DCMD", Some(source)))
        else {
            return Vec::new();
        };
        let mut commands = Vec::new();
        for (nth, metric) in decoded.metrics.iter().enumerate() {
            let found = match (&metric.name, metric.alias) {
                (Some(name), _) => device.metrics.get_key_value(name),
                (None, alias) => {
                    let mut metrics = device.metrics.iter();
                    metrics.find(|(_, known)| alias == Some(known.alias))
                }
            };
            if let Some((tag, known)) = found {
                commands.push(HostCommand::Write {
                    id: command_id(topic, payload, decoded.timestamp, nth),
                    source: source.clone(),
                    tag: tag.clone(),
                    value: asked(metric, known.datatype),
                });
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
        let device = self.devices.entry(source.to_owned()).or_default();
        device.born = true;
        let mut metrics = Vec::with_capacity(device.metrics.len());
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
        if let Some(known) = self.known(source, tag) {
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
        let device = self.devices.entry(source.to_owned()).or_default();
        device.metrics.insert(tag.to_owned(), known);
        false
    }

    fn known(&mut self, source: &str, tag: &str) -> Option<&mut Known> {
        self.devices.get_mut(source)?.metrics.get_mut(tag)
    }
}

/// A name for a command, which has none of its own: brokers may deliver it twice, with the same bytes. Without a
/// timestamp the same bytes may as well be two commands.
fn command_id(topic: &str, payload: &[u8], timestamp: Option<u64>, nth: usize) -> String {
    let mut digest = ring::digest::Context::new(&ring::digest::SHA256);
    digest.update(topic.as_bytes());
    digest.update(&[0]);
    digest.update(payload);
    digest.update(&(nth as u64).to_be_bytes());
    if timestamp.is_none() {
        digest.update(&fastrand::u64(..).to_be_bytes());
    }
    digest.finish().as_ref()[..12]
        .iter()
        .fold("dcmd-".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}
