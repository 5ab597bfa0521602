//! Whether the core takes what is published, where its acknowledgement does not say so.
//!
//! NATS acknowledges what it then discards because the user may not publish there; Mainflux acknowledges before it looks.
//! So we subscribe to the very topics that we publish to, and the first messages of each topic prove it by coming back
//! to us: what is published while we listen is settled only when it was acknowledged *and* came back. Once one did, the
//! subscription ends, and acknowledgements count by themselves: until the next connection, or [`PROOF_KEPT`].
//!
//! What does not come back is given back to the log, and its source withheld as one that the broker hangs up on. Where
//! we may not subscribe, nothing can be proven, so that nothing is sent.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use millrace_tags::Moment;
use millrace_uplink::{Listening, Message};

/// A message that is acknowledged and did not come back after this long is taken for discarded: the way back is as
/// short as that of the acknowledgement.
const ECHO_LIMIT: Duration = Duration::from_secs(10);
/// A SUBSCRIBE that is not answered in this time was refused.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// Rights may change while a connection lasts.
const PROOF_KEPT: Duration = Duration::from_secs(600);
/// At a new connection so many of the known topics are listened to at once; the others when their turn comes.
const ASKED_AT_ONCE: usize = 64;
/// More acknowledged messages than these do not wait to come back: nothing more is sent until they did, or did not.
const PARKED_MAX: usize = 256;
/// So many connections in a row that were closed while a SUBSCRIBE waited for its answer: it is the cause.
const CLOSED_OVER_IT: u32 = 3;

/// What people read of a topic that is not proven.
pub(super) const DISCARDED: &str = "the core acknowledges messages of this topic and does not give them out again: \
    it may discard them because we may not publish there; one is tried again now and then";
/// What people read of a topic that cannot be.
pub(super) const DEAF: &str = "the core refuses our own subscription to this topic, without which nothing proves that \
    it takes what it acknowledges; verify = \"puback\" takes acknowledgements for delivery";

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Ear {
    #[default]
    Off,
    Asked(Moment),
    On,
}

#[derive(Debug, Default)]
struct Topic {
    ear: Ear,
    /// When a message of it last came back, on this connection.
    proven: Option<Moment>,
    /// Why it is not, once that is known.
    refused: Option<&'static str>,
    /// It is to be tried all the same, until there is an answer.
    again: bool,
}

/// A consignment that waits for its messages to come back.
#[derive(Debug, Default)]
pub(super) struct Open {
    topics: BTreeSet<String>,
    /// Messages that did not come back yet.
    missing: usize,
    /// When it is taken for discarded; set with its acknowledgement.
    until: Option<Moment>,
}

/// How messages may go.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Gate {
    /// Now.
    Open,
    /// When the broker has answered a subscription.
    Wait,
    /// Not: we may not subscribe to their topic.
    Shut(&'static str),
}

/// What became of an acknowledged consignment that did not come back.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// A copy of it may have been lost on its way to us: others of its topic came.
    Again,
    /// Nothing of its topic came.
    Discarded,
}

/// The proofs of one uplink.
#[derive(Debug, Default)]
pub(super) struct Proof {
    topics: HashMap<String, Topic>,
    changes: VecDeque<Listening>,
    open: BTreeMap<u64, Open>,
    /// Messages that are to come back, by topic and payload: whose they are.
    expected: HashMap<u64, Vec<u64>>,
    /// Connections in a row that were closed while a SUBSCRIBE was open.
    closed_over_it: u32,
}

impl Proof {
    /// A new connection: nothing is subscribed, and what was proven on the last one is to be proven anew.
    pub(super) fn reconnected(&mut self, now: Moment) {
        self.changes.clear();
        self.open.clear();
        self.expected.clear();
        let mut asked = 0;
        for (name, topic) in &mut self.topics {
            let was_proven = topic.proven.take().is_some();
            topic.ear = Ear::Off;
            if was_proven && asked < ASKED_AT_ONCE {
                asked += 1;
                topic.ear = Ear::Asked(now);
                self.changes.push_back(Listening::Begin(name.clone()));
            }
        }
    }

