//! Events and alarms: what a server tells of by itself, besides values.
//!
//! The notifiers that the configuration names are monitored in a subscription of their own, whose notifications are
//! acknowledged like those of values. A condition (an alarm) begins when it becomes active, is updated while it is, and
//! ends when it no longer is; any other event begins and ends at once. After a new session the server is asked for the
//! conditions that it holds active (ConditionRefresh): one that ended meanwhile ends then.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use millrace_tags::{DeviceAlarm, Event, EventDetail, EventState, Moment};
use opcua::types::{
    AttributeId, CallMethodRequest, CallRequest, CallResponse, ContentFilter,
    CreateMonitoredItemsRequest, CreateMonitoredItemsResponse, EventFieldList, EventFilter,
    EventNotificationList, ExtensionObject, MethodId, MonitoredItemCreateRequest, MonitoringMode,
    MonitoringParameters, NodeId, NumericRange, ObjectTypeId, QualifiedName, ReadValueId,
    SimpleAttributeOperand, TimestampsToReturn, Variant,
};

use super::NodeAddress;
use super::decode;
use super::delivered::OpenAlarm;
use super::subscription::Monitored;
use crate::SessionError;

/// Events that the server keeps for us between two publishings.
const EVENTS_QUEUED: u32 = 1000;

/// What is asked of each event, in this order; a server leaves empty what an event does not have.
const FIELDS: [(ObjectTypeId, &[&str]); 11] = [
    (ObjectTypeId::BaseEventType, &["EventType"]),
    (ObjectTypeId::BaseEventType, &["SourceNode"]),
    (ObjectTypeId::BaseEventType, &["SourceName"]),
    (ObjectTypeId::BaseEventType, &["Time"]),
    (ObjectTypeId::BaseEventType, &["Message"]),
    (ObjectTypeId::BaseEventType, &["Severity"]),
    // Without a path: the id of the condition itself.
    (ObjectTypeId::ConditionType, &[]),
    (ObjectTypeId::ConditionType, &["ConditionName"]),
    (ObjectTypeId::ConditionType, &["Retain"]),
    (ObjectTypeId::AlarmConditionType, &["ActiveState", "Id"]),
    (
        ObjectTypeId::AcknowledgeableConditionType,
        &["AckedState", "Id"],
    ),
];

/// Which events a device is asked for.
#[derive(Debug, Clone, Default)]
pub(super) struct Watch {
    pub(super) notifiers: Vec<NodeAddress>,
    /// Those below are left out, unless they end a condition that was told.
    pub(super) severity_min: u16,
    /// The server's, by index.
    pub(super) namespaces: Vec<String>,
    pub(super) alarms: Alarms,
}

/// The conditions that are active, as far as was told; kept from one session of a device to the next.
#[derive(Debug, Clone, Default)]
pub(super) struct Alarms(Arc<Mutex<Active>>);

#[derive(Debug, Default)]
struct Active {
    /// By the address of the condition, which stays the same where the server's namespaces change places.
    since: HashMap<String, Told>,
    /// While the server tells all active conditions again: those that it has not told yet.
    unconfirmed: Option<Vec<String>>,
}

#[derive(Debug, Clone)]
struct Told {
    since: Moment,
    detail: EventDetail,
}

impl Monitored {
    /// Subscribes to the events of the notifiers, where there are any.
    pub(super) async fn watch_events(&mut self) -> Result<(), SessionError> {
        if self.watch.notifiers.is_empty() {
            return Ok(());
        }
        let subscription_id = self.create_subscription().await?;
        let notifiers = self.watch.notifiers.clone();
        let nodes = notifiers
            .iter()
            .map(|at| at.resolve(&self.watch.namespaces));
        let (mut asked, mut items) = (Vec::new(), Vec::new());
        for (notifier, node) in notifiers.iter().zip(nodes) {
            match node {
                Some(node) => {
                    items.push(item(node, self.items.len() + asked.len()));
                    asked.push(notifier);
                }
                None => self.not_watched(notifier, "the server does not have its namespace"),
            }
        }
        let created: CreateMonitoredItemsResponse = self
            .channel
            .request("CreateMonitoredItems", |request_header| {
                CreateMonitoredItemsRequest {
                    request_header,
                    subscription_id,
                    timestamps_to_return: TimestampsToReturn::Both,
                    items_to_create: Some(items),
                }
            })
            .await?;
        for (notifier, result) in asked.iter().zip(created.results.iter().flatten()) {
            if result.status_code.is_bad() {
                self.not_watched(notifier, &result.status_code.to_string());
            }
        }
        self.refresh_conditions(subscription_id).await
    }

