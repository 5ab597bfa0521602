//! The checker of Sparkplug sessions is checked: a flawless recording has no findings, and each requirement, violated
//! once, is found.

use std::collections::BTreeSet;

use millrace_tests::sparkplug::{REQUIREMENTS, Scene, check};
use serde_json::{Value, json};

const T: u64 = 1_763_690_000_000;

fn scene() -> Scene {
    Scene {
        group: "g".to_owned(),
        node: "n".to_owned(),
        host: Some("h".to_owned()),
    }
}

fn bd_seq(number: u64) -> Value {
    json!({"name": "bdSeq", "alias": null, "timestamp": T, "datatype": 4, "historical": false, "null": false,
        "kind": "long_value", "value": number, "quality": null})
}

fn born(name: &str, alias: u64, time: u64) -> Value {
    json!({"name": name, "alias": alias, "timestamp": time, "datatype": 8, "historical": false, "null": false,
        "kind": "long_value", "value": 1, "quality": null})
}

fn told(alias: u64, time: u64, value: u64) -> Value {
    json!({"name": null, "alias": alias, "timestamp": time, "datatype": null, "historical": false, "null": false,
        "kind": "long_value", "value": value, "quality": null})
}

fn control() -> Value {
    json!({"name": "Node Control/Rebirth", "alias": null, "timestamp": T, "datatype": 11, "historical": false,
        "null": false, "kind": "boolean_value", "value": false, "quality": null})
}

/// Writes a recording, a second to each line.
#[derive(Default)]
struct Tape {
    lines: Vec<Value>,
    connection: u64,
    bd_seq: u64,
    seq: u64,
}

impl Tape {
    fn line(&mut self, from: &str, packet: &str, more: Value) {
        let mut line = json!({"at": 1000 + self.lines.len(), "connection": self.connection, "from": from, "packet": packet});
        if let (Some(line), Value::Object(more)) = (line.as_object_mut(), more) {
            line.extend(more);
        }
        self.lines.push(line);
    }

    fn connect(&mut self, version: u64) {
        self.bd_seq = self.connection;
        self.connection += 1;
        let payload = json!({"timestamp": null, "seq": null, "metrics": [bd_seq(self.bd_seq)]});
        let will =
            json!({"topic": "spBv1.0/g/NDEATH/n", "qos": 1, "retain": false, "sparkplug": payload});
        self.line(
            "client",
            "CONNECT",
            json!({"version": version, "clean": true, "expiry": 0, "client": "gw", "will": will}),
        );
        self.line("broker", "CONNACK", json!({"code": 0}));
        let filters = [
            "spBv1.0/g/NCMD/n",
            "spBv1.0/g/DCMD/n/+",
            "spBv1.0/STATE/h",
            "STATE/h",
        ];
        let filters = filters.map(|filter| json!({"filter": filter, "qos": 1}));
        self.line("client", "SUBSCRIBE", json!({"filters": filters}));
    }

    fn state(&mut self, host: &str, online: bool, time: u64) {
        let text = json!({"online": online, "timestamp": time}).to_string();
        self.line("broker", "PUBLISH", json!({"topic": format!("spBv1.0/STATE/{host}"), "qos": 1, "retain": true, "text": text}));
    }

    fn publish(&mut self, kind: &str, device: &str, metrics: &[Value]) {
        self.seq = if kind == "NBIRTH" {
            0
        } else {
            (self.seq + 1) % 256
        };
        let device = if device.is_empty() {
            String::new()
        } else {
            format!("/{device}")
        };
        let topic = format!("spBv1.0/g/{kind}/n{device}");
        let payload = json!({"timestamp": T, "seq": self.seq, "metrics": metrics});
        self.line(
            "client",
            "PUBLISH",
            json!({"topic": topic, "qos": 0, "retain": false, "sparkplug": payload}),
        );
    }

    fn births(&mut self) {
        self.publish("NBIRTH", "", &[bd_seq(self.bd_seq), control()]);
        self.publish("DBIRTH", "d", &[born("a", 1, T), born("b", 2, T)]);
        self.publish("DBIRTH", "e", &[born("a", 3, T)]);
    }

    fn death(&mut self) {
        let payload = json!({"timestamp": null, "seq": null, "metrics": [bd_seq(self.bd_seq)]});
        self.line(
            "client",
            "PUBLISH",
            json!({"topic": "spBv1.0/g/NDEATH/n", "qos": 1, "retain": false, "sparkplug": payload}),
        );
    }

