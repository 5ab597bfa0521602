//! Bad input of each kind: the agent runs on, and what it says names the place and the fix.

use anyhow::Result;
use millrace_tests::agent::Gateway;
use millrace_tests::broker::Broker;
use millrace_tests::peer::Peer;
use millrace_tests::ports::free_port;
use millrace_tests::subscriber::Subscriber;
use millrace_tests::wait::{STEP, wait_for};
use serde_json::Value;

use crate::plant;

#[test]
fn check_names_every_problem_with_its_place() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let gateway = Gateway::new(directory.path());
    gateway.configure(
        "[[device]]\nname = \"pump\"\ndriver = \"modbus-tcp\"\naddress = \"127.0.0.1:502\"\npol_interval = \"1s\"\n\n\
         [[device.tag]]\nname = \"a\"\naddress = \"123\"\ntype = \"u16\"\n\n\
         [[device.tag]]\nname = \"b\"\naddress = \"holding:1\"\ntype = \"u17\"\n",
    )?;
    let output = gateway.cli(&["check", "--config", "millrace.toml"])?;
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    // Line of the unknown key, with the nearest known one; the bare address with both readings; the type.
    for expected in [
        "millrace.toml:9",
        "poll_interval",
        "millrace.toml:13",
        "holding:",
        "millrace.toml:19",
        "u17",
    ] {
        assert!(text.contains(expected), "{expected} is not in:\n{text}");
    }
    Ok(())
}

#[test]
fn check_accepts_a_good_configuration() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let gateway = Gateway::new(directory.path());
    gateway.configure(&plant::small_pump_config(502, &[0, 1]))?;
    let output = gateway.cli(&["check", "--config", "millrace.toml"])?;
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

#[test]
fn a_broken_configuration_starts_without_devices_and_says_so() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut gateway = Gateway::new(directory.path());
    gateway.write("millrace.toml", "[gateway\nid = 3")?;
    gateway.launch(&["--data-dir", "data"])?;
    let status = wait_for("status", STEP, || gateway.json(&["status"]).ok())?;
    assert_eq!(status["config"]["source"], "none", "{status}");
    assert!(mentions(&status, "millrace.toml:1"), "{status}");
    Ok(())
}

#[test]
fn strict_refuses_a_broken_configuration() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let gateway = Gateway::new(directory.path());
    gateway.write("millrace.toml", "[gateway\nid = 3")?;
    let output = gateway.cli(&[
        "run",
        "--strict",
        "--config",
        "millrace.toml",
        "--data-dir",
        "data",
    ])?;
    assert_eq!(output.status.code(), Some(2));
    Ok(())
}

#[test]
fn a_configuration_broken_later_starts_the_last_good_one() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut gateway = Gateway::new(directory.path());
    let (_pump, port) = plant::start_pump(directory.path(), &[])?;
    gateway.configure(&plant::small_pump_config(port, &[0, 1]))?;
    gateway.start()?;
    wait_for("good values", STEP, || {
        device(&gateway, "pump").filter(|pump| pump["tags_good"] == 2)
    })?;
    gateway.terminate()?;

    gateway
        .configure(&plant::small_pump_config(port, &[0, 1]).replace("modbus-tcp", "modbus-udp"))?;
    gateway.launch(&["--data-dir", "data"])?;
    wait_for("good values again", STEP, || {
        device(&gateway, "pump").filter(|pump| pump["tags_good"] == 2)
    })?;
    let status = gateway.json(&["status"])?;
    assert_eq!(status["config"]["source"], "last-good", "{status}");
    assert!(mentions(&status, "modbus-udp"), "{status}");
    Ok(())
}

#[test]
fn an_unreachable_device_gives_bad_samples_and_an_event_until_it_is_back() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let broker = Broker::start(directory.path())?;
    let subscriber = Subscriber::start(broker.port)?;
    let (mut pump, port) = plant::start_pump(directory.path(), &[])?;
    let mut gateway = Gateway::new(directory.path());
    gateway.configure(
        &(plant::uplink_config(broker.port) + &plant::small_pump_config(port, &[0, 1])),
    )?;
    gateway.start()?;
    subscriber.wait("live data", STEP, |got| got.count("pump") > 10)?;

    pump.kill();
    subscriber.wait("bad samples", STEP, |got| {
        got.of_tag("pump", "t0").any(|sample| {
            sample.value.is_null()
                && sample.quality.as_deref() == Some("bad")
                && matches!(sample.reason.as_deref(), Some("not-connected" | "timeout"))
        })
    })?;
    subscriber.wait("the event's begin", STEP, |got| {
        got.events_of("pump")
            .any(|event| event["kind"] == "comms" && event["state"] == "begin")
    })?;

    let port_text = port.to_string();
    let _again = Peer::start("modbus_ticks.py", &["--port", &port_text], directory.path())?;
    subscriber.wait("the event's end", STEP, |got| {
        got.events_of("pump")
            .any(|event| event["kind"] == "comms" && event["state"] == "end")
    })?;
    subscriber.wait("good samples again", STEP, |got| {
        got.of_tag("pump", "t1")
            .last()
            .is_some_and(|sample| sample.quality.is_none())
    })?;
    assert_eq!(subscriber.stop().violations, Vec::<String>::new());
    Ok(())
}

