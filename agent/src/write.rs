//! Writing a tag: who may, which raw value that is, and the audit of it.
//!
//! Only tags with `writable = true` can be written. On a serial line a write has a session of its own, which its
//! line lets go ahead of reads; elsewhere the device's poller does it between two reads, on the session that it
//! has. Every attempt leaves a line in the log, with who asked, the old value and what came of it.

use std::sync::Arc;
use std::time::Duration;

use millrace_drivers::modbus::DataType;
use millrace_drivers::{WriteError, WriteReport};
use millrace_tags::{Sample, TagId, Value, ValueType};
use serde_json::Value as Json;
use tokio::sync::oneshot;

use crate::config::{Scaling, Tag, TagPoint};
use crate::device::{Device, chain, close};
use crate::gateway::Gateway;
use crate::live::value_json;
use crate::report::{DeviceState, WriteDone};

/// A person waits for the answer. It covers a read that is under way, and the three requests of a write.
const WRITE_MAX: Duration = Duration::from_secs(30);

/// How far, relative to itself, the inverse of a scaling may be away from the whole number that is meant.
const ROUNDING: f64 = 1e-9;

/// Writes that wait for a device's poller.
pub(crate) const WRITES_WAITING_MAX: usize = 16;

/// A write for the poller to do.
pub(crate) struct WriteOrder {
    /// Which tag.
    pub(crate) tag: TagId,
    /// The value as the device takes it.
    pub(crate) raw: Value,
    /// What came of it; closed where nobody waits any more, and it must not be done.
    pub(crate) done: oneshot::Sender<Result<WriteReport, Unwritten>>,
}

/// Why a tag was not written, or not for certain: a sentence for whoever asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteRefusal {
    /// No tag has this name.
    #[error("there is no tag {0}; see `millrace tags`")]
    NotFound(String),
    /// It is not to be written.
    #[error("{0}")]
    NotGranted(String),
    /// The value is none of this tag, or the device refuses it: nothing was written.
    #[error("{0}")]
    Refused(String),
    /// The device could not be asked, or does not hold the value afterwards.
    #[error("{0}")]
    Failed(String),
}

/// What the device's side says of a write that was not done, or not for certain.
pub(crate) struct Unwritten {
    /// Nothing was written, and asking again brings the same answer.
    refused: bool,
    sentence: String,
}

impl Unwritten {
    fn failed(sentence: impl Into<String>) -> Self {
        Self {
            refused: false,
            sentence: sentence.into(),
        }
    }

    fn of(error: &WriteError) -> Self {
        Self {
            refused: !matches!(
                error,
                WriteError::Unanswered { .. }
                    | WriteError::ReadBack { .. }
                    | WriteError::Session(_)
            ),
            sentence: chain(error),
        }
    }
}

impl Gateway {
    /// Writes a value, in the tag's own unit, and reads it back. `who` is for the audit.
    ///
    /// # Errors
    /// Where the tag is not there, not writable, or its device does not hold the value afterwards.
    pub(crate) async fn write(
        &self,
        name: &str,
        value: &Json,
        who: &str,
    ) -> Result<WriteDone, WriteRefusal> {
        let outcome = self.write_unaudited(name, value).await;
        match &outcome {
            Ok(done) => {
                tracing::info!(target: "audit", who, tag = name, value = %done.value, old = %done.old, read_back = %done.read_back, "write");
            }
            Err(error) => {
                tracing::warn!(target: "audit", who, tag = name, value = %value, error = %error, "write refused or failed");
            }
        }
        outcome
    }

    async fn write_unaudited(&self, name: &str, value: &Json) -> Result<WriteDone, WriteRefusal> {
        let (device, tag, spec) = self.written(name)?;
        if !spec.writable {
            return Err(WriteRefusal::NotGranted(format!(
                "{name} is not writable; `writable = true` in its configuration grants it"
            )));
        }
        let raw = raw(spec, value).map_err(WriteRefusal::Refused)?;
        let report = device.write(tag, raw).await.map_err(|unwritten| {
            let sentence = format!("{name}: {}", unwritten.sentence);
            match unwritten.refused {
                true => WriteRefusal::Refused(sentence),
                false => WriteRefusal::Failed(sentence),
            }
        })?;
        let shown = |value: Option<Value>| {
            let value = value.map(|value| unscaled(value, tag, spec.scaling, self));
            value.as_ref().map_or(Json::Null, value_json)
        };
        Ok(WriteDone {
            tag: name.to_owned(),
            value: value.clone(),
            old: shown(report.old),
            read_back: shown(report.read_back),
            unit: spec.unit.clone(),
        })
    }