    fn mark(&mut self, mark: Value) {
        let at = 1000 + self.lines.len();
        self.lines.push(mark);
        if let Some(mark) = self.lines.last_mut() {
            mark["at"] = json!(at);
        }
    }

    /// Time passes.
    fn idle(&mut self) {
        for _ in 0..30 {
            self.line("broker", "SUBACK", json!({}));
        }
    }
}

/// Two sessions with all that may happen: the lines have names, so that tests can break them.
fn flawless() -> Vec<Value> {
    let mut tape = Tape::default();
    tape.connect(4);
    tape.state("h", true, T);
    tape.births();
    tape.publish("DDATA", "d", &[told(1, T + 10, 2), told(2, T + 11, 3)]);
    let mut old = told(1, T - 500, 9);
    old["historical"] = json!(true);
    let mut bad = told(2, T + 20, 0);
    (bad["kind"], bad["value"], bad["null"], bad["quality"]) =
        (Value::Null, Value::Null, json!(true), json!(0));
    tape.publish("DDATA", "d", &[old, bad]);
    // A host asks for births.
    let ask = json!({"metrics": [{"name": "Node Control/Rebirth", "value": true}]});
    tape.line(
        "broker",
        "PUBLISH",
        json!({"topic": "spBv1.0/g/NCMD/n", "qos": 1, "retain": false, "sparkplug": ask}),
    );
    tape.births();
    tape.publish("DDATA", "e", &[told(3, T + 30, 4)]);
    tape.mark(json!({"mark": "written", "device": "d", "metric": "a", "value": 7}));
    tape.publish("DDATA", "d", &[told(1, T + 40, 7)]);
    tape.mark(json!({"mark": "lost", "device": "e"}));
    tape.publish("DDEATH", "e", &[]);
    tape.mark(json!({"mark": "back", "device": "e"}));
    tape.publish("DBIRTH", "e", &[born("a", 3, T + 50)]);
    tape.publish("DDATA", "e", &[told(3, T + 60, 5)]);
    // What is older than the newest word of the host means nothing.
    tape.state("h", false, T - 1);
    tape.idle();
    tape.publish("DDATA", "d", &[told(1, T + 70, 8)]);
    tape.state("h", false, T + 80);
    tape.death();
    tape.line("client", "DISCONNECT", json!({"code": 0}));
    tape.line("client", "END", json!({}));
    tape.connect(5);
    tape.state("other", true, T);
    tape.state("h", true, T + 90);
    tape.births();
    tape.idle();
    tape.publish("DDATA", "d", &[told(1, T + 100, 9)]);
    tape.death();
    tape.line("client", "DISCONNECT", json!({"code": 4}));
    tape.line("client", "END", json!({}));
    tape.lines
}

/// The n-th publication of this kind.
fn nth(lines: &[Value], kind: &str, n: usize) -> usize {
    let topic = format!("/{kind}/");
    let mut found = lines.iter().enumerate().filter(|(_, line)| {
        line["packet"] == "PUBLISH" && line["topic"].as_str().is_some_and(|of| of.contains(&topic))
    });
    found.nth(n).expect(kind).0
}

fn packet(lines: &[Value], name: &str) -> usize {
    lines
        .iter()
        .position(|line| line["packet"] == name)
        .expect(name)
}

fn last(lines: &[Value], name: &str) -> usize {
    lines
        .iter()
        .rposition(|line| line["packet"] == name)
        .expect(name)
}

type Break = fn(&mut Vec<Value>);

fn metric<'l>(lines: &'l mut [Value], kind: &str, n: usize) -> &'l mut Value {
    let at = nth(lines, kind, n);
    &mut lines[at]["sparkplug"]["metrics"][0]
}

fn will(lines: &mut [Value]) -> &mut Value {
    let at = packet(lines, "CONNECT");
    &mut lines[at]["will"]
}

