//! `LabelEncoder`: a table from numbers to numbers.

use std::collections::HashMap;
use std::sync::Arc;

use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use crate::onnx::ops::attribute;
use crate::onnx::ops::kernel::{Form, Kernel};

/// Keys by their bits; -0 is 0, and all that is not a number is one key.
#[derive(Debug)]
struct Encoder {
    keys: Keys,
    values: Values,
}

#[derive(Debug)]
enum Keys {
    Ints(HashMap<i64, usize>),
    Floats(HashMap<u32, usize>),
}

#[derive(Debug)]
enum Values {
    Ints { values: Vec<i64>, default: i64 },
    Floats { values: Vec<f32>, default: f32 },
}

pub(super) fn read(node: &NodeProto) -> Result<Arc<dyn Kernel>, String> {
    attribute::refuse_tensors(node)?;
    for texts in ["keys_strings", "values_strings"] {
        if !attribute::texts(node, texts)?.is_empty() {
            return Err(format!(
                "{texts} are texts, which do not run here; train with numbers as labels"
            ));
        }
    }
    let ints = attribute::ints(node, "keys_int64s")?;
    let floats = attribute::floats(node, "keys_floats")?;
    let keys = match (ints.is_empty(), floats.is_empty()) {
        (false, true) => Keys::Ints(ints.iter().copied().zip(0..).collect()),
        (true, false) => Keys::Floats(floats.iter().copied().map(bits).zip(0..).collect()),
        _ => return Err("it needs either keys_int64s or keys_floats".to_owned()),
    };
    let len = ints.len().max(floats.len());
    let (ints, floats) = (
        attribute::ints(node, "values_int64s")?,
        attribute::floats(node, "values_floats")?,
    );
    let values = match (ints.is_empty(), floats.is_empty()) {
        (false, true) => Values::Ints {
            values: ints.to_vec(),
            default: attribute::int(node, "default_int64", -1)?,
        },
        (true, false) => Values::Floats {
            values: floats.to_vec(),
            default: attribute::float(node, "default_float", -0.0)?,
        },
        _ => return Err("it needs either values_int64s or values_floats".to_owned()),
    };
    attribute::expect_len("the list of values", ints.len().max(floats.len()), len)?;
    Ok(Arc::new(Encoder { keys, values }))
}

fn bits(key: f32) -> u32 {
    if key.is_nan() {
        f32::NAN.to_bits()
    } else {
        (key + 0.0).to_bits()
    }
}

impl Kernel for Encoder {
    fn name(&self) -> &'static str {
        "LabelEncoder"
    }

    fn forms(&self, inputs: &[Form]) -> Result<Vec<Form>, String> {
        let input = inputs.first().ok_or("it has no input")?;
        Ok(vec![match self.values {
            Values::Ints { .. } => Form::i64(input.shape.clone()),
            Values::Floats { .. } => Form::f32(input.shape.clone()),
        }])
    }

    fn run(&self, inputs: &[TValue]) -> TractResult<Vec<Tensor>> {
        let input = inputs.first().context("an input is missing")?;
        let places: Vec<Option<usize>> = match &self.keys {
            Keys::Ints(keys) => {
                let input = input.cast_to::<i64>()?;
                let input = input.to_plain_array_view::<i64>()?;
                input.iter().map(|key| keys.get(key).copied()).collect()
            }
            Keys::Floats(keys) => {
                let input = input.cast_to::<f32>()?;
                let input = input.to_plain_array_view::<f32>()?;
                input
                    .iter()
                    .map(|key| keys.get(&bits(*key)).copied())
                    .collect()
            }
        };
        Ok(vec![match &self.values {
            Values::Ints { values, default } => {
                Tensor::from_shape(input.shape(), &look_up(&places, values, *default))?
            }
            Values::Floats { values, default } => {
                Tensor::from_shape(input.shape(), &look_up(&places, values, *default))?
            }
        }])
    }
}

fn look_up<T: Copy>(places: &[Option<usize>], values: &[T], default: T) -> Vec<T> {
    let value = |place: &Option<usize>| place.and_then(|place| values.get(place).copied());
    places
        .iter()
        .map(|place| value(place).unwrap_or(default))
        .collect()
}
