//! A device: how it does, what is wrong with it in a sentence, and what to look at.

use std::collections::BTreeMap;
use std::fmt;

use millrace_drivers::Exclusion;
use millrace_drivers::modbus::Fault;
use millrace_tags::{Clock, Moment, Reason};
use serde::{Deserialize, Serialize};

use super::about_duration;

/// Ranges that one sentence names; a screen has no room for more.
const RANGES_NAMED_MAX: usize = 5;

/// Fewer faults than that may be anything, and are only counted.
const FAULTS_MIN: u64 = 3;

/// State of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum DeviceState {
    /// Not tried yet.
    #[default]
    Starting,
    /// A session is open and reads succeed.
    Online,
    /// The device is lost; the poller tries again after a pause.
    Offline,
    /// An operator paused it.
    Paused,
}

/// One device.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct DeviceStatus {
    /// Its name.
    pub(crate) name: String,
    /// `modbus-tcp` or `opcua`.
    pub(crate) driver: String,
    /// Where it is.
    pub(crate) address: String,
    /// How it does.
    pub(crate) state: DeviceState,
    /// Since when.
    #[serde(default)]
    pub(crate) state_since: Option<Since>,
    /// The last error, with its causes; kept after recovery until the next success.
    pub(crate) error: Option<String>,
    /// How many tags it has.
    pub(crate) tags: usize,
    /// How many of them have a good last value.
    pub(crate) tags_good: usize,
    /// How many have another one, by its reason.
    #[serde(default)]
    pub(crate) tags_bad: BTreeMap<String, usize>,
    /// Reads or notifications that brought samples.
    pub(crate) reads_total: u64,
    /// Reads that broke the session.
    pub(crate) read_errors_total: u64,
    /// Polls that could not start in time.
    pub(crate) overruns_total: u64,
    /// Duration of the last read in milliseconds.
    pub(crate) read_ms: f64,
    /// What the session knows and an operator should see.
    pub(crate) remarks: Vec<String>,
    /// Addresses that the device does not have.
    #[serde(default)]
    pub(crate) excluded: Vec<ExcludedRange>,
    /// What went wrong on the way to it since the start, by name: `timeout`, `late`, `checksum`, …
    #[serde(default)]
    pub(crate) faults: BTreeMap<String, u64>,
    /// What goes wrong there now.
    #[serde(default)]
    pub(crate) trouble: Option<TroubleReport>,
}

/// When something began.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Since {
    /// Seconds ago.
    pub(crate) ago_s: u64,
    /// Unix milliseconds, where the clock is known.
    pub(crate) t: Option<f64>,
}

/// Neighbouring addresses that the device refuses, and that are left out of the requests; or a node that it refuses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ExcludedRange {
    /// As `holding:77-79`.
    pub(crate) addresses: String,
    /// What the device said, where it may be anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cause: Option<String>,
    /// How many tags live there.
    pub(crate) tags: usize,
    /// Since when.
    pub(crate) since: Since,
    /// Seconds until they are asked for again.
    pub(crate) retry_s: u64,
}

/// Faults that were seen lately.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct TroubleReport {
    /// When they began.
    pub(crate) since: Since,
    /// Seconds since the last one.
    pub(crate) last_s: u64,
    /// How many since they began, by name.
    pub(crate) faults: BTreeMap<String, u64>,
}

impl Since {
    /// As seen now.
    pub(crate) fn new(moment: Moment, clock: &dyn Clock) -> Self {
        Self {
            ago_s: clock.now().since(moment).as_secs(),
            t: clock.timebase().utc(moment).map(|time| time.unix_ms()),
        }
    }
}

/// As `since 2026-11-21T14:02:11Z (4 min)`; without a clock as `for 4 min`.
impl fmt::Display for Since {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let length = length(self.ago_s);
        let time = self.t.filter(|t| *t >= 0.0).and_then(|t| {
            let since_1970 = std::time::Duration::from_millis(t as u64);
            std::time::UNIX_EPOCH.checked_add(since_1970)
        });
        match time {
            Some(time) => {
                let time = humantime::format_rfc3339_seconds(time);
                write!(f, "since {time} ({length})")
            }
            None => write!(f, "for {length}"),
        }
    }
}

