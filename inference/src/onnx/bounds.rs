//! How large a graph's tensors may become.
//!
//! A damaged file can ask for tensors of any size, and a program whose memory is refused ends. So sizes that the file tells are
//! looked at before the engine sees them, those that the graph computes while the engine works them out ([`super::guard`]), and all
//! others once it has, before anything runs. What has no size until it runs is refused.

use std::collections::HashMap;

use tract_onnx::pb;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::prelude::*;
use tract_onnx::tract_core::ops::logic::IfThenElse;
use tract_onnx::tract_core::ops::scan::Scan;

use super::error::BuildError;

/// Elements of one tensor: far above what a window needs, 64 MiB in single precision.
pub(super) const ELEMENTS_MAX: u64 = 1 << 24;

/// Elements of all tensors of a graph together.
const ALL_ELEMENTS_MAX: u64 = 1 << 26;

/// Paddings, kernels, strides and their like.
const STEP_MAX: u64 = 1 << 16;

/// Operators whose inputs from the second on (of `ConstantOfShape` and `Range`, from the first) say how large the output is.
const GROWING: [&str; 9] = [
    "ConstantOfShape",
    "Expand",
    "OneHot",
    "Pad",
    "Range",
    "Reshape",
    "Resize",
    "Tile",
    "Upsample",
];

/// Attributes that lengths come from.
const STEPS: [&str; 9] = [
    "dilations",
    "group",
    "hidden_size",
    "kernel_shape",
    "output_padding",
    "output_shape",
    "pads",
    "repeats",
    "strides",
];

/// What the file tells.
pub(super) fn check_file(graph: &pb::GraphProto) -> Result<(), BuildError> {
    check_graph(graph, &mut HashMap::new(), 0)
}

/// Graphs within graphs that are deeper have been refused.
const DEPTH_MAX: usize = 16;

fn check_graph<'a>(
    graph: &'a pb::GraphProto,
    outer: &mut HashMap<&'a str, &'a pb::TensorProto>,
    depth: usize,
) -> Result<(), BuildError> {
    let mut known = outer.clone();
    for tensor in &graph.initializer {
        check_dims(tensor)?;
        known.insert(&tensor.name, tensor);
    }
    for node in &graph.node {
        for attribute in &node.attribute {
            if let Some(tensor) = &attribute.t {
                check_dims(tensor)?;
                if node.op_type == "Constant"
                    && let [output] = node.output.as_slice()
                {
                    known.insert(output, tensor);
                }
            }
            let steps = attribute.ints.iter().chain([&attribute.i]);
            if STEPS.contains(&attribute.name.as_str())
                && let Some(step) = steps.copied().find(|step| step.unsigned_abs() > STEP_MAX)
            {
                return Err(too_large(
                    &node.name,
                    format!("{} is {step}", attribute.name),
                ));
            }
        }
        if GROWING.contains(&node.op_type.as_str()) {
            let sizes = node
                .input
                .iter()
                .filter_map(|name| known.get(name.as_str()));
            for tensor in sizes {
                check_sizes(&node.name, tensor)?;
            }
        }
    }
    for inner in graph.node.iter().flat_map(|node| &node.attribute) {
        if let Some(inner) = inner.g.as_ref()
            && depth < DEPTH_MAX
        {
            check_graph(inner, &mut known, depth + 1)?;
        }
    }
    Ok(())
}

fn check_dims(tensor: &pb::TensorProto) -> Result<(), BuildError> {
    let elements = product(tensor.dims.iter().map(|dim| dim.unsigned_abs()));
    if elements > ELEMENTS_MAX || tensor.dims.iter().any(|dim| *dim < 0) {
        return Err(too_large(
            &tensor.name,
            format!("the weights have the shape {:?}", tensor.dims),
        ));
    }
    Ok(())
}

/// A list of integers, which is taken for lengths.
fn check_sizes(node: &str, tensor: &pb::TensorProto) -> Result<(), BuildError> {
    if tensor.data_type != DataType::Int64 as i32 {
        return Ok(());
    }
    let raw = tensor
        .raw_data
        .as_chunks::<8>()
        .0
        .iter()
        .map(|bytes| i64::from_le_bytes(*bytes));
    let sizes: Vec<i64> = tensor.int64_data.iter().copied().chain(raw).collect();
    // 0 and -1 stand for a length that is known elsewhere.
    if product(sizes.iter().map(|size| size.unsigned_abs().max(1))) > ELEMENTS_MAX {
        return Err(too_large(node, format!("lengths of {sizes:?}")));
    }
    Ok(())
}

fn product(sizes: impl Iterator<Item = u64>) -> u64 {
    sizes.fold(1, |product, size| product.saturating_mul(size))
}

/// How many elements a tensor of these lengths has; nothing where one is below 0.
pub(super) fn elements(lengths: &[i64]) -> Option<u64> {
    let lengths: Option<Vec<u64>> = lengths.iter().map(|it| u64::try_from(*it).ok()).collect();
    lengths.map(|lengths| product(lengths.into_iter()))
}

/// What the engine worked out.
pub(super) fn check_shapes(graph: &TypedModel) -> Result<(), BuildError> {
    check_typed(graph, &mut 0, 0)
}

fn check_typed(graph: &TypedModel, all: &mut u64, depth: usize) -> Result<(), BuildError> {
    for node in graph.nodes() {
        for output in &node.outputs {
            let shape = &output.fact.shape;
            let Some(dims) = shape.as_concrete() else {
                return Err(BuildError::OpenShape {
                    node: node.name.clone(),
                    shape: format!("{shape:?}"),
                });
            };
            let elements = product(dims.iter().map(|dim| *dim as u64));
            *all = all.saturating_add(elements);
            if elements > ELEMENTS_MAX || *all > ALL_ELEMENTS_MAX {
                return Err(too_large(
                    &node.name,
                    format!("an output of the shape {dims:?}"),
                ));
            }
        }
        let scan = node.op_as::<Scan>().map(|scan| &scan.body);
        let choice = node.op_as::<IfThenElse>();
        let bodies = choice.map(|it| [&it.then_body, &it.else_body]);
        for body in bodies.into_iter().flatten().chain(scan) {
            if depth < DEPTH_MAX {
                check_typed(body, all, depth + 1)?;
            }
        }
    }
    Ok(())
}

fn too_large(place: &str, what: String) -> BuildError {
    BuildError::TooLarge {
        place: place.to_owned(),
        what,
    }
}
