//! A session for a person at a terminal: opened for one question, closed after it.

use std::sync::Arc;
use std::time::Duration;

use millrace_tags::{Clock, Quality, Reason, Sample, SystemClock, TagId, Timestamp, Value};
use opcua::types::{AttributeId, DataValue, NodeId, StatusCode};

use super::channel::Channel;
use super::driver::Line;
use super::locate::locate;
use super::server::{Server, attributes};
use super::settings::{Item, Settings};
use super::types::Types;
use super::write::{Given, Writing};
use super::{NodeAddress, decode};
use crate::{SessionError, WriteError, WriteReport};

/// An open session that a person asks through.
pub struct OpcuaTool {
    pub(super) channel: Arc<Channel>,
    pub(super) namespaces: Vec<String>,
    pub(super) types: Types,
}

/// One value as it was read: value, quality, source time.
pub type ReadOnce = (Option<Value>, Quality, Option<Timestamp>);

/// Reads one node: connects, reads, and takes leave.
///
/// # Errors
/// Where no session can be made. A node that cannot be read is a bad quality.
pub async fn read_once(settings: Settings, node: &NodeAddress) -> Result<ReadOnce, SessionError> {
    let tool = OpcuaTool::open(settings).await?;
    let read = tool.read(std::slice::from_ref(node)).await?;
    tool.close().await;
    Ok(read.into_iter().next().unwrap_or(ABSENT))
}

/// Of a node that the server does not have.
const ABSENT: ReadOnce = (None, Quality::Bad(Reason::IllegalAddress), None);

impl OpcuaTool {
    /// Connects and logs in.
    ///
    /// # Errors
    /// Where no session can be made.
    pub async fn open(settings: Settings) -> Result<Self, SessionError> {
        let settings = Arc::new(settings);
        let line = Line::open(&settings, &SystemClock::new()).await?;
        line.log_in(&settings, settings.keep_alive).await?;
        let server = Server::ask(&line.channel, true).await?;
        Ok(Self {
            channel: line.channel,
            namespaces: server.namespaces,
            types: Types::default(),
        })
    }

    /// Reads these nodes. One that cannot be read is a bad quality.
    ///
    /// # Errors
    /// Where the session breaks.
    pub async fn read(&self, addresses: &[NodeAddress]) -> Result<Vec<ReadOnce>, SessionError> {
        let named: Vec<&NodeAddress> = addresses.iter().collect();
        let nodes = locate(&self.channel, &self.namespaces, &named).await?;
        let places: Vec<usize> = (0..nodes.len()).filter(|at| nodes[*at].is_some()).collect();
        let wanted = nodes.iter().flatten();
        let wanted = wanted.map(|node| (node.clone(), AttributeId::Value));
        let values = attributes(&self.channel, wanted.collect()).await?;
        let values = places.into_iter().zip(values).collect();
        let items: Vec<Item> = addresses
            .iter()
            .zip(0..)
            .map(|(address, place)| Item::new(TagId(place), address.clone(), Duration::ZERO))
            .collect();
        let samples = self.samples(&items, &nodes, values).await?;
        let read = items.iter().map(|item| {
            let sample = samples.iter().find(|sample| sample.tag == item.tag);
            sample.map_or(ABSENT, |sample| {
                (sample.value.clone(), sample.quality, sample.source_time)
            })
        });
        Ok(read.collect())
    }

    async fn samples(
        &self,
        items: &[Item],
        nodes: &[Option<NodeId>],
        values: Vec<(usize, DataValue)>,
    ) -> Result<Vec<Sample>, SessionError> {
        let origin = decode::Origin {
            channel: &self.channel,
            types: &self.types,
            items,
            nodes,
        };
        let read = decode::samples(origin, values, SystemClock::new().now()).await?;
        Ok(read.into_iter().map(|(_, sample)| sample).collect())
    }

    /// Writes what was typed, as the type of the node has it, and reads it back.
    ///
    /// # Errors
    /// Where it does not fit, the server refuses, or the node holds another value afterwards.
    pub async fn write(
        &self,
        address: &NodeAddress,
        typed: &str,
    ) -> Result<WriteReport, WriteError> {
        let unknown = || WriteError::Refused {
            address: address.to_string(),
            message: NO_NAMESPACE.to_owned(),
        };
        let nodes = locate(&self.channel, &self.namespaces, &[address]).await?;
        let node = nodes.into_iter().next().flatten().ok_or_else(unknown)?;
        let writing = Writing {
            channel: &self.channel,
            types: &self.types,
            node: &node,
            address: address.to_string(),
        };
        writing.write(Given::Typed(typed)).await
    }

    /// Takes leave.
    pub async fn close(self) {
        super::session::say_goodbye(&self.channel).await;
    }

    /// The address that means this node in every session: by the namespace's URI, where it has one.
    pub(super) fn address(&self, node: &NodeId) -> String {
        node_address(node, &self.namespaces)
    }

    /// The node of an address.
    pub(super) fn node(&self, address: &NodeAddress) -> Result<NodeId, String> {
        let node = address.resolve(&self.namespaces);
        node.ok_or_else(|| format!("{address}: {NO_NAMESPACE}"))
    }
}

pub(super) const NO_NAMESPACE: &str = "the server does not have its namespace";

/// The status of a value, where it is bad.
pub(super) fn bad(data: &DataValue) -> Option<StatusCode> {
    data.status.filter(|status| status.is_bad())
}

/// The address that means this node in every session: by the namespace's URI, where it has one.
pub(super) fn node_address(node: &NodeId, namespaces: &[String]) -> String {
    match namespaces.get(usize::from(node.namespace)) {
        Some(uri) if node.namespace != 0 && !uri.is_empty() => {
            let uri = uri.replace('%', "%25").replace(';', "%3B");
            format!("nsu={uri};{}", node.identifier)
        }
        _ => node.to_string(),
    }
}
