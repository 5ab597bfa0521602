//! The publishing task of a session: keeps Publish requests at the server, checks sequence numbers, asks
//! again for what is missing, has history read where that is too late, and watches for silence.
//!
//! A notification is acknowledged only after [`Acks::settle`]. Until then the server keeps it, within its
//! own limits.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use millrace_tags::{Moment, Reading, Sample};
use opcua::types::{
    DataChangeNotification, DataValue, Error, EventNotificationList, ExtensionObject,
    NotificationMessage, PublishRequest, PublishResponse, RepublishRequest, RepublishResponse,
    StatusChangeNotification, StatusCode,
};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::acks::Acks;
use super::decode;
use super::filling::{self, Filled};
use super::intake::{Arrived, Batch, Intake};
use super::login::Login;
use super::resume::{Left, Retained};
use super::sequence::Arrival;
use super::subscribed::Ended;
use super::subscription::Monitored;
use crate::SessionError;

/// How often nodes that the server refused are tried again.
const REFUSED_RETRY_INTERVAL: Duration = Duration::from_secs(60);

/// Requests at the server: one to answer now and one to answer next, and one for each further subscription.
const PUBLISHES_BASE: usize = 2;

/// More requests than this bring nothing, and servers refuse them.
const PUBLISHES_MAX: usize = 10;

type Published = (Moment, Result<PublishResponse, Error>);

pub(super) struct Publisher {
    login: Login,
    monitored: Monitored,
    acks: Acks,
    intake: Intake,
    /// To be handed over before anything else.
    first: Vec<Reading>,
    /// Places of which nothing was heard since the session went on or lost something, and when they are read then.
    unheard: HashSet<usize>,
    refresh_at: Instant,
    /// Values that the server has and did not send: they may be on their way, until a keep-alive says that nothing is.
    doubted: HashMap<usize, Sample>,
    /// A request for history.
    filling: Option<Pin<Box<dyn Future<Output = Filled> + Send>>>,
    /// Whether another connection could go on with this session.
    resumable: bool,
    outstanding: FuturesUnordered<Pin<Box<dyn Future<Output = Published> + Send>>>,
    /// How many requests the server lets us have.
    publishes_max: usize,
    /// When each subscription was heard last, or it or we began.
    heard: HashMap<u32, Instant>,
    began: Instant,
    retry_refused_at: Instant,
}

impl Publisher {
    /// Of a new session. What is in `first` is handed over before anything else.
    pub(super) fn new(
        login: Login,
        monitored: Monitored,
        acks: Acks,
        intake: Intake,
        first: Vec<Reading>,
    ) -> Self {
        let now = Instant::now();
        let retry = monitored.clock.now() + REFUSED_RETRY_INTERVAL;
        monitored.notes.retry_at(retry);
        Self {
            login,
            monitored,
            acks,
            intake,
            first,
            unheard: HashSet::new(),
            refresh_at: now,
            doubted: HashMap::new(),
            filling: None,
            resumable: false,
            outstanding: FuturesUnordered::new(),
            publishes_max: PUBLISHES_MAX,
            heard: HashMap::new(),
            began: now,
            retry_refused_at: now + REFUSED_RETRY_INTERVAL,
        }
    }

    /// Of a session that goes on. Its values were bad while the connection was lost, so every node that
    /// does not speak by itself soon is read once.
    pub(super) fn resumed(retained: Retained, mut intake: Intake) -> Self {
        let Retained {
            login,
            monitored,
            acks,
            missed,
        } = retained;
        intake.go_on();
        let mut publisher = Self::new(login, monitored, acks, intake, Vec::new());
        for batch in missed {
            publisher.take_first(batch);
        }
        publisher.refresh_unless_heard(publisher.monitored.accepted());
        publisher
    }

    /// To be handed over before anything that comes.
    pub(super) fn take_first(&mut self, batch: Batch) {
        let reading = self.take(batch);
        self.first.extend(reading);
    }

    fn refresh_unless_heard(&mut self, places: Vec<usize>) {
        self.unheard.extend(places);
        self.refresh_at = Instant::now() + 2 * self.monitored.publish_interval();
    }

    /// Publishes until the session breaks; the last thing sent says why.
    pub(super) async fn run(mut self, readings: mpsc::Sender<Result<Reading, Ended>>) {
        let mut ready = std::mem::take(&mut self.first);
        loop {
            ready.extend(self.intake.free_receipts());
            for reading in ready {
                if readings.send(Ok(reading)).await.is_err() {
                    return;
                }
            }
            ready = match self.step().await {
                Ok(ready) => ready,
                Err(error) => {
                    let ended = self.end(error);
                    // Nobody listens any more, then.
                    let _ = readings.send(Err(ended)).await;
                    return;
                }
            };
        }
    }

