//! `ZipMap`, which puts probabilities into a dictionary: here they stay the tensor that they were.

use std::sync::Arc;

use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use crate::onnx::ops::kernel::{Form, Kernel};

#[derive(Debug)]
struct Pass;

pub(super) fn read(_: &NodeProto) -> Result<Arc<dyn Kernel>, String> {
    Ok(Arc::new(Pass))
}

impl Kernel for Pass {
    fn name(&self) -> &'static str {
        "ZipMap"
    }

    fn forms(&self, inputs: &[Form]) -> Result<Vec<Form>, String> {
        match inputs {
            [input] => Ok(vec![input.clone()]),
            _ => Err(format!("it has {} inputs; expected 1", inputs.len())),
        }
    }

    fn run(&self, inputs: &[TValue]) -> TractResult<Vec<Tensor>> {
        let input = inputs.first().context("an input is missing")?;
        Ok(vec![input.clone().into_tensor()])
    }
}
