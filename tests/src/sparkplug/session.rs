//! What MQTT shows of a session: will, subscriptions, order, goodbye, the primary host.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{Checker, GRACE_S, Told};

/// One connection.
#[derive(Default)]
pub(super) struct Session {
    /// When its last packet passed.
    pub(super) seen: f64,
    version: u64,
    bd_seq: Option<u64>,
    subscribed: Vec<(String, u64)>,
    /// The node has sent NBIRTH.
    pub(super) born: bool,
    /// The number that comes next.
    pub(super) next_seq: Option<u64>,
    /// Devices and what they were born with.
    pub(super) devices: BTreeMap<String, Born>,
    /// Devices of before a rebirth that are not born again yet.
    pub(super) unborn: BTreeSet<String>,
    dead: bool,
    rebirth_asked: Option<f64>,
    host: Host,
}

/// A device as its last DBIRTH made it.
#[derive(Default)]
pub(super) struct Born {
    pub(super) alive: bool,
    pub(super) names: BTreeMap<u64, String>,
    /// Of each name, the time of the newest value that was not historical.
    pub(super) newest: BTreeMap<String, u64>,
}

/// What the node was told of its primary host.
#[derive(Default)]
struct Host {
    online: bool,
    newest: Option<u64>,
    /// A STATE message of another host said online.
    other: bool,
    /// The last message of the host was valid, and said offline.
    said_offline: bool,
    /// A message of the host was older than another one.
    stale: bool,
    /// When it went offline.
    offline_at: Option<f64>,
    /// When it was said offline by a message that is too old to mean anything.
    stale_offline_at: Option<f64>,
}

impl Session {
    pub(super) fn subscribed(&mut self, record: &Value) {
        for filter in record["filters"].as_array().into_iter().flatten() {
            let text = filter["filter"].as_str().unwrap_or_default();
            let qos = filter["qos"].as_u64().unwrap_or_default();
            self.subscribed.push((text.to_owned(), qos));
        }
    }

    fn subscribes(&self, topic: &str) -> bool {
        let matches = |filter: &str| {
            let (filter, topic) = (filter.split('/'), topic.split('/'));
            filter.clone().count() == topic.clone().count()
                && filter
                    .zip(topic)
                    .all(|(one, other)| one == "+" || one == other)
        };
        let mut subscribed = self.subscribed.iter();
        subscribed.any(|(filter, qos)| *qos == 1 && matches(filter))
    }
}

/// A topic of the namespace: group, kind, node, device.
fn parts(topic: &str) -> Option<(&str, &str, &str, Option<&str>)> {
    let mut levels = topic.strip_prefix("spBv1.0/")?.split('/');
    let (group, kind, node) = (levels.next()?, levels.next()?, levels.next()?);
    let device = levels.next();
    levels
        .next()
        .is_none()
        .then_some((group, kind, node, device))
}