    fn end(self, error: SessionError) -> Ended {
        self.monitored.channel.cut();
        let alarms = Some(self.monitored.watch.alarms.clone());
        let (session, orphan) = if self.resumable {
            let retained = Retained {
                login: self.login,
                monitored: self.monitored,
                acks: self.acks,
                missed: Vec::new(),
            };
            (Some(retained), None)
        } else {
            (None, Some(self.login))
        };
        Ended {
            error,
            left: Left {
                session,
                orphan,
                intake: self.intake,
                alarms,
            },
        }
    }

    fn take(&mut self, mut batch: Batch) -> Option<Reading> {
        if !self.unheard.is_empty() {
            for arrived in &batch.samples {
                self.unheard.remove(&arrived.place);
            }
        }
        if !self.doubted.is_empty() {
            batch.samples = self.sort_in_doubted(batch.samples);
        }
        self.intake.take(batch, &self.monitored.notes)
    }

    async fn step(&mut self) -> Result<Vec<Reading>, SessionError> {
        self.keep_publishing();
        self.keep_filling();
        let silent_at = self.last_heard() + self.monitored.silence_max;
        let fill_at = self.intake.wake_at().filter(|_| self.filling.is_none());
        tokio::select! {
            biased;
            Some((arrived, published)) = self.outstanding.next() => {
                self.published(arrived, published).await
            }
            filled = filling::next(&mut self.filling) => self.filled(filled).await,
            () = filling::wake(fill_at) => Ok(Vec::new()),
            () = tokio::time::sleep_until(self.refresh_at),
                if !self.unheard.is_empty() => self.refresh().await,
            () = tokio::time::sleep_until(self.retry_refused_at),
                if !self.monitored.refused.is_empty() => self.retry_refused().await,
            () = tokio::time::sleep_until(silent_at) => {
                let mut asked = self.monitored.channel.asked("Publish");
                asked.timeout = self.monitored.silence_max;
                Err(asked.timed_out())
            }
        }
    }

    /// When the subscription was heard that has been silent for longest.
    fn last_heard(&self) -> Instant {
        let subscriptions = self.monitored.sequences.keys();
        subscriptions
            .map(|id| self.heard.get(id).copied().unwrap_or(self.began))
            .min()
            .unwrap_or(self.began)
    }

    fn keep_filling(&mut self) {
        if self.filling.is_some() {
            return;
        }
        if let Some(request) = self.intake.request(self.monitored.histories_max) {
            self.filling = Some(filling::ask(&self.monitored, request));
        }
    }

    async fn filled(&mut self, filled: Filled) -> Result<Vec<Reading>, SessionError> {
        self.filling = None;
        let reading = filled
            .sort_in(&mut self.monitored, &mut self.intake)
            .await?;
        Ok(reading.into_iter().collect())
    }

    fn keep_publishing(&mut self) {
        let subscriptions = self.monitored.sequences.len();
        let wanted = (PUBLISHES_BASE + subscriptions.saturating_sub(1)).min(self.publishes_max);
        while self.outstanding.len() < wanted {
            let channel = self.monitored.channel.clone();
            let clock = self.monitored.clock.clone();
            let acks = self.acks.take();
            // Silence is watched for all requests together; a single one may wait for its turn.
            let patience = self.monitored.silence_max * 10;
            self.outstanding.push(Box::pin(async move {
                let mut request_header = channel.header(patience);
                request_header.timeout_hint = 0;
                let request = PublishRequest {
                    request_header,
                    subscription_acknowledgements: (!acks.is_empty()).then_some(acks),
                };
                let published = channel.send::<PublishResponse>(request, patience).await;
                (clock.now(), published)
            }));
        }
    }

