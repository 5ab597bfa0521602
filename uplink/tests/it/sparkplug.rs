//! The Sparkplug edge node against a foreign decoder of its messages.

use millrace_tags::{Lane, Records, ValueType};
use millrace_uplink::Message;
use millrace_uplink::codec::EncodeError;
use millrace_uplink::codec::sparkplug::EdgeNode;
use serde_json::{Value, json};

use crate::codecs::{foreign, shown};
use crate::zoo;

const SOURCE: &str = "line1/boiler";
const NOW: u64 = 1_763_690_000_200;
const ROOMY: usize = 64 * 1024;

fn node() -> EdgeNode {
    let mut node = EdgeNode::new("plant", "gw-1");
    node.add(
        SOURCE,
        [("run", ValueType::Bool), ("never", ValueType::F32)],
    );
    node
}

/// Will, births, live data, backlog in small messages, a lost device that comes back, a rebirth.
fn session() -> Vec<(&'static str, Vec<Message>)> {
    let mut node = node();
    let will = node.connecting(7);
    let births = node.births(NOW, |_| false);
    let live = zoo::samples(SOURCE);
    let mut backlog = zoo::samples(SOURCE);
    backlog.lane = Lane::Backlog;
    vec![
        ("will", vec![will]),
        ("births", births),
        ("live", node.encode(&live, ROOMY, NOW, false).unwrap()),
        ("backlog", node.encode(&backlog, 300, NOW, false).unwrap()),
        ("lost", node.lost(SOURCE, NOW).into_iter().collect()),
        ("back", node.encode(&live, ROOMY, NOW, false).unwrap()),
        ("rebirth", node.births(NOW, |_| false)),
    ]
}

#[test]
fn a_session_is_what_its_golden_file_holds() {
    let mut golden = String::new();
    for (title, messages) in session() {
        assert!(messages.iter().all(|message| !message.retain));
        shown(title, &messages, &mut golden);
    }
    insta::with_settings!({
        snapshot_path => "../golden",
        prepend_module_to_snapshot => false,
        omit_expression => true,
    }, {
        insta::assert_snapshot!("sparkplug", golden);
    });
}

/// `NBIRTH`, `DDATA`, …
fn kind(topic: &str) -> &str {
    topic.split('/').nth(2).unwrap()
}

#[test]
fn a_foreign_decoder_resolves_every_metric() {
    let messages: Vec<Message> = session()
        .into_iter()
        .flat_map(|(_, messages)| messages)
        .collect();
    let Some(decoded) = foreign("sparkplug", &messages) else {
        return;
    };
    let mut next = None;
    let mut names: std::collections::BTreeMap<u64, (String, u64)> = Default::default();
    let mut values: Vec<(String, Value)> = Vec::new();
    for (message, got) in messages.iter().zip(&decoded) {
        let kind = kind(&message.topic);
        if kind == "NDEATH" {
            assert_eq!(got["seq"], Value::Null);
            assert_eq!(got["metrics"][0]["name"], "bdSeq");
            assert_eq!(got["metrics"][0]["value"], 7);
            continue;
        }
        let seq = got["seq"].as_u64().unwrap();
        match kind {
            "NBIRTH" => {
                assert_eq!(seq, 0);
                names.clear();
                assert_eq!(got["metrics"][0]["value"], 7);
                assert_eq!(got["metrics"][1]["name"], "Node Control/Rebirth");
                assert_eq!(got["metrics"][1]["value"], false);
            }
            _ => assert_eq!(Some(seq), next, "{kind}"),
        }
        next = Some((seq + 1) % 256);
        for metric in got["metrics"].as_array().unwrap() {
            assert!(metric["timestamp"].is_u64(), "{kind}: {metric}");
            match kind {
                "DBIRTH" => {
                    let alias = metric["alias"].as_u64().unwrap();
                    let datatype = metric["datatype"].as_u64().unwrap();
                    let name = metric["name"].as_str().unwrap().to_owned();
                    names.insert(alias, (name, datatype));
                    assert!(metric["null"].as_bool().unwrap() == metric["value"].is_null());
                }
                "DDATA" => {
                    assert_eq!(
                        (&metric["name"], &metric["datatype"]),
                        (&Value::Null, &Value::Null)
                    );
                    let (name, _) = &names[&metric["alias"].as_u64().unwrap()];
                    values.push((name.clone(), metric.clone()));
                }
                _ => {}
            }
        }
    }
    // Three times all animals and the two of other times.
    assert_eq!(values.len(), 3 * 20);
    let first: Vec<_> = values.iter().take(20).collect();
    let (_, of_most) = first.iter().find(|(name, _)| name == "most").unwrap();
    assert_eq!(of_most["value"], u64::MAX);
    let (_, of_least) = first.iter().find(|(name, _)| name == "least").unwrap();
    assert_eq!(of_least["value"], i64::MIN as u64);
    let (_, lost) = first.iter().find(|(name, _)| name == "lost").unwrap();
    assert_eq!(
        (&lost["null"], &lost["quality"], &lost["reason"]),
        (&json!(true), &json!(0), &json!("timeout"))
    );
    let (_, doubtful) = first.iter().find(|(name, _)| name == "doubtful").unwrap();
    assert_eq!(
        (&doubtful["quality"], &doubtful["value"]),
        (&json!(500), &json!(4))
    );
    // One of them is older than what went before it.
    let historical = |(_, metric): &&&(String, Value)| metric["historical"] == true;
    assert_eq!(first.iter().filter(historical).count(), 1);
    assert!(
        values[20..40]
            .iter()
            .all(|(_, metric)| metric["historical"] == true)
    );
}

