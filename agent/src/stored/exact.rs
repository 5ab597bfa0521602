//! Samples for this program's own eyes: with the moments that they were taken at and every bit of their values, so that a
//! model that sees them again sees what it saw live. Other programs take CSV or JSON lines.

use std::sync::Arc;

use millrace_tags::{BootId, Parcel, Records, Value};
use serde::{Deserialize, Serialize};

/// One sample, as a line of JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ExactSample {
    /// The device or model.
    pub(crate) source: Arc<str>,
    /// The tag, without the source.
    pub(crate) tag: Arc<str>,
    /// The boot that `moment_ns` counts from.
    pub(crate) boot: BootId,
    /// UTC nanoseconds of the boot's moment zero, where that is known.
    pub(crate) offset_ns: Option<i64>,
    /// Gateway time.
    pub(crate) moment_ns: i64,
    /// The bits of the value as an f64; `None` where it is not good, or no number.
    pub(crate) value_bits: Option<u64>,
}

/// Appends the line of one sample, without its end; of an event nothing.
pub(super) fn line(out: &mut Vec<u8>, parcel: &Parcel, at: usize) {
    let Records::Samples(samples) = &parcel.records else {
        return;
    };
    let Some(sample) = samples.get(at) else {
        return;
    };
    let Some(tag) = parcel.tags.get(sample.tag) else {
        return;
    };
    let value = sample.value.as_ref().and_then(Value::as_f64);
    let exact = ExactSample {
        source: parcel.source.clone(),
        tag: tag.name.clone(),
        boot: parcel.timebase.boot,
        offset_ns: parcel.timebase.offset_ns,
        moment_ns: sample.gateway_time.0,
        value_bits: value.filter(|_| sample.quality.is_good()).map(f64::to_bits),
    };
    // Plain data with text keys always has a form in JSON.
    let _ = serde_json::to_writer(out, &exact);
}
