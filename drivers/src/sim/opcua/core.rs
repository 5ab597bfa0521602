//! What the server says about itself: the standard nodes with their values, and the two methods of the object Server.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use opcua::sync::RwLock;
use opcua::types::{
    AttributeId, DataValue, ExtensionObject, IdType, MethodId, MonitoringMode,
    ServerStatusDataType, StatusCode, TimestampsToReturn, VariableId, Variant,
};
use opcua_server::address_space::AddressSpace;
use opcua_server::diagnostics::NamespaceMetadata;
use opcua_server::node_manager::memory::{InMemoryNodeManagerBuilder, InMemoryNodeManagerImpl};
use opcua_server::node_manager::{
    MethodCall, MonitoredItemRef, MonitoredItemUpdateRef, NodeManagerBuilder, NodeManagersRef,
    ParsedReadValueId, RequestContext, ServerContext, SyncSampler,
};
use opcua_server::{CreateMonitoredItem, ServerStatusWrapper};

use super::clock::now;
use super::space::stamped;
use super::standard;

/// How often the values are looked at that change by themselves.
const SAMPLE_TIME: Duration = Duration::from_secs(1);

/// The standard nodes of a running server.
struct Core {
    node_managers: NodeManagersRef,
    status: Arc<ServerStatusWrapper>,
    sampler: SyncSampler,
    clock_ahead_ms: i64,
}

/// Serves the standard nodes, by a clock that is so far ahead.
pub(super) fn builder(clock_ahead_ms: i64) -> impl NodeManagerBuilder + 'static {
    InMemoryNodeManagerBuilder::new(move |context: ServerContext, space: &mut AddressSpace| {
        standard::furnish(space);
        Core {
            node_managers: context.node_managers,
            status: context.status,
            sampler: SyncSampler::new(),
            clock_ahead_ms,
        }
    })
}

impl Core {
    /// One value as it is now.
    fn read(
        &self,
        request: &RequestContext,
        space: &AddressSpace,
        wanted: &ParsedReadValueId,
        max_age: f64,
        timestamps: TimestampsToReturn,
    ) -> DataValue {
        if let Err(status) = space.validate_node_read(request, wanted) {
            return failed(status);
        }
        let id = wanted.node_id.as_variable_id().ok();
        if let Some(counter) = id.filter(|id| request.info.diagnostics.is_mapped(*id)) {
            let permissions = request.info.authenticator.core_permissions(&request.token);
            return match permissions.read_diagnostics {
                true => request.info.diagnostics.get(counter).unwrap_or_default(),
                false => failed(StatusCode::BadUserAccessDenied),
            };
        }
        let Some(value) = id.and_then(|id| self.value(request, id)) else {
            return space.read(request, wanted, max_age, timestamps);
        };
        let now = now(self.clock_ahead_ms);
        match value.range_of(&wanted.index_range) {
            Ok(value) => stamped(DataValue::new_at(value, now), timestamps),
            Err(status) => failed(status),
        }
    }

