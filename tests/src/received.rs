//! The account that a subscriber keeps: every number of every source, what came twice, what will never come.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::agent::GATEWAY;

/// Everything that came below `millrace/<gateway>/`, by the rules of profile `generic`.
#[derive(Debug, Default)]
pub struct Received {
    /// Number lines of the data log by (source, stream).
    pub lines: BTreeMap<(String, String), Line>,
    /// Events by (source, stream, number).
    pub events: BTreeMap<(String, String, u64), Value>,
    /// Announced holes.
    pub gaps: BTreeSet<Gap>,
    /// Status messages in order.
    pub statuses: Vec<Value>,
    /// What must not happen: two contents for one number, a message that is not what the profile says.
    pub violations: Vec<String>,
    /// Number of messages of any kind.
    pub messages: u64,
}

/// What came of one source in one stream.
#[derive(Debug, Default)]
pub struct Line {
    /// Samples by number.
    pub samples: BTreeMap<u64, Sample>,
    /// Samples that came again.
    pub copies: u64,
}

/// One sample as it came.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Name of the tag.
    pub name: String,
    /// Gateway time, Unix milliseconds.
    pub at_ms: f64,
    /// Source time, Unix milliseconds.
    pub source_ms: Option<f64>,
    /// The value; of bytes, their base64.
    pub value: Value,
    /// Quality, if not good.
    pub quality: Option<String>,
    /// Its reason.
    pub reason: Option<String>,
}

/// A hole that will not be filled.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gap {
    /// The source.
    pub source: String,
    /// The stream.
    pub stream: String,
    /// `data` or `alarm`.
    pub log: String,
    /// Why.
    pub reason: String,
    /// First number.
    pub first: u64,
    /// Last number; `None`: the stream is closed.
    pub last: Option<u64>,
}

impl Received {
    /// Takes a message in.
    pub fn take(&mut self, topic: &str, payload: &[u8]) {
        self.messages += 1;
        if let Err(error) = self.sort(topic, payload) {
            self.violations.push(format!("{topic}: {error:#}"));
        }
    }

