//! Values of every type of a foreign OPC UA server, exactly as they are, at a real broker.

use std::path::Path;

use anyhow::{Context, Result};
use millrace_tests::agent::Gateway;
use millrace_tests::broker::Broker;
use millrace_tests::peer::Peer;
use millrace_tests::ports::free_port;
use millrace_tests::received::Sample;
use millrace_tests::subscriber::Subscriber;
use millrace_tests::wait::STEP;
use serde_json::Value;

use crate::plant;

/// The server of `peers/opcua_types.py`.
pub(crate) fn start(directory: &Path) -> Result<(Peer, u16)> {
    let port = free_port()?;
    let peer = Peer::start("opcua_types.py", &["--port", &port.to_string()], directory)?;
    Ok((peer, port))
}

/// Its table in the configuration, up to the tags.
pub(crate) fn device(port: u16, collect: &str) -> String {
    format!(
        "[[device]]\nname = \"types\"\ndriver = \"opcua\"\naddress = \"opc.tcp://127.0.0.1:{port}/types\"\n\
         security = \"None\"\ncollect = \"{collect}\"\npoll_interval = \"500ms\"\npublish_interval = \"100ms\"\n\n"
    )
}

fn tag(name: &str, more: &str) -> String {
    format!(
        "[[device.tag]]\nname = \"{name}\"\naddress = \"nsu=urn:millrace:types;s={name}\"\n{more}\n\n"
    )
}

