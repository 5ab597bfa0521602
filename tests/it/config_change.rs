//! The configuration as a transaction: from the cloud and from the command line, kept or taken back, and the outcome told.

use std::time::Duration;

use anyhow::{Context, Result};
use millrace_tests::commander::Commander;
use millrace_tests::wait::{STEP, wait_for};
use serde_json::{Value, json};

use crate::plant;
use crate::scene::Scene;

/// A gateway whose devices come from the cloud layer; uplink and rights are local.
fn start() -> Result<Scene> {
    Scene::start(1, |gateway, uplink, port| {
        let rights = "[local]\ncommands = [\"config.get\", \"config.apply\", \"config.rollback\", \"status\", \"restart\", \"log\"]\n";
        gateway.configure(&format!("{uplink}{rights}"))?;
        std::fs::create_dir_all(gateway.data_dir().join("config"))?;
        gateway.write(
            "data/config/cloud.toml",
            &plant::small_pump_config(port, &[0]),
        )
    })
}

impl Scene {
    fn layer(&self) -> Result<String> {
        Ok(std::fs::read_to_string(
            self.gateway.path("data/config/cloud.toml"),
        )?)
    }

    /// The only reply to a command that changes the configuration.
    fn outcome(&self, id: &str, op: &str, args: &Value) -> Result<Value> {
        let command = json!({"id": id, "op": op, "args": args});
        self.core.publish(&command.to_string(), false)?;
        let reply = wait_for(&format!("the outcome of {id}"), 3 * STEP, || {
            self.core.replies(id).first().cloned()
        });
        reply.with_context(|| self.gateway.log())
    }
}

#[test]
fn a_good_one_is_kept_and_can_be_gone_back_from() -> Result<()> {
    let scene = start()?;
    let before = scene.layer()?;
    let got = scene.outcome("get", "config.get", &json!({}))?;
    let files = got["result"]["files"].as_array().context("files")?;
    let cloud = files.iter().find(|file| file["layer"] == "cloud");
    let cloud = cloud.with_context(|| got.to_string())?;
    assert_eq!(cloud["config"]["device"][0]["name"], "pump", "{got}");

    let two = plant::small_pump_config(scene.port, &[0, 1]);
    let evil = format!("{two}[local]\ncommands = [\"write\"]\nwrite_tags = [\"*\"]\n");
    let kept = scene.outcome("a-1", "config.apply", &json!({"toml": evil, "watch": "5s"}))?;
    assert_eq!(kept["status"], "done", "{kept}");
    assert!(
        kept["result"]["keys"]
            .to_string()
            .contains("device[pump].tag[t1]"),
        "{kept}"
    );
    assert!(
        kept["result"]["warnings"]
            .to_string()
            .contains("[local] is ignored"),
        "{kept}"
    );
    scene.delivers(2)?;
    assert_eq!(scene.layer()?, evil);
    let refused = scene
        .core
        .ask(&json!({"id": "w", "op": "write", "args": {}}))?;
    assert_eq!(refused["status"], "rejected", "{refused}");

    let back = scene.outcome("r-1", "config.rollback", &json!({"watch": "5s"}))?;
    assert_eq!(back["status"], "done", "{back}");
    scene.delivers(1)?;
    assert_eq!(scene.layer()?, before);
    let audit = scene.gateway.json(&["events", "--audit"])?.to_string();
    for part in [
        "configuration on trial",
        "configuration changed",
        "uplink cloud",
        "config.apply",
    ] {
        assert!(audit.contains(part), "{part} is not in {audit}");
    }
    // Each was answered once, and a repeated id brings the answer again.
    assert_eq!(scene.core.replies("a-1").len(), 1);
    let again = scene
        .core
        .ask(&json!({"id": "a-1", "op": "config.apply", "args": {}}))?;
    assert_eq!(again, kept);
    Ok(())
}

