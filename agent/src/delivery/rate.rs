//! How much a core takes in a second: messages, bytes, records.
//!
//! Each limit is an account that fills by itself, up to one second's worth, and that a message may overdraw: what comes next waits
//! until it is paid. So the mean holds whatever the size of a message, and a burst is two seconds' worth at most.

use std::time::Duration;

use millrace_tags::Moment;
use millrace_uplink::profile::Rates;

/// Below this a message is more headers than anything else.
const MESSAGE_BYTES_MIN: usize = 4 * 1024;

/// The largest message to make: no more than a second's worth, so that no alarm waits long behind one.
pub(super) fn message_max(most: usize, rates: Rates) -> usize {
    let second = rates.bytes.and_then(|bytes| usize::try_from(bytes).ok());
    second.map_or(most, |second| most.min(second.max(MESSAGE_BYTES_MIN)))
}

#[derive(Debug)]
struct Account {
    per_second: f64,
    balance: f64,
    at: Moment,
}

impl Account {
    fn new(per_second: u64, now: Moment) -> Self {
        Self {
            per_second: per_second as f64,
            balance: per_second as f64,
            at: now,
        }
    }

    fn settle(&mut self, now: Moment) {
        let earned = now.since(self.at).as_secs_f64() * self.per_second;
        self.balance = (self.balance + earned).min(self.per_second);
        self.at = now;
    }

    /// How long nothing may be spent; `None`: something may be.
    fn wait(&self, now: Moment) -> Option<Duration> {
        let earned = now.since(self.at).as_secs_f64() * self.per_second;
        let owed = -(self.balance + earned);
        (owed > 0.0).then(|| Duration::from_secs_f64(owed / self.per_second))
    }
}

/// The limits of one uplink.
#[derive(Debug)]
pub(super) struct Pacer {
    messages: Option<Account>,
    bytes: Option<Account>,
    points: Option<Account>,
}

impl Pacer {
    pub(super) fn new(rates: Rates, now: Moment) -> Self {
        let account = |limit: Option<u64>| limit.map(|limit| Account::new(limit.max(1), now));
        Self {
            messages: account(rates.messages),
            bytes: account(rates.bytes),
            points: account(rates.points),
        }
    }

    /// How long nothing may be sent; `None`: something may be.
    pub(super) fn wait(&self, now: Moment) -> Option<Duration> {
        let accounts = [&self.messages, &self.bytes, &self.points];
        let limited = accounts.into_iter().flatten();
        limited.filter_map(|account| account.wait(now)).max()
    }

    /// The most records of one parcel: no more than a second's worth.
    pub(super) fn records(&self, most: usize) -> usize {
        let limit = self.points.as_ref();
        limit.map_or(most, |limit| most.min(limit.per_second as usize).max(1))
    }

    /// So much was sent.
    pub(super) fn spend(&mut self, now: Moment, messages: usize, bytes: usize, points: u64) {
        let spent = [messages as f64, bytes as f64, points as f64];
        let accounts = [&mut self.messages, &mut self.bytes, &mut self.points];
        for (account, spent) in accounts.into_iter().zip(spent) {
            if let Some(account) = account {
                account.settle(now);
                account.balance -= spent;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends as often as it may for so long; how many.
    fn sent_in(seconds: u64, rates: Rates, bytes: usize, points: u64) -> u64 {
        let mut now = Moment(0);
        let end = now + Duration::from_secs(seconds);
        let (mut pacer, mut sent) = (Pacer::new(rates, now), 0);
        while now < end {
            match pacer.wait(now) {
                None => {
                    pacer.spend(now, 1, bytes, points);
                    sent += 1;
                }
                Some(wait) => now = now + wait.max(Duration::from_millis(1)),
            }
        }
        sent
    }

    #[test]
    fn the_tightest_limit_holds() {
        let rates = Rates {
            messages: Some(100),
            bytes: Some(50_000),
            points: Some(1_000),
        };
        for (bytes, points, expected) in [(10, 1, 1000), (5_000, 1, 100), (10, 100, 100)] {
            let sent = sent_in(10, rates, bytes, points);
            let most = expected + expected / 10 + 2;
            assert!(
                (expected..=most).contains(&sent),
                "{sent} of {bytes} bytes and {points} points in 10 s"
            );
        }
        assert_eq!(Pacer::new(rates, Moment(0)).records(2_000), 1_000);
    }

    #[test]
    fn messages_are_a_second_long_at_most() {
        let of = |bytes| Rates {
            bytes,
            ..Rates::default()
        };
        assert_eq!(message_max(131_072, of(None)), 131_072);
        assert_eq!(message_max(131_072, of(Some(10_000))), 10_000);
        assert_eq!(message_max(131_072, of(Some(100))), MESSAGE_BYTES_MIN);
        assert_eq!(message_max(1_024, of(Some(100))), 1_024);
    }

    #[test]
    fn one_large_message_passes_and_is_paid_for() {
        let rates = Rates {
            bytes: Some(1_000),
            ..Rates::default()
        };
        let mut pacer = Pacer::new(rates, Moment(0));
        assert_eq!(pacer.wait(Moment(0)), None);
        pacer.spend(Moment(0), 1, 61_000, 1);
        assert_eq!(pacer.wait(Moment(0)), Some(Duration::from_secs(60)));
        assert_eq!(pacer.records(2_000), 2_000);
    }
}
