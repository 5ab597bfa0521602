//! `Gemm` with fixed weights: a dense layer.
//!
//! The engine's is made for many rows at once: for the one row of a window, it packs and unpacks more than it computes. Those with
//! other than the usual settings stay the engine's.

use std::sync::Arc;

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::{NodeProto, TensorProto};
use tract_onnx::tract_hir::internal::*;

use super::attribute;
use super::kernel::{Folded, Form, Kernel, Operators, build, engines, floats, initializer};
use super::matrix::Matrix;
use super::wide::{self, Wide};

pub(super) fn register(operators: &mut Operators) {
    operators.insert("Gemm", |context, node| {
        if is_layer(context, node) {
            build(node, read)
        } else {
            engines(context, node)
        }
    });
}

/// Weights of the file, and a bias that is one row or none.
fn is_layer(context: &ParsingContext<'_>, node: &NodeProto) -> bool {
    let is = |name, usual| attribute::float(node, name, usual).is_ok_and(|value| value == usual);
    let given = |place: usize| node.input.get(place).filter(|name| !name.is_empty());
    let is_row = |tensor: &TensorProto| matches!(tensor.dims.as_slice(), [_] | [1, _]);
    is("alpha", 1.0)
        && is("beta", 1.0)
        && attribute::int(node, "transA", 0).is_ok_and(|value| value == 0)
        && given(1).is_some_and(|name| initializer(context, name).is_some())
        && given(2).is_none_or(|name| initializer(context, name).is_some_and(is_row))
}

/// Larger sizes would be refused anyway.
const SIZE_MAX: usize = 1 << 20;

#[derive(Debug, Clone)]
struct Dense {
    /// The file has the weights of one output after those of the other.
    is_transposed: bool,
    weights: Option<Weights>,
}

#[derive(Debug, Clone)]
struct Weights {
    matrix: Matrix,
    outputs: usize,
    /// As long as the matrix is wide.
    bias: Vec<f32>,
}

fn read(node: &NodeProto) -> Result<Arc<dyn Kernel>, String> {
    Ok(Arc::new(Dense {
        is_transposed: attribute::int(node, "transB", 0)? != 0,
        weights: None,
    }))
}

impl Dense {
    fn read_weights(&self, w: &Tensor, b: Option<&Tensor>) -> TractResult<Weights> {
        let [first, second] = *w.shape() else {
            bail!("weights without two axes");
        };
        let from = w.try_as_plain_ram()?;
        let from = from.as_slice::<f32>()?;
        let (inputs, outputs) = if self.is_transposed {
            (second, first)
        } else {
            (first, second)
        };
        let matrix = if self.is_transposed {
            Matrix::of_columns(inputs, from)
        } else {
            let columns = (0..outputs).flat_map(|column| from[column..].iter().step_by(outputs));
            Matrix::of_columns(inputs, &columns.copied().collect::<Vec<f32>>())
        };
        let mut bias = match b {
            Some(b) => b.try_as_plain_ram()?.as_slice::<f32>()?.to_vec(),
            None => vec![],
        };
        bias.resize(matrix.padded_columns(), 0.0);
        Ok(Weights {
            matrix,
            outputs,
            bias,
        })
    }
}

impl Kernel for Dense {
    fn name(&self) -> &'static str {
        "Gemm"
    }

    fn forms(&self, inputs: &[Form]) -> Result<Vec<Form>, String> {
        let shape = |place: usize| inputs.get(place).map(|form| form.shape.as_slice());
        let Some([rows, columns]) = shape(0) else {
            return Err(format!(
                "its input has the shape {:?}; expected rows and columns",
                shape(0)
            ));
        };
        if [*rows, *columns]
            .iter()
            .any(|size| !(1..=SIZE_MAX).contains(size))
        {
            return Err(format!("its input has the shape {:?}", shape(0)));
        }
        let outputs = match (&self.weights, shape(1)) {
            (Some(weights), _) => weights.outputs,
            (None, Some([of, outputs])) if !self.is_transposed && of == columns => *outputs,
            (None, Some([outputs, of])) if self.is_transposed && of == columns => *outputs,
            (None, w) => {
                return Err(format!(
                    "its weights have the shape {w:?}; its input has {columns} columns"
                ));
            }
        };
        match shape(2) {
            Some([len] | [1, len]) if *len != outputs => {
                Err(format!("its bias has {len} values; expected {outputs}"))
            }
            _ if outputs == 0 => Err("its weights are empty".to_owned()),
            _ => Ok(vec![Form::f32([*rows, outputs])]),
        }
    }

    fn run(&self, inputs: &[TValue]) -> TractResult<Vec<Tensor>> {
        let x = floats(inputs, 0)?;
        let [rows, columns] = *x.shape() else {
            bail!("an input without two axes");
        };
        let read;
        let weights = match &self.weights {
            Some(weights) => weights,
            None => {
                let bias = (inputs.len() > 2).then(|| floats(inputs, 2)).transpose()?;
                read = self.read_weights(&*floats(inputs, 1)?, bias.as_deref())?;
                &read
            }
        };
        let x = x.try_as_plain_ram()?;
        let mut all = Vec::with_capacity(rows * weights.outputs);
        let mut sums = weights.bias.clone();
        for row in x.as_slice::<f32>()?.chunks_exact(columns) {
            sums.copy_from_slice(&weights.bias);
            wide::run(Row {
                matrix: &weights.matrix,
                row,
                sums: &mut sums,
            });
            all.extend_from_slice(&sums[..weights.outputs]);
        }
        Ok(vec![Tensor::from_shape(&[rows, weights.outputs], &all)?])
    }

    fn fold(&self, constants: &[Option<Arc<Tensor>>]) -> Option<Folded> {
        if self.weights.is_some() {
            return None;
        }
        let single = |tensor: &Arc<Tensor>| tensor.cast_to::<f32>().map(Cow::into_owned).ok();
        let w = single(constants.get(1)?.as_ref()?)?;
        let b = match constants.get(2) {
            Some(b) => Some(single(b.as_ref()?)?),
            None => None,
        };
        Some(Folded {
            kernel: Arc::new(Self {
                weights: Some(self.read_weights(&w, b.as_ref()).ok()?),
                ..self.clone()
            }),
            inputs: vec![0],
        })
    }
}

/// One row.
struct Row<'a> {
    matrix: &'a Matrix,
    row: &'a [f32],
    sums: &'a mut [f32],
}

impl Wide for Row<'_> {
    #[inline(always)]
    fn go<const FUSED: bool>(self) {
        self.matrix.multiply::<FUSED>(self.row, self.sums);
    }
}