    async fn published(
        &mut self,
        arrived: Moment,
        published: Result<PublishResponse, Error>,
    ) -> Result<Vec<Reading>, SessionError> {
        let response = match published {
            Ok(response) => response,
            Err(error) => return self.publish_failed(&error),
        };
        self.resumable = true;
        let id = response.subscription_id;
        let message = response.notification_message;
        let Some(sequence) = self.monitored.sequences.get_mut(&id) else {
            // Of a subscription that is not ours any more.
            return Ok(Vec::new());
        };
        self.heard.insert(id, Instant::now());
        let keep_alive = is_keep_alive(&message);
        let arrival = if keep_alive {
            sequence.kept_alive(message.sequence_number)
        } else {
            sequence.notified(message.sequence_number)
        };
        let mut readings = match arrival {
            Arrival::InOrder => Vec::new(),
            Arrival::Missing(numbers) => self.ask_again(id, numbers).await?,
            Arrival::Lost(count) => {
                self.lost(id, count);
                Vec::new()
            }
            // Its samples are on their way already.
            Arrival::Repeated => return Ok(Vec::new()),
        };
        if !keep_alive {
            let batch = batch(&self.monitored, &self.acks, id, message, arrived).await;
            // A subscription that the server has ended cannot be gone on with.
            self.resumable &= batch.is_ok();
            readings.extend(self.take(batch?));
        }
        if keep_alive && !self.doubted.is_empty() {
            readings.extend(self.believe_doubted(id));
        }
        Ok(readings)
    }

    /// Notifications of the subscription are gone: something may be missing of each of its items.
    fn lost(&mut self, subscription: u32, notifications: u64) {
        self.monitored.notes.lost(notifications);
        let places = self.monitored.places_in(subscription);
        self.intake.lost(&places);
        self.refresh_unless_heard(places);
    }

    fn publish_failed(&mut self, error: &Error) -> Result<Vec<Reading>, SessionError> {
        match error.status() {
            StatusCode::BadTooManyPublishRequests if self.publishes_max > 1 => {
                self.publishes_max = self.outstanding.len().max(1);
                Ok(Vec::new())
            }
            // This request was forgotten; the watch for silence decides about the session.
            StatusCode::BadTimeout | StatusCode::BadRequestTimeout => Ok(Vec::new()),
            status => {
                self.resumable &= is_connection_loss(status);
                Err(self.monitored.channel.asked("Publish").failed(error))
            }
        }
    }

    /// Asks again for notifications that did not come. What the server does not have any more is counted.
    async fn ask_again(
        &mut self,
        subscription: u32,
        numbers: Vec<u32>,
    ) -> Result<Vec<Reading>, SessionError> {
        let mut readings = Vec::new();
        for number in numbers {
            match republish(&self.monitored, &self.acks, subscription, number).await? {
                Some(batch) => readings.extend(self.take(batch)),
                None => self.lost(subscription, 1),
            }
        }
        Ok(readings)
    }

    /// Reads what was not heard of. What has not changed, and most has not, is handed over again.
    async fn refresh(&mut self) -> Result<Vec<Reading>, SessionError> {
        let mut samples = Vec::new();
        let mut places: Vec<usize> = self.unheard.drain().collect();
        places.sort_unstable();
        for (place, sample) in self.monitored.read_now(&places).await? {
            if sample.source_time.is_none() || self.intake.is_known(place, &sample) {
                samples.push((place, sample));
            } else {
                self.doubted.insert(place, sample);
            }
        }
        Ok(self.take(Batch::unasked(samples)).into_iter().collect())
    }

    /// The subscription has nothing to send: what was read and did not come will not come.
    fn believe_doubted(&mut self, subscription: u32) -> Option<Reading> {
        let places = self.monitored.places_in(subscription).into_iter();
        let doubted = places.filter_map(|place| Some((place, self.doubted.remove(&place)?)));
        let samples: Vec<(usize, Sample)> = doubted.collect();
        self.take(Batch::unasked(samples))
    }

    /// Puts a value that was read before those that are newer, and forgets it where it was on its way.
    fn sort_in_doubted(&mut self, arrived: Vec<Arrived>) -> Vec<Arrived> {
        let mut sorted = Vec::with_capacity(arrived.len());
        for arrived in arrived {
            let place = arrived.place;
            let newer = self.doubted.get(&place).is_some_and(|doubted| {
                arrived.sample.source_time.is_none()
                    || arrived.sample.source_time >= doubted.source_time
            });
            if newer && let Some(doubted) = self.doubted.remove(&place) {
                let known = doubted.source_time == arrived.sample.source_time
                    && doubted.value == arrived.sample.value;
                sorted.extend((!known).then_some(Arrived {
                    place,
                    sample: doubted,
                    lost_before: false,
                }));
            }
            sorted.push(arrived);
        }
        sorted
    }

    async fn retry_refused(&mut self) -> Result<Vec<Reading>, SessionError> {
        self.retry_refused_at = Instant::now() + REFUSED_RETRY_INTERVAL;
        let retry = self.monitored.clock.now() + REFUSED_RETRY_INTERVAL;
        self.monitored.notes.retry_at(retry);
        let places = std::mem::take(&mut self.monitored.refused);
        let samples = self.monitored.monitor(places).await?;
        Ok(self.take(Batch::unasked(samples)).into_iter().collect())
    }
}

