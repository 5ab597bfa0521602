//! Faults of a connection that were seen lately: what is wrong now, and since when.

use std::collections::BTreeMap;
use std::time::Duration;

use millrace_tags::{Clock, Moment};

use crate::report::{Since, TroubleReport};

/// Faults that did not come again for so long are over.
const OVER_AFTER: Duration = Duration::from_secs(600);

/// Watches the fault counts of a device.
#[derive(Default)]
pub(super) struct Trouble {
    /// The counts when they were last looked at.
    counts: BTreeMap<String, u64>,
    now: Option<Begun>,
}

struct Begun {
    since: Moment,
    last: Moment,
    /// The counts before the first of them.
    before: BTreeMap<String, u64>,
}

impl Trouble {
    /// Takes the counts as they are at this moment.
    pub(super) fn note(&mut self, counts: BTreeMap<String, u64>, at: Moment) {
        let is_more = |(name, count): (&String, &u64)| {
            is_harm(name) && *count > self.counts.get(name).copied().unwrap_or(0)
        };
        if counts.iter().any(is_more) {
            match &mut self.now {
                Some(begun) if at.since(begun.last) < OVER_AFTER => begun.last = at,
                _ => {
                    self.now = Some(Begun {
                        since: at,
                        last: at,
                        before: std::mem::take(&mut self.counts),
                    });
                }
            }
        }
        self.counts = counts;
    }

    /// What is wrong now, where anything is.
    pub(super) fn report(&self, clock: &dyn Clock) -> Option<TroubleReport> {
        let begun = self.now.as_ref()?;
        let quiet = clock.now().since(begun.last);
        let faults = self.counts.iter().filter_map(|(name, count)| {
            let since = count.saturating_sub(begun.before.get(name).copied().unwrap_or(0));
            (since > 0 && is_harm(name)).then(|| (name.clone(), since))
        });
        (quiet < OVER_AFTER).then(|| TroubleReport {
            since: Since::new(begun.since, clock),
            last_s: quiet.as_secs(),
            faults: faults.collect(),
        })
    }
}

/// An adapter that hears itself is counted, and does no harm.
fn is_harm(name: &str) -> bool {
    name != millrace_drivers::modbus::Fault::OwnEcho.name()
}

#[cfg(test)]
mod tests {
    use millrace_tags::{TestClock, Timestamp};

    use super::*;

    fn counts<const N: usize>(counts: [(&str, u64); N]) -> BTreeMap<String, u64> {
        counts.map(|(name, count)| (name.to_owned(), count)).into()
    }

    #[test]
    fn faults_are_told_since_they_began_and_until_they_stay_away() {
        let clock = TestClock::new(1, Some(Timestamp(0)));
        let mut trouble = Trouble::default();
        trouble.note(counts([("own-echo", 7)]), clock.now());
        assert_eq!(trouble.report(&clock), None);
        clock.advance(Duration::from_secs(60));
        trouble.note(counts([("own-echo", 8), ("checksum", 2)]), clock.now());
        clock.advance(Duration::from_secs(120));
        let now = counts([("own-echo", 9), ("checksum", 2), ("noise", 1)]);
        trouble.note(now.clone(), clock.now());
        clock.advance(Duration::from_secs(30));
        trouble.note(now.clone(), clock.now());
        let report = trouble.report(&clock).unwrap();
        assert_eq!(report.faults, counts([("checksum", 2), ("noise", 1)]));
        assert_eq!((report.since.ago_s, report.last_s), (150, 30));
        clock.advance(OVER_AFTER);
        assert_eq!(trouble.report(&clock), None);
        // What comes then is news.
        trouble.note(counts([("checksum", 3)]), clock.now());
        let report = trouble.report(&clock).unwrap();
        assert_eq!(report.faults, counts([("checksum", 1)]));
        assert_eq!(report.since.ago_s, 0);
    }
}
