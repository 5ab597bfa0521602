//! `ReduceMean` over fixed axes, which ends most models: the engine's takes as long as a layer.

use std::sync::Arc;

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::tract_hir::internal::*;

use super::attribute;
use super::kernel::{Form, Kernel, Operators, build_with, engines, initializer};

pub(super) fn register(operators: &mut Operators) {
    operators.insert("ReduceMean", |context, node| match axes_of(context, node) {
        Some(axes) => build_with(node, |node| {
            Ok(Arc::new(Mean {
                axes,
                keeps_axes: attribute::int(node, "keepdims", 1)? != 0,
            }))
        }),
        None => engines(context, node),
    });
}

/// The axes, where the file tells: as an attribute, or as an input in newer exports.
fn axes_of(context: &ParsingContext<'_>, node: &NodeProto) -> Option<Vec<i64>> {
    let axes = match node.input.get(1).filter(|name| !name.is_empty()) {
        Some(name) => {
            let tensor = initializer(context, name)?;
            let raw = tensor.raw_data.as_chunks::<8>().0.iter();
            let raw = raw.map(|bytes| i64::from_le_bytes(*bytes));
            let is_list = tensor.data_type == DataType::Int64 as i32;
            is_list.then(|| tensor.int64_data.iter().copied().chain(raw).collect())?
        }
        None => attribute::ints(node, "axes").ok()?.to_vec(),
    };
    // What no axes mean is a question of the version.
    (!axes.is_empty()).then_some(axes)
}

#[derive(Debug)]
struct Mean {
    axes: Vec<i64>,
    keeps_axes: bool,
}

impl Mean {
    /// Whether each axis of a shape is taken together.
    fn is_taken(&self, rank: usize) -> Result<Vec<bool>, String> {
        let mut is_taken = vec![false; rank];
        for axis in &self.axes {
            let place = if *axis < 0 {
                *axis + rank as i64
            } else {
                *axis
            };
            let place = usize::try_from(place)
                .ok()
                .and_then(|place| is_taken.get_mut(place));
            match place {
                Some(place) if !*place => *place = true,
                _ => {
                    return Err(format!("axes are {:?} of {rank} dimensions", self.axes));
                }
            }
        }
        Ok(is_taken)
    }

    fn shape(&self, shape: &[usize]) -> Result<Vec<usize>, String> {
        let axes = shape.iter().zip(self.is_taken(shape.len())?);
        Ok(axes
            .filter_map(|(len, is_taken)| match (is_taken, self.keeps_axes) {
                (false, _) => Some(*len),
                (true, true) => Some(1),
                (true, false) => None,
            })
            .collect())
    }
}

impl Kernel for Mean {
    fn name(&self) -> &'static str {
        "ReduceMean"
    }

    fn forms(&self, inputs: &[Form]) -> Result<Vec<Form>, String> {
        let input = inputs.first().ok_or("it has no input")?;
        if input.shape.contains(&0) {
            return Err(format!("its input has the shape {:?}", input.shape));
        }
        Ok(vec![Form {
            datum: input.datum,
            shape: self.shape(&input.shape)?,
        }])
    }

    fn run(&self, inputs: &[TValue]) -> TractResult<Vec<Tensor>> {
        let input = inputs.first().context("no input")?;
        let shape = self.shape(input.shape()).map_err(TractError::msg)?;
        let is_taken = self.is_taken(input.rank()).map_err(TractError::msg)?;
        let layout = Layout::of(input.shape(), &is_taken);
        if input.datum_type() == DatumType::F32 {
            let plain = input.try_as_plain_ram()?;
            let mut sums = vec![0.0_f32; layout.outputs()];
            layout.sum(plain.as_slice::<f32>()?, &mut sums);
            let count = layout.count() as f32;
            sums.iter_mut().for_each(|sum| *sum /= count);
            return Ok(vec![Tensor::from_shape(&shape, &sums)?]);
        }
        let cast = input.cast_to::<f64>()?;
        let plain = cast.try_as_plain_ram()?;
        let mut sums = vec![0.0_f64; layout.outputs()];
        layout.sum(plain.as_slice::<f64>()?, &mut sums);
        let count = layout.count() as f64;
        sums.iter_mut().for_each(|sum| *sum /= count);
        let means = Tensor::from_shape(&shape, &sums)?;
        Ok(vec![means.cast_to_dt(input.datum_type())?.into_owned()])
    }
}

/// A tensor's axes, those side by side as one that have the same fate.
struct Layout {
    /// Length, and whether it is taken together.
    axes: TVec<(usize, bool)>,
}

