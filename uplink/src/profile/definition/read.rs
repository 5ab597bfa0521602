//! From the tables of a profile's file to its definition.

use std::collections::BTreeMap;

use crate::codec::TimeChoice;
use crate::codec::template::{TemplateTexts, Templates};
use crate::command::CommandCodec;
use crate::command::way::{FROM_PLACES, Pattern, REPLY_PLACES, WayTemplate};
use crate::session::ProtocolChoice;
use crate::topic::{Names, TopicRules, TopicTemplate};

use super::super::limits::AskLimits;
use super::super::reader::Reader;
use super::{
    CodecName, Compression, Definition, DeliveryClass, FORMAT, Greeting, Need, Rates, Sequence,
    TopicTemplates, Variable,
};

/// More in a second than any core takes.
const RATE_MAX: usize = 1_000_000_000;

pub(super) fn definition(file: &str, root: &Reader<'_>) -> Option<Definition> {
    root.only(&[
        "format",
        "name",
        "about",
        "codec",
        "delivery",
        "echo",
        "sequence",
        "protocol",
        "time",
        "compression",
        "vars",
        "auth",
        "limits",
        "topics",
        "status",
        "greeting",
        "command",
        "template",
    ]);
    let codec = root.word("codec", &CodecName::WORDS);
    let is_node = codec == Some(CodecName::Sparkplug);
    for key in [
        "format", "name", "about", "codec", "delivery", "sequence", "topics",
    ] {
        let may_miss = is_node && key == "topics";
        if !may_miss && !root.has(key) {
            root.complain(
                key,
                "it to be there",
                "see a built-in profile for an example",
            );
        }
    }
    root.number("format", FORMAT, FORMAT);
    let vars = read_vars(root);
    let known: Vec<&str> = vars.keys().map(String::as_str).collect();
    let rules = read_rules(root);
    let topics = match is_node {
        true => node_topics(root, &known),
        false => read_topics(root, &known, codec),
    };
    let template = read_template(root, codec);
    check_topics(root, &topics, template.as_ref());
    let auth = read_auth(root, &known);
    let status = root.table("status");
    if let Some(status) = &status {
        status.only(&["retain", "will"]);
    }
    let flag = |key| status.as_ref().and_then(|status| status.flag(key));
    let (retain_status, will) = (
        flag("retain").unwrap_or(false),
        flag("will").unwrap_or(false),
    );
    if will && topics.status.is_none() {
        root.complain(
            "topics",
            "a topic `status` for the will",
            "add status = \"…\", or remove will",
        );
    }
    let delivery = root.word(
        "delivery",
        &[
            ("acked", DeliveryClass::Acked),
            ("acked-unverified", DeliveryClass::AckedUnverified),
            ("unacked", DeliveryClass::Unacked),
        ],
    );
    if delivery.is_some_and(|delivery| is_node != (delivery == DeliveryClass::Unacked)) {
        let (expected, fix) = match is_node {
            true => ("unacked with this codec", "delivery = \"unacked\""),
            false => (
                "a class with acknowledgements",
                "delivery = \"acked\", or codec = \"sparkplug\"",
            ),
        };
        root.complain("delivery", expected, fix);
    }
    let limits = root.table("limits");
    let max_message = limits
        .as_ref()
        .and_then(|limits| limits.number("max_message", 1024, 16 << 20));
    let message_expiry = limits
        .as_ref()
        .and_then(|limits| limits.number("message_expiry", 1, u32::MAX as usize));
    let rate = |key: &str| {
        let limit = limits.as_ref()?.number(key, 1, RATE_MAX)?;
        u64::try_from(limit).ok()
    };
    let rates = Rates {
        messages: rate("messages_per_second"),
        bytes: rate("bytes_per_second"),
        points: rate("points_per_second"),
    };
    Some(Definition {
        file: file.to_owned(),
        name: read_name(root)?,
        about: root.text("about")?.to_owned(),
        sequence: root.word(
            "sequence",
            &[
                ("payload", Sequence::Payload),
                ("property", Sequence::Property),
                ("none", Sequence::None),
            ],
        )?,
        delivery: delivery?,
        echo: root.flag("echo").unwrap_or(false),
        compression: root.words("compression", &Compression::WORDS),
        needs: auth.needs,
        username: auth.username,
        max_message,
        message_expiry: message_expiry.and_then(|seconds| u32::try_from(seconds).ok()),
        protocol: root
            .word("protocol", &ProtocolChoice::WORDS)
            .unwrap_or_default(),
        rates,
        ask_limits: limits
            .as_ref()
            .and_then(|limits| limits.word("ask", &AskLimits::WORDS)),
        codec: codec?,
        time: root
            .word(
                "time",
                &[
                    ("source", TimeChoice::Source),
                    ("gateway", TimeChoice::Gateway),
                ],
            )
            .unwrap_or_default(),
        rules,
        topics,
        retain_status,
        will,
        greeting: read_greetings(root, &known),
        commands: read_ways(root, &known),
        template,
        vars,
    })
}

