//! Which number of an output is meant.

use tract_onnx::pb;

/// An output, or one element of it: `score`, or `probabilities[1]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pick {
    /// Name of the graph's output.
    pub(super) output: String,
    /// The element, where the name ends with one; otherwise the output has one only.
    pub(super) place: Option<usize>,
}

impl Pick {
    /// A name as it is where the graph has such an output; brackets in names are rare, but legal.
    pub(super) fn of(graph: &pb::GraphProto, name: &str) -> Self {
        let is_output = graph.output.iter().any(|output| output.name == name);
        let split = name
            .strip_suffix(']')
            .and_then(|name| name.rsplit_once('['));
        match split.and_then(|(output, place)| Some((output, place.parse().ok()?))) {
            Some((output, place)) if !is_output => Self {
                output: output.to_owned(),
                place: Some(place),
            },
            _ => Self {
                output: name.to_owned(),
                place: None,
            },
        }
    }

    /// The number, where the output has it.
    pub(super) fn from(&self, output: &[f64]) -> Option<f64> {
        output.get(self.place.unwrap_or(0)).copied()
    }

    /// How many numbers the output must have, where that matters.
    pub(super) fn len(&self) -> Option<usize> {
        self.place.is_none().then_some(1)
    }
}
