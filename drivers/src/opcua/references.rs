//! The Browse service: which nodes a node refers to.

use opcua::types::{
    BrowseDescription, BrowseDirection, BrowseNextRequest, BrowseNextResponse, BrowseRequest,
    BrowseResponse, BrowseResult, BrowseResultMask, ByteString, NodeId, ReferenceDescription,
    ReferenceTypeId, StatusCode, ViewDescription,
};

use super::channel::Channel;
use crate::SessionError;

/// Nodes that are asked for in one request; fewer where the server says that it is too many.
const NODES_PER_BROWSE: usize = 200;

/// References that a server may send of a node at once; the rest comes by continuation points.
const REFERENCES_MAX: u32 = 1000;

/// What a node refers to, or why the server does not say.
pub(super) type References = Result<Vec<ReferenceDescription>, StatusCode>;

/// References of one kind, subtypes included.
pub(super) fn query(
    node_id: NodeId,
    browse_direction: BrowseDirection,
    reference: ReferenceTypeId,
) -> BrowseDescription {
    BrowseDescription {
        node_id,
        browse_direction,
        reference_type_id: reference.into(),
        include_subtypes: true,
        node_class_mask: 0,
        result_mask: BrowseResultMask::All as u32,
    }
}

/// The answers, in the order of the queries, each complete.
pub(super) async fn references(
    channel: &Channel,
    queries: Vec<BrowseDescription>,
) -> Result<Vec<References>, SessionError> {
    let mut found = Vec::with_capacity(queries.len());
    let mut size = NODES_PER_BROWSE;
    let mut rest = queries.as_slice();
    while !rest.is_empty() {
        let (chunk, later) = rest.split_at(size.min(rest.len()));
        let request = BrowseRequest {
            request_header: channel.header(channel.timeout()),
            view: ViewDescription::default(),
            requested_max_references_per_node: REFERENCES_MAX,
            nodes_to_browse: Some(chunk.to_vec()),
        };
        let sent = channel.send::<BrowseResponse>(request, channel.timeout());
        let results = match sent.await {
            Ok(response) => response.results.unwrap_or_default(),
            Err(error) if too_many(error.status()) && chunk.len() > 1 => {
                size = chunk.len() / 2;
                continue;
            }
            Err(error) => return Err(channel.asked("Browse").failed(&error)),
        };
        if results.len() != chunk.len() {
            let said = format!("{} results for {} nodes", results.len(), chunk.len());
            return Err(channel.asked("Browse").unfit(&said));
        }
        let first = found.len();
        let mut open = Vec::new();
        for result in results {
            let place = found.len();
            found.push(Ok(Vec::new()));
            take(&mut found[place], place, result, &mut open);
        }
        go_on(channel, &mut found, open).await?;
        // A server that has no continuation point left for all of them has one for each alone.
        for (place, query) in (first..).zip(chunk) {
            if chunk.len() > 1 && found[place] == Err(StatusCode::BadNoContinuationPoints) {
                let alone = Box::pin(references(channel, vec![query.clone()])).await?;
                found[place] = alone.into_iter().next().unwrap_or(Ok(Vec::new()));
            }
        }
        rest = later;
    }
    Ok(found)
}

/// Asks on until no continuation point is left.
async fn go_on(
    channel: &Channel,
    found: &mut [References],
    mut open: Vec<(usize, ByteString)>,
) -> Result<(), SessionError> {
    while !open.is_empty() {
        let (places, points): (Vec<usize>, Vec<ByteString>) = open.drain(..).unzip();
        let response: BrowseNextResponse = channel
            .request("BrowseNext", |request_header| BrowseNextRequest {
                request_header,
                release_continuation_points: false,
                continuation_points: Some(points),
            })
            .await?;
        let results = response.results.unwrap_or_default();
        if results.len() != places.len() {
            let said = format!("{} results for {} nodes", results.len(), places.len());
            return Err(channel.asked("BrowseNext").unfit(&said));
        }
        for (place, result) in places.into_iter().zip(results) {
            take(&mut found[place], place, result, &mut open);
        }
    }
    Ok(())
}

fn take(
    references: &mut References,
    place: usize,
    result: BrowseResult,
    open: &mut Vec<(usize, ByteString)>,
) {
    if result.status_code.is_bad() {
        *references = Err(result.status_code);
        return;
    }
    if let Ok(references) = references {
        references.extend(result.references.into_iter().flatten());
    }
    if !result.continuation_point.is_null_or_empty() {
        open.push((place, result.continuation_point));
    }
}

fn too_many(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::BadTooManyOperations
            | StatusCode::BadNoContinuationPoints
            | StatusCode::BadResponseTooLarge
            | StatusCode::BadEncodingLimitsExceeded
    )
}
