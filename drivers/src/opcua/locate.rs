//! From addresses to the nodes of a server, as it numbers its namespaces in this session.

use opcua::types::{
    BrowsePathResult, NodeId, TranslateBrowsePathsToNodeIdsRequest,
    TranslateBrowsePathsToNodeIdsResponse,
};

use super::NodeAddress;
use super::channel::Channel;
use super::server::is_too_many;
use crate::SessionError;

/// Paths in one request, where the server takes as many.
const PATHS_MAX: usize = 500;

/// The node of each address; `None` where the server lacks its namespace, or nothing is at the end of its path.
pub(super) async fn locate(
    channel: &Channel,
    namespaces: &[String],
    addresses: &[&NodeAddress],
) -> Result<Vec<Option<NodeId>>, SessionError> {
    let nodes = addresses.iter().map(|address| address.resolve(namespaces));
    let mut nodes: Vec<Option<NodeId>> = nodes.collect();
    let paths = addresses.iter().enumerate();
    let paths =
        paths.filter_map(|(place, address)| Some((place, address.browse_path(namespaces)?)));
    let paths: Vec<_> = paths.collect();
    let (mut rest, mut size) = (paths.as_slice(), PATHS_MAX);
    while !rest.is_empty() {
        let (chunk, later) = rest.split_at(size.min(rest.len()));
        let request = TranslateBrowsePathsToNodeIdsRequest {
            request_header: channel.header(channel.timeout()),
            browse_paths: Some(chunk.iter().map(|(_, path)| path.clone()).collect()),
        };
        let sent =
            channel.send::<TranslateBrowsePathsToNodeIdsResponse>(request, channel.timeout());
        let found = match sent.await {
            Ok(response) => response.results.unwrap_or_default(),
            Err(error) if is_too_many(error.status()) && chunk.len() > 1 => {
                size = chunk.len() / 2;
                continue;
            }
            Err(error) => {
                let asked = channel.asked("TranslateBrowsePathsToNodeIds");
                return Err(asked.failed(&error));
            }
        };
        for ((place, _), result) in chunk.iter().zip(found) {
            nodes[*place] = target(result);
        }
        rest = later;
    }
    Ok(nodes)
}

/// The first node at the end of the path; one in another server has a path of its own left.
fn target(result: BrowsePathResult) -> Option<NodeId> {
    let targets = result.targets.filter(|_| result.status_code.is_good())?;
    let whole = targets
        .into_iter()
        .find(|target| target.remaining_path_index == u32::MAX);
    whole.map(|target| target.target_id.node_id)
}
