//! What the uplinks of an enrolment say of it: whether it has proved itself, and whether it is in trouble.

use std::time::Duration;

use tokio::time::Instant;

/// An enrolment that the core refuses is asked for again only after so many refusals over so long a time, each from
/// a verified server: nobody on the way can make a gateway give up its enrolment, and no restart of a broker does.
const REFUSALS_MIN: u32 = 3;
const REFUSED_FOR: Duration = Duration::from_secs(600);

/// After so long without any connection the core may have moved.
const UNREACHABLE_AFTER: Duration = Duration::from_secs(3600);

/// Refusals in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refusals {
    count: u32,
    first: Instant,
    last: Instant,
}

impl Refusals {
    /// One more, now.
    pub(crate) fn one_more(before: Option<Self>, now: Instant) -> Self {
        Self {
            count: before.map_or(1, |before| before.count.saturating_add(1)),
            first: before.map_or(now, |before| before.first),
            last: now,
        }
    }
}

/// An uplink as it is now.
#[derive(Debug, Clone)]
pub(crate) struct SeenUplink {
    /// Its name.
    pub(crate) name: String,
    /// Whether it logs in with files of the enrolment.
    pub(crate) uses_enrolment: bool,
    /// Whether it has a connection.
    pub(crate) connected: bool,
    /// Whether the server's certificate was verified.
    pub(crate) verified: bool,
    /// Since the last connection.
    pub(crate) refusals: Option<Refusals>,
}

/// All of them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    /// Whether the configuration that runs is the one on disk.
    pub(crate) applied: bool,
    /// In order of configuration.
    pub(crate) uplinks: Vec<SeenUplink>,
}

/// Why a core is asked once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// There is no enrolment yet.
    First,
    /// Somebody wants it.
    Wished,
    /// An installer brought another claim.
    Claimed,
    /// The certificate comes to its end.
    Renewal,
    /// The core refuses the enrolment.
    Refused,
    /// There is no connection for very long.
    Unreachable,
}

impl Reason {
    /// Whether a person wants it: then nobody waits.
    pub(super) fn is_asked_for(self) -> bool {
        matches!(self, Reason::Wished | Reason::Claimed)
    }

    pub(super) fn sentence(self) -> &'static str {
        match self {
            Reason::First => "there is no enrolment yet",
            Reason::Wished => "somebody asked for it",
            Reason::Claimed => "a new claim was brought",
            Reason::Renewal => "the certificate is due for renewal",
            Reason::Refused => "the core refuses the enrolment",
            Reason::Unreachable => "there was no connection for an hour",
        }
    }
}

/// Looks at the uplinks that an enrolment concerns.
#[derive(Debug)]
pub(super) struct Watch {
    /// Those that came with it, by name.
    names: Vec<String>,
    unconnected_since: Option<Instant>,
}

impl Watch {
    pub(super) fn new(names: Vec<String>) -> Self {
        Self {
            names,
            unconnected_since: None,
        }
    }

    fn concerned<'s>(&'s self, seen: &'s Seen) -> impl Iterator<Item = &'s SeenUplink> {
        seen.uplinks
            .iter()
            .filter(|uplink| uplink.uses_enrolment || self.names.contains(&uplink.name))
    }

    /// Whether the enrolment has proved itself: one of its uplinks has connected, or it has none.
    pub(super) fn is_proven(&self, seen: &Seen) -> bool {
        let mut concerned = self.concerned(seen).peekable();
        let none = concerned.peek().is_none() && self.names.is_empty();
        seen.applied && (none || concerned.any(|uplink| uplink.connected))
    }

    /// What is wrong, if it is time to ask the core again.
    pub(super) fn trouble(&mut self, seen: &Seen, now: Instant) -> Option<Reason> {
        let refused = self.concerned(seen).any(|uplink| {
            let refusals = uplink.refusals.filter(|_| uplink.verified);
            refusals.is_some_and(|refusals| {
                refusals.count >= REFUSALS_MIN
                    && refusals.last.duration_since(refusals.first) >= REFUSED_FOR
            })
        });
        if refused {
            return Some(Reason::Refused);
        }
        let none = self.concerned(seen).next().is_none();
        if none || self.concerned(seen).any(|uplink| uplink.connected) {
            self.unconnected_since = None;
            return None;
        }
        let since = *self.unconnected_since.get_or_insert(now);
        (now.duration_since(since) >= UNREACHABLE_AFTER).then(|| {
            // The next time is as long from now.
            self.unconnected_since = Some(now);
            Reason::Unreachable
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(connected: bool, refusals: Option<Refusals>) -> Seen {
        Seen {
            applied: true,
            uplinks: vec![SeenUplink {
                name: "cloud".to_owned(),
                uses_enrolment: false,
                connected,
                verified: true,
                refusals,
            }],
        }
    }

    fn watch() -> Watch {
        Watch::new(vec!["cloud".to_owned()])
    }

    #[test]
    fn a_connection_under_the_applied_configuration_is_the_proof() {
        assert!(watch().is_proven(&seen(true, None)));
        assert!(!watch().is_proven(&seen(false, None)));
        let other = Seen {
            applied: false,
            ..seen(true, None)
        };
        assert!(!watch().is_proven(&other));
        // Its uplink is not there: the local configuration has another of that name switched off.
        assert!(!watch().is_proven(&Seen {
            applied: true,
            uplinks: Vec::new()
        }));
        // Nothing but devices: there is nothing to prove.
        assert!(Watch::new(Vec::new()).is_proven(&seen(false, None)));
        let mut used = seen(false, None);
        used.uplinks[0].uses_enrolment = true;
        assert!(!Watch::new(Vec::new()).is_proven(&used));
    }

    #[test]
    fn only_lasting_refusals_of_a_verified_server_count() {
        let began = Instant::now();
        let refused = |times: u32, over: u64| {
            let mut refusals = None;
            for n in 0..times {
                let at = began + Duration::from_secs(over) * n / (times - 1).max(1);
                refusals = Some(Refusals::one_more(refusals, at));
            }
            seen(false, refusals)
        };
        assert_eq!(
            watch().trouble(&refused(3, 600), began),
            Some(Reason::Refused)
        );
        assert_eq!(watch().trouble(&refused(2, 600), began), None);
        assert_eq!(watch().trouble(&refused(50, 599), began), None);
        let mut unverified = refused(50, 6000);
        unverified.uplinks[0].verified = false;
        assert_eq!(watch().trouble(&unverified, began), None);
        let mut another = refused(50, 6000);
        another.uplinks[0].name = "plant".to_owned();
        assert_eq!(watch().trouble(&another, began), None);
    }

    #[test]
    fn an_hour_without_connection_is_asked_about_once_an_hour() {
        let mut watch = watch();
        let began = Instant::now();
        let minute = |n| began + Duration::from_secs(60 * n);
        let troubles: Vec<u64> = (0..200)
            .filter(|n| watch.trouble(&seen(false, None), minute(*n)).is_some())
            .collect();
        assert_eq!(troubles, [60, 120, 180]);
        assert_eq!(watch.trouble(&seen(true, None), minute(239)), None);
        assert_eq!(watch.trouble(&seen(false, None), minute(240)), None);
    }
}
