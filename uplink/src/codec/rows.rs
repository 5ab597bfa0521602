//! The samples of a parcel as every codec but `json` sees them: named, timed, with values that can be written.

use std::borrow::Cow;

use millrace_tags::{Parcel, Quality, Reason, Sample, Value};

use super::EncodeError;

/// Which time a sample carries where the format has room for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TimeChoice {
    /// The device's, where it gives one: several values of one notification keep their own times.
    #[default]
    Source,
    /// That of arrival at the gateway, whatever the device says.
    Gateway,
}

/// One sample.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row<'a> {
    pub(crate) seq: u64,
    pub(crate) tag: &'a str,
    pub(crate) unit: Option<&'a str>,
    /// Unix nanoseconds; `None` while the clock is not set.
    pub(crate) time: Option<i64>,
    /// Finite, and JSON where it says so.
    pub(crate) value: Option<&'a Value>,
    pub(crate) quality: Quality,
}

impl Row<'_> {
    /// Quality and reason as one text, `bad timeout`; `None` where it is good.
    pub(crate) fn remark(&self) -> Option<String> {
        let reason = self.quality.reason()?;
        Some(format!("{} {}", self.quality.severity(), reason.name()))
    }

    /// The reason; empty where the sample is good.
    pub(crate) fn reason(&self) -> Cow<'static, str> {
        self.quality
            .reason()
            .map_or(Cow::Borrowed(""), |reason| reason.name())
    }
}

/// The samples in order.
pub(crate) fn rows<'a>(
    parcel: &'a Parcel,
    samples: &'a [Sample],
    choice: TimeChoice,
) -> Result<Vec<Row<'a>>, EncodeError> {
    let row = |(seq, sample): (u64, &'a Sample)| {
        let tag = parcel
            .tags
            .get(sample.tag)
            .ok_or_else(|| EncodeError::UnknownTag {
                source_name: parcel.source.to_string(),
                seq,
                tag: sample.tag,
            })?;
        let source_time = match choice {
            TimeChoice::Source => sample.source_time,
            TimeChoice::Gateway => None,
        };
        let time = source_time.or_else(|| parcel.timebase.utc(sample.gateway_time));
        let (value, quality) = shown(sample);
        Ok(Row {
            seq,
            tag: &tag.name,
            unit: tag.unit.as_deref(),
            time: time.map(|time| time.0),
            value,
            quality,
        })
    };
    (parcel.first_seq..).zip(samples).map(row).collect()
}

/// The value where it can be written, and the quality that goes with it.
pub(crate) fn shown(sample: &Sample) -> (Option<&Value>, Quality) {
    let (value, problem) = match &sample.value {
        Some(value) => match problem(value) {
            Some(problem) => (None, Some(problem)),
            None => (Some(value), None),
        },
        None => (None, None),
    };
    let quality = match problem {
        Some(problem) => Quality::Bad(sample.quality.reason().unwrap_or(problem)),
        None => sample.quality,
    };
    match (value, quality) {
        // Nothing to show and yet good: no codec could say so.
        (None, Quality::Good) => (None, Quality::Bad(Reason::InvalidEncoding)),
        shown => shown,
    }
}

/// Why a value is not written.
fn problem(value: &Value) -> Option<Reason> {
    match value {
        Value::F64(number) if !number.is_finite() => Some(Reason::NotANumber),
        Value::F32(number) if !number.is_finite() => Some(Reason::NotANumber),
        Value::Json(text) => serde_json::from_str::<serde::de::IgnoredAny>(text)
            .is_err()
            .then_some(Reason::InvalidEncoding),
        _ => None,
    }
}

/// Consecutive rows that `same` takes for one, each run without a tag twice.
pub(crate) fn runs<'r, 'a>(
    rows: &'r [Row<'a>],
    same: impl Fn(&Row<'a>, &Row<'a>) -> bool,
) -> Vec<&'r [Row<'a>]> {
    let mut runs = Vec::new();
    let mut begin = 0;
    let mut seen: std::collections::HashSet<&str> = std::collections::HashSet::new();
    for (at, row) in rows.iter().enumerate() {
        let fits = at == begin || same(&rows[begin], row);
        if !fits || seen.contains(row.tag) {
            runs.push(&rows[begin..at]);
            begin = at;
            seen.clear();
        }
        seen.insert(row.tag);
    }
    if begin < rows.len() {
        runs.push(&rows[begin..]);
    }
    runs
}