fn read_name(root: &Reader<'_>) -> Option<String> {
    let name = root.text("name")?;
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if !name.chars().all(fits) {
        root.complain("name", "small letters, digits and -", "name = \"my-core\"");
        return None;
    }
    Some(name.to_owned())
}

fn read_vars(root: &Reader<'_>) -> BTreeMap<String, Variable> {
    let mut vars = BTreeMap::new();
    let Some(table) = root.table("vars") else {
        return vars;
    };
    for name in table.keys() {
        let fits = name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        if !fits || ["gateway", "source", "tag", "id"].contains(&name) {
            table.complain(
                name,
                "a name of small letters, digits and _ that has no meaning yet",
                "give the variable another name",
            );
            continue;
        }
        let variable = match table.is_text(name) {
            true => table.text(name).map(|about| Variable {
                about: about.to_owned(),
                default: None,
            }),
            false => table.table(name).and_then(|inner| {
                inner.only(&["about", "default"]);
                for key in ["about", "default"] {
                    if !inner.has(key) {
                        inner.complain(
                            key,
                            "a text",
                            "write a variable without a default as name = \"what it means\"",
                        );
                    }
                }
                Some(Variable {
                    about: inner.text("about")?.to_owned(),
                    // Nothing is a default, too: the variable turns on what needs it.
                    default: Some(inner.string("default")?.to_owned()),
                })
            }),
        };
        if let Some(variable) = variable {
            vars.insert(name.to_owned(), variable);
        }
    }
    vars
}

fn read_rules(root: &Reader<'_>) -> TopicRules {
    let mut rules = TopicRules::default();
    if let Some(limits) = root.table("limits") {
        limits.only(&[
            "max_message",
            "max_topic",
            "max_levels",
            "forbidden",
            "message_expiry",
            "messages_per_second",
            "bytes_per_second",
            "points_per_second",
            "ask",
        ]);
        if let Some(most) = limits.number("max_topic", 16, crate::message::STRING_BYTES_MAX) {
            rules.bytes_max = most;
        }
        rules.levels_max = limits.number("max_levels", 1, 128);
        if let Some(forbidden) = limits.has("forbidden").then(|| limits.text("forbidden")) {
            rules.forbidden = forbidden.unwrap_or_default().to_owned();
        }
    }
    if let Some(names) = root
        .table("topics")
        .filter(|topics| topics.has("names"))
        .and_then(|topics| topics.word("names", &Names::WORDS))
    {
        rules.names = names;
    }
    rules
}

