//! Attributes of a node, with errors that say what was expected.

use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{NodeProto, TensorProto};
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

fn tensor<'a>(node: &'a NodeProto, name: &str, of: DataType) -> Result<&'a TensorProto, String> {
    let tensor: Option<&TensorProto> = plain(node.get_attr_opt(name))?;
    let tensor = tensor.ok_or_else(|| format!("{name} is missing"))?;
    if tensor.data_type == of as i32 {
        return Ok(tensor);
    }
    let kind = DataType::try_from(tensor.data_type);
    let kind = kind.map_or("unknown", |kind| kind.as_str_name());
    Err(format!(
        "{name} is of the type {kind}; expected {} (convert the model with FloatTensorType inputs)",
        of.as_str_name()
    ))
}

/// The numbers of a tensor in single precision.
pub(super) fn tensor_floats(node: &NodeProto, name: &str) -> Result<Vec<f32>, String> {
    let tensor = tensor(node, name, DataType::Float)?;
    let raw = tensor.raw_data.as_chunks::<4>().0.iter();
    let raw = raw.map(|bytes| f32::from_le_bytes(*bytes));
    Ok(tensor.float_data.iter().copied().chain(raw).collect())
}

/// The numbers of a tensor of bytes.
pub(super) fn tensor_bytes(node: &NodeProto, name: &str) -> Result<Vec<u8>, String> {
    let tensor = tensor(node, name, DataType::Uint8)?;
    let byte = |value: &i32| u8::try_from(*value).map_err(|_| format!("{name} has {value}"));
    let listed: Vec<u8> = tensor
        .int32_data
        .iter()
        .map(byte)
        .collect::<Result<_, _>>()?;
    Ok([listed.as_slice(), &tensor.raw_data].concat())
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
