//! What is said of a value that does not fit.

use super::keys::{Kind, nearest, one_of};
use super::place::Place;
use super::problem::Problem;

/// What a value should have been, and what to do.
#[derive(Debug)]
pub(crate) struct Complaint {
    sentence: Sentence,
    hint: Option<String>,
}

#[derive(Debug)]
enum Sentence {
    /// What was expected; follows `KEY is VALUE; `.
    Expected(String),
    /// The whole of it, from an error that names the value by itself.
    Whole(String),
}

impl Complaint {
    /// Says what was expected.
    pub(crate) fn new(expected: impl Into<String>) -> Self {
        Self {
            sentence: Sentence::Expected(expected.into()),
            hint: None,
        }
    }

    /// Passes on what another room says of the value.
    pub(crate) fn said(error: &impl std::error::Error) -> Self {
        Self::whole(error.to_string())
    }

    /// Says it in a sentence of its own.
    pub(super) fn whole(message: String) -> Self {
        Self {
            sentence: Sentence::Whole(message),
            hint: None,
        }
    }

    /// The same with a hint.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The problem of a key that `is` or `has` the value.
    pub(super) fn into_problem(self, place: Place, what: &str) -> Problem {
        let mut problem = match self.sentence {
            Sentence::Whole(message) => Problem::new(place, message),
            Sentence::Expected(expected) => {
                Problem::new(place, format!("{what}; {expected}")).expected(expected)
            }
        };
        problem.hint = self.hint;
        problem
    }
}

/// What is said of a word that is none of those that the key takes.
pub(super) fn choice_complaint(text: &str, words: &[&str], kind: &Kind) -> Complaint {
    let complaint = Complaint::new(kind.wanted());
    match nearest(text, words.iter().copied()) {
        Some(near) => complaint.hint(format!("did you mean {near}?")),
        None => complaint,
    }
}

impl Kind {
    /// What is expected, as the end of a sentence.
    pub(crate) fn wanted(&self) -> String {
        match self {
            Kind::Text => "a text is expected".to_owned(),
            Kind::Bool => "true or false is expected".to_owned(),
            Kind::Integer { min, max } => {
                format!("a whole number from {min} to {max} is expected")
            }
            Kind::Number => "a number is expected".to_owned(),
            Kind::Duration { .. } => "a duration with a unit is expected".to_owned(),
            Kind::Size { .. } => "a size with a unit is expected".to_owned(),
            Kind::Choice(words) => format!("{} is expected", one_of(words)),
            Kind::File => "the path of a file is expected".to_owned(),
            Kind::Secret => {
                "the path of a file, env:NAME or credential:NAME is expected".to_owned()
            }
            Kind::Texts => "a list of strings is expected".to_owned(),
            Kind::Form(words) => format!("{words} is expected"),
            Kind::Later => "nothing is expected in this version".to_owned(),
            Kind::Tables => "tables are expected".to_owned(),
        }
    }
}
