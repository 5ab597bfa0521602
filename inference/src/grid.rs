//! One input's samples on the way to the grid: ordered by event time, then held or joined by lines.

use std::collections::VecDeque;
use std::time::Duration;

use millrace_tags::{Moment, Sample};

use crate::bundle::{Fill, Input};

/// Samples of one input that wait for their row. At 1 kHz that is four seconds; where rows come that
/// late, the oldest samples count as taken.
const PENDING_MAX: usize = 4_096;

/// Good values that are remembered of one input: a minute at 1 kHz.
const TAKEN_MAX: usize = 65_536;

/// What one input is worth at one row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Cell {
    /// The value, always finite.
    pub(crate) value: f32,
    /// Whether it is a good value of this row, or a stand-in.
    pub(crate) good: bool,
}

impl Cell {
    /// There was never a value.
    pub(crate) const NOTHING: Self = Self {
        value: 0.0,
        good: false,
    };
}

/// The samples of one input.
#[derive(Debug)]
pub(crate) struct InputLine {
    fill: Fill,
    range: Option<(f64, f64)>,
    required: bool,
    max_gap: Duration,
    /// Samples that no row has taken yet, in order; `None`: not good.
    pending: VecDeque<(Moment, Option<f64>)>,
    /// The newest sample that a row has taken, and whether it was good.
    last: Option<(Moment, bool)>,
    last_good: Option<(Moment, f64)>,
    /// How long good values that were taken are remembered, for columns that are made of many of them.
    memory: Duration,
    taken: VecDeque<(Moment, f64)>,
}

impl InputLine {
    pub(crate) fn new(input: &Input, max_gap: Duration) -> Self {
        Self {
            fill: input.fill,
            range: input.range,
            required: input.required,
            max_gap: input.max_gap.unwrap_or(max_gap),
            pending: VecDeque::new(),
            last: None,
            last_good: None,
            memory: Duration::ZERO,
            taken: VecDeque::new(),
        }
    }

    /// Has good values remembered for so long.
    pub(crate) fn remember(&mut self, memory: Duration) {
        self.memory = self.memory.max(memory);
    }

