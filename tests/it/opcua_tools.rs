//! What a person can ask of a foreign OPC UA server: by its address, or as a device of the agent.

use anyhow::{Context, Result};
use millrace_tests::agent::Gateway;
use millrace_tests::broker::Broker;
use millrace_tests::commander::Commander;
use millrace_tests::subscriber::Subscriber;
use millrace_tests::wait::{STEP, wait_for};
use serde_json::{Value, json};

use crate::opcua_values::{device, start};
use crate::plant;

const PLANT: &str = "nsu=urn:millrace:types;s=Plant";

fn tags() -> String {
    let mut text = String::new();
    for name in ["set-u8", "set-mode", "set-never", "set-f64", "set-array"] {
        let more = match name {
            "set-f64" => "scale = 0.1\n",
            _ => "",
        };
        text.push_str(&format!(
            "[[device.tag]]\nname = \"{name}\"\naddress = \"nsu=urn:millrace:types;s={name}\"\nwritable = true\n{more}\n"
        ));
    }
    text
}

fn said(gateway: &Gateway, args: &[&str]) -> Result<(bool, String)> {
    let output = gateway.cli(args)?;
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    Ok((
        output.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    ))
}

fn node<'t>(tree: &'t Value, name: &str) -> Result<&'t Value> {
    let mut nodes = tree["nodes"].as_array().context("nodes")?.iter();
    let named = nodes.find(|node| node["display_name"] == name);
    named.with_context(|| format!("no {name} in {tree}"))
}

#[test]
fn nodes_are_walked_and_become_tags_that_run() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (_server, port) = start(directory.path())?;
    let url = format!("opc.tcp://127.0.0.1:{port}/types");
    let mut gateway = Gateway::new(directory.path());
    let tree = gateway.json(&["browse", &url, PLANT, "--security", "None"])?;
    assert_eq!(tree["cut"], false);
    let matrix = node(&tree, "matrix")?;
    assert_eq!(matrix["type"], "Int32[][]");
    assert_eq!(matrix["value"], json!([[1, 2, 3], [4, 5, 6]]));
    assert_eq!(node(&tree, "mode")?["value"], "running");
    assert_eq!(node(&tree, "mode")?["type"], "Mode");
    assert_eq!(node(&tree, "set-u8")?["access"], "rw");
    assert_eq!(node(&tree, "set-never")?["access"], "r");
    assert_eq!(node(&tree, "mix")?["class"], "method");
    let cut = gateway.json(&["browse", &url, "--security", "None", "--max", "5"])?;
    assert_eq!(
        (cut["cut"].as_bool(), cut["nodes"].as_array().map(Vec::len)),
        (Some(true), Some(5))
    );

    let (fine, csv) = said(
        &gateway,
        &[
            "browse",
            &url,
            "nsu=urn:millrace:types;s=Setpoints",
            "--security",
            "None",
            "--csv",
        ],
    )?;
    assert!(fine, "{csv}");
    assert!(
        csv.starts_with("name,address,unit\nset-u8,nsu=urn:millrace:types;s=set-u8,\n"),
        "{csv}"
    );
    gateway.write("plant.csv", &csv)?;
    gateway.configure(&device(port, "poll").replace("\n\n", "\ntags_file = \"plant.csv\"\n\n"))?;
    gateway.start()?;
    wait_for("every set point", STEP, || {
        let status = gateway.json(&["status"]).ok()?;
        (status["devices"][0]["tags_good"] == 14).then_some(())
    })?;
    // Through the agent, with what is configured there.
    let tree = gateway.json(&["browse", "types", PLANT, "--depth", "1"])?;
    assert_eq!(tree["cut"], true);
    node(&tree, "Setpoints")?;
    let identity = gateway.json(&["identify", "types"])?;
    assert_eq!(identity["about"]["state"], "Running", "{identity}");
    assert_eq!(identity["endpoints"][0]["policy"], "None");
    assert_eq!(identity["namespaces"][2], "urn:millrace:types");
    let (fine, text) = said(&gateway, &["browse", "pump"])?;
    assert!(!fine && text.contains("there are: types"), "{text}");
    Ok(())
}