    fn written(&self, name: &str) -> Result<(Arc<Device>, TagId, &Tag), WriteRefusal> {
        let not_found = || WriteRefusal::NotFound(name.to_owned());
        let specs = self.config.enabled_devices().flat_map(|device| {
            let named = move |tag| (format!("{}/{}", device.name, tag_name(tag)), tag);
            device.tags.iter().map(named)
        });
        let spec = specs.into_iter().find(|(full, _)| full == name);
        let (_, spec) = spec.ok_or_else(not_found)?;
        let found = self.live.find(|full| full == name);
        let device_of = |(tag, _): &(TagId, String)| {
            let mut devices = self.devices.iter();
            let device = devices.find(|device| device.tags.contains(tag))?;
            Some((device.clone(), *tag))
        };
        let (device, tag) = found.iter().find_map(device_of).ok_or_else(not_found)?;
        Ok((device, tag, spec))
    }
}

fn tag_name(tag: &Tag) -> &str {
    &tag.name
}

impl Device {
    /// Writes through the poller's session, or on a line through one of its own.
    async fn write(&self, tag: TagId, raw: Value) -> Result<WriteReport, Unwritten> {
        let (state, error) = self.state();
        match state {
            DeviceState::Paused => {
                return Err(Unwritten::failed(format!(
                    "not written: {} is paused; `millrace device resume {}` polls it again",
                    self.name, self.name
                )));
            }
            DeviceState::Offline => {
                let error = error.unwrap_or_else(|| "it does not answer".to_owned());
                let sentence = format!("not written: {} is offline: {error}", self.name);
                return Err(Unwritten::failed(sentence));
            }
            _ => {}
        }
        let unknown = "the write took too long; whether it arrived is not known: read the tag";
        let written = async {
            if self.driver.shares_a_line() {
                self.write_beside(tag, &raw).await
            } else {
                self.order(tag, raw).await
            }
        };
        tokio::time::timeout(WRITE_MAX, written)
            .await
            .unwrap_or_else(|_| Err(Unwritten::failed(unknown)))
    }

    async fn write_beside(&self, tag: TagId, raw: &Value) -> Result<WriteReport, Unwritten> {
        let opened = self.open_beside().await;
        let mut session =
            opened.map_err(|error| Unwritten::failed(format!("not written: {}", chain(&error))))?;
        let written = session.write(tag, raw).await;
        close(session.as_mut()).await;
        written.map_err(|error| Unwritten::of(&error))
    }

    async fn order(&self, tag: TagId, raw: Value) -> Result<WriteReport, Unwritten> {
        let (done, outcome) = oneshot::channel();
        let order = WriteOrder { tag, raw, done };
        self.writes.try_send(order).map_err(|_| {
            Unwritten::failed("not written: too many writes are waiting for the device")
        })?;
        let ended = "not written: the session with the device ended";
        outcome
            .await
            .unwrap_or_else(|_| Err(Unwritten::failed(ended)))
    }
}

impl WriteOrder {
    /// Tells whoever waits; the broken session, where that was the reason.
    pub(crate) fn answer(
        self,
        written: Result<WriteReport, WriteError>,
    ) -> Option<millrace_drivers::SessionError> {
        let told = written.as_ref().map_err(Unwritten::of).cloned();
        // They may have given up.
        let _ = self.done.send(told);
        match written {
            Err(WriteError::Session(error)) => Some(error),
            _ => None,
        }
    }
}

/// The value that the device takes: scaling is undone.
fn raw(tag: &Tag, value: &Json) -> Result<Value, String> {
    let Some(Scaling { scale, offset }) = tag.scaling else {
        return match (tag.value_type, value) {
            // A text that looks like a number.
            (ValueType::Text, Json::Number(_) | Json::Bool(_)) => {
                Ok(Value::Text(value.to_string().into()))
            }
            _ => plain(value),
        };
    };
    let number = value.as_f64().ok_or_else(|| {
        format!("{value} is no number; this tag is scaled, so that a number is expected")
    })?;
    let raw = (number - offset) / scale;
    let whole = raw.round();
    let is_float = matches!(&tag.point, TagPoint::Modbus(spec)
        if matches!(spec.data_type(), DataType::F32 | DataType::F64));
    if is_float || (raw - whole).abs() > ROUNDING * whole.abs().max(1.0) {
        return Ok(Value::F64(raw));
    }
    Ok(Value::F64(whole))
}

fn plain(value: &Json) -> Result<Value, String> {
    Ok(match value {
        Json::Bool(on) => Value::Bool(*on),
        Json::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(whole), ..) => Value::I64(whole),
            (_, Some(whole), _) => Value::U64(whole),
            (.., Some(number)) => Value::F64(number),
            _ => return Err(format!("{value} is out of range")),
        },
        Json::String(text) => Value::Text(text.as_str().into()),
        Json::Array(_) => Value::Json(value.to_string().into()),
        Json::Null | Json::Object(_) => {
            return Err(format!(
                "{value} is no value: a number, true, false or a text is expected"
            ));
        }
    })
}

/// As a person reads it.
fn unscaled(value: Value, tag: TagId, scaling: Option<Scaling>, gateway: &Gateway) -> Value {
    let Some(scaling) = scaling else {
        return value;
    };
    let mut sample = Sample::good(tag, value.clone(), gateway.clock.now());
    scaling.apply(&mut sample);
    sample.value.unwrap_or(value)
}
