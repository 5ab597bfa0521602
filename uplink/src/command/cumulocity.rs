//! Operations of Cumulocity by SmartREST: `510,<device>` on `s/ds`, answered by `501,<fragment>`, then `503,<fragment>` or
//! `502,<fragment>,<why>` on `s/us`.
//!
//! | line | operation |
//! |---|---|
//! | `510` | `restart` |
//! | `511`, a shell command | its first word is the operation, the rest its arguments as JSON, or an envelope; the result comes as text |
//! | `513`, a configuration as text | `config.apply` |
//! | `524`, a configuration by URL | `config.apply`, where the URL ends in `#sha256=<digest>` |
//! | `528`, a software to install by URL | `model.install`, the same |
//!
//! Lines have no id: what is not answered comes again when we ask for it (`500` at each connect). A child device is
//! `<gateway>:<name>`: tags of a shell command to it may leave the device out. Other operations fail with a sentence.

use millrace_tags::{Command, Reply, ReplyStatus, ReplyTo};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::envelope::Envelope;
use super::{Answer, Call, CommandError, Garbled, of_device, plain};

/// What a message to Cumulocity leaves for a result; the largest has 16,184 bytes.
const RESULT_BYTES_MAX: usize = 14_000;

pub(super) fn decode(call: &Call<'_>, to: ReplyTo) -> Vec<Result<Command, Garbled>> {
    let text = String::from_utf8_lossy(call.payload);
    let lines = lines(&text);
    lines
        .iter()
        .filter_map(|line| operation(call, line, &to))
        .collect()
}

/// `None`: a line that asks nothing.
fn operation(call: &Call<'_>, line: &[String], to: &ReplyTo) -> Option<Result<Command, Garbled>> {
    let field = |at: usize| line.get(at).map(String::as_str).unwrap_or_default();
    let fragment = match field(0) {
        "510" => "c8y_Restart",
        "511" => "c8y_Command",
        "513" => "c8y_Configuration",
        "515" => "c8y_Firmware",
        "516" => "c8y_SoftwareList",
        "522" => "c8y_LogfileRequest",
        "524" => "c8y_DownloadConfigFile",
        "526" => "c8y_UploadConfigFile",
        "528" => "c8y_SoftwareUpdate",
        _ => return None,
    };
    let device = field(1);
    let mut to = to.clone();
    fragment.clone_into(&mut to.note);
    let child = device
        .strip_prefix(call.gateway)
        .and_then(|rest| rest.strip_prefix(':'));
    if child.is_some() {
        // The answer is the child's.
        to.topic = format!("{}/{device}", to.topic);
    }
    let decoded = match field(0) {
        "510" if child.is_some() => Err(CommandError::Unserved(
            "a device behind the gateway is not restarted; ask the gateway itself".to_owned(),
        )),
        "510" => Ok(plain_command(("restart".to_owned(), Value::Null))),
        "511" => shell(field(2)),
        "513" => Ok(plain_command((
            "config.apply".to_owned(),
            json!({"toml": field(2)}),
        ))),
        "524" => fetched(field(2)).map(|args| plain_command(("config.apply".to_owned(), args))),
        "528" if line.len() == 6 && field(5) == "install" => {
            fetched(field(4)).map(|args| plain_command(("model.install".to_owned(), args)))
        }
        _ => Err(CommandError::Unserved(format!(
            "{fragment} is not served in this form; a shell command such as `status` or `config.get` is"
        ))),
    };
    Some(match decoded {
        Ok(mut command) => {
            command.fleeting |= command.id.is_empty();
            if let Some(child) = child {
                of_device(&mut command, child);
            }
            command.reply_to = to;
            Ok(command)
        }
        Err(error) => Err(Garbled {
            error,
            reply_to: Some(Box::new(to)),
        }),
    })
}

fn plain_command((op, args): (String, Value)) -> Command {
    let signed = super::signed("", &op, "", "");
    let mut command = Command {
        op,
        args,
        ..Command::default()
    };
    command.proof.signed = signed;
    command
}

/// `read {"tags":["boiler/pressure"]}`.
fn shell(text: &str) -> Result<Command, CommandError> {
    let text = text.trim();
    let (op, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let raw: Option<&RawValue> = match rest.trim() {
        "" => None,
        rest => Some(
            serde_json::from_str(rest).map_err(|source| CommandError::NotJson {
                expected: "object behind the name of the operation",
                source,
            })?,
        ),
    };
    let envelope = raw.map(Envelope::read).unwrap_or_default();
    let own = envelope.own_id()?.unwrap_or_default();
    envelope.command(&own, Some(op))
}

/// A download says its digest.
fn fetched(url: &str) -> Result<Value, CommandError> {
    let (url, digest) = url.split_once("#sha256=").ok_or_else(|| {
        let sentence =
            "the URL must end in #sha256=<digest>: nothing is fetched without its digest";
        CommandError::Unserved(sentence.to_owned())
    })?;
    Ok(json!({"url": url, "sha256": digest}))
}

pub(super) fn begun(to: &ReplyTo) -> Answer {
    (to.topic.clone(), format!("501,{}", to.note).into_bytes())
}

pub(super) fn reply(reply: &Reply, to: &ReplyTo) -> Answer {
    let fragment = &to.note;
    let text = match (reply.status, fragment.as_str()) {
        (ReplyStatus::Done, "c8y_Command") => format!("503,{fragment},{}", quoted(&plain(reply))),
        (ReplyStatus::Done, _) => format!("503,{fragment}"),
        _ => format!("502,{fragment},{}", quoted(&plain(reply))),
    };
    (to.topic.clone(), text.into_bytes())
}

/// A field of CSV, cut to what fits.
fn quoted(text: &str) -> String {
    let mut field = String::with_capacity(text.len() + 2);
    field.push('"');
    for c in text.chars() {
        if field.len() > RESULT_BYTES_MAX {
            field.push('…');
            break;
        }
        match c {
            '"' => field.push_str("\"\""),
            c if c.is_control() => field.push(' '),
            c => field.push(c),
        }
    }
    field.push('"');
    field
}

/// Lines of fields; a quoted field may hold commas, line breaks and doubled quotes.
fn lines(text: &str) -> Vec<Vec<String>> {
    let mut lines = Vec::new();
    let (mut line, mut field, mut quoted) = (Vec::new(), String::new(), false);
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '"' if quoted && rest.peek() == Some(&'"') => {
                rest.next();
                field.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => line.push(std::mem::take(&mut field)),
            '\r' if !quoted => {}
            '\n' if !quoted => {
                line.push(std::mem::take(&mut field));
                lines.push(std::mem::take(&mut line));
            }
            c => field.push(c),
        }
    }
    line.push(field);
    lines.push(line);
    lines
}
