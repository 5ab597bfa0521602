//! Commands of cloud cores: what came on a subscribed topic becomes a [`Command`], an answer becomes a message.
//!
//! Both ways are pure functions of a [`CommandCodec`]. A profile names the codecs and topics as data, `[[command]]`
//! ([`way`]). An answer needs nothing but the [`ReplyTo`] that came out of the command, so that it can be given after a
//! restart, too. Who may ask what is not decided here.
//!
//! | codec | asks | is answered |
//! |---|---|---|
//! | `json` | `{"id","op","args","expires","sig"}` | `{"id","status","result","error"}` |
//! | `senml` | a pack of the Mainflux agent: `bn` the id, `n` the operation, `vs` its arguments | a pack of the same `bn` with `vs` |
//! | `thingsboard` | RPC to the device: `{"method","params"}` | `{"status","result","error"}` |
//! | `thingsboard-gateway` | RPC to a device behind the gateway | the same in `{"device","id","data"}` |
//! | `azure-method` | a direct method | 200, 400, 408 or 500 in the topic |
//! | `aws-job` | the document of a job | IN_PROGRESS, then SUCCEEDED, FAILED or REJECTED |
//! | `aws-shadow` | `millrace_command` of the desired state | `millrace_reply` of the reported state |
//! | `cumulocity` | SmartREST operations 510, 511, 513, 524, 528 | 501, then 503 or 502 |
//!
//! Where the format has one place for everything (`params`, the payload of a method, the text of a shell command), arguments
//! stand there by themselves, or in an envelope `{"id","args","expires","sig"}`, of which `id` makes the command one that
//! runs at most once over restarts ([`envelope`]).

mod aws;
mod azure;
mod cumulocity;
mod envelope;
mod json;
mod senml;
mod thingsboard;
pub(crate) mod way;

#[cfg(test)]
mod tests;

use millrace_tags::{Command, Reply, ReplyTo, Timestamp};
use ring::hmac;

use crate::secret::Secret;

/// The largest command: a whole configuration as TOML fits well.
pub const COMMAND_BYTES_MAX: usize = 1024 * 1024;
/// The longest id: it becomes part of a topic and of the journal of commands.
const ID_CHARS_MAX: usize = 128;
/// The longest name of an operation; real ones have some 20.
const OP_CHARS_MAX: usize = 64;

/// What the asker wants to see again beside the answer; `None` where that is nothing.
pub(crate) fn correlation(to: &ReplyTo) -> Option<Vec<u8>> {
    let text = to.correlation.as_bytes();
    let pairs = text.chunks(2).map(|pair| {
        let pair = std::str::from_utf8(pair).ok()?;
        u8::from_str_radix(pair, 16).ok()
    });
    pairs
        .collect::<Option<Vec<u8>>>()
        .filter(|bytes| !bytes.is_empty())
}

/// A message on a topic that commands come from.
#[derive(Debug, Clone, Copy, Default)]
pub struct Incoming<'a> {
    /// Where it came.
    pub topic: &'a str,
    /// What came.
    pub payload: &'a [u8],
    /// Where the sender wants the answer (MQTT 5).
    pub response_topic: Option<&'a str>,
    /// What the sender wants to see beside the answer (MQTT 5).
    pub correlation: Option<&'a [u8]>,
}

/// What is known of a command before its payload is looked at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call<'a> {
    pub(crate) payload: &'a [u8],
    /// What stands in the topic in the place of `{id}`.
    pub(crate) id: &'a str,
    /// What stands in the topic in the place of `{op}`.
    pub(crate) op: &'a str,
    pub(crate) gateway: &'a str,
}

/// Why a message is no command, and whom to tell.
#[derive(Debug)]
pub struct Garbled {
    /// What is wrong with it.
    pub error: CommandError,
    /// Whom to answer `rejected`, where somebody can be.
    pub reply_to: Option<Box<ReplyTo>>,
}

impl Garbled {
    /// Nobody can be told.
    fn unanswered(error: CommandError) -> Self {
        Self {
            error,
            reply_to: None,
        }
    }
}

/// The command with its way back, or what is wrong with it, to be told on that way.
fn addressed(decoded: Result<Command, CommandError>, to: ReplyTo) -> Result<Command, Garbled> {
    match decoded {
        Ok(mut command) => {
            command.reply_to = to;
            Ok(command)
        }
        Err(error) => Err(Garbled {
            error,
            reply_to: Some(Box::new(to)),
        }),
    }
}