    /// The value of a variable that stands in no row: of the server's status, of what it is set to, or of its neighbours.
    fn value(&self, request: &RequestContext, id: VariableId) -> Option<Variant> {
        let status = &self.status;
        let build = || status.build_info();
        Some(match id {
            VariableId::Server_ServerArray => request.info.servers.clone().into(),
            VariableId::Server_NamespaceArray => self.namespace_uris(request).into(),
            VariableId::Server_ServiceLevel => {
                request.info.service_level.load(Ordering::Relaxed).into()
            }
            VariableId::Server_ServerStatus => {
                ExtensionObject::from_message(status_now(status, self.clock_ahead_ms)).into()
            }
            VariableId::Server_ServerStatus_StartTime => status.start_time().into(),
            VariableId::Server_ServerStatus_CurrentTime => now(self.clock_ahead_ms).into(),
            VariableId::Server_ServerStatus_State => (status.state() as i32).into(),
            VariableId::Server_ServerStatus_SecondsTillShutdown => {
                status.seconds_till_shutdown().into()
            }
            VariableId::Server_ServerStatus_ShutdownReason => status.shutdown_reason().into(),
            VariableId::Server_ServerStatus_BuildInfo => {
                ExtensionObject::from_message(build()).into()
            }
            VariableId::Server_ServerStatus_BuildInfo_ProductUri => build().product_uri.into(),
            VariableId::Server_ServerStatus_BuildInfo_ManufacturerName => {
                build().manufacturer_name.into()
            }
            VariableId::Server_ServerStatus_BuildInfo_ProductName => build().product_name.into(),
            VariableId::Server_ServerStatus_BuildInfo_SoftwareVersion => {
                build().software_version.into()
            }
            VariableId::Server_ServerStatus_BuildInfo_BuildNumber => build().build_number.into(),
            VariableId::Server_ServerStatus_BuildInfo_BuildDate => build().build_date.into(),
            _ => return limit(request, id),
        })
    }

    /// The namespaces of all nodes of the server, each at its index.
    fn namespace_uris(&self, request: &RequestContext) -> Vec<String> {
        let mut uris: BTreeMap<u16, String> = BTreeMap::new();
        for manager in self.node_managers.iter() {
            let namespaces = manager.namespaces_for_user(request).into_iter();
            uris.extend(namespaces.map(|found| (found.namespace_index, found.namespace_uri)));
        }
        let count = uris.keys().last().map_or(0, |last| last.saturating_add(1));
        (0..count)
            .map(|index| uris.remove(&index).unwrap_or_default())
            .collect()
    }

    /// Looks at a value from time to time where nobody says that it has changed.
    fn sample(&self, request: &RequestContext, item: &CreateMonitoredItem) {
        let node_id = &item.item_to_monitor().node_id;
        let Ok(id) = node_id.as_variable_id() else {
            return;
        };
        let (status, ahead) = (self.status.clone(), self.clock_ahead_ms);
        let info = request.info.clone();
        let look: Box<dyn Fn() -> Option<DataValue> + Send> = match id {
            VariableId::Server_ServerStatus => Box::new(move || {
                let status = ExtensionObject::from_message(status_now(&status, ahead));
                Some(DataValue::new_at(status, now(ahead)))
            }),
            VariableId::Server_ServerStatus_CurrentTime => {
                Box::new(move || Some(DataValue::new_at(now(ahead), now(ahead))))
            }
            VariableId::Server_ServerStatus_SecondsTillShutdown => Box::new(move || {
                let seconds = status.seconds_till_shutdown()?;
                Some(DataValue::new_at(seconds, now(ahead)))
            }),
            VariableId::Server_ServerStatus_ShutdownReason => Box::new(move || {
                let reason = status.shutdown_reason()?;
                Some(DataValue::new_at(reason, now(ahead)))
            }),
            counter if info.diagnostics.is_mapped(counter) => {
                Box::new(move || info.diagnostics.get(counter))
            }
            _ => return,
        };
        self.sampler.add_sampler(
            node_id.clone(),
            AttributeId::Value,
            look,
            item.monitoring_mode(),
            item.handle(),
            milliseconds(item.sampling_interval()),
        );
    }