impl Checker<'_> {
    fn topic(&self, kind: &str) -> String {
        format!("spBv1.0/{}/{kind}/{}", self.scene.group, self.scene.node)
    }

    pub(super) fn connect(&mut self, session: &mut Session, record: &Value) {
        session.version = record["version"].as_u64().unwrap_or_default();
        self.left_at = None;
        let clean = record["clean"] == true;
        match session.version {
            5 => self.expect(
                clean && record["expiry"] == 0,
                "principles-persistence-clean-session-50",
                || "clean start without session expiry is expected".to_owned(),
            ),
            _ => self.expect(clean, "principles-persistence-clean-session-311", || {
                "a clean session is expected".to_owned()
            }),
        }
        const WILL: &str = "message-flow-edge-node-birth-publish-will-message";
        let will = &record["will"];
        if will.is_null() {
            return self.find(WILL, "there is none");
        }
        let topic = self.topic("NDEATH");
        self.expect(will["topic"] == *topic, &format!("{WILL}-topic"), || {
            will["topic"].to_string()
        });
        self.expect(will["qos"] == 1, &format!("{WILL}-qos"), || {
            will["qos"].to_string()
        });
        self.expect(
            will["retain"] == false,
            &format!("{WILL}-will-retained"),
            || "it is retained".to_owned(),
        );
        if will["sparkplug"].is_null() {
            return self.find(&format!("{WILL}-payload"), "it is no Sparkplug payload");
        }
        session.bd_seq = self.death(&will["sparkplug"]);
        let Some(bd_seq) = session.bd_seq else {
            return self.find(
                &format!("{WILL}-payload-bdSeq"),
                "it has no bdSeq of type Int64",
            );
        };
        let expected = self.bd_seq.map_or(0, |last| (last + 1) % 256);
        self.bd_seq = Some(bd_seq);
        self.expect(bd_seq == expected, "topics-nbirth-bdseq-increment", || {
            format!("bdSeq {bd_seq} where {expected} was next")
        });
    }

    /// Checks an NDEATH; its bdSeq.
    fn death(&mut self, payload: &Value) -> Option<u64> {
        self.expect(payload["seq"].is_null(), "topics-ndeath-seq", || {
            payload["seq"].to_string()
        });
        let metrics = payload["metrics"].as_array().map_or(&[][..], Vec::as_slice);
        self.expect(metrics.len() == 1, "topics-ndeath-payload", || {
            format!("{} metrics beside bdSeq", metrics.len() - 1)
        });
        super::payload::bd_seq(metrics)
    }

    pub(super) fn published(&mut self, session: &mut Session, record: &Value) {
        let topic = record["topic"].as_str().unwrap_or_default();
        if !topic.starts_with("spBv1.0/") {
            return self.find("topic-structure-namespace-a", topic);
        }
        let Some((group, kind, node, device)) = parts(topic) else {
            return self.find("topic-structure", topic);
        };
        self.expect(
            group == self.scene.group,
            "topic-structure-namespace-valid-group-id",
            || topic.to_owned(),
        );
        self.expect(
            node == self.scene.node,
            "topic-structure-namespace-valid-edge-node-id",
            || topic.to_owned(),
        );
        match (kind, device) {
            ("DBIRTH" | "DDATA" | "DDEATH", None) => {
                return self.find(
                    "topic-structure-namespace-device-id-associated-message-types",
                    topic,
                );
            }
            ("NBIRTH" | "NDATA" | "NDEATH", Some(_)) => {
                return self.find(
                    "topic-structure-namespace-device-id-non-associated-message-types",
                    topic,
                );
            }
            ("DBIRTH" | "DDATA" | "DDEATH" | "NBIRTH" | "NDATA" | "NDEATH", _) => {}
            _ => return self.find("topic-structure", topic),
        }
        let payload = &record["sparkplug"];
        if kind == "NDEATH" {
            let bd_seq = self.death(payload);
            self.expect(
                bd_seq == session.bd_seq,
                "topics-nbirth-bdseq-matching",
                || format!("NDEATH has bdSeq {bd_seq:?}, the will {:?}", session.bd_seq),
            );
            session.dead = true;
            return;
        }
        self.expect(
            !session.dead,
            "operational-behavior-edge-node-intentional-disconnect-ndeath",
            || format!("{topic} after NDEATH"),
        );
        let lower = kind.to_lowercase();
        self.expect(record["qos"] == 0, &format!("payloads-{lower}-qos"), || {
            record["qos"].to_string()
        });
        self.expect(
            record["retain"] == false,
            &format!("payloads-{lower}-retain"),
            || topic.to_owned(),
        );
        self.waited(session, kind);
        self.numbered(session, kind, payload);
        let device = device.unwrap_or_default();
        let metrics = match kind {
            "NBIRTH" => {
                self.node_born(session, payload);
                Vec::new()
            }
            "DBIRTH" => self.device_born(session, device, payload),
            "DDEATH" => {
                let born = session.devices.entry(device.to_owned()).or_default();
                born.alive = false;
                session.unborn.remove(device);
                Vec::new()
            }
            _ => self.data(session, device, payload),
        };
        self.told(&Told {
            kind,
            device,
            metrics: &metrics,
        });
    }

    /// What has to have happened before anything is published.
    fn waited(&mut self, session: &Session, kind: &str) {
        if kind != "NBIRTH" {
            self.expect(session.born, "principles-birth-certificates-order", || {
                format!("{kind} before NBIRTH")
            });
        }
        let now = self.now;
        let late = |since: Option<f64>| since.is_some_and(|at| now - at > GRACE_S);
        if kind == "DDATA" && late(session.rebirth_asked) {
            self.find(
                "operational-behavior-data-commands-rebirth-action-1",
                "data go on after a host has asked for births",
            );
        }
        if late(session.host.offline_at) {
            self.find(
                "operational-behavior-edge-node-termination-host-offline",
                format!("{kind} although the primary host is offline"),
            );
        }
    }

    fn node_born(&mut self, session: &mut Session, payload: &Value) {
        let command = self.topic("NCMD");
        self.expect(
            session.subscribes(&command),
            "message-flow-edge-node-ncmd-subscribe",
            || format!("NBIRTH before a subscription of {command} at QoS 1"),
        );
        if self.scene.host.is_some() && !session.host.online {
            const WAIT: &str = "message-flow-edge-node-birth-publish-phid-wait";
            let id = match &session.host {
                host if host.stale => format!("{WAIT}-timestamp"),
                host if host.said_offline => format!("{WAIT}-online"),
                host if host.other => format!("{WAIT}-id"),
                _ => WAIT.to_owned(),
            };
            self.find(&id, "NBIRTH before the primary host is online");
        }
        let bd_seq = self.node_metrics(payload);
        let id = match session.born {
            true => "operational-behavior-data-commands-rebirth-action-3",
            false => "topics-nbirth-bdseq-matching",
        };
        self.expect(bd_seq == session.bd_seq, id, || {
            format!("NBIRTH has bdSeq {bd_seq:?}, the will {:?}", session.bd_seq)
        });
        let alive = session.devices.iter().filter(|(_, born)| born.alive);
        session.unborn = match session.rebirth_asked.take() {
            Some(_) => alive.map(|(name, _)| name.clone()).collect(),
            None => BTreeSet::new(),
        };
        session.devices.clear();
        session.born = true;
    }

    pub(super) fn commands_subscribed(&mut self, session: &Session, device: &str) {
        let command = format!("{}/{device}", self.topic("DCMD"));
        self.expect(
            session.subscribes(&command),
            "message-flow-device-dcmd-subscribe",
            || format!("DBIRTH before a subscription of {command} at QoS 1"),
        );
    }

    pub(super) fn received(&mut self, session: &mut Session, record: &Value) {
        let topic = record["topic"].as_str().unwrap_or_default();
        if topic == self.topic("NCMD") && record["retain"] == false {
            if super::payload::asks_for_births(&record["sparkplug"]) {
                session.rebirth_asked.get_or_insert(self.now);
            }
            return;
        }
        let Some(id) = &self.scene.host else { return };
        let text = record["text"].as_str().unwrap_or_default();
        let host = &mut session.host;
        let online = if topic == format!("spBv1.0/STATE/{id}") {
            let state: Value = serde_json::from_str(text).unwrap_or_default();
            let Some(time) = state["timestamp"].as_u64() else {
                return;
            };
            let online = state["online"] == true;
            host.stale = host.newest.is_some_and(|newest| time < newest);
            if host.stale {
                if !online && host.online {
                    host.stale_offline_at = Some(self.now);
                }
                return;
            }
            host.newest = Some(time);
            online
        } else if topic == format!("STATE/{id}") && host.newest.is_none() {
            text == "ONLINE"
        } else {
            host.other |= topic.contains("STATE/") && text.contains("true");
            return;
        };
        if host.online && !online {
            host.offline_at.get_or_insert(self.now);
        }
        host.online = online;
        host.said_offline = !online;
    }

    pub(super) fn disconnected(&mut self, session: &mut Session, record: &Value) {
        // Without births there is nothing to be dead.
        let owes = session.born && !session.dead;
        match session.version {
            5 => self.expect(
                record["code"] == 4 || !session.born,
                "payloads-ndeath-will-message-publisher-disconnect-mqtt50",
                || format!("DISCONNECT with reason {}", record["code"]),
            ),
            _ => self.expect(
                !owes,
                "payloads-ndeath-will-message-publisher-disconnect-mqtt311",
                || "DISCONNECT without NDEATH before it".to_owned(),
            ),
        }
        self.expect(
            !owes,
            "operational-behavior-edge-node-intentional-disconnect-ndeath",
            || "DISCONNECT without NDEATH before it".to_owned(),
        );
        if session.host.offline_at.take().is_some() {
            self.left_at = Some(self.now);
            return;
        }
        let stale = session.host.stale_offline_at;
        self.expect(
            stale.is_none_or(|at| self.now - at > GRACE_S),
            "operational-behavior-edge-node-termination-host-offline-timestamp",
            || "the node leaves because of a STATE message that is too old".to_owned(),
        );
    }

    pub(super) fn ended(&mut self, session: &Session, now: f64) {
        let late = |since: Option<f64>| since.is_some_and(|at| now - at > GRACE_S);
        if late(session.rebirth_asked) {
            self.find(
                "operational-behavior-data-commands-rebirth-action-2",
                "a host has asked for births, and none came",
            );
        }
        if late(session.host.offline_at) {
            self.find(
                "operational-behavior-edge-node-termination-host-offline",
                "the primary host is offline, and the session goes on",
            );
        }
    }
}
