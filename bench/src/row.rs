//! The table of figures, and one line of it.

use anyhow::Result;
use serde::Serialize;

/// A figure, what it should be, and what a plain segment file reaches in the same run.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// What was measured.
    pub what: String,
    /// What came out.
    pub figure: f64,
    /// What it should be.
    pub target: Option<Target>,
    /// The segment file with the same chunk frames.
    pub segment: Option<f64>,
    /// The segment file with raw records.
    pub raw: Option<f64>,
}

/// Where rows go to: a table for people, or a line of JSON each.
#[derive(Debug, Clone, Copy)]
pub struct Table {
    json: bool,
}

impl Table {
    /// Prints its head.
    pub fn begin(json: bool) -> Self {
        if !json {
            println!("{}", Row::head());
        }
        Self { json }
    }

    /// # Errors
    /// None that a row can cause.
    pub fn print(self, rows: Vec<Row>) -> Result<()> {
        for row in rows {
            match self.json {
                true => println!("{}", serde_json::to_string(&row)?),
                false => println!("{}", row.text()),
            }
        }
        Ok(())
    }
}

/// On which side of a number a figure should be.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// This or more.
    AtLeast(f64),
    /// This or less.
    AtMost(f64),
}

impl Row {
    /// A figure by itself.
    pub fn new(what: impl Into<String>, figure: f64) -> Self {
        Self {
            what: what.into(),
            figure,
            target: None,
            segment: None,
            raw: None,
        }
    }

    /// With a target.
    #[must_use]
    pub fn target(self, target: Target) -> Self {
        Self {
            target: Some(target),
            ..self
        }
    }

    /// With what the segment file reached, with the same frames and with raw records.
    #[must_use]
    pub fn beside(self, segment: f64, raw: f64) -> Self {
        Self {
            segment: Some(segment),
            raw: Some(raw),
            ..self
        }
    }

    /// The row as text, in the columns of [`Row::head`].
    fn text(&self) -> String {
        let (target, verdict) = match self.target {
            None => (String::new(), ""),
            Some(Target::AtLeast(n)) => (format!(">= {n}"), verdict(self.figure >= n)),
            Some(Target::AtMost(n)) => (format!("<= {n}"), verdict(self.figure <= n)),
        };
        let beside = |other: Option<f64>| match other {
            Some(other) => format!("{other:.2} (x{:.2})", self.figure / other),
            None => String::new(),
        };
        format!(
            "{:<58} {:>9.3} {target:>8} {verdict:<6} {:>17} {:>17}",
            self.what,
            self.figure,
            beside(self.segment),
            beside(self.raw)
        )
        .trim_end()
        .to_owned()
    }

    /// The head of the table.
    fn head() -> String {
        format!(
            "{:<58} {:>9} {:>8} {:<6} {:>17} {:>17}",
            "what", "figure", "target", "", "segment, frames", "segment, raw"
        )
    }
}

fn verdict(reached: bool) -> &'static str {
    if reached { "ok" } else { "MISSED" }
}
