//! Commands in the words of each core, through mosquitto, from a commander that others wrote (paho in Python).

use anyhow::{Context, Result, ensure};
use millrace_tests::agent::Gateway;
use millrace_tests::broker::Broker;
use millrace_tests::certificates::Certificates;
use millrace_tests::peer::Peer;
use millrace_tests::wait::{STEP, wait_for};
use serde_json::{Value, json};

use crate::plant;

/// One command and what must come back: topics, in order.
struct Exchange {
    topic: &'static str,
    payload: String,
    answers: &'static [&'static str],
}

fn exchange(topic: &'static str, payload: &Value, answers: &'static [&'static str]) -> Exchange {
    let payload = match payload {
        Value::String(text) => text.clone(),
        payload => payload.to_string(),
    };
    Exchange {
        topic,
        payload,
        answers,
    }
}

const REQ: &str = "channels/ctrl/messages/req";
const RES: &[&str] = &["channels/ctrl/messages/res"];
const METHOD: &str = "$iothub/methods/POST";
const JOB: &[&str] = &[
    "$aws/things/t-1/jobs/j-1/update",
    "$aws/things/t-1/jobs/j-1/update",
];

fn exchanges() -> Vec<Exchange> {
    let job = json!({"execution": {"jobId": "j-1", "executionNumber": 1,
        "jobDocument": {"op": "read", "args": {"tags": ["pump/t0"]}}}});
    let delta = json!({"state": {"millrace_command": [{"id": "s-1", "op": "write", "args": {}}]}, "version": 2});
    let azure = |op: &str, rid: &str| -> &'static str {
        Box::leak(format!("{METHOD}/{op}/?$rid={rid}").into_boxed_str())
    };
    vec![
        exchange(
            REQ,
            &json!([{"bn": "u-1:", "n": "read", "vs": "pump/t0"}]),
            RES,
        ),
        exchange(REQ, &json!([{"bn": "u-2:", "n": "exec", "vs": ""}]), RES),
        exchange(
            "v1/devices/me/rpc/request/7",
            &json!({"method": "read", "params": {"tags": ["pump/t0"]}}),
            &["v1/devices/me/rpc/response/7"],
        ),
        exchange(
            "v1/gateway/rpc",
            &json!({"device": "pump", "data": {"id": 9, "method": "read", "params": {}}}),
            // The broker gives us our own question, too: it is on the same topic.
            &["v1/gateway/rpc", "v1/gateway/rpc"],
        ),
        exchange(
            azure("read", "1a"),
            &json!({"tags": ["pump/t0"]}),
            &["$iothub/methods/res/200/?$rid=1a"],
        ),
        exchange(
            azure("write", "1b"),
            &json!(null),
            &["$iothub/methods/res/400/?$rid=1b"],
        ),
        exchange("$aws/things/t-1/jobs/notify-next", &job, JOB),
        exchange(
            "$aws/things/t-1/shadow/update/delta",
            &delta,
            &["$aws/things/t-1/shadow/update"],
        ),
        exchange(
            "s/ds",
            &json!("511,gw-1,\"read {\"\"tags\"\":[\"\"pump/t0\"\"]}\""),
            &["s/us", "s/us"],
        ),
        exchange("s/ds", &json!("522,gw-1,log,a,b,c,10"), &["s/us"]),
        exchange(
            "millrace/gw-1/cmd",
            &json!({"id": "own", "op": "read", "args": {"tags": ["pump/t0"]}}),
            &["millrace/gw-1/cmd/own"],
        ),
    ]
}

fn configuration(
    gateway: &Gateway,
    broker: &Broker,
    certificates: &Certificates,
) -> Result<String> {
    gateway.write("secret", "s3cret")?;
    let login = format!(
        "ca_file = \"{}\"\ncert_file = \"{}\"\nkey_file = \"{}\"\n",
        certificates.ca().display(),
        certificates.client().display(),
        certificates.client_key().display()
    );
    let plain = format!("mqtt://127.0.0.1:{}", broker.port);
    let tls = format!("mqtts://localhost:{}", broker.tls_port);
    let uplinks = [
        (
            "mainflux",
            &plain,
            "vars = { channel = \"data\", control = \"ctrl\" }\nusername = \"thing\"\npassword_file = \"secret\"\n",
        ),
        ("thingsboard", &plain, "password_file = \"secret\"\n"),
        (
            "azure-iot-hub",
            &tls,
            &format!("vars = {{ hub = \"h.example\", device = \"azure-iot-hub\" }}\n{login}"),
        ),
        (
            "aws-iot",
            &tls,
            &format!("vars = {{ thing = \"t-1\" }}\n{login}"),
        ),
        ("cumulocity", &plain, ""),
        ("generic", &plain, ""),
    ];
    let uplink = |(name, url, more): &(&str, &String, &str)| {
        format!(
            "[[uplink]]\nname = \"{name}\"\nclient_id = \"{name}\"\nprofile = \"{name}\"\nurl = \"{url}\"\n{more}\n"
        )
    };
    Ok(uplinks.iter().map(uplink).collect())
}

