//! What each profile makes of everything that may come: golden files, and decoders that others wrote.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use millrace_uplink::profile::{Compression, builtin_names, find, parse};
use millrace_uplink::{EncodeError, Message, Profile, Secret};
use serde_json::{Value, json};

use crate::zoo;

/// Room for every message of these tests.
const ROOMY: usize = 64 * 1024;
const SOURCE: &str = "line1/boiler";

/// A profile with a made-up value for each variable that it wants.
fn profile(name: &str) -> Profile {
    let definition = match name {
        // No built-in profile has this codec.
        "senml-cbor" => parse(
            "senml-cbor.toml",
            "format = 1\nname = \"senml-cbor\"\nabout = \"x\"\ncodec = \"senml-cbor\"\n\
             delivery = \"acked\"\nsequence = \"none\"\n[topics]\ndata = \"x/{source}\"\n\
             event = \"x/{source}\"\ngap = \"x\"\nstatus = \"x\"\n",
        ),
        name => find(name, None),
    };
    let definition = Arc::new(definition.unwrap());
    let missing = definition
        .vars
        .iter()
        .filter(|(_, var)| var.default.is_none());
    let vars: BTreeMap<_, _> = missing
        .map(|(name, _)| (name.clone(), format!("the-{name}")))
        .collect();
    Profile::new(definition, "gw-1", &vars, &[SOURCE]).unwrap()
}

pub(crate) fn shown(title: &str, messages: &[Message], out: &mut String) {
    let _ = writeln!(out, "# {title}");
    for message in messages {
        let retained = if message.retain { " (retained)" } else { "" };
        let _ = writeln!(out, "{}{retained}", message.topic);
        match std::str::from_utf8(&message.payload) {
            Ok(text) => {
                let _ = writeln!(out, "{text}");
            }
            Err(_) => {
                let hex: Vec<String> = message.payload.iter().map(|b| format!("{b:02x}")).collect();
                for line in hex.chunks(40) {
                    let _ = writeln!(out, "{}", line.concat());
                }
            }
        }
    }
    out.push('\n');
}

/// Those that write messages by themselves; an edge node of Sparkplug needs a session, see `sparkplug.rs`.
fn profiles() -> impl Iterator<Item = &'static str> {
    builtin_names()
        .filter(|name| *name != "sparkplug-b")
        .chain(["senml-cbor"])
}

#[test]
fn every_profile_writes_what_its_golden_file_holds() {
    let facts = json!({"version": "0.1.0"});
    for name in profiles() {
        let profile = profile(name);
        let mut golden = String::new();
        shown(
            "samples",
            &profile.encode_parcel(&zoo::samples(SOURCE), ROOMY).unwrap(),
            &mut golden,
        );
        match profile.encode_parcel(&zoo::undated(SOURCE), ROOMY) {
            Ok(messages) => shown("before the clock is known", &messages, &mut golden),
            Err(error) => {
                let _ = writeln!(golden, "# before the clock is known\n{error}\n");
            }
        }
        shown(
            "events",
            &profile.encode_parcel(&zoo::events(SOURCE), ROOMY).unwrap(),
            &mut golden,
        );
        shown(
            "gap",
            &profile.encode_gap(&zoo::gap(SOURCE), ROOMY),
            &mut golden,
        );
        shown(
            "greeting",
            &profile.greeting(facts.as_object().unwrap()),
            &mut golden,
        );
        shown("will", profile.will().as_slice(), &mut golden);
        if let Some(user) = profile.username() {
            let _ = writeln!(golden, "# user name\n{user}\n");
        }
        insta::with_settings!({
            snapshot_path => "../golden",
            prepend_module_to_snapshot => false,
            omit_expression => true,
        }, {
            insta::assert_snapshot!(name, golden);
        });
    }
}

