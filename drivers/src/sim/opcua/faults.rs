//! How a simulated server misbehaves.
//!
//! Written as words, one fault a line of the command: what holds all the time, `limit-items 1000`, or what happens
//! at a time: `restart 2s every 1m`, `blackhole 30s at 10s`, or at random by the server's seed: `drop 2%` is one
//! second in fifty.

use std::str::FromStr;
use std::time::Duration;

use crate::sim::signal::duration;

/// A whole in millionths.
const MILLION: u32 = 1_000_000;

/// Something that happens to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upset {
    /// The server ends without a word, its port is closed for so long, and it has forgotten all sessions.
    Restart(Duration),
    /// All connections are closed; the sessions stay.
    Drop,
    /// Connections are taken and kept, and nothing is said on them for so long.
    Blackhole(Duration),
    /// It comes back with another certificate, as if it had been installed anew.
    NewCertificate,
    /// It comes back with its namespaces in another order.
    Reorder,
}

/// When an upset happens, from the start on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Again and again, after each such span.
    Every(Duration),
    /// Once.
    At(Duration),
    /// In so many of a million seconds, drawn by the seed.
    PerMillionSeconds(u32),
}

/// An upset with its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timed {
    /// What happens.
    pub upset: Upset,
    /// When.
    pub when: When,
}

/// How a server misbehaves. The default behaves well.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Faults {
    /// So many of its nodes, drawn by the seed, do not exist.
    pub bad_nodes: usize,
    /// Most items in one subscription.
    pub items_max: Option<usize>,
    /// Most items in one CreateMonitoredItems.
    pub item_calls_max: Option<usize>,
    /// Most nodes in one Read.
    pub reads_max: Option<usize>,
    /// Most values of a node in one HistoryRead reply.
    pub history_max: Option<usize>,
    /// HistoryRead ends a reply that is full without saying that there is more.
    pub without_continuation: bool,
    /// No subscription is made.
    pub without_subscriptions: bool,
    /// It publishes no more often than this, whatever it is asked.
    pub publish_min: Option<Duration>,
    /// Values come without the time of their source.
    pub without_source_time: bool,
    /// So many milliseconds its clock is ahead, or behind where negative.
    pub clock_ahead_ms: i64,
    /// What happens at times.
    pub timed: Vec<Timed>,
}

/// Words that are no fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is not a fault")]
pub struct FaultError {
    /// The words.
    pub given: String,
}

impl FaultError {
    /// What to write instead.
    pub fn hint(&self) -> &'static str {
        "the faults are: bad-nodes N, limit-items N, limit-item-calls N, limit-reads N, limit-history N, \
         no-continuation, no-subscriptions, no-source-time, slow-publish TIME, clock +TIME or clock -TIME, and with \"every TIME\", \
         \"at TIME\" or \"P%\" (of seconds) behind them: restart TIME, drop, blackhole TIME, new-certificate, reorder"
    }
}

impl Upset {
    /// The name in counts.
    pub fn name(self) -> &'static str {
        match self {
            Upset::Restart(_) => "restart",
            Upset::Drop => "drop",
            Upset::Blackhole(_) => "blackhole",
            Upset::NewCertificate => "new-certificate",
            Upset::Reorder => "reorder",
        }
    }
}

impl FromStr for Upset {
    type Err = FaultError;

    fn from_str(given: &str) -> Result<Self, FaultError> {
        let words: Vec<&str> = given.split_whitespace().collect();
        upset(&words).ok_or_else(|| FaultError {
            given: given.to_owned(),
        })
    }
}

fn upset(words: &[&str]) -> Option<Upset> {
    Some(match words {
        ["restart", time] => Upset::Restart(duration(time)?),
        ["drop"] => Upset::Drop,
        ["blackhole", time] => Upset::Blackhole(duration(time)?),
        ["new-certificate"] => Upset::NewCertificate,
        ["reorder"] => Upset::Reorder,
        _ => return None,
    })
}

impl Faults {
    /// Adds what one line of words says.
    ///
    /// # Errors
    /// The words are no fault.
    pub fn add(&mut self, given: &str) -> Result<(), FaultError> {
        let words: Vec<&str> = given.split_whitespace().collect();
        self.add_words(&words).ok_or_else(|| FaultError {
            given: given.to_owned(),
        })
    }

    fn add_words(&mut self, words: &[&str]) -> Option<()> {
        match words {
            ["bad-nodes", count] => self.bad_nodes = count.parse().ok()?,
            ["limit-items", most] => self.items_max = Some(limit(most)?),
            ["limit-item-calls", most] => self.item_calls_max = Some(limit(most)?),
            ["limit-reads", most] => self.reads_max = Some(limit(most)?),
            ["limit-history", most] => self.history_max = Some(limit(most)?),
            ["no-continuation"] => self.without_continuation = true,
            ["no-subscriptions"] => self.without_subscriptions = true,
            ["no-source-time"] => self.without_source_time = true,
            ["slow-publish", time] => self.publish_min = Some(duration(time)?),
            ["clock", ahead] => self.clock_ahead_ms = signed_ms(ahead)?,
            [upset @ .., "every", time] => self.timed(upset, When::Every(duration(time)?))?,
            [upset @ .., "at", time] => self.timed(upset, When::At(duration(time)?))?,
            [upset @ .., share] => {
                self.timed(upset, When::PerMillionSeconds(per_million(share)?))?;
            }
            [] => return None,
        }
        Some(())
    }

