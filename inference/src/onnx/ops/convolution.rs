//! Convolutions along one axis, and what goes the other way.
//!
//! The engine's are made for pictures: for the few channels of a window, its own take several times as long as onnxruntime. Those
//! over more axes, or in groups, stay the engine's.

use std::sync::Arc;

use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::attribute;
use super::kernel::{Folded, Form, Kernel, Operators, build, engines, floats};
use super::matrix::add_product;
use super::wide::{self, Wide};

pub(super) fn register(operators: &mut Operators) {
    for name in ["Conv", "ConvTranspose"] {
        operators.insert(name, |context, node| {
            if is_plain(node) {
                build(node, read)
            } else {
                engines(context, node)
            }
        });
    }
}

fn is_plain(node: &NodeProto) -> bool {
    let kernel = attribute::ints(node, "kernel_shape").unwrap_or_default();
    kernel.len() == 1
        && attribute::text(node, "auto_pad", "NOTSET").is_ok_and(|pad| pad == "NOTSET")
        && attribute::int(node, "group", 1).is_ok_and(|group| group == 1)
        && attribute::ints(node, "output_shape").is_ok_and(|shape| shape.is_empty())
}

/// Larger sizes would be refused anyway.
const SIZE_MAX: usize = 1 << 16;

#[derive(Debug, Clone)]
struct Convolution {
    is_transpose: bool,
    taps: usize,
    stride: usize,
    dilation: usize,
    /// In front and behind.
    pads: [usize; 2],
    output_padding: usize,
    weights: Option<Weights>,
}

#[derive(Debug, Clone)]
struct Weights {
    bias: Vec<f32>,
    /// For each output, phase, channel and tap of the phase, in this order.
    values: Vec<f32>,
}

/// Steps that are computed together: they stay in registers.
const BLOCK: usize = 32;

fn read(node: &NodeProto) -> Result<Arc<dyn Kernel>, String> {
    let one = |name: &str, default: usize| match attribute::ints(node, name)? {
        [] => Ok(default),
        [value] => match usize::try_from(*value) {
            Ok(value) if value <= SIZE_MAX => Ok(value),
            _ => Err(format!("{name} is {value}; expected 0 to {SIZE_MAX}")),
        },
        values => Err(format!("{name} has {} values; expected 1", values.len())),
    };
    let pads = match attribute::ints(node, "pads")? {
        [] => [0, 0],
        [begin, end]
            if [begin, end]
                .iter()
                .all(|pad| (0..=SIZE_MAX as i64).contains(*pad)) =>
        {
            [*begin as usize, *end as usize]
        }
        pads => return Err(format!("pads are {pads:?}; expected two numbers from 0")),
    };
    let convolution = Convolution {
        is_transpose: node.op_type == "ConvTranspose",
        taps: one("kernel_shape", 0)?,
        stride: one("strides", 1)?,
        dilation: one("dilations", 1)?,
        pads,
        output_padding: one("output_padding", 0)?,
        weights: None,
    };
    if [convolution.taps, convolution.stride, convolution.dilation].contains(&0) {
        return Err("kernel_shape, strides or dilations is 0".to_owned());
    }
    Ok(Arc::new(convolution))
}

impl Convolution {
    /// How many steps come out of so many.
    fn steps(&self, steps: usize) -> Option<usize> {
        let reach = (self.taps - 1) * self.dilation + 1;
        let padded = self.pads[0] + self.pads[1];
        if self.is_transpose {
            (self.stride * steps.checked_sub(1)? + self.output_padding + reach).checked_sub(padded)
        } else {
            Some((steps + padded).checked_sub(reach)? / self.stride + 1)
        }
    }

    /// Which taps each phase of the output has: steps that are a stride apart have the same, so that their inputs stand side by side.
    fn phases(&self) -> Vec<Vec<usize>> {
        if !self.is_transpose {
            return vec![(0..self.taps).collect()];
        }
        let of = |phase| {
            (0..self.taps)
                .filter(|tap| tap * self.dilation % self.stride == phase)
                .collect()
        };
        (0..self.stride).map(of).collect()
    }