/// How each requirement is broken.
const BROKEN: &[(&str, Break)] = &[
    ("topic-structure", |lines| {
        rename(lines, "DDATA", "spBv1.0/g/DDATA/n/d/x")
    }),
    ("topic-structure-namespace-a", |lines| {
        rename(lines, "DDATA", "millrace/g/DDATA/n/d")
    }),
    ("topic-structure-namespace-valid-group-id", |lines| {
        rename(lines, "DDATA", "spBv1.0/x/DDATA/n/d")
    }),
    ("topic-structure-namespace-valid-edge-node-id", |lines| {
        rename(lines, "DDATA", "spBv1.0/g/DDATA/x/d")
    }),
    (
        "topic-structure-namespace-device-id-associated-message-types",
        |lines| rename(lines, "DDATA", "spBv1.0/g/DDATA/n"),
    ),
    (
        "topic-structure-namespace-device-id-non-associated-message-types",
        |lines| rename(lines, "NBIRTH", "spBv1.0/g/NBIRTH/n/d"),
    ),
    ("case-sensitivity-sparkplug-ids", |lines| {
        let at = nth(lines, "DBIRTH", 1);
        lines[at]["topic"] = json!("spBv1.0/g/DBIRTH/n/D");
    }),
    ("case-sensitivity-metric-names", |lines| {
        let at = nth(lines, "DBIRTH", 0);
        lines[at]["sparkplug"]["metrics"][1]["name"] = json!("A");
    }),
    ("principles-persistence-clean-session-311", |lines| {
        let at = packet(lines, "CONNECT");
        lines[at]["clean"] = json!(false);
    }),
    ("principles-persistence-clean-session-50", |lines| {
        let at = last(lines, "CONNECT");
        lines[at]["expiry"] = json!(60);
    }),
    (
        "message-flow-edge-node-birth-publish-will-message",
        |lines| *will(lines) = Value::Null,
    ),
    (
        "message-flow-edge-node-birth-publish-will-message-topic",
        |lines| will(lines)["topic"] = json!("spBv1.0/g/NDEATH/m"),
    ),
    (
        "message-flow-edge-node-birth-publish-will-message-payload",
        |lines| will(lines)["sparkplug"] = Value::Null,
    ),
    (
        "message-flow-edge-node-birth-publish-will-message-payload-bdSeq",
        |lines| {
            will(lines)["sparkplug"]["metrics"][0]["datatype"] = json!(8);
        },
    ),
    (
        "message-flow-edge-node-birth-publish-will-message-qos",
        |lines| will(lines)["qos"] = json!(0),
    ),
    (
        "message-flow-edge-node-birth-publish-will-message-will-retained",
        |lines| will(lines)["retain"] = json!(true),
    ),
    ("topics-ndeath-payload", |lines| {
        if let Some(metrics) = will(lines)["sparkplug"]["metrics"].as_array_mut() {
            metrics.push(control());
        }
    }),
    ("topics-ndeath-seq", |lines| {
        will(lines)["sparkplug"]["seq"] = json!(0)
    }),
    ("topics-nbirth-bdseq-increment", |lines| {
        let at = last(lines, "CONNECT");
        lines[at]["will"]["sparkplug"]["metrics"][0]["value"] = json!(2);
    }),
    ("topics-nbirth-bdseq-matching", |lines| {
        metric(lines, "NBIRTH", 0)["value"] = json!(3)
    }),
    ("message-flow-edge-node-ncmd-subscribe", |lines| {
        let at = packet(lines, "SUBSCRIBE");
        lines[at]["filters"][0]["qos"] = json!(0);
    }),
    ("message-flow-device-dcmd-subscribe", |lines| {
        let at = packet(lines, "SUBSCRIBE");
        lines[at]["filters"][1]["filter"] = json!("spBv1.0/g/DCMD/n/other");
    }),
    ("principles-birth-certificates-order", |lines| {
        let at = nth(lines, "NBIRTH", 0);
        lines.swap(at, at + 3);
    }),
    ("message-flow-device-birth-publish-nbirth-wait", |lines| {
        let at = nth(lines, "NBIRTH", 0);
        lines.swap(at, at + 1);
    }),
    ("payloads-dbirth-order", |lines| {
        let (birth, data) = (nth(lines, "DBIRTH", 0), nth(lines, "DDATA", 0));
        let mut again = lines[birth].clone();
        again["sparkplug"]["seq"] = json!(4);
        lines.insert(data + 1, again);
    }),
    ("payloads-ddata-order", |lines| {
        let at = nth(lines, "DBIRTH", 1);
        lines.swap(at, at + 1);
        rename_at(lines, at, "spBv1.0/g/DDATA/n/e");
    }),
    ("payloads-nbirth-qos", |lines| {
        set(lines, "NBIRTH", "qos", json!(1))
    }),
    ("payloads-nbirth-retain", |lines| {
        set(lines, "NBIRTH", "retain", json!(true))
    }),
    ("payloads-nbirth-timestamp", |lines| {
        set_in(lines, "NBIRTH", "timestamp", Value::Null)
    }),
    ("payloads-nbirth-bdseq", |lines| {
        metric(lines, "NBIRTH", 0)["name"] = json!("other")
    }),
    ("payloads-nbirth-rebirth-req", |lines| {
        let at = nth(lines, "NBIRTH", 0);
        lines[at]["sparkplug"]["metrics"][1]["value"] = json!(true);
    }),
    ("payloads-dbirth-qos", |lines| {
        set(lines, "DBIRTH", "qos", json!(1))
    }),
    ("payloads-dbirth-retain", |lines| {
        set(lines, "DBIRTH", "retain", json!(true))
    }),
    ("payloads-dbirth-timestamp", |lines| {
        set_in(lines, "DBIRTH", "timestamp", Value::Null)
    }),
    ("payloads-ddata-qos", |lines| {
        set(lines, "DDATA", "qos", json!(1))
    }),
    ("payloads-ddata-retain", |lines| {
        set(lines, "DDATA", "retain", json!(true))
    }),
    ("payloads-ddata-timestamp", |lines| {
        set_in(lines, "DDATA", "timestamp", Value::Null)
    }),
    ("payloads-ddeath-qos", |lines| {
        set(lines, "DDEATH", "qos", json!(1))
    }),
    ("payloads-ddeath-retain", |lines| {
        set(lines, "DDEATH", "retain", json!(true))
    }),
    ("payloads-ddeath-timestamp", |lines| {
        set_in(lines, "DDEATH", "timestamp", Value::Null)
    }),
    ("payloads-timestamp-in-UTC", |lines| {
        set_in(lines, "DDATA", "timestamp", json!(12_345))
    }),
    ("payloads-sequence-num-always-included", |lines| {
        set_in(lines, "DDEATH", "seq", Value::Null)
    }),
    ("payloads-sequence-num-req-nbirth", |lines| {
        set_in(lines, "NBIRTH", "seq", json!(1))
    }),
    ("payloads-sequence-num-incrementing", |lines| {
        set_in(lines, "DDATA", "seq", json!(9))
    }),
    ("topics-nbirth-metric-reqs", |lines| {
        let at = nth(lines, "NBIRTH", 0);
        lines[at]["sparkplug"]["metrics"][1]["datatype"] = Value::Null;
    }),
    ("topics-dbirth-metric-reqs", |lines| {
        metric(lines, "DBIRTH", 0)["datatype"] = Value::Null
    }),
    ("operational-behavior-data-publish-dbirth-values", |lines| {
        metric(lines, "DBIRTH", 0)["null"] = json!(true)
    }),
    ("operational-behavior-data-publish-dbirth-order", |lines| {
        metric(lines, "DDATA", 0)["timestamp"] = json!(T + 12)
    }),
    ("payloads-alias-uniqueness", |lines| {
        metric(lines, "DBIRTH", 1)["alias"] = json!(2)
    }),
    ("payloads-alias-birth-requirement", |lines| {
        metric(lines, "DBIRTH", 0)["alias"] = Value::Null
    }),
    ("payloads-alias-data-cmd-requirement", |lines| {
        metric(lines, "DDATA", 0)["alias"] = json!(77)
    }),
    ("payloads-name-requirement", |lines| {
        metric(lines, "DBIRTH", 0)["name"] = Value::Null
    }),
    ("payloads-name-birth-data-requirement", |lines| {
        metric(lines, "DDATA", 0)["timestamp"] = Value::Null
    }),
    ("payloads-metric-datatype-not-req", |lines| {
        metric(lines, "DDATA", 0)["datatype"] = json!(8)
    }),
    ("payloads-propertyset-quality-value-value", |lines| {
        metric(lines, "DDATA", 0)["quality"] = json!(7)
    }),
    (
        "operational-behavior-data-commands-rebirth-name-aliases",
        |lines| {
            let at = nth(lines, "NBIRTH", 0);
            lines[at]["sparkplug"]["metrics"][1]["alias"] = json!(50);
        },
    ),
    (
        "operational-behavior-data-commands-rebirth-action-1",
        |lines| {
            // It is asked for, and data go on for half a minute.
            let at = nth(lines, "NBIRTH", 1);
            for line in &mut lines[at..] {
                line["at"] = json!(line["at"].as_f64().unwrap_or_default() + 100.0);
            }
            let mut data = lines[nth(lines, "DDATA", 0)].clone();
            data["at"] = json!(lines[at]["at"].as_f64().unwrap_or_default() - 1.0);
            data["sparkplug"]["seq"] = json!(5);
            data["sparkplug"]["metrics"] = json!([]);
            lines.insert(at, data);
        },
    ),
    (
        "operational-behavior-data-commands-rebirth-action-2",
        |lines| {
            let at = nth(lines, "DBIRTH", 2);
            lines.remove(at);
        },
    ),
    (
        "operational-behavior-data-commands-rebirth-action-3",
        |lines| metric(lines, "NBIRTH", 1)["value"] = json!(1),
    ),
    (
        "operational-behavior-data-commands-dcmd-metric-value",
        |lines| metric(lines, "DDATA", 3)["value"] = json!(6),
    ),
    ("operational-behavior-device-ddeath", |lines| {
        let at = nth(lines, "DDEATH", 0);
        lines.remove(at);
    }),
    ("message-flow-device-birth-publish-dbirth-topic", |lines| {
        let at = nth(lines, "DBIRTH", 4);
        lines.truncate(at);
    }),
    (
        "operational-behavior-edge-node-intentional-disconnect-ndeath",
        |lines| {
            let at = nth(lines, "NDEATH", 1);
            lines.remove(at);
        },
    ),
    (
        "payloads-ndeath-will-message-publisher-disconnect-mqtt311",
        |lines| {
            let at = nth(lines, "NDEATH", 0);
            lines.remove(at);
        },
    ),
    (
        "payloads-ndeath-will-message-publisher-disconnect-mqtt50",
        |lines| {
            let at = last(lines, "DISCONNECT");
            lines[at]["code"] = json!(0);
        },
    ),
    ("message-flow-edge-node-birth-publish-phid-wait", |lines| {
        let at = nth(lines, "STATE", 0);
        lines.remove(at);
    }),
    (
        "message-flow-edge-node-birth-publish-phid-wait-id",
        |lines| {
            let at = nth(lines, "STATE", 4);
            lines.remove(at);
        },
    ),
    (
        "message-flow-edge-node-birth-publish-phid-wait-online",
        |lines| {
            let at = nth(lines, "STATE", 0);
            lines[at]["text"] = json!(format!("{{\"online\":false,\"timestamp\":{T}}}"));
        },
    ),
    (
        "message-flow-edge-node-birth-publish-phid-wait-timestamp",
        |lines| {
            let at = nth(lines, "STATE", 0);
            let mut newer = lines[at].clone();
            newer["text"] = json!(format!("{{\"online\":false,\"timestamp\":{}}}", T + 1));
            lines.insert(at, newer);
        },
    ),
    (
        "operational-behavior-edge-node-termination-host-offline",
        |lines| {
            // It hears that its host is offline, and does not care.
            let at = nth(lines, "STATE", 1);
            lines[at]["text"] = json!(format!("{{\"online\":false,\"timestamp\":{T}}}"));
        },
    ),
    (
        "operational-behavior-edge-node-termination-host-offline-reconnect",
        |lines| {
            let at = packet(lines, "END");
            lines.truncate(at + 1);
            lines.push(
                json!({"mark": "written", "at": 1e9, "device": "d", "metric": "a", "value": 7}),
            );
        },
    ),
    (
        "operational-behavior-edge-node-termination-host-offline-timestamp",
        |lines| {
            // What is too old to mean anything makes it leave.
            let at = nth(lines, "STATE", 2);
            lines[at]["text"] = json!(format!("{{\"online\":false,\"timestamp\":{}}}", T - 2));
        },
    ),
    ("data-backwards", |lines| {
        metric(lines, "DDATA", 5)["timestamp"] = json!(T + 1)
    }),
];

