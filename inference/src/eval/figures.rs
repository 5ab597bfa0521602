//! Figures: how good events are, by labels.

use std::time::Duration;

use millrace_tags::Moment;

use super::run::{Episode, Evaluation};

/// A row of the data with its label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LabelledRow {
    /// Its time.
    pub at: Moment,
    /// Whether it is an anomaly.
    pub anomalous: bool,
}

/// Which rows events declare anomalous.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// The rows from an event's start on, to the first row of the window that ended it: what is known once the event is over.
    /// Every row of a normal window counts as normal, so that the end lies about one window before it is told.
    Interval,
    /// The rows while the event was open, from when it was told to when its end was told: what an operator saw then.
    Causal,
}

/// Rows by label and by what events say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Anomalous rows that an event has.
    pub hits: u64,
    /// Normal rows that an event has.
    pub false_alarms: u64,
    /// Anomalous rows without an event.
    pub missed: u64,
    /// Normal rows without an event.
    pub quiet: u64,
}

impl Counts {
    /// Harmonic mean of precision and recall; `None` where no row is anomalous and none was declared so.
    pub fn f1(&self) -> Option<f64> {
        let wrong = self.false_alarms + self.missed;
        part(2 * self.hits, 2 * self.hits + wrong)
    }

    /// False alarm rate: the part of normal rows that an event has.
    pub fn false_alarm_rate(&self) -> Option<f64> {
        part(self.false_alarms, self.false_alarms + self.quiet)
    }

    /// Missed alarm rate: the part of anomalous rows without an event.
    pub fn missed_alarm_rate(&self) -> Option<f64> {
        part(self.missed, self.missed + self.hits)
    }

    fn count(&mut self, anomalous: bool, declared: bool) {
        *match (anomalous, declared) {
            (true, true) => &mut self.hits,
            (false, true) => &mut self.false_alarms,
            (true, false) => &mut self.missed,
            (false, false) => &mut self.quiet,
        } += 1;
    }
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.hits += other.hits;
        self.false_alarms += other.false_alarms;
        self.missed += other.missed;
        self.quiet += other.quiet;
    }
}

fn part(of: u64, all: u64) -> Option<f64> {
    (all > 0).then(|| of as f64 / all as f64)
}

/// A labelled anomaly: anomalous rows without a normal one between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Detection {
    /// Its first row.
    pub from: Moment,
    /// Its last row.
    pub to: Moment,
    /// How long after its first row an event was told, and how many rows that is; `None` where none began in it.
    pub delay: Option<(Duration, usize)>,
}

/// How good the events of an evaluation are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Figures {
    /// Rows by what was known once events were over.
    pub interval: Counts,
    /// Rows by what was known at the time.
    pub causal: Counts,
    /// The labelled anomalies.
    pub anomalies: Vec<Detection>,
    /// Events that were told of at a window without one anomalous row.
    pub false_starts: usize,
}

impl Figures {
    /// Holds events against labels. Rows are in order of time; only they are counted, so that rows that a model was
    /// trained with can be left out.
    pub fn new(evaluation: &Evaluation, rows: &[LabelledRow]) -> Self {
        let mut figures = Figures {
            anomalies: anomalies(evaluation, rows),
            ..Figures::default()
        };
        let interval = declared(evaluation, Rule::Interval);
        let causal = declared(evaluation, Rule::Causal);
        for row in rows {
            figures
                .interval
                .count(row.anomalous, covers(&interval, row.at));
            figures.causal.count(row.anomalous, covers(&causal, row.at));
        }
        let counted = |at| rows.first().is_some_and(|first| first.at <= at);
        figures.false_starts = evaluation
            .episodes
            .iter()
            .filter(|episode| counted(episode.told_at) && is_false_start(evaluation, episode, rows))
            .count();
        figures
    }

    /// Labelled anomalies in which an event began.
    pub fn detected(&self) -> usize {
        let detected = self.anomalies.iter().filter(|a| a.delay.is_some());
        detected.count()
    }

    /// The median delay of those that were detected.
    pub fn median_delay(&self) -> Option<(Duration, usize)> {
        let mut delays: Vec<(Duration, usize)> =
            self.anomalies.iter().filter_map(|a| a.delay).collect();
        delays.sort_unstable();
        delays.get(delays.len().saturating_sub(1) / 2).copied()
    }
}

/// From the first row to the one before the second.
type Span = (Moment, Moment);

/// The spans that events declare, in order and apart: an event begins with windows after the end of the one before.
fn declared(evaluation: &Evaluation, rule: Rule) -> Vec<Span> {
    const OPEN: Moment = Moment(i64::MAX);
    let span = |episode: &Episode| match rule {
        Rule::Causal => (episode.told_at, episode.end_told_at.unwrap_or(OPEN)),
        Rule::Interval => {
            let normal = episode.end.and_then(|end| evaluation.window_at(end));
            // The first row of the normal window itself still lies in windows that all are above the threshold.
            let to = normal.map_or(OPEN, |window| Moment(window.start.0.saturating_add(1)));
            (episode.start, to)
        }
    };
    evaluation.episodes.iter().map(span).collect()
}

