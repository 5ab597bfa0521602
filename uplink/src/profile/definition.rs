//! A profile as its file says it, checked.
//!
//! ```toml
//! format = 1                    # of this file
//! name = "my-core"
//! about = "One sentence for people."
//! codec = "json"                # senml-json, senml-cbor, thingsboard, influx-line, smartrest, template, sparkplug
//! delivery = "acked"            # acked-unverified: an acknowledgement does not prove that the core took it;
//!                               # unacked: there is none; with sparkplug, and only with it
//! echo = true                   # who subscribes to a topic that it publishes to gets its own messages back: the proof
//! sequence = "payload"          # property, none: where stream and numbers travel
//! protocol = "auto"             # 5, 3.1.1: the version of MQTT, where the core knows one only
//! time = "source"               # gateway: of arrival, whatever the device says
//! compression = ["zstd"]        # what the receiver can undo
//!
//! [vars]                        # what the uplink must say, `vars = { channel = "…" }`; with a default: may
//! channel = "The id of the channel."
//! prefix = { about = "…", default = "x" }
//!
//! [auth]
//! username = "{gateway}"        # where the uplink says none
//! needs = ["username", "password"]   # certificate: what the uplink must bring; token: the secret of
//!                               # password_file, which goes as user name, and nothing as password
//!
//! [limits]
//! max_message = 131072          # bytes on the wire
//! message_expiry = 86400        # seconds after which a broker may throw away samples that it could not deliver (MQTT 5)
//! max_topic = 256               # bytes
//! max_levels = 8
//! forbidden = " *"              # characters that the core does not take in a topic
//! messages_per_second = 100     # what a connection may send; bytes on the wire, points are samples and events
//! bytes_per_second = 524288
//! points_per_second = 1000
//! ask = "thingsboard"           # the core is asked for its limits at each connect, and they are obeyed, too
//!
//! [topics]                      # a topic that is missing is not used: what it stands for is not told
//! names = "percent"             # level, plain, nats: how names become parts of a topic
//! data = "x/{gateway}/{source}"      # {tag} with a template that makes a message of each sample
//! event = "…"; gap = "…"; status = "…"; clock = "…"
//!
//! [status]
//! retain = true                 # at the broker
//! will = true                   # and the broker says `offline` for a gateway that vanished
//!
//! [[greeting]]                  # further messages at each connect, ahead of all data
//! topic = "v1/gateway/connect"
//! each = "source"               # once for each device and model; without it once
//! payload = '{"device":{{ source }}}'
//! needs = "control"             # only where this variable is not empty
//!
//! [[command]]                   # a way on which commands come, see `crate::command`
//! codec = "json"                # senml, thingsboard, thingsboard-gateway, azure-method, aws-job, aws-shadow, cumulocity
//! from = "x/{gateway}/cmd"      # {id}, {op}: what stands there is told to the codec
//! reply = "x/{gateway}/cmd/{id}"
//!
//! [template]                    # see the codec `template`
//! ```
//!
//! `sparkplug` has the topics, messages and commands of its specification: no tables but `vars`, with the variables
//! `group`, `node` and `primary_host`, `auth` and `limits`.

mod read;

use std::cell::RefCell;
use std::collections::BTreeMap;

use crate::codec::TimeChoice;
use crate::codec::template::TemplateTexts;
use crate::command::way::WayTemplate;
use crate::session::ProtocolChoice;
use crate::topic::{TopicRules, TopicTemplate};

use super::limits::AskLimits;
use super::reader::{ProfileError, ProfileProblem, Reader};

/// The version of the files that this program reads.
const FORMAT: usize = 1;

/// Where stream and numbers of a message travel, so that a receiver can find what is missing or there twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sequence {
    /// In the payload.
    Payload,
    /// In a property of the message.
    Property,
    /// Nowhere: the core's format has no place for them.
    None,
}

/// What an acknowledgement of the broker is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryClass {
    /// Custody at the broker.
    Acked,
    /// It does not even prove that the core takes what is sent there.
    AckedUnverified,
    /// There is none: what was sent is taken for delivered after a while on an unbroken connection.
    Unacked,
}

/// What a core takes in a second; `None`: as much as it acknowledges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rates {
    /// Messages.
    pub messages: Option<u64>,
    /// Bytes on the wire.
    pub bytes: Option<u64>,
    /// Samples and events.
    pub points: Option<u64>,
}

impl Rates {
    /// The tighter of each.
    #[must_use]
    pub fn and(self, other: Rates) -> Rates {
        let tighter = |one: Option<u64>, other: Option<u64>| one.into_iter().chain(other).min();
        Rates {
            messages: tighter(self.messages, other.messages),
            bytes: tighter(self.bytes, other.bytes),
            points: tighter(self.points, other.points),
        }
    }
}

