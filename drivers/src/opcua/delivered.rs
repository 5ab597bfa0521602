//! What was handed over last of each item: where a gap begins, and what must not come twice.

use std::hash::{DefaultHasher, Hash, Hasher};

use millrace_tags::{Quality, Sample, Timestamp, Value};

/// The newest value of an item that was handed over, by its own time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Cursor {
    /// Whether anything was handed over at all.
    pub(super) seen: bool,
    /// When the server says that the newest value was taken; `None` where it says nothing.
    pub(super) time: Option<Timestamp>,
    /// The values of that time: a server with a coarse clock has several.
    prints: Vec<u64>,
}

impl Cursor {
    /// The sample is handed over.
    pub(super) fn take(&mut self, sample: &Sample) {
        // What has no time and no value is a mark of ours, and says nothing of where the server is.
        if sample.source_time.is_none() && sample.value.is_none() {
            return;
        }
        self.seen = true;
        if self.time != sample.source_time {
            self.time = sample.source_time;
            self.prints.clear();
        }
        self.prints.push(print(sample));
    }

    /// Whether this very value was handed over as the newest.
    pub(super) fn holds(&self, sample: &Sample) -> bool {
        self.time.is_some()
            && self.time == sample.source_time
            && self.prints.contains(&print(sample))
    }
}

/// The cursors of a device's items, by place.
#[derive(Debug, Default)]
pub(super) struct Delivered(Vec<Cursor>);

impl Delivered {
    /// Of so many items; what is known of them stays.
    pub(super) fn of(mut self, items: usize) -> Self {
        self.0.resize_with(items, Cursor::default);
        self
    }

    pub(super) fn take(&mut self, place: usize, sample: &Sample) {
        if let Some(cursor) = self.0.get_mut(place) {
            cursor.take(sample);
        }
    }

    pub(super) fn cursor(&self, place: usize) -> Cursor {
        self.0.get(place).cloned().unwrap_or_default()
    }

    /// The places of which something was handed over.
    pub(super) fn seen(&self) -> Vec<usize> {
        let cursors = self.0.iter().enumerate();
        cursors
            .filter(|(_, cursor)| cursor.seen)
            .map(|(place, _)| place)
            .collect()
    }
}

/// Two samples of one time with the same print are the same value.
pub(super) fn print(sample: &Sample) -> u64 {
    let mut hasher = DefaultHasher::new();
    match &sample.quality {
        Quality::Good => 0u8.hash(&mut hasher),
        Quality::Uncertain(reason) => (1u8, reason).hash(&mut hasher),
        Quality::Bad(reason) => (2u8, reason).hash(&mut hasher),
    }
    match &sample.value {
        None => {}
        Some(Value::Bool(v)) => v.hash(&mut hasher),
        Some(Value::I64(v)) => v.hash(&mut hasher),
        Some(Value::U64(v)) => v.hash(&mut hasher),
        Some(Value::F32(v)) => v.to_bits().hash(&mut hasher),
        Some(Value::F64(v)) => v.to_bits().hash(&mut hasher),
        Some(Value::Text(v) | Value::Json(v)) => v.hash(&mut hasher),
        Some(Value::Bytes(v)) => v.hash(&mut hasher),
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use millrace_tags::{Moment, Reason, TagId};

    use super::*;

    fn sample(value: u64, time: i64) -> Sample {
        Sample {
            source_time: Some(Timestamp(time)),
            ..Sample::good(TagId(0), Value::U64(value), Moment(0))
        }
    }

    #[test]
    fn newest_time_and_every_value_of_it_are_known() {
        let mut cursor = Cursor::default();
        cursor.take(&sample(1, 10));
        cursor.take(&sample(2, 20));
        cursor.take(&sample(3, 20));
        assert!(!cursor.holds(&sample(1, 10)));
        assert!(cursor.holds(&sample(2, 20)) && cursor.holds(&sample(3, 20)));
        assert!(!cursor.holds(&sample(4, 20)));
    }

    #[test]
    fn a_mark_of_ours_moves_nothing() {
        let mut cursor = Cursor::default();
        cursor.take(&Sample::bad(TagId(0), Reason::Lost, Moment(0)));
        assert!(!cursor.seen);
        cursor.take(&sample(1, 10));
        cursor.take(&Sample::bad(TagId(0), Reason::Lost, Moment(0)));
        assert!(cursor.holds(&sample(1, 10)));
    }

    #[test]
    fn a_value_without_a_time_is_seen_and_never_held() {
        let mut cursor = Cursor::default();
        let timeless = Sample::good(TagId(0), Value::Bool(true), Moment(0));
        cursor.take(&timeless);
        assert!(cursor.seen && !cursor.holds(&timeless));
    }
}