    fn timed(&mut self, words: &[&str], when: When) -> Option<()> {
        let upset = upset(words)?;
        self.timed.push(Timed { upset, when });
        Some(())
    }
}

fn limit(word: &str) -> Option<usize> {
    word.parse().ok().filter(|most| *most > 0)
}

/// `+90s` or `-1h`; a sign has to be there, so that nobody guesses it.
fn signed_ms(word: &str) -> Option<i64> {
    let ms = |time| i64::try_from(duration(time)?.as_millis()).ok();
    match word.strip_prefix('-') {
        Some(behind) => ms(behind).map(|ms| -ms),
        None => ms(word.strip_prefix('+')?),
    }
}

/// A percentage in millionths.
fn per_million(share: &str) -> Option<u32> {
    let percent: f64 = share.strip_suffix('%')?.parse().ok()?;
    let share = (percent / 100.0 * f64::from(MILLION)).round();
    (1.0..=f64::from(MILLION))
        .contains(&share)
        .then_some(share as u32)
}

/// The upsets of a run in order; equal seeds give equal runs.
pub(super) struct Timetable {
    entries: Vec<Entry>,
}

struct Entry {
    timed: Timed,
    rng: fastrand::Rng,
    /// When it happens next.
    next: Option<Duration>,
}

impl Timetable {
    pub(super) fn new(timed: &[Timed], seed: u64) -> Self {
        let entries = timed.iter().zip(seed..).map(|(&timed, seed)| {
            let rng = fastrand::Rng::with_seed(seed);
            let mut entry = Entry {
                timed,
                rng,
                next: None,
            };
            entry.next = match timed.when {
                When::Every(span) | When::At(span) => Some(span),
                When::PerMillionSeconds(share) => Some(entry.drawn(Duration::ZERO, share)),
            };
            entry
        });
        Self {
            entries: entries.collect(),
        }
    }

    /// What happens next, and when.
    pub(super) fn next(&mut self) -> Option<(Duration, Upset)> {
        let entry = self
            .entries
            .iter_mut()
            .filter(|entry| entry.next.is_some())
            .min_by_key(|entry| entry.next)?;
        let due = entry.next?;
        entry.next = match entry.timed.when {
            When::Every(span) => Some(due + span),
            When::At(_) => None,
            When::PerMillionSeconds(share) => Some(entry.drawn(due, share)),
        };
        Some((due, entry.timed.upset))
    }
}

impl Entry {
    /// The first second after `since` that is drawn.
    fn drawn(&mut self, since: Duration, share: u32) -> Duration {
        let mut at = since;
        loop {
            at += Duration::from_secs(1);
            if self.rng.u32(0..MILLION) < share {
                return at;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn words_are_understood() {
        let mut faults = Faults::default();
        for words in [
            "bad-nodes 50",
            "limit-items 1000",
            "limit-item-calls 100",
            "limit-reads 500",
            "limit-history 7",
            "no-continuation",
            "no-subscriptions",
            "no-source-time",
            "slow-publish 10s",
            "clock -1h",
            "restart 2s every 1m",
            "blackhole 30s at 10s",
            "drop 2%",
        ] {
            faults.add(words).unwrap();
        }
        assert_eq!((faults.bad_nodes, faults.history_max), (50, Some(7)));
        assert_eq!(
            faults.items_max.zip(faults.item_calls_max),
            Some((1000, 100))
        );
        assert!(faults.without_continuation && faults.without_subscriptions);
        assert!(faults.without_source_time);
        assert_eq!(faults.publish_min, Some(seconds(10)));
        assert_eq!(faults.clock_ahead_ms, -3_600_000);
        assert_eq!(
            faults.timed,
            [
                Timed {
                    upset: Upset::Restart(seconds(2)),
                    when: When::Every(seconds(60))
                },
                Timed {
                    upset: Upset::Blackhole(seconds(30)),
                    when: When::At(seconds(10))
                },
                Timed {
                    upset: Upset::Drop,
                    when: When::PerMillionSeconds(20_000)
                },
            ]
        );
    }

    #[test]
    fn other_words_are_refused() {
        for words in [
            "",
            "restart 2s",
            "restart every 1m",
            "drop",
            "drop every 0s",
            "drop 101%",
            "clock 1h",
            "limit-items 0",
            "crc 2%",
        ] {
            let error = Faults::default().add(words).unwrap_err();
            assert!(error.hint().contains("blackhole"), "{words}");
        }
    }

    #[test]
    fn a_run_has_its_upsets_in_order_and_repeats() {
        let mut faults = Faults::default();
        for words in ["restart 2s every 60s", "drop at 61s", "reorder 1%"] {
            faults.add(words).unwrap();
        }
        let run = |seed| {
            let mut table = Timetable::new(&faults.timed, seed);
            let next = std::iter::from_fn(|| table.next());
            next.take(500).collect::<Vec<_>>()
        };
        let first = run(7);
        assert_eq!(first, run(7));
        assert_ne!(first, run(8));
        assert!(first.is_sorted_by_key(|(due, _)| *due));
        let drops: Vec<_> = first.iter().filter(|(_, u)| *u == Upset::Drop).collect();
        assert_eq!(drops, [&(seconds(61), Upset::Drop)]);
        let restarts = first.iter().filter(|(_, u)| u.name() == "restart").count();
        let reorders = first.iter().filter(|(_, u)| u.name() == "reorder").count();
        // One a minute beside one in a hundred seconds.
        assert!(
            (240..380).contains(&restarts) && reorders > 120,
            "{restarts} {reorders}"
        );
    }
}
