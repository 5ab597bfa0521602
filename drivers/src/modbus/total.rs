//! Totalisers: counters that begin again at 0 when they have no digits left, made into totals that never fall.
//!
//! A counter that fell has either rolled over or was set back: by a restart of its device, by a person. Which
//! of both is told by the way forward, over the top of its range: up to a step it is a roll-over, and the total
//! goes on by that way. Beyond it the counter was set back: the total goes on by what it has counted since,
//! and that one sample is uncertain, `counter-reset`, because what was counted between the last read and the
//! setting back is not known. Of a pause that is longer than a whole turn of the counter, whole turns are lost;
//! nobody can know them.
//!
//! The state outlives sessions: it belongs to the tag. [`Total::count_now`] and [`Total::restore`] let the agent
//! keep it over restarts.

use std::sync::{Mutex, PoisonError};

use millrace_tags::Moment;

use super::point::PointSpec;

/// Without a step, the way over the top is a roll-over up to this part of the range.
const STEP_PART: u128 = 4;

/// A counter that rolls over, and its total.
#[derive(Debug)]
pub struct Total {
    /// How many numbers the counter has: after the last comes 0.
    numbers: u128,
    /// The longest way over the top.
    step: u128,
    state: Mutex<Option<Counted>>,
}

/// How far a counter has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    /// What it last said.
    pub raw: u64,
    /// What that is in all.
    pub total: u64,
}

#[derive(Debug, Clone, Copy)]
struct Counted {
    count: Count,
    at: Moment,
}

/// What a counter's number is in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Counting {
    /// The total.
    Total(u64),
    /// The total after the counter was set back.
    Reset(u64),
    /// The counter has no such number.
    Beyond,
}

/// Why a value cannot be totalled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TotalError {
    /// Only whole numbers without a sign count.
    #[error("a value of type {data_type} is no counter")]
    Type {
        /// The type.
        data_type: super::DataType,
    },
    /// The counter could never come that far.
    #[error(
        "a counter of type {data_type} at {address} never gets to {rollover}: it has {numbers} numbers"
    )]
    Rollover {
        /// The type.
        data_type: super::DataType,
        /// Where it is.
        address: super::Address,
        /// As written.
        rollover: u64,
        /// The most.
        numbers: u128,
    },
    /// A step that is the whole range would take every reset for a roll-over.
    #[error("a step of {step} is no part of a range of {numbers} numbers")]
    Step {
        /// As written.
        step: u64,
        /// The counter's.
        numbers: u128,
    },
}

impl TotalError {
    /// What to write instead.
    pub fn hint(&self) -> String {
        match self {
            TotalError::Type { .. } => {
                "counters are u8, u16, u32, u48, u64, bcd16 to bcd64, or bits as u8 or u16".to_owned()
            }
            TotalError::Rollover { .. } => {
                "rollover is the number of counts after which it is 0 again: 1000000 for six digits; without it, \
                 the type's own range"
                    .to_owned()
            }
            TotalError::Step { numbers, .. } => format!(
                "the most that it counts between two reads; at most {}",
                numbers / 2
            ),
        }
    }
}

impl Total {
    /// A counter that has not been read yet. It is 0 again after `rollover` counts, or after the range of its
    /// type; `step` is the most that it counts between two reads.
    ///
    /// # Errors
    /// The value is no counter, or its range is another.
    pub fn new(
        spec: &PointSpec,
        rollover: Option<u64>,
        step: Option<u64>,
    ) -> Result<Self, TotalError> {
        let data_type = spec.data_type();
        let is_counter = data_type != super::DataType::Bool;
        let (0, high) = spec.whole_range().filter(|_| is_counter).unwrap_or((-1, 0)) else {
            return Err(TotalError::Type { data_type });
        };
        let most = high.unsigned_abs() + 1;
        let numbers = rollover.map_or(most, u128::from);
        if let Some(rollover) = rollover
            && (numbers > most || rollover < 2)
        {
            return Err(TotalError::Rollover {
                data_type,
                address: spec.address(),
                rollover,
                numbers: most,
            });
        }
        if let Some(step) = step
            && (step == 0 || u128::from(step) > numbers / 2)
        {
            return Err(TotalError::Step { step, numbers });
        }
        Ok(Self {
            numbers,
            step: step.map_or(numbers / STEP_PART, u128::from),
            state: Mutex::new(None),
        })
    }

