//! The live table: the last value of every tag.
//!
//! It is fed before the deadband filter, so a row's age is the time since the device last *confirmed*
//! the value, not since it last changed. A row whose device is lost turns bad; it never keeps an old
//! value under a new time.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};

use millrace_tags::{Clock, Quality, Sample, TagId, Value};

use crate::report::TagRow;

/// What a person calls a tag.
#[derive(Debug, Clone)]
pub(crate) struct TagLabel {
    /// `device/tag`.
    pub(crate) full_name: String,
    /// As configured.
    pub(crate) unit: Option<String>,
}

/// The last value of every tag, by [`TagId`].
#[derive(Default)]
pub(crate) struct LiveTable {
    rows: RwLock<Vec<Option<Row>>>,
}

struct Row {
    label: TagLabel,
    last: Option<Sample>,
}

impl LiveTable {
    /// Gives a tag its row.
    pub(crate) fn add(&self, tag: TagId, label: TagLabel) {
        let mut rows = self.rows.write().unwrap_or_else(PoisonError::into_inner);
        let index = tag.0 as usize;
        if rows.len() <= index {
            rows.resize_with(index + 1, || None);
        }
        rows[index] = Some(Row { label, last: None });
    }

    /// Takes over what the device just said.
    pub(crate) fn confirm(&self, samples: &[Sample]) {
        let mut rows = self.rows.write().unwrap_or_else(PoisonError::into_inner);
        for sample in samples {
            if let Some(Some(row)) = rows.get_mut(sample.tag.0 as usize) {
                row.last = Some(sample.clone());
            }
        }
    }

    /// Shows the last sample of every tag that has one, with the tag's full name.
    pub(crate) fn each(&self, mut show: impl FnMut(&str, &Sample)) {
        let rows = self.rows.read().unwrap_or_else(PoisonError::into_inner);
        for row in rows.iter().flatten() {
            if let Some(last) = &row.last {
                show(&row.label.full_name, last);
            }
        }
    }

    /// How many of these tags have a good last value.
    pub(crate) fn good(&self, tags: &[TagId]) -> usize {
        let rows = self.rows.read().unwrap_or_else(PoisonError::into_inner);
        tags.iter()
            .filter_map(|tag| rows.get(tag.0 as usize)?.as_ref()?.last.as_ref())
            .filter(|last| last.quality.is_good())
            .count()
    }

    /// How many of these tags have a last value that is not good, by its reason.
    pub(crate) fn bad(&self, tags: &[TagId]) -> BTreeMap<String, usize> {
        let rows = self.rows.read().unwrap_or_else(PoisonError::into_inner);
        let last = tags
            .iter()
            .filter_map(|tag| rows.get(tag.0 as usize)?.as_ref()?.last.as_ref());
        let mut bad = BTreeMap::new();
        for reason in last.filter_map(|last| last.quality.reason()) {
            *bad.entry(reason.name().into_owned()).or_default() += 1;
        }
        bad
    }

    /// The tags whose full name matches, with their numbers.
    pub(crate) fn find(&self, matches: impl Fn(&str) -> bool) -> Vec<(TagId, String)> {
        let rows = self.rows.read().unwrap_or_else(PoisonError::into_inner);
        let named = (0u32..).map(TagId).zip(rows.iter());
        named
            .filter_map(|(tag, row)| Some((tag, row.as_ref()?.label.full_name.clone())))
            .filter(|(_, name)| matches(name))
            .collect()
    }

    /// The unit of a tag.
    pub(crate) fn unit(&self, tag: TagId) -> Option<String> {
        let rows = self.rows.read().unwrap_or_else(PoisonError::into_inner);
        rows.get(tag.0 as usize)?.as_ref()?.label.unit.clone()
    }

