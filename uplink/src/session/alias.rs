//! Topics that a number stands for (MQTT 5), of one connection.

use std::collections::HashMap;

/// More would cost memory on both sides and gain little: a gateway has some dozens of topics.
const ALIASES_MAX: u16 = 1000;

/// The topics that have a number; the first ones that come get one, as many as the broker allows.
#[derive(Debug)]
pub(super) struct Aliases {
    most: u16,
    known: HashMap<String, u16>,
}

impl Aliases {
    pub(super) fn new(topic_alias_maximum: u16) -> Self {
        Self {
            most: topic_alias_maximum.min(ALIASES_MAX),
            known: HashMap::new(),
        }
    }

    /// The number of the topic, if it gets one. The topic is emptied where the broker knows the number.
    pub(super) fn take(&mut self, topic: &mut String) -> Option<u16> {
        if self.most == 0 {
            return None;
        }
        if let Some(alias) = self.known.get(topic) {
            topic.clear();
            return Some(*alias);
        }
        let next = u16::try_from(self.known.len()).ok()?.checked_add(1)?;
        if next > self.most {
            return None;
        }
        self.known.insert(topic.clone(), next);
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_topics_get_a_number_and_are_left_out_from_then_on() {
        let mut aliases = Aliases::new(2);
        let mut take = |topic: &str| {
            let mut topic = topic.to_owned();
            let alias = aliases.take(&mut topic);
            (alias, topic)
        };
        assert_eq!(take("a"), (Some(1), "a".into()));
        assert_eq!(take("b"), (Some(2), "b".into()));
        assert_eq!(take("c"), (None, "c".into()));
        assert_eq!(take("a"), (Some(1), String::new()));
        assert_eq!(take("b"), (Some(2), String::new()));
        assert_eq!(take("c"), (None, "c".into()));
    }

    #[test]
    fn without_permission_there_are_none() {
        let mut topic = "a".to_owned();
        assert_eq!(Aliases::new(0).take(&mut topic), None);
        assert_eq!(topic, "a");
    }
}