fn read_topics(root: &Reader<'_>, vars: &[&str], codec: Option<CodecName>) -> TopicTemplates {
    let Some(table) = root.table("topics") else {
        return TopicTemplates::default();
    };
    table.only(&["names", "data", "event", "gap", "status", "clock"]);
    let read = |key: &str, places: &[&str]| {
        let text = table.has(key).then(|| table.text(key))??;
        TopicTemplate::parse(text, places, vars, false)
            .map_err(|problem| table.complain(key, "a topic", problem))
            .ok()
    };
    let data: &[&str] = match codec {
        Some(CodecName::Template) => &["source", "tag"],
        _ => &["source"],
    };
    TopicTemplates {
        data: read("data", data),
        event: read("event", &["source"]),
        gap: read("gap", &[]),
        status: read("status", &[]),
        clock: read("clock", &[]),
    }
}

/// The topics of Sparkplug are not the profile's to choose; its variables stand in them.
fn node_topics(root: &Reader<'_>, vars: &[&str]) -> TopicTemplates {
    for key in [
        "topics",
        "status",
        "greeting",
        "command",
        "time",
        "compression",
    ] {
        if root.has(key) {
            root.complain(
                key,
                "nothing with this codec",
                "remove it: the specification of Sparkplug says it",
            );
        }
    }
    for name in ["group", "node", "primary_host"] {
        if !vars.contains(&name) {
            root.complain(
                "vars",
                format!("a variable `{name}`"),
                format!("{name} = {{ about = \"…\", default = \"…\" }}"),
            );
            return TopicTemplates::default();
        }
    }
    let data = "spBv1.0/{group}/DDATA/{node}/{source}";
    TopicTemplates {
        data: TopicTemplate::parse(data, &["source"], vars, false).ok(),
        ..TopicTemplates::default()
    }
}

/// What topics and template ask of each other.
fn check_topics(root: &Reader<'_>, topics: &TopicTemplates, template: Option<&TemplateTexts>) {
    let Some(table) = root.table("topics") else {
        return;
    };
    if !table.has("data") {
        table.complain("data", "where samples go", "data = \"…/{source}\"");
    }
    let Some(texts) = template else { return };
    for (key, topic, text) in [
        ("event", &topics.event, &texts.event),
        ("gap", &topics.gap, &texts.gap),
        ("status", &topics.status, &texts.status),
    ] {
        if topic.is_some() && text.is_none() {
            table.complain(
                key,
                format!("a template.{key}"),
                format!("add {key} to [template], or remove the topic"),
            );
        }
    }
    let by_tag = topics.data.as_ref().is_some_and(TopicTemplate::has_tag);
    if by_tag && (texts.join.is_some() || texts.by_instant) {
        table.complain(
            "data",
            "no {tag} where samples share a message",
            "remove {tag}, or write each = \"sample\" without open, separator and close",
        );
    }
}

struct Auth {
    username: Option<TopicTemplate>,
    needs: Vec<Need>,
}

fn read_auth(root: &Reader<'_>, vars: &[&str]) -> Auth {
    let mut auth = Auth {
        username: None,
        needs: Vec::new(),
    };
    let Some(table) = root.table("auth") else {
        return auth;
    };
    table.only(&["username", "needs"]);
    if let Some(text) = table
        .has("username")
        .then(|| table.text("username"))
        .flatten()
    {
        // Not a topic, but the same places; what MQTT forbids in topics it may hold.
        match TopicTemplate::parse(text, &[], vars, true) {
            Ok(template) => auth.username = Some(template),
            Err(problem) => table.complain("username", "a user name", problem),
        }
    }
    auth.needs = table.words(
        "needs",
        &[
            ("username", Need::Username),
            ("password", Need::Password),
            ("token", Need::Token),
            ("certificate", Need::Certificate),
        ],
    );
    auth
}

