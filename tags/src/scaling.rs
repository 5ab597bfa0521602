//! From the number that a device has to the one that is stored.

use crate::{Quality, Reason, Sample, Value};

/// `value = raw * scale + offset`, where that is not the raw value itself.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scaling {
    /// The factor; not 0.
    pub scale: f64,
    /// What is added.
    pub offset: f64,
}

impl Scaling {
    /// Scales a number; a result that is no number is bad, not a strange value. Everything else stays as it is.
    pub fn apply(self, sample: &mut Sample) {
        let Some(raw) = sample.value.as_ref().and_then(Value::as_f64) else {
            return;
        };
        let value = raw * self.scale + self.offset;
        if value.is_finite() {
            sample.value = Some(Value::F64(value));
        } else {
            sample.value = None;
            sample.quality = Quality::Bad(Reason::NotANumber);
        }
    }
}