    fn sort(&mut self, topic: &str, payload: &[u8]) -> Result<()> {
        let message: Value = serde_json::from_slice(payload).context("payload is not JSON")?;
        let prefix = format!("millrace/{GATEWAY}/");
        let rest = topic.strip_prefix(&prefix).context("a foreign topic")?;
        match rest.split_once('/') {
            Some(("data", source)) => self.take_data(source, &message),
            Some(("event", source)) => self.take_event(source, &message),
            None if rest == "gap" => self.take_gap(&message),
            None if rest == "status" => {
                self.statuses.push(message);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn take_data(&mut self, source: &str, message: &Value) -> Result<()> {
        ensure!(
            message["gateway"] == GATEWAY,
            "gateway is {}",
            message["gateway"]
        );
        ensure!(
            message["source"] == source,
            "source is {}",
            message["source"]
        );
        let stream = text(message, "stream")?;
        let (first, last) = (number(message, "first_seq")?, number(message, "last_seq")?);
        let samples = message["samples"].as_array().context("no samples")?;
        ensure!(
            last + 1 - first == samples.len() as u64,
            "{first}..{last} with {} samples",
            samples.len()
        );
        let line = self.lines.entry((source.to_owned(), stream)).or_default();
        for (seq, sample) in (first..).zip(samples) {
            let sample = Sample::read(sample)?;
            match line.samples.get(&seq) {
                None => {
                    line.samples.insert(seq, sample);
                }
                Some(known) if *known == sample => line.copies += 1,
                Some(known) => {
                    self.violations
                        .push(format!("{source} {seq} is both {known:?} and {sample:?}"));
                }
            }
        }
        Ok(())
    }

    fn take_event(&mut self, source: &str, message: &Value) -> Result<()> {
        let key = (
            source.to_owned(),
            text(message, "stream")?,
            number(message, "seq")?,
        );
        if let Some(known) = self.events.get(&key)
            && known != message
        {
            self.violations
                .push(format!("event {key:?} is both {known} and {message}"));
        }
        self.events.insert(key, message.clone());
        Ok(())
    }

    fn take_gap(&mut self, message: &Value) -> Result<()> {
        for hole in message["holes"].as_array().context("no holes")? {
            self.gaps.insert(Gap {
                source: text(hole, "source")?,
                stream: text(message, "stream")?,
                log: text(message, "log")?,
                reason: text(message, "reason")?,
                first: number(hole, "first_seq")?,
                last: hole["last_seq"].as_u64(),
            });
        }
        Ok(())
    }

    /// The line of a source that has kept one stream.
    ///
    /// # Errors
    /// When it has none, or several.
    pub fn line(&self, source: &str) -> Result<&Line> {
        let mut lines = self.lines.iter().filter(|((name, _), _)| name == source);
        let (_, line) = lines
            .next()
            .with_context(|| format!("nothing came of {source}"))?;
        ensure!(lines.next().is_none(), "{source} has several streams");
        Ok(line)
    }

    /// How many distinct numbers of a source came.
    pub fn count(&self, source: &str) -> usize {
        self.lines
            .iter()
            .filter(|((name, _), _)| name == source)
            .map(|(_, line)| line.samples.len())
            .sum()
    }

    /// The samples of a tag in the order of their numbers.
    pub fn of_tag<'a>(&'a self, source: &'a str, tag: &'a str) -> impl Iterator<Item = &'a Sample> {
        self.lines
            .iter()
            .filter(move |((name, _), _)| name == source)
            .flat_map(|(_, line)| line.samples.values())
            .filter(move |sample| sample.name == tag)
    }

    /// The gaps of a source in the data log.
    pub fn gaps_of<'a>(&'a self, source: &'a str) -> impl Iterator<Item = &'a Gap> {
        self.gaps
            .iter()
            .filter(move |gap| gap.source == source && gap.log == "data")
    }

    /// The events of a source in the order of their numbers.
    pub fn events_of<'a>(&'a self, source: &'a str) -> impl Iterator<Item = &'a Value> {
        self.events
            .iter()
            .filter(move |((name, _, _), _)| name == source)
            .map(|(_, event)| event)
    }
}

impl Line {
    /// Runs of numbers from 1 on that did not come, before the highest that did.
    pub fn holes(&self) -> Vec<RangeInclusive<u64>> {
        let mut holes = Vec::new();
        let mut expected = 1;
        for &seq in self.samples.keys() {
            if seq > expected {
                holes.push(expected..=seq - 1);
            }
            expected = seq + 1;
        }
        holes
    }
}

impl Sample {
    fn read(sample: &Value) -> Result<Sample> {
        let optional = |key: &str| sample[key].as_str().map(str::to_owned);
        Ok(Sample {
            name: text(sample, "n")?,
            at_ms: sample["t"]
                .as_f64()
                .with_context(|| format!("no time in {sample}"))?,
            source_ms: sample["st"].as_f64(),
            value: sample
                .get("v")
                .or_else(|| sample.get("x"))
                .cloned()
                .with_context(|| format!("no value in {sample}"))?,
            quality: optional("q"),
            reason: optional("r"),
        })
    }
}

fn text(value: &Value, key: &str) -> Result<String> {
    Ok(value[key]
        .as_str()
        .with_context(|| format!("{key} is missing in {value}"))?
        .to_owned())
}

fn number(value: &Value, key: &str) -> Result<u64> {
    value[key]
        .as_u64()
        .with_context(|| format!("{key} is missing in {value}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(first: u64, values: &[u64]) -> Vec<u8> {
        let samples: Vec<Value> = values
            .iter()
            .map(|v| serde_json::json!({"n": "a", "t": 1, "v": v}))
            .collect();
        let last = first + values.len() as u64 - 1;
        serde_json::json!({"gateway": GATEWAY, "source": "s", "stream": "x", "first_seq": first, "last_seq": last,
            "lane": "live", "samples": samples})
        .to_string()
        .into_bytes()
    }

    #[test]
    fn counts_copies_and_finds_holes() -> Result<()> {
        let mut received = Received::default();
        received.take("millrace/gw-1/data/s", &message(1, &[10, 11]));
        received.take("millrace/gw-1/data/s", &message(2, &[11]));
        received.take("millrace/gw-1/data/s", &message(5, &[14]));
        let line = received.line("s")?;
        assert_eq!((line.samples.len(), line.copies), (3, 1));
        assert_eq!(line.holes(), [3..=4]);
        assert!(received.violations.is_empty());
        Ok(())
    }

    #[test]
    fn a_number_with_two_values_is_a_violation() {
        let mut received = Received::default();
        received.take("millrace/gw-1/data/s", &message(1, &[10]));
        received.take("millrace/gw-1/data/s", &message(1, &[11]));
        assert_eq!(received.violations.len(), 1);
    }

    #[test]
    fn a_message_with_a_wrong_count_is_a_violation() {
        let mut received = Received::default();
        let text =
            String::from_utf8_lossy(&message(1, &[10])).replace("\"last_seq\":1", "\"last_seq\":2");
        received.take("millrace/gw-1/data/s", text.as_bytes());
        assert_eq!(received.violations.len(), 1);
    }
}
