//! `ArrayFeatureExtractor`: some columns, in the order of a list.

use std::sync::Arc;

use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use crate::onnx::ops::kernel::{Form, Kernel};

#[derive(Debug)]
struct Extract;

pub(super) fn read(_: &NodeProto) -> Result<Arc<dyn Kernel>, String> {
    Ok(Arc::new(Extract))
}

impl Kernel for Extract {
    fn name(&self) -> &'static str {
        "ArrayFeatureExtractor"
    }

    fn forms(&self, inputs: &[Form]) -> Result<Vec<Form>, String> {
        let [input, list] = inputs else {
            return Err(format!("it has {} inputs; expected 2", inputs.len()));
        };
        if ![DatumType::F32, DatumType::I64].contains(&input.datum) || list.datum != DatumType::I64
        {
            return Err(format!(
                "it takes {:?} from {:?}; expected float or int64, and a list of int64",
                list.datum, input.datum
            ));
        }
        let mut shape = input.shape.clone();
        if shape.len() < 2 {
            shape = vec![1, shape.iter().product()];
        }
        if let Some(columns) = shape.last_mut() {
            *columns = list.shape.iter().product();
        }
        Ok(vec![Form {
            datum: input.datum,
            shape,
        }])
    }

    fn run(&self, inputs: &[TValue]) -> TractResult<Vec<Tensor>> {
        let [input, list] = inputs else {
            bail!("an input is missing");
        };
        let list = list.to_plain_array_view::<i64>()?;
        let columns = input.shape().last().copied().unwrap_or(1);
        let list: Option<Vec<usize>> = list
            .iter()
            .map(|place| {
                usize::try_from(*place)
                    .ok()
                    .filter(|place| *place < columns)
            })
            .collect();
        let list = list.with_context(|| {
            format!("ArrayFeatureExtractor asks for a column beyond the {columns} of its input")
        })?;
        let mut shape = input.shape().to_vec();
        shape.pop();
        if shape.is_empty() {
            shape.push(1);
        }
        shape.push(list.len());
        Ok(vec![match input.datum_type() {
            DatumType::I64 => Tensor::from_shape(
                &shape,
                &choose(input.try_as_plain_ram()?.as_slice::<i64>()?, columns, &list),
            )?,
            _ => Tensor::from_shape(
                &shape,
                &choose(input.try_as_plain_ram()?.as_slice::<f32>()?, columns, &list),
            )?,
        }])
    }
}

fn choose<T: Copy>(values: &[T], columns: usize, list: &[usize]) -> Vec<T> {
    let rows = values.chunks_exact(columns.max(1));
    rows.flat_map(|row| list.iter().map(|place| row[*place]))
        .collect()
}
