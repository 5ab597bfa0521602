//! Whether data come under a new configuration as they did before. Pure: times and what is seen come from outside.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::gateway::Gateway;
use crate::report::DeviceState;

/// What can be seen of a gateway at one time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Devices that are polled, and how long the fastest of their tags may take to show.
    pub(crate) devices: BTreeMap<String, Duration>,
    /// Those of them that deliver good values.
    pub(crate) good: BTreeSet<String>,
    /// Uplinks, and whether each is connected.
    pub(crate) uplinks: BTreeMap<String, bool>,
}

impl Seen {
    /// The gateway as it is now.
    pub(crate) fn of(gateway: &Gateway) -> Self {
        let reports = gateway.device_reports();
        let good = reports
            .iter()
            .filter(|device| device.state == DeviceState::Online && device.tags_good > 0);
        let fastest = |device: &crate::config::Device| {
            let intervals = device.tags.iter().map(|tag| tag.poll_interval);
            (device.name.clone(), intervals.min().unwrap_or_default())
        };
        let uplinks = gateway.uplinks.iter().map(|uplink| {
            let report = uplink.report();
            let connected = report.state == "connected";
            (report.name, connected)
        });
        Self {
            devices: gateway.config.enabled_devices().map(fastest).collect(),
            good: good.map(|device| device.name.clone()).collect(),
            uplinks: uplinks.collect(),
        }
    }

    fn connected(&self) -> bool {
        self.uplinks.values().any(|connected| *connected)
    }
}

/// A trial under watch.
#[derive(Debug)]
pub(crate) struct Watch {
    before: Seen,
    /// The uplink that the change came by: it must be there to tell the outcome.
    asker: Option<String>,
    until: Instant,
    window: Duration,
    /// When each device delivered last.
    good_at: BTreeMap<String, Instant>,
    /// When an uplink that counts was connected last.
    connected_at: Option<Instant>,
    now: Seen,
}

impl Watch {
    /// Begins; `before` is how it was under the old configuration.
    pub(crate) fn new(before: Seen, asker: Option<String>, now: Instant, window: Duration) -> Self {
        Self {
            before,
            asker,
            until: now + window,
            window,
            good_at: BTreeMap::new(),
            connected_at: None,
            now: Seen::default(),
        }
    }

    /// Takes what is seen. The verdict, once the time is over: why it is to be taken back.
    pub(crate) fn look(&mut self, now: Instant, seen: Seen) -> Option<Result<(), String>> {
        for device in &seen.good {
            self.good_at.insert(device.clone(), now);
        }
        let counts = match &self.asker {
            Some(asker) if seen.uplinks.contains_key(asker) => seen.uplinks[asker],
            _ => seen.connected(),
        };
        if counts {
            self.connected_at = Some(now);
        }
        self.now = seen;
        (now >= self.until).then(|| self.verdict(now))
    }

    fn verdict(&self, now: Instant) -> Result<(), String> {
        // What is there now and then counts: a poll, a reconnect, just when we look.
        let recent = |at: Instant| now.saturating_duration_since(at) <= self.window / 2;
        let mut silent = Vec::new();
        for device in &self.before.good {
            // One that was removed is not missed, one that is slower than the watch cannot show.
            let Some(fastest) = self.now.devices.get(device) else {
                continue;
            };
            let shows = *fastest <= self.window / 2;
            if shows && !self.good_at.get(device).copied().is_some_and(recent) {
                silent.push(device.as_str());
            }
        }
        let within = format!("within {} s", self.window.as_secs());
        match silent.as_slice() {
            [] => {}
            [one] => {
                return Err(format!(
                    "device {one} delivered good values before, and none {within}"
                ));
            }
            many => {
                let names = many.join(", ");
                return Err(format!(
                    "devices {names} delivered good values before, and none {within}"
                ));
            }
        }
        if self.before.connected() && !self.connected_at.is_some_and(recent) {
            return Err(match &self.asker {
                Some(asker) => {
                    format!("the uplink {asker} was connected before, and is not any more {within}")
                }
                None => format!("an uplink was connected before, and none is any more {within}"),
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(60);

    fn seen(devices: &[&str], good: &[&str], uplinks: &[(&str, bool)]) -> Seen {
        let named = |name: &&str| ((*name).to_owned(), Duration::from_secs(1));
        Seen {
            devices: devices.iter().map(named).collect(),
            good: good.iter().map(|name| (*name).to_owned()).collect(),
            uplinks: uplinks
                .iter()
                .map(|(name, up)| ((*name).to_owned(), *up))
                .collect(),
        }
    }

    /// The verdict after looks at these seconds.
    fn verdict(before: Seen, asker: Option<&str>, looks: &[(u64, Seen)]) -> Result<(), String> {
        let start = Instant::now();
        let mut watch = Watch::new(before, asker.map(str::to_owned), start, WINDOW);
        for (second, seen) in looks {
            let verdict = watch.look(start + Duration::from_secs(*second), seen.clone());
            if let Some(verdict) = verdict {
                return verdict;
            }
        }
        panic!("no verdict");
    }

    #[test]
    fn what_was_there_must_come_back() {
        let before = || seen(&["a", "b"], &["a"], &[("cloud", true)]);
        let well = || seen(&["a", "b"], &["a"], &[("cloud", true)]);
        let mute = || seen(&["a", "b"], &[], &[("cloud", true)]);
        let cut = || seen(&["a", "b"], &["a"], &[("cloud", false)]);
        assert_eq!(
            verdict(before(), None, &[(10, mute()), (60, well())]),
            Ok(())
        );
        // It was well a moment ago.
        assert_eq!(
            verdict(before(), None, &[(40, well()), (60, mute())]),
            Ok(())
        );
        let why = verdict(before(), None, &[(20, well()), (60, mute())]).unwrap_err();
        assert_eq!(
            why,
            "device a delivered good values before, and none within 60 s"
        );
        let why = verdict(before(), None, &[(20, well()), (60, cut())]).unwrap_err();
        assert!(why.contains("an uplink was connected before"), "{why}");
    }

    #[test]
    fn what_was_not_there_or_is_removed_is_not_missed() {
        let before = seen(&["a", "b"], &["a"], &[("cloud", false)]);
        let without = seen(&["b"], &[], &[("cloud", false)]);
        assert_eq!(verdict(before.clone(), None, &[(60, without)]), Ok(()));
        let mut slow = seen(&["a"], &[], &[]);
        slow.devices.insert("a".into(), Duration::from_secs(600));
        assert_eq!(verdict(before, None, &[(60, slow)]), Ok(()));
    }

    #[test]
    fn whoever_asked_must_be_reached_again() {
        let before = seen(&[], &[], &[("cloud", true), ("plant", true)]);
        let other = seen(&[], &[], &[("cloud", false), ("plant", true)]);
        assert!(verdict(before.clone(), Some("cloud"), &[(60, other.clone())]).is_err());
        assert_eq!(verdict(before.clone(), None, &[(60, other)]), Ok(()));
        // It removed itself: another one is enough.
        let removed = seen(&[], &[], &[("plant", true)]);
        assert_eq!(
            verdict(before.clone(), Some("cloud"), &[(60, removed)]),
            Ok(())
        );
        assert!(verdict(before, Some("cloud"), &[(60, seen(&[], &[], &[]))]).is_err());
    }
}
