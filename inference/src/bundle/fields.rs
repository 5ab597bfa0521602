//! Reads the keys of TOML tables by name, and notes every problem instead of stopping at the first.

use std::cell::RefCell;
use std::ops::Range;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::Problem;

/// How unlike an unknown key may be to be taken for a known one; Jaro-Winkler, 1 is equal.
const NEAREST_KEY_MIN: f64 = 0.75;

/// The problems found so far in one text.
pub(super) struct Findings<'a> {
    text: &'a str,
    problems: RefCell<Vec<Problem>>,
}

impl<'a> Findings<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self {
            text,
            problems: RefCell::default(),
        }
    }

    /// Line and column of a byte, both from 1.
    pub(super) fn place(text: &str, byte: usize) -> (usize, usize) {
        let before = text.get(..byte).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (
            before.matches('\n').count() + 1,
            before[line_start..].chars().count() + 1,
        )
    }

    fn note(
        &self,
        at: usize,
        key: String,
        value: Option<String>,
        expected: &str,
        hint: Option<String>,
    ) {
        let (line, column) = Self::place(self.text, at);
        self.problems.borrow_mut().push(Problem {
            line,
            column,
            key,
            value,
            expected: expected.to_owned(),
            hint,
        });
    }

    /// All problems, in the order of the text.
    pub(super) fn into_problems(self) -> Vec<Problem> {
        let mut problems = self.problems.into_inner();
        problems.sort_by_key(|problem| (problem.line, problem.column));
        problems
    }
}

/// The keys of one table. Each key that is asked for becomes known; [`Fields::finish`] names the rest.
pub(super) struct Fields<'t> {
    findings: &'t Findings<'t>,
    table: Option<&'t DeTable<'t>>,
    prefix: String,
    at: usize,
    known: RefCell<Vec<&'static str>>,
}

impl<'t> Fields<'t> {
    pub(super) fn root(findings: &'t Findings<'t>, table: &'t DeTable<'t>) -> Self {
        Self::of(findings, Some(table), String::new(), 0)
    }

    fn of(
        findings: &'t Findings<'t>,
        table: Option<&'t DeTable<'t>>,
        prefix: String,
        at: usize,
    ) -> Self {
        Self {
            findings,
            table,
            prefix,
            at,
            known: RefCell::default(),
        }
    }