    fn read_weights(&self, w: &Tensor, b: Option<&Tensor>) -> TractResult<Weights> {
        let [first, second, taps] = *w.shape() else {
            bail!("weights without three axes");
        };
        let from = w.try_as_plain_ram()?;
        let from = from.as_slice::<f32>()?;
        let (outputs, channels) = if self.is_transpose {
            (second, first)
        } else {
            (first, second)
        };
        let phases = self.phases();
        let mut values = Vec::with_capacity(from.len());
        for output in 0..outputs {
            for phase in &phases {
                for channel in 0..channels {
                    let at = if self.is_transpose {
                        channel * outputs + output
                    } else {
                        output * channels + channel
                    };
                    values.extend(phase.iter().map(|tap| from[at * taps + tap]));
                }
            }
        }
        let bias = match b {
            Some(b) => b.try_as_plain_ram()?.as_slice::<f32>()?.to_vec(),
            None => vec![0.0; outputs],
        };
        Ok(Weights { bias, values })
    }
}

impl Kernel for Convolution {
    fn name(&self) -> &'static str {
        if self.is_transpose {
            "ConvTranspose"
        } else {
            "Conv"
        }
    }

    fn forms(&self, inputs: &[Form]) -> Result<Vec<Form>, String> {
        let x = inputs.first().map(|form| form.shape.as_slice());
        let Some([batch, channels, steps]) = x else {
            return Err(format!(
                "its input has the shape {x:?}; expected batch, channels and steps"
            ));
        };
        if [*batch, *channels, *steps]
            .iter()
            .any(|size| !(1..=SIZE_MAX).contains(size))
        {
            return Err(format!("its input has the shape {x:?}"));
        }
        let outputs = match &self.weights {
            Some(weights) => weights.bias.len(),
            None => {
                let w = inputs.get(1).map(|form| form.shape.as_slice());
                let fits = |of: usize, taps: usize| of == *channels && taps == self.taps;
                let outputs = match w {
                    Some([of, outputs, taps]) if self.is_transpose && fits(*of, *taps) => *outputs,
                    Some([outputs, of, taps]) if !self.is_transpose && fits(*of, *taps) => *outputs,
                    _ => {
                        return Err(format!(
                            "its weights have the shape {w:?}; expected {channels} channels and {} taps",
                            self.taps
                        ));
                    }
                };
                match inputs.get(2) {
                    Some(b) if b.shape != [outputs] => {
                        return Err(format!(
                            "its bias has the shape {:?}; expected [{outputs}]",
                            b.shape
                        ));
                    }
                    _ => outputs,
                }
            }
        };
        let steps = self.steps(*steps).filter(|steps| *steps > 0);
        let steps = steps.ok_or("its input is shorter than its kernel")?;
        Ok(vec![Form::f32([*batch, outputs, steps])])
    }

    fn run(&self, inputs: &[TValue]) -> TractResult<Vec<Tensor>> {
        let x = floats(inputs, 0)?;
        let [batch, channels, steps] = *x.shape() else {
            bail!("an input without three axes");
        };
        let read;
        let weights = match &self.weights {
            Some(weights) => weights,
            None => {
                let bias = if inputs.len() > 2 {
                    Some(floats(inputs, 2)?)
                } else {
                    None
                };
                read = self.read_weights(&*floats(inputs, 1)?, bias.as_deref())?;
                &read
            }
        };
        let outputs = weights.bias.len();
        let steps_out = self
            .steps(steps)
            .context("an input shorter than the kernel")?;
        let mut all = vec![0.0; batch * outputs * steps_out];
        let x = x.try_as_plain_ram()?;
        let windows = x.as_slice::<f32>()?.chunks_exact(channels * steps);
        for (window, output) in windows.zip(all.chunks_exact_mut(outputs * steps_out)) {
            wide::run(Run {
                of: self,
                weights,
                channels,
                window,
                output,
            });
        }
        Ok(vec![Tensor::from_shape(
            &[batch, outputs, steps_out],
            &all,
        )?])
    }

    fn fold(&self, constants: &[Option<Arc<Tensor>>]) -> Option<Folded> {
        if self.weights.is_some() {
            return None;
        }
        let w = constants.get(1)?.as_deref()?;
        let b = match constants.get(2) {
            Some(b) => Some(b.as_deref()?),
            None => None,
        };
        Some(Folded {
            kernel: Arc::new(Self {
                weights: Some(self.read_weights(w, b).ok()?),
                ..self.clone()
            }),
            inputs: vec![0],
        })
    }
}