    /// The connection is gone; whether the broker closed it.
    pub(super) fn lost(&mut self, closed: bool) {
        let asked = |topic: &Topic| matches!(topic.ear, Ear::Asked(_));
        let proven = self.topics.values().any(|topic| topic.ear == Ear::On);
        let over_it = closed && !proven && self.topics.values().any(asked);
        self.closed_over_it = if over_it { self.closed_over_it + 1 } else { 0 };
        if self.closed_over_it >= CLOSED_OVER_IT {
            // It hangs up on the subscription, as Mainflux does where we may not read. Of a core that does so, the next
            // time says enough.
            self.closed_over_it = CLOSED_OVER_IT - 1;
            for topic in self.topics.values_mut().filter(|topic| asked(topic)) {
                topic.refused = Some(DEAF);
                topic.again = false;
            }
        }
    }

    /// The next change of what we listen to.
    pub(super) fn listening(&mut self) -> Option<Listening> {
        self.changes.pop_front()
    }

    /// The broker answered a subscription.
    pub(super) fn listens(&mut self, name: &str, granted: bool) {
        if let Some(topic) = self.topics.get_mut(name)
            && matches!(topic.ear, Ear::Asked(_))
        {
            topic.ear = if granted { Ear::On } else { Ear::Off };
            topic.again = false;
            if !granted {
                topic.refused = Some(DEAF);
                topic.proven = None;
            } else if topic.refused == Some(DEAF) {
                topic.refused = None;
            }
        }
    }

    /// Whether these messages may go. Asks for what is missing.
    pub(super) fn admit(&mut self, messages: &[Message], now: Moment) -> Gate {
        let mut gate = Gate::Open;
        for message in messages {
            // One look a topic: what has a key is not made again.
            let topic = match self.topics.get_mut(&message.topic) {
                Some(topic) => topic,
                None => self.topics.entry(message.topic.clone()).or_default(),
            };
            let stale = topic.proven.is_none_or(|at| now >= at + PROOF_KEPT);
            match topic.ear {
                Ear::Off if topic.refused == Some(DEAF) && !topic.again => {
                    return Gate::Shut(DEAF);
                }
                Ear::Off if stale => {
                    topic.ear = Ear::Asked(now);
                    let begin = Listening::Begin(message.topic.clone());
                    self.changes.push_back(begin);
                }
                Ear::Off | Ear::Asked(_) | Ear::On => {}
            }
            if topic.ear != Ear::On && topic.proven.is_none() {
                gate = Gate::Wait;
            }
        }
        if self.open.len() >= PARKED_MAX {
            return Gate::Wait;
        }
        gate
    }

    /// A source is tried again: what was refused may have been mended. Until that is known it is told as before.
    pub(super) fn try_again(&mut self, messages: &[Message]) {
        for message in messages {
            if let Some(topic) = self.topics.get_mut(&message.topic) {
                topic.again = true;
            }
        }
    }

    /// A consignment goes out.
    pub(super) fn sent(&mut self, token: u64, messages: &[Message]) {
        for message in messages {
            let on = |topic: &Topic| topic.ear == Ear::On;
            if self.topics.get(&message.topic).is_some_and(on) {
                let open = self.open.entry(token).or_default();
                open.missing += 1;
                open.topics.insert(message.topic.clone());
                let whose = self.expected.entry(print(&message.topic, &message.payload));
                whose.or_default().push(token);
            }
        }
    }

    /// A consignment was acknowledged; whether it is to wait until it came back.
    pub(super) fn acked(&mut self, token: u64, now: Moment) -> bool {
        let Some(open) = self.open.get_mut(&token) else {
            return false;
        };
        if open.missing == 0 {
            self.open.remove(&token);
            return false;
        }
        open.until = Some(now + ECHO_LIMIT);
        true
    }

    /// A message came. Returns the consignment of which it was the last that was missing, if it is acknowledged.
    pub(super) fn received(&mut self, name: &str, payload: &[u8], now: Moment) -> Option<u64> {
        let topic = self.topics.get_mut(name)?;
        let key = print(name, payload);
        let whose = self.expected.get_mut(&key)?;
        let token = whose.remove(0);
        if whose.is_empty() {
            self.expected.remove(&key);
        }
        topic.proven = Some(now);
        topic.refused = None;
        if topic.ear == Ear::On {
            topic.ear = Ear::Off;
            self.changes.push_back(Listening::End(name.to_owned()));
        }
        let open = self.open.get_mut(&token)?;
        open.missing -= 1;
        if open.missing > 0 || open.until.is_none() {
            return None;
        }
        self.open.remove(&token);
        Some(token)
    }

