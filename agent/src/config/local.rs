//! `[local]`: what the cloud may do. Read from local files only; nothing from the cloud can widen it.

use std::time::Duration;

use millrace_uplink::SecretSource;

use super::complaint::Complaint;
use super::keys::{KeyDoc, Kind, SectionDoc, all_of, nearest};
use super::pattern::Pattern;
use super::section::Section;
use crate::delivery::ACK;
pub(crate) use models::ModelPolicy;
use models::{MODEL_MEMORY_DEFAULT, MODEL_TIME_DEFAULT};

mod models;

/// What a cloud core may ask where nothing is written: looking, not touching.
const COMMANDS_DEFAULT: [&str; 3] = ["read", "status", "ledger"];

/// Operations of this version.
const COMMANDS: [&str; 16] = crate::remote::OPERATIONS;

/// The table of keys.
pub(crate) const LOCAL: SectionDoc = SectionDoc {
    heading: "[local]",
    keys: &[
        KeyDoc::new(
            "commands",
            Kind::Texts,
            "The commands that the cloud may send: `read`, `write`, `status`, `ledger`, `buffer.status`, \
             `replay`, `config.get`, `config.apply`, `config.rollback`, `model.install`, `model.promote`, `model.rollback`, `bootstrap`, `restart`, `log`. `write` needs `write_tags`, too. \
             `ack` needs no grant: `settle = \"core\"` of the uplink is one. See [commands](commands.md).",
        )
        .means("`[\"read\", \"status\", \"ledger\"]`"),
        KeyDoc::new(
            "write_tags",
            Kind::Texts,
            "The tags that the cloud may write, by pattern (`boiler/*`), as far as they are `writable` and \
             `commands` has `write`.",
        )
        .means("none"),
        KeyDoc::new(
            "command_key_file",
            Kind::Secret,
            "The key that commands must be signed with: each carries `sig`, HMAC-SHA256 with this key over \
             `id|op|args|expires` as they stand in the message. A new key counts at once. See \
             [commands](commands.md).",
        )
        .means("commands need no signature"),
        KeyDoc::new(
            "command_token_file",
            Kind::Secret,
            "The token that commands must carry where the core's format has a place for one (the record `token` of the \
             Mainflux agent). Whoever listens in learns it: `command_key_file` is the better lock.",
        )
        .means("commands need no token"),
        KeyDoc::new(
            "fetch_hosts",
            Kind::Texts,
            "Further hosts, `host` or `host:port`, that downloads of configurations and models may use, beside that of the uplink that the \
             command came by. Https only, and nothing without its digest.",
        )
        .means("none"),
        KeyDoc::new(
            "model_keys",
            Kind::Texts,
            "Who may make models: public keys of Ed25519 in base64, or paths of `.pem` files. What the command `model.install` brings \
             must be signed by one of them. See [models](models.md).",
        )
        .means("none"),
        KeyDoc::new(
            "revoked_model_keys",
            Kind::Texts,
            "Keys that are not to be trusted any more, in the same form. A model that one of them signed is neither installed nor \
             started, whoever asks.",
        )
        .means("none"),
        KeyDoc::new(
            "unsigned_models",
            Kind::Bool,
            "Whether `model.install` may bring models that none of `model_keys` signed. `millrace model install` may, in any case.",
        )
        .default("false"),
        KeyDoc::new(
            "older_models",
            Kind::Bool,
            "Whether `model.install` and `model.promote` may name a version below the one that runs. `model.rollback` goes back in any \
             case.",
        )
        .default("false"),
        KeyDoc::new(
            "model_time",
            Kind::Duration {
                min: Duration::from_secs(1),
                max: Duration::from_secs(600),
            },
            "Time of the processor that a model may take until it has been examined. A model that takes longer is refused.",
        )
        .default(MODEL_TIME_DEFAULT),
        KeyDoc::new(
            "model_memory",
            Kind::Size {
                min: 32 << 20,
                max: 1 << 40,
            },
            "Memory that a model may take while it is examined.",
        )
        .default(MODEL_MEMORY_DEFAULT),
    ],
};

/// What the cloud may do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Local {
    /// Commands that it may send.
    pub(crate) commands: Vec<String>,
    /// Tags that it may write, where it may write at all.
    pub(crate) write_tags: Vec<Pattern>,
    /// The key that commands must be signed with.
    pub(crate) command_key: Option<SecretSource>,
    /// The token that commands must carry.
    pub(crate) command_token: Option<SecretSource>,
    /// Further hosts that downloads may use.
    pub(crate) fetch_hosts: Vec<String>,
    /// Whose models are taken, and what they may cost.
    pub(crate) models: ModelPolicy,
}

impl Local {
    /// Reads the table.
    pub(crate) fn read(section: &Section<'_>) -> Option<Self> {
        section.finish(None);
        let commands = read_commands(section);
        let write_tags = match section.has("write_tags") {
            true => section.texts("write_tags"),
            false => Some(Vec::new()),
        };
        let fetch_hosts = match section.has("fetch_hosts") {
            true => read_hosts(section),
            false => Some(Vec::new()),
        };
        let secret = |key| match section.has(key) {
            true => section.secret(key).map(Some),
            false => Some(None),
        };
        let (command_key, command_token) =
            (secret("command_key_file"), secret("command_token_file"));
        let models = ModelPolicy::read(section);
        let write_tags = write_tags?.into_iter();
        let local = Self {
            commands: commands?,
            write_tags: write_tags.map(|(text, _)| Pattern::new(text)).collect(),
            command_key: command_key?,
            command_token: command_token?,
            fetch_hosts: fetch_hosts?,
            models: models?,
        };
        if !local.write_tags.is_empty() && !local.commands.iter().any(|op| op == "write") {
            let message = "write_tags grants nothing, since commands has no \"write\"".to_owned();
            let hint = "add \"write\" to commands, or remove write_tags".to_owned();
            section.note("write_tags", message, Some(hint));
        }
        Some(local)
    }
}

fn read_hosts(section: &Section<'_>) -> Option<Vec<String>> {
    let mut hosts = Some(Vec::new());
    for (text, place) in section.texts("fetch_hosts")? {
        if text.is_empty() || text.contains(['/', '*', '@', ' ']) {
            let complaint = Complaint::new("host or host:port is expected")
                .hint("write each host by itself, without https:// and without wildcards");
            section.complain_at("fetch_hosts", &place, &text, complaint);
            hosts = None;
        } else if let Some(hosts) = &mut hosts {
            hosts.push(text);
        }
    }
    hosts
}

fn read_commands(section: &Section<'_>) -> Option<Vec<String>> {
    if !section.has("commands") {
        return Some(COMMANDS_DEFAULT.map(str::to_owned).to_vec());
    }
    let texts = section.texts("commands")?;
    let unknown = texts
        .iter()
        .filter(|(text, _)| !COMMANDS.contains(&text.as_str()) && text != ACK);
    let mut known = true;
    for (text, place) in unknown {
        section.complain_at("commands", place, text, unknown_command(text));
        known = false;
    }
    known.then(|| texts.into_iter().map(|(text, _)| text).collect())
}

fn unknown_command(text: &str) -> Complaint {
    let complaint = Complaint::new("no command has this name");
    match nearest(text, COMMANDS) {
        Some(near) => complaint.hint(format!("did you mean {near}?")),
        None => complaint.hint(format!(
            "commands of this version are {}",
            all_of(&COMMANDS)
        )),
    }
}
