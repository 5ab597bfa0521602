//! The verdict: what the devices served against what arrived at the broker.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write as _;
use std::sync::Arc;

use serde::Serialize;

use super::key::Key;
use super::tally::{Anomaly, Tally};
use crate::cli::show;

/// What a device served, as it counts itself.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Served {
    /// How often each value of each tag.
    Values(HashMap<(Arc<str>, Key), u64>),
    /// How many values of each tag.
    Counts(BTreeMap<String, u64>),
}

/// What is printed at the end; `--json` prints it as it is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Verdict {
    /// Values that the devices served.
    pub(super) served: u64,
    /// Of those, how many arrived at the broker, each number counted once.
    pub(super) delivered: u64,
    /// Served and not delivered.
    pub(super) missing: u64,
    /// Samples that arrived once more under the number they had.
    pub(super) duplicated: u64,
    /// Anomalies that were reported.
    pub(super) events: usize,
    /// How long the broker was off.
    pub(super) broker_cut_ms: u64,
    /// Arrived, and never served: wrong values, or one number with two values.
    pub(super) wrong: u64,
    /// Arrived as bad samples: polls that failed.
    pub(super) bad: u64,
    /// Whether nothing is missing or wrong and every fault was seen.
    pub(super) ok: bool,
    /// The same by device.
    pub(super) devices: BTreeMap<String, DeviceVerdict>,
    /// When the pump was sick.
    pub(super) faults: Vec<FaultVerdict>,
    /// What the model said.
    pub(super) anomalies: Vec<AnomalyVerdict>,
}

/// One device's part.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct DeviceVerdict {
    pub(super) served: u64,
    pub(super) delivered: u64,
    pub(super) missing: u64,
    pub(super) wrong: u64,
    pub(super) bad: u64,
}

/// A stretch in which the pump was sick, in Unix milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct FaultVerdict {
    pub(super) start: f64,
    pub(super) end: f64,
    /// Whether an anomaly overlapped it.
    pub(super) seen: bool,
}

/// An anomaly, in Unix milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct AnomalyVerdict {
    pub(super) source: String,
    pub(super) start: f64,
    /// `null` where it lasted until the devices stopped.
    pub(super) end: Option<f64>,
    pub(super) peak: f64,
    pub(super) top: Vec<String>,
}

/// What is known outside of the agent.
pub(super) struct Evidence<'a> {
    /// What each device served.
    pub(super) served: &'a BTreeMap<String, Served>,
    /// What arrived.
    pub(super) tally: &'a Tally,
    /// When the pump was sick: begin and end in Unix milliseconds.
    pub(super) faults: &'a [(f64, f64)],
    /// How long the broker was off.
    pub(super) broker_cut_ms: u64,
}

impl Verdict {
    /// Weighs the evidence.
    pub(super) fn of(evidence: &Evidence<'_>) -> Self {
        let tally = evidence.tally;
        let devices: BTreeMap<String, DeviceVerdict> = evidence
            .served
            .iter()
            .map(|(name, served)| (name.clone(), device(name, served, tally)))
            .collect();
        let faults: Vec<FaultVerdict> = evidence
            .faults
            .iter()
            .map(|&(start, end)| FaultVerdict {
                start,
                end,
                seen: tally.anomalies.iter().any(|a| overlaps(a, start, end)),
            })
            .collect();
        let sum = |of: fn(&DeviceVerdict) -> u64| devices.values().map(of).sum::<u64>();
        let missing = sum(|d| d.missing);
        let wrong = sum(|d| d.wrong) + tally.conflicting + tally.unreadable;
        let served = sum(|d| d.served);
        Self {
            served,
            delivered: sum(|d| d.delivered),
            missing,
            duplicated: tally.duplicated,
            events: tally.anomalies.len(),
            broker_cut_ms: evidence.broker_cut_ms,
            wrong,
            bad: sum(|d| d.bad),
            ok: served > 0 && missing == 0 && wrong == 0 && faults.iter().all(|f| f.seen),
            devices,
            faults,
            anomalies: tally.anomalies.iter().map(anomaly).collect(),
        }
    }

