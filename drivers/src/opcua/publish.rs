//! The publishing task of a session: keeps Publish requests at the server, checks sequence numbers, asks
//! again for what is missing, and watches for silence.
//!
//! A notification is acknowledged only after [`Acks::settle`]. Until then the server keeps it, within its
//! own limits.

use std::collections::HashSet;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use millrace_tags::{Moment, Reading, Sample, TagId};
use opcua::types::{
    DataChangeNotification, DataValue, Error, ExtensionObject, NotificationMessage, PublishRequest,
    PublishResponse, RepublishRequest, RepublishResponse, StatusChangeNotification, StatusCode,
};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::acks::Acks;
use super::decode;
use super::login::Login;
use super::resume::Retained;
use super::sequence::Arrival;
use super::subscription::{Ended, Monitored};
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
    /// To be handed over before anything else.
    first: Vec<Reading>,
    /// Places of which nothing was heard since the session went on, and when they are read then.
    unheard: HashSet<usize>,
    refresh_at: Instant,
    /// Whether another connection could go on with this session.
    resumable: bool,
    outstanding: FuturesUnordered<Pin<Box<dyn Future<Output = Published> + Send>>>,
    /// How many requests the server lets us have.
    publishes_max: usize,
    last_heard: Instant,
    retry_refused_at: Instant,
}

impl Publisher {
    /// Of a new session. What is in `first` is handed over before anything else.
    pub(super) fn new(login: Login, monitored: Monitored, acks: Acks, first: Vec<Reading>) -> Self {
        let now = Instant::now();
        Self {
            login,
            monitored,
            acks,
            first,
            unheard: HashSet::new(),
            refresh_at: now,
            resumable: false,
            outstanding: FuturesUnordered::new(),
            publishes_max: PUBLISHES_MAX,
            last_heard: now,
            retry_refused_at: now + REFUSED_RETRY_INTERVAL,
        }
    }

    /// Of a session that goes on. Its values were bad while the connection was lost, so every node that
    /// does not speak by itself soon is read once.
    pub(super) fn resumed(retained: Retained) -> Self {
        let Retained {
            login,
            monitored,
            acks,
            missed,
        } = retained;
        let mut publisher = Self::new(login, monitored, acks, missed);
        publisher.unheard = publisher.monitored.accepted().into_iter().collect();
        publisher.refresh_at = Instant::now() + 2 * publisher.monitored.publish_interval();
        publisher
    }

    /// Publishes until the session breaks; the last thing sent says why.
    pub(super) async fn run(mut self, readings: mpsc::Sender<Result<Reading, Ended>>) {
        let mut batch = std::mem::take(&mut self.first);
        loop {
            for reading in batch {
                if readings.send(Ok(reading)).await.is_err() {
                    return;
                }
            }
            batch = match self.step().await {
                Ok(batch) => batch,
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
        let retained = self.resumable.then_some(Retained {
            login: self.login,
            monitored: self.monitored,
            acks: self.acks,
            missed: Vec::new(),
        });
        Ended { error, retained }
    }

    async fn step(&mut self) -> Result<Vec<Reading>, SessionError> {
        self.keep_publishing();
        let silent_at = self.last_heard + self.monitored.silence_max;
        tokio::select! {
            biased;
            Some((arrived, published)) = self.outstanding.next() => {
                self.published(arrived, published).await
            }
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
        self.last_heard = Instant::now();
        self.resumable = true;
        let id = response.subscription_id;
        let message = response.notification_message;
        let Some(sequence) = self.monitored.sequences.get_mut(&id) else {
            // Of a subscription that is not ours any more.
            return Ok(Vec::new());
        };
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
                self.monitored.notes.lost(count);
                Vec::new()
            }
            // Its samples are on their way already.
            Arrival::Repeated => return Ok(Vec::new()),
        };
        if !keep_alive {
            readings.push(self.reading(id, message, arrived).await?);
        }
        Ok(readings)
    }

    async fn reading(
        &mut self,
        subscription: u32,
        message: NotificationMessage,
        arrived: Moment,
    ) -> Result<Reading, SessionError> {
        let reading = reading(&self.monitored, &self.acks, subscription, message, arrived).await;
        // A subscription that the server has ended cannot be gone on with.
        self.resumable &= reading.is_ok();
        if let (false, Ok(reading)) = (self.unheard.is_empty(), &reading) {
            let heard: HashSet<TagId> = reading.samples.iter().map(|s| s.tag).collect();
            let items = self.monitored.items.clone();
            self.unheard
                .retain(|&place| !heard.contains(&items[place].tag));
        }
        reading
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
                Some(reading) => readings.push(reading),
                None => self.monitored.notes.lost(1),
            }
        }
        Ok(readings)
    }

    async fn refresh(&mut self) -> Result<Vec<Reading>, SessionError> {
        let mut places: Vec<usize> = self.unheard.drain().collect();
        places.sort_unstable();
        Ok(vec![self.monitored.read_now(&places).await?])
    }

    async fn retry_refused(&mut self) -> Result<Vec<Reading>, SessionError> {
        self.retry_refused_at = Instant::now() + REFUSED_RETRY_INTERVAL;
        let places = std::mem::take(&mut self.monitored.refused);
        let samples = self.monitored.monitor(places).await?;
        Ok(unasked(samples).into_iter().collect())
    }
}

/// Samples that the server did not send, as a reading without a receipt.
pub(super) fn unasked(samples: Vec<Sample>) -> Option<Reading> {
    (!samples.is_empty()).then_some(Reading {
        samples,
        receipt: None,
    })
}

/// The session may live on at the server, since only the way to it broke.
fn is_connection_loss(status: StatusCode) -> bool {
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
) -> Result<Option<Reading>, SessionError> {
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
    let reading = reading(monitored, acks, subscription_id, message, arrived);
    reading.await.map(Some)
}

fn is_keep_alive(message: &NotificationMessage) -> bool {
    message.notification_data.as_ref().is_none_or(Vec::is_empty)
}

async fn reading(
    monitored: &Monitored,
    acks: &Acks,
    subscription: u32,
    message: NotificationMessage,
    arrived: Moment,
) -> Result<Reading, SessionError> {
    let mut values = Vec::new();
    for notification in message.notification_data.into_iter().flatten() {
        take_notification(monitored, notification, &mut values)?;
    }
    let samples = decode::samples(monitored.origin(), values, arrived).await?;
    let receipt = acks.hand_out(subscription, message.sequence_number);
    Ok(Reading {
        samples,
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
    // Events are not subscribed, so there is nothing else that could come.
    let Some(changes) = notification.into_inner_as::<DataChangeNotification>() else {
        return Ok(());
    };
    for change in changes.monitored_items.into_iter().flatten() {
        if decode::overflowed(&change.value) {
            monitored.notes.overflowed(1);
        }
        values.push((change.client_handle as usize, change.value));
    }
    Ok(())
}
