//! Commands from the cloud: answered, granted by local files only, at most once, and harmless when they are garbage.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use millrace_tests::wait::{STEP, wait_for};
use serde_json::{Value, json};

use crate::plant;
use crate::scene::Scene;

/// A pump of two tags.
fn start() -> Result<Scene> {
    Scene::start(2, |gateway, uplink, port| {
        gateway.configure(&format!(
            "{uplink}{}",
            plant::small_pump_config(port, &[0, 1])
        ))
    })
}

#[test]
fn read_status_and_ledger_are_answered() -> Result<()> {
    let scene = start()?;
    let read = scene
        .core
        .ask(&json!({"id": "r-1", "op": "read", "args": {"tags": ["pump/t1"]}}))?;
    assert_eq!(read["id"], "r-1");
    assert_eq!(read["status"], "done", "{read}");
    assert_eq!(read["result"][0]["tag"], "pump/t1", "{read}");
    let value = read["result"][0]["value"].as_u64().context("no value")?;
    assert_eq!(value % 1000, 1, "{read}");

    let status = scene.core.ask(&json!({"id": "s-1", "op": "status"}))?;
    assert_eq!(status["status"], "done", "{status}");
    assert_eq!(
        status["result"]["devices"][0]["state"], "online",
        "{status}"
    );

    let ledger = scene.core.ask(&json!({"id": "l-1", "op": "ledger"}))?;
    let acquired = &ledger["result"]["devices"]["pump"]["acquired"];
    assert!(acquired.as_u64().is_some_and(|n| n > 0), "{ledger}");
    Ok(())
}

#[test]
fn what_is_not_granted_is_rejected_and_says_what_grants_it() -> Result<()> {
    let scene = start()?;
    for (id, op) in [
        ("a", "write"),
        ("b", "config.apply"),
        ("c", "no.such.thing"),
    ] {
        let reply = scene.core.ask(&json!({"id": id, "op": op, "args": {}}))?;
        assert_eq!(reply["status"], "rejected", "{reply}");
        let error = reply["error"].as_str().context("no error")?;
        assert!(error.contains(op) && error.contains("[local]"), "{error}");
    }
    let lost = scene
        .core
        .ask(&json!({"id": "d", "op": "read", "args": {"tags": ["pump/none"]}}))?;
    assert_eq!(lost["status"], "failed", "{lost}");
    assert!(lost["error"].to_string().contains("pump/none"), "{lost}");
    Ok(())
}

#[test]
fn an_id_runs_once_and_its_answer_is_repeated_over_a_restart() -> Result<()> {
    let mut scene = start()?;
    let command = json!({"id": "once", "op": "read", "args": {"tags": ["pump/t0"]}});
    let first = scene.core.ask(&command)?;
    assert_eq!(first["status"], "done", "{first}");
    // The register counts: a second read would bring another value.
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(scene.core.ask(&command)?, first);
    scene.gateway.kill();
    scene.gateway.start()?;
    scene.delivers(2)?;
    assert_eq!(scene.core.ask(&command)?, first);
    Ok(())
}

#[test]
fn late_and_retained_commands_do_not_run() -> Result<()> {
    let scene = start()?;
    let late = json!({"id": "late", "op": "status", "expires": unix_ms()? - 1000});
    assert_eq!(scene.core.ask(&late)?["status"], "expired");

    // A retained command comes as such only to who subscribes after it.
    scene
        .core
        .publish(&json!({"id": "kept", "op": "status"}).to_string(), true)?;
    let live = scene.core.reply("kept")?;
    assert_eq!(live["status"], "done", "live it is a command: {live}");
    scene.core.publish("", true)?;
    let mut scene = scene;
    scene
        .core
        .publish(&json!({"id": "kept-2", "op": "status"}).to_string(), true)?;
    scene.core.reply("kept-2")?;
    scene.core.forget();
    scene.gateway.terminate()?;
    std::fs::remove_file(scene.gateway.data_dir().join("commands.journal"))?;
    scene.gateway.start()?;
    scene.delivers(2)?;
    // Whatever came before this answer would have been answered before it.
    scene.core.ask(&json!({"id": "after", "op": "status"}))?;
    assert!(scene.core.replies("kept-2").is_empty());
    wait_for("a line in the log", STEP, || {
        scene
            .gateway
            .log()
            .contains("retained command")
            .then_some(())
    })?;
    drop(scene.broker);
    Ok(())
}

#[test]
fn garbage_does_no_harm() -> Result<()> {
    let scene = start()?;
    let large = format!("{{\"id\":\"{}\",\"op\":\"status\"}}", "x".repeat(70_000));
    for garbage in [
        "",
        "{",
        "null",
        "[1,2]",
        "{\"op\":\"status\"}",
        "{\"id\":7,\"op\":\"status\"}",
        "{\"id\":\"a/b/#\",\"op\":\"status\"}",
        "\u{0}\u{1}\u{2}",
        &large,
    ] {
        scene.core.publish(garbage, false)?;
    }
    let odd = scene
        .core
        .ask(&json!({"id": "odd", "op": "read", "args": {"tags": 7}}))?;
    assert_eq!(odd["status"], "failed", "{odd}");
    let reply = scene.core.ask(&json!({"id": "still", "op": "status"}))?;
    assert_eq!(reply["status"], "done", "{reply}");
    assert_eq!(
        reply["result"]["uplinks"][0]["connects_total"], 1,
        "{reply}"
    );
    Ok(())
}

#[test]
fn local_files_take_the_right_to_command_away() -> Result<()> {
    let mut scene = start()?;
    let config = std::fs::read_to_string(scene.gateway.config_path())?;
    scene.gateway.write(
        "millrace.toml",
        &format!("{config}\n[local]\ncommands = [\"ledger\"]\n"),
    )?;
    scene.gateway.terminate()?;
    scene.gateway.start()?;
    scene.delivers(2)?;
    let status = |id: &str, op: &str| -> Result<Value> {
        Ok(scene.core.ask(&json!({"id": id, "op": op}))?["status"].clone())
    };
    assert_eq!(status("x", "status")?, "rejected");
    assert_eq!(status("y", "ledger")?, "done");
    Ok(())
}

fn unix_ms() -> Result<u64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    Ok(u64::try_from(now.as_millis())?)
}
