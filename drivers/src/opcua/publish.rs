//! The publishing task of a session: keeps Publish requests at the server, checks sequence numbers, asks
//! again for what is missing, and watches for silence.
//!
//! A notification is acknowledged only after [`Acks::settle`]. Until then the server keeps it, within its
//! own limits.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use millrace_tags::{Moment, Reading, Sample};
use opcua::types::{
    DataChangeNotification, Error, ExtensionObject, NotificationMessage, PublishRequest,
    PublishResponse, RepublishRequest, RepublishResponse, StatusChangeNotification, StatusCode,
};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::acks::Acks;
use super::decode;
use super::sequence::Arrival;
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
    monitored: Monitored,
    acks: Acks,
    outstanding: FuturesUnordered<Pin<Box<dyn Future<Output = Published> + Send>>>,
    /// How many requests the server lets us have.
    publishes_max: usize,
    last_heard: Instant,
    retry_refused_at: Instant,
}

impl Publisher {
    pub(super) fn new(monitored: Monitored, acks: Acks) -> Self {
        let now = Instant::now();
        Self {
            monitored,
            acks,
            outstanding: FuturesUnordered::new(),
            publishes_max: PUBLISHES_MAX,
            last_heard: now,
            retry_refused_at: now + REFUSED_RETRY_INTERVAL,
        }
    }

    /// Publishes until the session breaks; the last thing sent says why.
    pub(super) async fn run(mut self, readings: mpsc::Sender<Result<Reading, SessionError>>) {
        loop {
            let step = self.step().await;
            let broken = step.is_err();
            let send = match step {
                Ok(batch) => batch.into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error)],
            };
            for reading in send {
                if readings.send(reading).await.is_err() {
                    return;
                }
            }
            if broken {
                return;
            }
        }
    }

    async fn step(&mut self) -> Result<Vec<Reading>, SessionError> {
        self.keep_publishing();
        let silent_at = self.last_heard + self.monitored.silence_max;
        tokio::select! {
            biased;
            Some((arrived, published)) = self.outstanding.next() => {
                self.published(arrived, published).await
            }
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
        let id = response.subscription_id;
        let message = response.notification_message;
        let Some(sequence) = self.monitored.sequences.get_mut(&id) else {
            // Of a subscription that is not ours any more.
            return Ok(Vec::new());
        };
        let keep_alive = message.notification_data.as_ref().is_none_or(Vec::is_empty);
        let arrival = if keep_alive {
            sequence.kept_alive(message.sequence_number)
        } else {
            sequence.notified(message.sequence_number)
        };
        let mut readings = match arrival {
            Arrival::InOrder => Vec::new(),
            Arrival::Missing(numbers) => self.republish(id, numbers).await?,
            Arrival::Lost(count) => {
                self.monitored.notes.lost(count);
                Vec::new()
            }
            // Its samples are on their way already.
            Arrival::Repeated => return Ok(Vec::new()),
        };
        if !keep_alive {
            readings.push(self.reading(id, message, arrived)?);
        }
        Ok(readings)
    }

    fn publish_failed(&mut self, error: &Error) -> Result<Vec<Reading>, SessionError> {
        match error.status() {
            StatusCode::BadTooManyPublishRequests if self.publishes_max > 1 => {
                self.publishes_max = self.outstanding.len().max(1);
                Ok(Vec::new())
            }
            // This request was forgotten; the watch for silence decides about the session.
            StatusCode::BadTimeout | StatusCode::BadRequestTimeout => Ok(Vec::new()),
            _ => Err(self.monitored.channel.asked("Publish").failed(error)),
        }
    }

    /// Asks again for notifications that did not come. What the server does not have any more is counted.
    async fn republish(
        &mut self,
        subscription_id: u32,
        numbers: Vec<u32>,
    ) -> Result<Vec<Reading>, SessionError> {
        let mut readings = Vec::new();
        for retransmit_sequence_number in numbers {
            let channel = self.monitored.channel.clone();
            let request = RepublishRequest {
                request_header: channel.header(channel.timeout()),
                subscription_id,
                retransmit_sequence_number,
            };
            let answer = channel
                .send::<RepublishResponse>(request, channel.timeout())
                .await;
            match answer {
                Ok(response) => {
                    let arrived = self.monitored.clock.now();
                    self.monitored.notes.republished();
                    let message = response.notification_message;
                    readings.push(self.reading(subscription_id, message, arrived)?);
                }
                Err(error) if error.status() == StatusCode::BadMessageNotAvailable => {
                    self.monitored.notes.lost(1);
                }
                Err(error) => return Err(channel.asked("Republish").failed(&error)),
            }
        }
        Ok(readings)
    }

    fn reading(
        &self,
        subscription: u32,
        message: NotificationMessage,
        arrived: Moment,
    ) -> Result<Reading, SessionError> {
        let mut samples = Vec::new();
        for notification in message.notification_data.into_iter().flatten() {
            self.take_notification(notification, arrived, &mut samples)?;
        }
        let receipt = self.acks.hand_out(subscription, message.sequence_number);
        Ok(Reading {
            samples,
            receipt: Some(receipt),
        })
    }

    fn take_notification(
        &self,
        notification: ExtensionObject,
        arrived: Moment,
        samples: &mut Vec<Sample>,
    ) -> Result<(), SessionError> {
        if let Some(change) = notification.inner_as::<StatusChangeNotification>() {
            let detail = format!("the server ended the subscription: {}", change.status);
            let asked = self.monitored.channel.asked("Publish");
            return Err(asked.status(change.status, &detail));
        }
        // Events are not subscribed, so there is nothing else that could come.
        let Some(changes) = notification.into_inner_as::<DataChangeNotification>() else {
            return Ok(());
        };
        let context = self.monitored.channel.context().read();
        for change in changes.monitored_items.into_iter().flatten() {
            let Some(item) = self.monitored.items.get(change.client_handle as usize) else {
                continue;
            };
            if decode::overflowed(&change.value) {
                self.monitored.notes.overflowed(1);
            }
            samples.push(decode::sample(item.tag, change.value, arrived, &context));
        }
        Ok(())
    }

    async fn retry_refused(&mut self) -> Result<Vec<Reading>, SessionError> {
        self.retry_refused_at = Instant::now() + REFUSED_RETRY_INTERVAL;
        let places = std::mem::take(&mut self.monitored.refused);
        let samples = self.monitored.monitor(places).await?;
        if samples.is_empty() {
            return Ok(Vec::new());
        }
        Ok(vec![Reading {
            samples,
            receipt: None,
        }])
    }
}
