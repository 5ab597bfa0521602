//! Jobs and the shadow of AWS IoT.
//!
//! A job's document is a command without an id, `{"op","args","expires","sig"}`; its id is that of the job (signed so) and counts with the
//! number of the execution. It is IN_PROGRESS when it begins, then SUCCEEDED, FAILED or REJECTED, with `result` and `error` as
//! details of at most 1,024 characters.
//!
//! In the shadow, `desired.millrace_command` is a list of one command, `[{"id","op","args","expires","sig"}]`: AWS shows of a list the
//! whole as soon as anything in it differs, of an object only what does. The answer reports the same list, so that
//! nothing differs any more whatever came of the command, and `millrace_reply`. A shadow has 8 KB.

use millrace_tags::{Command, Reply, ReplyStatus, ReplyTo};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::envelope::{Envelope, Open, text_id};
use super::{Answer, Call, CommandError, Garbled, addressed, checked_id};

/// The longest value of a detail of a job.
const DETAIL_CHARS_MAX: usize = 1024;

/// A result beyond this has no place in a shadow.
const SHADOW_RESULT_BYTES_MAX: usize = 4096;

#[derive(Deserialize)]
struct Notice<'a> {
    #[serde(borrow, default)]
    execution: Option<Execution<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Execution<'a> {
    #[serde(default)]
    job_id: String,
    #[serde(default)]
    execution_number: u64,
    #[serde(borrow, default)]
    job_document: Option<&'a RawValue>,
}

/// `None`: there is no job.
pub(super) fn decode_job(call: &Call<'_>, mut to: ReplyTo) -> Option<Result<Command, Garbled>> {
    let notice: Notice<'_> = match serde_json::from_slice(call.payload) {
        Ok(notice) => notice,
        Err(source) => {
            let expected = "notice of a job";
            return Some(Err(Garbled::unanswered(CommandError::NotJson {
                expected,
                source,
            })));
        }
    };
    let execution = notice.execution.filter(|it| !it.job_id.is_empty())?;
    let job = execution.job_id.as_str();
    if let Err(error) = checked_id("jobId", job) {
        return Some(Err(Garbled::unanswered(error)));
    }
    job.clone_into(&mut to.id);
    to.topic = to.topic.replace("{id}", job);
    let decoded = match execution.job_document {
        Some(document) => job_command(document, job, execution.execution_number),
        None => Err(CommandError::Unserved("the job has no document".to_owned())),
    };
    Some(addressed(decoded, to))
}

fn job_command(document: &RawValue, job: &str, number: u64) -> Result<Command, CommandError> {
    let open: Open<'_> =
        serde_json::from_str(document.get()).map_err(|source| CommandError::NotJson {
            expected: "document with `op`",
            source,
        })?;
    let mut command = Envelope::from(open).command(job, None)?;
    command.id = format!("{job}#{number}");
    Ok(command)
}

pub(super) fn begun(to: &ReplyTo) -> Answer {
    let answer = json!({"status": "IN_PROGRESS"});
    (to.topic.clone(), answer.to_string().into_bytes())
}

pub(super) fn reply_job(reply: &Reply, to: &ReplyTo) -> Answer {
    let status = match reply.status {
        ReplyStatus::Done => "SUCCEEDED",
        ReplyStatus::Failed => "FAILED",
        ReplyStatus::Rejected | ReplyStatus::Expired => "REJECTED",
    };
    let mut details = json!({"outcome": reply.status});
    if let Some(result) = &reply.result {
        details["result"] = detail(&result.to_string()).into();
    }
    if let Some(error) = &reply.error {
        details["error"] = detail(error).into();
    }
    let answer = json!({"status": status, "statusDetails": details});
    (to.topic.clone(), answer.to_string().into_bytes())
}

/// AWS takes no control characters there, and not much.
fn detail(text: &str) -> String {
    let mut text: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if text.chars().count() > DETAIL_CHARS_MAX {
        text = text.chars().take(DETAIL_CHARS_MAX - 1).collect();
        text.push('…');
    }
    text
}

#[derive(Deserialize)]
struct Shadow<'a> {
    #[serde(borrow)]
    state: State<'a>,
}

/// `…/update/delta` has what differs at once, `…/get/accepted` below `delta`.
#[derive(Deserialize)]
struct State<'a> {
    #[serde(borrow, default)]
    delta: Option<Difference<'a>>,
    #[serde(borrow, default)]
    millrace_command: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Difference<'a> {
    #[serde(borrow, default)]
    millrace_command: Option<&'a RawValue>,
}

/// `None`: what differs is not ours.
pub(super) fn decode_shadow(call: &Call<'_>, mut to: ReplyTo) -> Option<Result<Command, Garbled>> {
    let shadow: Shadow<'_> = match serde_json::from_slice(call.payload) {
        Ok(shadow) => shadow,
        Err(source) => {
            let expected = "state of a shadow";
            return Some(Err(Garbled::unanswered(CommandError::NotJson {
                expected,
                source,
            })));
        }
    };
    let nested = shadow.state.delta.and_then(|delta| delta.millrace_command);
    let list = shadow.state.millrace_command.or(nested)?;
    list.get().clone_into(&mut to.note);
    let decoded = serde_json::from_str::<[&RawValue; 1]>(list.get())
        .and_then(|[one]| serde_json::from_str::<Open<'_>>(one.get()))
        .map_err(|source| CommandError::NotJson {
            expected: "list of one command, `[{\"id\", \"op\", \"args\"}]`, in millrace_command",
            source,
        })
        .and_then(|open| {
            let id = match open.id {
                Some(id) => text_id("id", id)?,
                None => {
                    return Err(CommandError::Id {
                        member: "id",
                        problem: "is missing",
                    });
                }
            };
            Envelope::from(open).command(&id, None)
        });
    if let Ok(command) = &decoded {
        to.id.clone_from(&command.id);
    }
    Some(addressed(decoded, to))
}

pub(super) fn reply_shadow(reply: &Reply, to: &ReplyTo) -> Answer {
    let echo: Value = serde_json::from_str(&to.note).unwrap_or_default();
    // What is null goes from the shadow: nothing of an earlier answer stays.
    let mut answer = json!({
        "id": to.id, "status": reply.status, "result": reply.result, "error": reply.error,
    });
    if answer["result"].to_string().len() > SHADOW_RESULT_BYTES_MAX {
        answer["result"] = Value::Null;
        answer["error"] =
            "it ran; its result has no place in a shadow: ask by a job or on a topic".into();
    }
    let reported = json!({"millrace_command": echo, "millrace_reply": answer});
    let update = json!({"state": {"reported": reported}});
    (to.topic.clone(), update.to_string().into_bytes())
}
