//! A layer as it stands in the file.

use std::sync::Arc;

use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::cell::{Kind, Run, Weights};
use crate::onnx::ops::attribute;
use crate::onnx::ops::kernel::{Folded, Form, Kernel, floats};
use crate::onnx::ops::wide;

/// The places of inputs in the standard.
const X: usize = 0;
const W: usize = 1;
const R: usize = 2;
const B: usize = 3;
const LENGTHS: usize = 4;
const STATE: usize = 5;
const CELL: usize = 6;

/// More than any layer for windows; products of sizes stay far from the largest number.
const SIZE_MAX: usize = 1 << 16;

#[derive(Debug)]
struct Layer {
    kind: Kind,
    /// Which directions there are, and whether each is reverse.
    directions: Vec<bool>,
    /// The batch is the first axis of all tensors, not the steps.
    is_batch_first: bool,
    /// Which of the operator's inputs each of the standard's places is.
    places: [Option<usize>; 7],
    /// Of each direction, where the file has constants.
    weights: Option<Vec<Weights>>,
    hidden: usize,
}

pub(super) fn read(node: &NodeProto) -> Result<Arc<dyn Kernel>, String> {
    let directions = match attribute::text(node, "direction", "forward")? {
        "forward" => vec![false],
        "reverse" => vec![true],
        "bidirectional" => vec![false, true],
        other => {
            return Err(format!(
                "direction is {other:?}; expected forward, reverse or bidirectional"
            ));
        }
    };
    let mut activations = attribute::texts(node, "activations")?;
    let usual: &[&str] = match node.op_type.as_str() {
        "LSTM" => &["Sigmoid", "Tanh", "Tanh"],
        "GRU" => &["Sigmoid", "Tanh"],
        _ => &["Tanh"],
    };
    let is_relu = node.op_type == "RNN"
        && !activations.is_empty()
        && activations.iter().all(|name| *name == "Relu");
    if is_relu {
        activations.clear();
    }
    let is_usual = activations
        .iter()
        .zip(usual.iter().cycle())
        .all(|(name, usual)| name == usual);
    if !is_usual || (!activations.is_empty() && activations.len() != usual.len() * directions.len())
    {
        return Err(format!(
            "activations are {activations:?}; expected {usual:?} for each direction"
        ));
    }
    if node.attribute.iter().any(|a| a.name == "clip")
        || attribute::int(node, "input_forget", 0)? != 0
    {
        return Err("clip or input_forget is set; expected neither".to_owned());
    }
    let kind = match node.op_type.as_str() {
        "LSTM" => Kind::Lstm,
        "GRU" => Kind::Gru {
            is_linear: attribute::int(node, "linear_before_reset", 0)? != 0,
        },
        _ => Kind::Rnn { is_relu },
    };
    let mut given = 0;
    let mut places = [None; 7];
    for (place, name) in node.input.iter().enumerate() {
        if name.is_empty() {
            continue;
        }
        *places.get_mut(place).ok_or(
            "it has peepholes; use a cell without them, as those of PyTorch and Keras are",
        )? = Some(given);
        given += 1;
    }
    let hidden = attribute::index("hidden_size", attribute::int(node, "hidden_size", 0)?)?;
    if !(1..=SIZE_MAX).contains(&hidden) {
        return Err(format!("hidden_size is {hidden}; expected 1 to {SIZE_MAX}"));
    }
    Ok(Arc::new(Layer {
        kind,
        directions,
        is_batch_first: attribute::int(node, "layout", 0)? != 0,
        places,
        weights: None,
        hidden,
    }))
}