impl Layout {
    fn of(shape: &[usize], is_taken: &[bool]) -> Self {
        let mut axes: TVec<(usize, bool)> = tvec!();
        for (len, is_taken) in shape.iter().zip(is_taken) {
            match axes.last_mut() {
                Some((before, same)) if same == is_taken => *before *= len,
                _ => axes.push((*len, *is_taken)),
            }
        }
        Self { axes }
    }

    fn product(&self, is_taken: bool) -> usize {
        let of = self.axes.iter().filter(|axis| axis.1 == is_taken);
        of.map(|axis| axis.0).product()
    }

    fn outputs(&self) -> usize {
        self.product(false)
    }

    fn count(&self) -> usize {
        self.product(true)
    }

    fn sum<T: Copy + Default + std::ops::AddAssign>(&self, values: &[T], sums: &mut [T]) {
        add(&self.axes, values, sums);
    }
}

/// Adds what is taken together; where the first axis is, all its parts go to the same sums.
fn add<T: Copy + Default + std::ops::AddAssign>(
    axes: &[(usize, bool)],
    values: &[T],
    sums: &mut [T],
) {
    match axes {
        [] | [(_, false)] => {
            for (sum, value) in sums.iter_mut().zip(values) {
                *sum += *value;
            }
        }
        [(_, true)] => {
            // Several sums side by side, so that one need not wait for the other.
            let mut lanes = [T::default(); 16];
            let (chunks, rest) = values.as_chunks::<16>();
            for chunk in chunks {
                for (lane, value) in lanes.iter_mut().zip(chunk) {
                    *lane += *value;
                }
            }
            let mut sum = T::default();
            lanes.iter().chain(rest).for_each(|value| sum += *value);
            sums.iter_mut().take(1).for_each(|it| *it += sum);
        }
        [(len, is_taken), rest @ ..] => {
            let len = (*len).max(1);
            let parts = values.chunks_exact((values.len() / len).max(1));
            if *is_taken {
                parts.for_each(|part| add(rest, part, sums));
            } else {
                let sums = sums.chunks_exact_mut((sums.len() / len).max(1));
                parts
                    .zip(sums)
                    .for_each(|(part, sums)| add(rest, part, sums));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_any_axes_together() {
        let shape = [2, 3, 4, 5];
        let values: Vec<f64> = (0..120).map(|i| f64::from(i % 17) - 3.0).collect();
        let input = Tensor::from_shape(&shape, &values).unwrap().into_tvalue();
        for mask in 1..16_usize {
            let axes: Vec<i64> = (0..4).filter(|axis| mask >> axis & 1 == 1).collect();
            let mean = Mean {
                axes: axes
                    .iter()
                    .map(|axis| if axis % 2 == 0 { *axis } else { axis - 4 })
                    .collect(),
                keeps_axes: mask % 3 == 0,
            };
            for datum in [DatumType::F32, DatumType::F64] {
                let input = input.cast_to_dt(datum).unwrap().into_owned().into_tvalue();
                let got = mean.run(&[input]).unwrap().remove(0);
                let form = Form {
                    datum,
                    shape: shape.to_vec(),
                };
                assert_eq!(got.shape(), mean.forms(&[form]).unwrap()[0].shape);
                let got = got.cast_to::<f64>().unwrap().into_owned();
                let got = got.try_as_plain_ram().unwrap();
                // Plainly: each value to its place.
                let mut sums = vec![0.0; got.as_slice::<f64>().unwrap().len()];
                for (at, value) in values.iter().enumerate() {
                    let (mut rest, mut place, mut step) = (at, 0, 1);
                    for axis in (0..4).rev() {
                        let index = rest % shape[axis];
                        rest /= shape[axis];
                        if mask >> axis & 1 == 0 {
                            place += index * step;
                            step *= shape[axis];
                        }
                    }
                    sums[place] += value;
                }
                let count = (120 / sums.len()) as f64;
                for (got, sum) in got.as_slice::<f64>().unwrap().iter().zip(&sums) {
                    assert!((got - sum / count).abs() < 1e-5, "{axes:?}");
                }
            }
        }
    }

    #[test]
    fn axes_that_are_not_there_are_refused() {
        for axes in [vec![3], vec![-4], vec![0, 0], vec![0, -3]] {
            let mean = Mean {
                axes,
                keeps_axes: true,
            };
            assert!(mean.forms(&[Form::f32([2, 3, 4])]).is_err());
        }
    }
}