impl ExcludedRange {
    /// As seen now.
    pub(crate) fn new(exclusion: &Exclusion, clock: &dyn Clock) -> Self {
        Self {
            addresses: exclusion.addresses.clone(),
            cause: exclusion.cause.clone(),
            tags: exclusion.tags,
            since: Since::new(exclusion.since, clock),
            retry_s: exclusion.retry_at.since(clock.now()).as_secs(),
        }
    }
}

/// As `holding:77-79 (3 tags) is no address of the device since …; asked again in 6 min`.
impl fmt::Display for ExcludedRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            addresses,
            cause,
            tags,
            since,
            retry_s,
        } = self;
        let tags = match tags {
            1 => "1 tag".to_owned(),
            tags => format!("{tags} tags"),
        };
        let again = length(*retry_s);
        if let Some(cause) = cause {
            let are = if self.tags == 1 { "is" } else { "are" };
            return write!(
                f,
                "{addresses} {are} not read {since}: {cause}; asked again in {again}"
            );
        }
        write!(
            f,
            "{addresses} ({tags}) is no address of the device {since}; asked again in {again}"
        )
    }
}

impl TroubleReport {
    /// As `checksum 30, noise 7`.
    pub(crate) fn counted(&self) -> String {
        counted(&self.faults)
    }

    /// What to look at, by the fault that there is most of.
    fn advice(&self) -> Option<&'static str> {
        let count = |fault: Fault| self.faults.get(fault.name()).copied().unwrap_or(0);
        let late = count(Fault::Late) + count(Fault::Stale);
        if late > 0 && late * 2 >= count(Fault::Timeout) {
            // Whoever answers late has kept us waiting before.
            let others = self.faults.values().sum::<u64>() - late - count(Fault::Timeout);
            if late >= others {
                return Fault::Late.advice();
            }
        }
        let most = self.faults.iter().max_by_key(|(_, count)| **count)?;
        Fault::named(most.0)?.advice()
    }
}

/// What is wrong with the devices, one sentence each: first the lines where nobody answers.
pub(super) fn problems(devices: &[DeviceStatus]) -> Vec<String> {
    let mut lines: BTreeMap<&str, Vec<&DeviceStatus>> = BTreeMap::new();
    let on_lines = devices.iter().filter(|device| {
        device.driver.starts_with("modbus-rtu") && device.state != DeviceState::Paused
    });
    for device in on_lines {
        lines.entry(line(device)).or_default().push(device);
    }
    lines.retain(|_, devices| devices.len() > 1 && devices.iter().all(|device| is_silent(device)));
    let silent = lines.iter().map(|(line, devices)| {
        let first = devices.iter().filter_map(|d| d.state_since.as_ref());
        let since = first.min_by_key(|since| since.ago_s);
        format!(
            "line {line}: none of its {} devices answers{}; check the adapter, both wires, and the line's baud \
             rate and parity",
            devices.len(),
            since.map_or_else(String::new, |since| format!(" {since}"))
        )
    });
    let own = devices
        .iter()
        .filter(|device| !lines.contains_key(line(device)) || !is_silent(device));
    silent.chain(own.filter_map(problem)).collect()
}

/// What it shares with others: its address without the unit.
fn line(device: &DeviceStatus) -> &str {
    let parts = device.address.rsplit_once('/');
    parts.map_or(device.address.as_str(), |(line, _)| line)
}

/// Whether the device is lost because it does not answer.
fn is_silent(device: &DeviceStatus) -> bool {
    let timeout = Reason::Timeout.name();
    device.state == DeviceState::Offline && device.tags_bad.contains_key(timeout.as_ref())
}

