//! Making monitored items in a subscription: in calls that the server takes, with the filters that it takes.

use opcua::types::{
    CreateMonitoredItemsRequest, CreateMonitoredItemsResponse, DataChangeFilter, DataChangeTrigger,
    DeadbandType, ExtensionObject, MonitoredItemCreateRequest, MonitoredItemCreateResult,
    MonitoringMode, MonitoringParameters, StatusCode, TimestampsToReturn,
};

use super::{Monitored, Refusal, milliseconds};
use crate::SessionError;
use crate::opcua::settings::ServerDeadband;

/// The length of an item's queue, or why there is no item.
pub(super) type Granted = Result<u32, StatusCode>;

impl Monitored {
    /// Some servers refuse the whole call where one item is too many, so the calls shrink until they fit.
    pub(super) async fn create_items(
        &self,
        subscription_id: u32,
        places: &[usize],
    ) -> Result<Vec<(usize, Granted)>, SessionError> {
        let mut results = Vec::with_capacity(places.len());
        let mut rest = places;
        let mut size = self.items_max.max(1);
        while !rest.is_empty() {
            let (chunk, later) = rest.split_at(size.min(rest.len()));
            match self.create_chunk(subscription_id, chunk).await {
                Ok(codes) => {
                    results.extend(chunk.iter().copied().zip(codes));
                    rest = later;
                }
                Err(Refusal::TooMany(_)) if chunk.len() > 1 => size = chunk.len() / 2,
                Err(Refusal::TooMany(code)) => {
                    results.extend(rest.iter().map(|&place| (place, Err(code))));
                    break;
                }
                Err(Refusal::Subscription(code)) => {
                    results.extend(rest.iter().map(|&place| (place, Err(code))));
                    break;
                }
                Err(Refusal::Broken(error)) => return Err(error),
            }
        }
        Ok(results)
    }

    async fn create_chunk(
        &self,
        subscription_id: u32,
        places: &[usize],
    ) -> Result<Vec<Granted>, Refusal> {
        let items = places.iter().filter_map(|&place| self.item(place));
        let timeout = self.channel.timeout();
        let request = CreateMonitoredItemsRequest {
            request_header: self.channel.header(timeout),
            subscription_id,
            timestamps_to_return: TimestampsToReturn::Both,
            items_to_create: Some(items.collect()),
        };
        let sent = self
            .channel
            .send::<CreateMonitoredItemsResponse>(request, timeout);
        let created = match sent.await {
            Ok(response) => response.results.unwrap_or_default(),
            Err(error) => {
                let asked = self.channel.asked("CreateMonitoredItems");
                return Err(match error.status() {
                    code @ (StatusCode::BadTooManyMonitoredItems
                    | StatusCode::BadTooManyOperations) => Refusal::TooMany(code),
                    _ => Refusal::Broken(asked.failed(&error)),
                });
            }
        };
        self.check_count(places.len(), &created)
            .map_err(Refusal::Broken)?;
        Ok(created.iter().map(granted).collect())
    }

    fn check_count(
        &self,
        asked: usize,
        created: &[MonitoredItemCreateResult],
    ) -> Result<(), SessionError> {
        if created.len() == asked {
            return Ok(());
        }
        let found = format!("{} results for {asked} items", created.len());
        Err(self.channel.asked("CreateMonitoredItems").unfit(&found))
    }

    /// The client handle of an item is its place.
    fn item(&self, place: usize) -> Option<MonitoredItemCreateRequest> {
        let sampling = self.sampling_interval.unwrap_or(self.items[place].interval);
        Some(MonitoredItemCreateRequest {
            item_to_monitor: self.value_id(place)?,
            monitoring_mode: MonitoringMode::Reporting,
            requested_parameters: MonitoringParameters {
                client_handle: u32::try_from(place).ok()?,
                sampling_interval: milliseconds(sampling),
                filter: self.filter(place),
                queue_size: self.queue_size,
                discard_oldest: !self.discards_newest,
            },
        })
    }

    /// Good ones are done, those that the subscription has no room for go on, the others failed.
    pub(super) fn sort_out(
        &mut self,
        subscription: u32,
        results: Vec<(usize, Granted)>,
        failed: &mut Vec<(usize, StatusCode)>,
    ) -> Vec<usize> {
        let mut waiting = Vec::new();
        for (place, granted) in results {
            match granted {
                Err(StatusCode::BadTooManyMonitoredItems) => waiting.push(place),
                Err(code) if self.has_filter(place) && is_about_filter(code) => {
                    self.unfiltered.insert(place);
                    self.notes
                        .unfiltered(place, &self.items[place], &code.to_string());
                    waiting.push(place);
                }
                Err(code) => failed.push((place, code)),
                Ok(queue) => {
                    self.subscriptions[place] = subscription;
                    self.queues[place] = queue;
                }
            }
        }
        waiting
    }

    fn has_filter(&self, place: usize) -> bool {
        self.items[place].deadband.is_some() && !self.unfiltered.contains(&place)
    }

    fn filter(&self, place: usize) -> ExtensionObject {
        let deadband = self.items[place]
            .deadband
            .filter(|_| self.has_filter(place));
        let (kind, size) = match deadband {
            None => return ExtensionObject::null(),
            Some(ServerDeadband::Absolute(size)) => (DeadbandType::Absolute, size),
            Some(ServerDeadband::Percent(size)) => (DeadbandType::Percent, size),
        };
        ExtensionObject::from_message(DataChangeFilter {
            trigger: DataChangeTrigger::StatusValue,
            deadband_type: kind as u32,
            deadband_value: size,
        })
    }
}

fn granted(result: &MonitoredItemCreateResult) -> Granted {
    match result.status_code {
        code if code.is_bad() => Err(code),
        _ => Ok(result.revised_queue_size),
    }
}

fn is_about_filter(code: StatusCode) -> bool {
    matches!(
        code,
        StatusCode::BadMonitoredItemFilterInvalid
            | StatusCode::BadMonitoredItemFilterUnsupported
            | StatusCode::BadFilterNotAllowed
            | StatusCode::BadDeadbandFilterInvalid
    )
}