fn set(lines: &mut [Value], kind: &str, key: &str, value: Value) {
    let at = nth(lines, kind, 0);
    lines[at][key] = value;
}

fn set_in(lines: &mut [Value], kind: &str, key: &str, value: Value) {
    let at = nth(lines, kind, 0);
    lines[at]["sparkplug"][key] = value;
}

fn rename(lines: &mut [Value], kind: &str, topic: &str) {
    let at = nth(lines, kind, 0);
    rename_at(lines, at, topic);
}

fn rename_at(lines: &mut [Value], at: usize, topic: &str) {
    lines[at]["topic"] = json!(topic);
}

#[test]
fn a_flawless_recording_has_no_findings() {
    assert_eq!(check(&scene(), &flawless()), []);
}

#[test]
fn each_requirement_that_is_violated_once_is_found() {
    let broken: BTreeSet<&str> = BROKEN.iter().map(|(id, _)| *id).collect();
    let known: BTreeSet<&str> = REQUIREMENTS.iter().copied().collect();
    assert_eq!(broken, known, "each requirement has its violation");
    for (id, violate) in BROKEN {
        let mut lines = flawless();
        violate(&mut lines);
        let findings = check(&scene(), &lines);
        assert!(
            findings.iter().any(|finding| finding.id == *id),
            "{id} is not found: {findings:#?}"
        );
    }
}
