//! Questions of people to OPC UA servers: their nodes, themselves, a method call. The command line asks a server that it
//! is given the address of; the agent asks its devices, with the login that is configured for them.

use millrace_drivers::SessionError;
use millrace_drivers::opcua::{
    BrowseOptions, BrowsedNode, CallError, NodeAddress, NodeAddressError, OpcuaTool, Settings,
};
use serde_json::Value;

use crate::config::Connection;
use crate::gateway::{Gateway, NotFound};
use crate::live::value_json;
use crate::report::{
    CallDone, CallOutput, NodeRow, NodeTree, OpcuaQuestion, OpcuaRequest, ServerIdentity,
};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unanswered {
    /// Not as it was typed.
    #[error("{0}")]
    Address(#[from] NodeAddressError),
    /// No OPC UA device has this name.
    #[error("{0}")]
    NotFound(#[from] NotFound),
    /// No session, or it broke.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The method was not called, or failed.
    #[error(transparent)]
    Call(#[from] CallError),
}

/// Asks a server, through a session of its own. `progress` hears of a walk how many nodes there are so far.
pub(crate) async fn ask(
    settings: Settings,
    question: &OpcuaQuestion,
    progress: impl FnMut(usize) + Send,
) -> Result<Value, Unanswered> {
    let asked = Asked::of(question)?;
    let tool = OpcuaTool::open(settings).await?;
    let answer = asked.answer(&tool, progress).await;
    tool.close().await;
    answer
}

/// A question whose addresses were understood, before anything is sent.
enum Asked<'q> {
    Browse(BrowseOptions),
    Identify,
    Call(NodeAddress, &'q str, &'q [String]),
}

impl<'q> Asked<'q> {
    fn of(question: &'q OpcuaQuestion) -> Result<Self, NodeAddressError> {
        Ok(match question {
            OpcuaQuestion::Browse {
                node,
                depth,
                max,
                values,
            } => Asked::Browse(BrowseOptions {
                root: node.as_deref().map(str::parse).transpose()?,
                depth: *depth,
                nodes_max: *max,
                values: *values,
            }),
            OpcuaQuestion::Identify => Asked::Identify,
            OpcuaQuestion::Call {
                object,
                method,
                arguments,
            } => Asked::Call(object.parse()?, method, arguments),
        })
    }

    async fn answer(
        self,
        tool: &OpcuaTool,
        progress: impl FnMut(usize) + Send,
    ) -> Result<Value, Unanswered> {
        let answer = match self {
            Asked::Browse(options) => {
                let browsed = tool.browse(&options, progress).await?;
                serde_json::to_value(NodeTree {
                    nodes: browsed.nodes.into_iter().map(row).collect(),
                    cut: browsed.cut,
                    refused: browsed.refused,
                })
            }
            Asked::Identify => {
                let identity = tool.identify().await?;
                let named = |rows: Vec<(&'static str, String)>| {
                    let rows = rows.into_iter();
                    rows.map(|(name, text)| (name.to_owned(), text)).collect()
                };
                serde_json::to_value(ServerIdentity {
                    about: named(identity.about),
                    limits: named(identity.limits),
                    namespaces: identity.namespaces,
                    profiles: identity.profiles,
                })
            }
            Asked::Call(object, method, arguments) => {
                let called = tool.call(&object, method, arguments).await?;
                let output = |(name, value): (String, Option<millrace_tags::Value>)| CallOutput {
                    name,
                    value: value.as_ref().map_or(Value::Null, value_json),
                };
                serde_json::to_value(CallDone {
                    method: called.method,
                    outputs: called.outputs.into_iter().map(output).collect(),
                })
            }
        };
        // Our own plain structs always serialise.
        Ok(answer.unwrap_or_default())
    }
}

fn row(node: BrowsedNode) -> NodeRow {
    NodeRow {
        depth: node.depth,
        address: node.address,
        browse_name: node.browse_name,
        display_name: node.display_name,
        class: node.class,
        property: node.is_property,
        data_type: node.data_type,
        access: node.access,
        value: node.value.as_ref().map(value_json),
        bad: node.bad,
        unit: node.unit,
    }
}

impl Gateway {
    /// Asks one of the OPC UA devices. A method call is kept in the log, with who made it.
    pub(crate) async fn ask_opcua(
        &self,
        request: &OpcuaRequest,
        who: &str,
    ) -> Result<Value, Unanswered> {
        let settings = self.opcua_settings(&request.device)?;
        let answer = ask(settings, &request.question, |_| {}).await;
        if let OpcuaQuestion::Call {
            object,
            method,
            arguments,
        } = &request.question
        {
            let device = &request.device;
            match &answer {
                Ok(outputs) => {
                    tracing::info!(target: "audit", who, %device, %object, %method, ?arguments, %outputs, "call");
                }
                Err(error) => {
                    let error = crate::device::chain(error);
                    tracing::warn!(target: "audit", who, %device, %object, %method, ?arguments, %error, "call refused or failed");
                }
            }
        }
        answer
    }

    fn opcua_settings(&self, name: &str) -> Result<Settings, NotFound> {
        let devices = self.config.enabled_devices();
        let all = devices.filter_map(|device| match &device.connection {
            Connection::Opcua(settings) => Some((device.name.as_str(), settings)),
            _ => None,
        });
        let all: Vec<_> = all.collect();
        let named = all.iter().find(|(known, _)| *known == name);
        named
            .map(|(_, settings)| (*settings).clone())
            .ok_or_else(|| NotFound::new("OPC UA device", name, all.iter().map(|(name, _)| *name)))
    }
}
