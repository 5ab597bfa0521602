//! Our own format: `{"id","op","args","expires","sig"}`, answered by `{"id","status","result","error"}`.

use millrace_tags::{Command, Reply, ReplyTo};

use super::envelope::{Envelope, Open, text_id};
use super::{Answer, Call, CommandError, Garbled, addressed};
use crate::topic::Names;

pub(super) fn decode(call: &Call<'_>, mut to: ReplyTo) -> Result<Command, Garbled> {
    let open: Open<'_> = serde_json::from_slice(call.payload).map_err(|source| {
        Garbled::unanswered(CommandError::NotJson {
            expected: "object with `id` and `op`",
            source,
        })
    })?;
    let missing = CommandError::Id {
        member: "id",
        problem: "is missing",
    };
    let id = match open.id {
        Some(id) => text_id("id", id),
        None => Err(missing),
    };
    let id = id.map_err(Garbled::unanswered)?;
    to.id.clone_from(&id);
    // An id is one level everywhere.
    to.topic = to.topic.replace("{id}", &Names::Level.clean(&id));
    addressed(Envelope::from(open).command(&id, None), to)
}

pub(super) fn reply(reply: &Reply, to: &ReplyTo) -> Answer {
    let reply = Reply {
        id: to.id.clone(),
        ..reply.clone()
    };
    // Plain data with text keys always has a form in JSON.
    (
        to.topic.clone(),
        serde_json::to_vec(&reply).unwrap_or_default(),
    )
}