fn covers(spans: &[Span], at: Moment) -> bool {
    let begun = spans.partition_point(|(from, _)| *from <= at);
    spans[..begun].last().is_some_and(|(_, to)| at < *to)
}

fn anomalies(evaluation: &Evaluation, rows: &[LabelledRow]) -> Vec<Detection> {
    let mut anomalies = Vec::new();
    for run in rows.chunk_by(|a, b| a.anomalous == b.anomalous) {
        let (Some(first), Some(last)) = (run.first(), run.last()) else {
            continue;
        };
        if !first.anomalous {
            continue;
        }
        let told = evaluation
            .episodes
            .iter()
            .map(|episode| episode.told_at)
            .find(|told| (first.at..=last.at).contains(told));
        let delay = told.map(|told| {
            let rows = run.iter().take_while(|row| row.at < told).count();
            (told.since(first.at), rows)
        });
        anomalies.push(Detection {
            from: first.at,
            to: last.at,
            delay,
        });
    }
    anomalies
}

fn is_false_start(evaluation: &Evaluation, episode: &Episode, rows: &[LabelledRow]) -> bool {
    let window = evaluation.window_at(episode.told_at);
    let from = window.map_or(episode.told_at, |window| window.start);
    let first = rows.partition_point(|row| row.at < from);
    let seen = rows[first..]
        .iter()
        .take_while(|row| row.at <= episode.told_at);
    !seen.into_iter().any(|row| row.anomalous)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::ScoredWindow;

    /// Windows of three rows, one a second; above the threshold where the score is 2.
    fn evaluation(episodes: Vec<Episode>) -> Evaluation {
        let window = |end: i64| ScoredWindow {
            at: Moment(end),
            start: Moment(end - 2),
            score: 1.0,
            ratio: Some(1.0),
            share: Vec::new(),
            values: Vec::new(),
            good: 1.0,
        };
        Evaluation {
            windows: (2..20).map(window).collect(),
            episodes,
            ..Evaluation::default()
        }
    }

    fn episode(start: i64, told: i64, end: Option<(i64, i64)>) -> Episode {
        Episode {
            told_at: Moment(told),
            start: Moment(start),
            end: end.map(|(end, _)| Moment(end)),
            end_told_at: end.map(|(_, told)| Moment(told)),
            peak: 2.0,
            threshold: 1.0,
            top: Vec::new(),
        }
    }

    fn rows(anomalous: std::ops::RangeInclusive<i64>) -> Vec<LabelledRow> {
        let row = |at| LabelledRow {
            at: Moment(at),
            anomalous: anomalous.contains(&at),
        };
        (0..20).map(row).collect()
    }

    #[test]
    fn an_interval_ends_where_the_first_normal_window_begins() {
        // Above from the window of row 6 on; told at row 7; the window of row 13 (from row 11) is normal, told at 14.
        let evaluation = evaluation(vec![episode(6, 7, Some((13, 14)))]);
        let figures = Figures::new(&evaluation, &rows(5..=12));
        let counts = |hits, false_alarms, missed, quiet| Counts {
            hits,
            false_alarms,
            missed,
            quiet,
        };
        assert_eq!(figures.interval, counts(6, 0, 2, 12), "rows 6 to 11");
        assert_eq!(figures.causal, counts(6, 1, 2, 11), "rows 7 to 13");
        assert_eq!(figures.interval.f1(), Some(12.0 / 14.0));
        assert_eq!(figures.causal.false_alarm_rate(), Some(1.0 / 12.0));
        assert_eq!(figures.causal.missed_alarm_rate(), Some(0.25));
        assert_eq!(figures.detected(), 1);
        assert_eq!(
            figures.median_delay(),
            Some((Duration::from_nanos(2), 2)),
            "rows 5 and 6 were before it"
        );
        assert_eq!(figures.false_starts, 0);
    }

    #[test]
    fn false_starts_see_no_anomalous_row() {
        let episodes = vec![
            episode(2, 3, Some((6, 6))),
            episode(14, 14, Some((16, 16))),
            episode(18, 18, None),
        ];
        let figures = Figures::new(&evaluation(episodes), &rows(9..=12));
        assert_eq!(
            figures.false_starts, 2,
            "the one at 14 has row 12 in its window"
        );
        assert_eq!((figures.detected(), figures.median_delay()), (0, None));
        assert_eq!(figures.causal.hits, 0);
        assert_eq!(figures.causal.false_alarms, 3 + 2 + 2);
    }

    #[test]
    fn rows_that_are_left_out_are_not_counted() {
        let evaluation = evaluation(vec![episode(2, 3, Some((6, 6)))]);
        let figures = Figures::new(&evaluation, &rows(15..=16)[10..]);
        assert_eq!(figures.false_starts, 0);
        assert_eq!(figures.causal.quiet, 8);
    }

    #[test]
    fn nothing_counted_is_no_rate() {
        let none = Counts::default();
        assert_eq!((none.f1(), none.false_alarm_rate()), (None, None));
        assert_eq!(none.missed_alarm_rate(), None);
    }
}
