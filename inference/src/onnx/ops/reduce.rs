//! `ReduceLogSumExp`, which the engine computes without taking out the largest, so that it overflows.

use std::sync::Arc;

use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::attribute;
use super::kernel::{Form, Kernel, Operators, floats, register};

pub(super) fn register(operators: &mut Operators) {
    register!(operators, "ReduceLogSumExp" => read);
}

/// Over the last axis, which is where mixtures have their components.
#[derive(Debug)]
struct LogSumExp {
    axis: i64,
    keeps_axis: bool,
}

fn read(node: &NodeProto) -> Result<Arc<dyn Kernel>, String> {
    if node.input.len() > 1 {
        return Err("its axes are an input; export with opset 17".to_owned());
    }
    let [axis] = attribute::ints(node, "axes")? else {
        return Err("it has no or several axes; expected the last one".to_owned());
    };
    Ok(Arc::new(LogSumExp {
        axis: *axis,
        keeps_axis: attribute::int(node, "keepdims", 1)? != 0,
    }))
}

impl Kernel for LogSumExp {
    fn name(&self) -> &'static str {
        "ReduceLogSumExp"
    }

    fn forms(&self, inputs: &[Form]) -> Result<Vec<Form>, String> {
        let mut shape = inputs.first().ok_or("it has no input")?.shape.clone();
        let last = shape.len() as i64 - 1;
        if shape.last().is_none_or(|len| *len == 0) || (self.axis != -1 && self.axis != last) {
            return Err(format!(
                "axes is {} of the shape {shape:?}; expected the last one",
                self.axis
            ));
        }
        shape.pop();
        if self.keeps_axis {
            shape.push(1);
        }
        Ok(vec![Form::f32(shape)])
    }

    fn run(&self, inputs: &[TValue]) -> TractResult<Vec<Tensor>> {
        let input = floats(inputs, 0)?;
        let mut shape = input.shape().to_vec();
        let columns = shape.pop().unwrap_or(1).max(1);
        if self.keeps_axis {
            shape.push(1);
        }
        let input = input.try_as_plain_ram()?;
        let rows = input.as_slice::<f32>()?.chunks_exact(columns);
        let sums: Vec<f32> = rows
            .map(|row| {
                let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                if max.is_infinite() {
                    return max;
                }
                let sum: f64 = row.iter().map(|x| f64::from(x - max).exp()).sum();
                (f64::from(max) + sum.ln()) as f32
            })
            .collect();
        Ok(vec![Tensor::from_shape(&shape, &sums)?])
    }
}
