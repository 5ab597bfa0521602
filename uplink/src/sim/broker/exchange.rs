//! What all connections of the broker share: taps, subscriptions, retained messages.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use rumqttc::mqttbytes::QoS;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Tapped;
use super::faults::{Drawn, Faults};
use crate::message::Properties;
use crate::packet::{Protocol, Terms};
use crate::topic;

/// Messages that may wait for one subscriber; more than that and it is thrown out.
const OUTBOX_MESSAGES: usize = 10_000;

/// Topics that a client may replace by a number, as mosquitto allows.
const ALIASES: u16 = 10;

type Tap = Box<dyn Fn(&Tapped) + Send + Sync>;

/// A message on its way to a subscriber.
pub(super) struct Delivery {
    pub(super) topic: String,
    pub(super) payload: Bytes,
    pub(super) retain: bool,
    pub(super) qos: QoS,
    pub(super) properties: Option<Box<Properties>>,
}

struct Subscriber {
    client_id: Arc<str>,
    filters: Vec<(String, QoS)>,
    outbox: mpsc::Sender<Delivery>,
    kick: CancellationToken,
}

struct State {
    taps: Vec<Tap>,
    login: Option<(String, String)>,
    faults: Option<Faults>,
    subscribers: HashMap<u64, Subscriber>,
    retained: BTreeMap<String, Bytes>,
    /// `None`: MQTT 3.1.1 only.
    terms: Option<Terms>,
    connects: u64,
    /// Cancelled when everybody is thrown out; then there is a new one.
    era: CancellationToken,
}

impl Default for State {
    fn default() -> Self {
        Self {
            taps: Vec::new(),
            login: None,
            faults: None,
            subscribers: HashMap::new(),
            retained: BTreeMap::new(),
            terms: Some(Terms {
                protocol: Protocol::V5,
                topic_alias_maximum: ALIASES,
                ..Terms::default()
            }),
            connects: 0,
            era: CancellationToken::new(),
        }
    }
}

#[derive(Default)]
pub(super) struct Exchange {
    state: Mutex<State>,
}

/// A connection's place in the exchange.
pub(super) struct Seat {
    pub(super) number: u64,
    pub(super) deliveries: mpsc::Receiver<Delivery>,
    pub(super) kick: CancellationToken,
    pub(super) faults: Option<Drawn>,
}

impl Exchange {
    fn state(&self) -> MutexGuard<'_, State> {
        // A tap that panicked (a failed assertion) leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add_tap(&self, tap: Tap) {
        self.state().taps.push(tap);
    }

    pub(super) fn require_login(&self, login: Option<(String, String)>) {
        self.state().login = login;
    }

    pub(super) fn set_faults(&self, faults: Option<Faults>) {
        self.state().faults = faults;
    }

    pub(super) fn set_terms(&self, terms: Option<Terms>) {
        self.state().terms = terms;
    }

    pub(super) fn speaks_v5(&self) -> bool {
        self.state().terms.is_some()
    }

    /// What a client is granted that connects now.
    pub(super) fn terms(&self) -> Terms {
        self.state().terms.clone().unwrap_or_default()
    }

    pub(super) fn retained(&self, topic: &str) -> Option<Bytes> {
        self.state().retained.get(topic).cloned()
    }

    pub(super) fn connects_total(&self) -> u64 {
        self.state().connects
    }

    /// Whoever connects now is thrown out when this is cancelled.
    pub(super) fn era(&self) -> CancellationToken {
        self.state().era.clone()
    }

    pub(super) fn kick_all(&self) {
        std::mem::take(&mut self.state().era).cancel();
    }

    pub(super) fn may_enter(&self, username: &str, password: &str) -> bool {
        match &self.state().login {
            None => true,
            Some((user, pass)) => user == username && pass == password,
        }
    }

    /// Gives a client its seat; another connection under the same client id loses its own.
    pub(super) fn enter(&self, client_id: Arc<str>, era: &CancellationToken) -> Seat {
        let mut state = self.state();
        for other in state.subscribers.values() {
            if !client_id.is_empty() && other.client_id == client_id {
                other.kick.cancel();
            }
        }
        state.connects += 1;
        let number = state.connects;
        let (outbox, deliveries) = mpsc::channel(OUTBOX_MESSAGES);
        let kick = era.child_token();
        state.subscribers.insert(
            number,
            Subscriber {
                client_id,
                filters: Vec::new(),
                outbox,
                kick: kick.clone(),
            },
        );
        let faults = state
            .faults
            .clone()
            .map(|faults| Drawn::new(faults, number));
        Seat {
            number,
            deliveries,
            kick,
            faults,
        }
    }

    pub(super) fn leave(&self, number: u64) {
        self.state().subscribers.remove(&number);
    }

    /// Adds a subscription and hands over what is retained for it. False: that is no filter.
    pub(super) fn subscribe(&self, number: u64, filter: &str, qos: QoS) -> bool {
        if !topic::is_filter(filter) {
            return false;
        }
        let mut state = self.state();
        let State {
            subscribers,
            retained,
            ..
        } = &mut *state;
        let Some(subscriber) = subscribers.get_mut(&number) else {
            return false;
        };
        subscriber.filters.retain(|(known, _)| known != filter);
        subscriber.filters.push((filter.to_owned(), qos));
        for (topic, payload) in retained.iter() {
            if topic::matches(filter, topic) {
                subscriber.deliver(Delivery {
                    topic: topic.clone(),
                    payload: payload.clone(),
                    retain: true,
                    qos,
                    properties: None,
                });
            }
        }
        true
    }

    pub(super) fn unsubscribe(&self, number: u64, filters: &[String]) {
        if let Some(subscriber) = self.state().subscribers.get_mut(&number) {
            subscriber
                .filters
                .retain(|(known, _)| !filters.contains(known));
        }
    }

    /// Takes custody: taps, retained, subscribers, in this order.
    pub(super) fn publish(&self, message: &Tapped, properties: Option<Box<Properties>>, qos: QoS) {
        let mut state = self.state();
        for tap in &state.taps {
            tap(message);
        }
        if message.retain && message.payload.is_empty() {
            state.retained.remove(&message.topic);
        } else if message.retain {
            state
                .retained
                .insert(message.topic.clone(), message.payload.clone());
        }
        for subscriber in state.subscribers.values() {
            if let Some(granted) = subscriber.granted(&message.topic) {
                subscriber.deliver(Delivery {
                    topic: message.topic.clone(),
                    payload: message.payload.clone(),
                    retain: false,
                    qos: if granted < qos { granted } else { qos },
                    properties: properties.clone(),
                });
            }
        }
    }
}

impl Subscriber {
    /// The best QoS of the filters that ask for the topic.
    fn granted(&self, topic: &str) -> Option<QoS> {
        let mut best = None;
        for (filter, qos) in &self.filters {
            if topic::matches(filter, topic) && best.is_none_or(|best| best < *qos) {
                best = Some(*qos);
            }
        }
        best
    }

    fn deliver(&self, delivery: Delivery) {
        if self.outbox.try_send(delivery).is_err() {
            tracing::debug!(client = %self.client_id, "a subscriber does not keep up");
            self.kick.cancel();
        }
    }
}