/// How payloads may be compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// A zstd frame (RFC 8878).
    Zstd,
    /// A gzip member (RFC 1952).
    Gzip,
}

impl Compression {
    /// The words of profiles and configuration.
    pub const WORDS: [(&'static str, Compression); 2] =
        [("zstd", Compression::Zstd), ("gzip", Compression::Gzip)];
}

/// What an uplink must bring to log in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// A user name.
    Username,
    /// A password.
    Password,
    /// A token, in the file of the password; it goes as user name, and nothing as password.
    Token,
    /// A certificate and its key.
    Certificate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CodecName {
    Json,
    SenmlJson,
    SenmlCbor,
    ThingsBoard,
    InfluxLine,
    SmartRest,
    Template,
    Sparkplug,
}

impl CodecName {
    const WORDS: [(&'static str, CodecName); 8] = [
        ("json", CodecName::Json),
        ("senml-json", CodecName::SenmlJson),
        ("senml-cbor", CodecName::SenmlCbor),
        ("thingsboard", CodecName::ThingsBoard),
        ("influx-line", CodecName::InfluxLine),
        ("smartrest", CodecName::SmartRest),
        ("template", CodecName::Template),
        ("sparkplug", CodecName::Sparkplug),
    ];
}

/// A variable of a profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    /// What it means.
    pub about: String,
    /// What it is where the uplink does not say.
    pub default: Option<String>,
}

/// A further message at each connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Greeting {
    pub(crate) topic: TopicTemplate,
    /// The variable without which it is left out.
    pub(crate) needs: Option<String>,
    pub(crate) each_source: bool,
    pub(crate) payload: String,
    pub(crate) json: bool,
}

/// A profile as its file says it, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// The file.
    pub(crate) file: String,
    /// Its name, as `profile = "…"` says it.
    pub name: String,
    /// One sentence for people.
    pub about: String,
    /// Where stream and numbers travel.
    pub sequence: Sequence,
    /// What an acknowledgement is worth.
    pub delivery: DeliveryClass,
    /// The version of MQTT, where the uplink says none.
    pub protocol: ProtocolChoice,
    /// Whether who subscribes to a topic that it publishes to gets its own messages back.
    pub echo: bool,
    /// How payloads may be compressed.
    pub compression: Vec<Compression>,
    /// What an uplink must say.
    pub vars: BTreeMap<String, Variable>,
    /// What an uplink must bring to log in.
    pub needs: Vec<Need>,
    /// The largest message that the core takes, where that is known.
    pub max_message: Option<usize>,
    /// Seconds after which a broker may throw away samples that it could not deliver.
    pub(crate) message_expiry: Option<u32>,
    /// What it takes in a second.
    pub rates: Rates,
    /// How it is asked for its limits.
    pub(crate) ask_limits: Option<AskLimits>,
    /// Where the uplink says no user name.
    pub(crate) username: Option<TopicTemplate>,
    pub(crate) codec: CodecName,
    pub(crate) time: TimeChoice,
    pub(crate) rules: TopicRules,
    pub(crate) topics: TopicTemplates,
    pub(crate) retain_status: bool,
    pub(crate) will: bool,
    pub(crate) greeting: Vec<Greeting>,
    pub(crate) commands: Vec<WayTemplate>,
    pub(crate) template: Option<TemplateTexts>,
}

impl Definition {
    /// Whether what the uplink gives as password is a token that goes as user name.
    pub fn wants_token(&self) -> bool {
        self.needs.contains(&Need::Token)
    }
}

/// The topics of a profile.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct TopicTemplates {
    pub(crate) data: Option<TopicTemplate>,
    pub(crate) event: Option<TopicTemplate>,
    pub(crate) gap: Option<TopicTemplate>,
    pub(crate) status: Option<TopicTemplate>,
    pub(crate) clock: Option<TopicTemplate>,
}

/// Reads a profile.
///
/// # Errors
/// With every problem at once.
pub fn parse(file: &str, text: &str) -> Result<Definition, ProfileError> {
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        ProfileError(vec![ProfileProblem {
            file: file.to_owned(),
            key: String::new(),
            value: "no TOML".to_owned(),
            expected: "a file of TOML".to_owned(),
            fix: error.to_string().trim().replace('\n', " "),
        }])
    })?;
    let problems = RefCell::new(Vec::new());
    let definition = read::definition(file, &Reader::new(file, &table, &problems));
    let problems = problems.into_inner();
    match definition {
        Some(definition) if problems.is_empty() => Ok(definition),
        _ => Err(ProfileError(problems)),
    }
}