    /// How far it has come, where it was read.
    pub fn count_now(&self) -> Option<Count> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.map(|counted| counted.count)
    }

    /// Goes on from here, unless it was read already or this cannot be its own.
    pub fn restore(&self, count: Count) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.is_none() && u128::from(count.raw) < self.numbers {
            *state = Some(Counted {
                count,
                at: Moment(i64::MIN),
            });
        }
    }

    /// How many numbers the counter has.
    pub fn numbers(&self) -> u128 {
        self.numbers
    }

    /// Takes what the counter said at a moment. What was said before the newest that is known, and comes after
    /// it over another session, changes nothing.
    pub(crate) fn count(&self, raw: u64, at: Moment) -> Counting {
        if u128::from(raw) >= self.numbers {
            return Counting::Beyond;
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Counted {
            count: last,
            at: newest,
        }) = *state
        else {
            let count = Count { raw, total: raw };
            *state = Some(Counted { count, at });
            return Counting::Total(raw);
        };
        if at < newest {
            return Counting::Total(last.total);
        }
        let over = self.numbers - u128::from(last.raw) + u128::from(raw);
        let (by, reset) = if raw >= last.raw {
            (raw - last.raw, false)
        } else if over <= self.step {
            // No longer than the range, which is at most 2^64 and not reached here.
            (u64::try_from(over).unwrap_or(u64::MAX), false)
        } else {
            (raw, true)
        };
        let total = last.total.saturating_add(by);
        let count = Count { raw, total };
        *state = Some(Counted { count, at });
        if reset {
            Counting::Reset(total)
        } else {
            Counting::Total(total)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modbus::WordOrder;

    fn spec(data_type: &str) -> PointSpec {
        let address = "holding:0".parse().unwrap();
        PointSpec::new(address, data_type.parse().unwrap(), WordOrder::Abcd).unwrap()
    }

    fn run(total: &Total, raws: &[u64]) -> Vec<Counting> {
        let at = |i| Moment(i64::try_from(i).unwrap());
        let counts = raws.iter().enumerate();
        counts.map(|(i, raw)| total.count(*raw, at(i))).collect()
    }

    #[test]
    fn total_goes_on_over_the_top() {
        use Counting::Total as T;
        let total = Total::new(&spec("u16"), None, None).unwrap();
        assert_eq!(
            run(&total, &[65_000, 65_535, 0, 10, 65_530, 4]),
            [
                T(65_000),
                T(65_535),
                T(65_536),
                T(65_546),
                T(131_066),
                T(131_076)
            ]
        );
        let digits = Total::new(&spec("bcd32"), Some(1_000_000), None).unwrap();
        assert_eq!(
            run(&digits, &[999_999, 0, 1_000_000]),
            [T(999_999), T(1_000_000), Counting::Beyond]
        );
        assert_eq!(
            digits.count_now(),
            Some(Count {
                raw: 0,
                total: 1_000_000
            })
        );
        let whole = Total::new(&spec("u64"), None, None).unwrap();
        assert_eq!(whole.numbers(), 1 << 64);
        assert_eq!(
            run(&whole, &[u64::MAX - 5, u64::MAX]),
            [T(u64::MAX - 5), T(u64::MAX)]
        );
    }

    #[test]
    fn a_counter_that_was_set_back_is_told_from_one_that_rolled_over() {
        use Counting::{Reset, Total as T};
        let total = Total::new(&spec("u16"), None, None).unwrap();
        assert_eq!(
            run(&total, &[30_000, 7, 20]),
            [T(30_000), Reset(30_007), T(30_020)]
        );
        // With a step a fall near the top is told, too.
        let slow = Total::new(&spec("u16"), None, Some(100)).unwrap();
        assert_eq!(
            run(&slow, &[65_500, 30, 65_500, 5, 65_500, 80]),
            [
                T(65_500),
                T(65_566),
                T(131_036),
                T(131_077),
                T(196_572),
                Reset(196_652)
            ]
        );
    }

    #[test]
    fn what_comes_late_over_another_session_changes_nothing() {
        let total = Total::new(&spec("u16"), None, None).unwrap();
        assert_eq!(total.count(100, Moment(10)), Counting::Total(100));
        assert_eq!(total.count(99, Moment(9)), Counting::Total(100));
        assert_eq!(total.count(101, Moment(11)), Counting::Total(101));
    }

    #[test]
    fn what_was_kept_is_gone_on_from() {
        let kept = Count {
            raw: 65_530,
            total: 1_000_000,
        };
        let total = Total::new(&spec("u16"), None, None).unwrap();
        total.restore(kept);
        assert_eq!(total.count(4, Moment(0)), Counting::Total(1_000_010));
        total.restore(kept);
        assert_eq!(total.count(5, Moment(1)), Counting::Total(1_000_011));
        let narrow = Total::new(&spec("bcd16"), None, None).unwrap();
        narrow.restore(kept);
        assert_eq!(narrow.count_now(), None, "it has no such number");
    }

    #[test]
    fn what_is_no_counter() {
        for data_type in ["i16", "f32", "bool", "string:4", "u16[2]"] {
            assert!(
                Total::new(&spec(data_type), None, None).is_err(),
                "{data_type}"
            );
        }
        let error = Total::new(&spec("u16"), Some(100_000), None).unwrap_err();
        assert!(
            error.to_string().contains("it has 65536 numbers"),
            "{error}"
        );
        assert!(Total::new(&spec("u16"), Some(1), None).is_err());
        assert!(Total::new(&spec("u16"), None, Some(0)).is_err());
        let error = Total::new(&spec("u16"), None, Some(40_000)).unwrap_err();
        assert!(error.hint().contains("32768"), "{}", error.hint());
    }
}