#[test]
fn small_messages_carry_the_same_and_none_is_larger() {
    for name in profiles() {
        let profile = profile(name);
        let parcel = zoo::samples(SOURCE);
        let whole = profile.encode_parcel(&parcel, ROOMY).unwrap();
        let parts = profile.encode_parcel(&parcel, 700).unwrap();
        assert!(parts.iter().all(|part| part.wire_bytes() <= 700), "{name}");
        assert!(parts.len() >= whole.len(), "{name}");
        let error = profile.encode_parcel(&parcel, 40).unwrap_err();
        assert_eq!(error.seq(), 1201, "{name}: {error}");
    }
}

/// What the foreign decoders make of the messages; `None` where there is no Python for it.
pub(crate) fn foreign(codec: &str, messages: &[Message]) -> Option<Vec<Value>> {
    let Some(python) = std::env::var_os("MILLRACE_TEST_PYTHON") else {
        eprintln!(
            "skipped: MILLRACE_TEST_PYTHON names no Python with tests/requirements.txt; `make test` sets it"
        );
        return None;
    };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers/decode.py");
    let mut child = Command::new(python)
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    for message in messages {
        let line = json!({"codec": codec, "payload": STANDARD.encode(&message.payload)});
        writeln!(stdin, "{line}").unwrap();
    }
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{codec}");
    let text = String::from_utf8(output.stdout).unwrap();
    let decoded: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(decoded.len(), messages.len());
    Some(decoded)
}

/// All points of all messages.
fn points(codec: &str, profile: &Profile, max_message: usize) -> Option<Vec<Value>> {
    let messages = profile
        .encode_parcel(&zoo::samples(SOURCE), max_message)
        .unwrap();
    let decoded = foreign(codec, &messages)?;
    Some(
        decoded
            .iter()
            .flat_map(|points| points.as_array().unwrap().clone())
            .collect(),
    )
}

const NOW: f64 = 1_763_690_000.123_456_8;

/// Every animal by the name that the codec gives it, with the value that a receiver gets.
fn expected(name: impl Fn(&str) -> String, worth: impl Fn(&str, Value) -> Value) -> Vec<Value> {
    let point = |tag: &str, value: Value, time: f64| json!([name(tag), worth(tag, value), time]);
    vec![
        point("run", json!(true), NOW),
        point("count", json!(-5.0), NOW),
        point("exact", json!(9_007_199_254_740_992.0), NOW),
        point("beyond", json!("-9007199254740993"), NOW),
        point("least", json!("-9223372036854775808"), NOW),
        point("most", json!("18446744073709551615"), NOW),
        point("f32", json!(0.1), NOW),
        point("f64", json!(1.0 / 3.0), NOW),
        point("whole", json!(5.0), NOW),
        point("tiny", json!(-1e-300), NOW),
        point("text", json!("a \"b\"\\ c,=\n\u{1}é 漢"), NOW),
        point("bytes", json!({"x": "0001feff"}), NOW),
        point("json", json!("{\"a\":[1,\"x\"]}"), NOW),
        point("nan:q", json!("bad not-a-number"), NOW),
        point("broken:q", json!("bad invalid-encoding"), NOW),
        point("lost:q", json!("bad timeout"), NOW),
        point("doubtful", json!(4.0), NOW),
        point("doubtful:q", json!("uncertain status-0x40340000"), NOW),
        point("kühler/vor lauf,=", json!(7.0), NOW),
        point("run", json!(false), 1_763_690_001.5),
        point("count", json!(6.0), 1_763_686_400.0),
    ]
}

fn senml_name(tag: &str) -> String {
    let tag = match tag {
        "kühler/vor lauf,=" => "k:C3:BChler/vor:20lauf:2C:3D",
        tag => tag,
    };
    format!("{SOURCE}:{tag}")
}

#[test]
fn senml_is_read_by_a_foreign_decoder() {
    for max_message in [ROOMY, 300] {
        let Some(points) = points("senml-json", &profile("mainflux"), max_message) else {
            return;
        };
        assert_eq!(points, expected(senml_name, |_, value| value));
    }
}

#[test]
fn senml_in_cbor_is_read_by_a_foreign_decoder() {
    for max_message in [ROOMY, 300] {
        let Some(points) = points("senml-cbor", &profile("senml-cbor"), max_message) else {
            return;
        };
        // Floats of 32 bits travel in 32 bits.
        let worth = |tag: &str, value| match tag {
            "f32" => json!(f64::from(0.1_f32)),
            _ => value,
        };
        assert_eq!(points, expected(senml_name, worth));
    }
}