#[test]
fn an_illegal_register_costs_only_itself() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let broker = Broker::start(directory.path())?;
    let subscriber = Subscriber::start(broker.port)?;
    let (_pump, port) = plant::start_pump(directory.path(), &["--illegal", "57"])?;
    let mut gateway = Gateway::new(directory.path());
    let pump = plant::pump_config(&gateway, port, "200ms")?;
    gateway.configure(&(plant::uplink_config(broker.port) + &pump))?;
    gateway.start()?;
    subscriber.wait("ten cycles", STEP, |got| {
        got.of_tag("pump", "t199").count() > 10
    })?;

    let got = subscriber.stop();
    assert_eq!(got.violations, Vec::<String>::new());
    assert!(got.of_tag("pump", "t57").count() > 0);
    for sample in got.of_tag("pump", "t57") {
        assert_eq!(
            sample.reason.as_deref(),
            Some("illegal-address"),
            "{sample:?}"
        );
    }
    for index in (0..plant::TAGS).filter(|index| *index != 57) {
        for sample in got.of_tag("pump", &format!("t{index}")) {
            assert_eq!(sample.quality, None, "{sample:?}");
        }
    }
    Ok(())
}

#[test]
fn a_garbled_bootstrap_reply_leaves_the_agent_running() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut gateway = Gateway::new(directory.path());
    let port = free_port()?;
    gateway.write(
        "gateways.json",
        r#"{"gw-1": {"key": "external-key", "reply": {"mainflux_id": "x", "content": "[[device]\nname="}}}"#,
    )?;
    gateway.write("bootstrap.key", "external-key")?;
    let port_text = port.to_string();
    let args = ["--port", &port_text, "--gateways", "gateways.json"];
    let core = Peer::start("bootstrap_server.py", &args, directory.path())?;
    let (_pump, pump_port) = plant::start_pump(directory.path(), &[])?;
    gateway.configure(&format!(
        "{}[bootstrap]\nprovider = \"mainflux\"\nurl = \"http://127.0.0.1:{port}/things/bootstrap\"\n\
         external_id = \"gw-1\"\nexternal_key_file = \"bootstrap.key\"\n",
        plant::small_pump_config(pump_port, &[0])
    ))?;
    gateway.start()?;
    wait_for("a request", STEP, || {
        core.said()
            .iter()
            .any(|said| said["status"] == 200)
            .then_some(())
    })?;
    let status = wait_for("a status that says so", STEP, || {
        let status = gateway.json(&["status"]).ok()?;
        status["bootstrap"]["message"]
            .as_str()
            .is_some_and(|message| !message.is_empty())
            .then_some(status)
    })?;
    assert_ne!(status["bootstrap"]["state"], "ready", "{status}");
    wait_for("polling all the same", STEP, || {
        device(&gateway, "pump").filter(|pump| pump["tags_good"] == 1)
    })?;
    Ok(())
}

#[test]
fn a_damaged_model_leaves_the_agent_polling() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut gateway = Gateway::new(directory.path());
    let (_pump, port) = plant::start_pump(directory.path(), &[])?;
    std::fs::create_dir(gateway.path("bundle"))?;
    gateway.write(
        "bundle/model.toml",
        "name = \"m\"\nversion = \"1\"\n[model]\nfile = \"model.onnx\"\n",
    )?;
    gateway.write("bundle/model.onnx", "not a model")?;
    gateway.configure(&format!(
        "{}[[model]]\nname = \"watch\"\nbundle = \"bundle\"\n[model.inputs]\nflow = \"pump/t0\"\n",
        plant::small_pump_config(port, &[0])
    ))?;
    gateway.start()?;
    wait_for("good values", STEP, || {
        device(&gateway, "pump").filter(|pump| pump["tags_good"] == 1)
    })?;
    // Its bundle is looked at while polling goes on.
    wait_for("what is wrong with the model", STEP, || {
        let status = gateway.json(&["status"]).ok()?;
        let model = find(&status["models"], "watch")?;
        let error = model["error"].as_str()?;
        error.contains("model").then_some(())
    })?;
    Ok(())
}

/// The row of a device in `status`.
fn device(gateway: &Gateway, name: &str) -> Option<Value> {
    find(&gateway.json(&["status"]).ok()?["devices"], name)
}

fn find(rows: &Value, name: &str) -> Option<Value> {
    rows.as_array()?
        .iter()
        .find(|row| row["name"] == name)
        .cloned()
}

fn mentions(value: &Value, text: &str) -> bool {
    value.to_string().contains(text)
}