/// Each case with the JSON of its value.
const GOOD: &[(&str, &str)] = &[
    ("bool-true", "true"),
    ("bool-false", "false"),
    ("i8-min", "-128"),
    ("i8-max", "127"),
    ("u8-max", "255"),
    ("i16-min", "-32768"),
    ("u16-max", "65535"),
    ("i32-min", "-2147483648"),
    ("i32-max", "2147483647"),
    ("u32-max", "4294967295"),
    ("i64-min", "-9223372036854775808"),
    ("i64-max", "9223372036854775807"),
    ("u64-max", "18446744073709551615"),
    ("f32", "0.1"),
    ("f32-max", "3.4028235e38"),
    ("f32-subnormal", "1e-45"),
    ("f32-minus-zero", "-0.0"),
    ("f64", "0.1"),
    ("f64-max", "1.7976931348623157e308"),
    ("f64-subnormal", "5e-324"),
    ("f64-minus-zero", "-0.0"),
    ("string", r#""plain""#),
    ("string-empty", r#""""#),
    ("string-null", r#""""#),
    ("string-unicode", r#""Füllstand „Ⅳ“ 水位 🚰 \t\"\\""#),
    ("time", r#""2026-11-21T07:30:15.123456Z""#),
    ("time-whole", r#""1999-12-31T23:59:59.000Z""#),
    ("guid", r#""72962b91-fa75-4ae6-8d28-b404dc7daf63""#),
    ("xml", r#""<a b=\"1\">ü</a>""#),
    ("node-id", r#""ns=2;s=Tank;1""#),
    ("node-id-numeric", r#""i=2258""#),
    ("expanded-node-id", r#""ns=2;s=Tank""#),
    ("status-code", "2156658688"),
    ("qualified-name", r#""2:Pump""#),
    ("localized-text", r#""läuft""#),
    ("array-i32", "[1,-2,3]"),
    ("array-u64", "[0,18446744073709551615]"),
    ("array-f64", r#"[1.5,"NaN","Infinity","-Infinity",-0.0]"#),
    ("array-f32", "[0.1,3.4028235e38]"),
    ("array-bool", "[true,false]"),
    ("array-string", r#"["a","","ü"]"#),
    ("array-time", r#"["2026-11-21T07:30:15.123456Z"]"#),
    ("array-bytes", r#"["AQ==",""]"#),
    ("array-text", r#"["an","aus"]"#),
    ("array-empty", "[]"),
    ("matrix", "[[1,2,3],[4,5,6]]"),
    ("variants", r#"[1,"two"]"#),
    ("range", r#"{"Low":-1.5,"High":100.0}"#),
    (
        "array-range",
        r#"[{"Low":0.0,"High":1.0},{"Low":2.0,"High":3.0}]"#,
    ),
    ("recipe", RECIPE),
    ("note", r#"{"id":7,"rank":3}"#),
    ("either", r#"{"word":"chosen"}"#),
    (
        "old",
        r#"{"id":-7,"names":["x","y"],"part":{"weight":2.5}}"#,
    ),
    ("mode", r#""running""#),
    ("modes", r#"["off","fault"]"#),
    ("standard-enum", r#""Running""#),
];

const RECIPE: &str = r#"{"name":"mash","count":18446744073709551615,"corner":{"x":1.5,"y":-2.5},
"path":[{"x":0.0,"y":0.1},{"x":"NaN","y":3.0}],"tags":["a","ü"],"mode":"running","at":"2026-11-21T07:30:15.000Z"}"#;

const BYTES: &[(&str, &str)] = &[("bytes", "AAH+/w=="), ("bytes-empty", "")];

const NO_NUMBER: &[&str] = &["f32-nan", "f32-inf", "f64-nan", "f64-minus-inf"];

/// Equal to the last bit, and to the sign of zero.
fn same(found: &Value, expected: &Value) -> bool {
    match (found, expected) {
        (Value::Number(one), Value::Number(other)) => {
            let bits = |number: &serde_json::Number| number.as_f64().map(f64::to_bits);
            one.is_f64() == other.is_f64()
                && one.to_string() == other.to_string()
                && bits(one) == bits(other)
        }
        (Value::Array(found), Value::Array(expected)) => {
            found.len() == expected.len()
                && found
                    .iter()
                    .zip(expected)
                    .all(|(one, other)| same(one, other))
        }
        (Value::Object(found), Value::Object(expected)) => {
            found.len() == expected.len()
                && expected
                    .iter()
                    .all(|(name, other)| found.get(name).is_some_and(|one| same(one, other)))
        }
        (found, expected) => found == expected,
    }
}

fn every_type(collect: &str) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let broker = Broker::start(directory.path())?;
    let subscriber = Subscriber::start(broker.port)?;
    let (_server, port) = start(directory.path())?;
    let mut gateway = Gateway::new(directory.path());
    let mut config = plant::uplink_config(broker.port) + &device(port, collect);
    let bytes = BYTES.iter().map(|(name, _)| name);
    let names = GOOD
        .iter()
        .map(|(name, _)| name)
        .chain(bytes)
        .chain(NO_NUMBER);
    names.for_each(|name| config.push_str(&tag(name, "")));
    config.push_str(&tag("mode-nameless", ""));
    let numbered = tag("mode", "type = \"i32\"").replacen("\"mode\"", "\"mode-number\"", 1);
    config.push_str(&numbered);
    gateway.configure(&config)?;
    gateway.start()?;
    let wanted = GOOD.len() + BYTES.len() + NO_NUMBER.len() + 2;
    subscriber.wait("every tag", STEP, |got| {
        let Ok(line) = got.line("types") else {
            return false;
        };
        let mut seen: Vec<&str> = line.samples.values().map(|s| s.name.as_str()).collect();
        seen.sort_unstable();
        seen.dedup();
        seen.len() == wanted
    })?;
    let got = subscriber.stop();
    assert_eq!(got.violations, Vec::<String>::new());
    let first = |name: &str| -> Result<Sample> {
        let sample = got.of_tag("types", name).next();
        Ok(sample.with_context(|| name.to_owned())?.clone())
    };
    let mut wrong = Vec::new();
    for (name, expected) in GOOD {
        let (sample, expected) = (first(name)?, serde_json::from_str::<Value>(expected)?);
        if !same(&sample.value, &expected) || sample.quality.is_some() {
            wrong.push(format!("{sample:?}, expected {expected}"));
        }
        assert!(sample.source_ms.is_some(), "{sample:?}");
    }
    assert_eq!(wrong, Vec::<String>::new());
    for (name, expected) in BYTES {
        assert_eq!(first(name)?.value, Value::from(*expected), "{name}");
    }
    for name in NO_NUMBER {
        let sample = first(name)?;
        let said = (sample.quality.as_deref(), sample.reason.as_deref());
        assert_eq!(said, (Some("bad"), Some("not-a-number")), "{sample:?}");
        assert_eq!(sample.value, Value::Null);
    }
    let nameless = first("mode-nameless")?;
    assert_eq!(nameless.value, 9);
    let said = (nameless.quality.as_deref(), nameless.reason.as_deref());
    assert_eq!(said, (Some("uncertain"), Some("out-of-range")));
    assert_eq!(first("mode-number")?.value, 1);
    Ok(())
}

#[test]
fn every_type_of_a_subscription_reaches_the_broker_exactly() -> Result<()> {
    every_type("subscribe")
}

#[test]
fn every_type_of_a_poll_reaches_the_broker_exactly() -> Result<()> {
    every_type("poll")
}
