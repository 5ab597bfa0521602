//! Operators of our own: what the engine lacks, or has wrong, unsafe or slow.
//!
//! Each is a [`Kernel`] for known shapes, in single precision, without state: whatever it is given, it gives the same. All that
//! a file says (indexes, lengths, names of modes) is checked when the operator is built, against [`OperatorError`]s that name
//! the node; evaluation trusts nothing but those checks, and no kernel takes the compiler's bounds checks away.

mod attribute;
mod convolution;
mod dense;
mod error;
mod kernel;
mod labels;
mod linear;
mod matrix;
mod mean;
mod post;
mod prepare;
mod recurrent;
mod reduce;
mod svm;
mod tree;
mod wide;

use tract_onnx::Onnx;

pub use error::OperatorError;

/// Puts our operators in place of the engine's.
pub(super) fn register(onnx: &mut Onnx) {
    let operators = &mut onnx.op_register;
    convolution::register(operators);
    dense::register(operators);
    linear::register(operators);
    mean::register(operators);
    prepare::register(operators);
    recurrent::register(operators);
    reduce::register(operators);
    svm::register(operators);
    tree::register(operators);
}
