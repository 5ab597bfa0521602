//! A write: what the node is, its old value, the value in the server's own type, and what the node holds then.

use millrace_tags::Value;
use opcua::types::{
    AttributeId, DataValue, NodeId, NumericRange, StatusCode, Variant, WriteRequest, WriteResponse,
    WriteValue,
};

use super::channel::Channel;
use super::decode;
use super::encode::{Target, shown};
use super::json::Lexicon;
use super::server::attributes;
use super::types::{Shape, Types};
use crate::{SessionError, WriteError, WriteReport};

/// The bit of an access level that says that values can be written.
const CURRENT_WRITE: u8 = 0x02;

/// What is to be written, and how an error names it.
pub(super) struct Writing<'a> {
    pub(super) channel: &'a Channel,
    pub(super) types: &'a Types,
    pub(super) node: &'a NodeId,
    /// As configured or typed.
    pub(super) address: String,
}

/// What is to become of a node.
#[derive(Clone, Copy)]
pub(super) enum Given<'a> {
    Value(&'a Value),
    /// To be understood as the node's type has it.
    Typed(&'a str),
}

impl Writing<'_> {
    /// Writes the value and reads it back.
    pub(super) async fn write(&self, given: Given<'_>) -> Result<WriteReport, WriteError> {
        let wanted = [
            AttributeId::DataType,
            AttributeId::ValueRank,
            AttributeId::AccessLevel,
            AttributeId::UserAccessLevel,
            AttributeId::Value,
        ];
        let wanted = wanted.map(|attribute| (self.node.clone(), attribute));
        let read = attributes(self.channel, wanted.to_vec()).await?;
        let [data_type, rank, access, user_access, present] = read.as_slice() else {
            return Err(self.refused("the server does not describe it".to_owned()));
        };
        if let Some(status) = data_type.status.filter(|status| status.is_bad()) {
            return Err(self.refused(status.to_string()));
        }
        if lacks_write(access) {
            let address = self.address.clone();
            return Err(WriteError::ReadOnly { address });
        }
        if lacks_write(user_access) {
            return Err(self.refused("the server does not let this user write it".to_owned()));
        }
        let Some(Variant::NodeId(data_type)) = &data_type.value else {
            return Err(self.refused("it has no data type; is it a variable?".to_owned()));
        };
        let shape = self.types.shape(self.channel, data_type).await?;
        let empty = Variant::Empty;
        let held = present.value.as_ref().unwrap_or(&empty);
        let target = Target {
            shape: &shape,
            is_array: is_array(rank, held),
            present: held,
        };
        let value = match given {
            Given::Value(value) => value.clone(),
            Given::Typed(text) => target.typed(text),
        };
        let encoded = target.encode(&value).map_err(|unfit| WriteError::Unfit {
            message: format!("{}: {unfit}", self.address),
        })?;
        let old = self.shown(present, &shape);
        self.send(encoded.clone()).await?;
        let asked = vec![(self.node.clone(), AttributeId::Value)];
        let read = attributes(self.channel, asked).await?.into_iter().next();
        let found = read.unwrap_or_default();
        let read_back = self.shown(&found, &shape);
        if found
            .value
            .as_ref()
            .is_some_and(|found| holds(found, &encoded))
        {
            return Ok(WriteReport { old, read_back });
        }
        let status = found.status.unwrap_or(StatusCode::Good);
        Err(WriteError::ReadBack {
            address: self.address.clone(),
            wrote: shown(&value),
            found: match read_back {
                Some(found) => shown(&found),
                None => status.to_string(),
            },
            old,
        })
    }

    async fn send(&self, value: Variant) -> Result<(), WriteError> {
        let channel = self.channel;
        let request = WriteRequest {
            request_header: channel.header(channel.timeout()),
            nodes_to_write: Some(vec![WriteValue {
                node_id: self.node.clone(),
                attribute_id: AttributeId::Value as u32,
                index_range: NumericRange::None,
                // With a status or a time many servers refuse the whole.
                value: DataValue {
                    value: Some(value),
                    ..DataValue::null()
                },
            }]),
        };
        let sent = channel.send::<WriteResponse>(request, channel.timeout());
        let status = match sent.await {
            Ok(response) => response.results.and_then(|r| r.first().copied()),
            Err(error) => {
                let failed = channel.asked("Write").failed(&error);
                if channel.is_cut() || !is_answer(&failed) {
                    return Err(failed.into());
                }
                Some(error.status())
            }
        };
        match status {
            Some(status) if !status.is_bad() => Ok(()),
            Some(status) => Err(self.refused(said(status))),
            None => Err(self.refused("the server did not say what it did".to_owned())),
        }
    }

    fn shown(&self, data: &DataValue, shape: &Shape) -> Option<Value> {
        let names = match shape {
            Shape::Enumeration(names) => Some(&**names),
            _ => None,
        };
        let (known, context) = (self.types.read(), self.channel.context().read());
        decode::shown(data, names, &Lexicon::new(&known, &context))
    }

    fn refused(&self, message: String) -> WriteError {
        WriteError::Refused {
            address: self.address.clone(),
            message,
        }
    }
}

/// The server's no, with what it commonly means.
fn said(status: StatusCode) -> String {
    let hint = match status {
        StatusCode::BadTypeMismatch => "; the server takes another type than it says",
        StatusCode::BadWriteNotSupported => "; the server takes no writes of this kind here",
        StatusCode::BadUserAccessDenied => "; this user may not write it",
        StatusCode::BadOutOfRange => "; the value is outside of what the server takes",
        _ => "",
    };
    format!("{status}{hint}")
}

/// Whether the request was answered, so that the session is whole.
fn is_answer(error: &SessionError) -> bool {
    !matches!(
        error,
        SessionError::Timeout { .. } | SessionError::Protocol { .. }
    )
}

fn lacks_write(level: &DataValue) -> bool {
    matches!(level.value, Some(Variant::Byte(bits)) if bits & CURRENT_WRITE == 0)
}

/// By the node's value rank; where that leaves it open, by what it holds.
fn is_array(rank: &DataValue, held: &Variant) -> bool {
    const SCALAR: i32 = -1;
    const ONE_OR_MORE: i32 = 0;
    match rank.value {
        Some(Variant::Int32(SCALAR)) => false,
        Some(Variant::Int32(ONE_OR_MORE..)) => true,
        _ => held.is_array(),
    }
}

/// Whether the server shows what was written. It may know a text by another locale.
fn holds(found: &Variant, written: &Variant) -> bool {
    match (found, written) {
        (Variant::LocalizedText(found), Variant::LocalizedText(written)) => {
            found.text == written.text
        }
        _ => found == written,
    }
}
