//! The address space of the simulated server: one folder with all variables and the methods.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use opcua::sync::RwLock;
use opcua::types::{
    AttributeId, DataValue, HistoryData, NodeId, NumericRange, ObjectId, QualifiedName,
    ReadRawModifiedDetails, StatusCode, TimestampsToReturn, VariableTypeId,
};
use opcua_server::address_space::VariableBuilder;
use opcua_server::address_space::{AddressSpace, add_namespaces};
use opcua_server::diagnostics::NamespaceMetadata;
use opcua_server::node_manager::memory::{InMemoryNodeManagerBuilder, InMemoryNodeManagerImpl};
use opcua_server::node_manager::{
    HistoryNode, MethodCall, MonitoredItemRef, NodeManagerBuilder, ParsedReadValueId,
    RequestContext, ServerContext, WriteNode,
};
use opcua_server::{ContinuationPoint, CreateMonitoredItem};
use tokio::sync::mpsc;

use super::faults::{Faults, Upset};
use super::history::Span;
use super::node::SimType;
use super::plant::Plant;
use super::{NAMESPACE_URI, method, structure};

/// The server would otherwise hold back values that come faster than the item's sampling interval, and
/// drop those in between. Here every change is an event of its own.
const SAMPLING_INTERVAL_MS: f64 = 0.001;

/// A namespace that stands before ours once the order has changed.
const OTHER_NAMESPACE_URI: &str = "urn:millrace:sim:other";

/// Values of a node in one HistoryRead reply, where no fault limits them further.
const HISTORY_MAX: usize = 10_000;

pub(super) struct Space {
    pub(super) plant: Arc<Mutex<Plant>>,
    pub(super) faults: Arc<Faults>,
    /// Whether another namespace comes first.
    pub(super) reordered: bool,
    /// Whether history is kept.
    pub(super) historizing: bool,
    /// Where calls for misbehaviour go.
    pub(super) upsets: mpsc::Sender<Upset>,
}

/// A space in a running server.
struct Furnished {
    space: Space,
    namespace: u16,
}

impl Space {
    pub(super) fn builder(self) -> impl NodeManagerBuilder + 'static {
        InMemoryNodeManagerBuilder::new(move |context: ServerContext, nodes: &mut AddressSpace| {
            let mut uris = vec![NAMESPACE_URI];
            if self.reordered {
                uris.insert(0, OTHER_NAMESPACE_URI);
            }
            let indexes = add_namespaces(&context, nodes, &uris);
            let namespace = indexes.last().copied().unwrap_or_default();
            self.furnish(nodes, namespace);
            Furnished {
                space: self,
                namespace,
            }
        })
    }

    fn plant(&self) -> MutexGuard<'_, Plant> {
        self.plant.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn furnish(&self, nodes: &mut AddressSpace, namespace: u16) {
        let folder = NodeId::new(namespace, "Simulation");
        nodes.add_folder(
            &folder,
            QualifiedName::new(namespace, "Simulation"),
            "Simulation",
            &ObjectId::ObjectsFolder.into(),
        );
        structure::furnish(nodes, namespace);
        method::furnish(nodes, namespace, &folder);
        let mut plant = self.plant();
        plant.serve_as(namespace);
        for (name, id, kind, value) in plant.types() {
            let mut variable = VariableBuilder::new(id, QualifiedName::new(namespace, name), name)
                .data_type(kind.data_type(namespace))
                .value(value)
                .has_type_definition(VariableTypeId::BaseDataVariableType)
                .organized_by(folder.clone());
            if kind != SimType::Structure {
                variable = variable.writable();
            }
            if self.historizing {
                variable = variable.historizing(true).history_readable();
            }
            variable.insert(nodes);
        }
    }

    fn read_history(
        &self,
        node: &mut HistoryNode,
        details: &ReadRawModifiedDetails,
        timestamps: TimestampsToReturn,
    ) -> Result<(), StatusCode> {
        if details.is_read_modified {
            return Err(StatusCode::BadHistoryOperationUnsupported);
        }
        let span = match node.continuation_point() {
            Some(point) => point.get::<Span>().cloned(),
            None => Span::asked(details),
        };
        let span = span.ok_or(StatusCode::BadHistoryOperationInvalid)?;
        let most = self.faults.history_max.unwrap_or(HISTORY_MAX);
        let most = match details.num_values_per_node {
            0 => most,
            asked => most.min(asked as usize),
        };
        let found = self.plant().history(node.node_id(), &span, most);
        let (values, rest) = found.ok_or(StatusCode::BadNodeIdUnknown)?;
        let status = match values.is_empty() {
            true => StatusCode::GoodNoData,
            false => StatusCode::Good,
        };
        let values = values.into_iter().map(|data| stamped(data, timestamps));
        node.set_result(HistoryData {
            data_values: Some(values.collect()),
        });
        if !self.faults.without_continuation {
            let point = rest.map(|span| ContinuationPoint::new(Box::new(span)));
            node.set_next_continuation_point(point);
        }
        node.set_status(status);
        Ok(())
    }
}