/// Why a payload is no command.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// Too large.
    #[error("the command has {bytes} bytes; the limit is {COMMAND_BYTES_MAX}")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// Not JSON, or not of the form.
    #[error("the command is no JSON {expected}")]
    NotJson {
        /// The form.
        expected: &'static str,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// There is no id to answer to.
    #[error(
        "the command's `{member}` {problem}; expected 1 to {ID_CHARS_MAX} printable characters"
    )]
    Id {
        /// Where the id should be.
        member: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A member is not what it should be.
    #[error("`{member}` of command {id} is {found}; expected {expected}")]
    Member {
        /// The command's id.
        id: String,
        /// Which member.
        member: &'static str,
        /// What it is.
        found: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// The core asks for something that has no meaning here.
    #[error("{0}")]
    Unserved(String),
}

/// A message out of a command or its answer: topic and payload.
pub(crate) type Answer = (String, Vec<u8>);

/// How commands and answers look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommandCodec {
    /// Our own.
    Json,
    /// The Mainflux agent's.
    Senml,
    /// ThingsBoard's RPC to the device that we log in as.
    ThingsBoard,
    /// ThingsBoard's RPC to devices behind it.
    ThingsBoardGateway,
    /// Direct methods of Azure IoT Hub.
    AzureMethod,
    /// Jobs of AWS IoT.
    AwsJob,
    /// The shadow of AWS IoT.
    AwsShadow,
    /// Operations of Cumulocity, by SmartREST.
    Cumulocity,
}

impl CommandCodec {
    /// The words of profiles.
    pub const WORDS: [(&'static str, CommandCodec); 8] = [
        ("json", CommandCodec::Json),
        ("senml", CommandCodec::Senml),
        ("thingsboard", CommandCodec::ThingsBoard),
        ("thingsboard-gateway", CommandCodec::ThingsBoardGateway),
        ("azure-method", CommandCodec::AzureMethod),
        ("aws-job", CommandCodec::AwsJob),
        ("aws-shadow", CommandCodec::AwsShadow),
        ("cumulocity", CommandCodec::Cumulocity),
    ];

    /// Its word.
    pub(crate) fn word(self) -> &'static str {
        let words = Self::WORDS.iter().find(|(_, codec)| *codec == self);
        words.map_or("", |(word, _)| word)
    }

    /// The commands of a message; some cores put several into one, or tell by one that there is none. `to` is
    /// where answers go as far as the topic says it: the codec completes it.
    pub(crate) fn decode(self, call: &Call<'_>, to: ReplyTo) -> Vec<Result<Command, Garbled>> {
        let bytes = call.payload.len();
        if bytes > COMMAND_BYTES_MAX {
            return vec![Err(Garbled::unanswered(CommandError::TooLarge { bytes }))];
        }
        match self {
            CommandCodec::Json => vec![json::decode(call, to)],
            CommandCodec::Senml => vec![senml::decode(call, to)],
            CommandCodec::ThingsBoard => vec![thingsboard::decode_device(call, to)],
            CommandCodec::ThingsBoardGateway => vec![thingsboard::decode_gateway(call, to)],
            CommandCodec::AzureMethod => vec![azure::decode(call, to)],
            CommandCodec::AwsJob => aws::decode_job(call, to).into_iter().collect(),
            CommandCodec::AwsShadow => aws::decode_shadow(call, to).into_iter().collect(),
            CommandCodec::Cumulocity => cumulocity::decode(call, to),
        }
    }

    /// The answer as topic and payload.
    fn answer(self, reply: &Reply, to: &ReplyTo, now: Option<Timestamp>) -> Answer {
        match self {
            CommandCodec::Json => json::reply(reply, to),
            CommandCodec::Senml => senml::reply(reply, to, now),
            CommandCodec::ThingsBoard => thingsboard::reply_device(reply, to),
            CommandCodec::ThingsBoardGateway => thingsboard::reply_gateway(reply, to),
            CommandCodec::AzureMethod => azure::reply(reply, to),
            CommandCodec::AwsJob => aws::reply_job(reply, to),
            CommandCodec::AwsShadow => aws::reply_shadow(reply, to),
            CommandCodec::Cumulocity => cumulocity::reply(reply, to),
        }
    }
}

/// The answer as topic and payload. `None`: nobody waits for one.
pub(crate) fn encode_reply(reply: &Reply, to: &ReplyTo, now: Option<Timestamp>) -> Option<Answer> {
    if to.topic.is_empty() {
        return None;
    }
    let words = CommandCodec::WORDS;
    let (_, codec) = words.iter().find(|(word, _)| *word == to.codec)?;
    Some(codec.answer(reply, to, now))
}

