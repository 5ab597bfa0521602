//! What field engineers and scripts type, against a running agent and without one.

use anyhow::{Context, Result};
use millrace_tests::agent::Gateway;
use millrace_tests::wait::{STEP, wait_for};

use crate::plant;

#[test]
fn a_running_agent_answers() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (_pump, port) = plant::start_pump(directory.path(), &[])?;
    let mut gateway = Gateway::new(directory.path());
    gateway.configure(&plant::small_pump_config(port, &[0, 1]))?;
    gateway.start()?;

    let tags = wait_for("good tags", STEP, || {
        let tags = gateway.json(&["tags"]).ok()?;
        let rows = tags.as_array()?;
        (rows.len() == 2 && rows.iter().all(|row| row["quality"] == "good")).then(|| rows.clone())
    })?;
    assert_eq!(tags[1]["tag"], "pump/t1");
    assert_eq!(tags[1]["value"].as_u64().map(|value| value % 1000), Some(1));

    let status = gateway.json(&["status"])?;
    assert_eq!(status["gateway"], "gw-1");
    assert_eq!(status["config"]["source"], "configured");
    assert_eq!(status["devices"][0]["state"], "online");

    let list = gateway.json(&["device", "list"])?;
    assert!(list.to_string().contains("\"pump\""), "{list}");
    let test = gateway.json(&["device", "test", "pump"])?;
    assert_eq!(test["ok"], true, "{test}");
    let read = gateway.json(&["read", "pump/t1"])?;
    assert!(read.to_string().contains("\"pump/t1\""), "{read}");
    let buffer = gateway.json(&["buffer", "status"])?;
    assert!(
        buffer["max_bytes"].as_u64().is_some_and(|bytes| bytes > 0),
        "{buffer}"
    );
    let ledger = gateway.json(&["ledger"])?;
    assert!(
        ledger["devices"]["pump"]["acquired"]
            .as_u64()
            .is_some_and(|n| n > 0),
        "{ledger}"
    );
    gateway.json(&["events"])?;
    for command in ["status", "tags", "events", "ledger"] {
        let output = gateway.cli(&[command])?;
        assert!(
            output.status.success() && !output.stdout.is_empty(),
            "{command}: {output:?}"
        );
    }
    Ok(())
}

#[test]
fn a_value_is_read_without_any_configuration() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (_pump, port) = plant::start_pump(directory.path(), &[])?;
    let gateway = Gateway::new(directory.path());
    let on = format!("tcp://127.0.0.1:{port}/1");
    let read = gateway.json(&["read", "--on", &on, "--type", "u32", "holding:6"])?;
    let row = read
        .as_array()
        .and_then(|rows| rows.first())
        .unwrap_or(&read);
    assert_eq!(
        row["value"].as_u64().map(|value| value % 1000),
        Some(3),
        "{read}"
    );
    Ok(())
}

#[test]
fn without_an_agent_the_message_says_what_to_do() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let gateway = Gateway::new(directory.path());
    let output = gateway.cli(&["status"])?;
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("millrace run"), "{text}");
    Ok(())
}

#[test]
fn what_comes_later_is_refused_in_one_sentence() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let gateway = Gateway::new(directory.path());
    for command in ["doctor", "watch", "user"] {
        let output = gateway.cli(&[command])?;
        assert_eq!(output.status.code(), Some(1), "{command}");
        assert!(!output.stderr.is_empty(), "{command} says nothing");
    }
    Ok(())
}

#[test]
fn completions_are_made_for_every_shell() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let gateway = Gateway::new(directory.path());
    for shell in ["bash", "zsh", "fish"] {
        let output = gateway.cli(&["completions", shell])?;
        let text = String::from_utf8(output.stdout).context("completions are text")?;
        assert!(
            output.status.success() && text.contains("millrace"),
            "{shell}"
        );
    }
    Ok(())
}

#[test]
fn wrong_usage_is_exit_2() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let gateway = Gateway::new(directory.path());
    assert_eq!(
        gateway.cli(&["status", "--no-such-option"])?.status.code(),
        Some(2)
    );
    Ok(())
}