    fn full(&self, key: &str) -> String {
        if self.prefix.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.prefix)
        }
    }

    fn get(&self, key: &'static str) -> Option<&'t Spanned<DeValue<'t>>> {
        self.known.borrow_mut().push(key);
        self.table?.get(key)
    }

    /// Whether the key is written, be its value right or wrong.
    pub(super) fn has(&self, key: &'static str) -> bool {
        self.get(key).is_some()
    }

    /// Notes that the value of `key` is wrong, or that the key is missing.
    pub(super) fn wrong(&self, key: &'static str, expected: &str, hint: Option<String>) {
        match self.get(key) {
            Some(value) => self.findings.note(
                value.span().start,
                self.full(key),
                Some(self.written(value.span())),
                expected,
                hint,
            ),
            None => self
                .findings
                .note(self.at, self.full(key), None, expected, hint),
        }
    }

    /// The value as it stands in the text, shortened to one line.
    fn written(&self, span: Range<usize>) -> String {
        const SHOWN_CHARS_MAX: usize = 60;
        let text = self.findings.text.get(span).unwrap_or_default();
        let line = text.lines().next().unwrap_or_default();
        if line.len() < text.len() || line.chars().count() > SHOWN_CHARS_MAX {
            let start: String = line.chars().take(SHOWN_CHARS_MAX).collect();
            return format!("{start}…");
        }
        line.to_owned()
    }

    /// Reads `key` with `take`; a value that `take` refuses is noted as not `expected`.
    fn read<T>(
        &self,
        key: &'static str,
        expected: &str,
        take: impl FnOnce(&'t DeValue<'t>) -> Option<T>,
    ) -> Option<T> {
        let value = self.get(key)?;
        let taken = take(value.get_ref());
        if taken.is_none() {
            self.wrong(key, expected, None);
        }
        taken
    }

    /// Notes that the key is missing, if it is; passes its value on.
    pub(super) fn required<T>(
        &self,
        key: &'static str,
        expected: &str,
        value: Option<T>,
    ) -> Option<T> {
        if value.is_none() && !self.has(key) {
            self.wrong(key, expected, None);
        }
        value
    }

    /// A text that `accept` likes.
    pub(super) fn text(
        &self,
        key: &'static str,
        expected: &str,
        accept: impl Fn(&str) -> bool,
    ) -> Option<String> {
        self.read(key, expected, |value| {
            let text = value.as_str()?;
            accept(text).then(|| text.to_owned())
        })
    }

    /// One of the words; gives its place in the list.
    pub(super) fn word(&self, key: &'static str, words: &[&str]) -> Option<usize> {
        let expected = words
            .iter()
            .map(|word| format!("{word:?}"))
            .collect::<Vec<_>>()
            .join(" or ");
        self.read(key, &expected, |value| {
            let text = value.as_str()?;
            words.iter().position(|word| *word == text)
        })
    }

    /// A finite number in the range.
    pub(super) fn number(
        &self,
        key: &'static str,
        expected: &str,
        accept: impl Fn(f64) -> bool,
    ) -> Option<f64> {
        self.read(key, expected, |value| {
            number(value).filter(|number| accept(*number))
        })
    }

    /// A whole number in the range.
    pub(super) fn count(
        &self,
        key: &'static str,
        expected: &str,
        range: std::ops::RangeInclusive<usize>,
    ) -> Option<usize> {
        self.read(key, expected, |value| {
            whole(value).filter(|count| range.contains(count))
        })
    }

    /// A duration in the range.
    pub(super) fn duration(
        &self,
        key: &'static str,
        expected: &str,
        range: std::ops::RangeInclusive<Duration>,
    ) -> Option<Duration> {
        self.read(key, expected, |value| {
            humantime::parse_duration(value.as_str()?)
                .ok()
                .filter(|duration| range.contains(duration))
        })
    }

    /// `true` or `false`.
    pub(super) fn flag(&self, key: &'static str) -> Option<bool> {
        self.read(key, "true or false", DeValue::as_bool)
    }

    /// A list of numbers that `accept` likes.
    pub(super) fn numbers(
        &self,
        key: &'static str,
        expected: &str,
        accept: impl Fn(&[f64]) -> bool,
    ) -> Option<Vec<f64>> {
        self.read(key, expected, |value| {
            let numbers: Option<Vec<f64>> = value
                .as_array()?
                .iter()
                .map(|item| number(item.get_ref()))
                .collect();
            numbers.filter(|numbers| accept(numbers))
        })
    }

    /// A list of texts that `accept` likes.
    pub(super) fn texts(
        &self,
        key: &'static str,
        expected: &str,
        accept: impl Fn(&[String]) -> bool,
    ) -> Option<Vec<String>> {
        self.read(key, expected, |value| {
            let text = |item: &Spanned<DeValue<'_>>| item.get_ref().as_str().map(str::to_owned);
            let texts: Option<Vec<String>> = value.as_array()?.iter().map(text).collect();
            texts.filter(|texts| accept(texts))
        })
    }

    /// Whether the key holds a table, rather than a plain value or nothing.
    pub(super) fn is_table(&self, key: &'static str) -> bool {
        self.get(key)
            .is_some_and(|value| value.get_ref().is_table())
    }

    /// A table below this one; where it is missing, an empty one.
    pub(super) fn table(&self, key: &'static str) -> Fields<'t> {
        let at = self.get(key).map_or(self.at, |value| value.span().start);
        let table = self.read(key, "a table", |value| value.as_table());
        Fields::of(self.findings, table, self.full(key), at)
    }

    /// The tables of a list of tables.
    pub(super) fn tables(&self, key: &'static str, expected: &str) -> Vec<Fields<'t>> {
        let tables = self.read(key, expected, |value| {
            let items = value.as_array()?;
            let tables: Option<Vec<_>> = items
                .iter()
                .map(|item| Some((item.get_ref().as_table()?, item.span().start)))
                .collect();
            tables
        });
        tables
            .unwrap_or_default()
            .into_iter()
            .enumerate()
            .map(|(i, (table, at))| {
                let prefix = format!("{}[{i}]", self.full(key));
                Fields::of(self.findings, Some(table), prefix, at)
            })
            .collect()
    }

    /// Notes every key that was not asked for.
    pub(super) fn finish(self) {
        let known = self.known.borrow();
        for (key, value) in self.table.into_iter().flatten() {
            let key_text = key.get_ref().as_ref();
            if known.contains(&key_text) {
                continue;
            }
            self.findings.note(
                key.span().start,
                self.full(key_text),
                Some(self.written(value.span())),
                "a known key",
                Some(nearest_hint(key_text, &known)),
            );
        }
    }
}

fn nearest_hint(key: &str, known: &[&'static str]) -> String {
    let nearest = known
        .iter()
        .map(|candidate| (strsim::jaro_winkler(key, candidate), *candidate))
        .filter(|(likeness, _)| *likeness >= NEAREST_KEY_MIN)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match nearest {
        Some((_, candidate)) => format!("did you mean `{candidate}`?"),
        None => {
            let mut names = known.to_vec();
            names.sort_unstable();
            names.dedup();
            format!("known keys here are {}", names.join(", "))
        }
    }
}

fn number(value: &DeValue<'_>) -> Option<f64> {
    let number = match value {
        DeValue::Integer(integer) => {
            i64::from_str_radix(integer.as_str(), integer.radix()).ok()? as f64
        }
        DeValue::Float(float) => float.as_str().parse().ok()?,
        _ => return None,
    };
    number.is_finite().then_some(number)
}

fn whole(value: &DeValue<'_>) -> Option<usize> {
    match value {
        DeValue::Integer(integer) => usize::from_str_radix(integer.as_str(), integer.radix()).ok(),
        _ => None,
    }
}
