//! Operators that treat each column, or each row, on its own.

use std::sync::Arc;

use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use crate::onnx::ops::attribute;
use crate::onnx::ops::kernel::{Form, Kernel, floats};

#[derive(Debug)]
enum Columns {
    /// `(x - offset) * scale`.
    Scaler { offset: Vec<f32>, scale: Vec<f32> },
    /// What equals `replaced`, or is not a number if that is not, becomes the column's value.
    Imputer { replaced: f32, values: Vec<f32> },
    /// 1 above the threshold, else 0.
    Binarizer { threshold: f32 },
    /// Each row divided by its norm.
    Normalizer(Norm),
}

#[derive(Debug, Clone, Copy)]
enum Norm {
    Max,
    L1,
    L2,
}

pub(super) fn scaler(node: &NodeProto) -> Result<Arc<dyn Kernel>, String> {
    let list = |name, default| {
        let list = attribute::floats(node, name)?;
        Ok::<_, String>(if list.is_empty() {
            vec![default]
        } else {
            list.to_vec()
        })
    };
    Ok(Arc::new(Columns::Scaler {
        offset: list("offset", 0.0)?,
        scale: list("scale", 1.0)?,
    }))
}

pub(super) fn imputer(node: &NodeProto) -> Result<Arc<dyn Kernel>, String> {
    let values = attribute::floats(node, "imputed_value_floats")?.to_vec();
    if values.is_empty() {
        return Err(
            "imputed_value_floats is missing; expected one value, or one for each column"
                .to_owned(),
        );
    }
    Ok(Arc::new(Columns::Imputer {
        replaced: attribute::float(node, "replaced_value_float", f32::NAN)?,
        values,
    }))
}

pub(super) fn binarizer(node: &NodeProto) -> Result<Arc<dyn Kernel>, String> {
    let threshold = attribute::float(node, "threshold", 0.0)?;
    Ok(Arc::new(Columns::Binarizer { threshold }))
}

pub(super) fn normalizer(node: &NodeProto) -> Result<Arc<dyn Kernel>, String> {
    let norm = match attribute::text(node, "norm", "MAX")? {
        "MAX" => Norm::Max,
        "L1" => Norm::L1,
        "L2" => Norm::L2,
        other => return Err(format!("norm is {other:?}; expected MAX, L1 or L2")),
    };
    Ok(Arc::new(Columns::Normalizer(norm)))
}

impl Columns {
    fn row(&self, row: &mut [f32]) {
        // One value stands for all columns.
        let of = |values: &[f32], column: usize| values[if values.len() == 1 { 0 } else { column }];
        for (column, x) in row.iter_mut().enumerate() {
            *x = match self {
                Self::Scaler { offset, scale } => (*x - of(offset, column)) * of(scale, column),
                Self::Imputer { replaced, values } => {
                    if *x == *replaced || (x.is_nan() && replaced.is_nan()) {
                        of(values, column)
                    } else {
                        *x
                    }
                }
                Self::Binarizer { threshold } => f32::from(u8::from(*x > *threshold)),
                Self::Normalizer(_) => *x,
            };
        }
        if let Self::Normalizer(norm) = self {
            let by = match norm {
                Norm::Max => row.iter().copied().fold(f32::NEG_INFINITY, f32::max),
                Norm::L1 => row.iter().map(|x| x.abs()).sum(),
                Norm::L2 => row.iter().map(|x| x * x).sum::<f32>().sqrt(),
            };
            if by != 0.0 {
                row.iter_mut().for_each(|x| *x /= by);
            }
        }
    }
}

impl Kernel for Columns {
    fn name(&self) -> &'static str {
        match self {
            Self::Scaler { .. } => "Scaler",
            Self::Imputer { .. } => "Imputer",
            Self::Binarizer { .. } => "Binarizer",
            Self::Normalizer(_) => "Normalizer",
        }
    }

    fn forms(&self, inputs: &[Form]) -> Result<Vec<Form>, String> {
        let input = inputs.first().ok_or("it has no input")?;
        let columns = input.shape.last().copied().unwrap_or(1);
        let check = |name: &str, values: &[f32]| match values.len() {
            1 => Ok(()),
            len => attribute::expect_len(name, len, columns),
        };
        match self {
            Self::Scaler { offset, scale } => {
                check("offset", offset)?;
                check("scale", scale)?;
            }
            Self::Imputer { values, .. } => check("imputed_value_floats", values)?,
            Self::Binarizer { .. } | Self::Normalizer(_) => {}
        }
        Ok(vec![Form::f32(input.shape.clone())])
    }

    fn run(&self, inputs: &[TValue]) -> TractResult<Vec<Tensor>> {
        let mut output = floats(inputs, 0)?.into_owned();
        let columns = output.shape().last().copied().unwrap_or(1).max(1);
        let mut values = output.try_as_plain_ram_mut()?;
        for row in values.as_slice_mut::<f32>()?.chunks_exact_mut(columns) {
            self.row(row);
        }
        Ok(vec![output])
    }
}
