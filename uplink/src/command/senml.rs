//! The request and response packs of the Mainflux agent.
//!
//! `[{"bn":"<uuid>:","n":"<subsystem>","vs":"<command>[,<argument>…]"}]`; only the first record asks, further ones may carry
//! `token`, `sig` (both `vs`) and `expires` (`v`, Unix milliseconds). The subsystems `config` (`view`, `get`, `apply,<base64>`,
//! `rollback`), `control` (`status`, `restart`), `ping` and `reset` of the agents are understood; any other `n` is the name of an
//! operation, and `vs` its arguments: JSON, or for `read` names with commas between. The answer has `bn` without the colon, `n` as
//! asked, `t`, and as `vs` the result, or the status and what went wrong.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use millrace_tags::{Command, Reply, ReplyTo, Timestamp};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Answer, Call, CommandError, Garbled, checked_id, checked_op, plain, signed};

#[derive(Deserialize)]
struct Record {
    #[serde(default)]
    bn: String,
    #[serde(default)]
    n: String,
    #[serde(default)]
    vs: Option<String>,
    #[serde(default)]
    v: Option<f64>,
}

pub(super) fn decode(call: &Call<'_>, mut to: ReplyTo) -> Result<Command, Garbled> {
    let pack: Vec<Record> = serde_json::from_slice(call.payload).map_err(|source| {
        Garbled::unanswered(CommandError::NotJson {
            expected: "list of SenML records",
            source,
        })
    })?;
    let missing = || CommandError::Id {
        member: "bn",
        problem: "is missing",
    };
    let first = pack.first().ok_or_else(|| Garbled::unanswered(missing()))?;
    let id = first.bn.strip_suffix(':').unwrap_or(&first.bn);
    checked_id("bn", id).map_err(Garbled::unanswered)?;
    id.clone_into(&mut to.id);
    first.n.clone_into(&mut to.note);
    let text = first.vs.as_deref().unwrap_or_default();
    let (op, args) = asked(&first.n, text).map_err(|error| Garbled {
        error,
        reply_to: Some(Box::new(to.clone())),
    })?;
    let of = |name: &str| pack.iter().skip(1).find(|record| record.n == name);
    let expires = of("expires").and_then(|record| record.v);
    // Below 2^53 the conversion is exact.
    let expires = expires.filter(|at| at.abs() < 9e15).map(|at| at as i64);
    let mut command = Command {
        id: id.to_owned(),
        op,
        args,
        expires,
        reply_to: to,
        ..Command::default()
    };
    let written = expires.map(|at| at.to_string()).unwrap_or_default();
    command.proof.signed = signed(id, &first.n, text, &written);
    command.proof.sig = of("sig").and_then(|record| record.vs.clone());
    command.proof.token = of("token").and_then(|record| record.vs.clone());
    Ok(command)
}

/// The operation and its arguments.
fn asked(n: &str, vs: &str) -> Result<(String, Value), CommandError> {
    let words: Vec<&str> = vs.split(',').map(str::trim).collect();
    let plain = |op: &str| Ok((op.to_owned(), Value::Null));
    match (n, words.as_slice()) {
        ("config", ["view" | "get", ..]) => plain("config.get"),
        ("config", ["rollback"]) => plain("config.rollback"),
        ("config", ["apply", content]) => {
            let toml = STANDARD.decode(content).ok();
            let toml = toml.and_then(|bytes| String::from_utf8(bytes).ok());
            let toml = toml.ok_or_else(|| {
                let sentence = "the argument of config apply is no base64 of UTF-8 text";
                CommandError::Unserved(sentence.to_owned())
            })?;
            Ok(("config.apply".to_owned(), json!({"toml": toml})))
        }
        ("control", ["restart"]) | ("reset", _) => plain("restart"),
        ("control", ["status"]) | ("ping", _) => plain("status"),
        ("config" | "control", _) => Err(CommandError::Unserved(format!(
            "`{n}` has no command `{}` here; config has view, apply and rollback, control has status and restart",
            words.first().copied().unwrap_or_default()
        ))),
        _ => {
            let op = checked_op(n).ok_or_else(|| {
                let sentence = "`n` of the first record is no name of an operation";
                CommandError::Unserved(sentence.to_owned())
            })?;
            let args = match serde_json::from_str(vs) {
                Ok(args @ Value::Object(_)) => args,
                _ if vs.is_empty() => Value::Null,
                _ if op == "read" => json!({"tags": words}),
                _ => {
                    return Err(CommandError::Unserved(format!(
                        "`vs` is {vs:?}; expected the arguments of {op} as a JSON object"
                    )));
                }
            };
            Ok((op, args))
        }
    }
}

pub(super) fn reply(reply: &Reply, to: &ReplyTo, now: Option<Timestamp>) -> Answer {
    let mut record = json!({"bn": to.id, "n": to.note, "vs": plain(reply)});
    if let Some(now) = now {
        record["t"] = json!(now.0 as f64 / 1e9);
    }
    (to.topic.clone(), json!([record]).to_string().into_bytes())
}