    /// The verdict as a person reads it.
    pub(super) fn text(&self) -> String {
        let mut text = String::from("\nVERDICT, counted outside the agent\n");
        let mut line = |name: &str, value: String| {
            let _ = writeln!(text, "  {name:<11} {value}");
        };
        let devices: Vec<String> = self
            .devices
            .iter()
            .map(|(name, device)| format!("{name} {}", show::count(device.served)))
            .collect();
        line(
            "served",
            format!(
                "{:>9}  by the devices: {}",
                show::count(self.served),
                devices.join(", ")
            ),
        );
        line(
            "delivered",
            format!(
                "{:>9}  at the broker, distinct by source, number and value",
                show::count(self.delivered)
            ),
        );
        line("missing", format!("{:>9}", show::count(self.missing)));
        line("duplicated", format!("{:>9}", show::count(self.duplicated)));
        if self.wrong + self.bad > 0 {
            line("wrong", format!("{:>9}", show::count(self.wrong)));
            line(
                "bad",
                format!("{:>9}  polls that failed", show::count(self.bad)),
            );
        }
        line(
            "broker off",
            format!("{:>9}", show::millis(self.broker_cut_ms as f64)),
        );
        for fault in &self.faults {
            let seen = if fault.seen { "" } else { "  NOT SEEN" };
            let span = clock_span(fault.start, Some(fault.end));
            line("fault", format!("{span}{seen}"));
        }
        for anomaly in &self.anomalies {
            let span = clock_span(anomaly.start, anomaly.end);
            let top = anomaly.top.iter().take(2).cloned().collect::<Vec<_>>();
            line(
                "event",
                format!("{span}  peak {:.2}  {}", anomaly.peak, top.join(", ")),
            );
        }
        let _ = writeln!(text, "{}", self.sentence());
        text
    }

    fn sentence(&self) -> String {
        if self.ok {
            return "Every sample arrived, and the model saw the fault.".into();
        }
        let mut wrong = Vec::new();
        if self.served == 0 {
            wrong.push("the devices were never read".to_owned());
        }
        if self.missing > 0 {
            wrong.push(format!("{} samples are missing", self.missing));
        }
        if self.wrong > 0 {
            wrong.push(format!("{} samples are wrong", self.wrong));
        }
        if self.faults.iter().any(|fault| !fault.seen) {
            wrong.push("the model missed a fault".to_owned());
        }
        format!("FAILED: {}.", wrong.join(", "))
    }
}

fn device(name: &str, served: &Served, tally: &Tally) -> DeviceVerdict {
    let mut arrived = tally.values_of(name);
    let bad = arrived.extract_if(|(_, key), _| **key == Key::Bad);
    let mut verdict = DeviceVerdict {
        bad: bad.map(|(_, times)| times).sum(),
        ..DeviceVerdict::default()
    };
    match served {
        Served::Values(values) => {
            let singles: HashSet<&str> = values
                .keys()
                .filter(|(_, key)| matches!(key, Key::Single(_)))
                .map(|(tag, _)| &**tag)
                .collect();
            let mut came: HashMap<(&str, Key), u64> = HashMap::new();
            for ((tag, key), times) in arrived {
                let key = match singles.contains(tag) {
                    true => key.single(),
                    false => key.clone(),
                };
                *came.entry((tag, key)).or_default() += times;
            }
            for ((tag, key), &times) in values {
                let times_came = came.remove(&(&**tag, key.clone()));
                verdict.weigh(times, times_came.unwrap_or(0));
            }
            verdict.wrong += came.values().sum::<u64>();
        }
        Served::Counts(counts) => {
            let mut by_tag: HashMap<&str, u64> = HashMap::new();
            for ((tag, _), times) in arrived {
                *by_tag.entry(tag).or_default() += times;
            }
            for (tag, &times) in counts {
                verdict.weigh(times, by_tag.remove(tag.as_str()).unwrap_or(0));
            }
            verdict.wrong += by_tag.values().sum::<u64>();
        }
    }
    verdict
}

impl DeviceVerdict {
    /// Something was served so many times and arrived so many times.
    fn weigh(&mut self, served: u64, arrived: u64) {
        self.served += served;
        self.delivered += arrived.min(served);
        self.missing += served.saturating_sub(arrived);
        self.wrong += arrived.saturating_sub(served);
    }
}

fn overlaps(anomaly: &Anomaly, start: f64, end: f64) -> bool {
    anomaly.start_ms <= end && anomaly.end_ms.is_none_or(|ended| ended >= start)
}

fn anomaly(anomaly: &Anomaly) -> AnomalyVerdict {
    AnomalyVerdict {
        source: anomaly.source.clone(),
        start: anomaly.start_ms,
        end: anomaly.end_ms,
        peak: anomaly.peak,
        top: anomaly.top.clone(),
    }
}

