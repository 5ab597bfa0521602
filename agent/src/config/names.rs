//! Names of gateways, devices, models, tags and uplinks.

use std::collections::HashMap;

use super::complaint::Complaint;
use super::place::Place;
use super::problem::Problem;
use super::section::Section;

/// Longest name: a full tag name must fit into a topic and into a line of a terminal.
pub(crate) const NAME_BYTES_MAX: usize = 128;

/// Reads a name that may be divided by `/`.
pub(crate) fn divided_name(section: &Section<'_>, key: &str) -> Option<String> {
    section.form(key, |text| check(text, true).map(|()| text.to_owned()))
}

/// Reads a name of one part.
pub(crate) fn plain_name(section: &Section<'_>, key: &str) -> Option<String> {
    section.form(key, |text| check(text, false).map(|()| text.to_owned()))
}

/// Whether a text is a name. Names become topics, file names and columns: no part may be empty, `.`
/// or `..`.
pub(crate) fn check(text: &str, divided: bool) -> Result<(), Complaint> {
    let allowed = if divided {
        "letters, digits, . _ - and / are allowed"
    } else {
        "letters, digits, . _ and - are allowed"
    };
    if text.len() > NAME_BYTES_MAX {
        return Err(Complaint::new(format!(
            "names have at most {NAME_BYTES_MAX} characters"
        )));
    }
    let fits = |c: char| {
        c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') || (divided && c == '/')
    };
    if let Some(bad) = text.chars().find(|c| !fits(*c)) {
        let fixed: String = text
            .chars()
            .map(|c| if fits(c) { c } else { '_' })
            .collect();
        return Err(Complaint::new(format!("{allowed}, {bad:?} is not"))
            .hint(format!("for example \"{fixed}\"")));
    }
    if text.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(Complaint::new("no part of a name may be empty, . or .."));
    }
    Ok(())
}

/// Names that were given, with their places: finds those given twice.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    names: HashMap<String, (&'static str, Place)>,
    unknown_below: Vec<String>,
}

impl Taken {
    /// Takes the name for a `kind` of thing, or says who has it.
    pub(crate) fn take(
        &mut self,
        name: &str,
        kind: &'static str,
        place: &Place,
    ) -> Result<(), Box<Problem>> {
        if let Some((holder, first)) = self.names.get(name) {
            return Err(Box::new(
                Problem::new(
                    place.clone(),
                    format!("{kind} {name} has the name of the {holder} at {first}"),
                )
                .value(name)
                .expected("a name that nothing else has")
                .hint("rename one of the two, or remove it"),
            ));
        }
        self.names.insert(name.to_owned(), (kind, place.clone()));
        Ok(())
    }

    /// Every name.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.names.keys().map(String::as_str)
    }

    /// Names below `device` are not all known, since something about it could not be read.
    pub(crate) fn unknown_below(&mut self, device: &str) {
        self.unknown_below.push(format!("{device}/"));
    }

    /// Whether the name is taken, or may be for all that could be read.
    pub(crate) fn may_have(&self, name: &str) -> bool {
        let below = |prefix: &String| name.starts_with(prefix.as_str());
        self.names.contains_key(name) || self.unknown_below.iter().any(below)
    }
}
