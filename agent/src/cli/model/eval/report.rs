//! What came of an evaluation, as text and as JSON.

use std::fmt::Write;
use std::sync::Arc;

use millrace_inference::eval::{Counts, Episode, Evaluation, Figures, ScoredWindow};
use millrace_tags::Moment;
use serde_json::{Value, json};

use super::super::super::show;
use super::super::super::table::Table;
use super::super::which::{Found, What};

/// What is said of one evaluation.
pub(super) struct Report<'a> {
    pub(super) found: &'a Found,
    /// What was scored.
    pub(super) data: String,
    /// Rows, or stored samples.
    pub(super) rows: u64,
    pub(super) evaluation: &'a Evaluation,
    pub(super) figures: Option<Figures>,
    /// Whether every window is wanted.
    pub(super) windows: bool,
}

/// The scores in few numbers.
struct Spread {
    median: f64,
    p99: f64,
    largest: f64,
}

impl Spread {
    fn of(evaluation: &Evaluation) -> Option<Self> {
        let mut scores: Vec<f64> = evaluation.windows.iter().map(|w| w.score).collect();
        scores.sort_unstable_by(f64::total_cmp);
        let at = |part: f64| scores.get((scores.len().checked_sub(1)? as f64 * part) as usize);
        Some(Self {
            median: *at(0.5)?,
            p99: *at(0.99)?,
            largest: *at(1.0)?,
        })
    }
}

impl Report<'_> {
    fn above(&self) -> usize {
        let windows = &self.evaluation.windows;
        windows
            .iter()
            .filter(|window| window.ratio > Some(1.0))
            .count()
    }

    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        if self.windows {
            text.push_str(&windows(&self.evaluation.windows));
            text.push('\n');
        }
        let spec = self.found.spec();
        let _ = writeln!(
            text,
            "{} {} ({}) on {}: {} {}",
            spec.name,
            spec.version,
            self.found.place(),
            self.data,
            show::count(self.rows),
            match self.data.as_str() {
                "stored samples" => "samples",
                _ => "rows",
            }
        );
        let _ = writeln!(
            text,
            "windows  {} scored, {} above the threshold",
            show::count(self.evaluation.windows.len() as u64),
            show::count(self.above() as u64)
        );
        if let Some(spread) = Spread::of(self.evaluation) {
            let _ = writeln!(
                text,
                "scores   median {}, 99 % {}, largest {}",
                digits(spread.median),
                digits(spread.p99),
                digits(spread.largest)
            );
        }
        for unscored in &self.evaluation.unscored {
            let _ = writeln!(
                text,
                "no score {} from {}: {}",
                show::count(unscored.count as u64),
                utc(unscored.from),
                unscored.reason
            );
        }
        text.push_str(&self.events());
        if let Some(figures) = &self.figures {
            text.push_str(&labels(figures));
        }
        text
    }

    fn events(&self) -> String {
        let episodes = &self.evaluation.episodes;
        let mut text = format!("events   {}\n", episodes.len());
        if episodes.is_empty() {
            return text;
        }
        let mut table = Table::new(["START", "TOLD", "END", ">PEAK", ">RATIO", "TOP"]);
        for episode in episodes {
            table.row([
                utc(episode.start),
                utc(episode.told_at),
                episode.end.map_or_else(|| "goes on".to_owned(), utc),
                digits(episode.peak),
                format!("{:.2}", episode.peak / episode.threshold),
                top(episode),
            ]);
        }
        text.push_str(&table.render("  "));
        text
    }

    pub(super) fn json(&self) -> Value {
        let spread = Spread::of(self.evaluation).map(|spread| {
            json!({ "median": spread.median, "p99": spread.p99, "largest": spread.largest })
        });
        let unscored: Vec<Value> = self
            .evaluation
            .unscored
            .iter()
            .map(|u| {
                json!({ "from": ms(u.from), "to": ms(u.to), "windows": u.count, "reason": u.reason })
            })
            .collect();
        let events: Vec<Value> = self.evaluation.episodes.iter().map(event).collect();
        let spec = self.found.spec();
        let bundle = match &self.found.what {
            What::Bundle(path, _) => Some(path.display().to_string()),
            What::Detector(_) => None,
        };
        let mut report = json!({
            "model": {
                "name": spec.name,
                "version": spec.version,
                "sha256": spec.sha256,
                "bundle": bundle,
            },
            "data": self.data,
            "rows": self.rows,
            "scored": self.evaluation.windows.len(),
            "above": self.above(),
            "scores": spread,
            "unscored": unscored,
            "events": events,
        });
        if let Some(figures) = &self.figures {
            report["labels"] = figures_json(figures);
        }
        if self.windows {
            let windows = self.evaluation.windows.iter().map(window_json);
            report["windows"] = windows.collect();
        }
        report
    }
}