    fn not_watched(&self, notifier: &NodeAddress, why: &str) {
        self.notes
            .warn(&format!("events of {notifier} are not sent: {why}"));
    }

    /// A server without conditions refuses, which is no harm.
    async fn refresh_conditions(&self, subscription_id: u32) -> Result<(), SessionError> {
        let channel = &self.channel;
        let request = CallRequest {
            request_header: channel.header(channel.timeout()),
            methods_to_call: Some(vec![CallMethodRequest {
                object_id: ObjectTypeId::ConditionType.into(),
                method_id: MethodId::ConditionType_ConditionRefresh.into(),
                input_arguments: Some(vec![Variant::UInt32(subscription_id)]),
            }]),
        };
        let sent = channel.send::<CallResponse>(request, channel.timeout());
        match sent.await {
            Err(error) if channel.is_cut() => Err(channel.asked("Call").failed(&error)),
            _ => Ok(()),
        }
    }

    /// What a notification tells.
    pub(super) fn told(&self, list: &EventNotificationList, at: Moment) -> Vec<Event> {
        let told = list.events.iter().flatten().cloned();
        let told = told.filter_map(|fields| Fields::read(fields, &self.watch.namespaces));
        let mut active = self.watch.alarms.lock();
        told.flat_map(|fields| active.take(fields, self.watch.severity_min, at))
            .collect()
    }
}

