//! Reads the tables of a profile: typed values out, and a problem for each that does not fit.

use std::cell::RefCell;

use toml::Value;

/// One thing that is wrong with a profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProfileProblem {
    /// The file; `built-in/<name>.toml` for those that come with the program.
    pub file: String,
    /// The full path of the key; empty for the file as a whole.
    pub key: String,
    /// What stands there.
    pub value: String,
    /// What was expected.
    pub expected: String,
    /// What to do.
    pub fix: String,
}

impl ProfileProblem {
    /// Everything but what to do.
    pub fn sentence(&self) -> String {
        let Self {
            file,
            key,
            value,
            expected,
            ..
        } = self;
        match key.is_empty() {
            true => format!("{file} is {value}; expected {expected}"),
            false => format!("{file}: {key} is {value}; expected {expected}"),
        }
    }
}

impl std::fmt::Display for ProfileProblem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}; hint: {}", self.sentence(), self.fix)
    }
}

/// A profile that cannot be used: every problem at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProfileError(pub Vec<ProfileProblem>);

impl std::fmt::Display for ProfileError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (n, problem) in self.0.iter().enumerate() {
            if n > 0 {
                writeln!(f)?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ProfileError {}

/// The value as messages show it.
fn shown(value: &Value) -> String {
    let text = match value {
        Value::Table(_) => "a table".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        value => value.to_string(),
    };
    if text.chars().count() > 60 {
        return text.chars().take(57).collect::<String>() + "...";
    }
    text
}

/// One table of a profile.
pub(super) struct Reader<'a> {
    file: &'a str,
    path: String,
    table: &'a toml::Table,
    problems: &'a RefCell<Vec<ProfileProblem>>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(
        file: &'a str,
        table: &'a toml::Table,
        problems: &'a RefCell<Vec<ProfileProblem>>,
    ) -> Self {
        Self {
            file,
            path: String::new(),
            table,
            problems,
        }
    }

    /// Refuses every key that is not among these.
    pub(super) fn only(&self, keys: &[&str]) {
        for (key, value) in self.table {
            if !keys.contains(&key.as_str()) {
                self.tell(
                    key,
                    shown(value),
                    format!("one of the keys {}", keys.join(", ")),
                    "correct or remove it",
                );
            }
        }
    }

    fn full(&self, key: &str) -> String {
        match self.path.is_empty() {
            true => key.to_owned(),
            false => format!("{}.{key}", self.path),
        }
    }

    fn tell(&self, key: &str, value: String, expected: impl Into<String>, fix: impl Into<String>) {
        self.problems.borrow_mut().push(ProfileProblem {
            file: self.file.to_owned(),
            key: self.full(key),
            value,
            expected: expected.into(),
            fix: fix.into(),
        });
    }

    /// What stands there does not fit.
    pub(super) fn complain(&self, key: &str, expected: impl Into<String>, fix: impl Into<String>) {
        let value = self.table.get(key).map_or("missing".to_owned(), shown);
        self.tell(key, value, expected, fix);
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    pub(super) fn is_text(&self, key: &str) -> bool {
        self.table.get(key).is_some_and(Value::is_str)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &'a str> {
        self.table.keys().map(String::as_str)
    }

    pub(super) fn text(&self, key: &str) -> Option<&'a str> {
        match self.table.get(key)? {
            Value::String(text) if !text.is_empty() => Some(text),
            _ => {
                self.complain(key, "a text that is not empty", format!("{key} = \"…\""));
                None
            }
        }
    }

    /// A text that may be empty.
    pub(super) fn string(&self, key: &str) -> Option<&'a str> {
        let text = self.table.get(key)?.as_str();
        if text.is_none() {
            self.complain(key, "a text", format!("{key} = \"…\""));
        }
        text
    }

    pub(super) fn flag(&self, key: &str) -> Option<bool> {
        match self.table.get(key)? {
            Value::Boolean(flag) => Some(*flag),
            _ => {
                self.complain(key, "true or false", format!("{key} = true"));
                None
            }
        }
    }

    /// A whole number between two limits.
    pub(super) fn number(&self, key: &str, min: usize, max: usize) -> Option<usize> {
        let number = self.table.get(key)?.as_integer();
        let number = number.and_then(|number| usize::try_from(number).ok());
        let fits = number.filter(|number| (min..=max).contains(number));
        if fits.is_none() {
            self.complain(
                key,
                format!("a whole number from {min} to {max}"),
                format!("{key} = {max}"),
            );
        }
        fits
    }

    /// One of the words.
    pub(super) fn word<T: Copy>(&self, key: &str, words: &[(&'static str, T)]) -> Option<T> {
        let value = self.table.get(key)?;
        let found = value
            .as_str()
            .and_then(|text| words.iter().find(|(word, _)| *word == text));
        if found.is_none() {
            let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            self.complain(
                key,
                format!("one of {}", known.join(", ")),
                format!("{key} = \"{}\"", known.first().copied().unwrap_or_default()),
            );
        }
        found.map(|(_, meaning)| *meaning)
    }

    /// A list of words.
    pub(super) fn words<T: Copy>(&self, key: &str, words: &[(&'static str, T)]) -> Vec<T> {
        let texts = self.texts(key);
        let mut found = Vec::new();
        for text in texts {
            match words.iter().find(|(word, _)| *word == text) {
                Some((_, meaning)) => found.push(*meaning),
                None => {
                    let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
                    self.complain(
                        key,
                        format!("words out of {}", known.join(", ")),
                        format!("remove \"{text}\""),
                    );
                }
            }
        }
        found
    }

    pub(super) fn texts(&self, key: &str) -> Vec<&'a str> {
        let Some(value) = self.table.get(key) else {
            return Vec::new();
        };
        let texts: Option<Vec<&str>> = value
            .as_array()
            .and_then(|list| list.iter().map(Value::as_str).collect());
        texts.unwrap_or_else(|| {
            self.complain(key, "a list of texts", format!("{key} = [\"…\"]"));
            Vec::new()
        })
    }

    /// A table in this one.
    pub(super) fn table(&self, key: &str) -> Option<Reader<'a>> {
        match self.table.get(key)? {
            Value::Table(table) => Some(Reader {
                path: self.full(key),
                table,
                ..*self
            }),
            _ => {
                self.complain(key, "a table", format!("write [{}]", self.full(key)));
                None
            }
        }
    }

    /// The tables of a list, `[[key]]`.
    pub(super) fn tables(&self, key: &str) -> Vec<Reader<'a>> {
        let Some(value) = self.table.get(key) else {
            return Vec::new();
        };
        let tables: Option<Vec<&toml::Table>> = value
            .as_array()
            .and_then(|list| list.iter().map(Value::as_table).collect());
        let Some(tables) = tables else {
            self.complain(
                key,
                "a list of tables",
                format!("write [[{}]]", self.full(key)),
            );
            return Vec::new();
        };
        (0..)
            .zip(tables)
            .map(|(n, table)| Reader {
                path: format!("{}[{n}]", self.full(key)),
                table,
                ..*self
            })
            .collect()
    }
}
