//! What a simulated node was worth: the values that HistoryRead gives back.

use std::collections::VecDeque;

use opcua::types::{DataValue, DateTime, ReadRawModifiedDetails};

/// The newest values of one node, oldest first.
#[derive(Debug)]
pub(super) struct History {
    values: VecDeque<DataValue>,
    kept: usize,
}

/// A stretch of time that is asked for, in ticks. The beginning belongs to it, the end does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Span {
    begin: i64,
    end: i64,
}

impl Span {
    /// What a request means (Part 11, 6.4.3.2): from a start on, back from an end, or both, backwards where the end is
    /// before the start. `None` where there is neither.
    pub(super) fn asked(details: &ReadRawModifiedDetails) -> Option<Self> {
        let ticks = |time: &DateTime| (!time.is_null()).then(|| time.ticks());
        let (begin, end) = match (ticks(&details.start_time), ticks(&details.end_time)) {
            // An instant.
            (Some(start), Some(end)) if start == end => (start, end.saturating_add(1)),
            (Some(start), Some(end)) => (start, end),
            (Some(start), None) => (start, i64::MAX),
            (None, Some(end)) => (end, i64::MIN),
            (None, None) => return None,
        };
        Some(Self { begin, end })
    }

    fn is_backward(&self) -> bool {
        self.end < self.begin
    }
}

impl History {
    /// It keeps so many values.
    pub(super) fn new(kept: usize) -> Self {
        Self {
            values: VecDeque::new(),
            kept,
        }
    }

    pub(super) fn record(&mut self, value: DataValue) {
        if self.kept == 0 {
            return;
        }
        if self.values.len() >= self.kept {
            self.values.pop_front();
        }
        self.values.push_back(value);
    }

    /// All that is kept, oldest first.
    pub(super) fn values(&self) -> impl Iterator<Item = &DataValue> {
        self.values.iter()
    }

    /// The first values of the span, at most `most`, and the span of those that are left.
    pub(super) fn raw(&self, span: &Span, most: usize) -> (Vec<DataValue>, Option<Span>) {
        let mut found = Vec::new();
        let time = |value: &DataValue| value.source_timestamp.map_or(0, |time| time.ticks());
        let mut wanted: Box<dyn Iterator<Item = &DataValue>> = if span.is_backward() {
            let within = |value: &&DataValue| time(value) <= span.begin && time(value) > span.end;
            Box::new(self.values.iter().rev().filter(within))
        } else {
            let within = |value: &&DataValue| time(value) >= span.begin && time(value) < span.end;
            Box::new(self.values.iter().filter(within))
        };
        found.extend(wanted.by_ref().take(most).cloned());
        let rest = wanted.next().map(|value| Span {
            begin: time(value),
            end: span.end,
        });
        (found, rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history() -> History {
        let mut history = History::new(5);
        for tick in 1..=8i64 {
            history.record(DataValue::new_at(tick, DateTime::from(tick * 10)));
        }
        history
    }

    fn asked(start: i64, end: i64) -> Option<Span> {
        let time = |ticks| match ticks {
            0 => DateTime::null(),
            ticks => DateTime::from(ticks),
        };
        Span::asked(&ReadRawModifiedDetails {
            start_time: time(start),
            end_time: time(end),
            ..ReadRawModifiedDetails::default()
        })
    }

    fn times(history: &History, span: Option<Span>, most: usize) -> (Vec<i64>, Option<Span>) {
        let (values, rest) = history.raw(&span.expect("a span"), most);
        let times = values.iter().filter_map(|value| value.source_timestamp);
        (times.map(|time| time.ticks()).collect(), rest)
    }

    #[test]
    fn the_newest_are_kept_and_the_end_is_not_in_the_span() {
        let history = history();
        assert_eq!(
            times(&history, asked(1, 80), 99),
            (vec![40, 50, 60, 70], None)
        );
        assert_eq!(times(&history, asked(60, 60), 99).0, [60]);
        assert_eq!(times(&history, asked(60, 0), 99).0, [60, 70, 80]);
        assert_eq!(asked(0, 0), None);
        assert_eq!(History::new(0).values().count(), 0);
    }

    #[test]
    fn backwards_from_the_later_time() {
        let history = history();
        assert_eq!(times(&history, asked(70, 50), 99).0, [70, 60]);
        assert_eq!(times(&history, asked(0, 50), 99).0, [50, 40]);
    }

    #[test]
    fn pages_join_without_a_seam() {
        let history = history();
        for (span, expected) in [
            (asked(40, 81), vec![40, 50, 60, 70, 80]),
            (asked(80, 39), vec![80, 70, 60, 50, 40]),
        ] {
            let (mut all, mut rest) = times(&history, span, 2);
            while rest.is_some() {
                let (page, after) = times(&history, rest, 2);
                all.extend(page);
                rest = after;
            }
            assert_eq!(all, expected);
        }
    }
}