    /// Consignments that should have come back by now.
    pub(super) fn overdue(&mut self, now: Moment) -> Vec<(u64, Fate)> {
        for topic in self.topics.values_mut() {
            if matches!(topic.ear, Ear::Asked(since) if now >= since + ANSWER_LIMIT) {
                topic.ear = Ear::Off;
                topic.refused = Some(DEAF);
                topic.again = false;
                topic.proven = None;
            }
        }
        let due = |open: &Open| open.until.is_some_and(|until| now >= until);
        let tokens: Vec<u64> = self
            .open
            .iter()
            .filter(|(_, open)| due(open))
            .map(|(token, _)| *token)
            .collect();
        let mut fates = Vec::with_capacity(tokens.len());
        for token in tokens {
            let Some(open) = self.forget(token) else {
                continue;
            };
            let mut fate = Fate::Again;
            for name in &open.topics {
                if let Some(topic) = self.topics.get_mut(name)
                    && topic.ear == Ear::On
                {
                    fate = Fate::Discarded;
                    topic.proven = None;
                    topic.refused = Some(DISCARDED);
                }
            }
            fates.push((token, fate));
        }
        fates
    }

    /// The consignment does not come back.
    pub(super) fn forget(&mut self, token: u64) -> Option<Open> {
        let open = self.open.remove(&token)?;
        self.expected.retain(|_, whose| {
            whose.retain(|of| *of != token);
            !whose.is_empty()
        });
        Some(open)
    }

    /// When [`Proof::overdue`] has something to do.
    pub(super) fn next_overdue(&self) -> Option<Moment> {
        let answers = self.topics.values().filter_map(|topic| match topic.ear {
            Ear::Asked(since) => Some(since + ANSWER_LIMIT),
            Ear::Off | Ear::On => None,
        });
        let echoes = self.open.values().filter_map(|open| open.until);
        answers.chain(echoes).min()
    }

    /// Topics that are known not to be proven, in order, and why.
    pub(super) fn refused(&self) -> Vec<(String, &'static str)> {
        let refused = |(name, topic): (&String, &Topic)| Some((name.clone(), topic.refused?));
        let mut refused: Vec<_> = self.topics.iter().filter_map(refused).collect();
        refused.sort_unstable();
        refused
    }
}

