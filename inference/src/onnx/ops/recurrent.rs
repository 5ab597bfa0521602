//! Recurrent layers: LSTM, GRU and RNN, a whole window in one operator.
//!
//! The engine runs them as a graph within the graph, whose ten or so operators are called anew for each step: several times
//! slower than onnxruntime for the small layers that windows have. And its simplification fails where the same row is given to
//! each step, as decoders do it. The state starts afresh with each run.

mod cell;
mod curve;
mod layer;

use super::kernel::{Operators, register};

pub(super) fn register(operators: &mut Operators) {
    register!(operators,
        "GRU" => layer::read,
        "LSTM" => layer::read,
        "RNN" => layer::read,
    );
}
