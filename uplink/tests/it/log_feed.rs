//! A feed over a numbered log that checks what it is told, for the tests of the session.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use millrace_tags::Lane;
use millrace_uplink::sim::Broker;
use millrace_uplink::{Consignment, Feed, Inbound, Message, Refusal, SessionState, Window};
use tokio::sync::Notify;

/// The topic that the log is sent to.
pub(crate) const TOPIC: &str = "test/log";

#[derive(Default)]
struct Shared {
    acked: BTreeSet<u64>,
    refused: u64,
    in_custody: HashSet<u64>,
    verify: bool,
    false_acks: u64,
    state: Option<SessionState>,
}

/// What the feed has been told so far.
#[derive(Clone, Default)]
pub(crate) struct Progress(Arc<Mutex<Shared>>);

impl Progress {
    pub(crate) fn acked(&self) -> u64 {
        self.0.lock().unwrap().acked.len() as u64
    }

    pub(crate) fn refused(&self) -> u64 {
        self.0.lock().unwrap().refused
    }

    pub(crate) fn false_acks(&self) -> u64 {
        self.0.lock().unwrap().false_acks
    }

    pub(crate) fn last_state(&self) -> Option<SessionState> {
        self.0.lock().unwrap().state.clone()
    }

    pub(crate) fn assert_all_in_custody(&self, messages: u64) {
        let shared = self.0.lock().unwrap();
        let missing: Vec<u64> = (0..messages)
            .filter(|number| !shared.in_custody.contains(number))
            .collect();
        assert!(missing.is_empty(), "{} lost: {missing:?}", missing.len());
    }

    pub(crate) async fn wait_for(&self, goal: impl Fn(&Progress) -> bool) {
        while !goal(self) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

/// Offers messages 0..n in consignments of one to three; after a new connection again what was not acked.
pub(crate) struct LogFeed {
    progress: Progress,
    rng: fastrand::Rng,
    waiting: VecDeque<u64>,
    under_way: HashMap<u64, Vec<u64>>,
    next_token: u64,
    greeting: Option<Message>,
    special: HashMap<u64, Vec<u8>>,
    ready: Arc<Notify>,
}

impl LogFeed {
    pub(crate) fn new(messages: u64, seed: u64) -> Self {
        Self {
            progress: Progress::default(),
            rng: fastrand::Rng::with_seed(seed),
            waiting: (0..messages).collect(),
            under_way: HashMap::new(),
            next_token: 0,
            greeting: None,
            special: HashMap::new(),
            ready: Arc::default(),
        }
    }

    pub(crate) fn with_greeting(mut self, greeting: Message) -> Self {
        self.greeting = Some(greeting);
        self
    }

    pub(crate) fn with_message(mut self, number: u64, payload: Vec<u8>) -> Self {
        self.special.insert(number, payload);
        self
    }

    pub(crate) fn progress(&self) -> Progress {
        self.progress.clone()
    }

    /// From now on an ack for a message that the broker does not hold is counted as a false one.
    pub(crate) fn verify_custody(&self, broker: &Broker) {
        self.progress.0.lock().unwrap().verify = true;
        let progress = self.progress();
        broker.tap(move |message| {
            if message.topic == TOPIC {
                let number = std::str::from_utf8(&message.payload).unwrap().parse();
                progress
                    .0
                    .lock()
                    .unwrap()
                    .in_custody
                    .insert(number.unwrap());
            }
        });
    }

    fn payload(&self, number: u64) -> Bytes {
        match self.special.get(&number) {
            Some(payload) => payload.clone().into(),
            None => number.to_string().into(),
        }
    }
}

impl Feed for LogFeed {
    fn greeting(&mut self) -> Vec<Message> {
        let mut again: Vec<u64> = self.under_way.drain().flat_map(|(_, m)| m).collect();
        again.sort_unstable();
        for number in again.into_iter().rev() {
            self.waiting.push_front(number);
        }
        self.greeting.clone().into_iter().collect()
    }

    fn next(&mut self, window: Window) -> Option<Consignment> {
        assert!(window.messages > 0 && window.bytes > 0);
        let count = self.rng.usize(1..=3).min(self.waiting.len());
        // A message that will be refused goes alone.
        let count = match self
            .waiting
            .iter()
            .take(count)
            .any(|n| self.special.contains_key(n))
        {
            true => 1,
            false => count,
        };
        let numbers: Vec<u64> = self.waiting.drain(..count).collect();
        if numbers.is_empty() {
            return None;
        }
        let backlog = window.backlog && self.rng.bool();
        self.next_token += 1;
        let messages = numbers
            .iter()
            .map(|number| Message::new(TOPIC, self.payload(*number)))
            .collect();
        self.under_way.insert(self.next_token, numbers);
        Some(Consignment {
            token: self.next_token,
            lane: if backlog { Lane::Backlog } else { Lane::Live },
            messages,
        })
    }

    fn acked(&mut self, token: u64) {
        let numbers = self
            .under_way
            .remove(&token)
            .expect("acked what is under way");
        let mut shared = self.progress.0.lock().unwrap();
        for number in numbers {
            if shared.verify && !shared.in_custody.contains(&number) {
                shared.false_acks += 1;
            }
            assert!(shared.acked.insert(number), "acked once");
        }
    }

    fn refused(&mut self, token: u64, why: Refusal) {
        if matches!(why, Refusal::Unexplained(_)) {
            return self.postponed(token);
        }
        let numbers = self
            .under_way
            .remove(&token)
            .expect("refused what is under way");
        self.progress.0.lock().unwrap().refused += numbers.len() as u64;
    }

    fn postponed(&mut self, token: u64) {
        let numbers = self.under_way.remove(&token);
        self.waiting
            .extend(numbers.expect("postponed what is under way"));
    }

    fn received(&mut self, _message: Inbound) {}

    fn state(&mut self, state: &SessionState) {
        self.progress.0.lock().unwrap().state = Some(state.clone());
    }

    fn ready(&self) -> Arc<Notify> {
        Arc::clone(&self.ready)
    }
}
