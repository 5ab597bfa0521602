//! Topic names: what may stand in one, and which filter matches which.
//!
//! A name from outside (gateway, device, command id) becomes part of a topic by percent-encoding what
//! MQTT forbids or gives a meaning: `+`, `#`, control characters and NUL, and `%` itself, so that two
//! names never share a topic. `/` stays in source names, where it is allowed by the configuration:
//! `line1/boiler` becomes two topic levels and `data/#` subscribes to all. In every other name `/` is
//! encoded too.

mod template;

pub use template::{BoundTopic, Names, TopicRules, TopicTemplate};
pub(crate) use template::{Piece, pieces};

/// A name as exactly one topic level.
pub fn level(name: &str) -> String {
    Names::Level.clean(name)
}

/// A name as one or more topic levels: `/` separates them.
pub fn levels(name: &str) -> String {
    Names::Percent.clean(name)
}

/// Whether something can be published there by a client.
pub fn is_name(topic: &str) -> bool {
    let fits = !topic.is_empty() && topic.len() <= crate::message::STRING_BYTES_MAX;
    fits && !topic.contains(['+', '#', '\0']) && !topic.starts_with('$')
}

/// Whether a topic filter may be subscribed: wildcards fill whole levels, `#` only the last.
pub fn is_filter(filter: &str) -> bool {
    if filter.is_empty() || filter.contains('\0') {
        return false;
    }
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        let wildcard_inside = level.len() > 1 && level.contains(['+', '#']);
        if wildcard_inside || (level == "#" && levels.peek().is_some()) {
            return false;
        }
    }
    true
}

/// Whether the filter asks for the topic.
pub fn matches(filter: &str, topic: &str) -> bool {
    // Topics of the broker itself are not meant by a leading wildcard.
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut topic_levels = topic.split('/');
    for wanted in filter.split('/') {
        match (wanted, topic_levels.next()) {
            ("#", _) => return true,
            ("+", Some(_)) => {}
            (wanted, Some(level)) if wanted == level => {}
            _ => return false,
        }
    }
    topic_levels.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_levels() {
        assert_eq!(levels("line1/boiler"), "line1/boiler");
        assert_eq!(level("line1/boiler"), "line1%2Fboiler");
        assert_eq!(level("a+b#c%\0"), "a%2Bb%23c%25%00");
        assert_eq!(level("kühler"), "kühler");
        assert_eq!(level("\u{85}"), "%C2%85");
    }

    #[test]
    fn different_names_stay_different() {
        assert_ne!(level("a+"), level("a%2B"));
    }

    #[test]
    fn filters_match_as_the_standard_says() {
        for (filter, topic, expected) in [
            ("a/b", "a/b", true),
            ("a/b", "a/c", false),
            ("a/+", "a/b", true),
            ("a/+", "a", false),
            ("a/+", "a/b/c", false),
            ("a/#", "a", true),
            ("a/#", "a/b/c", true),
            ("#", "a/b", true),
            ("#", "$SYS/x", false),
            ("+/x", "$SYS/x", false),
            ("$SYS/#", "$SYS/x", true),
            ("+/+", "/b", true),
            ("a/b/#", "a", false),
            ("#", "ß/x", true),
        ] {
            assert_eq!(matches(filter, topic), expected, "{filter} on {topic}");
        }
    }

    #[test]
    fn filters_are_checked() {
        for good in ["#", "+", "a/+/b/#", "/", "a"] {
            assert!(is_filter(good), "{good}");
        }
        for bad in ["", "a#", "#/a", "a/b+", "a\0"] {
            assert!(!is_filter(bad), "{bad:?}");
        }
    }
}
