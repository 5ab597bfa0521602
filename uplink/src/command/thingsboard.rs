//! ThingsBoard's RPC: to the device that we log in as (the id stands in the topic), and to devices behind it (all in the payload).
//!
//! `method` is the operation, `params` its arguments or an envelope. ThingsBoard counts its requests anew whenever it likes, so
//! that an id counts on one connection only, unless the envelope has one. Where a device behind the gateway is asked, the
//! names of tags may leave the device out, and `read` without any reads all.

use millrace_tags::{Command, Reply, ReplyTo};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::envelope::Envelope;
use super::{Answer, Call, CommandError, Garbled, addressed, of_device, outcome};

#[derive(Deserialize)]
struct Rpc<'a> {
    #[serde(default)]
    id: serde_json::Value,
    method: String,
    #[serde(borrow, default)]
    params: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Outer<'a> {
    device: String,
    #[serde(borrow)]
    data: Rpc<'a>,
}

fn not_json(expected: &'static str) -> impl Fn(serde_json::Error) -> CommandError {
    move |source| CommandError::NotJson { expected, source }
}

pub(super) fn decode_device(call: &Call<'_>, mut to: ReplyTo) -> Result<Command, Garbled> {
    call.id.clone_into(&mut to.id);
    to.fleeting = true;
    let decoded = serde_json::from_slice::<Rpc<'_>>(call.payload)
        .map_err(not_json("object with `method`"))
        .and_then(|rpc| command(&rpc, call.id));
    addressed(decoded, to)
}

pub(super) fn decode_gateway(call: &Call<'_>, mut to: ReplyTo) -> Result<Command, Garbled> {
    let outer: Outer<'_> = serde_json::from_slice(call.payload)
        .map_err(|error| Garbled::unanswered(not_json("object with `device` and `data`")(error)))?;
    to.id = outer.data.id.to_string();
    to.note.clone_from(&outer.device);
    to.fleeting = true;
    let mut decoded = command(&outer.data, &format!("{}#{}", outer.device, to.id));
    if let Ok(command) = &mut decoded {
        of_device(command, &outer.device);
    }
    addressed(decoded, to)
}

fn command(rpc: &Rpc<'_>, id: &str) -> Result<Command, CommandError> {
    let envelope = rpc.params.map(Envelope::read).unwrap_or_default();
    let own = envelope.own_id()?;
    let mut command = envelope.command(own.as_deref().unwrap_or(id), Some(&rpc.method))?;
    command.fleeting = own.is_none();
    Ok(command)
}

pub(super) fn reply_device(reply: &Reply, to: &ReplyTo) -> Answer {
    (to.topic.clone(), outcome(reply).to_string().into_bytes())
}

pub(super) fn reply_gateway(reply: &Reply, to: &ReplyTo) -> Answer {
    // As it came: a number stays one.
    let id: serde_json::Value = serde_json::from_str(&to.id).unwrap_or_default();
    let answer = json!({"device": to.note, "id": id, "data": outcome(reply)});
    (to.topic.clone(), answer.to_string().into_bytes())
}
