//! The samples of a run as they were decoded: columns, and the order of the line over them.
//!
//! A sample takes 64 bytes, its share of the columns half of that. They become samples when a parcel is
//! cut, a thousand at a time, where they are used.

use std::ops::Range;

use millrace_tags::{Moment, Quality, Sample, TagId, Timestamp, Value};

/// Samples in the order of the line.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rows {
    pub(super) groups: Vec<Group>,
    /// Where each row is: group, position in `values`.
    pub(super) order: Vec<(u32, u32)>,
    /// Each time that occurs, ascending, and the row behind its last one.
    pub(super) times: Vec<(i64, u32)>,
    /// Group after group.
    pub(super) values: Vec<Option<Value>>,
    pub(super) qualities: Vec<Quality>,
    pub(super) source_times: Vec<Option<Timestamp>>,
}

/// The samples of one tag.
#[derive(Debug, Clone)]
pub(super) struct Group {
    pub(super) tag: TagId,
    /// Where it starts in `values`.
    pub(super) start: u32,
    /// Where it starts in `qualities`; `None` where all are good.
    pub(super) qualities: Option<u32>,
    /// Where it starts in `source_times`; `None` where there are none.
    pub(super) source_times: Option<u32>,
}

impl Rows {
    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }

    /// The samples of some rows; `None` where there are fewer rows.
    pub(crate) fn cut(&self, rows: Range<usize>) -> Option<Vec<Sample>> {
        let order = self.order.get(rows.clone())?;
        let mut times = self.times.as_slice();
        times = &times[times.partition_point(|(_, end)| *end as usize <= rows.start)..];
        let mut row = rows.start;
        let sample = |&(group, at): &(u32, u32)| {
            while let [(_, end), rest @ ..] = times
                && *end as usize <= row
            {
                times = rest;
            }
            row += 1;
            let group = &self.groups[group as usize];
            let of = |start: u32| (start + at - group.start) as usize;
            Sample {
                tag: group.tag,
                value: copy(&self.values[at as usize]),
                quality: match group.qualities {
                    None => Quality::Good,
                    Some(start) => self.qualities[of(start)],
                },
                source_time: group.source_times.and_then(|s| self.source_times[of(s)]),
                gateway_time: Moment(times.first().map_or(0, |(time, _)| *time)),
            }
        };
        Some(order.iter().map(sample).collect())
    }
}

/// A clone that asks once whether there is anything to count: a float is copied as it is.
#[inline]
fn copy(value: &Option<Value>) -> Option<Value> {
    match value {
        Some(Value::F64(float)) => Some(Value::F64(*float)),
        Some(Value::U64(integer)) => Some(Value::U64(*integer)),
        Some(Value::Bool(bit)) => Some(Value::Bool(*bit)),
        other => other.clone(),
    }
}
