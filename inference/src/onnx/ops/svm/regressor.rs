//! `SVMRegressor`, which is a one-class machine too.

use std::sync::Arc;

use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::machine::Machine;
use crate::onnx::ops::attribute;
use crate::onnx::ops::kernel::{Form, Kernel, floats, rows_and_columns};

#[derive(Debug)]
struct Regressor {
    machine: Machine,
    /// One for each vector; a linear model without vectors has its coefficients for the only one.
    weights: Vec<f32>,
    rho: f32,
    /// 1 or -1 instead of the sum.
    is_one_class: bool,
}

pub(super) fn read(node: &NodeProto) -> Result<Arc<dyn Kernel>, String> {
    let coefficients = attribute::floats(node, "coefficients")?;
    let supports = attribute::index("n_supports", attribute::int(node, "n_supports", 0)?)?;
    let [rho] = attribute::floats(node, "rho")? else {
        return Err("rho has no or several values; expected one".to_owned());
    };
    if attribute::text(node, "post_transform", "NONE")? != "NONE" {
        return Err("post_transform is not NONE".to_owned());
    }
    let (machine, weights) = if supports > 0 {
        attribute::expect_len("coefficients", coefficients.len(), supports)?;
        (
            Machine::read(node, "support_vectors", supports)?,
            coefficients.to_vec(),
        )
    } else {
        (Machine::read(node, "coefficients", 1)?, vec![1.0])
    };
    Ok(Arc::new(Regressor {
        machine,
        weights,
        rho: *rho,
        is_one_class: attribute::int(node, "one_class", 0)? != 0,
    }))
}

impl Kernel for Regressor {
    fn name(&self) -> &'static str {
        "SVMRegressor"
    }

    fn forms(&self, inputs: &[Form]) -> Result<Vec<Form>, String> {
        let (rows, columns) = rows_and_columns(inputs.first())?;
        attribute::expect_len("each support vector", self.machine.features, columns)?;
        Ok(vec![Form::f32([rows, 1])])
    }

    fn run(&self, inputs: &[TValue]) -> TractResult<Vec<Tensor>> {
        let input = floats(inputs, 0)?;
        let input = input.try_as_plain_ram()?;
        let mut scores = Vec::new();
        for row in input.as_slice::<f32>()?.chunks_exact(self.machine.features) {
            let near = self.machine.similarities(row);
            let sum: f64 = near
                .zip(&self.weights)
                .map(|(near, weight)| near * f64::from(*weight))
                .sum();
            let score = (sum + f64::from(self.rho)) as f32;
            scores.push(match self.is_one_class {
                true if score > 0.0 => 1.0,
                true => -1.0,
                false => score,
            });
        }
        Ok(vec![Tensor::from_shape(&[scores.len(), 1], &scores)?])
    }
}