#[test]
fn methods_are_called_with_checked_arguments() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (_server, port) = start(directory.path())?;
    let url = format!("opc.tcp://127.0.0.1:{port}/types");
    let mut gateway = Gateway::new(directory.path());
    let call = |server: &str, args: &[&str]| {
        let login: &[&str] = if server == "types" {
            &[]
        } else {
            &["--security", "None"]
        };
        let all = [&["call", server, PLANT][..], args, login].concat();
        said(&gateway, &all)
    };
    let (fine, text) = call(&url, &["mix", "4", "0.5", "12"])?;
    assert!(fine, "{text}");
    assert_eq!(text, "mass = 2.0\nshouted = 12\n");
    for (args, part) in [
        (
            &["mix", "4", "0.5"][..],
            "2 arguments were given, 3 are taken",
        ),
        (&["mix", "four", "0.5", "x"], "parts (Double)"),
        (&["mix", "4", "1e39", "x"], "ratio: "),
        (&["blend"], "it has 2:mix"),
    ] {
        let (fine, text) = call(&url, args)?;
        assert!(!fine && text.contains(part), "{args:?}: {text}");
    }

    gateway.configure(&(device(port, "subscribe") + &tags()))?;
    gateway.start()?;
    let called = gateway.json(&["call", "types", PLANT, "2:mix", "3", "2", "mash"])?;
    assert_eq!(called["outputs"][0], json!({"name": "mass", "value": 6.0}));
    let log = gateway.log();
    let audited = log
        .lines()
        .find(|line| line.contains("audit") && line.contains("2:mix"));
    assert!(audited.is_some_and(|line| line.contains("uid")), "{log}");
    Ok(())
}

#[test]
fn alarms_begin_are_updated_and_end() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let broker = Broker::start(directory.path())?;
    let subscriber = Subscriber::start(broker.port)?;
    let (_server, port) = start(directory.path())?;
    let mut gateway = Gateway::new(directory.path());
    let events =
        format!("publish_interval = \"100ms\"\nevents = [\"{PLANT}\"]\nevents_severity = 100");
    let device = device(port, "subscribe").replace("publish_interval = \"100ms\"", &events);
    gateway.configure(&(plant::uplink_config(broker.port) + &device + &tags()))?;
    gateway.start()?;
    wait_for("good values", STEP, || {
        let status = gateway.json(&["status"]).ok()?;
        (status["devices"][0]["tags_good"] == 5).then_some(())
    })?;
    let call = |args: &[&str]| gateway.json(&[&["call", "types", PLANT][..], args].concat());
    for (active, severity, message) in [
        ("true", "700", "high"),
        ("true", "900", "higher"),
        ("false", "1", "well"),
    ] {
        call(&["alarm", active, severity, message])?;
    }
    call(&["event", "99", "quiet"])?;
    call(&["event", "100", "started"])?;
    subscriber.wait("four events", STEP, |got| {
        got.events_of("types")
            .filter(|event| event["kind"] == "alarm")
            .count()
            >= 4
    })?;
    let got = subscriber.stop();
    assert_eq!(got.violations, Vec::<String>::new());
    let alarms: Vec<&Value> = got
        .events_of("types")
        .filter(|event| event["kind"] == "alarm")
        .collect();
    let told = |event: &&Value| {
        let text = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
        (text("state"), event["severity"].as_u64(), text("message"))
    };
    let told: Vec<_> = alarms.iter().map(told).collect();
    let expected = [
        ("begin", 700, "high"),
        ("update", 900, "higher"),
        ("end", 1, "well"),
        ("end", 100, "started"),
    ];
    let expected = expected
        .map(|(state, severity, message)| (state.to_owned(), Some(severity), message.to_owned()));
    assert_eq!(told, expected, "{alarms:?}");
    assert_eq!(alarms[0]["node"], PLANT);
    assert_eq!(alarms[0]["condition"], "high level");
    assert!(alarms[0]["st"].as_f64().is_some(), "{alarms:?}");
    assert_eq!(alarms[2]["start"], alarms[0]["start"]);
    let rows = gateway.json(&["events"])?;
    assert!(rows.to_string().contains("higher"), "{rows}");
    Ok(())
}

