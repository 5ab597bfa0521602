//! How one device or uplink did, what is wrong with it, and what to do about that.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use millrace_drivers::Driver;
use millrace_tags::{Quality, Sample, TagId};
use serde::Serialize;

use super::super::advice::advice;
use super::super::client::Client;
use super::super::reach::clock;
use super::super::show;
use crate::config;
use crate::device::{Device, chain};
use crate::report::{DeviceAction, DeviceRequest, DeviceTest};

/// Tags of one finding that are named.
const NAMED_MAX: usize = 5;

/// How one device or uplink did.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct Trial {
    /// `device` or `uplink`.
    kind: &'static str,
    name: String,
    /// Where it is.
    pub(super) at: String,
    pub(super) ok: bool,
    /// Through the running agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) through: Option<String>,
    took_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    tags: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tags_good: Option<usize>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    problems: Vec<Finding>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) remarks: Vec<String>,
}

/// Something that is wrong, and what to do.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Finding {
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
}

impl Trial {
    /// One that has not begun.
    pub(super) fn new(kind: &'static str, name: &str, at: String) -> Self {
        Self {
            kind,
            name: name.to_owned(),
            at,
            ..Self::default()
        }
    }

    /// Its end: it is well where nothing is wrong.
    pub(super) fn done(mut self, begun: Instant) -> Self {
        self.took_ms = begun.elapsed().as_secs_f64() * 1e3;
        self.ok = self.problems.is_empty();
        self
    }

    /// Something is wrong.
    pub(super) fn fail(&mut self, found: String, fix: Option<String>) {
        self.problems.push(Finding { found, fix });
    }

    /// Reads every tag once.
    pub(super) async fn read(&mut self, device: &config::Device, driver: Arc<dyn Driver>) {
        let kind = device.connection.kind();
        let tried = Device::new(
            &device.name,
            kind,
            &self.at,
            driver,
            HashMap::new(),
            clock(),
        );
        let fresh = match tried.read_all().await {
            Ok(fresh) => fresh,
            Err(error) => return self.fail(chain(&error), advice(&error)),
        };
        self.remarks = fresh.remarks;
        let last: HashMap<TagId, &Sample> = fresh
            .samples
            .iter()
            .map(|sample| (sample.tag, sample))
            .collect();
        let tags = device.tags.iter().zip((0..).map(TagId));
        let outcomes: Vec<(String, Option<String>)> = tags
            .map(|(tag, id)| (tag.name.to_string(), fault(last.get(&id).copied())))
            .collect();
        self.take(outcomes);
    }

    /// Lets the agent read every tag once.
    pub(super) async fn ask(&mut self, client: &Client) {
        let request = DeviceRequest {
            name: self.name.clone(),
            action: DeviceAction::Test,
        };
        let tested: DeviceTest = match client.ask("/v1/device", &request).await {
            Ok(tested) => tested,
            Err(error) => return self.fail(error.to_string(), None),
        };
        if let Some(error) = tested.error {
            return self.fail(
                error,
                Some("`millrace trust` says why a handshake fails".to_owned()),
            );
        }
        let outcome = |row: crate::report::TagRow| {
            let fault = (row.quality != "good").then(|| row.reason.unwrap_or(row.quality));
            (row.tag, fault)
        };
        self.take(tested.tags.into_iter().map(outcome).collect());
    }

    /// Tags, each with what is wrong with it.
    fn take(&mut self, outcomes: Vec<(String, Option<String>)>) {
        self.tags = Some(outcomes.len());
        self.tags_good = Some(outcomes.iter().filter(|(_, fault)| fault.is_none()).count());
        let mut by_fault: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (tag, fault) in outcomes {
            if let Some(fault) = fault {
                by_fault.entry(fault).or_default().push(tag);
            }
        }
        for (fault, tags) in by_fault {
            let is_silent = self.through.is_some() && fault == "device-failure";
            let named = tags[..tags.len().min(NAMED_MAX)].join(", ");
            let more = match tags.len().checked_sub(NAMED_MAX) {
                Some(more @ 1..) => format!(" and {more} more"),
                _ => String::new(),
            };
            let found = match is_silent {
                // The agent passes a silence on as a gateway does.
                true => format!("no answer, or device-failure: {named}{more}"),
                false => format!("{fault}: {named}{more}"),
            };
            self.fail(found, fix(&fault));
        }
    }

    /// As a person reads it.
    pub(super) fn text(&self) -> String {
        let tags = match (self.tags_good, self.tags) {
            (Some(good), Some(tags)) if good == tags => format!(", {tags} tags good"),
            (Some(good), Some(tags)) => format!(", {good} of {tags} tags good"),
            _ => String::new(),
        };
        let verdict = match self.ok {
            true => "ok",
            false => "FAILED",
        };
        let mut text = format!(
            "{} {} at {}: {verdict}{tags}, {}\n",
            self.kind,
            self.name,
            self.at,
            show::millis(self.took_ms)
        );
        for problem in &self.problems {
            text.push_str(&show::bullet("  ! ", &problem.found));
            if let Some(fix) = &problem.fix {
                text.push_str(&show::bullet("    hint: ", fix));
            }
        }
        for remark in &self.remarks {
            text.push_str(&show::bullet("  - ", remark));
        }
        if let Some(through) = &self.through {
            text.push_str(&show::bullet("  - through ", through));
        }
        text
    }
}

/// What is wrong with a tag's sample.
fn fault(sample: Option<&Sample>) -> Option<String> {
    match sample.map(|sample| &sample.quality) {
        None => Some("no value came".to_owned()),
        Some(Quality::Bad(reason)) => Some(reason.name().into_owned()),
        Some(_) => None,
    }
}

/// What to do about a tag.
fn fix(fault: &str) -> Option<String> {
    let fix = match fault {
        "illegal-address" => {
            "the device has no such address: `millrace scan modbus` shows what can be read; manuals count from 1 where \
             holding:0 counts from 0"
        }
        "illegal-function" => {
            "the device does not offer this table: input: and holding: are often confused"
        }
        "not-a-number" | "invalid-encoding" => {
            "type or byte order are wrong: `millrace probe-value` finds those that show what the meter shows"
        }
        "timeout" => {
            "the unit is silent, or slow: is unit_id right, is it on, is the line wired and set as it should be? \
             `millrace scan` finds units and settings; a longer `timeout` waits for slow ones"
        }
        "invalid-reply" => {
            "what came was no answer: is the unit id used twice, is the line terminated?"
        }
        "device-failure" => {
            "the device is there and could not: busy, or a gateway without a unit behind it; check unit_id"
        }
        _ => return None,
    };
    Some(fix.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_comes_with_the_fix() {
        let mut trial = Trial {
            kind: "device",
            name: "boiler".into(),
            at: "10.0.0.5:502".into(),
            took_ms: 12.3,
            through: Some("line bus of the running agent".into()),
            ..Trial::default()
        };
        let tag = |name: &str, fault: Option<&str>| (name.to_owned(), fault.map(str::to_owned));
        let mut outcomes = vec![tag("good", None), tag("nan", Some("not-a-number"))];
        outcomes.extend((0..7).map(|n| tag(&format!("far-{n}"), Some("illegal-address"))));
        trial.take(outcomes);
        insta::assert_snapshot!(trial.text());
        let well = Trial {
            ok: true,
            problems: Vec::new(),
            through: None,
            tags_good: trial.tags,
            ..trial
        };
        assert_eq!(
            well.text(),
            "device boiler at 10.0.0.5:502: ok, 9 tags good, 12.3 ms\n"
        );
    }
}