fn problem(device: &DeviceStatus) -> Option<String> {
    let name = &device.name;
    match device.state {
        DeviceState::Offline => {
            let since = device.state_since.as_ref();
            let since = since.map_or_else(String::new, |since| format!(" {since}"));
            let error = device.error.as_deref().unwrap_or("no reason given");
            let mut said = format!("device {name} is offline{since}: {error}");
            if let Some(trouble) = &device.trouble {
                said += &format!(" ({})", trouble.counted());
                said += &trouble.advice().map_or_else(String::new, advised);
            }
            Some(said)
        }
        DeviceState::Online => {
            let said = [tags_problem(device), trouble_problem(device)];
            let said: Vec<String> = said.into_iter().flatten().collect();
            (!said.is_empty()).then(|| format!("device {name}: {}", said.join("; ")))
        }
        DeviceState::Starting | DeviceState::Paused => None,
    }
}

fn tags_problem(device: &DeviceStatus) -> Option<String> {
    let bad = device.tags - device.tags_good.min(device.tags);
    if bad == 0 {
        return None;
    }
    let mut said = format!("{bad} of {} tags are not good", device.tags);
    if !device.tags_bad.is_empty() {
        said += &format!(" ({})", counted(&device.tags_bad));
    }
    if let Some(first) = device.excluded.first() {
        let (named, others) = device
            .excluded
            .split_at(RANGES_NAMED_MAX.min(device.excluded.len()));
        let name = |range: &ExcludedRange| match &range.cause {
            Some(cause) => format!("{} ({cause})", range.addresses),
            None => range.addresses.clone(),
        };
        let named: Vec<String> = named.iter().map(name).collect();
        let nodes = first.cause.is_some();
        let more = match (others, nodes) {
            ([], _) => String::new(),
            (others, false) => format!(" and {} ranges more", others.len()),
            (others, true) => {
                let count: usize = others.iter().map(|range| range.tags).sum();
                format!(" and {count} nodes more")
            }
        };
        let (refuses, look) = match nodes {
            false => ("the device has no", "compare with its manual"),
            true => (
                "the server does not give",
                "millrace device list names each",
            ),
        };
        said += &format!(
            ": {refuses} {}{more} {}; {look}; asked again in {}",
            named.join(", "),
            first.since,
            length(first.retry_s)
        );
    } else {
        let most = device.tags_bad.iter().max_by_key(|(_, count)| **count);
        said += &most
            .and_then(|(reason, _)| reason_advice(reason))
            .map_or_else(String::new, advised);
    }
    Some(said)
}

fn trouble_problem(device: &DeviceStatus) -> Option<String> {
    let trouble = device.trouble.as_ref()?;
    if trouble.faults.values().sum::<u64>() < FAULTS_MIN {
        return None;
    }
    let advice = trouble.advice().map_or_else(String::new, advised);
    Some(format!(
        "faults {}: {}, the last {} ago{advice}",
        trouble.since,
        trouble.counted(),
        length(trouble.last_s)
    ))
}

/// What to look at when tags are bad for a reason that the device itself gives.
fn reason_advice(reason: &str) -> Option<&'static str> {
    let is = |of: Reason| of.name() == reason;
    if is(Reason::IllegalFunction) {
        Some(
            "the device does not know the function: try input: instead of holding:, or the other way round",
        )
    } else if is(Reason::DeviceFailure) {
        Some("the device says that it is busy or out of order: look at its own display")
    } else if is(Reason::NotANumber) {
        Some("the device has no number there: is its sensor connected, are type and order right?")
    } else {
        None
    }
}

fn advised(advice: &str) -> String {
    format!("; {advice}")
}

fn counted<N: fmt::Display>(counts: &BTreeMap<String, N>) -> String {
    let named = counts.iter().map(|(name, count)| format!("{name} {count}"));
    named.collect::<Vec<String>>().join(", ")
}