#[async_trait]
impl InMemoryNodeManagerImpl for Furnished {
    async fn init(&self, _space: &mut AddressSpace, _context: ServerContext) {}

    fn name(&self) -> &str {
        "millrace simulation"
    }

    fn namespaces(&self) -> Vec<NamespaceMetadata> {
        let uris = [OTHER_NAMESPACE_URI, NAMESPACE_URI];
        let first = usize::from(!self.space.reordered);
        uris[first..]
            .iter()
            .rev()
            .zip((0..=self.namespace).rev())
            .map(|(uri, index)| NamespaceMetadata {
                namespace_uri: (*uri).to_owned(),
                namespace_index: index,
                ..NamespaceMetadata::default()
            })
            .collect()
    }

    async fn read_values(
        &self,
        context: &RequestContext,
        nodes_of: &RwLock<AddressSpace>,
        nodes: &[&ParsedReadValueId],
        max_age: f64,
        timestamps_to_return: TimestampsToReturn,
    ) -> Vec<DataValue> {
        let nodes_of = nodes_of.read();
        let mut plant = self.space.plant();
        nodes
            .iter()
            .map(|read| match plant.hand_out(&read.node_id) {
                Some(data) if !read.index_range.has_range() => stamped(data, timestamps_to_return),
                Some(_) => DataValue {
                    status: Some(StatusCode::BadIndexRangeNoData),
                    ..DataValue::default()
                },
                // The arguments of a method.
                None => nodes_of.read(context, read, max_age, timestamps_to_return),
            })
            .collect()
    }

    async fn create_value_monitored_items(
        &self,
        _context: &RequestContext,
        _space: &RwLock<AddressSpace>,
        items: &mut [&mut &mut CreateMonitoredItem],
    ) {
        let mut plant = self.space.plant();
        for item in items {
            let Some(data) = plant.hand_out(&item.item_to_monitor().node_id) else {
                item.set_status(StatusCode::BadNodeIdUnknown);
                continue;
            };
            item.set_initial_value(data);
            item.revise_sampling_interval(SAMPLING_INTERVAL_MS);
            item.set_status(StatusCode::Good);
            plant.watch(item.handle());
        }
    }

    async fn delete_monitored_items(&self, _context: &RequestContext, items: &[&MonitoredItemRef]) {
        let mut plant = self.space.plant();
        for item in items {
            plant.unwatch(item.handle());
        }
    }

    async fn history_read_raw_modified(
        &self,
        _context: &RequestContext,
        details: &ReadRawModifiedDetails,
        nodes: &mut [&mut &mut HistoryNode],
        timestamps_to_return: TimestampsToReturn,
    ) -> Result<(), StatusCode> {
        for node in nodes {
            let read = self.space.read_history(node, details, timestamps_to_return);
            if let Err(status) = read {
                node.set_status(status);
            }
        }
        Ok(())
    }

    async fn write(
        &self,
        _context: &RequestContext,
        _space: &RwLock<AddressSpace>,
        nodes_to_write: &mut [&mut WriteNode],
    ) -> Result<(), StatusCode> {
        let mut plant = self.space.plant();
        for node in nodes_to_write {
            let wanted = node.value();
            let status = match (
                &wanted.value.value,
                wanted.attribute_id,
                &wanted.index_range,
            ) {
                (Some(value), AttributeId::Value, NumericRange::None) => {
                    plant.write(&wanted.node_id, value)
                }
                _ => StatusCode::BadWriteNotSupported,
            };
            node.set_status(status);
        }
        Ok(())
    }

    async fn call(
        &self,
        _context: &RequestContext,
        _space: &RwLock<AddressSpace>,
        methods_to_call: &mut [&mut &mut MethodCall],
    ) -> Result<(), StatusCode> {
        for call in methods_to_call {
            method::call(call, &self.space.upsets);
        }
        Ok(())
    }
}

pub(super) fn stamped(mut data: DataValue, wanted: TimestampsToReturn) -> DataValue {
    use TimestampsToReturn::{Neither, Server, Source};
    if matches!(wanted, Server | Neither) {
        data.source_timestamp = None;
    }
    if matches!(wanted, Source | Neither) {
        data.server_timestamp = None;
    }
    data
}