impl Layer {
    fn form<'a>(&self, inputs: &'a [Form], place: usize) -> Option<&'a Form> {
        inputs.get(self.places[place]?)
    }

    fn expect(
        &self,
        inputs: &[Form],
        place: usize,
        name: &str,
        shape: &[usize],
    ) -> Result<(), String> {
        match self.form(inputs, place) {
            Some(form) if form.shape != shape => Err(format!(
                "{name} has the shape {:?}; expected {shape:?}",
                form.shape
            )),
            _ => Ok(()),
        }
    }

    /// Steps, batch and inputs of `X`.
    fn sizes(&self, x: &[usize]) -> Option<(usize, usize, usize)> {
        match x {
            [batch, steps, inputs] if self.is_batch_first => Some((*steps, *batch, *inputs)),
            [steps, batch, inputs] => Some((*steps, *batch, *inputs)),
            _ => None,
        }
    }

    /// The shape of what there is one of for each direction.
    fn state_shape(&self, batch: usize) -> Vec<usize> {
        if self.is_batch_first {
            vec![batch, self.directions.len(), self.hidden]
        } else {
            vec![self.directions.len(), batch, self.hidden]
        }
    }

    /// The weights of each direction, of the tensors at the places of the standard.
    fn read_weights<'a>(
        &self,
        tensor: impl Fn(usize) -> TractResult<Option<Cow<'a, Tensor>>>,
    ) -> TractResult<Vec<Weights>> {
        let (w, r) = (
            tensor(W)?.context("no weights")?,
            tensor(R)?.context("no weights")?,
        );
        let inputs = w.shape().last().copied().unwrap_or(1).max(1);
        let b = match tensor(B)? {
            Some(b) => b.try_as_plain_ram()?.as_slice::<f32>()?.to_vec(),
            None => vec![],
        };
        let (w, r) = (w.try_as_plain_ram()?, r.try_as_plain_ram()?);
        let (w, r) = (w.as_slice::<f32>()?, r.as_slice::<f32>()?);
        let rows = self.kind.gates() * self.hidden;
        let all = w
            .chunks_exact(rows * inputs)
            .zip(r.chunks_exact(rows * self.hidden));
        let weights = all.enumerate().map(|(direction, (w, r))| {
            let b = b.chunks_exact(2 * rows).nth(direction).unwrap_or(&[]);
            Weights::of(self.kind, self.hidden, inputs, w, r, b)
        });
        Ok(weights.collect())
    }

    /// What an input holds, or zeros.
    fn state(&self, inputs: &[TValue], place: usize, len: usize) -> TractResult<Vec<f32>> {
        match self.places[place] {
            Some(place) => Ok(floats(inputs, place)?
                .try_as_plain_ram()?
                .as_slice::<f32>()?
                .to_vec()),
            None => Ok(vec![0.0; len]),
        }
    }

    /// Lengths of their own would leave steps out; exporters write those of whole windows.
    fn check_lengths(&self, inputs: &[TValue], steps: usize) -> TractResult<()> {
        let Some(lengths) = self.places[LENGTHS].and_then(|place| inputs.get(place)) else {
            return Ok(());
        };
        let lengths = lengths.cast_to::<i64>()?;
        let lengths = lengths.try_as_plain_ram()?;
        ensure!(
            lengths
                .as_slice::<i64>()?
                .iter()
                .all(|len| *len == steps as i64),
            "sequence_lens of a recurrent layer is not the number of steps, {steps}"
        );
        Ok(())
    }
}

