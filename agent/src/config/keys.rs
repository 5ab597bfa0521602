//! What is known of each key: its kind, range, default and meaning.
//!
//! The reader takes ranges and defaults from here, the reference page is rendered from here, and the
//! nearest known key is looked up here, so that none of them can differ.

use std::time::Duration;

/// One table of the configuration.
#[derive(Debug)]
pub(crate) struct SectionDoc {
    /// Its heading, for example `[[device.tag]]`.
    pub(crate) heading: &'static str,
    /// Its keys, in the order of the reference page.
    pub(crate) keys: &'static [KeyDoc],
}

/// One key.
#[derive(Debug)]
pub(crate) struct KeyDoc {
    /// Its name.
    pub(crate) name: &'static str,
    /// What it takes.
    pub(crate) kind: Kind,
    /// What holds where it is not written.
    pub(crate) default: Absent,
    /// The only drivers or detectors that know it; none: all.
    pub(crate) only: &'static [&'static str],
    /// What it means: on the reference page, and as the hint where it is missing.
    pub(crate) doc: &'static str,
}

/// What holds where a key is not written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Absent {
    /// It must be written.
    Required,
    /// Nothing.
    Nothing,
    /// This value, read in the same way as a written one.
    Default(&'static str),
    /// What the words say.
    Means(&'static str),
}

/// What a key takes.
#[derive(Debug)]
pub(crate) enum Kind {
    /// Any text.
    Text,
    /// `true` or `false`.
    Bool,
    /// A whole number.
    Integer {
        /// The least.
        min: i64,
        /// The most.
        max: i64,
    },
    /// A number.
    Number,
    /// A string such as `100ms`.
    Duration {
        /// The least.
        min: Duration,
        /// The most.
        max: Duration,
    },
    /// A string such as `4GiB`.
    Size {
        /// The least.
        min: u64,
        /// The most.
        max: u64,
    },
    /// One of these words.
    Choice(&'static [&'static str]),
    /// The path of a file, relative to the file that names it.
    File,
    /// Where a secret is: a file, `env:NAME` or `credential:NAME`.
    Secret,
    /// A list of texts.
    Texts,
    /// A text of its own form, which the words describe.
    Form(&'static str),
    /// Recognised, and refused in this version.
    Later,
    /// Tables of their own.
    Tables,
}

impl KeyDoc {
    /// A key that need not be written.
    pub(crate) const fn new(name: &'static str, kind: Kind, doc: &'static str) -> Self {
        Self {
            name,
            kind,
            default: Absent::Nothing,
            only: &[],
            doc,
        }
    }

    /// The same, but it must be written.
    pub(crate) const fn required(mut self) -> Self {
        self.default = Absent::Required;
        self
    }

    /// The same, with a default.
    pub(crate) const fn default(mut self, value: &'static str) -> Self {
        self.default = Absent::Default(value);
        self
    }

    /// The same, with words on what holds where it is not written.
    pub(crate) const fn means(mut self, words: &'static str) -> Self {
        self.default = Absent::Means(words);
        self
    }

    /// The same, for these drivers only.
    pub(crate) const fn only(mut self, drivers: &'static [&'static str]) -> Self {
        self.only = drivers;
        self
    }
}

impl SectionDoc {
    /// The key whose word decides which others there are.
    pub(crate) fn chooser(&self) -> &'static str {
        match self.key("detector") {
            Some(key) => key.name,
            None => "driver",
        }
    }

    /// What is known of the key.
    pub(crate) fn key(&self, name: &str) -> Option<&'static KeyDoc> {
        self.keys.iter().find(|key| key.name == name)
    }
}

/// Jaro-Winkler similarity from which a name is worth suggesting: below it the two share little more
/// than letters.
const SIMILAR_ENOUGH: f64 = 0.75;

/// The candidate that is most like what was written, if any is like it.
pub(crate) fn nearest<'c>(
    written: &str,
    candidates: impl IntoIterator<Item = &'c str>,
) -> Option<&'c str> {
    let written = written.to_lowercase().replace('-', "_");
    candidates
        .into_iter()
        .map(|candidate| {
            let plain = candidate.to_lowercase().replace('-', "_");
            (strsim::jaro_winkler(&written, &plain), candidate)
        })
        .filter(|(likeness, _)| *likeness >= SIMILAR_ENOUGH)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// `a, b or c`.
pub(crate) fn one_of(words: &[&str]) -> String {
    match words {
        [] => "nothing".to_owned(),
        [only] => (*only).to_owned(),
        [head @ .., last] => format!("{} or {last}", head.join(", ")),
    }
}

/// `a, b and c`.
pub(crate) fn all_of(words: &[&str]) -> String {
    match words {
        [] => "nothing".to_owned(),
        [only] => (*only).to_owned(),
        [head @ .., last] => format!("{} and {last}", head.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_forgives_typing_not_fantasy() {
        let keys = ["poll_interval", "publish_interval", "unit_id", "address"];
        assert_eq!(nearest("pol_interval", keys), Some("poll_interval"));
        assert_eq!(nearest("unitid", keys), Some("unit_id"));
        assert_eq!(nearest("Poll-Interval", keys), Some("poll_interval"));
        assert_eq!(nearest("colour", keys), None);
    }
}