#[test]
fn each_core_is_answered_in_its_own_words() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let certificates = Certificates::make(directory.path())?;
    let broker = Broker::start_tls(directory.path(), &certificates)?;
    let (_pump, port) = plant::start_pump(directory.path(), &[])?;
    let mut gateway = Gateway::new(directory.path());
    let uplinks = configuration(&gateway, &broker, &certificates)?;
    gateway.configure(&(uplinks + &plant::small_pump_config(port, &[0])))?;
    gateway.start()?;
    wait_for("all uplinks and a good value", STEP, || {
        let status = gateway.json(&["status"]).ok()?;
        let uplinks = status["uplinks"].as_array()?;
        let up = uplinks.iter().all(|uplink| uplink["state"] == "connected");
        (up && status["devices"][0]["tags_good"] == 1).then_some(())
    })
    .with_context(|| gateway.log())?;

    let play: Vec<Value> = exchanges()
        .iter()
        .map(|it| json!({"topic": it.topic, "payload": it.payload, "answers": it.answers}))
        .collect();
    gateway.write("play.json", &json!(play).to_string())?;
    let port = broker.port.to_string();
    let core = Peer::start(
        "commander.py",
        &["--port", &port, "--play", "play.json"],
        directory.path(),
    )?;
    let mut said = Vec::new();
    wait_for("all answers", 3 * STEP, || {
        said.extend(core.said());
        (said.len() == play.len()).then_some(())
    })
    .with_context(|| format!("{said:?}\n{}", gateway.log()))?;

    let text =
        |at: usize, nth: usize| -> &str { said[at][nth]["payload"].as_str().unwrap_or_default() };
    let parsed =
        |at: usize, nth: usize| -> Result<Value> { Ok(serde_json::from_str(text(at, nth))?) };
    let pack = parsed(0, 0)?;
    ensure!(pack[0]["bn"] == "u-1" && pack[0]["n"] == "read", "{pack}");
    let values: Value = serde_json::from_str(pack[0]["vs"].as_str().context("vs")?)?;
    ensure!(
        values[0]["tag"] == "pump/t0" && values[0]["value"].is_u64(),
        "{pack}"
    );
    ensure!(
        text(1, 0).contains("rejected: `exec` is not granted"),
        "{}",
        text(1, 0)
    );
    let rpc = parsed(2, 0)?;
    ensure!(
        rpc["status"] == "done" && rpc["result"][0]["tag"] == "pump/t0",
        "{rpc}"
    );
    let answer = [parsed(3, 0)?, parsed(3, 1)?]
        .into_iter()
        .find(|it| it["id"] == 9);
    let answer = answer.context("an answer of the gateway API")?;
    ensure!(
        answer["device"] == "pump" && answer["data"]["result"][0]["value"].is_u64(),
        "{answer}"
    );
    ensure!(
        parsed(4, 0)?["result"][0]["value"].is_u64(),
        "{}",
        text(4, 0)
    );
    ensure!(
        text(5, 0).contains("`write` is not granted"),
        "{}",
        text(5, 0)
    );
    ensure!(parsed(6, 0)?["status"] == "IN_PROGRESS", "{}", text(6, 0));
    let done = parsed(6, 1)?;
    ensure!(
        done["status"] == "SUCCEEDED" && done["statusDetails"]["result"].is_string(),
        "{done}"
    );
    let shadow = parsed(7, 0)?;
    let reported = &shadow["state"]["reported"];
    ensure!(
        reported["millrace_reply"]["status"] == "rejected",
        "{shadow}"
    );
    ensure!(reported["millrace_command"][0]["id"] == "s-1", "{shadow}");
    ensure!(text(8, 0) == "501,c8y_Command", "{}", text(8, 0));
    ensure!(
        text(8, 1).starts_with("503,c8y_Command,\"[{"),
        "{}",
        text(8, 1)
    );
    ensure!(
        text(9, 0).starts_with("502,c8y_LogfileRequest,\""),
        "{}",
        text(9, 0)
    );
    ensure!(parsed(10, 0)?["status"] == "done", "{}", text(10, 0));
    gateway.terminate()?;
    Ok(())
}

/// HMAC-SHA256 of a text, hexadecimal, as `openssl` has it.
fn signed(key: &str, text: &str) -> Result<String> {
    let script = "import hmac,sys; print(hmac.new(sys.argv[1].encode(), sys.argv[2].encode(), 'sha256').hexdigest())";
    let output = std::process::Command::new(millrace_tests::peer::python()?)
        .args(["-c", script, key, text])
        .output()?;
    ensure!(output.status.success(), "{output:?}");
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

#[test]
fn signed_commands_only_where_there_is_a_key() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let broker = Broker::start(directory.path())?;
    let core = millrace_tests::commander::Commander::start(broker.port)?;
    let mut gateway = Gateway::new(directory.path());
    gateway.write("command.key", "k3y\n")?;
    let rights = "[local]\ncommands = [\"status\"]\ncommand_key_file = \"command.key\"\n";
    gateway.configure(&(plant::uplink_config(broker.port) + rights))?;
    gateway.start()?;
    wait_for("an uplink", STEP, || {
        let status = gateway.json(&["status"]).ok()?;
        (status["uplinks"][0]["state"] == "connected").then_some(())
    })?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let expires = u64::try_from(now.as_millis())? + 60_000;
    let sig = signed("k3y", &format!("c-1|status||{expires}"))?;
    let right = json!({"id": "c-1", "op": "status", "expires": expires, "sig": sig});
    let reply = core.ask(&right)?;
    assert_eq!(reply["status"], "done", "{reply}");
    let mut moved = right.clone();
    moved["id"] = json!("c-2");
    let reply = core.ask(&moved)?;
    assert!(
        reply["error"].to_string().contains("`sig` does not fit"),
        "{reply}"
    );
    let bare = core.ask(&json!({"id": "c-3", "op": "status"}))?;
    assert!(bare["error"].to_string().contains("not signed"), "{bare}");
    // A new key counts at once.
    gateway.write("command.key", "n3w\n")?;
    let reply = core.ask(&right)?;
    assert_eq!(reply["status"], "rejected", "{reply}");
    Ok(())
}