fn read_greetings(root: &Reader<'_>, vars: &[&str]) -> Vec<Greeting> {
    let mut greetings = Vec::new();
    for table in root.tables("greeting") {
        table.only(&["topic", "each", "payload", "content", "needs"]);
        let each_source = table.word("each", &[("source", ())]).is_some();
        let places: &[&str] = if each_source { &["source"] } else { &[] };
        let json = table
            .word("content", &[("json", true), ("text", false)])
            .unwrap_or(true);
        for key in ["topic", "payload"] {
            if !table.has(key) {
                table.complain(key, "a text", format!("{key} = \"…\""));
            }
        }
        let topic = table.text("topic").and_then(|text| {
            TopicTemplate::parse(text, places, vars, false)
                .map_err(|problem| table.complain("topic", "a topic", problem))
                .ok()
        });
        let payload = table.text("payload").unwrap_or_default().to_owned();
        if let Err(problem) = Templates::check(&payload) {
            table.complain("payload", "a template", problem);
        }
        if let Some(topic) = topic {
            greetings.push(Greeting {
                topic,
                needs: read_needs(&table, vars),
                each_source,
                payload,
                json,
            });
        }
    }
    greetings
}

/// The variable that must not be empty.
fn read_needs(table: &Reader<'_>, vars: &[&str]) -> Option<String> {
    let name = table.has("needs").then(|| table.text("needs"))??;
    if !vars.contains(&name) {
        table.complain("needs", "a variable of [vars]", "correct the name");
    }
    Some(name.to_owned())
}

fn read_ways(root: &Reader<'_>, vars: &[&str]) -> Vec<WayTemplate> {
    let mut ways = Vec::new();
    for table in root.tables("command") {
        table.only(&["codec", "from", "reply", "needs"]);
        for key in ["codec", "from"] {
            if !table.has(key) {
                table.complain(
                    key,
                    "it to be there",
                    "see a built-in profile for an example",
                );
            }
        }
        let pattern = |key: &str, places: &[&str]| {
            let text = table.has(key).then(|| table.text(key))??;
            Pattern::parse(text, places, vars)
                .map_err(|problem| table.complain(key, "a topic", problem))
                .ok()
        };
        let codec = table.word("codec", &CommandCodec::WORDS);
        if let (Some(codec), Some(from)) = (codec, pattern("from", &FROM_PLACES)) {
            ways.push(WayTemplate {
                codec,
                from,
                reply: pattern("reply", &REPLY_PLACES),
                needs: read_needs(&table, vars),
            });
        }
    }
    ways
}

fn read_template(root: &Reader<'_>, codec: Option<CodecName>) -> Option<TemplateTexts> {
    let wanted = codec == Some(CodecName::Template);
    if wanted != root.has("template") {
        match wanted {
            true => root.complain("template", "a table", "write [template] with data = '…'"),
            false => root.complain(
                "template",
                "nothing with this codec",
                "remove it, or write codec = \"template\"",
            ),
        }
        return None;
    }
    let table = root.table("template")?;
    table.only(&[
        "each",
        "content",
        "undated",
        "open",
        "separator",
        "close",
        "data",
        "event",
        "gap",
        "status",
    ]);
    let text = |key: &str| {
        let text = table.has(key).then(|| table.text(key))??;
        if let Err(problem) = Templates::check(text) {
            table.complain(key, "a template", problem);
        }
        Some(text.to_owned())
    };
    if !table.has("data") {
        table.complain("data", "a template", "data = '{\"value\":{{ value }}}'");
    }
    let parts = ["open", "separator", "close"].map(|key| table.has(key).then(|| table.text(key)));
    let join = match parts {
        [None, None, None] => None,
        parts => {
            let [open, separator, close] =
                parts.map(|part| part.flatten().unwrap_or_default().to_owned());
            Some((open, separator, close))
        }
    };
    Some(TemplateTexts {
        data: text("data").unwrap_or_default(),
        event: text("event"),
        gap: text("gap"),
        status: text("status"),
        by_instant: table
            .word("each", &[("sample", false), ("instant", true)])
            .unwrap_or(false),
        json: table
            .word("content", &[("json", true), ("text", false)])
            .unwrap_or(true),
        undated: table.flag("undated").unwrap_or(false),
        join,
    })
}
