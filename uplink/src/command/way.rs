//! The ways on which commands come, as a profile writes them:
//!
//! ```toml
//! [[command]]
//! codec = "azure-method"
//! from = "$iothub/methods/POST/{op}/?$rid={id}"
//! reply = "$iothub/methods/res/{status}/?$rid={id}"
//! needs = "control"             # only where this variable is not empty
//! ```
//!
//! `{gateway}` and variables are filled in once. What stands in the place of `{id}` and `{op}` in a topic is told to the codec;
//! `{id}` and `{status}` of the reply are filled in with the answer. What is subscribed is the topic up to the first such place,
//! then `+`, or `#` where the place is no whole last level.

use std::collections::BTreeMap;

use millrace_tags::{Command, ReplyTo};

use super::{Call, CommandCodec, Garbled, Incoming};
use crate::topic::{Names, Piece, TopicRules, is_filter, pieces};

/// Places of a topic that commands come from.
pub(crate) const FROM_PLACES: [&str; 2] = ["id", "op"];
/// Places of a topic that answers go to.
pub(crate) const REPLY_PLACES: [&str; 2] = ["id", "status"];

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Gateway,
    Var(String),
    Open(String),
}

/// A topic with places.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pattern(Vec<Part>);

impl Pattern {
    /// Reads it.
    ///
    /// # Errors
    /// Says what is wrong and what would be right.
    pub(crate) fn parse(text: &str, places: &[&str], vars: &[&str]) -> Result<Self, String> {
        let mut parts = Vec::new();
        for piece in pieces(text)? {
            parts.push(match piece {
                Piece::Text(text) => Part::Text(text.to_owned()),
                Piece::Place("gateway") => Part::Gateway,
                Piece::Place(name) if places.contains(&name) => Part::Open(name.to_owned()),
                Piece::Place(name) if vars.contains(&name) => Part::Var(name.to_owned()),
                Piece::Place(name) => return Err(format!("{{{name}}} has no meaning here")),
            });
        }
        let fixed = parts.iter().filter_map(|part| match part {
            Part::Text(text) => Some(text.as_str()),
            _ => None,
        });
        for text in fixed {
            if text.contains(['+', '#']) || text.chars().any(char::is_control) {
                return Err("a wildcard or a control character cannot stand here".to_owned());
            }
        }
        match parts.is_empty() {
            true => Err("it is empty".to_owned()),
            false => Ok(Self(parts)),
        }
    }

    /// Gateway and variables filled in.
    fn bind(&self, gateway: &str, vars: &BTreeMap<String, String>, names: Names) -> Vec<Part> {
        let gateway = match names {
            // A gateway is one level everywhere.
            Names::Percent => Names::Level.clean(gateway),
            names => names.clean(gateway),
        };
        let mut bound: Vec<Part> = Vec::new();
        for part in &self.0 {
            let text = match part {
                Part::Text(text) => text.as_str(),
                Part::Gateway => gateway.as_str(),
                Part::Var(name) => vars.get(name).map(String::as_str).unwrap_or_default(),
                Part::Open(_) => {
                    bound.push(part.clone());
                    continue;
                }
            };
            match bound.last_mut() {
                Some(Part::Text(before)) => before.push_str(text),
                _ => bound.push(Part::Text(text.to_owned())),
            }
        }
        bound
    }
}

/// A way as the profile writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WayTemplate {
    pub(crate) codec: CommandCodec,
    pub(crate) from: Pattern,
    pub(crate) reply: Option<Pattern>,
    /// The variable without which there is no such way.
    pub(crate) needs: Option<String>,
}

/// A way of one gateway and one uplink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Way {
    codec: CommandCodec,
    from: Vec<Part>,
    /// What is subscribed.
    pub(crate) filter: String,
    /// `{id}` and `{status}` are open.
    reply: String,
}

impl WayTemplate {
    /// The way, where it is used with these variables.
    ///
    /// # Errors
    /// When a topic would be none; it is named, with what is wrong.
    pub(crate) fn bind(
        &self,
        gateway: &str,
        vars: &BTreeMap<String, String>,
        rules: &TopicRules,
    ) -> Result<Option<Way>, (String, String)> {
        let missing = |name: &String| vars.get(name).is_none_or(String::is_empty);
        if self.needs.as_ref().is_some_and(missing) {
            return Ok(None);
        }
        let from = self.from.bind(gateway, vars, rules.names);
        let filter = filter(&from);
        if !is_filter(&filter) {
            return Err((filter, "it is no topic filter".to_owned()));
        }
        let reply = self.reply.as_ref();
        let reply = reply.map(|reply| reply.bind(gateway, vars, rules.names));
        let reply: String = reply.iter().flatten().map(shown).collect();
        if let Some(problem) = (!reply.is_empty()).then(|| rules.problem(&reply)).flatten() {
            return Err((reply, problem));
        }
        Ok(Some(Way {
            codec: self.codec,
            from,
            filter,
            reply,
        }))
    }
}

