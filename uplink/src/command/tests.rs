//! Each codec by example, as a golden file, and round trips that nothing may break.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use millrace_tags::ReplyStatus;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::profile::{Profile, find};

fn profile(name: &str, vars: &[(&str, &str)]) -> Profile {
    let vars: BTreeMap<String, String> = vars
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    Profile::new(Arc::new(find(name, None).unwrap()), "gw-1", &vars, &[]).unwrap()
}

fn profiles() -> BTreeMap<&'static str, Profile> {
    let hub = [("hub", "h.example"), ("device", "gw-1")];
    BTreeMap::from([
        ("generic", profile("generic", &[])),
        (
            "mainflux",
            profile("mainflux", &[("channel", "data"), ("control", "ctrl")]),
        ),
        (
            "magistrala",
            profile(
                "magistrala",
                &[("domain", "d"), ("channel", "data"), ("control", "ctrl")],
            ),
        ),
        ("thingsboard", profile("thingsboard", &[])),
        ("azure-iot-hub", profile("azure-iot-hub", &hub)),
        ("aws-iot", profile("aws-iot", &[("thing", "t-1")])),
        ("cumulocity", profile("cumulocity", &[])),
    ])
}

/// What cores send: profile, topic, payload.
const ASKED: [(&str, &str, &str); 33] = [
    (
        "generic",
        "millrace/gw-1/cmd",
        r#"{"id":"c-1","op":"read","args":{"tags":["boiler/pressure"]},"expires":1763690000000.0,"new":1}"#,
    ),
    (
        "generic",
        "millrace/gw-1/cmd",
        r#"{"id":"c/2","op":"status","sig":"00ff"}"#,
    ),
    ("generic", "millrace/gw-1/cmd", r#"{"id":"c-3"}"#),
    ("generic", "millrace/gw-1/cmd", r#"{"op":"status"}"#),
    ("generic", "millrace/gw-1/cmd", r#"{"id":5,"op":"status"}"#),
    (
        "generic",
        "millrace/gw-1/cmd",
        r#"{"id":"c-4","op":"read","expires":"soon"}"#,
    ),
    (
        "generic",
        "millrace/gw-1/cmd",
        r#"{"id":"c-5","op":"read","sig":5}"#,
    ),
    ("generic", "millrace/gw-1/cmd", "{"),
    (
        "mainflux",
        "channels/ctrl/messages/req",
        r#"[{"bn":"1b2c:","n":"read","vs":"boiler/pressure,boiler/run"}]"#,
    ),
    (
        "mainflux",
        "channels/ctrl/messages/req",
        r#"[{"bn":"1b2d:","n":"config","vs":"view"},{"n":"token","vs":"s3cret"}]"#,
    ),
    (
        "mainflux",
        "channels/ctrl/messages/req",
        r#"[{"bn":"1b2e:","n":"write","vs":"{\"tag\":\"a/b\",\"value\":1}"},{"n":"expires","v":1763690000000},{"n":"sig","vs":"0f"}]"#,
    ),
    (
        "mainflux",
        "channels/ctrl/messages/req",
        r#"[{"bn":"1b2f:","n":"control","vs":"edgex-start,x"}]"#,
    ),
    (
        "mainflux",
        "channels/ctrl/messages/req",
        r#"[{"n":"status"}]"#,
    ),
    (
        "magistrala",
        "m/d/c/ctrl/req",
        r#"[{"bn":"1b30:","n":"config","vs":"apply,W2dhdGV3YXldCg=="}]"#,
    ),
    (
        "thingsboard",
        "v1/devices/me/rpc/request/12",
        r#"{"method":"read","params":{"tags":["boiler/pressure"]}}"#,
    ),
    (
        "thingsboard",
        "v1/devices/me/rpc/request/13",
        r#"{"method":"config_get","params":{"id":"r-7","expires":1763690000000}}"#,
    ),
    (
        "thingsboard",
        "v1/gateway/rpc",
        r#"{"device":"boiler","data":{"id":5,"method":"write","params":{"tag":"set","value":2}}}"#,
    ),
    (
        "thingsboard",
        "v1/gateway/rpc",
        r#"{"device":"boiler","data":{"id":6,"method":"read","params":"x"}}"#,
    ),
    ("thingsboard", "v1/gateway/rpc", r#"{"device":"boiler"}"#),
    (
        "azure-iot-hub",
        "$iothub/methods/POST/read/?$rid=1a",
        r#"{"tags":["boiler/pressure"]}"#,
    ),
    (
        "azure-iot-hub",
        "$iothub/methods/POST/config_apply/?$rid=1b",
        r#"{"id":"m-1","args":{"toml":""},"sig":"aa"}"#,
    ),
    (
        "azure-iot-hub",
        "$iothub/methods/POST/status/?$rid=1c",
        "null",
    ),
    ("azure-iot-hub", "$iothub/methods/POST/status/?$rid=1d", "{"),
    (
        "aws-iot",
        "$aws/things/t-1/jobs/notify-next",
        r#"{"timestamp":1763690000,"execution":{"jobId":"j-1","status":"QUEUED","queuedAt":1763690000,"lastUpdatedAt":1763690000,"versionNumber":1,"executionNumber":2,"jobDocument":{"op":"config.apply","args":{"toml":"[gateway]\n"}}}}"#,
    ),
    (
        "aws-iot",
        "$aws/things/t-1/jobs/notify-next",
        r#"{"timestamp":1763690000}"#,
    ),
    (
        "aws-iot",
        "$aws/things/t-1/jobs/$next/get/accepted",
        r#"{"clientToken":"x","timestamp":1,"execution":{"jobId":"j-2","executionNumber":1,"jobDocument":{"do":"it"}}}"#,
    ),
    (
        "aws-iot",
        "$aws/things/t-1/shadow/update/delta",
        r#"{"version":3,"timestamp":1,"state":{"millrace_command":[{"id":"s-1","op":"write","args":{"tag":"a/b","value":1}}]},"metadata":{}}"#,
    ),
    (
        "aws-iot",
        "$aws/things/t-1/shadow/get/accepted",
        r#"{"state":{"desired":{"x":1},"reported":{"millrace_command":[]},"delta":{"x":1}},"version":4}"#,
    ),
    (
        "aws-iot",
        "$aws/things/t-1/shadow/update/delta",
        r#"{"state":{"millrace_command":{"id":"s-2","op":"status"}}}"#,
    ),
    ("cumulocity", "s/ds", "510,gw-1"),
    (
        "cumulocity",
        "s/ds",
        "511,gw-1:boiler,\"read {\"\"tags\"\":[\"\"pressure\"\"]}\"\n511,gw-1,status",
    ),
    (
        "cumulocity",
        "s/ds",
        "524,gw-1,https://c.example/f/1#sha256=ab12,millrace",
    ),
    (
        "cumulocity",
        "s/ds",
        "522,gw-1,logfileA,2013-06-22T17:03:14.000+02:00,2013-06-22T18:03:14.000+02:00,ERROR,1000",
    ),
];

fn replies(id: &str) -> [Reply; 4] {
    let reply = |status, result, error: Option<&str>| Reply {
        id: id.to_owned(),
        status,
        result,
        error: error.map(str::to_owned),
    };
    [
        reply(
            ReplyStatus::Done,
            Some(json!([{"tag": "boiler/pressure", "value": 1.25, "text": "say \"a,b\"\n"}])),
            None,
        ),
        reply(ReplyStatus::Failed, None, Some("boiler does not answer")),
        reply(ReplyStatus::Rejected, None, Some("`write` is not granted")),
        reply(ReplyStatus::Expired, None, Some("it came after `expires`")),
    ]
}

fn shown(message: Option<crate::Message>, out: &mut String) {
    if let Some(message) = message {
        let text = String::from_utf8(message.payload.to_vec()).unwrap();
        let _ = writeln!(out, "  -> {}\n     {text}", message.topic);
    }
}

#[test]
fn every_codec_by_example() {
    let profiles = profiles();
    let now = Some(Timestamp::from_unix_ms(1_763_690_000_500));
    let mut out = String::new();
    let mut answered = std::collections::BTreeSet::new();
    for (name, topic, payload) in ASKED {
        let profile = &profiles[name];
        let filters: Vec<&str> = profile.command_filters().collect();
        assert!(
            filters
                .iter()
                .any(|filter| crate::topic::matches(filter, topic))
        );
        let _ = writeln!(out, "# {name}: {topic}\n{payload}");
        let incoming = Incoming {
            topic,
            payload: payload.as_bytes(),
            ..Incoming::default()
        };
        for decoded in profile.commands(&incoming).expect("a topic of commands") {
            match decoded {
                Ok(Command {
                    id,
                    fleeting,
                    op,
                    args,
                    expires,
                    proof,
                    reply_to,
                }) => {
                    let fleeting = if fleeting { ", on this connection" } else { "" };
                    let _ = writeln!(out, "  {op} {args} as {id:?}{fleeting}");
                    let _ = writeln!(out, "  expires {expires:?}, signed {:?}", proof.signed);
                    if proof.sig.is_some() || proof.token.is_some() {
                        let _ = writeln!(out, "  sig {:?}, token {:?}", proof.sig, proof.token);
                    }
                    shown(profile.begun(&reply_to), &mut out);
                    let first = answered.insert(reply_to.codec.clone());
                    for reply in &replies(&id)[..if first { 4 } else { 1 }] {
                        shown(profile.reply(reply, &reply_to, now), &mut out);
                    }
                }
                Err(Garbled { error, reply_to }) => {
                    let _ = writeln!(out, "  no command: {error}");
                    if let Some(to) = &reply_to {
                        shown(profile.reply(&replies("")[2], to, now), &mut out);
                    }
                }
            }
        }
        out.push('\n');
    }
    assert_eq!(answered.len(), CommandCodec::WORDS.len(), "{answered:?}");
    insta::with_settings!({snapshot_path => "../../tests/golden", prepend_module_to_snapshot => false}, {
        insta::assert_snapshot!("commands", out);
    });
}

#[test]
fn profiles_without_their_variable_subscribe_nothing() {
    let none = |name: &str, vars: &[(&str, &str)]| profile(name, vars).command_filters().count();
    assert_eq!(none("mainflux", &[("channel", "c")]), 0);
    assert_eq!(none("aws-iot", &[]), 1);
}

#[test]
fn the_asker_says_where_the_answer_goes() {
    let profile = Profile::generic("gw-1");
    let incoming = Incoming {
        topic: "millrace/gw-1/cmd",
        payload: br#"{"id":"1","op":"status"}"#,
        response_topic: Some("asker/7"),
        correlation: Some(&[1, 0xff]),
    };
    let command = profile.commands(&incoming).unwrap().remove(0).unwrap();
    assert_eq!(command.reply_to.correlation, "01ff");
    let reply = profile
        .reply(&replies("1")[1], &command.reply_to, None)
        .unwrap();
    assert_eq!(reply.topic, "asker/7");
    let correlation = reply.properties.unwrap().correlation;
    assert_eq!(correlation.as_deref(), Some(&[1, 0xff][..]));
    for wrong in ["", "asker/+", "$SYS/x"] {
        let incoming = Incoming {
            response_topic: Some(wrong),
            ..incoming
        };
        let command = profile.commands(&incoming).unwrap().remove(0).unwrap();
        assert_eq!(command.reply_to.topic, "millrace/gw-1/cmd/1", "{wrong}");
    }
    assert_eq!(
        profile
            .commands(&Incoming {
                topic: "millrace/gw-1/cmd/1",
                ..incoming
            })
            .map(|_| ()),
        None
    );
}

#[test]
fn too_large_is_no_command() {
    let payload = vec![b' '; COMMAND_BYTES_MAX + 1];
    for (name, topic, _) in ASKED {
        let incoming = Incoming {
            topic,
            payload: &payload,
            ..Incoming::default()
        };
        let decoded = profiles()[name].commands(&incoming).unwrap().remove(0);
        assert!(matches!(
            decoded.unwrap_err().error,
            CommandError::TooLarge { .. }
        ));
    }
}

#[test]
fn signatures_and_tokens() {
    // openssl dgst -sha256 -hmac key
    let key = Secret::new("key");
    let sig = "57f4f1a92c22d45d06cb4a8bb2d3d3e9fa2e0a1bbd1b7de3e5d0e4a8b4a2d6c8";
    assert!(!is_signed(&key, "a|b|c|d", sig));
    let right = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, b"key"), b"a|b|c|d");
    let hex: String = right.as_ref().iter().map(|b| format!("{b:02x}")).collect();
    assert!(is_signed(&key, "a|b|c|d", &hex) && is_signed(&key, "a|b|c|d", &hex.to_uppercase()));
    for (signed, sig) in [
        ("a|b|c|e", hex.as_str()),
        ("a|b|c|d", ""),
        ("a|b|c|d", &hex[1..]),
        ("a|b|c|d", "é"),
    ] {
        assert!(!is_signed(&key, signed, sig), "{sig}");
    }
    assert!(is_token(&key, "key") && !is_token(&key, "ke") && !is_token(&key, ""));
}

/// A command in the words of each core, and where it comes.
fn written(name: &str, id: &str, op: &str, args: &Value) -> (&'static str, String) {
    match name {
        "generic" => (
            "millrace/gw-1/cmd",
            json!({"id": id, "op": op, "args": args}).to_string(),
        ),
        "mainflux" => (
            "channels/ctrl/messages/req",
            json!([{"bn": format!("{id}:"), "n": op, "vs": args.to_string()}]).to_string(),
        ),
        "thingsboard" => (
            "v1/devices/me/rpc/request/3",
            json!({"method": op, "params": {"id": id, "args": args}}).to_string(),
        ),
        "azure-iot-hub" => (
            "$iothub/methods/POST/write/?$rid=1",
            json!({"id": id, "args": args}).to_string(),
        ),
        "aws-iot" => (
            "$aws/things/t-1/shadow/update/delta",
            json!({"state": {"millrace_command": [{"id": id, "op": op, "args": args}]}})
                .to_string(),
        ),
        _ => {
            let text = format!("{op} {}", json!({"id": id, "args": args}));
            (
                "s/ds",
                format!("511,gw-1,\"{}\"", text.replace('"', "\"\"")),
            )
        }
    }
}

proptest! {
    #[test]
    fn commands_come_through_every_codec(
        id in "[ -~]{1,40}",
        tag in "\\PC{0,20}",
        value in any::<i64>(),
    ) {
        prop_assume!(!id.ends_with(':'));
        let args = json!({"tag": tag, "value": value});
        for (name, profile) in profiles() {
            if name == "magistrala" {
                continue;
            }
            let (topic, payload) = written(name, &id, "write", &args);
            let incoming = Incoming { topic, payload: payload.as_bytes(), ..Incoming::default() };
            let command = profile.commands(&incoming).unwrap().remove(0).unwrap();
            prop_assert_eq!((&command.id, command.op.as_str(), &command.args), (&id, "write", &args));
            prop_assert!(!command.fleeting);
            // The way back holds over a restart.
            let kept = serde_json::to_string(&command.reply_to).unwrap();
            let to: ReplyTo = serde_json::from_str(&kept).unwrap();
            prop_assert_eq!(&to, &command.reply_to);
            let reply = profile.reply(&replies(&id)[0], &to, None).unwrap();
            prop_assert!(crate::topic::TopicRules::default().problem(&reply.topic).is_none());
        }
    }

    #[test]
    fn nothing_that_comes_does_harm(payload in proptest::collection::vec(any::<u8>(), 0..200), at in 0..ASKED.len()) {
        let (name, topic, _) = ASKED[at];
        let incoming = Incoming { topic, payload: &payload, ..Incoming::default() };
        for decoded in profiles()[name].commands(&incoming).unwrap() {
            let _ = decoded.map_err(|garbled| garbled.error.to_string());
        }
    }

    #[test]
    fn broken_examples_do_no_harm(at in 0..ASKED.len(), cut in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let (name, topic, text) = ASKED[at];
        let mut payload = text.as_bytes().to_vec();
        let index = cut.index(payload.len());
        payload[index] = byte;
        let incoming = Incoming { topic, payload: &payload, ..Incoming::default() };
        for command in profiles()[name].commands(&incoming).unwrap().into_iter().flatten() {
            profiles()[name].reply(&replies("1")[0], &command.reply_to, None);
        }
    }
}
