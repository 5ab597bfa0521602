//! Direct methods of Azure IoT Hub: the name of the method is the operation, the payload its arguments or an envelope.
//!
//! The request id stands in the topic and counts on one connection only, unless the envelope has an id. Statuses: 200 done, 400
//! rejected, 408 expired, 500 failed.

use millrace_tags::{Command, Reply, ReplyStatus, ReplyTo};
use serde_json::value::RawValue;

use super::envelope::Envelope;
use super::{Answer, Call, CommandError, Garbled, addressed, outcome};

pub(super) fn decode(call: &Call<'_>, mut to: ReplyTo) -> Result<Command, Garbled> {
    call.id.clone_into(&mut to.id);
    to.fleeting = true;
    addressed(command(call), to)
}

fn command(call: &Call<'_>) -> Result<Command, CommandError> {
    let payload: Option<&RawValue> = match call.payload.trim_ascii() {
        b"" | b"null" => None,
        payload => {
            Some(
                serde_json::from_slice(payload).map_err(|source| CommandError::NotJson {
                    expected: "value",
                    source,
                })?,
            )
        }
    };
    let envelope = payload.map(Envelope::read).unwrap_or_default();
    let own = envelope.own_id()?;
    let mut command = envelope.command(own.as_deref().unwrap_or(call.id), Some(call.op))?;
    command.fleeting = own.is_none();
    Ok(command)
}

pub(super) fn reply(reply: &Reply, to: &ReplyTo) -> Answer {
    let status = match reply.status {
        ReplyStatus::Done => "200",
        ReplyStatus::Rejected => "400",
        ReplyStatus::Expired => "408",
        ReplyStatus::Failed => "500",
    };
    let topic = to.topic.replace("{status}", status);
    (topic, outcome(reply).to_string().into_bytes())
}