/// What tells the core that a command has begun, where its format has that.
pub(crate) fn encode_begun(to: &ReplyTo) -> Option<Answer> {
    match to.codec.as_str() {
        "aws-job" => Some(aws::begun(to)),
        "cumulocity" => Some(cumulocity::begun(to)),
        _ => None,
    }
}

/// Whether `sig` is the HMAC-SHA256 of `signed` with this key, as hexadecimal digits. Takes the same time
/// wherever they differ.
pub fn is_signed(key: &Secret, signed: &str, sig: &str) -> bool {
    let Some(sig) = from_hex(sig) else {
        return false;
    };
    let key = hmac::Key::new(hmac::HMAC_SHA256, key.expose().as_bytes());
    hmac::verify(&key, signed.as_bytes(), &sig).is_ok()
}

/// Whether the token is the secret. Takes the same time wherever they differ.
pub fn is_token(secret: &Secret, token: &str) -> bool {
    // Compared as digests: no length shows.
    let key = hmac::Key::new(hmac::HMAC_SHA256, b"millrace-token");
    let wanted = hmac::sign(&key, secret.expose().as_bytes());
    hmac::verify(&key, token.as_bytes(), wanted.as_ref()).is_ok()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text
        .chars()
        .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
    Some(
        digits
            .chunks(2)
            .map(|pair| pair[0] << 4 | pair[1])
            .collect(),
    )
}

/// What may be an id.
fn checked_id(member: &'static str, id: &str) -> Result<(), CommandError> {
    let problem = match id {
        "" => "is empty",
        id if id.chars().count() > ID_CHARS_MAX => "is too long",
        id if id.chars().any(char::is_control) => "holds control characters",
        _ => return Ok(()),
    };
    Err(CommandError::Id { member, problem })
}

/// What may be an operation. Cores whose names take no dot write `config_get`.
fn checked_op(op: &str) -> Option<String> {
    if op.is_empty() || op.chars().count() > OP_CHARS_MAX {
        return None;
    }
    let grouped = ["config_", "model_", "buffer_"]
        .iter()
        .any(|group| op.starts_with(group));
    Some(match grouped {
        true => op.replacen('_', ".", 1),
        false => op.to_owned(),
    })
}

/// `id|op|args|expires`.
fn signed(id: &str, op: &str, args: &str, expires: &str) -> String {
    format!("{id}|{op}|{args}|{expires}")
}

/// Tags of a device that the core asks: their names may leave the device out, and `read` of nothing reads all.
fn of_device(command: &mut Command, device: &str) {
    let full = |name: &str| match name.contains('/') {
        true => name.to_owned(),
        false => format!("{device}/{name}"),
    };
    let args = match &mut command.args {
        serde_json::Value::Object(args) => args,
        args => {
            *args = serde_json::json!({});
            let serde_json::Value::Object(args) = args else {
                return;
            };
            args
        }
    };
    match command.op.as_str() {
        "read" => match args.get_mut("tags") {
            Some(serde_json::Value::Array(tags)) => {
                for tag in tags {
                    if let Some(name) = tag.as_str() {
                        *tag = full(name).into();
                    }
                }
            }
            Some(_) => {}
            None => {
                args.insert(
                    "tags".to_owned(),
                    serde_json::json!([format!("{device}/*")]),
                );
            }
        },
        "write" => {
            if let Some(tag) = args.get_mut("tag")
                && let Some(name) = tag.as_str()
            {
                *tag = full(name).into();
            }
        }
        _ => {}
    }
}

/// What a person reads of a reply: the result as it is where it is text, else as JSON.
fn plain(reply: &Reply) -> String {
    match (&reply.error, &reply.result) {
        (Some(error), _) => format!("{}: {error}", reply.status.as_str()),
        (None, Some(serde_json::Value::String(text))) => text.clone(),
        (None, Some(result)) => result.to_string(),
        (None, None) => reply.status.as_str().to_owned(),
    }
}

/// The members of a reply, without its id.
fn outcome(reply: &Reply) -> serde_json::Value {
    let mut outcome = serde_json::json!({"status": reply.status});
    if let Some(result) = &reply.result {
        outcome["result"] = result.clone();
    }
    if let Some(error) = &reply.error {
        outcome["error"] = error.as_str().into();
    }
    outcome
}