#[test]
fn writes_take_the_type_of_the_server_and_are_read_back() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (_server, port) = start(directory.path())?;
    let url = format!("opc.tcp://127.0.0.1:{port}/types");
    let gateway = Gateway::new(directory.path());
    let write = |name: &str, value: &str| {
        let node = format!("nsu=urn:millrace:types;s={name}");
        said(
            &gateway,
            &["write", "--on", &url, "--security", "None", &node, value],
        )
    };
    for (name, value, shown) in [
        ("set-u8", "255", "is 255, read back; it was 1"),
        ("set-i16", "-32768", "is -32768, read back; it was -1"),
        ("set-i64", "-9223372036854775808", "is -9223372036854775808"),
        ("set-f32", "0.1", "is 0.1, read back; it was 0.5"),
        ("set-f64", "5e-324", "is 5e-324"),
        ("set-bool", "on", "is true, read back; it was false"),
        ("set-string", "12", "is 12, read back; it was old"),
        (
            "set-time",
            "2026-11-21T07:30:15.123456Z",
            "is 2026-11-21T07:30:15.123456Z",
        ),
        (
            "set-guid",
            "72962b91-fa75-4ae6-8d28-b404dc7daf63",
            "is 72962b91",
        ),
        ("set-bytes", "AQID", "is 010203"),
        ("set-text", "neu", "is neu, read back; it was alt"),
        ("set-array", "[7,-8]", "is [7,-8], read back; it was [1,2]"),
        ("set-mode", "fault", "is fault, read back; it was off"),
    ] {
        let (fine, text) = write(name, value)?;
        assert!(fine && text.contains(shown), "{name}: {text}");
    }
    for (name, value, part) in [
        ("set-u8", "256", "0 to 255"),
        ("set-i16", "1.5", "no whole number"),
        ("set-f32", "1e39", "the range is"),
        ("set-mode", "broken", "0=off, 1=running, 2=fault"),
        ("set-array", "[1,3000000000]", "element 1"),
        ("set-never", "2", "can only be read"),
        ("set-nowhere", "2", "BadNodeIdUnknown"),
    ] {
        let (fine, text) = write(name, value)?;
        assert!(!fine && text.contains(part), "{name}: {text}");
    }
    Ok(())
}

#[test]
fn writes_through_the_agent_are_granted_and_kept() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let broker = Broker::start(directory.path())?;
    let (_server, port) = start(directory.path())?;
    let mut gateway = Gateway::new(directory.path());
    let local =
        "[local]\ncommands = [\"write\"]\nwrite_tags = [\"types/set-u8\", \"types/set-mode\"]\n\n";
    gateway.configure(
        &(local.to_owned()
            + &plant::uplink_config(broker.port)
            + &device(port, "subscribe")
            + &tags()),
    )?;
    gateway.start()?;
    let commander = Commander::start(broker.port)?;
    wait_for("good values", STEP, || {
        let status = gateway.json(&["status"]).ok()?;
        (status["devices"][0]["tags_good"] == 5).then_some(())
    })?;
    let done = gateway.json(&["write", "types/set-u8", "42"])?;
    assert_eq!((&done["old"], &done["read_back"]), (&json!(1), &json!(42)));
    let done = gateway.json(&["write", "types/set-f64", "7.5"])?;
    assert_eq!(
        (&done["old"], &done["read_back"]),
        (&json!(0.05), &json!(7.5))
    );
    let done = gateway.json(&["write", "types/set-array", "[3,4]"])?;
    assert_eq!(done["read_back"], json!([3, 4]));
    let (fine, text) = said(&gateway, &["write", "types/set-never", "3"])?;
    assert!(!fine && text.contains("can only be read"), "{text}");

    let ask = |id: &str, tag: &str, value: Value| {
        commander.ask(&json!({"id": id, "op": "write", "args": {"tag": tag, "value": value}}))
    };
    let reply = ask("1", "types/set-mode", json!("running"))?;
    assert_eq!(reply["result"]["read_back"], "running", "{reply}");
    let reply = ask("2", "types/set-u8", json!(300))?;
    assert_eq!(reply["status"], "rejected", "{reply}");
    assert!(reply["error"].to_string().contains("0 to 255"), "{reply}");
    let reply = ask("3", "types/set-f64", json!(1))?;
    assert!(reply["error"].to_string().contains("write_tags"), "{reply}");
    // The subscription brings what was written.
    wait_for("the written state", STEP, || {
        let rows = gateway.json(&["tags", "types/set-mode"]).ok()?;
        (rows[0]["value"] == "running").then_some(())
    })?;
    let log = gateway.log();
    let audited = |part: &str| {
        log.lines()
            .any(|line| line.contains("audit") && line.contains(part))
    };
    assert!(
        audited("uplink cloud") && audited("types/set-never"),
        "{log}"
    );
    Ok(())
}
