//! What is wrong with a node of the file.

/// A node whose attributes or inputs cannot be: the file is damaged, or its exporter uses a form that does not run here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{operator} (node {node:?}): {problem}")]
pub struct OperatorError {
    /// The operator.
    pub operator: String,
    /// The node.
    pub node: String,
    /// What is wrong, and what was expected.
    pub problem: String,
}
