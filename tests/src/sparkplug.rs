//! A checker of recorded Sparkplug sessions, by the requirements of the specification 3.0 under their own ids (`tck-id-…`,
//! written here without that prefix).
//!
//! A recording is what `peers/mqtt_tap.py` wrote between one edge node and its broker, in order and with the packets of both
//! sides, from the node's very first connection on; its payloads were decoded by protobuf classes that Millrace had no part
//! in. Marks of the test stand between the packets: `{"mark":"lost","device":…}`, `{"mark":"back","device":…}`,
//! `{"mark":"written","device":…,"metric":…,"value":…}`.
//!
//! What no recording shows is not here: that ids are unique in a plant, that metrics were not left out of a birth for ever.
//! Templates and NDATA are not used by Millrace; NDATA would be checked as DDATA is.

mod payload;
mod session;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use session::Session;

/// What the node is configured to be.
#[derive(Debug, Clone)]
pub struct Scene {
    /// The group id.
    pub group: String,
    /// The edge node id.
    pub node: String,
    /// The primary host that births wait for.
    pub host: Option<String>,
}

/// A requirement that is not met.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The id of the requirement, without `tck-id-`.
    pub id: String,
    /// What was seen instead.
    pub what: String,
}

/// Every requirement that is looked at. `data-backwards` is our own: a value that counts as live is never older than
/// the one before it.
pub const REQUIREMENTS: &[&str] = &[
    "topic-structure",
    "topic-structure-namespace-a",
    "topic-structure-namespace-valid-group-id",
    "topic-structure-namespace-valid-edge-node-id",
    "topic-structure-namespace-device-id-associated-message-types",
    "topic-structure-namespace-device-id-non-associated-message-types",
    "case-sensitivity-sparkplug-ids",
    "case-sensitivity-metric-names",
    "principles-persistence-clean-session-311",
    "principles-persistence-clean-session-50",
    "message-flow-edge-node-birth-publish-will-message",
    "message-flow-edge-node-birth-publish-will-message-topic",
    "message-flow-edge-node-birth-publish-will-message-payload",
    "message-flow-edge-node-birth-publish-will-message-payload-bdSeq",
    "message-flow-edge-node-birth-publish-will-message-qos",
    "message-flow-edge-node-birth-publish-will-message-will-retained",
    "topics-ndeath-payload",
    "topics-ndeath-seq",
    "topics-nbirth-bdseq-increment",
    "topics-nbirth-bdseq-matching",
    "message-flow-edge-node-ncmd-subscribe",
    "message-flow-device-dcmd-subscribe",
    "principles-birth-certificates-order",
    "message-flow-device-birth-publish-nbirth-wait",
    "payloads-dbirth-order",
    "payloads-ddata-order",
    "payloads-nbirth-qos",
    "payloads-nbirth-retain",
    "payloads-nbirth-timestamp",
    "payloads-nbirth-bdseq",
    "payloads-nbirth-rebirth-req",
    "payloads-dbirth-qos",
    "payloads-dbirth-retain",
    "payloads-dbirth-timestamp",
    "payloads-ddata-qos",
    "payloads-ddata-retain",
    "payloads-ddata-timestamp",
    "payloads-ddeath-qos",
    "payloads-ddeath-retain",
    "payloads-ddeath-timestamp",
    "payloads-timestamp-in-UTC",
    "payloads-sequence-num-always-included",
    "payloads-sequence-num-req-nbirth",
    "payloads-sequence-num-incrementing",
    "topics-nbirth-metric-reqs",
    "topics-dbirth-metric-reqs",
    "operational-behavior-data-publish-dbirth-values",
    "operational-behavior-data-publish-dbirth-order",
    "payloads-alias-uniqueness",
    "payloads-alias-birth-requirement",
    "payloads-alias-data-cmd-requirement",
    "payloads-name-requirement",
    "payloads-name-birth-data-requirement",
    "payloads-metric-datatype-not-req",
    "payloads-propertyset-quality-value-value",
    "operational-behavior-data-commands-rebirth-name-aliases",
    "operational-behavior-data-commands-rebirth-action-1",
    "operational-behavior-data-commands-rebirth-action-2",
    "operational-behavior-data-commands-rebirth-action-3",
    "operational-behavior-data-commands-dcmd-metric-value",
    "operational-behavior-device-ddeath",
    "message-flow-device-birth-publish-dbirth-topic",
    "operational-behavior-edge-node-intentional-disconnect-ndeath",
    "payloads-ndeath-will-message-publisher-disconnect-mqtt311",
    "payloads-ndeath-will-message-publisher-disconnect-mqtt50",
    "message-flow-edge-node-birth-publish-phid-wait",
    "message-flow-edge-node-birth-publish-phid-wait-id",
    "message-flow-edge-node-birth-publish-phid-wait-online",
    "message-flow-edge-node-birth-publish-phid-wait-timestamp",
    "operational-behavior-edge-node-termination-host-offline",
    "operational-behavior-edge-node-termination-host-offline-reconnect",
    "operational-behavior-edge-node-termination-host-offline-timestamp",
    "data-backwards",
];

/// How long a node may take to heed what it was sent: far more than a loaded machine needs.
const GRACE_S: f64 = 20.0;