    /// The good values of the time `over` up to `at`, that moment included, oldest first.
    pub(crate) fn taken(
        &self,
        at: Moment,
        over: Duration,
    ) -> impl Iterator<Item = (Moment, f64)> + Clone + '_ {
        let is_old = move |(time, _): &(Moment, f64)| at.since(*time) >= over;
        let from = self.taken.partition_point(is_old);
        self.taken.range(from..).copied()
    }

    /// Adds a sample. One that is older than what a row has taken already comes too late, and is left out.
    pub(crate) fn push(&mut self, sample: &Sample) {
        let at = sample.gateway_time;
        if self.last.is_some_and(|(last, _)| at < last) {
            return;
        }
        let value = self.good_value(sample);
        // Of two at one moment, the good one, else the larger one, is the newer: whichever came first.
        let key = |value: Option<f64>| value.map_or(i64::MIN, ordered);
        let place = self
            .pending
            .partition_point(|(other, held)| (*other, key(*held)) <= (at, key(value)));
        self.pending.insert(place, (at, value));
        if self.pending.len() > PENDING_MAX {
            self.take_one();
        }
    }

    fn good_value(&self, sample: &Sample) -> Option<f64> {
        let value = sample.value.as_ref()?.as_f64()?;
        let in_range = self
            .range
            .is_none_or(|(smallest, largest)| (smallest..=largest).contains(&value));
        let usable = sample.quality.is_good() && in_range && (value as f32).is_finite();
        usable.then_some(value)
    }

    fn take_one(&mut self) {
        if let Some((at, value)) = self.pending.pop_front() {
            self.last = Some((at, value.is_some()));
            if let Some(value) = value {
                self.last_good = Some((at, value));
                if !self.memory.is_zero() {
                    self.taken.push_back((at, value));
                    let is_old = |time: Moment| at.since(time) >= self.memory;
                    while self.taken.len() > TAKEN_MAX
                        || self.taken.front().is_some_and(|(time, _)| is_old(*time))
                    {
                        self.taken.pop_front();
                    }
                }
            }
        }
    }

    /// Takes all samples up to `at`, that moment included.
    pub(crate) fn take_until(&mut self, at: Moment) {
        while self.pending.front().is_some_and(|(time, _)| *time <= at) {
            self.take_one();
        }
    }

    /// The newest sample that a row has taken.
    pub(crate) fn newest(&self) -> Option<Moment> {
        self.last.map(|(at, _)| at)
    }

    /// When the oldest sample that waits was taken.
    pub(crate) fn first_pending(&self) -> Option<Moment> {
        self.pending.front().map(|(at, _)| *at)
    }

    /// Whether the row at `at` may be made, now that everything up to `now` has come: a line needs its far end, and
    /// nothing that could lie before it may be still to come.
    pub(crate) fn is_ready(&self, at: Moment, now: Moment) -> bool {
        match self.fill {
            Fill::Hold => true,
            Fill::Linear => {
                let has_end = |(time, value): &(Moment, Option<f64>)| {
                    *time >= at && *time <= now && value.is_some()
                };
                self.pending.iter().any(has_end)
                    || self.last_good.is_some_and(|(time, _)| time >= at)
                    || now >= at + self.max_gap
            }
        }
    }

    /// The input's worth at a row; `None`: there is nothing that could stand in. Samples up to `at`
    /// must have been taken.
    pub(crate) fn cell(&self, at: Moment) -> Option<Cell> {
        let (held_at, held) = self.last_good?;
        let fresh = at.since(held_at) <= self.max_gap;
        let cell = match self.fill {
            Fill::Hold => Cell {
                value: held as f32,
                good: fresh && self.last.is_some_and(|(_, good)| good),
            },
            Fill::Linear => self.on_the_line(at, held_at, held),
        };
        (cell.good || fresh || !self.required).then_some(cell)
    }

    fn on_the_line(&self, at: Moment, from_at: Moment, from: f64) -> Cell {
        let next = self
            .pending
            .iter()
            .find_map(|(time, value)| Some((*time, (*value)?)));
        match next {
            Some((to_at, to)) if to_at.since(from_at) <= self.max_gap => {
                let whole = to_at.since(from_at).as_secs_f64();
                let part = at.since(from_at).as_secs_f64() / whole.max(f64::MIN_POSITIVE);
                Cell {
                    value: (from + (to - from) * part.min(1.0)) as f32,
                    good: true,
                }
            }
            _ => Cell {
                value: from as f32,
                good: from_at == at,
            },
        }
    }
}

/// A number that is ordered as the finite f64 is.
fn ordered(value: f64) -> i64 {
    let bits = value.to_bits().cast_signed();
    bits ^ (((bits >> 63).cast_unsigned()) >> 1).cast_signed()
}

#[cfg(test)]
mod tests {
    use millrace_tags::{Reason, TagId, Value};

    use super::*;

    const GAP: Duration = Duration::from_secs(2);

    fn line(fill: Fill, required: bool) -> InputLine {
        let input = Input {
            role: "flow".to_owned(),
            unit: String::new(),
            fill,
            range: Some((0.0, 100.0)),
            required,
            max_gap: None,
        };
        InputLine::new(&input, GAP)
    }

    fn at(ms: i64) -> Moment {
        Moment(ms * 1_000_000)
    }

    fn good(ms: i64, value: f64) -> Sample {
        Sample::good(TagId(1), Value::F64(value), at(ms))
    }

    fn cell(line: &mut InputLine, ms: i64) -> Option<(f32, bool)> {
        line.take_until(at(ms));
        line.cell(at(ms)).map(|cell| (cell.value, cell.good))
    }

