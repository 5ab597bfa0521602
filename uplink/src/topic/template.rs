//! Topics with places for names: `channels/{channel}/messages/{source}`.

use std::collections::BTreeMap;

use millrace_tags::Parcel;

use crate::codec::EncodeError;
use crate::message::STRING_BYTES_MAX;

/// How names become parts of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Names {
    /// `+ # %` and control characters are percent-encoded; `/` separates levels.
    #[default]
    Percent,
    /// As `percent`, and `/` is encoded too: each name is one level.
    Level,
    /// Letters, digits and `- . / _` stay, every other byte is `:XX`: for cores that decode percent signs themselves.
    Plain,
    /// As `percent`, and white space, `*`, `>` and `.` too: what means something to NATS.
    Nats,
}

impl Names {
    /// The names of these, as a profile writes them.
    pub(crate) const WORDS: [(&'static str, Names); 4] = [
        ("percent", Names::Percent),
        ("level", Names::Level),
        ("plain", Names::Plain),
        ("nats", Names::Nats),
    ];

    /// The name as part of a topic. Different names never become the same.
    pub fn clean(self, name: &str) -> String {
        use std::fmt::Write;
        let mut out = String::with_capacity(name.len());
        for c in name.chars() {
            let encoded = match self {
                Names::Percent => matches!(c, '+' | '#' | '%') || c.is_control(),
                Names::Level => matches!(c, '+' | '#' | '%' | '/') || c.is_control(),
                Names::Plain => !c.is_ascii_alphanumeric() && !matches!(c, '-' | '.' | '/' | '_'),
                Names::Nats => {
                    matches!(c, '+' | '#' | '%' | '*' | '>' | '.')
                        || c.is_control()
                        || c.is_whitespace()
                }
            };
            if encoded {
                let mut utf8 = [0; 4];
                let mark = if self == Names::Plain { ':' } else { '%' };
                for byte in c.encode_utf8(&mut utf8).bytes() {
                    // Writing to a String cannot fail.
                    let _ = write!(out, "{mark}{byte:02X}");
                }
            } else {
                out.push(c);
            }
        }
        out
    }
}

/// What a core asks of a topic, beside what MQTT does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicRules {
    /// How names become parts.
    pub names: Names,
    /// The longest topic in bytes.
    pub bytes_max: usize,
    /// The most levels.
    pub levels_max: Option<usize>,
    /// Characters that it does not take.
    pub forbidden: String,
}

impl Default for TopicRules {
    fn default() -> Self {
        Self {
            names: Names::default(),
            bytes_max: STRING_BYTES_MAX,
            levels_max: None,
            forbidden: String::new(),
        }
    }
}

impl TopicRules {
    /// What is wrong with a topic, if anything is.
    pub fn problem(&self, topic: &str) -> Option<String> {
        if topic.is_empty() {
            return Some("it is empty".to_owned());
        }
        if let Some(wildcard) = topic.chars().find(|c| matches!(c, '+' | '#')) {
            return Some(format!("{wildcard} is a wildcard"));
        }
        self.filter_problem(topic)
    }

    /// What is wrong with a topic filter, wildcards apart.
    fn filter_problem(&self, topic: &str) -> Option<String> {
        if let Some(bad) = topic.chars().find(|c| c.is_control()) {
            return Some(format!("{bad:?} cannot stand in a topic"));
        }
        if let Some(bad) = topic.chars().find(|c| self.forbidden.contains(*c)) {
            return Some(format!("this core does not take {bad:?}"));
        }
        let most = self.bytes_max.min(STRING_BYTES_MAX);
        if topic.len() > most {
            return Some(format!(
                "it has {} bytes, at most {most} are taken",
                topic.len()
            ));
        }
        let levels = topic.split('/').count();
        match self.levels_max {
            Some(most) if levels > most => {
                Some(format!("it has {levels} levels, at most {most} are taken"))
            }
            _ => None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Gateway,
    Source,
    Tag,
    Id,
    Var(String),
}

/// What a topic with braces is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    /// As it stands; never empty.
    Text(&'a str),
    /// The name between braces.
    Place(&'a str),
}

/// Takes a topic apart at its braces.
///
/// # Errors
/// When a brace has no other half.
pub(crate) fn pieces(text: &str) -> Result<Vec<Piece<'_>>, String> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(open) = rest.find(['{', '}']) {
        let (before, from) = rest.split_at(open);
        let end = from.find('}').filter(|_| from.starts_with('{'));
        let end = end.ok_or("a brace stands alone; write {name}")?;
        if !before.is_empty() {
            pieces.push(Piece::Text(before));
        }
        pieces.push(Piece::Place(&from[1..end]));
        rest = &from[end + 1..];
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest));
    }
    Ok(pieces)
}