    fn call_method(request: &RequestContext, call: &mut MethodCall) -> Result<(), StatusCode> {
        let method = call.method_id().as_method_id();
        let found = method.map_err(|_| StatusCode::BadMethodInvalid)?;
        let resends = match found {
            MethodId::Server_GetMonitoredItems => false,
            MethodId::Server_ResendData => true,
            // Those of conditions, which there are none of.
            _ => return Err(StatusCode::BadNotSupported),
        };
        let [Variant::UInt32(id)] = call.arguments() else {
            return Err(StatusCode::BadInvalidArgument);
        };
        let id = *id;
        let subscriptions = &request.subscriptions;
        let session = subscriptions.get_session_subscriptions(request.session_id);
        let session = session.ok_or(StatusCode::BadSessionIdInvalid)?;
        let mut session = session.lock();
        let subscription = session.get_mut(id);
        let subscription = subscription.ok_or(StatusCode::BadSubscriptionIdInvalid)?;
        if resends {
            subscription.set_resend_data();
        } else {
            let items = subscription.items();
            let (servers, clients): (Vec<u32>, Vec<u32>) =
                items.map(|item| (item.id(), item.client_handle())).unzip();
            call.set_outputs(vec![servers.into(), clients.into()]);
        }
        call.set_status(StatusCode::Good);
        Ok(())
    }
}

fn status_now(status: &ServerStatusWrapper, clock_ahead_ms: i64) -> ServerStatusDataType {
    ServerStatusDataType {
        start_time: status.start_time(),
        current_time: now(clock_ahead_ms),
        state: status.state(),
        build_info: status.build_info(),
        seconds_till_shutdown: status.seconds_till_shutdown().unwrap_or_default(),
        shutdown_reason: status.shutdown_reason().unwrap_or_default(),
    }
}

/// How much the server takes at once.
fn limit(request: &RequestContext, id: VariableId) -> Option<Variant> {
    use VariableId as Id;
    let limits = &request.info.config.limits;
    let calls = &limits.operational;
    let points = match id {
        Id::Server_ServerCapabilities_MaxBrowseContinuationPoints => {
            Some(limits.max_browse_continuation_points)
        }
        Id::Server_ServerCapabilities_MaxQueryContinuationPoints => {
            Some(limits.max_query_continuation_points)
        }
        Id::Server_ServerCapabilities_MaxHistoryContinuationPoints => {
            Some(limits.max_history_continuation_points)
        }
        _ => None,
    };
    if let Some(points) = points {
        return Some(u16::try_from(points).unwrap_or(u16::MAX).into());
    }
    let most = match id {
        Id::Server_ServerCapabilities_ServerProfileArray => {
            return Some(request.info.capabilities.profiles.clone().into());
        }
        Id::Server_ServerCapabilities_MinSupportedSampleRate => {
            return Some(limits.subscriptions.min_sampling_interval_ms.into());
        }
        Id::Server_ServerCapabilities_MaxArrayLength => limits.max_array_length,
        Id::Server_ServerCapabilities_MaxStringLength => limits.max_string_length,
        Id::Server_ServerCapabilities_MaxByteStringLength => limits.max_byte_string_length,
        Id::Server_ServerCapabilities_OperationLimits_MaxNodesPerRead => calls.max_nodes_per_read,
        Id::Server_ServerCapabilities_OperationLimits_MaxNodesPerWrite => calls.max_nodes_per_write,
        Id::Server_ServerCapabilities_OperationLimits_MaxNodesPerMethodCall => {
            calls.max_nodes_per_method_call
        }
        Id::Server_ServerCapabilities_OperationLimits_MaxNodesPerBrowse => {
            calls.max_nodes_per_browse
        }
        Id::Server_ServerCapabilities_OperationLimits_MaxNodesPerRegisterNodes => {
            calls.max_nodes_per_register_nodes
        }
        Id::Server_ServerCapabilities_OperationLimits_MaxNodesPerTranslateBrowsePathsToNodeIds => {
            calls.max_nodes_per_translate_browse_paths_to_node_ids
        }
        Id::Server_ServerCapabilities_OperationLimits_MaxNodesPerNodeManagement => {
            calls.max_nodes_per_node_management
        }
        Id::Server_ServerCapabilities_OperationLimits_MaxMonitoredItemsPerCall => {
            calls.max_monitored_items_per_call
        }
        Id::Server_ServerCapabilities_OperationLimits_MaxNodesPerHistoryReadData => {
            calls.max_nodes_per_history_read_data
        }
        Id::Server_ServerCapabilities_OperationLimits_MaxNodesPerHistoryReadEvents => {
            calls.max_nodes_per_history_read_events
        }
        Id::Server_ServerCapabilities_OperationLimits_MaxNodesPerHistoryUpdateData
        | Id::Server_ServerCapabilities_OperationLimits_MaxNodesPerHistoryUpdateEvents => {
            calls.max_nodes_per_history_update
        }
        _ => return None,
    };
    Some(u32::try_from(most).unwrap_or(u32::MAX).into())
}