#[test]
fn numbers_wrap_and_an_error_changes_nothing() {
    let mut node = node();
    node.connecting(0);
    node.births(NOW, |_| false);
    let parcel = zoo::samples(SOURCE);
    let before = node.clone();
    assert!(matches!(
        node.encode(&parcel, 60, NOW, false),
        Err(EncodeError::TooLarge { .. })
    ));
    assert!(matches!(
        node.encode(&zoo::undated(SOURCE), ROOMY, NOW, false),
        Err(EncodeError::NoClock { seq: 1201, .. })
    ));
    let mut other = before;
    assert_eq!(
        node.encode(&parcel, ROOMY, NOW, false),
        other.encode(&parcel, ROOMY, NOW, false)
    );
    assert_eq!(
        node.encode(&zoo::events(SOURCE), ROOMY, NOW, false),
        Ok(Vec::new())
    );
    let mut parcel = parcel;
    if let Records::Samples(samples) = &mut parcel.records {
        samples.truncate(1);
    }
    let mut first = Vec::new();
    for _ in 0..300 {
        first = node.encode(&parcel, ROOMY, NOW, false).unwrap();
    }
    assert_eq!(first.len(), 1);
}

#[test]
fn a_host_asks_by_name_or_alias() {
    use millrace_tags::Value as Of;
    use millrace_uplink::codec::sparkplug::HostCommand;
    let node = node();
    assert_eq!(
        node.subscriptions(),
        ["spBv1.0/plant/NCMD/gw-1", "spBv1.0/plant/DCMD/gw-1/+"]
    );
    // Metric 2 of a payload: name (1) or alias (2), value (14 Boolean).
    let rebirth = [
        &[0x12, 24, 0x0a, 20][..],
        b"Node Control/Rebirth",
        &[0x70, 1],
    ]
    .concat();
    assert_eq!(
        node.commands("spBv1.0/plant/NCMD/gw-1", &rebirth),
        [HostCommand::Rebirth]
    );
    assert_eq!(node.commands("spBv1.0/plant/NCMD/other", &rebirth), []);
    // Time 1, so that the same bytes are the same command.
    let timed = |metric: &[u8]| [&[0x08, 1][..], metric].concat();
    let by = |payload: &[u8]| match &node.commands(DEVICE, payload)[..] {
        [
            HostCommand::Write {
                id,
                source,
                tag,
                value,
            },
        ] => {
            assert_eq!((source.as_str(), tag.as_str()), (SOURCE, "run"));
            assert_eq!(*value, Some(Of::Bool(true)));
            id.clone()
        }
        other => panic!("{other:?}"),
    };
    let by_alias = timed(&[0x12, 4, 0x10, 1, 0x70, 1]);
    assert_eq!(by(&by_alias), by(&by_alias), "delivered twice");
    let by_name = timed(b"\x12\x07\x0a\x03run\x70\x01");
    assert_ne!(by(&by_alias), by(&by_name));
    let untimed = [0x12, 4, 0x10, 1, 0x70, 1];
    assert_ne!(
        by(&untimed),
        by(&untimed),
        "nothing says that it is the same command"
    );
    // Unknown metrics and garbage are skipped.
    assert_eq!(node.commands(DEVICE, &[0x12, 4, 0x10, 99, 0x70, 1]), []);
    assert_eq!(node.commands(DEVICE, b"garbage"), []);
}