/// A topic as a profile writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicTemplate {
    parts: Vec<Part>,
}

impl TopicTemplate {
    /// Reads a template. `places` are the names that may stand in braces here beside `{gateway}` and the
    /// variables; filters may have wildcards.
    ///
    /// # Errors
    /// Says what is wrong and what would be right.
    pub(crate) fn parse(
        text: &str,
        places: &[&str],
        vars: &[&str],
        is_filter: bool,
    ) -> Result<Self, String> {
        let mut parts = Vec::new();
        for piece in pieces(text)? {
            let name = match piece {
                Piece::Text(text) => {
                    parts.push(Part::Text(text.to_owned()));
                    continue;
                }
                Piece::Place(name) => name,
            };
            parts.push(match name {
                "gateway" => Part::Gateway,
                "source" if places.contains(&name) => Part::Source,
                "tag" if places.contains(&name) => Part::Tag,
                "id" if places.contains(&name) => Part::Id,
                _ if vars.contains(&name) => Part::Var(name.to_owned()),
                _ => {
                    let known: Vec<String> = ["gateway"]
                        .iter()
                        .chain(places)
                        .chain(vars)
                        .map(|name| format!("{{{name}}}"))
                        .collect();
                    return Err(format!(
                        "{{{name}}} has no meaning here; {} have",
                        known.join(", ")
                    ));
                }
            });
        }
        if parts.is_empty() {
            return Err("it is empty".to_owned());
        }
        let fixed = parts.iter().filter_map(|part| match part {
            Part::Text(text) => Some(text.as_str()),
            _ => None,
        });
        for text in fixed {
            if let Some(wildcard) = text.chars().find(|c| !is_filter && matches!(c, '+' | '#')) {
                return Err(format!(
                    "{wildcard} is a wildcard, and nothing is published to one"
                ));
            }
            if let Some(bad) = text.chars().find(|c| c.is_control()) {
                return Err(format!("{bad:?} cannot stand in a topic"));
            }
        }
        Ok(Self { parts })
    }

    /// Whether each tag has a topic of its own.
    pub(crate) fn has_tag(&self) -> bool {
        self.parts.contains(&Part::Tag)
    }

    /// The topic of one gateway and one uplink: only source, tag and id are open still.
    pub(crate) fn bind(
        &self,
        gateway: &str,
        vars: &BTreeMap<String, String>,
        rules: &TopicRules,
    ) -> BoundTopic {
        let mut parts: Vec<Part> = Vec::new();
        for part in &self.parts {
            let text = match part {
                Part::Text(text) => text.clone(),
                Part::Gateway => match rules.names {
                    // A gateway is one level everywhere.
                    Names::Percent => Names::Level.clean(gateway),
                    names => names.clean(gateway),
                },
                Part::Var(name) => vars.get(name).cloned().unwrap_or_default(),
                open => {
                    parts.push(open.clone());
                    continue;
                }
            };
            match parts.last_mut() {
                Some(Part::Text(before)) => before.push_str(&text),
                _ => parts.push(Part::Text(text)),
            }
        }
        BoundTopic {
            parts,
            rules: rules.clone(),
        }
    }
}

/// A topic of which only source, tag and id are open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoundTopic {
    parts: Vec<Part>,
    rules: TopicRules,
}

