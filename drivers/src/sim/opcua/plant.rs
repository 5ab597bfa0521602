//! The simulated values, and the count of those that were handed out.
//!
//! One lock covers a tick from the first new value to the last notification, and the reading of an
//! initial value. So a monitored item never gets a value of a tick twice, and the count is exact.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Instant;

use opcua::server::{MonitoredItemHandle, SubscriptionCache};
use opcua::types::{AttributeId, DataValue, DateTime, Identifier, NodeId, StatusCode, Variant};

use super::node::{SimNode, SimType};
use crate::sim::signal::Generator;

/// How many values were handed out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Served {
    /// Over all nodes.
    pub total: u64,
    /// For each node that any was handed out of, by name.
    pub nodes: BTreeMap<String, u64>,
}

/// All simulated nodes.
pub(super) struct Plant {
    nodes: Vec<Node>,
    places: HashMap<String, usize>,
    began: Instant,
    frozen: bool,
    /// The index of our namespace in the running server.
    namespace: u16,
    /// The monitored items that there are. The server's own table keeps those of closed sessions.
    watched: HashSet<MonitoredItemHandle>,
}

struct Node {
    name: String,
    kind: SimType,
    generator: Generator,
    value: Variant,
    changed_at: DateTime,
    /// What is wrong with it, while something is.
    fault: Option<StatusCode>,
    /// The fault came or went, and no tick has told it yet.
    untold: bool,
    served: u64,
}

impl Node {
    fn new(node: &SimNode, seed: u64) -> Self {
        let mut generator = Generator::new(node.signal.clone(), seed);
        let value = node.kind.value(&mut generator, std::time::Duration::ZERO);
        Self {
            name: node.name.clone(),
            kind: node.kind,
            generator,
            value,
            changed_at: DateTime::now(),
            fault: None,
            untold: false,
            served: 0,
        }
    }

    fn data(&self) -> DataValue {
        DataValue {
            value: self.fault.is_none().then(|| self.value.clone()),
            status: Some(self.fault.unwrap_or(StatusCode::Good)),
            source_timestamp: Some(self.changed_at),
            server_timestamp: Some(self.changed_at),
            ..DataValue::default()
        }
    }

    fn hand_out(&mut self) -> DataValue {
        self.served += 1;
        let data = self.data();
        if self.fault.is_none() {
            self.generator.served();
        }
        data
    }
}

impl Plant {
    pub(super) fn new(nodes: &[SimNode], seed: u64) -> Self {
        let nodes: Vec<Node> = nodes
            .iter()
            .zip(seed..)
            .map(|(node, seed)| Node::new(node, seed))
            .collect();
        let names = nodes.iter().map(|node| node.name.clone());
        Self {
            places: names.zip(0..).collect(),
            nodes,
            began: Instant::now(),
            frozen: false,
            namespace: 0,
            watched: HashSet::new(),
        }
    }

    /// A server starts: nobody watches anything yet.
    pub(super) fn serve_as(&mut self, namespace: u16) {
        self.namespace = namespace;
        self.watched.clear();
    }

    /// Somebody has a monitored item from now on.
    pub(super) fn watch(&mut self, item: MonitoredItemHandle) {
        self.watched.insert(item);
    }

    /// The monitored item is gone.
    pub(super) fn unwatch(&mut self, item: MonitoredItemHandle) {
        self.watched.remove(&item);
    }

    /// Name and type of each node.
    pub(super) fn types(&self) -> impl Iterator<Item = (&str, SimType, Variant)> {
        self.nodes
            .iter()
            .map(|node| (node.name.as_str(), node.kind, node.value.clone()))
    }

    pub(super) fn served(&self) -> Served {
        let served: BTreeMap<String, u64> = self
            .nodes
            .iter()
            .filter(|node| node.served > 0)
            .map(|node| (node.name.clone(), node.served))
            .collect();
        Served {
            total: served.values().sum(),
            nodes: served,
        }
    }

    pub(super) fn freeze(&mut self, frozen: bool) {
        self.frozen = frozen;
    }

    pub(super) fn set_status(&mut self, name: &str, status: Option<u32>) {
        if let Some(&place) = self.places.get(name) {
            let node = &mut self.nodes[place];
            node.untold |= node.fault.is_some() != status.is_some();
            node.fault = status.map(StatusCode::from);
        }
    }

    /// A value for a Read or for a new monitored item; `None` where there is no such node.
    pub(super) fn hand_out(&mut self, id: &NodeId) -> Option<DataValue> {
        let Identifier::String(name) = &id.identifier else {
            return None;
        };
        let place = *self.places.get(name.as_ref())?;
        (id.namespace == self.namespace).then(|| self.nodes[place].hand_out())
    }

    /// Moves all values on and tells every subscription what has changed.
    pub(super) fn tick(&mut self, subscriptions: &SubscriptionCache) {
        if self.frozen {
            return;
        }
        let elapsed = self.began.elapsed();
        let now = DateTime::now();
        let mut notifier = subscriptions.data_notifier();
        for node in &mut self.nodes {
            let told = !std::mem::take(&mut node.untold);
            if node.fault.is_none() {
                let value = node.kind.value(&mut node.generator, elapsed);
                if told && value == node.value {
                    continue;
                }
                node.value = value;
            } else if told {
                continue;
            }
            node.changed_at = now;
            let id = NodeId::new(self.namespace, node.name.as_str());
            let Some(mut batch) = notifier.notify_for(&id, AttributeId::Value) else {
                continue;
            };
            for (handle, _) in batch.entries() {
                if self.watched.contains(handle) {
                    batch.data_value_to_item(node.hand_out(), handle);
                }
            }
        }
    }
}
