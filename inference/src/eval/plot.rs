//! A plot of an evaluation as SVG: score and threshold over time, labels above, events below.

use std::fmt::Write;

use millrace_tags::Moment;

use super::figures::LabelledRow;
use super::run::Evaluation;

const WIDTH: usize = 1_200;
const HEIGHT: usize = 420;
/// Room for the numbers at the left, and the same at the right.
const MARGIN: usize = 70;
const TOP: usize = 60;
const BOTTOM: usize = 340;
/// Bands of labels and events.
const BAND: usize = 12;
const LABELS_AT: usize = TOP - BAND - 4;
const EVENTS_AT: usize = BOTTOM + 4;
const TICKS: usize = 6;

/// Draws an evaluation. `time` writes a moment for people; `labels` may be empty.
///
/// Each column of pixels has the smallest and largest score of its windows, so that no spike is lost, whatever the length.
/// The line breaks where there is no score.
pub fn svg(
    title: &str,
    evaluation: &Evaluation,
    labels: &[LabelledRow],
    time: impl Fn(Moment) -> String,
) -> String {
    let plot = Plot::new(evaluation, labels);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{HEIGHT}\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n\
         <text x=\"{MARGIN}\" y=\"24\" font-size=\"15\">{}</text>\n",
        escaped(title)
    );
    plot.axes(&mut svg, time);
    plot.labels(&mut svg, labels);
    plot.events(&mut svg, evaluation);
    plot.scores(&mut svg, evaluation);
    plot.threshold(&mut svg);
    svg.push_str("</svg>\n");
    svg
}

/// Where things lie.
struct Plot {
    from: i64,
    to: i64,
    /// The score at the upper edge; the lower edge is zero.
    largest: f64,
    threshold: Option<f64>,
}

impl Plot {
    fn new(evaluation: &Evaluation, labels: &[LabelledRow]) -> Self {
        let windows = &evaluation.windows;
        let rows = labels.iter().map(|row| row.at);
        let times = windows
            .iter()
            .flat_map(|w| [w.start, w.at])
            .chain(rows)
            .map(|at| at.0);
        let from = times.clone().min().unwrap_or(0);
        let to = times.max().unwrap_or(0).max(from.saturating_add(1));
        let threshold = windows
            .iter()
            .rev()
            .filter_map(|w| Some(w.score / w.ratio?))
            .find(|threshold| threshold.is_finite() && *threshold > 0.0);
        let scores = windows.iter().map(|w| w.score).chain(threshold);
        let largest = scores.fold(0.0f64, f64::max) * 1.05;
        Self {
            from,
            to,
            largest: if largest > 0.0 { largest } else { 1.0 },
            threshold,
        }
    }

    fn x(&self, at: Moment) -> f64 {
        let part = (at.0 as f64 - self.from as f64) / (self.to as f64 - self.from as f64);
        MARGIN as f64 + part.clamp(0.0, 1.0) * (WIDTH - 2 * MARGIN) as f64
    }

    fn y(&self, score: f64) -> f64 {
        let part = (score / self.largest).clamp(0.0, 1.0);
        BOTTOM as f64 - part * (BOTTOM - TOP) as f64
    }

    fn axes(&self, svg: &mut String, time: impl Fn(Moment) -> String) {
        let right = WIDTH - MARGIN;
        let _ = writeln!(
            svg,
            "<rect x=\"{MARGIN}\" y=\"{TOP}\" width=\"{}\" height=\"{}\" fill=\"none\" stroke=\"#999\"/>",
            right - MARGIN,
            BOTTOM - TOP
        );
        for tick in 0..TICKS {
            let part = tick as f64 / (TICKS - 1) as f64;
            let score = self.largest * part;
            let y = self.y(score);
            let _ = writeln!(
                svg,
                "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                MARGIN - 6,
                y + 4.0,
                short(score)
            );
            let at = Moment(self.from + ((self.to - self.from) as f64 * part) as i64);
            let _ = writeln!(
                svg,
                "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                self.x(at),
                BOTTOM + 2 * BAND + 16,
                escaped(&time(at))
            );
        }
    }

    fn band(&self, svg: &mut String, top: usize, from: Moment, to: Moment, colour: &str) {
        let (x, end) = (self.x(from), self.x(to));
        let _ = writeln!(
            svg,
            "<rect x=\"{x:.1}\" y=\"{top}\" width=\"{:.1}\" height=\"{BAND}\" fill=\"{colour}\"/>",
            (end - x).max(1.0)
        );
    }

    fn labels(&self, svg: &mut String, labels: &[LabelledRow]) {
        if labels.is_empty() {
            return;
        }
        self.key(svg, 0, "#f0a030", "labelled anomaly");
        for run in labels.chunk_by(|a, b| a.anomalous == b.anomalous) {
            if let (Some(first), Some(last)) = (run.first(), run.last())
                && first.anomalous
            {
                self.band(svg, LABELS_AT, first.at, last.at, "#f0a030");
            }
        }
    }

