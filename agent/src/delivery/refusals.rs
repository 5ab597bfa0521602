//! What a broker that speaks MQTT 5 refuses, with its reasons.
//!
//! A source whose topic is not permitted is withheld at once, as one is of which everything was refused by hanging up.
//! A message that is refused as it is is halved, down to the one record that is to blame; one that is refused without a
//! reason is tried again before that. Where the broker says that a packet was too large, the next ones are half as
//! large.

use millrace_buffer::OfferId;
use millrace_uplink::Refusal;
use millrace_uplink::profile::EncodeError;

use super::barred::Reach;
use super::numbers::Numbers;
use super::suspects::Verdict;
use super::{Delivery, InFlight};

/// No broker is known that takes less.
const MESSAGE_BYTES_MIN: usize = 1024;

/// What people read of a source that is barred.
pub(super) const DENIED: &str = "the broker answers that we are not authorised to publish this source's topic; one is tried \
    again now and then";

/// What people read of a source of which every record is refused.
const REFUSES_ALL: &str =
    "the broker refuses each message of this source; one is tried again now and then";

/// What people read of a source of which every record is too large.
const TOO_LARGE: &str = "each message of this source is larger than the broker says it takes, or than max_message; one is \
    tried again now and then";

impl Delivery {
    /// The session or the broker refuses what was sent of these numbers.
    pub(super) fn take_refusal(
        &mut self,
        id: OfferId,
        numbers: &Numbers,
        bytes: usize,
        why: &Refusal,
    ) {
        let alone = std::mem::take(&mut self.alone);
        let reason = why.to_string();
        match why {
            Refusal::Denied(_) => self.deny(id, numbers),
            Refusal::Never(_) if numbers.is_single() => self.set_aside(id, numbers, &reason, 1),
            Refusal::Never(_) | Refusal::Unexplained(_) => {
                if matches!(why, Refusal::Unexplained(_)) {
                    // The broker itself may be the cause: something else must pass first.
                    self.proven = false;
                }
                match alone {
                    true => self.judge_alone(id, numbers, &reason, REFUSES_ALL),
                    false => self.suspects.lost(&[(numbers.clone(), bytes)]),
                }
                self.outbox.failed(id);
            }
            _ => self.set_aside(id, numbers, &reason, 1),
        }
    }

    /// Numbers that went alone were not taken: halves them, sets them aside in the end, or withholds their source.
    pub(super) fn judge_alone(
        &mut self,
        id: OfferId,
        numbers: &Numbers,
        of_one: &str,
        of_source: &str,
    ) {
        let tries = match self.suspects.lost_alone(numbers) {
            Verdict::Refused(tries) => Some(tries),
            Verdict::TryAgain => None,
        };
        let (poison_after, now) = (self.settings.poison_after, self.clock.now());
        let reach = self
            .barred
            .lost(numbers, tries.is_some(), poison_after, now);
        match (reach, tries) {
            (Reach::Single, None) => {}
            (Reach::Single, Some(tries)) => self.set_aside(id, numbers, of_one, tries),
            (Reach::Begins, _) => self.bar(id, numbers, of_source),
            (Reach::Lasts, _) => self.outbox.withhold(id, of_source, true),
        }
    }

    /// A record has no message that the core takes: it is set aside, or all of its source is withheld where all of
    /// it is too large for this broker.
    pub(super) fn take_unsendable(&mut self, id: OfferId, culprit: &Numbers, error: &EncodeError) {
        let reach = match error {
            EncodeError::TooLarge { .. } => self.barred.too_large(culprit, self.clock.now()),
            _ => Reach::Single,
        };
        match reach {
            Reach::Single => self.set_aside(id, culprit, &error.to_string(), 1),
            Reach::Begins => self.bar(id, culprit, TOO_LARGE),
            Reach::Lasts => self.outbox.withhold(id, TOO_LARGE, true),
        }
    }

    fn deny(&mut self, id: OfferId, numbers: &Numbers) {
        match self.barred.denied(numbers, self.clock.now()) {
            Reach::Begins => self.bar(id, numbers, DENIED),
            Reach::Single | Reach::Lasts => self.outbox.withhold(id, DENIED, true),
        }
    }

    fn bar(&mut self, id: OfferId, numbers: &Numbers, reason: &str) {
        tracing::error!(uplink = %self.settings.name, source = numbers.source(), reason, "nothing of this source is taken: it is withheld");
        self.suspects.forget(numbers);
        self.outbox.withhold(id, reason, false);
        self.tell_barred();
    }

    /// The broker said that a packet was larger than it takes.
    pub(super) fn learn_size(&mut self) {
        let largest = self.in_flight.values().filter_map(|what| match what {
            InFlight::Offer(sent) => Some(sent.bytes),
            InFlight::Said(_) | InFlight::Clock(_) | InFlight::Probe | InFlight::Node => None,
        });
        let Some(largest) = largest.max() else {
            return;
        };
        let learned = (largest / 2).max(MESSAGE_BYTES_MIN);
        if learned < self.message_max {
            self.message_max = learned;
            tracing::warn!(uplink = %self.settings.name, bytes = learned, "the broker says that a packet was too large; messages stay below this from now on; max_message makes them smaller from the start");
        }
    }
}
