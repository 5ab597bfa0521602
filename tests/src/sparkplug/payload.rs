//! What payloads show: times, numbers, births, metrics.

use serde_json::Value;

use super::Checker;
use super::session::Session;

const INT64: u64 = 4;
const BOOLEAN: u64 = 11;
const REBIRTH: &str = "Node Control/Rebirth";

/// 2020, before there were such programs, and 2100.
const PLAUSIBLE_MS: std::ops::Range<u64> = 1_577_836_800_000..4_102_444_800_000;

fn metrics(payload: &Value) -> &[Value] {
    payload["metrics"].as_array().map_or(&[], Vec::as_slice)
}

/// The bdSeq among these metrics, where it is one of type Int64.
pub(super) fn bd_seq(metrics: &[Value]) -> Option<u64> {
    let named = metrics.iter().find(|metric| metric["name"] == "bdSeq")?;
    let fits = named["datatype"] == INT64 && named["kind"] == "long_value";
    fits.then(|| named["value"].as_u64())?
}

/// Whether an NCMD asks for births.
pub(super) fn asks_for_births(payload: &Value) -> bool {
    let mut metrics = metrics(payload).iter();
    metrics.any(|metric| metric["name"] == REBIRTH && metric["value"] == true)
}

impl Checker<'_> {
    /// Time and number of a message.
    pub(super) fn numbered(&mut self, session: &mut Session, kind: &str, payload: &Value) {
        let id = format!("payloads-{}-timestamp", kind.to_lowercase());
        match payload["timestamp"].as_u64() {
            None => self.find(&id, "there is none"),
            Some(time) => self.plausible(kind, time),
        }
        let Some(seq) = payload["seq"].as_u64() else {
            return self.find("payloads-sequence-num-always-included", kind);
        };
        if kind == "NBIRTH" {
            self.expect(seq == 0, "payloads-sequence-num-req-nbirth", || {
                format!("NBIRTH has number {seq}")
            });
        } else if let Some(next) = session.next_seq {
            self.expect(seq == next, "payloads-sequence-num-incrementing", || {
                format!("{kind} has number {seq} where {next} was next")
            });
        }
        session.next_seq = Some((seq + 1) % 256);
    }

    fn plausible(&mut self, what: &str, time: u64) {
        self.expect(
            PLAUSIBLE_MS.contains(&time),
            "payloads-timestamp-in-UTC",
            || format!("{what} at {time}"),
        );
    }

    /// The metrics of an NBIRTH; its bdSeq.
    pub(super) fn node_metrics(&mut self, payload: &Value) -> Option<u64> {
        let metrics = metrics(payload);
        for metric in metrics {
            self.birth_metric("topics-nbirth-metric-reqs", metric);
        }
        let control = metrics.iter().find(|metric| metric["name"] == REBIRTH);
        let is_false = |metric: &Value| metric["datatype"] == BOOLEAN && metric["value"] == false;
        self.expect(
            control.is_some_and(is_false),
            "payloads-nbirth-rebirth-req",
            || format!("{REBIRTH} is {control:?}"),
        );
        self.expect(
            control.is_none_or(|metric| metric["alias"].is_null()),
            "operational-behavior-data-commands-rebirth-name-aliases",
            || "it has an alias".to_owned(),
        );
        let bd_seq = bd_seq(metrics);
        self.expect(bd_seq.is_some(), "payloads-nbirth-bdseq", || {
            "there is none of type Int64".to_owned()
        });
        bd_seq
    }

    /// Name, type, time and value of a metric in a birth.
    fn birth_metric(&mut self, id: &str, metric: &Value) {
        let name = &metric["name"];
        self.expect(name.is_string(), "payloads-name-requirement", || {
            metric.to_string()
        });
        self.expect(metric["datatype"].is_u64(), id, || {
            format!("{name} has no datatype")
        });
        self.metric(metric, name);
    }

    /// Time, value and quality of a metric.
    fn metric(&mut self, metric: &Value, name: &Value) {
        match metric["timestamp"].as_u64() {
            None => self.find(
                "payloads-name-birth-data-requirement",
                format!("{name} has no time"),
            ),
            Some(time) => self.plausible(&name.to_string(), time),
        }
        let is_null = metric["null"] == true;
        self.expect(
            is_null == metric["kind"].is_null(),
            "operational-behavior-data-publish-dbirth-values",
            || format!("{name}: neither value nor null, or both: {metric}"),
        );
        let quality = metric["quality"].as_u64();
        self.expect(
            quality.is_none_or(|quality| [0, 192, 500].contains(&quality)),
            "payloads-propertyset-quality-value-value",
            || format!("{name} has quality {quality:?}"),
        );
    }

    pub(super) fn device_born(
        &mut self,
        session: &mut Session,
        device: &str,
        payload: &Value,
    ) -> Vec<(String, Value)> {
        self.expect(
            session.born,
            "message-flow-device-birth-publish-nbirth-wait",
            || format!("DBIRTH of {device} before NBIRTH"),
        );
        self.commands_subscribed(session, device);
        for other in session.devices.keys() {
            let alike = other != device && other.to_lowercase() == device.to_lowercase();
            self.expect(!alike, "case-sensitivity-sparkplug-ids", || {
                format!("{other} and {device}")
            });
        }
        let mut born = session.devices.remove(device).unwrap_or_default();
        let before = std::mem::take(&mut born.names);
        let mut named = Vec::new();
        for metric in metrics(payload) {
            self.birth_metric("topics-dbirth-metric-reqs", metric);
            let name = metric["name"].as_str().unwrap_or_default().to_owned();
            let alike = |(other, _): &(String, Value)| {
                *other != name && other.to_lowercase() == name.to_lowercase()
            };
            self.expect(
                !named.iter().any(alike),
                "case-sensitivity-metric-names",
                || name.clone(),
            );
            match metric["alias"].as_u64() {
                None => self.find(
                    "payloads-alias-birth-requirement",
                    format!("{name} has no alias"),
                ),
                Some(alias) => {
                    let others = session.devices.values();
                    let taken = others
                        .filter(|other| other.alive)
                        .any(|other| other.names.contains_key(&alias));
                    let again = born.names.insert(alias, name.clone()).is_some();
                    self.expect(!taken && !again, "payloads-alias-uniqueness", || {
                        format!("alias {alias}")
                    });
                }
            }
            if let Some(time) = metric["timestamp"].as_u64() {
                born.newest.insert(name.clone(), time);
            }
            named.push((name, metric.clone()));
        }
        // A birth that nobody needs, in the middle of data.
        self.expect(
            !born.alive || before != born.names,
            "payloads-dbirth-order",
            || format!("{device} is born twice"),
        );
        born.alive = true;
        session.devices.insert(device.to_owned(), born);
        session.unborn.remove(device);
        named
    }

    /// The metrics of a DDATA, by the birth in force.
    pub(super) fn data(
        &mut self,
        session: &mut Session,
        device: &str,
        payload: &Value,
    ) -> Vec<(String, Value)> {
        if let Some(unborn) = session.unborn.first() {
            self.find(
                "operational-behavior-data-commands-rebirth-action-2",
                format!("data after a rebirth, and {unborn} is not born again"),
            );
            session.unborn.clear();
        }
        let mut born = session.devices.remove(device).unwrap_or_default();
        self.expect(born.alive, "payloads-ddata-order", || {
            format!("DDATA of {device}, which is not born")
        });
        let mut named = Vec::new();
        let mut last = 0;
        for metric in metrics(payload) {
            self.expect(
                metric["name"].is_null(),
                "payloads-alias-data-cmd-requirement",
                || format!("{} by name", metric["name"]),
            );
            self.expect(
                metric["datatype"].is_null(),
                "payloads-metric-datatype-not-req",
                || metric.to_string(),
            );
            let name = metric["alias"]
                .as_u64()
                .and_then(|alias| born.names.get(&alias));
            let Some(name) = name.cloned() else {
                self.find(
                    "payloads-alias-data-cmd-requirement",
                    format!("{device}: {metric} resolves to nothing"),
                );
                continue;
            };
            self.metric(metric, &metric["alias"]);
            let time = metric["timestamp"].as_u64().unwrap_or_default();
            if metric["historical"] == false {
                self.expect(
                    time >= last,
                    "operational-behavior-data-publish-dbirth-order",
                    || format!("{name} at {time} after {last}"),
                );
                last = last.max(time);
                let newest = born.newest.insert(name.clone(), time).unwrap_or_default();
                self.expect(time >= newest, "data-backwards", || {
                    format!("{name} at {time} after {newest}")
                });
            }
            named.push((name, metric.clone()));
        }
        session.devices.insert(device.to_owned(), born);
        named
    }
}