    /// What a person may see of the tags whose full name matches, in order of name.
    pub(crate) fn report(&self, clock: &dyn Clock, matches: impl Fn(&str) -> bool) -> Vec<TagRow> {
        let rows = self.rows.read().unwrap_or_else(PoisonError::into_inner);
        let mut report: Vec<TagRow> = rows
            .iter()
            .flatten()
            .filter(|row| matches(&row.label.full_name))
            .map(|row| tag_row(&row.label, row.last.as_ref(), clock))
            .collect();
        report.sort_by(|a, b| a.tag.cmp(&b.tag));
        report
    }
}

/// A sample as a person sees it. A tag that nobody has heard of yet is bad, `not-connected`.
pub(crate) fn tag_row(label: &TagLabel, last: Option<&Sample>, clock: &dyn Clock) -> TagRow {
    let quality = last.map_or(Quality::Bad(millrace_tags::Reason::NotConnected), |s| {
        s.quality
    });
    TagRow {
        tag: label.full_name.clone(),
        value: last
            .and_then(|s| s.value.as_ref())
            .map_or(serde_json::Value::Null, value_json),
        unit: label.unit.clone(),
        quality: quality.severity().to_owned(),
        reason: quality.reason().map(|reason| reason.name().into_owned()),
        age_ms: last.map(|s| clock.now().since(s.gateway_time).as_secs_f64() * 1e3),
        t: last
            .and_then(|s| clock.timebase().utc(s.gateway_time))
            .map(|t| t.unix_ms()),
    }
}

/// A value as JSON for people and scripts.
pub(crate) fn value_json(value: &Value) -> serde_json::Value {
    match value {
        Value::Bool(b) => (*b).into(),
        Value::I64(i) => (*i).into(),
        Value::U64(u) => (*u).into(),
        Value::F64(f) => (*f).into(),
        // The shortest decimal that is this f32: 0.1 must not become 0.10000000149011612.
        Value::F32(f) => f.to_string().parse::<f64>().unwrap_or(f64::from(*f)).into(),
        Value::Text(text) => text.as_ref().into(),
        Value::Bytes(bytes) => bytes
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect::<String>()
            .into(),
        Value::Json(json) => serde_json::from_str(json).unwrap_or_else(|_| json.as_ref().into()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use millrace_tags::{Moment, Reason, TestClock};

    use super::*;

    fn table() -> LiveTable {
        let table = LiveTable::default();
        let label = TagLabel {
            full_name: "boiler/pressure".into(),
            unit: Some("bar".into()),
        };
        table.add(TagId(3), label);
        table
    }

    #[test]
    fn unheard_tag_is_bad_without_age() {
        let rows = table().report(&TestClock::new(1, None), |_| true);
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].quality, "bad");
        assert_eq!(rows[0].age_ms, None);
        assert!(rows[0].value.is_null());
    }

    #[test]
    fn age_counts_from_the_last_confirmation() {
        let (table, clock) = (table(), TestClock::new(1, None));
        table.confirm(&[Sample::good(TagId(3), Value::F32(0.1), Moment(0))]);
        clock.advance(Duration::from_millis(40));
        table.confirm(&[Sample::good(TagId(3), Value::F32(0.1), clock.now())]);
        clock.advance(Duration::from_millis(5));
        let row = table
            .report(&clock, |name| name == "boiler/pressure")
            .remove(0);
        assert_eq!(row.age_ms, Some(5.0));
        assert_eq!(row.value, serde_json::json!(0.1));
    }

    #[test]
    fn lost_device_leaves_no_old_value() {
        let (table, clock) = (table(), TestClock::new(1, None));
        table.confirm(&[Sample::good(TagId(3), Value::U64(7), Moment(0))]);
        table.confirm(&[Sample::bad(TagId(3), Reason::Timeout, Moment(9))]);
        let row = table.report(&clock, |_| true).remove(0);
        assert!(row.value.is_null());
        assert_eq!(row.reason.as_deref(), Some("timeout"));
        assert_eq!(table.good(&[TagId(3)]), 0);
    }
}