/// `07:50:13.2 to 07:50:25.9 UTC`
fn clock_span(start: f64, end: Option<f64>) -> String {
    let time = |ms: f64| show::utc(ms).get(11..21).unwrap_or("-").to_owned();
    match end {
        Some(end) => format!("{} to {} UTC", time(start), time(end)),
        None => format!("{} UTC, until the devices stopped", time(start)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const START: f64 = 1_763_690_000_000.0;

    fn tally(values: &[f64]) -> Tally {
        let mut tally = Tally::default();
        let samples: Vec<_> = values
            .iter()
            .map(|v| json!({"n": "a", "t": 1, "v": v}))
            .collect();
        let message = json!({"source": "pump", "first_seq": 1, "samples": samples});
        tally.take("millrace/g/data/pump", message.to_string().as_bytes());
        let event = json!({"kind": "anomaly", "source": "m", "state": "end", "start": START + 4000.0,
            "end": START + 12_500.0, "peak": 3.25, "top": [{"role": "vibration", "share": 0.61}]});
        tally.take("millrace/g/event/m", event.to_string().as_bytes());
        tally
    }

    fn served(values: &[(f64, u64)]) -> BTreeMap<String, Served> {
        let counts = values
            .iter()
            .map(|(value, times)| (("a".into(), Key::of(&json!(value))), *times));
        BTreeMap::from([("pump".to_owned(), Served::Values(counts.collect()))])
    }

    fn verdict(served: &BTreeMap<String, Served>, tally: &Tally, faults: &[(f64, f64)]) -> Verdict {
        Verdict::of(&Evidence {
            served,
            tally,
            faults,
            broker_cut_ms: 7_500,
        })
    }

    #[test]
    fn all_arrived() {
        let verdict = verdict(
            &served(&[(1.5, 2), (2.5, 1)]),
            &tally(&[1.5, 2.5, 1.5]),
            &[(START, START + 8000.0)],
        );
        assert!(verdict.ok);
        assert_eq!(
            (verdict.served, verdict.delivered, verdict.missing),
            (3, 3, 0)
        );
        insta::assert_snapshot!(verdict.text());
    }

    #[test]
    fn a_lost_value_is_missing_and_a_foreign_one_is_wrong() {
        let verdict = verdict(
            &served(&[(1.5, 2), (2.5, 1)]),
            &tally(&[1.5, 7.0]),
            &[(START, START + 8000.0)],
        );
        assert!(!verdict.ok);
        assert_eq!(
            (verdict.delivered, verdict.missing, verdict.wrong),
            (1, 2, 1)
        );
        assert!(
            verdict
                .text()
                .contains("FAILED: 2 samples are missing, 1 samples are wrong.")
        );
    }

    #[test]
    fn a_fault_that_no_event_overlaps_was_missed() {
        let late = [(START + 20_000.0, START + 30_000.0)];
        let verdict = verdict(&served(&[(1.5, 1)]), &tally(&[1.5]), &late);
        assert!(!verdict.ok);
        assert!(verdict.text().contains("the model missed a fault"));
    }

    #[test]
    fn a_single_arrives_whichever_decimal_is_written() {
        let key = Key::Single((51.0 + 1.0 / 128.0_f32).to_bits());
        let served = Served::Values(HashMap::from([(("a".into(), key), 2)]));
        let served = BTreeMap::from([("pump".to_owned(), served)]);
        let verdict = verdict(&served, &tally(&[51.007_812, 51.007_813]), &[]);
        assert_eq!(
            (verdict.delivered, verdict.missing, verdict.wrong),
            (2, 0, 0)
        );
    }

    #[test]
    fn counts_are_enough_where_a_device_keeps_no_values() {
        let served = |n| {
            BTreeMap::from([(
                "pump".to_owned(),
                Served::Counts([("a".to_owned(), n)].into()),
            )])
        };
        let tally = tally(&[1.5, 2.5]);
        let of = |n| {
            Verdict::of(&Evidence {
                served: &served(n),
                tally: &tally,
                faults: &[],
                broker_cut_ms: 0,
            })
        };
        assert_eq!((of(2).delivered, of(2).missing, of(2).wrong), (2, 0, 0));
        assert_eq!((of(3).delivered, of(3).missing), (2, 1));
        assert_eq!((of(1).delivered, of(1).wrong), (1, 1));
    }

    #[test]
    fn nothing_served_proves_nothing() {
        assert!(!verdict(&BTreeMap::new(), &Tally::default(), &[]).ok);
    }
}