fn shown(part: &Part) -> String {
    match part {
        Part::Text(text) => text.clone(),
        Part::Open(name) | Part::Var(name) => format!("{{{name}}}"),
        Part::Gateway => String::new(),
    }
}

fn filter(parts: &[Part]) -> String {
    match parts {
        [Part::Text(text)] => text.clone(),
        [Part::Text(text), Part::Open(_)] if text.ends_with('/') => format!("{text}+"),
        [Part::Text(text), ..] => {
            let level = text.rfind('/').map_or(0, |slash| slash + 1);
            format!("{}#", &text[..level])
        }
        _ => "#".to_owned(),
    }
}

impl Way {
    /// The commands of a message, or `None` where it did not come this way.
    pub(crate) fn decode(
        &self,
        incoming: &Incoming<'_>,
        gateway: &str,
    ) -> Option<Vec<Result<Command, Garbled>>> {
        let (id, op) = self.places(incoming.topic)?;
        let mut to = ReplyTo {
            codec: self.codec.word().to_owned(),
            // An id in the topic was one already.
            topic: match id {
                "" => self.reply.clone(),
                id => self.reply.replace("{id}", id),
            },
            ..ReplyTo::default()
        };
        let asked = incoming.response_topic;
        if let Some(topic) = asked.filter(|topic| crate::topic::is_name(topic)) {
            topic.clone_into(&mut to.topic);
        }
        let correlation = incoming.correlation.unwrap_or_default();
        to.correlation = correlation.iter().map(|b| format!("{b:02x}")).collect();
        let call = Call {
            payload: incoming.payload,
            id,
            op,
            gateway,
        };
        Some(self.codec.decode(&call, to))
    }

    /// What stands in the places of `{id}` and `{op}`.
    fn places<'t>(&self, topic: &'t str) -> Option<(&'t str, &'t str)> {
        let (mut id, mut op) = ("", "");
        let mut rest = topic;
        let mut parts = self.from.iter().peekable();
        while let Some(part) = parts.next() {
            match part {
                Part::Text(text) => rest = rest.strip_prefix(text.as_str())?,
                Part::Open(name) => {
                    let end = match parts.peek() {
                        Some(Part::Text(text)) => rest.find(text.as_str())?,
                        _ => rest.len(),
                    };
                    let value;
                    (value, rest) = rest.split_at(end);
                    if value.contains('/') {
                        return None;
                    }
                    match name.as_str() {
                        "op" => op = value,
                        _ => id = value,
                    }
                }
                Part::Gateway | Part::Var(_) => {}
            }
        }
        rest.is_empty().then_some((id, op))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(codec: CommandCodec, from: &str, reply: &str) -> Way {
        let template = WayTemplate {
            codec,
            from: Pattern::parse(from, &FROM_PLACES, &["thing"]).unwrap(),
            reply: Some(Pattern::parse(reply, &REPLY_PLACES, &["thing"]).unwrap()),
            needs: Some("thing".to_owned()),
        };
        let vars = BTreeMap::from([("thing".to_owned(), "t-1".to_owned())]);
        let rules = TopicRules::default();
        assert_eq!(template.bind("gw", &BTreeMap::new(), &rules), Ok(None));
        template.bind("gw/1", &vars, &rules).unwrap().unwrap()
    }

    #[test]
    fn places_are_told_and_the_filter_reaches_them() {
        for (from, filter, topic, places) in [
            (
                "a/{gateway}/cmd",
                "a/gw%2F1/cmd",
                "a/gw%2F1/cmd",
                Some(("", "")),
            ),
            ("a/{id}", "a/+", "a/7", Some(("7", ""))),
            ("a/{id}", "a/+", "a/7/8", None),
            (
                "$m/POST/{op}/?$rid={id}",
                "$m/POST/#",
                "$m/POST/read/?$rid=1a",
                Some(("1a", "read")),
            ),
            (
                "a/{thing}/jobs/$next",
                "a/t-1/jobs/$next",
                "a/t-2/jobs/$next",
                None,
            ),
        ] {
            let way = way(CommandCodec::Json, from, "r");
            assert_eq!(way.filter, filter, "{from}");
            assert_eq!(way.places(topic), places, "{topic}");
            let reaches = crate::topic::matches(filter, topic);
            assert!(reaches || places.is_none(), "{filter} {topic}");
        }
    }

    #[test]
    fn wrong_patterns_say_why() {
        for (text, said) in [
            ("", "empty"),
            ("a/#", "wildcard"),
            ("a/{b}", "{b} has no meaning"),
            ("a{", "a brace stands alone"),
        ] {
            let error = Pattern::parse(text, &FROM_PLACES, &[]).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
