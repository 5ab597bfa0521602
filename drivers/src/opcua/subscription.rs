//! Subscriptions and their monitored items.

mod items;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use millrace_tags::{Clock, Sample};
use opcua::types::{
    CreateSubscriptionRequest, CreateSubscriptionResponse, NodeId, ReadValueId, StatusCode,
    TimestampsToReturn,
};

use super::NodeAddress;
use super::channel::Channel;
use super::events::Watch;
use super::locate::locate;
use super::notes::Notes;
use super::sequence::Sequence;
use super::server::{self, Server, value_of};
use super::settings::{Discard, Item, Settings};
use super::types::Types;
use super::{decode, status};
use crate::SessionError;

/// A server that takes fewer items per subscription than needed gets further ones, up to this.
const SUBSCRIPTIONS_MAX: usize = 50;

/// Values in one message: about a megabyte of numbers. A server that has queued more than either side takes in one message
/// would have to end the session.
const NOTIFICATIONS_MAX: u32 = 20_000;

/// How long a server keeps a subscription that nobody publishes from.
const LIFETIME: Duration = Duration::from_secs(60);

/// No server samples faster, and a publishing interval of zero would mean "as fast as you can".
const PUBLISH_INTERVAL_MIN: Duration = Duration::from_millis(10);

/// Why a call created nothing.
enum Refusal {
    /// There is no subscription, or no further one.
    Subscription(StatusCode),
    /// Fewer may do.
    TooMany(StatusCode),
    /// The session is broken.
    Broken(SessionError),
}

/// Items of a session and what has become of them.
pub(super) struct Monitored {
    pub(super) channel: Arc<Channel>,
    pub(super) items: Arc<[Item]>,
    /// `None` where the server lacks the item's namespace.
    nodes: Vec<Option<NodeId>>,
    namespaces: Vec<String>,
    types: Types,
    sampling_interval: Option<Duration>,
    publish_interval: Duration,
    queue_size: u32,
    keep_alive: Duration,
    items_max: usize,
    subscription_items_max: usize,
    reads_max: usize,
    /// Nodes in one HistoryRead.
    pub(super) histories_max: usize,
    /// Where the server's queue of an item is full, it keeps the oldest.
    pub(super) discards_newest: bool,
    /// The subscription of each item; zero where it has none.
    subscriptions: Vec<u32>,
    /// The length of each item's queue, as the server granted it.
    queues: Vec<u32>,
    /// Places of the items whose deadband the server does not take.
    unfiltered: HashSet<usize>,
    /// Why the server makes no subscription at all.
    pub(super) unsupported: Option<StatusCode>,
    pub(super) sequences: HashMap<u32, Sequence>,
    /// Places of the items that the server does not monitor; tried again now and then.
    pub(super) refused: Vec<usize>,
    /// How long the server may be silent: three keep-alives, as it revised them.
    pub(super) silence_max: Duration,
    pub(super) notes: Notes,
    pub(super) clock: Arc<dyn Clock>,
    /// The events that are asked for.
    pub(super) watch: Watch,
}

impl Monitored {
    /// Nothing is monitored yet.
    pub(super) fn new(
        channel: Arc<Channel>,
        settings: &Settings,
        items: Arc<[Item]>,
        server: &Server,
        notes: Notes,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let count = items.len();
        Self {
            // Looked for with the first items.
            nodes: vec![None; count],
            namespaces: server.namespaces.clone(),
            channel,
            items,
            types: Types::default(),
            sampling_interval: settings.sampling_interval,
            publish_interval: settings.publish_interval.max(PUBLISH_INTERVAL_MIN),
            queue_size: settings.queue_size.max(1),
            keep_alive: settings.keep_alive,
            items_max: server.items_max,
            subscription_items_max: server.subscription_items_max,
            reads_max: server.reads_max,
            histories_max: server.histories_max,
            discards_newest: settings.discard == Discard::Newest,
            subscriptions: vec![0; count],
            queues: vec![0; count],
            unfiltered: HashSet::new(),
            unsupported: None,
            sequences: HashMap::new(),
            refused: Vec::new(),
            silence_max: 3 * settings.keep_alive,
            notes,
            clock,
            watch: Watch::default(),
        }
    }

    /// Everything as before, on another channel.
    pub(super) fn go_on(&mut self, channel: Arc<Channel>, notes: Notes) {
        self.notes.pass_on(&notes);
        self.channel = channel;
        self.notes = notes;
    }