#[test]
fn problems_are_all_told_and_change_nothing() -> Result<()> {
    let scene = start()?;
    let before = scene.layer()?;
    let wrong = plant::small_pump_config(scene.port, &[0, 1]).replace("\"u32\"", "\"u33\"");
    let refused = scene.outcome("p-1", "config.apply", &json!({"toml": wrong}))?;
    assert_eq!(refused["status"], "rejected", "{refused}");
    let error = refused["error"].as_str().context("an error")?;
    assert_eq!(error.matches("u33").count(), 2, "{error}");
    for args in [
        json!({}),
        json!({"toml": "", "watch": "1s"}),
        json!({"text": ""}),
    ] {
        let id = format!("p-{args}").replace(['/', '+'], "");
        let refused = scene.outcome(&id, "config.apply", &args)?;
        assert_eq!(refused["status"], "rejected", "{refused}");
    }
    let nothing = scene.outcome("p-9", "config.rollback", &json!({}))?;
    assert!(
        nothing["error"]
            .to_string()
            .contains("nothing to go back to"),
        "{nothing}"
    );
    assert_eq!(scene.layer()?, before);
    scene.delivers(1)
}

#[test]
fn one_without_good_data_is_taken_back_by_itself() -> Result<()> {
    let scene = start()?;
    let before = scene.layer()?;
    // Nobody listens there.
    let dead = plant::small_pump_config(1, &[0]);
    let back = scene.outcome("d-1", "config.apply", &json!({"toml": dead, "watch": "5s"}))?;
    assert_eq!(back["status"], "failed", "{back}");
    let error = back["error"].as_str().context("an error")?;
    assert!(
        error.contains("taken back") && error.contains("device pump"),
        "{error}"
    );
    assert_eq!(scene.layer()?, before);
    scene.delivers(1)?;
    let status = scene.gateway.json(&["status"])?;
    assert_eq!(
        status["config"]["last_change"]["state"], "taken-back",
        "{status}"
    );
    Ok(())
}

#[test]
fn a_restart_amid_the_trial_takes_it_back_and_the_core_hears_of_it() -> Result<()> {
    let mut scene = start()?;
    let before = scene.layer()?;
    let two = plant::small_pump_config(scene.port, &[0, 1]);
    let command = json!({"id": "k-1", "op": "config.apply", "args": {"toml": two, "watch": "60s"}});
    scene.core.publish(&command.to_string(), false)?;
    scene.delivers(2)?;
    scene.gateway.kill();
    scene.gateway.start()?;
    scene.delivers(1)?;
    assert_eq!(scene.layer()?, before);
    let back = scene.core.reply("k-1")?;
    assert_eq!(back["status"], "failed", "{back}");
    assert!(back["error"].to_string().contains("restarted"), "{back}");
    assert!(!scene.gateway.path("data/config/trial.json").exists());
    Ok(())
}

#[test]
fn an_uplink_that_does_not_come_back_takes_it_back_and_the_outcome_waits_for_it() -> Result<()> {
    let mut scene = start()?;
    let two = plant::small_pump_config(scene.port, &[0, 1]);
    let command = json!({"id": "u-1", "op": "config.apply", "args": {"toml": two, "watch": "5s"}});
    scene.core.publish(&command.to_string(), false)?;
    wait_for("the trial", STEP, || {
        scene
            .gateway
            .path("data/config/trial.json")
            .exists()
            .then_some(())
    })?;
    scene.broker.stop()?;
    let error = wait_for("the end of the trial", 3 * STEP, || {
        let status = scene.gateway.json(&["status"]).ok()?;
        let change = &status["config"]["last_change"];
        (change["state"] == "taken-back").then(|| change["error"].to_string())
    })?;
    assert!(
        error.contains("uplink cloud was connected before"),
        "{error}"
    );
    // An answer is not retained: it waits here until the core listens again.
    scene.gateway.signal("STOP")?;
    scene.broker.restart()?;
    let core = Commander::start(scene.broker.port)?;
    scene.gateway.signal("CONT")?;
    let back = core.reply("u-1")?;
    assert_eq!(back["status"], "failed", "{back}");
    scene.delivers(1)
}

