//! A write: the old value, the value, and what the device holds then.
//!
//! What a register scales is written by the scale that the device has at that moment; where the scale is another
//! one afterwards, the write is told as one that does not hold.

use millrace_tags::Value;
use tokio_modbus::ExceptionCode;

use super::decode::Extract;
use super::encode::{EncodeError, Encoded, encode, shown};
use super::exchange::Exchange;
use super::plan;
use super::point::PointSpec;
use super::reply::Answer;
use super::request::{ReadRequest, Request};
use super::scale::Scale;
use crate::{SessionError, WriteError, WriteReport};

/// How far, relative to itself, the inverse of a scale may be away from the whole number that is meant.
const ROUNDING: f64 = 1e-9;

/// Writes one point. A broadcast is only sent: nobody answers.
pub(crate) async fn write(
    way: &mut impl Exchange,
    spec: &PointSpec,
    value: &Value,
    broadcast: bool,
) -> Result<WriteReport, WriteError> {
    let mut writing = Writing { way, spec };
    if let Some(register) = spec.scale() {
        if broadcast {
            return Err(WriteError::Unfit {
                message: format!(
                    "{} is scaled by {}, which nobody reads of all units at once",
                    spec.address(),
                    register.address()
                ),
            });
        }
        return writing.scaled(value).await;
    }
    // Before anything is sent: a value that does not fit costs no traffic.
    let encoded = encode(spec, value).map_err(unfit)?;
    if broadcast {
        writing.send(&encoded, &[]).await?;
        return Ok(WriteReport {
            old: None,
            read_back: None,
        });
    }
    let (old_bytes, old) = writing.read().await?;
    writing.send(&encoded, &old_bytes).await?;
    let found = writing.read().await;
    let (bytes, read_back) = found.map_err(|error| unseen(error, value, &old))?;
    if !holds(&bytes, &encoded) {
        return Err(WriteError::ReadBack {
            address: spec.address().to_string(),
            wrote: shown(value),
            found: match read_back {
                Some(found) => shown(&found),
                None => format!("{bytes:02X?}"),
            },
            old,
        });
    }
    Ok(WriteReport { old, read_back })
}

fn unfit(error: EncodeError) -> WriteError {
    match error {
        EncodeError::ReadOnly { address } => WriteError::ReadOnly {
            address: address.to_string(),
        },
        error => WriteError::Unfit {
            message: match std::error::Error::source(&error) {
                Some(source) => format!("{error}: {source}"),
                None => error.to_string(),
            },
        },
    }
}

/// What was confirmed and cannot be read back is not refused.
fn unseen(error: WriteError, wrote: &Value, old: &Option<Value>) -> WriteError {
    match error {
        WriteError::Refused { address, message } | WriteError::Unanswered { address, message } => {
            WriteError::ReadBack {
                address,
                wrote: shown(wrote),
                found: message,
                old: old.clone(),
            }
        }
        error => error,
    }
}

struct Writing<'a, E> {
    way: &'a mut E,
    spec: &'a PointSpec,
}