#[test]
fn line_protocol_is_read_by_a_foreign_decoder() {
    for max_message in [ROOMY, 300] {
        let Some(mut points) = points("influx-line", &profile("influx-line"), max_message) else {
            return;
        };
        let worth = |tag: &str, value: Value| match tag {
            "count" | "exact" | "doubtful" | "kühler/vor lauf,=" => {
                json!(value.as_f64().unwrap() as i64)
            }
            "beyond" => json!(-9_007_199_254_740_993_i64),
            "least" => json!(i64::MIN),
            "most" => json!(u64::MAX),
            "bytes" => json!("AAH+/w=="),
            _ => value,
        };
        let mut expected = expected(|tag| format!("{SOURCE}/{tag}"), worth);
        // Within a line the decoder has its own order.
        let order = |point: &Value| point.to_string();
        points.sort_by_key(order);
        expected.sort_by_key(order);
        assert_eq!(points, expected);
    }
}

#[test]
fn smartrest_is_read_by_a_foreign_parser() {
    let messages = profile("cumulocity")
        .encode_parcel(&zoo::samples(SOURCE), ROOMY)
        .unwrap();
    let Some(decoded) = foreign("smartrest", &messages) else {
        return;
    };
    let lines = decoded[0].as_array().unwrap();
    let at = "2025-11-21T01:53:20.123Z";
    for line in [
        json!(["200", "millrace", "run", "1", "", at]),
        json!(["200", "millrace", "most", "18446744073709551615", "", at]),
        json!(["200", "millrace", "f32", "0.1", "°C", at]),
        json!([
            "200",
            "millrace",
            "k_C3_BChler_2Fvor_20lauf_2C_3D",
            "7",
            "",
            at
        ]),
        json!(["400", "millrace_value", "text = a \"b\"\\ c,=  é 漢", at]),
        json!(["400", "millrace_value", "bytes = AAH+/w==", at]),
        json!(["400", "millrace_quality", "nan: bad not-a-number", at]),
        json!([
            "400",
            "millrace_quality",
            "doubtful: uncertain status-0x40340000",
            at
        ]),
        json!([
            "200",
            "millrace",
            "run",
            "0",
            "",
            "2025-11-21T01:53:21.500Z"
        ]),
    ] {
        assert!(lines.contains(&line), "{line} is not in {lines:?}");
    }
    assert_eq!(lines.len(), 21);
}

#[test]
fn compressed_payloads_are_undone_by_foreign_libraries() {
    for (compression, word) in [(Compression::Zstd, "zstd"), (Compression::Gzip, "gzip")] {
        let plain = profile("generic");
        let packed = profile("generic").packed(Some(compression), false);
        let parcel = zoo::samples(SOURCE);
        let expected = plain.encode_parcel(&parcel, ROOMY).unwrap();
        let messages = packed.encode_parcel(&parcel, ROOMY).unwrap();
        assert!(messages[0].payload.len() < expected[0].payload.len());
        let Some(decoded) = foreign(word, &messages) else {
            return;
        };
        let expected: Value = serde_json::from_slice(&expected[0].payload).unwrap();
        assert_eq!(decoded, [expected]);
    }
}

const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