const DEVICE: &str = "spBv1.0/plant/DCMD/gw-1/line1%2Fboiler";

#[test]
fn what_is_older_than_what_the_host_has_is_historical() {
    let mut node = node();
    node.connecting(0);
    let mut parcel = zoo::samples(SOURCE);
    if let Records::Samples(samples) = &mut parcel.records {
        samples.truncate(1);
        let newer = millrace_tags::Sample::good(
            samples[0].tag,
            millrace_tags::Value::Bool(true),
            samples[0].gateway_time,
        );
        let tag = parcel.tags.get(samples[0].tag).unwrap().name.clone();
        node.see(SOURCE, &tag, &newer, NOW + 10_000);
    }
    node.births(NOW, |_| false);
    let historical = |message: &Message| {
        // Field 5 of a metric, the only one with a small number after its datatype's place.
        message.payload.windows(2).any(|bytes| bytes == [0x28, 1])
    };
    let live = node.encode(&parcel, ROOMY, NOW, false).unwrap();
    assert!(historical(&live[0]), "{live:?}");
}

#[test]
fn a_lost_device_is_born_for_its_history_only_and_values_only() {
    let mut node = node();
    node.connecting(0);
    let births = node.births(NOW, |source| source == SOURCE);
    assert_eq!(births.len(), 1, "no DBIRTH of what is not there");
    assert_eq!(node.lost(SOURCE, NOW), None, "nobody takes it for alive");
    let mut parcel = zoo::samples(SOURCE);
    let messages = node.encode(&parcel, ROOMY, NOW, true).unwrap();
    let kinds: Vec<&str> = messages
        .iter()
        .map(|message| kind(&message.topic))
        .collect();
    assert_eq!(kinds.first(), Some(&"DBIRTH"));
    assert_eq!(kinds.last(), Some(&"DDATA"));
    assert!(node.is_born(SOURCE));
    assert!(node.lost(SOURCE, NOW).is_some());
    if let Records::Samples(samples) = &mut parcel.records {
        samples.retain(|sample| sample.value.is_none());
        assert!(!samples.is_empty());
    }
    assert_eq!(node.encode(&parcel, ROOMY, NOW, true), Ok(Vec::new()));
    assert!(node.back(SOURCE, NOW).is_some());
    assert!(node.back(SOURCE, NOW).is_none());
}

#[test]
fn a_written_value_is_told_in_the_type_of_its_metric() {
    let mut node = node();
    node.connecting(0);
    assert_eq!(
        node.written(SOURCE, "never", &json!(1), NOW),
        None,
        "not born"
    );
    node.births(NOW, |_| false);
    let told = node.written(SOURCE, "never", &json!(1), NOW).unwrap();
    // Field 12, a float of 32 bits: 1.0.
    assert!(
        told.payload
            .windows(5)
            .any(|bytes| bytes == [0x65, 0, 0, 0x80, 0x3f])
    );
    assert_eq!(node.written(SOURCE, "run", &json!(2.5), NOW), None);
    assert!(node.written(SOURCE, "run", &json!(false), NOW).is_some());
}