fn windows(windows: &[ScoredWindow]) -> String {
    let mut table = Table::new(["WINDOW", "END", ">SCORE", ">RATIO", ">GOOD"]);
    for window in windows {
        table.row([
            utc(window.start),
            utc(window.at),
            digits(window.score),
            show::decimal(window.ratio),
            format!("{:.0} %", window.good * 100.0),
        ]);
    }
    table.render("")
}

fn labels(figures: &Figures) -> String {
    let detected = figures.detected();
    let mut text = format!(
        "labels   {} anomalies, {detected} detected{}; {} false starts\n",
        figures.anomalies.len(),
        match figures.median_delay() {
            Some((delay, rows)) => format!(
                " after {} ({rows} rows; median)",
                show::millis(delay.as_secs_f64() * 1e3)
            ),
            None => String::new(),
        },
        figures.false_starts
    );
    let mut table = Table::new(["RULE", ">F1", ">FALSE ALARMS", ">MISSED"]);
    for (rule, counts) in [("interval", figures.interval), ("causal", figures.causal)] {
        table.row([
            rule.to_owned(),
            show::decimal(counts.f1()),
            percent(counts.false_alarm_rate()),
            percent(counts.missed_alarm_rate()),
        ]);
    }
    text.push_str(&table.render("  "));
    text
}

fn figures_json(figures: &Figures) -> Value {
    let anomalies: Vec<Value> = figures
        .anomalies
        .iter()
        .map(|anomaly| {
            json!({
                "from": ms(anomaly.from),
                "to": ms(anomaly.to),
                "delay_ms": anomaly.delay.map(|(delay, _)| delay.as_secs_f64() * 1e3),
                "delay_rows": anomaly.delay.map(|(_, rows)| rows),
            })
        })
        .collect();
    json!({
        "anomalies": anomalies,
        "detected": figures.detected(),
        "false_starts": figures.false_starts,
        "interval": counts_json(figures.interval),
        "causal": counts_json(figures.causal),
    })
}

fn counts_json(counts: Counts) -> Value {
    json!({
        "f1": counts.f1(),
        "false_alarm_rate": counts.false_alarm_rate(),
        "missed_alarm_rate": counts.missed_alarm_rate(),
        "hits": counts.hits,
        "false_alarms": counts.false_alarms,
        "missed": counts.missed,
        "quiet": counts.quiet,
    })
}

fn event(episode: &Episode) -> Value {
    json!({
        "start": ms(episode.start),
        "told": ms(episode.told_at),
        "end": episode.end.map(ms),
        "end_told": episode.end_told_at.map(ms),
        "peak": episode.peak,
        "threshold": episode.threshold,
        "top": episode.top,
    })
}

fn window_json(window: &ScoredWindow) -> Value {
    json!({
        "start": ms(window.start),
        "end": ms(window.at),
        "score": window.score,
        "ratio": window.ratio,
        "share": named(&window.share),
        "values": named(&window.values),
        "good": window.good,
    })
}

fn named<T: serde::Serialize>(numbers: &[(Arc<str>, T)]) -> Value {
    let members = numbers.iter();
    let members = members.map(|(name, number)| (name.to_string(), json!(number)));
    Value::Object(members.collect())
}

fn top(episode: &Episode) -> String {
    let shares = episode.top.iter();
    let words: Vec<String> = shares
        .map(|share| format!("{} {:.0} %", share.role, share.share * 100.0))
        .collect();
    words.join(", ")
}

/// Unix milliseconds.
fn ms(at: Moment) -> f64 {
    at.0 as f64 / 1e6
}

fn utc(at: Moment) -> String {
    show::utc(ms(at))
}

fn percent(rate: Option<f64>) -> String {
    rate.map_or_else(|| "-".to_owned(), |rate| format!("{:.2} %", rate * 100.0))
}

/// Four digits that mean something.
fn digits(number: f64) -> String {
    let whole = number.abs().max(1e-9).log10().floor() as i32;
    let decimals = usize::try_from(3 - whole.clamp(-6, 3)).unwrap_or(0);
    format!("{number:.decimals$}")
}
