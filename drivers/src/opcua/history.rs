//! HistoryRead: the values of some nodes in a span of time, page by page.

use std::time::Duration;

use millrace_tags::Timestamp;
use opcua::types::{
    AttributeId, ByteString, DataValue, Error, ExtensionObject, HistoryData, HistoryReadRequest,
    HistoryReadResponse, HistoryReadResult, HistoryReadValueId, NodeId, NumericRange,
    QualifiedName, ReadRawModifiedDetails, StatusCode, TimestampsToReturn, Variant,
};

use super::channel::Channel;
use super::{decode, server};

/// Values of one node in one reply: a page of 50 nodes stays well below the largest message.
const VALUES_PER_NODE: u32 = 1000;

/// `AccessLevel`, Part 3, 5.6.2.
const HISTORY_READ: u8 = 0x04;

/// Servers keep time to the millisecond or finer, and may leave out the end of a span.
const END_MARGIN_NS: i64 = 1_000_000;

/// What is asked of one node.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) place: usize,
    pub(super) node: NodeId,
    pub(super) range: NumericRange,
    /// Where the server wants to go on.
    pub(super) continuation: ByteString,
    /// Whether the server was asked before if the node has a history.
    pub(super) known: bool,
}

/// From when to when, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) from: Timestamp,
    pub(super) until: Timestamp,
}

/// What came of one node.
#[derive(Debug)]
pub(super) enum Page {
    /// Values in order; where there is a continuation, more follow by it.
    Values(Vec<DataValue>, ByteString),
    /// The node has no history, or none for us: asking again is pointless.
    NoHistory,
    /// Not this time.
    Failed,
}

/// One page for each node. An error means that the request failed as a whole.
pub(super) async fn read_page(
    channel: &Channel,
    nodes: Vec<Asked>,
    span: Span,
) -> Result<Vec<(usize, Page)>, Error> {
    let flags = has_history(channel, &nodes).await?;
    let details = ReadRawModifiedDetails {
        is_read_modified: false,
        start_time: decode::date_time(span.from),
        end_time: decode::date_time(Timestamp(span.until.0.saturating_add(END_MARGIN_NS))),
        num_values_per_node: VALUES_PER_NODE,
        return_bounds: false,
    };
    let request = HistoryReadRequest {
        request_header: channel.header(channel.timeout()),
        history_read_details: ExtensionObject::from_message(details),
        timestamps_to_return: TimestampsToReturn::Both,
        release_continuation_points: false,
        nodes_to_read: Some(nodes.iter().map(value_id).collect()),
    };
    let response: HistoryReadResponse = channel.send(request, channel.timeout()).await?;
    let results = response.results.unwrap_or_default();
    if results.len() != nodes.len() {
        let found = format!("{} histories for {} nodes", results.len(), nodes.len());
        return Err(Error::new(StatusCode::BadUnknownResponse, found));
    }
    let pages = results
        .into_iter()
        .zip(flags)
        .map(|(result, flag)| page(result, flag));
    Ok(nodes.iter().map(|asked| asked.place).zip(pages).collect())
}

/// A server that has no history at all says so for the whole request.
pub(super) fn is_unsupported(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::BadServiceUnsupported
            | StatusCode::BadHistoryOperationUnsupported
            | StatusCode::BadHistoryOperationInvalid
            | StatusCode::BadNotImplemented
            | StatusCode::BadNotSupported
            | StatusCode::BadUserAccessDenied
            | StatusCode::BadNotReadable
            | StatusCode::BadNodeIdUnknown
    )
}

/// How long to wait for a server that has not stored yet what it has sent already.
pub(super) const LAG: Duration = Duration::from_millis(300);

fn value_id(asked: &Asked) -> HistoryReadValueId {
    HistoryReadValueId {
        node_id: asked.node.clone(),
        index_range: asked.range.clone(),
        data_encoding: QualifiedName::null(),
        continuation_point: asked.continuation.clone(),
    }
}

/// Not every server sets the flag, so a node without it is asked, too; but where it then brings nothing, that is
/// the answer.
fn page(result: HistoryReadResult, flagged: bool) -> Page {
    let status = result.status_code;
    if is_unsupported(status) {
        return Page::NoHistory;
    }
    if status.is_bad() && status != StatusCode::BadNoData {
        return Page::Failed;
    }
    let data = result.history_data.into_inner_as::<HistoryData>();
    let values = data.and_then(|data| data.data_values).unwrap_or_default();
    if values.is_empty() && !flagged {
        return Page::NoHistory;
    }
    Page::Values(values, result.continuation_point)
}

/// Whether the nodes say that they have a history. Of those that were asked before, it is known that they have.
async fn has_history(channel: &Channel, nodes: &[Asked]) -> Result<Vec<bool>, Error> {
    let fresh: Vec<NodeId> = nodes
        .iter()
        .filter(|asked| !asked.known)
        .map(|asked| asked.node.clone())
        .collect();
    let levels = match fresh.is_empty() {
        true => Vec::new(),
        false => server::try_read_attribute(channel, fresh, AttributeId::UserAccessLevel).await?,
    };
    let mut levels = levels.into_iter().map(|level| match level.value {
        Some(Variant::Byte(bits)) => bits & HISTORY_READ != 0,
        _ => false,
    });
    let flag = |asked: &Asked| asked.known || levels.next().unwrap_or(false);
    Ok(nodes.iter().map(flag).collect())
}
