//! What arrived at the broker, counted outside the agent.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::Value;

use super::key::Key;

/// Every sample and event that the broker took custody of.
#[derive(Debug, Default)]
pub(super) struct Tally {
    sources: HashMap<String, HashMap<u64, Arrival>>,
    /// Samples that came again under a number that was there already.
    pub(super) duplicated: u64,
    /// Numbers that came with two different values. There must be none.
    pub(super) conflicting: u64,
    /// Payloads that nobody could read. There must be none.
    pub(super) unreadable: u64,
    /// Anomalies, by source and begin.
    pub(super) anomalies: Vec<Anomaly>,
}

/// One sample.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Arrival {
    tag: String,
    key: Key,
}

/// An anomaly, as far as the broker knows.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Anomaly {
    pub(super) source: String,
    pub(super) start_ms: f64,
    pub(super) end_ms: Option<f64>,
    pub(super) peak: f64,
    /// The inputs that contributed most when the peak was reported.
    pub(super) top: Vec<String>,
}

#[derive(Deserialize)]
struct DataMessage {
    source: String,
    first_seq: u64,
    samples: Vec<DataSample>,
}

#[derive(Deserialize)]
struct DataSample {
    n: String,
    #[serde(default)]
    v: Value,
    #[serde(default)]
    q: Option<String>,
}

#[derive(Deserialize)]
struct EventMessage {
    kind: String,
    source: String,
    start: Option<f64>,
    end: Option<f64>,
    #[serde(default)]
    peak: f64,
    #[serde(default)]
    top: Vec<EventShare>,
}

#[derive(Deserialize)]
struct EventShare {
    role: String,
    share: f64,
}

impl Tally {
    /// Takes a message of the profile `generic`.
    pub(super) fn take(&mut self, topic: &str, payload: &[u8]) {
        // millrace/<gateway>/<what>/…
        let taken = match topic.split('/').nth(2) {
            Some("data") => serde_json::from_slice(payload).map(|message| self.data(message)),
            Some("event") => serde_json::from_slice(payload).map(|message| self.event(message)),
            _ => return,
        };
        if taken.is_err() {
            self.unreadable += 1;
        }
    }

    fn data(&mut self, message: DataMessage) {
        let source = self.sources.entry(message.source).or_default();
        for (seq, sample) in (message.first_seq..).zip(message.samples) {
            let key = match sample.q.as_deref() {
                Some("bad") => Key::Bad,
                _ => Key::of(&sample.v),
            };
            let arrival = Arrival { tag: sample.n, key };
            match source.get(&seq) {
                None => {
                    source.insert(seq, arrival);
                }
                Some(known) if *known == arrival => self.duplicated += 1,
                Some(_) => self.conflicting += 1,
            }
        }
    }

    fn event(&mut self, message: EventMessage) {
        let (true, Some(start_ms)) = (message.kind == "anomaly", message.start) else {
            return;
        };
        let known = self
            .anomalies
            .iter_mut()
            .find(|a| a.source == message.source && a.start_ms == start_ms);
        let top = message.top.iter();
        let top = top.map(|share| format!("{} {:.0} %", share.role, share.share * 100.0));
        match known {
            Some(anomaly) => {
                anomaly.end_ms = message.end.or(anomaly.end_ms);
                if message.peak > anomaly.peak {
                    anomaly.peak = message.peak;
                    anomaly.top = top.collect();
                }
            }
            None => self.anomalies.push(Anomaly {
                source: message.source,
                start_ms,
                end_ms: message.end,
                peak: message.peak,
                top: top.collect(),
            }),
        }
    }

    /// How often each value of each tag of the source arrived, by distinct number.
    pub(super) fn values_of(&self, source: &str) -> HashMap<(&str, &Key), u64> {
        let mut counts = HashMap::new();
        for arrival in self
            .sources
            .get(source)
            .into_iter()
            .flat_map(HashMap::values)
        {
            *counts
                .entry((arrival.tag.as_str(), &arrival.key))
                .or_insert(0) += 1;
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn data(tally: &mut Tally, first_seq: u64, samples: Value) {
        let message = json!({"gateway": "g", "source": "pump", "stream": "s",
            "first_seq": first_seq, "last_seq": 0, "lane": "live", "samples": samples});
        tally.take("millrace/g/data/pump", message.to_string().as_bytes());
    }

    #[test]
    fn distinct_by_number() {
        let mut tally = Tally::default();
        data(
            &mut tally,
            1,
            json!([{"n": "a", "t": 1, "v": 1.5}, {"n": "b", "t": 1, "v": 2}]),
        );
        data(
            &mut tally,
            2,
            json!([{"n": "b", "t": 1, "v": 2}, {"n": "a", "t": 2, "v": 1.5}]),
        );
        data(&mut tally, 3, json!([{"n": "a", "t": 2, "v": 9}]));
        assert_eq!(tally.duplicated, 1);
        assert_eq!(tally.conflicting, 1);
        let counts = tally.values_of("pump");
        assert_eq!(counts[&("a", &Key::of(&json!(1.5)))], 2);
        assert_eq!(counts[&("b", &Key::of(&json!(2)))], 1);
        assert!(tally.values_of("other").is_empty());
    }

    #[test]
    fn a_bad_sample_is_no_value() {
        let mut tally = Tally::default();
        data(
            &mut tally,
            1,
            json!([{"n": "a", "t": 1, "v": null, "q": "bad", "r": "timeout"}]),
        );
        assert_eq!(tally.values_of("pump")[&("a", &Key::Bad)], 1);
    }

    #[test]
    fn begin_update_and_end_are_one_anomaly() {
        let mut tally = Tally::default();
        for (state, end, peak) in [
            ("begin", None, 2.0),
            ("update", None, 3.0),
            ("end", Some(9.0), 3.0),
        ] {
            let message = json!({"kind": "anomaly", "source": "m", "stream": "s", "seq": 1,
                "state": state, "start": 4.0, "end": end, "peak": peak,
                "top": [{"role": "vibration", "share": 0.61}]});
            tally.take("millrace/g/event/m", message.to_string().as_bytes());
        }
        tally.take(
            "millrace/g/event/d",
            br#"{"kind":"comms","source":"d","state":"begin","start":1}"#,
        );
        assert_eq!(
            tally.anomalies,
            [Anomaly {
                source: "m".into(),
                start_ms: 4.0,
                end_ms: Some(9.0),
                peak: 3.0,
                top: vec!["vibration 61 %".into()],
            }]
        );
    }

    #[test]
    fn other_topics_are_passed_over_and_nonsense_is_counted() {
        let mut tally = Tally::default();
        tally.take("millrace/g/status", b"{}");
        tally.take("millrace/g/data/pump", b"{");
        assert_eq!(tally.unreadable, 1);
    }
}
