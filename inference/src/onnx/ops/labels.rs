//! The labels of a classifier's classes.

use tract_onnx::pb::NodeProto;

use super::attribute;

/// More classes than any classifier of windows has.
const CLASSES_MAX: usize = 4096;

/// Numbers. Where the file has texts, their places stand for them: a score is wanted, not a text.
#[derive(Debug)]
pub(super) struct Labels(Vec<i64>);

impl Labels {
    pub(super) fn read(node: &NodeProto, ints: &str, texts: &str) -> Result<Self, String> {
        let mut labels = attribute::ints(node, ints)?.to_vec();
        if labels.is_empty() {
            labels = (0..).take(attribute::texts(node, texts)?.len()).collect();
        }
        if !(1..=CLASSES_MAX).contains(&labels.len()) {
            return Err(format!(
                "{ints} has {} classes; expected 1 to {CLASSES_MAX}",
                labels.len()
            ));
        }
        Ok(Self(labels))
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn at(&self, place: usize) -> i64 {
        self.0.get(place).copied().unwrap_or_default()
    }
}
