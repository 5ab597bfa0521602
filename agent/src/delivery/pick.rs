//! What goes next: the next offer of the log that may go now, and its messages.

use millrace_buffer::{Budget, Item, Offer};
use millrace_uplink::profile::EncodeError;
use millrace_uplink::{Message, Window};

use super::barred::{Access, TAKES_NOTHING};
use super::metered::May;
use super::node::Node;
use super::numbers::Numbers;
use super::proof::Gate;
use super::suspects::Advice;
use super::{Delivery, PARCEL_RECORDS_MAX};
use crate::report::MeteredStatus;

/// Why an offer does not go now.
enum Hold {
    /// Its source is barred.
    Barred,
    /// Others are under way.
    UntilAcked,
    /// This connection has carried nothing yet.
    UntilProven,
}

/// What goes next.
pub(super) enum Pick {
    /// Something of the log.
    Offer(Offer),
    /// The status, to see whether the connection is good.
    Probe,
}

impl Delivery {
    /// What the meter leaves.
    pub(super) fn may(&mut self) -> May {
        let Some(meter) = &mut self.meter else {
            return May::Everything;
        };
        let now = self.clock.now();
        let utc = self.clock.timebase().utc(now);
        let may = meter.may(self.uplink.counters.traffic_total(), now, utc);
        let (used, bytes_per_day) = meter.used();
        let next_batch_s = meter.next_batch(now).map(|left| left.as_secs());
        self.uplink.update(|status| {
            status.metered = Some(MeteredStatus {
                used_today: used,
                bytes_per_day,
                sends: may.word().to_owned(),
                next_batch_s,
            });
        });
        may
    }

    /// The same, where the core does not acknowledge what it has got.
    pub(super) fn may_beside_core(&mut self) -> May {
        let may = self.may();
        match (&self.acks, may) {
            (Some(acks), _) if acks.is_overfull() => May::Nothing,
            (Some(acks), May::Everything) if acks.is_full() => May::Alarms,
            _ => may,
        }
    }

    /// What may go next.
    pub(super) fn pick(&mut self, window: Window, may: May) -> Option<Pick> {
        let budget = Budget {
            records: self.pacer.records(PARCEL_RECORDS_MAX),
            backlog: window.backlog && self.node.as_ref().is_none_or(Node::has_room),
        };
        loop {
            let held = self.held.take();
            let mut offer = held.or_else(|| match may {
                May::Everything => self.outbox.next(budget),
                May::Alarms | May::Nothing => self.outbox.next_alarm(budget.records),
            })?;
            match self.admit(&mut offer) {
                Ok(()) => return Some(Pick::Offer(offer)),
                Err(Hold::Barred) => self.outbox.withhold(offer.id, TAKES_NOTHING, false),
                Err(Hold::UntilAcked) => {
                    self.held = Some(offer);
                    return None;
                }
                Err(Hold::UntilProven) => {
                    self.held = Some(offer);
                    return Some(Pick::Probe);
                }
            }
        }
    }

    pub(super) fn encode(&mut self, offer: &Offer) -> Result<Vec<Message>, EncodeError> {
        if let (Some(node), Item::Parcel(parcel)) = (&mut self.node, &offer.item) {
            return node
                .encode(parcel, self.message_max.min(self.granted_max))
                .or_else(|_| node.encode(parcel, self.granted_max));
        }
        let encoded = self.encode_by_profile(offer);
        if let (Ok(_), Item::Parcel(parcel)) = (&encoded, &offer.item) {
            self.barred.fits(&Numbers::of(parcel));
        }
        encoded
    }

    fn encode_by_profile(&self, offer: &Offer) -> Result<Vec<Message>, EncodeError> {
        match &offer.item {
            // One record may be larger than what was found to pass, and pass.
            Item::Parcel(parcel) => self
                .profile
                .encode_parcel(parcel, self.message_max.min(self.granted_max))
                .or_else(|_| self.profile.encode_parcel(parcel, self.granted_max)),
            Item::Gap(gap) => Ok(self.profile.encode_gap(gap, self.granted_max)),
        }
    }

    /// Whether messages may go, where their topics have to be proven.
    pub(super) fn gate(&mut self, messages: &[Message], trial: bool) -> Gate {
        let Some(proof) = &mut self.proof else {
            return Gate::Open;
        };
        if trial {
            proof.try_again(messages);
        }
        proof.admit(messages, self.clock.now())
    }

    /// Makes a suspected offer wait until it may go alone; `Err`: what to do instead.
    fn admit(&mut self, offer: &mut Offer) -> Result<(), Hold> {
        let Item::Parcel(parcel) = &offer.item else {
            return Ok(());
        };
        let (numbers, now) = (Numbers::of(parcel), self.clock.now());
        let access = self.barred.access(&numbers, now);
        if self.proof.is_some() && access != Access::Free {
            if access == Access::Barred && self.outbox.withholds(offer.id) {
                return Err(Hold::Barred);
            }
            // Nobody hangs up on it: the others need not wait.
            self.barred.tries(&numbers, now);
            self.outbox.shorten(offer, 1);
            self.trial = true;
            return Ok(());
        }
        let advice = match access {
            Access::Free => self.suspects.advise(parcel),
            // Somebody had what was withheld sent again, or gave it up: that asks for a trial.
            Access::Barred if self.outbox.withholds(offer.id) => return Err(Hold::Barred),
            Access::Barred | Access::Trial => Advice::Alone(1),
        };
        match advice {
            Advice::Free => Ok(()),
            Advice::Before(records) => {
                self.outbox.shorten(offer, records);
                Ok(())
            }
            Advice::Alone(records) => {
                self.outbox.shorten(offer, records);
                if !self.in_flight.is_empty() {
                    return Err(Hold::UntilAcked);
                }
                if !self.proven {
                    return Err(Hold::UntilProven);
                }
                self.alone = true;
                Ok(())
            }
        }
    }
}