impl BoundTopic {
    /// The topic of these names.
    pub(crate) fn render(&self, source: &str, tag: &str, id: &str) -> String {
        let mut out = String::with_capacity(64);
        for part in &self.parts {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Source => out.push_str(&self.rules.names.clean(source)),
                Part::Tag => out.push_str(&self.rules.names.clean(tag)),
                // An id is one level everywhere.
                Part::Id => out.push_str(&Names::Level.clean(id)),
                Part::Gateway | Part::Var(_) => {}
            }
        }
        out
    }

    /// What is wrong with the topic whatever the names are.
    pub(crate) fn problem(&self, is_filter: bool) -> Option<String> {
        let shortest = self.render("x", "x", "x");
        if is_filter {
            let wrong = (!super::is_filter(&shortest)).then(|| "it is no topic filter".to_owned());
            return wrong.or_else(|| self.rules.filter_problem(&shortest));
        }
        self.rules.problem(&shortest)
    }

    /// Where a parcel goes, or one tag of it.
    pub(crate) fn of_parcel(
        &self,
        parcel: &Parcel,
        tag: Option<(&str, u64)>,
    ) -> Result<String, EncodeError> {
        let (tag, seq) = tag.unwrap_or(("", parcel.first_seq));
        let topic = self.render(&parcel.source, tag, "");
        match self.rules.problem(&topic) {
            None => Ok(topic),
            Some(problem) => Err(EncodeError::Topic {
                source_name: parcel.source.to_string(),
                seq,
                topic: topic.chars().take(80).collect(),
                problem,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(text: &str, rules: &TopicRules) -> BoundTopic {
        let vars = BTreeMap::from([("channel".to_owned(), "c1".to_owned())]);
        TopicTemplate::parse(text, &["source", "tag", "id"], &["channel"], false)
            .unwrap()
            .bind("gw/1", &vars, rules)
    }

    #[test]
    fn names_fill_the_places() {
        let rules = TopicRules::default();
        let topic = bound("a/{channel}/{gateway}/{source}/{tag}/{id}", &rules);
        assert_eq!(
            topic.render("line1/boiler+", "t#", "7/8"),
            "a/c1/gw%2F1/line1/boiler%2B/t%23/7%2F8"
        );
    }

    #[test]
    fn each_way_of_cleaning_keeps_names_apart() {
        for (names, name, expected) in [
            (Names::Percent, "a/b c.+ü", "a/b c.%2Bü"),
            (Names::Level, "a/b", "a%2Fb"),
            (Names::Plain, "a/b c:ü", "a/b:20c:3A:C3:BC"),
            (Names::Nats, "a/b c.*>", "a/b%20c%2E%2A%3E"),
        ] {
            assert_eq!(names.clean(name), expected);
            assert_ne!(names.clean("a b"), names.clean("a%20b"));
            assert_ne!(names.clean("a b"), names.clean("a:20b"));
        }
    }

    #[test]
    fn the_linter_knows_the_rules_of_the_core() {
        let rules = TopicRules {
            bytes_max: 12,
            levels_max: Some(3),
            forbidden: " *".to_owned(),
            ..TopicRules::default()
        };
        for (topic, expected) in [
            ("a/b/c", None),
            ("", Some("empty")),
            ("a/+", Some("wildcard")),
            ("a/#", Some("wildcard")),
            ("a\0", Some("cannot stand")),
            ("a b", Some("does not take ' '")),
            ("a/b/c/d", Some("4 levels")),
            ("abcdefghijklm", Some("13 bytes")),
        ] {
            let problem = rules.problem(topic);
            match expected {
                None => assert_eq!(problem, None),
                Some(text) => assert!(problem.unwrap().contains(text), "{topic:?}"),
            }
        }
    }

    #[test]
    fn templates_are_refused_with_what_is_known() {
        let error =
            |text| TopicTemplate::parse(text, &["source"], &["channel"], false).unwrap_err();
        assert_eq!(
            error("a/{chanel}"),
            "{chanel} has no meaning here; {gateway}, {source}, {channel} have"
        );
        for (text, expected) in [
            ("a/{b", "a brace stands alone"),
            ("a}", "a brace stands alone"),
            ("", "empty"),
            ("a/#", "wildcard"),
            ("a\u{7}", "cannot stand"),
        ] {
            assert!(error(text).contains(expected), "{text:?}");
        }
    }
}
