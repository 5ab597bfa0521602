//! The simulated values, and the count of those that were handed out.
//!
//! One lock covers a tick from the first new value to the last notification, and the reading of an
//! initial value. So a monitored item never gets a value of a tick twice, and the count is exact.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use opcua::types::{AttributeId, DataValue, DateTime, Identifier, NodeId, StatusCode, Variant};
use opcua_server::{MonitoredItemHandle, SubscriptionCache};

use super::history::{History, Span};
use super::node::{SimNode, SimType};
use super::{SimOpcuaSettings, clock};
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
    /// How far the clock is ahead.
    ahead_ms: i64,
    /// Values are handed out without their own time.
    timeless: bool,
    /// The monitored items that there are. The server's own table keeps those of closed sessions.
    watched: HashSet<MonitoredItemHandle>,
}

struct Node {
    name: String,
    id: NodeId,
    kind: SimType,
    generator: Generator,
    /// What somebody wrote: it stays.
    written: Option<Variant>,
    value: Variant,
    changed_at: DateTime,
    /// What is wrong with it, while something is.
    fault: Option<StatusCode>,
    /// The value was written, or the fault came or went, and no tick has told it yet.
    untold: bool,
    served: u64,
    history: History,
}

impl Node {
    fn new(node: &SimNode, seed: u64, kept: usize, now: DateTime) -> Self {
        let mut generator = Generator::new(node.signal.clone(), seed);
        let value = node.kind.value(&mut generator, Duration::ZERO, 0);
        Self {
            name: node.name.clone(),
            id: NodeId::null(),
            kind: node.kind,
            generator,
            written: None,
            value,
            changed_at: now,
            fault: None,
            untold: false,
            served: 0,
            history: History::new(kept),
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

    fn hand_out(&mut self, timeless: bool) -> DataValue {
        self.served += 1;
        let mut data = self.data();
        if timeless {
            data.source_timestamp = None;
        }
        if self.fault.is_none() {
            self.generator.served();
        }
        data
    }

    /// Whether the node is worth something else now.
    fn moves_on(&mut self, elapsed: Duration, namespace: u16) -> bool {
        let told = !std::mem::take(&mut self.untold);
        if self.fault.is_some() {
            return !told;
        }
        let value = match &self.written {
            Some(written) => written.clone(),
            None => self.kind.value(&mut self.generator, elapsed, namespace),
        };
        if told && value == self.value {
            return false;
        }
        self.value = value;
        true
    }
}

impl Plant {
    /// The nodes of these settings.
    pub(super) fn new(settings: &SimOpcuaSettings) -> Self {
        let ahead_ms = settings.faults.clock_ahead_ms;
        let now = clock::now(ahead_ms);
        let nodes = settings.nodes.iter().zip(settings.seed..);
        let nodes: Vec<Node> = nodes
            .map(|(node, seed)| Node::new(node, seed, settings.history, now))
            .collect();
        let names = nodes.iter().map(|node| node.name.clone());
        Self {
            places: names.zip(0..).collect(),
            nodes,
            began: Instant::now(),
            frozen: false,
            namespace: 0,
            ahead_ms,
            timeless: settings.faults.without_source_time,
            watched: HashSet::new(),
        }
    }

    /// Takes so many nodes away, drawn by the seed; their names.
    pub(super) fn take_away(&mut self, count: usize, seed: u64) -> Vec<String> {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut gone = rng.choose_multiple(0..self.nodes.len(), count);
        gone.sort_unstable();
        let names: Vec<String> = gone
            .into_iter()
            .map(|place| self.nodes[place].name.clone())
            .collect();
        for name in &names {
            self.places.remove(name);
        }
        names
    }

    /// A server starts, in which our namespace has this index: nobody watches anything yet.
    pub(super) fn serve_as(&mut self, namespace: u16) {
        self.namespace = namespace;
        self.watched.clear();
        let elapsed = self.began.elapsed();
        for node in &mut self.nodes {
            node.id = NodeId::new(namespace, node.name.as_str());
            if node.kind == SimType::Structure {
                // Its type has another address now.
                node.value = node.kind.value(&mut node.generator, elapsed, namespace);
            }
        }
    }

    /// Somebody has a monitored item from now on.
    pub(super) fn watch(&mut self, item: MonitoredItemHandle) {
        self.watched.insert(item);
    }

    /// The monitored item is gone.
    pub(super) fn unwatch(&mut self, item: MonitoredItemHandle) {
        self.watched.remove(&item);
    }

    /// Name, address, type and value of each node that there is.
    pub(super) fn types(&self) -> impl Iterator<Item = (&str, &NodeId, SimType, Variant)> {
        let there = |node: &&Node| self.places.contains_key(&node.name);
        self.nodes.iter().filter(there).map(|node| {
            let Node {
                name,
                id,
                kind,
                value,
                ..
            } = node;
            (name.as_str(), id, *kind, value.clone())
        })
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

    fn node(&mut self, id: &NodeId) -> Option<&mut Node> {
        let Identifier::String(name) = &id.identifier else {
            return None;
        };
        let place = *self.places.get(name.as_ref())?;
        (id.namespace == self.namespace).then(|| &mut self.nodes[place])
    }

    /// A value for a Read or for a new monitored item; `None` where there is no such node.
    pub(super) fn hand_out(&mut self, id: &NodeId) -> Option<DataValue> {
        let timeless = self.timeless;
        self.node(id).map(|node| node.hand_out(timeless))
    }

    /// Takes a value of the node's own type, which stays.
    pub(super) fn write(&mut self, id: &NodeId, value: &Variant) -> StatusCode {
        let now = clock::now(self.ahead_ms);
        let Some(node) = self.node(id) else {
            return StatusCode::BadNodeIdUnknown;
        };
        if node.kind == SimType::Structure {
            return StatusCode::BadNotWritable;
        }
        if value.type_id() != node.value.type_id() {
            return StatusCode::BadTypeMismatch;
        }
        node.written = Some(value.clone());
        node.value = value.clone();
        (node.changed_at, node.untold) = (now, true);
        StatusCode::Good
    }

    /// What the node was worth in this span, at most so many values, and what is left of the span.
    pub(super) fn history(
        &mut self,
        id: &NodeId,
        span: &Span,
        most: usize,
    ) -> Option<(Vec<DataValue>, Option<Span>)> {
        self.node(id).map(|node| node.history.raw(span, most))
    }

    /// All that is kept of the node of this name, oldest first.
    pub(super) fn recorded(&self, name: &str) -> impl Iterator<Item = &DataValue> {
        let place = self.places.get(name);
        place
            .into_iter()
            .flat_map(|&place| self.nodes[place].history.values())
    }

    /// Moves all values on and tells every subscription what has changed.
    pub(super) fn tick(&mut self, subscriptions: &SubscriptionCache) {
        if self.frozen {
            return;
        }
        let elapsed = self.began.elapsed();
        let now = clock::now(self.ahead_ms);
        let mut notifier = subscriptions.data_notifier();
        for node in &mut self.nodes {
            if !node.moves_on(elapsed, self.namespace) {
                continue;
            }
            node.changed_at = now;
            node.history.record(node.data());
            let Some(mut batch) = notifier.notify_for(&node.id, AttributeId::Value) else {
                continue;
            };
            for (handle, _) in batch.entries() {
                if self.watched.contains(handle) {
                    batch.data_value_to_item(node.hand_out(self.timeless), handle);
                }
            }
        }
    }
}