    #[test]
    fn holds_a_value_up_to_max_gap() {
        let mut line = line(Fill::Hold, true);
        assert_eq!(cell(&mut line, 0), None);
        line.push(&good(100, 5.0));
        assert_eq!(cell(&mut line, 200), Some((5.0, true)));
        assert_eq!(cell(&mut line, 2_100), Some((5.0, true)));
        assert_eq!(cell(&mut line, 2_101), None);
    }

    #[test]
    fn a_bad_sample_is_bridged_but_not_good() {
        let mut line = line(Fill::Hold, true);
        line.push(&good(100, 5.0));
        line.push(&Sample::bad(TagId(1), Reason::Timeout, at(200)));
        assert_eq!(cell(&mut line, 300), Some((5.0, false)));
        line.push(&good(400, 500.0)); // outside the range
        assert_eq!(cell(&mut line, 400), Some((5.0, false)));
        assert_eq!(cell(&mut line, 2_200), None);
    }

    #[test]
    fn an_optional_input_keeps_its_last_value() {
        let mut line = line(Fill::Hold, false);
        assert_eq!(cell(&mut line, 0), None);
        line.push(&good(100, 5.0));
        assert_eq!(cell(&mut line, 60_000), Some((5.0, false)));
    }

    #[test]
    fn a_line_waits_for_its_far_end() {
        let mut line = line(Fill::Linear, true);
        line.push(&good(0, 10.0));
        line.take_until(at(500));
        assert!(!line.is_ready(at(500), at(600)));
        assert!(line.is_ready(at(500), at(2_500)));
        line.push(&good(1_000, 20.0));
        // Until then something could come that lies between.
        assert!(!line.is_ready(at(500), at(999)));
        assert!(line.is_ready(at(500), at(1_000)));
        assert_eq!(cell(&mut line, 500), Some((15.0, true)));
        assert_eq!(cell(&mut line, 1_000), Some((20.0, true)));
        assert_eq!(cell(&mut line, 1_500), Some((20.0, false)));
    }

    #[test]
    fn late_samples_are_put_in_order_or_left_out() {
        let mut line = line(Fill::Hold, true);
        line.push(&good(300, 3.0));
        line.push(&good(100, 1.0));
        assert_eq!(cell(&mut line, 200), Some((1.0, true)));
        assert_eq!(cell(&mut line, 300), Some((3.0, true)));
        line.push(&good(250, 2.5));
        assert_eq!(cell(&mut line, 400), Some((3.0, true)));
    }

    #[test]
    fn of_two_at_one_moment_it_does_not_matter_which_came_first() {
        let (one, other, bad) = (
            good(100, 2.0),
            good(100, 1.0),
            Sample::bad(TagId(1), Reason::Timeout, at(100)),
        );
        for order in [
            [&one, &other, &bad],
            [&bad, &other, &one],
            [&other, &bad, &one],
        ] {
            let mut line = line(Fill::Hold, true);
            order.into_iter().for_each(|sample| line.push(sample));
            assert_eq!(cell(&mut line, 200), Some((2.0, true)));
        }
    }

    #[test]
    fn good_values_are_remembered_for_a_while() {
        let mut line = line(Fill::Hold, true);
        line.remember(Duration::from_millis(300));
        for ms in [100, 200, 300, 400, 500] {
            line.push(&good(ms, ms as f64 / 10.0));
        }
        line.take_until(at(450));
        let taken = |over| {
            line.taken(at(450), Duration::from_millis(over))
                .map(|it| it.1)
                .collect::<Vec<_>>()
        };
        assert_eq!(taken(300), [20.0, 30.0, 40.0]);
        assert_eq!(taken(100), [40.0]);
        assert_eq!(taken(50), [0.0; 0]);
    }

    #[test]
    fn pending_samples_are_bounded() {
        let mut line = line(Fill::Hold, true);
        for ms in 0..10_000 {
            line.push(&good(ms, 1.0));
        }
        assert_eq!(line.pending.len(), PENDING_MAX);
    }
}
