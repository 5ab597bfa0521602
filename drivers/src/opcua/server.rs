//! What a server says of itself, and the Read service.

use opcua::types::{
    AttributeId, DataValue, DateTime, Error, NodeId, NumericRange, QualifiedName, ReadRequest,
    ReadResponse, ReadValueId, StatusCode, TimestampsToReturn, VariableId, Variant,
};

use std::time::{Duration, Instant};

use super::channel::Channel;
use crate::SessionError;

/// Nodes of one request, where the server names no limit: a reply of this many stays well below the
/// message size that servers commonly take.
const NODES_DEFAULT: usize = 1000;

/// A subscription of more items brings nothing that two would not.
const SUBSCRIPTION_ITEMS_MAX: usize = 100_000;

/// Each may answer with a thousand values.
const HISTORIES_MAX: usize = 50;

/// What we need to know of a server before we read or subscribe.
pub(super) struct Server {
    /// The namespace URIs, by index; empty where nobody asked.
    pub(super) namespaces: Vec<String>,
    /// Nodes in one Read.
    pub(super) reads_max: usize,
    /// Items in one CreateMonitoredItems.
    pub(super) items_max: usize,
    /// Items in one subscription.
    pub(super) subscription_items_max: usize,
    /// Nodes in one HistoryRead.
    pub(super) histories_max: usize,
    /// What its clock showed, and how long the answer took.
    pub(super) clock: Option<(DateTime, Duration)>,
}

impl Server {
    /// Reads limits and, where some address needs it, the namespace table. A server that lacks
    /// the limits has none.
    pub(super) async fn ask(channel: &Channel, namespaces: bool) -> Result<Self, SessionError> {
        let limits = [
            VariableId::Server_ServerCapabilities_OperationLimits_MaxNodesPerRead,
            VariableId::Server_ServerCapabilities_OperationLimits_MaxMonitoredItemsPerCall,
            VariableId::Server_ServerCapabilities_MaxMonitoredItemsPerSubscription,
            VariableId::Server_ServerCapabilities_OperationLimits_MaxNodesPerHistoryReadData,
        ];
        let mut nodes: Vec<NodeId> = limits.map(NodeId::from).to_vec();
        nodes.push(VariableId::Server_ServerStatus_CurrentTime.into());
        if namespaces {
            nodes.push(VariableId::Server_NamespaceArray.into());
        }
        let asked = Instant::now();
        let mut values = read(channel, nodes).await?.into_iter();
        let took = asked.elapsed();
        let mut next = || values.next().and_then(|data| data.value);
        Ok(Self {
            reads_max: limit(next(), NODES_DEFAULT),
            items_max: limit(next(), NODES_DEFAULT),
            subscription_items_max: limit(next(), SUBSCRIPTION_ITEMS_MAX),
            histories_max: limit(next(), HISTORIES_MAX),
            clock: match next() {
                Some(Variant::DateTime(time)) => Some((*time, took)),
                _ => None,
            },
            namespaces: texts(next()),
        })
    }
}

/// The server's limit or ours, whichever is lower. Zero means that the server has none.
fn limit(value: Option<Variant>, ours: usize) -> usize {
    match value {
        Some(Variant::UInt32(max)) if max > 0 => (max as usize).min(ours),
        _ => ours,
    }
}

fn texts(value: Option<Variant>) -> Vec<String> {
    match value {
        Some(Variant::Array(array)) => array.values.iter().map(Variant::to_string).collect(),
        _ => Vec::new(),
    }
}

/// The values of these nodes, one for each.
pub(super) async fn read(
    channel: &Channel,
    nodes: Vec<NodeId>,
) -> Result<Vec<DataValue>, SessionError> {
    let nodes = nodes.into_iter().map(value_of).collect();
    let values = try_read_values(channel, nodes, TimestampsToReturn::Both).await;
    values.map_err(|error| channel.asked("Read").failed(&error))
}

/// Another attribute than the value, which has no time.
pub(super) async fn try_read_attribute(
    channel: &Channel,
    nodes: Vec<NodeId>,
    attribute: AttributeId,
) -> Result<Vec<DataValue>, Error> {
    let nodes = nodes.into_iter().map(|node| ReadValueId {
        attribute_id: attribute as u32,
        ..value_of(node)
    });
    try_read_values(channel, nodes.collect(), TimestampsToReturn::Neither).await
}

/// What is named, one value for each. For a caller that wants to look at the error: a server fails the whole request
/// where it is one node too many.
pub(super) async fn try_read_values(
    channel: &Channel,
    nodes: Vec<ReadValueId>,
    times: TimestampsToReturn,
) -> Result<Vec<DataValue>, Error> {
    let count = nodes.len();
    let request = ReadRequest {
        request_header: channel.header(channel.timeout()),
        max_age: 0.0,
        timestamps_to_return: times,
        nodes_to_read: Some(nodes),
    };
    let response: ReadResponse = channel.send(request, channel.timeout()).await?;
    let values = response.results.unwrap_or_default();
    if values.len() != count {
        let found = format!("{} values for {count} nodes", values.len());
        return Err(Error::new(StatusCode::BadUnknownResponse, found));
    }
    Ok(values)
}

/// The whole value attribute of a node.
pub(super) fn value_of(node_id: NodeId) -> ReadValueId {
    ReadValueId {
        node_id,
        attribute_id: AttributeId::Value as u32,
        index_range: NumericRange::None,
        data_encoding: QualifiedName::null(),
    }
}

/// These attributes, one value for each, in as few requests as the server takes.
pub(super) async fn attributes(
    channel: &Channel,
    wanted: Vec<(NodeId, AttributeId)>,
) -> Result<Vec<DataValue>, SessionError> {
    let mut values = Vec::with_capacity(wanted.len());
    let mut size = NODES_DEFAULT;
    let mut rest = wanted.as_slice();
    while !rest.is_empty() {
        let (chunk, later) = rest.split_at(size.min(rest.len()));
        let nodes = chunk.iter().map(|(node, attribute)| ReadValueId {
            attribute_id: *attribute as u32,
            ..value_of(node.clone())
        });
        match try_read_values(channel, nodes.collect(), TimestampsToReturn::Both).await {
            Ok(read) => values.extend(read),
            Err(error) if is_too_many(error.status()) && chunk.len() > 1 => {
                size = chunk.len() / 2;
                continue;
            }
            Err(error) => return Err(channel.asked("Read").failed(&error)),
        }
        rest = later;
    }
    Ok(values)
}

/// Fewer at once may do.
pub(super) fn is_too_many(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::BadTooManyOperations
            | StatusCode::BadResponseTooLarge
            | StatusCode::BadEncodingLimitsExceeded
    )
}
