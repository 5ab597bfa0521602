//! All steps of one direction of a layer.

use super::curve::{sigmoid, tanh};
use crate::onnx::ops::matrix::Matrix;
use crate::onnx::ops::wide::Wide;

/// The kind of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `tanh`, or what is above 0 if `is_relu`.
    Rnn {
        is_relu: bool,
    },
    /// The reset gate comes after the matrix if `is_linear`, as PyTorch and Keras have it.
    Gru {
        is_linear: bool,
    },
    Lstm,
}

impl Kind {
    /// How many gates it has, each as wide as the state.
    pub(super) fn gates(self) -> usize {
        match self {
            Self::Rnn { .. } => 1,
            Self::Gru { .. } => 3,
            Self::Lstm => 4,
        }
    }
}

/// The weights of one direction.
#[derive(Debug, Clone)]
pub(super) struct Weights {
    hidden: usize,
    of_input: Matrix,
    /// Of the gates that take the state as it is.
    of_state: Matrix,
    /// Of the last gate of a GRU that is not linear: it takes the state after the reset.
    of_reset: Option<Matrix>,
    /// What each step begins with: biases of the input, and of the state where they can be added at once.
    input_bias: Vec<f32>,
    state_bias: Vec<f32>,
}

impl Weights {
    /// `w`, `r` and `b` are of one direction, as the standard lays them; `b` may be empty.
    pub(super) fn of(
        kind: Kind,
        hidden: usize,
        inputs: usize,
        w: &[f32],
        r: &[f32],
        b: &[f32],
    ) -> Self {
        let of_input = Matrix::of_columns(inputs, w);
        let taken = match kind {
            Kind::Gru { is_linear: false } => 2 * hidden,
            _ => kind.gates() * hidden,
        };
        let (of_state, of_reset) = (&r[..taken * hidden], &r[taken * hidden..]);
        let of_state = Matrix::of_columns(hidden, of_state);
        let mut input_bias = vec![0.0; of_input.padded_columns()];
        let mut state_bias = vec![0.0; of_state.padded_columns()];
        let (of_w, of_r) = b.split_at(b.len() / 2);
        for (i, (w, r)) in of_w.iter().zip(of_r).enumerate() {
            input_bias[i] = *w;
            if kind == (Kind::Gru { is_linear: true }) && i >= 2 * hidden {
                state_bias[i] = *r;
            } else {
                input_bias[i] += r;
            }
        }
        Self {
            hidden,
            of_input,
            of_reset: (!of_reset.is_empty()).then(|| Matrix::of_columns(hidden, of_reset)),
            of_state,
            input_bias,
            state_bias,
        }
    }
}

/// What a layer goes over: `inputs` one step after the other, and the states it leaves in `steps`.
pub(super) struct Run<'a> {
    pub(super) kind: Kind,
    pub(super) weights: &'a Weights,
    pub(super) is_reverse: bool,
    /// Steps times inputs.
    pub(super) window: &'a [f32],
    /// At the start, and then at the end.
    pub(super) state: &'a mut [f32],
    /// What an LSTM has beside it; of others, nothing.
    pub(super) cell: &'a mut [f32],
    /// Steps times hidden.
    pub(super) steps: &'a mut [f32],
}

impl Wide for Run<'_> {
    #[inline(always)]
    fn go<const FUSED: bool>(self) {
        let Weights {
            hidden,
            of_input,
            of_state,
            of_reset,
            input_bias,
            state_bias,
        } = self.weights;
        let hidden = *hidden;
        let count = self.steps.len() / hidden;
        let inputs = self.window.len() / count.max(1);
        let (mut gates, mut of_last) = (input_bias.clone(), state_bias.clone());
        let mut reset = vec![0.0; hidden];
        let mut candidate = vec![0.0; of_reset.as_ref().map_or(0, Matrix::padded_columns)];
        for i in 0..count {
            let step = if self.is_reverse { count - 1 - i } else { i };
            gates.copy_from_slice(input_bias);
            of_input.multiply::<FUSED>(&self.window[step * inputs..][..inputs], &mut gates);
            of_last.copy_from_slice(state_bias);
            of_state.multiply::<FUSED>(self.state, &mut of_last);
            let (gates, of_last) = (&gates[..self.kind.gates() * hidden], &of_last[..]);
            match self.kind {
                Kind::Rnn { is_relu } => {
                    for ((h, x), r) in self.state.iter_mut().zip(gates).zip(of_last) {
                        *h = if is_relu {
                            (x + r).max(0.0)
                        } else {
                            tanh::<FUSED>(x + r)
                        };
                    }
                }
                Kind::Gru { .. } => {
                    let (update, rest) = gates.split_at(hidden);
                    let (x_reset, x_new) = rest.split_at(hidden);
                    for (j, reset) in reset.iter_mut().enumerate() {
                        *reset = sigmoid::<FUSED>(x_reset[j] + of_last[hidden + j]);
                    }
                    if let Some(matrix) = of_reset {
                        reset
                            .iter_mut()
                            .zip(self.state.iter())
                            .for_each(|(reset, h)| *reset *= h);
                        candidate.fill(0.0);
                        matrix.multiply::<FUSED>(&reset, &mut candidate);
                    } else {
                        candidate.clear();
                        candidate.extend(
                            reset
                                .iter()
                                .zip(&of_last[2 * hidden..])
                                .map(|(reset, r)| reset * r),
                        );
                    }
                    let (of_update, candidate) = (&of_last[..hidden], &candidate[..hidden]);
                    let state = &mut self.state[..hidden];
                    for j in 0..hidden {
                        let update = sigmoid::<FUSED>(update[j] + of_update[j]);
                        let new = tanh::<FUSED>(x_new[j] + candidate[j]);
                        state[j] = (1.0 - update) * new + update * state[j];
                    }
                }
                Kind::Lstm => {
                    let (input, rest) = gates.split_at(hidden);
                    let (output, rest) = rest.split_at(hidden);
                    let (forget, new) = rest.split_at(hidden);
                    let (of_input, rest) = of_last.split_at(hidden);
                    let (of_output, rest) = rest.split_at(hidden);
                    let (of_forget, of_new) = rest.split_at(hidden);
                    let (state, cell) = (&mut self.state[..hidden], &mut self.cell[..hidden]);
                    let of_new = &of_new[..hidden];
                    for j in 0..hidden {
                        let input = sigmoid::<FUSED>(input[j] + of_input[j]);
                        let output = sigmoid::<FUSED>(output[j] + of_output[j]);
                        let forget = sigmoid::<FUSED>(forget[j] + of_forget[j]);
                        let new = tanh::<FUSED>(new[j] + of_new[j]);
                        cell[j] = forget * cell[j] + input * new;
                        state[j] = output * tanh::<FUSED>(cell[j]);
                    }
                }
            }
            self.steps[step * hidden..][..hidden].copy_from_slice(self.state);
        }
    }
}