impl<E: Exchange> Writing<'_, E> {
    /// Writes what the scale makes of the value.
    async fn scaled(&mut self, value: &Value) -> Result<WriteReport, WriteError> {
        let before = self.read_scale().await?;
        let number = value.as_f64().ok_or_else(|| WriteError::Unfit {
            message: format!("{} is no number", shown(value)),
        })?;
        let raw = before.undo(number);
        let whole = raw.round();
        let is_whole = (raw - whole).abs() <= ROUNDING * whole.abs().max(1.0);
        let has_counts = self.spec.whole_range().is_some();
        let raw = if has_counts && is_whole { whole } else { raw };
        let encoded = encode(&self.spec.bare(), &Value::F64(raw)).map_err(|error| {
            let message = match unfit(error) {
                WriteError::Unfit { message } => format!(
                    "{message}; {} is {raw} counts, since the scale is {before}",
                    shown(value)
                ),
                error => return error,
            };
            WriteError::Unfit { message }
        })?;
        let (old_bytes, old) = self.read().await?;
        self.send(&encoded, &old_bytes).await?;
        let found = self.read().await;
        let (bytes, read_back) = found.map_err(|error| unseen(error, value, &None))?;
        let after = self.read_scale().await;
        let after = after.map_err(|error| unseen(error, value, &None))?;
        let by = |scale: Scale, raw: Option<Value>| {
            let value = raw.and_then(|raw| scale.apply(raw.as_f64()?));
            value.map(Value::F64)
        };
        let (old, read_back) = (by(before, old), by(after, read_back));
        if holds(&bytes, &encoded) && before == after {
            return Ok(WriteReport { old, read_back });
        }
        Err(WriteError::ReadBack {
            address: self.spec.address().to_string(),
            wrote: shown(value),
            found: match read_back {
                Some(found) => shown(&found),
                None => format!("{bytes:02X?}"),
            },
            old,
        })
    }

    /// What the register that scales the point says now.
    async fn read_scale(&mut self) -> Result<Scale, WriteError> {
        let register = self.spec.scale().zip(self.spec.scale_spec());
        let Some((register, spec)) = register else {
            return Ok(Scale::Times(1.0));
        };
        let mut reading = Writing {
            way: &mut *self.way,
            spec: &spec,
        };
        let (bytes, value) = reading.read().await?;
        value
            .and_then(|value| register.read(&value))
            .ok_or_else(|| {
                self.refused(format!(
                    "its scale in {} is {bytes:02X?}, which cannot be meant",
                    register.address()
                ))
            })
    }

    /// The bytes of the point and their value, where they are one.
    async fn read(&mut self) -> Result<(Vec<u8>, Option<Value>), WriteError> {
        let planned = plan::single(self.spec);
        let request = Request::Read(ReadRequest {
            table: planned.table,
            start: planned.start,
            count: planned.count,
        });
        let answer = self.way.exchange(&request).await?.answer;
        let Answer::Data(data) = answer else {
            let (address, message) = (self.spec.address().to_string(), said(answer));
            return Err(match answer {
                Answer::Exception(_) => WriteError::Refused { address, message },
                _ => WriteError::Unanswered { address, message },
            });
        };
        let value = Extract::new(self.spec, &planned).value(data).ok();
        Ok((data.to_vec(), value))
    }

    /// By the function for one place; where the device lacks that, by the one for several.
    async fn send(&mut self, encoded: &Encoded, old: &[u8]) -> Result<(), WriteError> {
        let address = self.spec.address().offset;
        let (request, instead) = match encoded {
            Encoded::Bits(bits) => {
                let several = Request::WriteCoils {
                    start: address,
                    bits: bits.clone(),
                };
                match bits[..] {
                    [on] => (Request::WriteCoil { address, on }, Some(several)),
                    _ => (several, None),
                }
            }
            Encoded::Masked { and, or } => {
                let old = old.first_chunk().copied().map(u16::from_be_bytes);
                let whole = old.map(|old| Request::WriteRegister {
                    address,
                    value: old & and | or & !and,
                });
                let (and, or) = (*and, *or);
                (Request::MaskWrite { address, and, or }, whole)
            }
            Encoded::Registers(values) => {
                let several = Request::WriteRegisters {
                    start: address,
                    values: values.clone(),
                };
                match values[..] {
                    [value] => (Request::WriteRegister { address, value }, Some(several)),
                    _ => (several, None),
                }
            }
        };
        let lacks = Answer::Exception(ExceptionCode::IllegalFunction);
        let mut answer = self.way.exchange(&request).await?.answer;
        if answer == lacks
            && let Some(instead) = instead
        {
            answer = self.way.exchange(&instead).await?.answer;
        }
        match answer {
            Answer::Written => Ok(()),
            Answer::Spoilt(_) => Err(self.cut_off()),
            answer => {
                let message = said(answer);
                Err(self.refused(message))
            }
        }
    }

    fn refused(&self, message: String) -> WriteError {
        WriteError::Refused {
            address: self.spec.address().to_string(),
            message,
        }
    }

    fn cut_off(&self) -> WriteError {
        WriteError::Session(SessionError::Protocol {
            device: self.spec.address().to_string(),
            found: "no usable answer".to_owned(),
            expected: "the confirmation of the write".to_owned(),
        })
    }
}

fn said(answer: Answer<'_>) -> String {
    match answer {
        Answer::Exception(code) => format!("exception {:02}, {code}", u8::from(code)),
        Answer::Spoilt(reason) => format!("no usable answer ({})", reason.name()),
        Answer::Data(_) | Answer::Written => "an answer to something else".to_owned(),
    }
}

/// Whether these bytes, as read, are what was written.
fn holds(bytes: &[u8], encoded: &Encoded) -> bool {
    match encoded {
        Encoded::Bits(bits) => bits.iter().enumerate().all(|(i, on)| {
            let byte = bytes.get(i / 8).copied().unwrap_or(0);
            (byte >> (i % 8) & 1 == 1) == *on
        }),
        Encoded::Masked { and, or } => {
            let register = bytes.first_chunk().copied().map(u16::from_be_bytes);
            register.is_some_and(|register| register & !and == or & !and)
        }
        Encoded::Registers(values) => {
            let written = values.iter().flat_map(|value| value.to_be_bytes());
            written.eq(bytes.iter().copied())
        }
    }
}