impl Alarms {
    /// Goes on from what was told by an agent before this one.
    pub(super) fn after(open: Vec<OpenAlarm>) -> Self {
        let told = |OpenAlarm { id, since, detail }| (id, Told { since, detail });
        Self(Arc::new(Mutex::new(Active {
            since: open.into_iter().map(told).collect(),
            unconfirmed: None,
        })))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Active> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn item(node_id: NodeId, handle: usize) -> MonitoredItemCreateRequest {
    let filter = EventFilter {
        select_clauses: Some(FIELDS.iter().map(operand).collect()),
        where_clause: ContentFilter { elements: None },
    };
    MonitoredItemCreateRequest {
        item_to_monitor: ReadValueId {
            node_id,
            attribute_id: AttributeId::EventNotifier as u32,
            index_range: NumericRange::None,
            data_encoding: QualifiedName::null(),
        },
        monitoring_mode: MonitoringMode::Reporting,
        requested_parameters: MonitoringParameters {
            client_handle: u32::try_from(handle).unwrap_or(u32::MAX),
            sampling_interval: 0.0,
            filter: ExtensionObject::from_message(filter),
            queue_size: EVENTS_QUEUED,
            discard_oldest: true,
        },
    }
}

fn operand((kind, path): &(ObjectTypeId, &[&str])) -> SimpleAttributeOperand {
    let attribute = match path.is_empty() {
        true => AttributeId::NodeId,
        false => AttributeId::Value,
    };
    let path = path.iter().map(|name| QualifiedName::new(0, *name));
    SimpleAttributeOperand {
        type_definition_id: (*kind).into(),
        browse_path: Some(path.collect()),
        attribute_id: attribute as u32,
        index_range: NumericRange::None,
    }
}

/// One event, as far as it is understood.
struct Fields {
    event_type: NodeId,
    condition: Option<String>,
    retain: bool,
    active: Option<bool>,
    detail: EventDetail,
    severity: u16,
}

impl Fields {
    /// `None` where it has not even a type.
    fn read(fields: EventFieldList, namespaces: &[String]) -> Option<Self> {
        let mut values = fields.event_fields?.into_iter();
        let mut next = || values.next().unwrap_or_default();
        let event_type = node_id(next())?;
        let source = node_id(next());
        let name = text(next());
        let time = match next() {
            Variant::DateTime(time) => decode::timestamp(&time),
            _ => None,
        };
        let message = text(next());
        let severity = match next() {
            Variant::UInt16(severity) => severity,
            _ => 0,
        };
        let condition = node_id(next());
        let condition = condition.map(|node| super::tool::node_address(&node, namespaces));
        let condition_name = text(next());
        let retain = next() == Variant::Boolean(true);
        let active = flag(next());
        let acked = flag(next());
        let message = match (message, &condition_name, &name) {
            (Some(message), ..) => message,
            (None, Some(named), _) | (None, None, Some(named)) => named.clone(),
            (None, None, None) => event_type.to_string(),
        };
        Some(Self {
            event_type,
            condition: condition.clone(),
            retain,
            active,
            severity,
            detail: EventDetail::Alarm {
                message,
                told: Some(Box::new(DeviceAlarm {
                    severity,
                    node: source.map(|node| super::tool::node_address(&node, namespaces)),
                    name,
                    condition: condition_name,
                    id: condition,
                    acked,
                    source_time: time,
                })),
            },
        })
    }
}

fn node_id(variant: Variant) -> Option<NodeId> {
    match variant {
        Variant::NodeId(id) if !id.is_null() => Some(*id),
        _ => None,
    }
}

fn text(variant: Variant) -> Option<String> {
    let text = match variant {
        Variant::String(text) => text,
        Variant::LocalizedText(text) => text.text,
        _ => return None,
    };
    Some(text.to_string()).filter(|text| !text.is_empty() && !text.as_str().eq("null"))
}

fn flag(variant: Variant) -> Option<bool> {
    match variant {
        Variant::Boolean(on) => Some(on),
        _ => None,
    }
}

impl Active {
    fn take(&mut self, fields: Fields, severity_min: u16, at: Moment) -> Vec<Event> {
        let is = |kind: ObjectTypeId| fields.event_type == kind;
        if is(ObjectTypeId::RefreshStartEventType) {
            self.unconfirmed = Some(self.since.keys().cloned().collect());
            return Vec::new();
        }
        if is(ObjectTypeId::RefreshEndEventType) {
            return self.end_unconfirmed(at);
        }
        if is(ObjectTypeId::RefreshRequiredEventType) {
            return Vec::new();
        }
        let quiet = fields.severity < severity_min;
        let Some(condition) = fields.condition else {
            if quiet {
                return Vec::new();
            }
            return vec![event(EventState::End, at, at, fields.detail)];
        };
        if let Some(unconfirmed) = &mut self.unconfirmed {
            unconfirmed.retain(|open| *open != condition);
        }
        // A condition that is no alarm is held as long as it is of interest.
        let is_active = fields.active.unwrap_or(fields.retain);
        let told = self.since.get(&condition).cloned();
        match (is_active, told) {
            (true, Some(told)) => {
                if told.detail == fields.detail {
                    return Vec::new();
                }
                let since = told.since;
                self.hold(condition, since, &fields.detail);
                vec![event(EventState::Update, since, at, fields.detail)]
            }
            (true, None) if quiet => Vec::new(),
            (true, None) => {
                self.hold(condition, at, &fields.detail);
                vec![event(EventState::Begin, at, at, fields.detail)]
            }
            (false, Some(told)) => {
                self.since.remove(&condition);
                vec![event(EventState::End, told.since, at, fields.detail)]
            }
            (false, None) => Vec::new(),
        }
    }

    fn hold(&mut self, condition: String, since: Moment, detail: &EventDetail) {
        let detail = detail.clone();
        self.since.insert(condition, Told { since, detail });
    }

    fn end_unconfirmed(&mut self, at: Moment) -> Vec<Event> {
        let gone = self.unconfirmed.take().unwrap_or_default().into_iter();
        let gone = gone.filter_map(|condition| self.since.remove(&condition));
        gone.map(|told| event(EventState::End, told.since, at, told.detail))
            .collect()
    }
}

fn event(state: EventState, start: Moment, at: Moment, detail: EventDetail) -> Event {
    Event {
        state,
        at,
        start,
        end: (state == EventState::End).then_some(at),
        detail,
    }
}

#[cfg(test)]
mod tests;