fn failed(status: StatusCode) -> DataValue {
    DataValue {
        status: Some(status),
        ..DataValue::default()
    }
}

fn milliseconds(interval: f64) -> Duration {
    Duration::from_millis(interval as u64)
}

#[async_trait]
impl InMemoryNodeManagerImpl for Core {
    async fn init(&self, _space: &mut AddressSpace, context: ServerContext) {
        self.sampler.run(SAMPLE_TIME, context.subscriptions);
    }

    fn name(&self) -> &str {
        "standard nodes"
    }

    fn namespaces(&self) -> Vec<NamespaceMetadata> {
        vec![NamespaceMetadata {
            namespace_uri: standard::NAMESPACE_URI.to_owned(),
            namespace_index: 0,
            is_namespace_subset: Some(true),
            static_node_id_types: Some(vec![IdType::Numeric]),
            ..NamespaceMetadata::default()
        }]
    }

    async fn read_values(
        &self,
        request: &RequestContext,
        space: &RwLock<AddressSpace>,
        nodes: &[&ParsedReadValueId],
        max_age: f64,
        timestamps: TimestampsToReturn,
    ) -> Vec<DataValue> {
        let space = space.read();
        nodes
            .iter()
            .map(|wanted| self.read(request, &space, wanted, max_age, timestamps))
            .collect()
    }

    async fn create_value_monitored_items(
        &self,
        request: &RequestContext,
        space: &RwLock<AddressSpace>,
        items: &mut [&mut &mut CreateMonitoredItem],
    ) {
        let space = space.read();
        for item in items {
            let timestamps = item.timestamps_to_return();
            let value = self.read(request, &space, item.item_to_monitor(), 0.0, timestamps);
            match value.status() {
                status @ (StatusCode::BadUserAccessDenied | StatusCode::BadNodeIdUnknown) => {
                    item.set_status(status);
                    continue;
                }
                StatusCode::BadAttributeIdInvalid => {}
                _ => item.set_initial_value(value),
            }
            item.set_status(StatusCode::Good);
            self.sample(request, item);
        }
    }

    async fn set_monitoring_mode(
        &self,
        _request: &RequestContext,
        mode: MonitoringMode,
        items: &[&MonitoredItemRef],
    ) {
        for item in items {
            let (node_id, handle) = (item.node_id(), item.handle());
            self.sampler
                .set_sampler_mode(node_id, item.attribute(), handle, mode);
        }
    }

    async fn modify_monitored_items(
        &self,
        _request: &RequestContext,
        items: &[&MonitoredItemUpdateRef],
    ) {
        for item in items {
            let interval = milliseconds(item.update().revised_sampling_interval);
            let (node_id, handle) = (item.node_id(), item.handle());
            self.sampler
                .update_sampler(node_id, item.attribute(), handle, interval);
        }
    }

    async fn delete_monitored_items(&self, _request: &RequestContext, items: &[&MonitoredItemRef]) {
        for item in items {
            self.sampler
                .remove_sampler(item.node_id(), item.attribute(), item.handle());
        }
    }

    async fn call(
        &self,
        request: &RequestContext,
        _space: &RwLock<AddressSpace>,
        calls: &mut [&mut &mut MethodCall],
    ) -> Result<(), StatusCode> {
        for call in calls {
            if let Err(status) = Self::call_method(request, call) {
                call.set_status(status);
            }
        }
        Ok(())
    }
}