fn print(topic: &str, payload: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (topic, payload).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: fn(u64) -> Moment = |seconds| Moment(0) + Duration::from_secs(seconds);

    fn message(topic: &str, payload: &str) -> Message {
        Message::new(topic, payload.to_owned())
    }

    /// A topic that we listen to.
    fn listening(topic: &str) -> Proof {
        let mut proof = Proof::default();
        let first = [message(topic, "1")];
        assert_eq!(proof.admit(&first, AT(0)), Gate::Wait);
        let begin = Listening::Begin(topic.to_owned());
        assert_eq!(proof.listening(), Some(begin));
        assert_eq!(proof.admit(&first, AT(0)), Gate::Wait, "asked once");
        assert_eq!(proof.listening(), None);
        proof.listens(topic, true);
        assert_eq!(proof.admit(&first, AT(0)), Gate::Open);
        proof
    }

    #[test]
    fn what_came_back_is_settled_and_later_messages_by_their_acknowledgement() {
        let mut proof = listening("a");
        proof.sent(1, &[message("a", "1"), message("a", "2")]);
        proof.sent(2, &[message("a", "3")]);
        assert!(proof.acked(1, AT(0)));
        assert_eq!(proof.received("a", b"1", AT(0)), None);
        assert_eq!(proof.listening(), Some(Listening::End("a".to_owned())));
        assert_eq!(proof.received("a", b"1", AT(0)), None, "only once");
        assert_eq!(proof.received("a", b"2", AT(0)), Some(1));
        assert_eq!(proof.received("a", b"3", AT(0)), None);
        assert!(!proof.acked(2, AT(0)), "it came back before its PUBACK");
        proof.sent(3, &[message("a", "4")]);
        assert!(!proof.acked(3, AT(0)));
        assert_eq!(proof.next_overdue(), None);
    }

    #[test]
    fn what_does_not_come_back_was_discarded() {
        let mut proof = listening("a");
        proof.sent(1, &[message("a", "1")]);
        assert!(proof.acked(1, AT(5)));
        assert_eq!(proof.overdue(AT(14)), []);
        assert_eq!(proof.next_overdue(), Some(AT(15)));
        assert_eq!(proof.overdue(AT(15)), [(1, Fate::Discarded)]);
        assert_eq!(proof.refused(), [("a".to_owned(), DISCARDED)]);
        // Tried again once it is mended: the subscription is still there.
        let again = [message("a", "1")];
        assert_eq!(proof.admit(&again, AT(60)), Gate::Open);
        proof.sent(2, &again);
        assert!(proof.acked(2, AT(60)));
        assert_eq!(proof.received("a", b"1", AT(61)), Some(2));
        assert_eq!(proof.refused(), []);
    }

    #[test]
    fn a_proof_lasts_ten_minutes_and_one_connection() {
        let mut proof = listening("a");
        proof.sent(1, &[message("a", "1")]);
        assert!(proof.acked(1, AT(0)));
        assert_eq!(proof.received("a", b"1", AT(0)), Some(1));
        assert!(proof.listening().is_some());
        let later = [message("a", "2")];
        assert_eq!(proof.admit(&later, AT(599)), Gate::Open);
        assert_eq!(proof.listening(), None);
        assert_eq!(
            proof.admit(&later, AT(600)),
            Gate::Open,
            "it goes on meanwhile"
        );
        assert_eq!(proof.listening(), Some(Listening::Begin("a".to_owned())));
        proof.reconnected(AT(601));
        assert_eq!(proof.listening(), Some(Listening::Begin("a".to_owned())));
        assert_eq!(proof.admit(&later, AT(601)), Gate::Wait);
    }

    #[test]
    fn without_a_subscription_nothing_is_sent() {
        let mut proof = Proof::default();
        let first = [message("a", "1")];
        assert_eq!(proof.admit(&first, AT(0)), Gate::Wait);
        proof.listens("a", false);
        assert_eq!(proof.admit(&first, AT(0)), Gate::Shut(DEAF));
        proof.try_again(&first);
        assert_eq!(proof.admit(&first, AT(60)), Gate::Wait);
        assert_eq!(proof.next_overdue(), Some(AT(90)));
        assert_eq!(proof.overdue(AT(90)), []);
        let never_answered = proof.admit(&first, AT(90));
        assert_eq!(never_answered, Gate::Shut(DEAF));
        proof.try_again(&first);
        for _ in 0..CLOSED_OVER_IT {
            assert_eq!(proof.admit(&first, AT(100)), Gate::Wait);
            proof.lost(true);
            proof.reconnected(AT(100));
        }
        assert_eq!(proof.admit(&first, AT(100)), Gate::Shut(DEAF));
        // A core that hangs up on one subscription hangs up on others.
        let other = [message("b", "1")];
        assert_eq!(proof.admit(&other, AT(100)), Gate::Wait);
        proof.lost(true);
        proof.reconnected(AT(100));
        assert_eq!(proof.admit(&other, AT(100)), Gate::Shut(DEAF));
    }

    #[test]
    fn a_trial_takes_no_reason_back_before_it_has_an_outcome() {
        let mut proof = listening("a");
        let first = [message("a", "1")];
        proof.sent(1, &first);
        assert!(proof.acked(1, AT(0)));
        assert_eq!(proof.overdue(AT(10)), [(1, Fate::Discarded)]);
        proof.lost(true);
        proof.reconnected(AT(60));
        proof.try_again(&first);
        assert_eq!(proof.admit(&first, AT(60)), Gate::Wait);
        assert_eq!(proof.refused(), [("a".to_owned(), DISCARDED)]);
        proof.listens("a", true);
        proof.sent(2, &first);
        assert!(proof.acked(2, AT(61)));
        assert_eq!(proof.refused(), [("a".to_owned(), DISCARDED)]);
        assert_eq!(proof.received("a", b"1", AT(61)), Some(2));
        assert_eq!(proof.refused(), []);
    }
}
