//! `[local]`: what the cloud may do. Read from local files only; nothing from the cloud can widen it.

use millrace_uplink::SecretSource;

use super::keys::{KeyDoc, Kind, SectionDoc, nearest};
use super::pattern::Pattern;
use super::section::{Complaint, Section};

/// What a cloud core may ask where nothing is written: looking, not touching.
const COMMANDS_DEFAULT: [&str; 3] = ["read", "status", "ledger"];

/// Every operation that a command can name.
const COMMANDS: [&str; 17] = [
    "read",
    "write",
    "config.get",
    "config.apply",
    "config.rollback",
    "model.install",
    "model.shadow",
    "model.promote",
    "model.rollback",
    "bootstrap",
    "restart",
    "status",
    "ledger",
    "buffer.status",
    "log",
    "replay",
    "ack",
];

/// The table of keys.
pub(crate) const LOCAL: SectionDoc = SectionDoc {
    heading: "[local]",
    doc: "What the cloud may do. Read from local files only: in the cloud's configuration it is ignored.",
    keys: &[
        KeyDoc::new("commands", Kind::Texts, "The commands that the cloud may send.")
            .means("`[\"read\", \"status\", \"ledger\"]`"),
        KeyDoc::new(
            "write_tags",
            Kind::Texts,
            "The tags that the cloud may write, by full name or pattern, as `boiler/*`. They must be \
             `writable` too.",
        )
        .means("none"),
        KeyDoc::new(
            "command_key_file",
            Kind::Secret,
            "Where this is set, commands must carry `sig`, the HMAC-SHA256 over id|op|args|expires under \
             this key.",
        ),
        KeyDoc::new(
            "fetch_hosts",
            Kind::Texts,
            "Further hosts that models and configurations may be downloaded from, over https.",
        )
        .means("none"),
    ],
};

/// What the cloud may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Local {
    /// Commands that it may send.
    pub(crate) commands: Vec<String>,
    /// Tags that it may write.
    pub(crate) write_tags: Vec<Pattern>,
    /// Where set, commands must be signed with it.
    pub(crate) command_key: Option<SecretSource>,
    /// Further hosts that downloads may use.
    pub(crate) fetch_hosts: Vec<String>,
}

impl Local {
    /// Reads the table.
    pub(crate) fn read(section: &Section<'_>) -> Option<Self> {
        section.finish(None);
        let commands = read_commands(section);
        let command_key = match section.has("command_key_file") {
            true => section.secret("command_key_file").map(Some),
            false => Some(None),
        };
        let texts = |key| -> Option<Vec<String>> {
            if !section.has(key) {
                return Some(Vec::new());
            }
            let texts = section.texts(key)?;
            Some(texts.into_iter().map(|(text, _)| text).collect())
        };
        let write_tags = texts("write_tags");
        let fetch_hosts = texts("fetch_hosts");
        Some(Self {
            commands: commands?,
            write_tags: write_tags?.into_iter().map(Pattern::new).collect(),
            command_key: command_key?,
            fetch_hosts: fetch_hosts?,
        })
    }
}

fn read_commands(section: &Section<'_>) -> Option<Vec<String>> {
    if !section.has("commands") {
        return Some(COMMANDS_DEFAULT.map(str::to_owned).to_vec());
    }
    let mut known = true;
    let texts = section.texts("commands")?;
    for (text, place) in &texts {
        if !COMMANDS.contains(&text.as_str()) {
            let complaint = Complaint::new("no command has this name");
            let complaint = match nearest(text, COMMANDS) {
                Some(near) => complaint.hint(format!("did you mean {near}?")),
                None => complaint.hint(format!("commands are {}", COMMANDS.join(", "))),
            };
            section.complain_at("commands", place, text, complaint);
            known = false;
        }
    }
    known.then(|| texts.into_iter().map(|(text, _)| text).collect())
}
