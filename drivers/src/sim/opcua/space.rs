//! The address space of the simulated server: one folder with all variables.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use opcua::nodes::VariableBuilder;
use opcua::server::CreateMonitoredItem;
use opcua::server::address_space::{AddressSpace, add_namespaces};
use opcua::server::diagnostics::NamespaceMetadata;
use opcua::server::node_manager::memory::{InMemoryNodeManagerBuilder, InMemoryNodeManagerImpl};
use opcua::server::node_manager::{
    MonitoredItemRef, NodeManagerBuilder, ParsedReadValueId, RequestContext, ServerContext,
};
use opcua::sync::RwLock;
use opcua::types::{
    DataTypeId, DataValue, NodeId, NumericRange, ObjectId, StatusCode, TimestampsToReturn,
    VariableTypeId,
};

use super::NAMESPACE_URI;
use super::plant::Plant;

/// The server would otherwise hold back values that come faster than the item's sampling interval, and
/// drop those in between. Here every change is an event of its own.
const SAMPLING_INTERVAL_MS: f64 = 0.001;

pub(super) struct Space {
    plant: Arc<Mutex<Plant>>,
    namespace: u16,
}

impl Space {
    pub(super) fn builder(plant: Arc<Mutex<Plant>>) -> impl NodeManagerBuilder + 'static {
        InMemoryNodeManagerBuilder::new(move |context: ServerContext, space: &mut AddressSpace| {
            let namespace = add_namespaces(&context, space, &[NAMESPACE_URI])[0];
            let built = Self { plant, namespace };
            built.furnish(space);
            built
        })
    }

    fn plant(&self) -> MutexGuard<'_, Plant> {
        self.plant.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn furnish(&self, space: &mut AddressSpace) {
        let folder = NodeId::new(self.namespace, "Simulation");
        space.add_folder(
            &folder,
            "Simulation",
            "Simulation",
            &ObjectId::ObjectsFolder.into(),
        );
        let mut plant = self.plant();
        plant.serve_as(self.namespace);
        for (name, kind, value) in plant.types() {
            let id = NodeId::new(self.namespace, name);
            let data_type: DataTypeId = kind.data_type();
            VariableBuilder::new(&id, name, name)
                .data_type(data_type)
                .value(value)
                .has_type_definition(VariableTypeId::BaseDataVariableType)
                .organized_by(folder.clone())
                .insert(space);
        }
    }
}

#[async_trait]
impl InMemoryNodeManagerImpl for Space {
    async fn init(&self, _space: &mut AddressSpace, _context: ServerContext) {}

    fn name(&self) -> &str {
        "millrace simulation"
    }

    fn namespaces(&self) -> Vec<NamespaceMetadata> {
        vec![NamespaceMetadata {
            namespace_uri: NAMESPACE_URI.to_owned(),
            namespace_index: self.namespace,
            ..NamespaceMetadata::default()
        }]
    }

    async fn read_values(
        &self,
        _context: &RequestContext,
        _space: &RwLock<AddressSpace>,
        nodes: &[&ParsedReadValueId],
        _max_age: f64,
        timestamps_to_return: TimestampsToReturn,
    ) -> Vec<DataValue> {
        let mut plant = self.plant();
        nodes
            .iter()
            .map(|read| match read.index_range {
                NumericRange::None => plant
                    .hand_out(&read.node_id)
                    .map_or_else(unknown, |data| stamped(data, timestamps_to_return)),
                _ => failed(StatusCode::BadIndexRangeNoData),
            })
            .collect()
    }

    async fn create_value_monitored_items(
        &self,
        _context: &RequestContext,
        _space: &RwLock<AddressSpace>,
        items: &mut [&mut &mut CreateMonitoredItem],
    ) {
        let mut plant = self.plant();
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
        let mut plant = self.plant();
        for item in items {
            plant.unwatch(item.handle());
        }
    }
}

fn unknown() -> DataValue {
    failed(StatusCode::BadNodeIdUnknown)
}

fn failed(status: StatusCode) -> DataValue {
    DataValue {
        status: Some(status),
        ..DataValue::default()
    }
}

fn stamped(mut data: DataValue, wanted: TimestampsToReturn) -> DataValue {
    use TimestampsToReturn::{Neither, Server, Source};
    if matches!(wanted, Server | Neither) {
        data.source_timestamp = None;
    }
    if matches!(wanted, Source | Neither) {
        data.server_timestamp = None;
    }
    data
}
