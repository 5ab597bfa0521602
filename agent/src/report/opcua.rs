//! What an OPC UA server says to a person who asks: its nodes, itself, a method's outputs.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// `POST /v1/opcua`: a question to a device of the agent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct OpcuaRequest {
    /// The device's name.
    pub(crate) device: String,
    /// What is asked.
    #[serde(flatten)]
    pub(crate) question: OpcuaQuestion,
}

/// What is asked of a server.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub(crate) enum OpcuaQuestion {
    /// Its nodes: a [`NodeTree`].
    Browse {
        /// From where on; from the Objects folder where nothing is given.
        node: Option<String>,
        /// Levels below it.
        depth: usize,
        /// Nodes at most.
        max: usize,
        /// Whether variables are read.
        values: bool,
    },
    /// Itself: a [`ServerIdentity`].
    Identify,
    /// The outputs of a method: a [`CallDone`].
    Call {
        /// The object whose method it is.
        object: String,
        /// The method, by node or by name.
        method: String,
        /// As typed.
        arguments: Vec<String>,
    },
}

/// The nodes of a server, each followed by what is below it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct NodeTree {
    /// The first is the root.
    pub(crate) nodes: Vec<NodeRow>,
    /// There is more than was asked for.
    pub(crate) cut: bool,
    /// Nodes that the server did not open, with the reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) refused: Vec<(String, String)>,
}

/// One node.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct NodeRow {
    /// Levels below the root.
    pub(crate) depth: usize,
    /// As a tag has it.
    pub(crate) address: String,
    /// As `2:Name`.
    pub(crate) browse_name: String,
    /// In the server's language.
    pub(crate) display_name: String,
    /// `object`, `variable`, `method`, …
    pub(crate) class: String,
    /// Whether it describes the node above it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) property: bool,
    /// Of variables: the data type.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub(crate) data_type: Option<String>,
    /// Of variables: `r`, `w`, `rw` or `-`, as the user may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) access: Option<String>,
    /// Of variables that were read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) value: Option<Value>,
    /// Why there is no value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) bad: Option<String>,
    /// Its unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) unit: Option<String>,
}

/// What a server says of itself: names and texts.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct ServerIdentity {
    /// Product, version, state, times.
    pub(crate) about: Vec<(String, String)>,
    /// What one request may hold, and the like; 0: no limit.
    pub(crate) limits: Vec<(String, String)>,
    /// By index.
    pub(crate) namespaces: Vec<String>,
    /// What of the standard it covers.
    pub(crate) profiles: Vec<String>,
}

/// What a method gave.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct CallDone {
    /// Which.
    pub(crate) method: String,
    /// Its outputs, in order.
    pub(crate) outputs: Vec<CallOutput>,
}

/// One output of a method.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct CallOutput {
    /// Its name.
    pub(crate) name: String,
    /// What it is.
    pub(crate) value: Value,
}