    fn events(&self, svg: &mut String, evaluation: &Evaluation) {
        self.key(svg, 1, "#c02020", "event, as told");
        for episode in &evaluation.episodes {
            let to = episode.end_told_at.unwrap_or(Moment(self.to));
            self.band(svg, EVENTS_AT, episode.told_at, to, "#c02020");
        }
    }

    fn scores(&self, svg: &mut String, evaluation: &Evaluation) {
        self.key(svg, 2, "#2060a0", "score");
        let mut breaks = evaluation.unscored.iter().map(|u| u.from).peekable();
        let mut path = String::new();
        let mut begin = true;
        let column = |at: Moment| self.x(at) as usize;
        for windows in evaluation
            .windows
            .chunk_by(|a, b| column(a.at) == column(b.at))
        {
            let Some(first) = windows.first() else {
                continue;
            };
            while breaks.next_if(|at| *at <= first.at).is_some() {
                begin = true;
            }
            let smallest = windows
                .iter()
                .map(|w| w.score)
                .fold(f64::INFINITY, f64::min);
            let largest = windows.iter().map(|w| w.score).fold(0.0, f64::max);
            let x = self.x(first.at);
            let verb = if std::mem::take(&mut begin) { 'M' } else { 'L' };
            let _ = write!(path, "{verb}{x:.1} {:.1}", self.y(smallest));
            let _ = write!(path, "L{x:.1} {:.1}", self.y(largest));
        }
        let _ = writeln!(
            svg,
            "<path d=\"{path}\" fill=\"none\" stroke=\"#2060a0\" stroke-linecap=\"round\"/>"
        );
    }

    fn threshold(&self, svg: &mut String) {
        let Some(threshold) = self.threshold else {
            return;
        };
        self.key(
            svg,
            3,
            "#208040",
            &format!("threshold {}", short(threshold)),
        );
        let y = self.y(threshold);
        let _ = writeln!(
            svg,
            "<line x1=\"{MARGIN}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#208040\" stroke-dasharray=\"6 4\"/>",
            WIDTH - MARGIN
        );
    }

    /// What a colour means, below the plot.
    fn key(&self, svg: &mut String, place: usize, colour: &str, text: &str) {
        let (x, y) = (MARGIN + place * 200, HEIGHT - 24);
        let _ = writeln!(
            svg,
            "<rect x=\"{x}\" y=\"{}\" width=\"14\" height=\"10\" fill=\"{colour}\"/><text x=\"{}\" y=\"{y}\">{}</text>",
            y - 9,
            x + 20,
            escaped(text)
        );
    }
}

/// A number in few digits.
fn short(number: f64) -> String {
    let digits = match number.abs() {
        large if large >= 100.0 => 0,
        middle if middle >= 1.0 => 2,
        _ => 4,
    };
    format!("{number:.digits$}")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::{Episode, ScoredWindow};

    fn evaluation(windows: i64) -> Evaluation {
        let window = |end: i64| ScoredWindow {
            at: Moment(end),
            start: Moment(end - 2),
            score: if end == windows / 2 { 9.0 } else { 1.0 },
            ratio: Some(if end == windows / 2 { 4.5 } else { 0.5 }),
            share: Vec::new(),
            values: Vec::new(),
            good: 1.0,
        };
        Evaluation {
            windows: (2..windows).map(window).collect(),
            episodes: vec![Episode {
                told_at: Moment(windows / 2),
                start: Moment(windows / 2),
                end: None,
                end_told_at: None,
                peak: 9.0,
                threshold: 2.0,
                top: Vec::new(),
            }],
            ..Evaluation::default()
        }
    }

    #[test]
    fn a_spike_among_a_million_windows_is_seen() {
        let evaluation = evaluation(1_000_000);
        let text = svg("pump <1>", &evaluation, &[], |at| at.0.to_string());
        assert!(text.starts_with("<svg ") && text.ends_with("</svg>\n"));
        assert!(text.contains("pump &lt;1&gt;") && text.contains("threshold 2.00"));
        assert!(!text.contains("labelled"), "there are no labels");
        assert!(text.len() < 60_000, "{}", text.len());
        let plot = Plot::new(&evaluation, &[]);
        let spike = format!("{:.1}", plot.y(9.0));
        assert!(text.contains(&format!(" {spike}L")), "no point at {spike}");
    }

    #[test]
    fn nothing_is_a_plot_too() {
        let row = |at, anomalous| LabelledRow {
            at: Moment(at),
            anomalous,
        };
        let labels = [row(0, false), row(5, true), row(6, true), row(9, false)];
        let text = svg("empty", &Evaluation::default(), &labels, |at| {
            at.0.to_string()
        });
        assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
        assert_eq!(text.matches("#f0a030").count(), 2, "the key and one band");
    }
}