#[test]
fn a_restart_by_command_keeps_the_process_and_is_answered() -> Result<()> {
    let mut scene = start()?;
    let pid = scene.gateway.pid();
    let uptime = |scene: &Scene| scene.gateway.json(&["status"]).ok()?["uptime_s"].as_u64();
    std::thread::sleep(Duration::from_secs(3));
    let before = uptime(&scene).context("an uptime")?;
    assert!(before >= 3);
    let reply = scene
        .core
        .ask(&json!({"id": "restart-1", "op": "restart"}))?;
    assert_eq!(reply["status"], "done", "{reply}");
    wait_for("a new start", STEP, || {
        uptime(&scene).filter(|now| *now < before)
    })?;
    scene.delivers(1)?;
    assert_eq!(scene.gateway.pid(), pid);
    assert!(scene.gateway.is_running());
    let again = scene
        .core
        .ask(&json!({"id": "restart-1", "op": "restart"}))?;
    assert_eq!(again["status"], "done", "once only: {again}");
    assert!(uptime(&scene).is_some());

    let loud = scene
        .core
        .ask(&json!({"id": "log-1", "op": "log", "args": {"level": "debug", "for": "1s"}}))?;
    assert_eq!(loud["result"]["for_s"], 1, "{loud}");
    let wrong = scene
        .core
        .ask(&json!({"id": "log-2", "op": "log", "args": {"level": "loud"}}))?;
    assert!(
        wrong["error"].to_string().contains("expected error, warn"),
        "{wrong}"
    );
    scene.gateway.terminate()?;
    Ok(())
}

#[test]
fn the_command_line_does_the_same() -> Result<()> {
    let scene = start()?;
    let cli = |args: &[&str]| -> Result<(bool, String)> {
        let output = scene.gateway.cli(args)?;
        let text =
            String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        Ok((output.status.success(), text.into_owned()))
    };
    scene
        .gateway
        .write("two.toml", &plant::small_pump_config(scene.port, &[0, 1]))?;
    let (_, diff) = cli(&["config", "diff", "two.toml"])?;
    assert!(
        diff.contains("+ device[pump].tag[t1].address = \"holding:2\""),
        "{diff}"
    );
    let (_, nothing) = cli(&["config", "diff"])?;
    assert_eq!(nothing, "Nothing would change.\n");
    let (kept, text) = cli(&["config", "apply", "two.toml", "--watch", "5s"])?;
    assert!(kept && text.starts_with("Kept: 3 keys changed"), "{text}");
    scene.delivers(2)?;
    let (kept, text) = cli(&["config", "rollback", "--watch", "5s"])?;
    assert!(kept, "{text}");
    scene.delivers(1)?;

    // The files on disk: what does no good is taken back, although the files stay.
    let rest = std::fs::read_to_string(scene.gateway.config_path())?;
    let dead = format!("{rest}{}", plant::small_pump_config(1, &[0]));
    scene.gateway.write("millrace.toml", &dead)?;
    let (kept, text) = cli(&["config", "apply", "--watch", "5s"])?;
    assert!(!kept && text.contains("taken back: device pump"), "{text}");
    scene.delivers(1)?;
    // Nor does a restart run them: the last good configuration does, until the files change.
    let mut scene = scene;
    scene.gateway.terminate()?;
    scene.gateway.start()?;
    scene.delivers(1)?;
    let status = scene.gateway.json(&["status"])?;
    assert_eq!(status["config"]["source"], "last-good", "{status}");
    let problems = status["config"]["problems"].to_string();
    assert!(problems.contains("taken back"), "{status}");
    scene.gateway.write("millrace.toml", &format!("{rest}\n"))?;
    scene.gateway.terminate()?;
    scene.gateway.start()?;
    scene.delivers(1)?;
    let status = scene.gateway.json(&["status"])?;
    assert_eq!(status["config"]["source"], "configured", "{status}");
    let cli = |args: &[&str]| -> Result<(bool, String)> {
        let output = scene.gateway.cli(args)?;
        Ok((
            output.status.success(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
        ))
    };
    let (_, schema) = cli(&["config", "schema"])?;
    let schema: Value = serde_json::from_str(&schema)?;
    assert_eq!(schema["properties"]["uplink"]["type"], "array");
    Ok(())
}