impl Kernel for Layer {
    fn name(&self) -> &'static str {
        match self.kind {
            Kind::Rnn { .. } => "RNN",
            Kind::Gru { .. } => "GRU",
            Kind::Lstm => "LSTM",
        }
    }

    fn forms(&self, inputs: &[Form]) -> Result<Vec<Form>, String> {
        let x = self.form(inputs, X).ok_or("it has no input")?;
        let (steps, batch, width) = self.sizes(&x.shape).ok_or("its input has not three axes")?;
        if [steps, batch, width]
            .iter()
            .any(|size| !(1..=SIZE_MAX).contains(size))
        {
            return Err(format!("its input has the shape {:?}", x.shape));
        }
        let (directions, hidden) = (self.directions.len(), self.hidden);
        let rows = self.kind.gates() * hidden;
        if self.weights.is_none() {
            for place in [W, R] {
                self.form(inputs, place).ok_or("it has no weights")?;
            }
        }
        self.expect(inputs, W, "W", &[directions, rows, width])?;
        self.expect(inputs, R, "R", &[directions, rows, hidden])?;
        self.expect(inputs, B, "B", &[directions, 2 * rows])?;
        self.expect(inputs, LENGTHS, "sequence_lens", &[batch])?;
        let state = self.state_shape(batch);
        self.expect(inputs, STATE, "initial_h", &state)?;
        self.expect(inputs, CELL, "initial_c", &state)?;
        let all = if self.is_batch_first {
            vec![batch, steps, directions, hidden]
        } else {
            vec![steps, directions, batch, hidden]
        };
        Ok(vec![
            Form::f32(all),
            Form::f32(state.clone()),
            Form::f32(state),
        ])
    }

    fn run(&self, inputs: &[TValue]) -> TractResult<Vec<Tensor>> {
        let x = floats(inputs, self.places[X].context("no input")?)?;
        let (steps, batch, width) = self
            .sizes(x.shape())
            .context("the input has not three axes")?;
        self.check_lengths(inputs, steps)?;
        let read;
        let weights = match &self.weights {
            Some(weights) => weights,
            None => {
                read = self.read_weights(|place| {
                    self.places[place].map(|at| floats(inputs, at)).transpose()
                })?;
                &read
            }
        };
        let (directions, hidden) = (self.directions.len(), self.hidden);
        let mut state = self.state(inputs, STATE, directions * batch * hidden)?;
        let mut cell = self.state(inputs, CELL, directions * batch * hidden)?;
        let mut all = vec![0.0; steps * directions * batch * hidden];
        let x = x.try_as_plain_ram()?;
        let x = x.as_slice::<f32>()?;
        let (mut window, mut left) = (vec![0.0; steps * width], vec![0.0; steps * hidden]);
        for of in 0..batch {
            for step in 0..steps {
                let at = if self.is_batch_first {
                    of * steps + step
                } else {
                    step * batch + of
                };
                window[step * width..][..width].copy_from_slice(&x[at * width..][..width]);
            }
            for (direction, (is_reverse, weights)) in
                self.directions.iter().zip(weights).enumerate()
            {
                let at = if self.is_batch_first {
                    of * directions + direction
                } else {
                    direction * batch + of
                };
                wide::run(Run {
                    kind: self.kind,
                    weights,
                    is_reverse: *is_reverse,
                    window: &window,
                    state: &mut state[at * hidden..][..hidden],
                    cell: &mut cell[at * hidden..][..hidden],
                    steps: &mut left,
                });
                for (step, left) in left.chunks_exact(hidden).enumerate() {
                    let at = if self.is_batch_first {
                        (of * steps + step) * directions + direction
                    } else {
                        (step * directions + direction) * batch + of
                    };
                    all[at * hidden..][..hidden].copy_from_slice(left);
                }
            }
        }
        let shape = self.state_shape(batch);
        let all_shape = if self.is_batch_first {
            [batch, steps, directions, hidden]
        } else {
            [steps, directions, batch, hidden]
        };
        Ok(vec![
            Tensor::from_shape(&all_shape, &all)?,
            Tensor::from_shape(&shape, &state)?,
            Tensor::from_shape(&shape, &cell)?,
        ])
    }

    fn fold(&self, constants: &[Option<Arc<Tensor>>]) -> Option<Folded> {
        if self.weights.is_some() {
            return None;
        }
        let constant =
            |place: usize| self.places[place].map(|at| constants.get(at).cloned().flatten());
        // A bias that is there, but not constant, is reason enough.
        if [W, R, B]
            .iter()
            .any(|place| matches!(constant(*place), Some(None)))
        {
            return None;
        }
        let tensor = |place: usize| {
            let tensor = constant(place).flatten();
            tensor
                .map(|tensor| Ok(Cow::Owned(tensor.cast_to::<f32>()?.into_owned())))
                .transpose()
        };
        let weights = self.read_weights(tensor).ok()?;
        let (mut places, mut inputs) = ([None; 7], Vec::new());
        for place in [X, LENGTHS, STATE, CELL] {
            if let Some(at) = self.places[place] {
                places[place] = Some(inputs.len());
                inputs.push(at);
            }
        }
        let layer = Self {
            kind: self.kind,
            directions: self.directions.clone(),
            is_batch_first: self.is_batch_first,
            places,
            weights: Some(weights),
            hidden: self.hidden,
        };
        Some(Folded {
            kernel: Arc::new(layer),
            inputs,
        })
    }
}
