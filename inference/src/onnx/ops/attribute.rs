//! Attributes of a node, with errors that say what was expected.

use tract_onnx::pb::NodeProto;
use tract_onnx::prelude::TractResult;

fn plain<T>(read: TractResult<Option<T>>) -> Result<Option<T>, String> {
    read.map_err(|error| error.to_string())
}

/// Numbers; none where the node does not have the attribute.
pub(super) fn floats<'a>(node: &'a NodeProto, name: &str) -> Result<&'a [f32], String> {
    Ok(plain(node.get_attr_opt_slice(name))?.unwrap_or_default())
}

pub(super) fn ints<'a>(node: &'a NodeProto, name: &str) -> Result<&'a [i64], String> {
    Ok(plain(node.get_attr_opt_slice(name))?.unwrap_or_default())
}

pub(super) fn texts<'a>(node: &'a NodeProto, name: &str) -> Result<Vec<&'a str>, String> {
    Ok(plain(node.get_attr_opt_vec(name))?.unwrap_or_default())
}

pub(super) fn float(node: &NodeProto, name: &str, default: f32) -> Result<f32, String> {
    Ok(plain(node.get_attr_opt(name))?.unwrap_or(default))
}

pub(super) fn int(node: &NodeProto, name: &str, default: i64) -> Result<i64, String> {
    Ok(plain(node.get_attr_opt(name))?.unwrap_or(default))
}

pub(super) fn text<'a>(
    node: &'a NodeProto,
    name: &str,
    default: &'a str,
) -> Result<&'a str, String> {
    Ok(plain(node.get_attr_opt(name))?.unwrap_or(default))
}

/// As many values as there should be.
pub(super) fn expect_len(name: &str, actual: usize, expected: usize) -> Result<(), String> {
    if actual == expected {
        return Ok(());
    }
    Err(format!("{name} has {actual} values; expected {expected}"))
}

/// A number of the file as a count or an index.
pub(super) fn index(name: &str, value: i64) -> Result<usize, String> {
    usize::try_from(value).map_err(|_| format!("{name} has {value}; expected 0 or more"))
}

/// Attributes in double precision, which newer exporters use for doubles, are not understood.
pub(super) fn refuse_tensors(node: &NodeProto) -> Result<(), String> {
    let tensor = node
        .attribute
        .iter()
        .find(|a| a.name.ends_with("_as_tensor"));
    tensor.map_or(Ok(()), |attribute| {
        Err(format!(
            "{} is in double precision; convert the model with FloatTensorType inputs",
            attribute.name
        ))
    })
}
