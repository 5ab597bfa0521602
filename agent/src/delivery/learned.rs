//! What a core says of its own limits, asked at each connect, and obeyed beside what is written.

use std::time::Duration;

use millrace_buffer::{Item, Offer};
use millrace_tags::Moment;
use millrace_uplink::Message;
use millrace_uplink::profile::CoreLimits;

use super::rate::Pacer;
use super::{Delivery, InFlight};
use crate::report::LearnedLimits;

/// A core that does not answer by then knows no such question: data go on.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

impl Delivery {
    /// The question, where the core can be asked; data wait for the answer.
    pub(super) fn ask_limits(&mut self) -> Option<Message> {
        let ask = self.profile.ask_limits()?;
        self.asked_limits = Some(self.clock.now());
        Some(ask)
    }

    /// When the answer comes too late.
    pub(super) fn limits_due(&self, now: Moment) -> Option<Duration> {
        let due = self.asked_limits? + ANSWER_LIMIT;
        Some(due.since(now))
    }

    /// Whether data wait: for the answer, or for acknowledgements.
    pub(super) fn waits_for_core(&mut self, now: Moment) -> bool {
        if self
            .asked_limits
            .is_some_and(|since| now < since + ANSWER_LIMIT)
        {
            return true;
        }
        self.asked_limits = None;
        let Some(most) = self.inflight_max else {
            return false;
        };
        let messages = self.in_flight.values().map(|what| match what {
            InFlight::Offer(sent) => sent.messages,
            InFlight::Said(_) | InFlight::Clock(_) | InFlight::Probe | InFlight::Node => 1,
        });
        messages.sum::<usize>() >= most
    }

    /// Whether a parcel makes more messages than the core takes at once: then it has fewer records now.
    pub(super) fn divides(&mut self, offer: &mut Offer, messages: usize) -> bool {
        let at_once = self
            .inflight_max
            .into_iter()
            .chain(self.pacer.messages_at_once());
        let Item::Parcel(parcel) = &offer.item else {
            return false;
        };
        let records = parcel.records.len();
        match at_once.min() {
            Some(most) if messages > most && records > 1 => {
                let fewer = (records * most / messages).clamp(1, records - 1);
                self.outbox.shorten(offer, fewer);
                true
            }
            _ => false,
        }
    }

    /// The answer.
    pub(super) fn learn_limits(&mut self, limits: &CoreLimits) {
        self.asked_limits = None;
        let now = self.clock.now();
        self.pacer = Pacer::new(self.settings.rates, now);
        self.pacer.learn(limits, now);
        self.inflight_max = limits.max_inflight;
        if let Some(most) = limits.max_payload {
            self.granted_max = self.granted_max.min(most);
        }
        let told = LearnedLimits {
            max_payload: limits.max_payload,
            max_inflight: limits.max_inflight,
            messages_per_second: limits.messages_per_second,
            points_per_second: limits.points_per_second,
        };
        let before = self.uplink.report().learned;
        if before.as_ref() != Some(&told) {
            tracing::info!(uplink = %self.settings.name, limits = ?told, "the core has told its limits");
        }
        self.uplink.update(|status| status.learned = Some(told));
    }
}
