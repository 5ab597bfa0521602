//! Checks of the decoded file, before the engine sees it: an error here can name the cause.

use tract_onnx::pb;
use tract_onnx::pb::tensor_proto::{DataLocation, DataType};
use tract_onnx::pb::tensor_shape_proto::dimension::Value as DimensionValue;
use tract_onnx::pb::type_proto::Value as TypeValue;

use super::allow;
use super::error::BuildError;
use crate::bundle::{Layout, Manifest};

/// The shape of one window in the layout of the model.
pub(super) fn input_shape(manifest: &Manifest) -> Vec<usize> {
    let (rows, inputs) = (manifest.window.len, manifest.columns.len());
    match manifest.model.layout {
        Layout::Ntf => vec![1, rows, inputs],
        Layout::Nft => vec![1, inputs, rows],
        Layout::Nf => vec![1, rows * inputs],
    }
}

/// Compares the file with the manifest; gives the name of the graph's input.
pub(super) fn check(proto: &pb::ModelProto, manifest: &Manifest) -> Result<String, BuildError> {
    let graph = proto.graph.as_ref().ok_or(BuildError::NoGraph)?;
    let refused = allow::refused(graph);
    if !refused.is_empty() {
        return Err(BuildError::Operators { refused });
    }
    check_transposes(graph)?;
    check_opset(proto, manifest.model.opset)?;
    check_weights(graph)?;
    let input = the_input(graph, manifest.model.input.as_deref())?;
    check_input_type(input, &input_shape(manifest))?;
    Ok(input.name.clone())
}

/// The engine looks for the way to a transposition in circles if it is none.
fn check_transposes(graph: &pb::GraphProto) -> Result<(), BuildError> {
    for node in &graph.node {
        let perm = node.attribute.iter().find(|a| a.name == "perm");
        if node.op_type == "Transpose"
            && let Some(perm) = perm
            && !(0..perm.ints.len() as i64).all(|axis| perm.ints.contains(&axis))
        {
            return Err(BuildError::Transpose {
                node: node.name.clone(),
                perm: perm.ints.clone(),
            });
        }
        // Nesting is bounded: the operators have been checked.
        for inner in node.attribute.iter().filter_map(|a| a.g.as_ref()) {
            check_transposes(inner)?;
        }
    }
    Ok(())
}

fn check_opset(proto: &pb::ModelProto, expected: Option<usize>) -> Result<(), BuildError> {
    let standard = proto
        .opset_import
        .iter()
        .find(|import| matches!(import.domain.as_str(), "" | "ai.onnx"));
    let actual = standard.map_or(0, |import| import.version);
    match expected {
        Some(expected) if i64::try_from(expected) != Ok(actual) => {
            Err(BuildError::Opset { expected, actual })
        }
        _ => Ok(()),
    }
}

fn check_weights(graph: &pb::GraphProto) -> Result<(), BuildError> {
    let external = Some(DataLocation::External as i32);
    match graph
        .initializer
        .iter()
        .find(|t| t.data_location == external)
    {
        Some(tensor) => Err(BuildError::ExternalData {
            tensor: tensor.name.clone(),
        }),
        None => Ok(()),
    }
}

/// The graph's only input; old files list their weights as inputs too.
fn the_input<'a>(
    graph: &'a pb::GraphProto,
    expected: Option<&str>,
) -> Result<&'a pb::ValueInfoProto, BuildError> {
    let inputs: Vec<_> = graph
        .input
        .iter()
        .filter(|input| graph.initializer.iter().all(|t| t.name != input.name))
        .collect();
    match inputs.as_slice() {
        [input] if expected.is_none_or(|name| name == input.name) => Ok(input),
        _ => Err(BuildError::Inputs {
            expected: expected.map(str::to_owned),
            actual: inputs.iter().map(|input| input.name.clone()).collect(),
        }),
    }
}

fn check_input_type(input: &pb::ValueInfoProto, expected: &[usize]) -> Result<(), BuildError> {
    let Some(TypeValue::TensorType(tensor)) = input.r#type.as_ref().and_then(|t| t.value.as_ref())
    else {
        return Ok(());
    };
    if tensor.elem_type != DataType::Float as i32 {
        return Err(BuildError::InputType);
    }
    let Some(shape) = &tensor.shape else {
        return Ok(());
    };
    let dims: Vec<Option<i64>> = shape.dim.iter().map(fixed_dimension).collect();
    let fits = dims.len() == expected.len()
        && dims
            .iter()
            .zip(expected)
            .all(|(dim, expected)| dim.is_none_or(|dim| i64::try_from(*expected) == Ok(dim)));
    if fits {
        return Ok(());
    }
    let dims: Vec<String> = dims
        .iter()
        .map(|dim| dim.map_or("?".to_owned(), |dim| dim.to_string()))
        .collect();
    Err(BuildError::InputShape {
        expected: expected.to_vec(),
        actual: format!("[{}]", dims.join(", ")),
    })
}

/// `None` where the file leaves the dimension open.
fn fixed_dimension(dim: &pb::tensor_shape_proto::Dimension) -> Option<i64> {
    match dim.value {
        Some(DimensionValue::DimValue(size)) if size > 0 => Some(size),
        _ => None,
    }
}

/// Whether the graph has the output that this key of the manifest names.
pub(super) fn check_output(
    graph: &pb::GraphProto,
    key: &'static str,
    expected: &str,
) -> Result<(), BuildError> {
    if graph.output.iter().any(|output| output.name == expected) {
        return Ok(());
    }
    Err(BuildError::Output {
        key,
        expected: expected.to_owned(),
        actual: graph.output.iter().map(|o| o.name.clone()).collect(),
    })
}