    /// What is needed to understand values of the items.
    pub(super) fn origin(&self) -> decode::Origin<'_> {
        decode::Origin {
            channel: &self.channel,
            types: &self.types,
            items: &self.items,
            nodes: &self.nodes,
        }
    }

    /// How often the server was asked to publish.
    pub(super) fn publish_interval(&self) -> Duration {
        self.publish_interval
    }

    /// The places of the items that the server monitors.
    pub(super) fn accepted(&self) -> Vec<usize> {
        (0..self.items.len())
            .filter(|place| !self.refused.contains(place))
            .collect()
    }

    /// The places of the items that one of the subscriptions monitors.
    pub(super) fn places_in(&self, subscription: u32) -> Vec<usize> {
        let places = self.subscriptions.iter().enumerate();
        places
            .filter(|&(_, &id)| id == subscription)
            .map(|(place, _)| place)
            .collect()
    }

    /// Whether so many values of an item in one notification fill its queue, so that more may have been there.
    /// Not every server says when a queue runs over. A queue of one is meant to forget.
    pub(super) fn fills_queue(&self, place: usize, values: u32) -> bool {
        let queue = self.queues.get(place).copied().unwrap_or(0);
        queue > 1 && values >= queue
    }

    /// What is read of an item; `None` where the server does not have its node.
    pub(super) fn value_id(&self, place: usize) -> Option<ReadValueId> {
        let node = self.nodes[place].clone()?;
        Some(ReadValueId {
            index_range: self.items[place].node.numeric_range(),
            ..value_of(node)
        })
    }

    /// The values of these items as they are now, without waiting for a change.
    pub(super) async fn read_now(
        &self,
        places: &[usize],
    ) -> Result<Vec<(usize, Sample)>, SessionError> {
        let mut samples = Vec::with_capacity(places.len());
        for chunk in places.chunks(self.reads_max.max(1)) {
            let wanted = chunk.iter().filter_map(|&place| self.value_id(place));
            let times = TimestampsToReturn::Both;
            let read = server::try_read_values(&self.channel, wanted.collect(), times).await;
            let values = read.map_err(|error| self.channel.asked("Read").failed(&error))?;
            let now = self.clock.now();
            let values = chunk.iter().copied().zip(values).collect();
            samples.extend(decode::samples(self.origin(), values, now).await?);
        }
        Ok(samples)
    }

    /// Monitors these items, in as many subscriptions as the server needs. Returns a bad sample for each
    /// that it refuses, and keeps its place for another try.
    pub(super) async fn monitor(
        &mut self,
        places: Vec<usize>,
    ) -> Result<Vec<(usize, Sample)>, SessionError> {
        self.look_again(&places).await?;
        let (mut waiting, unknown): (Vec<usize>, Vec<usize>) = places
            .into_iter()
            .partition(|&place| self.nodes[place].is_some());
        let mut failed: Vec<(usize, StatusCode)> = unknown
            .into_iter()
            .map(|place| (place, StatusCode::BadNodeIdUnknown))
            .collect();
        let mut subscription = self.sequences.keys().copied().max();
        while !waiting.is_empty() || self.sequences.is_empty() {
            let (id, fresh) = match subscription {
                Some(id) => (id, false),
                None => match self.try_create_subscription().await {
                    Ok(id) => (id, true),
                    Err(Refusal::Broken(error)) => return Err(error),
                    Err(Refusal::Subscription(code) | Refusal::TooMany(code)) => {
                        if self.sequences.is_empty() {
                            self.unsupported = Some(code);
                            let asked = self.channel.asked("CreateSubscription");
                            return Err(asked.status(code, "refused"));
                        }
                        failed.extend(waiting.drain(..).map(|place| (place, code)));
                        break;
                    }
                },
            };
            let (before, unfiltered) = (waiting.len(), self.unfiltered.len());
            let taken = self.subscriptions.iter().filter(|&&of| of == id).count();
            let room = self.subscription_items_max.saturating_sub(taken);
            let beyond = waiting.split_off(room.min(before));
            let results = self.create_items(id, &waiting).await?;
            waiting = self.sort_out(id, results, &mut failed);
            waiting.extend(beyond);
            // Those whose deadband was refused are asked for without, in the same one.
            let again = self.unfiltered.len() > unfiltered;
            let stuck = fresh && !again && waiting.len() == before;
            if stuck || self.sequences.len() >= SUBSCRIPTIONS_MAX {
                let full = StatusCode::BadTooManyMonitoredItems;
                failed.extend(waiting.drain(..).map(|place| (place, full)));
            }
            subscription = again.then_some(id);
        }
        Ok(self.refuse(failed))
    }

    /// Looks for the nodes at the end of paths that have led nowhere before.
    async fn look_again(&mut self, places: &[usize]) -> Result<(), SessionError> {
        let lost = places.iter().copied();
        let lost = lost.filter(|&place| self.nodes[place].is_none());
        let places: Vec<usize> = lost.collect();
        let items = self.items.clone();
        let addresses: Vec<&NodeAddress> = places.iter().map(|&at| &items[at].node).collect();
        let nodes = locate(&self.channel, &self.namespaces, &addresses).await?;
        for (place, node) in places.into_iter().zip(nodes) {
            self.nodes[place] = node;
        }
        Ok(())
    }

    /// One more subscription.
    pub(super) async fn create_subscription(&mut self) -> Result<u32, SessionError> {
        self.try_create_subscription().await.map_err(|refusal| {
            let asked = self.channel.asked("CreateSubscription");
            match refusal {
                Refusal::Subscription(code) | Refusal::TooMany(code) => {
                    asked.status(code, "refused")
                }
                Refusal::Broken(error) => error,
            }
        })
    }

    async fn try_create_subscription(&mut self) -> Result<u32, Refusal> {
        let asked = self.publish_interval;
        let keep_alive_count = intervals(self.keep_alive, asked);
        let timeout = self.channel.timeout();
        let request = CreateSubscriptionRequest {
            request_header: self.channel.header(timeout),
            requested_publishing_interval: milliseconds(asked),
            requested_lifetime_count: intervals(LIFETIME, asked).max(3 * keep_alive_count),
            requested_max_keep_alive_count: keep_alive_count,
            max_notifications_per_publish: NOTIFICATIONS_MAX,
            publishing_enabled: true,
            priority: 0,
        };
        let sent = self
            .channel
            .send::<CreateSubscriptionResponse>(request, timeout);
        let created = sent.await.map_err(|error| match error.status() {
            code if is_without_subscriptions(code) => Refusal::Subscription(code),
            _ => Refusal::Broken(self.channel.asked("CreateSubscription").failed(&error)),
        })?;
        let granted = Duration::try_from_secs_f64(created.revised_publishing_interval / 1000.0)
            .unwrap_or(asked)
            .max(PUBLISH_INTERVAL_MIN);
        let keep_alive = granted.saturating_mul(created.revised_max_keep_alive_count.max(1));
        self.silence_max = self.silence_max.max(
            keep_alive
                .saturating_mul(3)
                .saturating_add(self.channel.timeout()),
        );
        if granted > asked {
            self.notes.revised(format!(
                "the server publishes every {} ms instead of every {} ms",
                granted.as_millis(),
                asked.as_millis()
            ));
        }
        self.sequences
            .insert(created.subscription_id, Sequence::new());
        Ok(created.subscription_id)
    }

    fn refuse(&mut self, failed: Vec<(usize, StatusCode)>) -> Vec<(usize, Sample)> {
        let now = self.clock.now();
        self.refused = failed.iter().map(|&(place, _)| place).collect();
        self.notes.only_refused(&self.refused);
        failed
            .into_iter()
            .map(|(place, code)| {
                let item = &self.items[place];
                self.notes.refused(place, item, &code.to_string(), now);
                (place, Sample::bad(item.tag, status::reason(code), now))
            })
            .collect()
    }
}

/// The server, or this user there, gets no subscription; its nodes can still be read.
fn is_without_subscriptions(code: StatusCode) -> bool {
    matches!(
        code,
        StatusCode::BadServiceUnsupported
            | StatusCode::BadNotSupported
            | StatusCode::BadNotImplemented
            | StatusCode::BadTooManySubscriptions
    )
}

/// How many intervals cover the time; at least one.
fn intervals(time: Duration, interval: Duration) -> u32 {
    let count = time.as_millis().div_ceil(interval.as_millis().max(1));
    u32::try_from(count).unwrap_or(u32::MAX).max(1)
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
