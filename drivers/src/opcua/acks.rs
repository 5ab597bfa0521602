//! Which notifications the server may forget.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use millrace_tags::Receipt;
use opcua::types::SubscriptionAcknowledgement;

/// Notifications handed out and not yet settled; beyond it the oldest is forgotten here, and the server
/// drops it by its own limit. It bounds memory when nobody ever settles.
const UNSETTLED_MAX: usize = 10_000;

/// Acknowledgements in one Publish.
const ACKS_PER_PUBLISH_MAX: usize = 500;

/// A notification waits here from being handed out to being committed, then until the next Publish.
/// Cloning shares it.
#[derive(Clone)]
pub(super) struct Acks {
    receipts: Arc<AtomicU64>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    unsettled: HashMap<Receipt, (u32, u32)>,
    order: VecDeque<Receipt>,
    settled: VecDeque<SubscriptionAcknowledgement>,
}

impl Acks {
    /// `receipts` counts over all sessions of a driver, so that no receipt fits two of them.
    pub(super) fn new(receipts: Arc<AtomicU64>) -> Self {
        Self {
            receipts,
            state: Arc::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The receipt of a notification that is about to be handed out.
    pub(super) fn hand_out(&self, subscription: u32, sequence_number: u32) -> Receipt {
        let receipt = Receipt(self.receipts.fetch_add(1, Ordering::Relaxed));
        let mut state = self.state();
        state
            .unsettled
            .insert(receipt, (subscription, sequence_number));
        state.order.push_back(receipt);
        while state.order.len() > UNSETTLED_MAX {
            if let Some(oldest) = state.order.pop_front() {
                state.unsettled.remove(&oldest);
            }
        }
        receipt
    }

    /// The samples of the notification are committed. A receipt of another session means nothing.
    pub(super) fn settle(&self, receipt: Receipt) {
        let mut state = self.state();
        if let Some((subscription_id, sequence_number)) = state.unsettled.remove(&receipt) {
            state.settled.push_back(SubscriptionAcknowledgement {
                subscription_id,
                sequence_number,
            });
            state.order.retain(|waiting| *waiting != receipt);
        }
    }

    /// What goes out with the next Publish.
    pub(super) fn take(&self) -> Vec<SubscriptionAcknowledgement> {
        let mut state = self.state();
        let count = state.settled.len().min(ACKS_PER_PUBLISH_MAX);
        state.settled.drain(..count).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(acks: &Acks) -> Vec<u32> {
        let taken = acks.take();
        taken.iter().map(|ack| ack.sequence_number).collect()
    }

    #[test]
    fn only_what_is_settled_is_acknowledged_and_once() {
        let acks = Acks::new(Arc::default());
        let first = acks.hand_out(7, 1);
        let second = acks.hand_out(7, 2);
        assert!(numbers(&acks).is_empty());
        acks.settle(second);
        acks.settle(second);
        assert_eq!(numbers(&acks), [2]);
        acks.settle(first);
        assert_eq!(numbers(&acks), [1]);
        assert!(numbers(&acks).is_empty());
    }

    #[test]
    fn a_receipt_of_an_earlier_session_settles_nothing() {
        let receipts = Arc::new(AtomicU64::new(0));
        let late = Acks::new(receipts.clone()).hand_out(1, 1);
        let acks = Acks::new(receipts);
        acks.hand_out(1, 1);
        acks.settle(late);
        assert!(numbers(&acks).is_empty());
    }

    #[test]
    fn memory_is_bounded_when_nobody_settles() {
        let acks = Acks::new(Arc::default());
        let first = acks.hand_out(1, 0);
        for number in 0..UNSETTLED_MAX as u32 {
            acks.hand_out(1, number + 1);
        }
        assert_eq!(acks.state().unsettled.len(), UNSETTLED_MAX);
        acks.settle(first);
        assert!(numbers(&acks).is_empty());
    }
}