/// What the receiver of the documentation makes of sealed messages; `Err`: it refuses them.
fn unsealed(messages: &[Message], key: &str) -> Option<Result<Vec<Value>, String>> {
    let Some(python) = std::env::var_os("MILLRACE_TEST_PYTHON") else {
        eprintln!(
            "skipped: MILLRACE_TEST_PYTHON names no Python with tests/requirements.txt; `make test` sets it"
        );
        return None;
    };
    let directory = tempfile::tempdir().unwrap();
    let key_file = directory.path().join("seal.key");
    std::fs::write(&key_file, key).unwrap();
    let mut child = Command::new(python)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/unseal.py"))
        .arg(key_file)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    for message in messages {
        let payload = STANDARD.encode(&message.payload);
        // It may have ended at the first message.
        let _ = writeln!(
            stdin,
            "{}",
            json!({"topic": message.topic, "payload": payload})
        );
    }
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    if !output.status.success() {
        return Some(Err(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    Some(Ok(text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()))
}

#[test]
fn sealed_payloads_are_opened_by_the_receiver_of_the_documentation_and_by_nobody_else() {
    let plain = profile("generic");
    let sealed = profile("generic").packed(Some(Compression::Zstd), true);
    let parcel = zoo::samples(SOURCE);
    // Without a key nothing leaves, sealed or not.
    assert!(matches!(
        sealed.encode_parcel(&parcel, ROOMY),
        Err(EncodeError::Unsealed { seq: 1201, .. })
    ));
    assert!(sealed.will().is_none() && sealed.greeting(&serde_json::Map::new()).is_empty());
    sealed.unlock(&Secret::new(KEY)).unwrap();

    let mut messages = sealed.encode_parcel(&parcel, 1000).unwrap();
    assert!(messages.len() > 1 && messages.iter().all(|message| message.wire_bytes() <= 1000));
    messages.extend(sealed.will());
    let Some(opened) = unsealed(&messages, KEY) else {
        return;
    };
    let opened = opened.unwrap();
    let mut next = 1201;
    for one in &opened[..opened.len() - 1] {
        assert_eq!(one["stream"], "6f0c0000000000000000000000000001");
        assert_eq!(one["first_seq"], next);
        next = one["last_seq"].as_u64().unwrap() + 1;
    }
    assert_eq!(next, 1221);
    let will = opened.last().unwrap();
    assert_eq!(
        (&will["first_seq"], &will["last_seq"]),
        (&json!(0), &json!(0))
    );
    let payload = STANDARD.decode(will["payload"].as_str().unwrap()).unwrap();
    assert_eq!(payload, plain.will().unwrap().payload);

    let other_key = KEY.replace("00", "ff");
    let message = &messages[..1];
    assert!(
        unsealed(message, &other_key)
            .unwrap()
            .unwrap_err()
            .contains("InvalidTag")
    );
    let mut moved = message.to_vec();
    moved[0].topic.push('x');
    assert!(
        unsealed(&moved, KEY)
            .unwrap()
            .unwrap_err()
            .contains("InvalidTag")
    );
    // Stream, numbers, ciphertext.
    for at in [30, 51, 59, message[0].payload.len() - 1] {
        let mut payload = message[0].payload.to_vec();
        payload[at] ^= 1;
        let changed = Message::new(message[0].topic.clone(), payload);
        assert!(
            unsealed(&[changed], KEY)
                .unwrap()
                .unwrap_err()
                .contains("InvalidTag"),
            "{at}"
        );
    }
}

#[test]
fn what_thingsboard_gets_says_what_was_sampled() {
    let messages = profile("thingsboard")
        .encode_parcel(&zoo::samples(SOURCE), ROOMY)
        .unwrap();
    let [message] = &messages[..] else {
        panic!("{messages:?}")
    };
    let got: Value = serde_json::from_slice(&message.payload).unwrap();
    let points = got[SOURCE].as_array().unwrap();
    assert_eq!(points.len(), 3);
    assert_eq!(points[0]["ts"], 1_763_690_000_123_i64);
    let values = &points[0]["values"];
    for (key, value) in [
        ("least", json!(i64::MIN)),
        ("most", json!("18446744073709551615")),
        ("f32", json!(0.1)),
        ("bytes", json!("AAH+/w==")),
        ("json", json!({"a": [1, "x"]})),
        ("nan:q", json!("bad not-a-number")),
        ("lost:q", json!("bad timeout")),
        ("doubtful", json!(4)),
        ("kühler/vor lauf,=", json!(7)),
    ] {
        assert_eq!(values[key], value, "{key}");
    }
    assert!(values.get("nan").is_none() && values.get("lost").is_none());
    assert_eq!(
        points[1],
        json!({"ts": 1_763_690_001_500_i64, "values": {"run": false}})
    );
}