/// One window.
struct Run<'a> {
    of: &'a Convolution,
    weights: &'a Weights,
    channels: usize,
    /// Channels times steps.
    window: &'a [f32],
    /// Outputs times steps.
    output: &'a mut [f32],
}

impl Wide for Run<'_> {
    #[inline(always)]
    fn go<const FUSED: bool>(self) {
        let Convolution {
            is_transpose,
            taps,
            stride,
            dilation,
            pads: [front, _],
            ..
        } = *self.of;
        let Weights { bias, values } = self.weights;
        let steps = self.window.len() / self.channels;
        let steps_out = self.output.len() / bias.len();
        let phases = self.of.phases();
        // How far the last tap reaches, in strides.
        let reach = (taps - 1) * dilation / stride;
        let count = if is_transpose {
            (steps_out + front).div_ceil(stride)
        } else {
            steps_out
        };
        let padded = count.next_multiple_of(BLOCK);
        // The inputs with zeros around; those of a convolution parted by what is left of their place over the stride.
        let len = (padded + reach + 1)
            .max(reach + (front + steps).div_ceil(stride) + 1)
            .max(reach + steps);
        let parts = if is_transpose { 1 } else { stride };
        let mut source = vec![0.0; self.channels * parts * len];
        for (row, source) in self
            .window
            .chunks_exact(steps)
            .zip(source.chunks_exact_mut(parts * len))
        {
            if is_transpose {
                source[reach..][..steps].copy_from_slice(row);
            } else {
                for (step, value) in row.iter().enumerate() {
                    let at = front + step;
                    source[at % stride * len + at / stride] = *value;
                }
            }
        }
        let place = |channel: usize, tap: usize| {
            let at = tap * dilation;
            if is_transpose {
                channel * len + reach - at / stride
            } else {
                (channel * stride + at % stride) * len + at / stride
            }
        };
        let places: Vec<Vec<usize>> = phases
            .iter()
            .map(|taps| {
                let channels = 0..self.channels;
                channels
                    .flat_map(|channel| taps.iter().map(move |tap| (channel, *tap)))
                    .map(|(channel, tap)| place(channel, tap))
                    .collect()
            })
            .collect();
        let mut sums = vec![0.0; padded];
        let mut values = values.as_slice();
        for (bias, output) in bias.iter().zip(self.output.chunks_exact_mut(steps_out)) {
            for (phase, places) in places.iter().enumerate() {
                let (weights, rest) = values.split_at(places.len());
                values = rest;
                add_rows::<FUSED>(*bias, weights, places, &source, &mut sums);
                if is_transpose {
                    for (at, sum) in sums.iter().take(count).enumerate() {
                        let at = (at * stride + phase).checked_sub(front);
                        if let Some(output) = at.and_then(|at| output.get_mut(at)) {
                            *output = *sum;
                        }
                    }
                } else {
                    output.copy_from_slice(&sums[..steps_out]);
                }
            }
        }
    }
}

/// The sum of rows of the source that begin at these places, each by its weight.
#[inline(always)]
fn add_rows<const FUSED: bool>(
    bias: f32,
    weights: &[f32],
    places: &[usize],
    source: &[f32],
    sums: &mut [f32],
) {
    for (block, sums) in sums.as_chunks_mut::<BLOCK>().0.iter_mut().enumerate() {
        let (mut even, mut odd) = ([bias; BLOCK], [0.0; BLOCK]);
        let row = |place: usize| source[place + block * BLOCK..].first_chunk::<BLOCK>();
        let (weight_pairs, weight_last) = weights.as_chunks::<2>();
        let (place_pairs, place_last) = places.as_chunks::<2>();
        for ([w, v], [here, there]) in weight_pairs.iter().zip(place_pairs) {
            if let (Some(here), Some(there)) = (row(*here), row(*there)) {
                for i in 0..BLOCK {
                    even[i] = add_product::<FUSED>(even[i], *w, here[i]);
                }
                for i in 0..BLOCK {
                    odd[i] = add_product::<FUSED>(odd[i], *v, there[i]);
                }
            }
        }
        for (w, here) in weight_last.iter().zip(place_last) {
            if let Some(here) = row(*here) {
                for i in 0..BLOCK {
                    even[i] = add_product::<FUSED>(even[i], *w, here[i]);
                }
            }
        }
        for i in 0..BLOCK {
            sums[i] = even[i] + odd[i];
        }
    }
}
