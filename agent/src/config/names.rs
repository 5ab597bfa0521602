//! Names of gateways, devices, models, tags and uplinks.

use std::collections::HashMap;

use super::place::Place;
use super::problem::Problem;
use super::section::{Complaint, Section};

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
pub(crate) struct Taken(HashMap<String, (&'static str, Place)>);

impl Taken {
    /// Takes the name for a `kind` of thing, or says who has it.
    pub(crate) fn take(
        &mut self,
        name: &str,
        kind: &'static str,
        place: &Place,
    ) -> Result<(), Box<Problem>> {
        if let Some((holder, first)) = self.0.get(name) {
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
        self.0.insert(name.to_owned(), (kind, place.clone()));
        Ok(())
    }

    /// Every name.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Whether the name is taken.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }
}