/// Reads a recording.
///
/// # Errors
/// When a line is no JSON. A last line that was cut off by a kill is left out.
pub fn read(log: &Path) -> Result<Vec<Value>> {
    let text = std::fs::read_to_string(log).with_context(|| log.display().to_string())?;
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| line.to_owned()))
        .collect()
}

/// What a recording violates, in order.
pub fn check(scene: &Scene, records: &[Value]) -> Vec<Finding> {
    let mut checker = Checker {
        scene,
        findings: Vec::new(),
        bd_seq: None,
        sessions: BTreeMap::new(),
        owed: Vec::new(),
        now: 0.0,
        left_at: None,
    };
    for record in records {
        checker.now = record["at"].as_f64().unwrap_or(checker.now);
        match record["mark"].as_str() {
            Some(mark) => checker.mark(mark, record),
            None => checker.packet(record),
        }
    }
    checker.end();
    checker.findings
}

/// Something that has to be told, as a mark says.
struct Owed {
    id: &'static str,
    what: String,
    told: Box<dyn Fn(&Told<'_>) -> bool>,
}

/// A message that the node published.
struct Told<'a> {
    kind: &'a str,
    device: &'a str,
    /// Names and metrics.
    metrics: &'a [(String, Value)],
}

struct Checker<'s> {
    scene: &'s Scene,
    findings: Vec<Finding>,
    /// Of the last CONNECT.
    bd_seq: Option<u64>,
    sessions: BTreeMap<u64, Session>,
    owed: Vec<Owed>,
    now: f64,
    /// When the node left because its host was offline, until it is back.
    left_at: Option<f64>,
}

impl Checker<'_> {
    fn find(&mut self, id: &str, what: impl Into<String>) {
        debug_assert!(REQUIREMENTS.contains(&id), "{id}");
        self.findings.push(Finding {
            id: id.to_owned(),
            what: what.into(),
        });
    }

    /// Finds a violation where `holds` is false.
    fn expect(&mut self, holds: bool, id: &str, what: impl FnOnce() -> String) {
        if !holds {
            self.find(id, what());
        }
    }

    fn mark(&mut self, mark: &str, record: &Value) {
        let text = |key: &str| record[key].as_str().unwrap_or_default().to_owned();
        let device = text("device");
        let owed = match mark {
            "lost" => Owed {
                id: "operational-behavior-device-ddeath",
                what: format!("no DDEATH of {device} after it was lost"),
                told: Box::new(move |told| told.kind == "DDEATH" && told.device == device),
            },
            "back" => {
                // It had until now to say that it was lost.
                self.settle_owed(|owed| owed.id == "operational-behavior-device-ddeath");
                Owed {
                    id: "message-flow-device-birth-publish-dbirth-topic",
                    what: format!("no DBIRTH of {device} after it came back"),
                    told: Box::new(move |told| told.kind == "DBIRTH" && told.device == device),
                }
            }
            _ => {
                let (metric, value) = (text("metric"), record["value"].clone());
                Owed {
                    id: "operational-behavior-data-commands-dcmd-metric-value",
                    what: format!("{device}/{metric} = {value} was written and is not told"),
                    told: Box::new(move |told| {
                        let mut metrics = told.metrics.iter();
                        let live = |of: &Value| of["value"] == value && of["historical"] == false;
                        told.kind == "DDATA"
                            && told.device == device
                            && metrics.any(|(name, of)| *name == metric && live(of))
                    }),
                }
            }
        };
        self.owed.push(owed);
    }

    fn settle_owed(&mut self, which: impl Fn(&Owed) -> bool) {
        for owed in std::mem::take(&mut self.owed) {
            match which(&owed) {
                true => self.find(owed.id, owed.what),
                false => self.owed.push(owed),
            }
        }
    }

    fn told(&mut self, told: &Told<'_>) {
        self.owed.retain(|owed| !(owed.told)(told));
    }

    fn packet(&mut self, record: &Value) {
        let number = record["connection"].as_u64().unwrap_or_default();
        let mut session = self.sessions.remove(&number).unwrap_or_default();
        let from_client = record["from"] == "client";
        session.seen = self.now;
        if from_client && record["packet"] == "CONNECT" {
            // A wire that was cut tells no end of what was on it: that was the end.
            for session in std::mem::take(&mut self.sessions).into_values() {
                self.ended(&session, session.seen);
            }
        }
        match (from_client, record["packet"].as_str().unwrap_or_default()) {
            (true, "CONNECT") => self.connect(&mut session, record),
            (true, "SUBSCRIBE") => session.subscribed(record),
            (true, "PUBLISH") => self.published(&mut session, record),
            (true, "DISCONNECT") => self.disconnected(&mut session, record),
            (false, "PUBLISH") => self.received(&mut session, record),
            (_, "END") => {
                self.ended(&session, self.now);
                return;
            }
            _ => {}
        }
        self.sessions.insert(number, session);
    }

    fn end(&mut self) {
        for session in std::mem::take(&mut self.sessions).into_values() {
            self.ended(&session, self.now);
        }
        self.settle_owed(|_| true);
        let left = self.left_at.is_some_and(|at| self.now - at > GRACE_S);
        self.expect(
            !left,
            "operational-behavior-edge-node-termination-host-offline-reconnect",
            || "the node does not come back after its host went offline".to_owned(),
        );
    }
}