/// The session may live on at the server, since only the way to it broke.
pub(super) fn is_connection_loss(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::BadConnectionClosed
            | StatusCode::BadCommunicationError
            | StatusCode::BadNotConnected
            | StatusCode::BadSecureChannelClosed
    )
}

/// Asks for one notification again; `None` where the server does not have it.
pub(super) async fn republish(
    monitored: &Monitored,
    acks: &Acks,
    subscription_id: u32,
    retransmit_sequence_number: u32,
) -> Result<Option<Batch>, SessionError> {
    let channel = &monitored.channel;
    let request = RepublishRequest {
        request_header: channel.header(channel.timeout()),
        subscription_id,
        retransmit_sequence_number,
    };
    let answer = channel
        .send::<RepublishResponse>(request, channel.timeout())
        .await;
    let message = match answer {
        Ok(response) => response.notification_message,
        Err(error) if error.status() == StatusCode::BadMessageNotAvailable => return Ok(None),
        Err(error) => return Err(channel.asked("Republish").failed(&error)),
    };
    // Some servers answer with an empty message instead.
    if is_keep_alive(&message) || message.sequence_number != retransmit_sequence_number {
        return Ok(None);
    }
    monitored.notes.republished();
    let arrived = monitored.clock.now();
    let batch = batch(monitored, acks, subscription_id, message, arrived);
    batch.await.map(Some)
}

fn is_keep_alive(message: &NotificationMessage) -> bool {
    message.notification_data.as_ref().is_none_or(Vec::is_empty)
}

async fn batch(
    monitored: &Monitored,
    acks: &Acks,
    subscription: u32,
    message: NotificationMessage,
    arrived: Moment,
) -> Result<Batch, SessionError> {
    let (mut values, mut events) = (Vec::new(), Vec::new());
    for notification in message.notification_data.into_iter().flatten() {
        match notification.inner_as::<EventNotificationList>() {
            Some(list) => events.extend(monitored.told(list, arrived)),
            None => take_notification(monitored, notification, &mut values)?,
        }
    }
    let overflows: Vec<bool> = values
        .iter()
        .map(|(_, data)| decode::overflowed(data))
        .collect();
    let samples = decode::samples(monitored.origin(), values, arrived).await?;
    let samples = samples.into_iter().zip(overflows);
    let arrived = |((place, sample), overflowed)| Arrived {
        place,
        sample,
        lost_before: overflowed,
    };
    let mut samples: Vec<Arrived> = samples.map(arrived).collect();
    suspect_full_queues(monitored, &mut samples);
    let receipt = acks.hand_out(subscription, message.sequence_number);
    Ok(Batch {
        samples,
        events,
        receipt: Some(receipt),
    })
}

fn take_notification(
    monitored: &Monitored,
    notification: ExtensionObject,
    values: &mut Vec<(usize, DataValue)>,
) -> Result<(), SessionError> {
    if let Some(change) = notification.inner_as::<StatusChangeNotification>() {
        let detail = format!("the server ended the subscription: {}", change.status);
        let asked = monitored.channel.asked("Publish");
        return Err(asked.status(change.status, &detail));
    }
    let Some(changes) = notification.into_inner_as::<DataChangeNotification>() else {
        return Ok(());
    };
    for change in changes.monitored_items.into_iter().flatten() {
        let place = change.client_handle as usize;
        if decode::overflowed(&change.value) {
            monitored.notes.overflowed(1);
        }
        if place < monitored.items.len() {
            values.push((place, change.value));
        }
    }
    Ok(())
}

/// Not every server says when a queue runs over (it does so at the value before which others are missing: the first, or
/// where what came first is kept the last, which newer ones replace). One that does not say may not keep what it was
/// asked to keep, either. Servers send the values of an item one after the other.
fn suspect_full_queues(monitored: &Monitored, samples: &mut [Arrived]) {
    for of_item in samples.chunk_by_mut(|one, other| one.place == other.place) {
        let values = u32::try_from(of_item.len()).unwrap_or(u32::MAX);
        let says = of_item.iter().any(|arrived| arrived.lost_before);
        let [first, .., last] = of_item else {
            continue;
        };
        if !says && monitored.fills_queue(first.place, values) {
            first.lost_before = true;
            last.lost_before = monitored.discards_newest;
        }
    }
}
