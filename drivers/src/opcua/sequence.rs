//! Sequence numbers of a subscription's notifications (Part 4, 5.13.1.1).

/// More missing notifications than this are not asked for one by one: no server keeps as many.
const REPUBLISH_MAX: u32 = 1000;

/// What has come of one subscription.
#[derive(Debug, Clone)]
pub(super) struct Sequence {
    /// The number of the next notification.
    next: u32,
}

/// What a message's number says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Arrival {
    /// It is the next one.
    InOrder,
    /// These came not, and may be asked for again.
    Missing(Vec<u32>),
    /// So many came not that asking for each is pointless.
    Lost(u64),
    /// It was here before.
    Repeated,
}

impl Sequence {
    /// Notifications of a new subscription count from 1.
    pub(super) fn new() -> Self {
        Self { next: 1 }
    }

    /// The number of the notification that should come next.
    pub(super) fn next(&self) -> u32 {
        self.next
    }

    /// A notification has come. Its number is used up.
    pub(super) fn notified(&mut self, number: u32) -> Arrival {
        let arrival = self.compare(number);
        if arrival != Arrival::Repeated {
            self.next = after(number);
        }
        arrival
    }

    /// A keep-alive has come. It carries the number of the notification that will come next.
    pub(super) fn kept_alive(&mut self, number: u32) -> Arrival {
        let arrival = self.compare(number);
        if arrival != Arrival::Repeated {
            self.next = number;
        }
        arrival
    }

    fn compare(&self, number: u32) -> Arrival {
        let ahead = number.wrapping_sub(self.next);
        if ahead == 0 {
            Arrival::InOrder
        } else if ahead > u32::MAX / 2 {
            Arrival::Repeated
        } else if ahead > REPUBLISH_MAX {
            Arrival::Lost(ahead.into())
        } else {
            let numbers = std::iter::successors(Some(self.next), |&n| Some(after(n)));
            Arrival::Missing(numbers.take_while(|&n| n != number).collect())
        }
    }
}

/// Zero is never used: the number after the largest is 1.
fn after(number: u32) -> u32 {
    number.checked_add(1).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_order_to_in_order() {
        let mut sequence = Sequence::new();
        assert_eq!(sequence.notified(1), Arrival::InOrder);
        assert_eq!(sequence.notified(2), Arrival::InOrder);
        assert_eq!(sequence.kept_alive(3), Arrival::InOrder);
        assert_eq!(sequence.kept_alive(3), Arrival::InOrder);
        assert_eq!(sequence.notified(3), Arrival::InOrder);
    }

    #[test]
    fn a_gap_names_what_is_missing_once() {
        let mut sequence = Sequence::new();
        assert_eq!(sequence.notified(4), Arrival::Missing(vec![1, 2, 3]));
        assert_eq!(sequence.notified(5), Arrival::InOrder);
        assert_eq!(sequence.kept_alive(8), Arrival::Missing(vec![6, 7]));
        assert_eq!(sequence.notified(8), Arrival::InOrder);
    }

    #[test]
    fn an_old_number_changes_nothing() {
        let mut sequence = Sequence::new();
        sequence.notified(1);
        sequence.notified(2);
        assert_eq!(sequence.notified(1), Arrival::Repeated);
        assert_eq!(sequence.notified(3), Arrival::InOrder);
    }

    #[test]
    fn numbers_wrap_past_zero() {
        let mut sequence = Sequence { next: u32::MAX };
        assert_eq!(sequence.notified(u32::MAX), Arrival::InOrder);
        assert_eq!(sequence.notified(1), Arrival::InOrder);
        let mut sequence = Sequence { next: u32::MAX };
        assert_eq!(sequence.notified(2), Arrival::Missing(vec![u32::MAX, 1]));
    }

    #[test]
    fn a_gap_too_large_to_ask_for_is_counted() {
        let mut sequence = Sequence::new();
        assert_eq!(sequence.notified(5001), Arrival::Lost(5000));
        assert_eq!(sequence.notified(5002), Arrival::InOrder);
    }
}