fn length(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        _ => about_duration(seconds),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(name: &str) -> DeviceStatus {
        DeviceStatus {
            name: name.to_owned(),
            driver: "modbus-rtu".to_owned(),
            address: format!("rs485-1/{}", name.len()),
            state: DeviceState::Online,
            state_since: Some(since(240)),
            tags: 12,
            tags_good: 12,
            ..DeviceStatus::default()
        }
    }

    fn since(ago_s: u64) -> Since {
        Since {
            ago_s,
            t: Some(1_795_269_731_000.0),
        }
    }

    fn silent(name: &str) -> DeviceStatus {
        DeviceStatus {
            state: DeviceState::Offline,
            error: Some(format!(
                "{name} did not answer; its line asks it again in 8 s"
            )),
            tags_good: 0,
            tags_bad: BTreeMap::from([("timeout".to_owned(), 12)]),
            trouble: Some(TroubleReport {
                since: since(240),
                last_s: 3,
                faults: BTreeMap::from([("timeout".to_owned(), 9), ("late".to_owned(), 1)]),
            }),
            ..device(name)
        }
    }

    #[test]
    fn broken_meter_is_named_with_what_to_look_at() {
        let holes = DeviceStatus {
            tags_good: 9,
            tags_bad: BTreeMap::from([("illegal-address".to_owned(), 3)]),
            excluded: vec![ExcludedRange {
                addresses: "holding:77-79".to_owned(),
                cause: None,
                tags: 3,
                since: since(240),
                retry_s: 360,
            }],
            ..device("meter-2")
        };
        let noisy = DeviceStatus {
            trouble: Some(TroubleReport {
                since: since(7_300),
                last_s: 2,
                faults: BTreeMap::from([("checksum".to_owned(), 30), ("noise".to_owned(), 7)]),
            }),
            ..device("meter-3")
        };
        let nan = DeviceStatus {
            tags_good: 11,
            tags_bad: BTreeMap::from([("not-a-number".to_owned(), 1)]),
            ..device("meter-4")
        };
        let mut late = silent("meter-6");
        late.trouble = Some(TroubleReport {
            since: since(240),
            last_s: 3,
            faults: BTreeMap::from([("timeout".to_owned(), 9), ("late".to_owned(), 8)]),
        });
        late.state = DeviceState::Online;
        late.tags_good = late.tags;
        let mut once = late.clone();
        once.trouble = Some(TroubleReport {
            faults: BTreeMap::from([("timeout".to_owned(), 2)]),
            ..noisy.trouble.clone().unwrap()
        });
        let well = device("meter-5");
        let node = |count: u64| ExcludedRange {
            addresses: format!("ns=2;s=Nowhere{count}"),
            cause: Some("BadNodeIdUnknown".to_owned()),
            tags: 1,
            since: since(240),
            retry_s: 40,
        };
        let server = DeviceStatus {
            tags: 10_000,
            tags_good: 9_950,
            tags_bad: BTreeMap::from([("illegal-address".to_owned(), 50)]),
            excluded: (0..50).map(node).collect(),
            ..device("press")
        };
        let said = problems(&[
            silent("meter-1"),
            holes,
            noisy,
            nan,
            late,
            once,
            well,
            server,
        ]);
        insta::assert_snapshot!(said.join("\n"));
    }

    #[test]
    fn line_where_nobody_answers_is_one_problem() {
        let other = DeviceStatus {
            address: "10.0.0.5:502".to_owned(),
            driver: "modbus-tcp".to_owned(),
            ..silent("plc")
        };
        let said = problems(&[silent("meter-1"), silent("meter-2"), other]);
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(
            said[0].starts_with("line rs485-1: none of its 2 devices answers since 2026-11-21T"),
            "{said:?}"
        );
        assert!(said[1].starts_with("device plc is offline"), "{said:?}");
        // One that answers: the line is well.
        assert_eq!(problems(&[silent("meter-1"), device("meter-2")]).len(), 1);
    }

    #[test]
    fn without_a_clock_only_the_length_is_told() {
        let since = Since {
            ago_s: 240,
            t: None,
        };
        assert_eq!(since.to_string(), "for 4 min");
    }
}
