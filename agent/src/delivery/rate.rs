//! How much a core takes in a second: messages, bytes, records.
//!
//! Each limit is an account that fills by itself, up to one second's worth, and that a message may overdraw: what comes next waits
//! until it is paid. So the mean holds whatever the size of a message, and a burst is two seconds' worth at most.

use std::time::Duration;

use millrace_tags::Moment;
use millrace_uplink::profile::{CoreLimits, Rates};

/// Below this a message is more headers than anything else.
const MESSAGE_BYTES_MIN: usize = 4 * 1024;

/// The largest message to make: no more than a second's worth, so that no alarm waits long behind one.
pub(super) fn message_max(most: usize, rates: Rates) -> usize {
    let second = rates.bytes.and_then(|bytes| usize::try_from(bytes).ok());
    second.map_or(most, |second| most.min(second.max(MESSAGE_BYTES_MIN)))
}

/// Of what a core said that it takes in a span: it counts each span by itself and may hang up on the first message too
/// many, so that what is saved up and one message more must fit in, too.
const LEARNED_SHARE: f64 = 0.7;
const LEARNED_BURST: f64 = 0.2;

#[derive(Debug)]
struct Account {
    per_second: f64,
    /// Most that is saved up.
    most: f64,
    balance: f64,
    at: Moment,
}

impl Account {
    /// `burst`: so many seconds' worth may be saved up.
    fn new(per_second: f64, burst: f64, now: Moment) -> Self {
        let most = per_second * burst;
        Self {
            per_second,
            most,
            balance: most,
            at: now,
        }
    }

    fn settle(&mut self, now: Moment) {
        let earned = now.since(self.at).as_secs_f64() * self.per_second;
        self.balance = (self.balance + earned).min(self.most);
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
        let account =
            |limit: Option<u64>| limit.map(|limit| Account::new(limit.max(1) as f64, 1.0, now));
        Self {
            messages: account(rates.messages),
            bytes: account(rates.bytes),
            points: account(rates.points),
        }
    }

    /// What the core said by itself holds, too, where it is less.
    pub(super) fn learn(&mut self, limits: &CoreLimits, now: Moment) {
        let tighten = |account: &mut Option<Account>, limit: Option<f64>| {
            let limit = limit.map(|limit| limit * LEARNED_SHARE);
            let known = account.as_ref().map(|account| account.per_second);
            if let Some(limit) = limit.filter(|limit| known.is_none_or(|known| *limit < known)) {
                *account = Some(Account::new(limit, LEARNED_BURST, now));
            }
        };
        tighten(&mut self.messages, limits.messages_per_second);
        tighten(&mut self.points, limits.points_per_second);
    }

    /// How long nothing may be sent; `None`: something may be.
    pub(super) fn wait(&self, now: Moment) -> Option<Duration> {
        let accounts = [&self.messages, &self.bytes, &self.points];
        let limited = accounts.into_iter().flatten();
        limited.filter_map(|account| account.wait(now)).max()
    }

    /// The most records of one parcel: no more than may be saved up.
    pub(super) fn records(&self, most: usize) -> usize {
        let limit = self.points.as_ref();
        limit.map_or(most, |limit| most.min(limit.most as usize).max(1))
    }

    /// The most messages of one parcel, where the core said its limit by itself.
    pub(super) fn messages_at_once(&self) -> Option<usize> {
        let learned = |account: &&Account| account.most < account.per_second;
        let account = self.messages.as_ref().filter(learned);
        account.map(|account| (account.most as usize).max(1))
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
    fn no_second_has_more_than_the_core_said() {
        let start = Moment(0);
        let mut pacer = Pacer::new(Rates::default(), start);
        let limits = CoreLimits {
            messages_per_second: Some(1000.0),
            points_per_second: Some(100.0),
            ..CoreLimits::default()
        };
        pacer.learn(&limits, start);
        let mut sent: Vec<(Moment, u64)> = Vec::new();
        let mut now = start;
        while now < start + Duration::from_secs(20) {
            match pacer.wait(now) {
                None => {
                    let records = pacer.records(2_000) as u64;
                    pacer.spend(now, 1, 100, records);
                    sent.push((now, records));
                }
                Some(wait) => now = now + wait.max(Duration::from_millis(1)),
            }
        }
        for (from, _) in &sent {
            let span = *from + Duration::from_secs(1);
            let within = sent.iter().filter(|(at, _)| at >= from && *at < span);
            let points: u64 = within.map(|(_, records)| records).sum();
            assert!(points <= 100, "{points} in the second from {from:?}");
        }
        let all: u64 = sent.iter().map(|(_, records)| records).sum();
        assert!(all >= 1300, "{all} in 20 s");
        // What the configuration says is tighter: it stays.
        let mut tight = Pacer::new(
            Rates {
                points: Some(10),
                ..Rates::default()
            },
            start,
        );
        tight.learn(&limits, start);
        assert_eq!(tight.records(2_000), 10);
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
