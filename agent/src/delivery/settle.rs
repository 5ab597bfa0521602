//! What an acknowledgement is worth: it settles an offer, or nothing does before the message has come back.

use millrace_buffer::OfferId;

use super::barred::Reach;
use super::proof::{DISCARDED, Fate, Proof};
use super::{Delivery, Sent};

impl Delivery {
    /// The broker has taken it: nothing is wrong with it, or its source.
    pub(super) fn carried(&mut self, sent: &Sent) {
        if let Some(numbers) = &sent.numbers {
            if let Some(bytes) = self.suspects.acked(numbers, sent.bytes) {
                self.message_max = bytes.min(self.message_max);
                tracing::warn!(uplink = %self.settings.name, bytes, "the broker closes the connection on larger messages than this; max_message makes them smaller from the start");
            }
            if self.barred.acked(numbers) {
                tracing::info!(uplink = %self.settings.name, source = numbers.source(), "the source is taken again");
                self.outbox.release(numbers.log(), numbers.source());
                self.tell_barred();
            }
        }
    }

    /// The core has taken it over.
    pub(super) fn settle(&mut self, sent: Sent) {
        self.carried(&sent);
        if let Some(node) = &mut self.node {
            return node.hold(sent.id, sent.records);
        }
        self.outbox.acked(sent.id);
        self.uplink
            .update(|status| status.records_acked_total += sent.records);
    }

    /// A message came on a topic that we publish to.
    pub(super) fn came_back(&mut self, topic: &str, payload: &[u8]) {
        let now = self.clock.now();
        let Some(proof) = &mut self.proof else {
            return;
        };
        if let Some(sent) = proof
            .received(topic, payload, now)
            .and_then(|token| self.parked.remove(&token))
        {
            self.settle(sent);
        }
        self.tell_unproven();
    }

    /// The consignment was not taken, so that nothing of it comes back.
    pub(super) fn forget_proof(&mut self, token: u64) {
        if let Some(proof) = &mut self.proof {
            proof.forget(token);
        }
    }

    /// The consignment was not taken, so that the core cannot acknowledge it.
    pub(super) fn forget_acks(&mut self, token: u64, offer: OfferId) {
        let parts = self.acks.as_mut().map(|acks| acks.forget(token, offer));
        for part in parts.into_iter().flatten() {
            self.outbox.failed(part);
        }
    }

    /// What was acknowledged and did not come back goes back to the log.
    pub(super) fn give_up_waiting(&mut self) {
        let now = self.clock.now();
        let Some(proof) = &mut self.proof else {
            return;
        };
        for (token, fate) in proof.overdue(now) {
            let Some(sent) = self.parked.remove(&token) else {
                continue;
            };
            match fate {
                Fate::Again => self.outbox.failed(sent.id),
                Fate::Discarded => self.unproven(&sent, DISCARDED),
            }
        }
    }

    /// Nothing says that the core takes the source: it is withheld, and tried again now and then.
    pub(super) fn unproven(&mut self, sent: &Sent, why: &'static str) {
        match &sent.numbers {
            Some(numbers) => {
                let source = numbers.source();
                if self.barred.refuses(numbers, self.clock.now()) == Reach::Begins {
                    tracing::error!(uplink = %self.settings.name, source, why, "the source is withheld");
                }
                self.outbox.withhold(sent.id, why, false);
                self.tell_barred();
            }
            // Nobody can be told of this gap; it is owed until somebody can.
            None => self.outbox.failed(sent.id),
        }
        self.tell_unproven();
    }

    fn tell_unproven(&self) {
        let topics = self.proof.as_ref().map(Proof::refused).unwrap_or_default();
        self.uplink.update(|status| {
            status.unproven_topics = topics
                .into_iter()
                .map(|(topic, why)| format!("{topic}: {why}"))
                .collect();
        });
    }
}
