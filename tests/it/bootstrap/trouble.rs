//! What goes wrong is named in `bootstrap status`, and never ends in a guess.

use super::*;

#[test]
fn each_refusal_has_its_own_words() -> Result<()> {
    let reply = json!({"thing_id": "t", "thing_key": PLANTED_SECRET, "content": "[buffer]\n"});
    let known = json!({"key": KEY, "reply": reply});
    let other = json!({"key": "another-key-0123456789", "reply": reply});
    let disabled =
        json!({"key": KEY, "disabled": true, "reply": {"id": "e", "content": "[buffer]\n"}});
    let empty = json!({"key": KEY, "reply": {"thing_id": "t"}});
    let garbled = json!({"key": KEY, "reply": {"thing_id": "t", "content": "[[device]\nname="}});
    for (kind, gateway_there, fault, state, named) in [
        (
            "mainflux-0.12",
            &other,
            "none:0",
            "denied",
            "up to 0.12 also: the external key is wrong",
        ),
        (
            "magistrala-0.15",
            &other,
            "none:0",
            "denied",
            "the external key is wrong",
        ),
        (
            "magistrala-0.30",
            &other,
            "none:0",
            "denied",
            "the external key is wrong",
        ),
        (
            "magistrala-0.30",
            &disabled,
            "none:0",
            "transient",
            "the enrolment is disabled",
        ),
        (
            "magistrala-proof",
            &other,
            "none:0",
            "denied",
            "it does not say which",
        ),
        (
            "magistrala-proof",
            &disabled,
            "none:0",
            "denied",
            "it does not say which",
        ),
        ("magistrala-0.15", &empty, "none:0", "pending", "content"),
        ("magistrala-0.15", &garbled, "none:0", "denied", "content"),
        (
            "magistrala-0.15",
            &known,
            "garbage:9",
            "denied",
            "line 1, column 1 is no JSON",
        ),
        (
            "magistrala-0.15",
            &known,
            "huge:9",
            "denied",
            "more than 8388608 bytes",
        ),
        (
            "magistrala-0.15",
            &known,
            "lost:9",
            "transient",
            "no answer from",
        ),
        (
            "magistrala-0.15",
            &known,
            "unavailable:9",
            "transient",
            "503",
        ),
    ] {
        let directory = tempfile::tempdir()?;
        let core = Core::start(directory.path(), kind, gateway_there, &["--fault", fault])?;
        let provider = match kind {
            "magistrala-proof" => "magistrala-proof",
            _ => "mainflux",
        };
        let url = format!("http://127.0.0.1:{}/things/bootstrap", core.port);
        let mut gateway = gateway(directory.path(), &table(provider, &url, ""))?;
        gateway.start()?;
        let message = wait_message(&gateway, named).with_context(|| format!("{kind}, {fault}"))?;
        let status = gateway.json(&["bootstrap", "status"])?;
        assert_eq!(status["state"], state, "{kind}, {fault}: {message}");
        let shown = status.to_string() + &gateway.log();
        assert!(
            !shown.contains(KEY) && !shown.contains(PLANTED_SECRET),
            "{shown}"
        );
        assert!(!gateway.data_dir().join("config/cloud.toml").exists());
    }
    Ok(())
}

/// The first answers never arrive, in whatever way; the right one does.
#[test]
fn a_bad_beginning_is_got_over() -> Result<()> {
    for fault in ["lost:2", "unavailable:1"] {
        let directory = tempfile::tempdir()?;
        let reply = json!({"thing_id": "t", "thing_key": PLANTED_SECRET, "content": "[buffer]\n"});
        let known = json!({"key": KEY, "reply": reply});
        let core = Core::start(
            directory.path(),
            "magistrala-0.15",
            &known,
            &["--fault", fault],
        )?;
        let mut gateway = gateway(directory.path(), &mainflux(core.port, ""))?;
        gateway.start()?;
        wait_state(&gateway, "ready").with_context(|| fault.to_owned())?;
    }
    Ok(())
}

/// A server that is not who it should be is told nothing.
#[test]
fn a_stranger_gets_no_key() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let reply = json!({"thing_id": "t", "thing_key": PLANTED_SECRET, "content": "[buffer]\n"});
    let known = json!({"key": KEY, "reply": reply});
    let core = Core::start(
        directory.path(),
        "magistrala-0.15",
        &known,
        &["--tls", "pki"],
    )?;
    let url = format!("https://localhost:{}/things/bootstrap", core.port);
    for (trust, named) in [
        ("", "not signed by a CA that we trust"),
        (
            "ca_sha256 = \"0000000000000000000000000000000000000000000000000000000000000000\"",
            "no certificate with the SHA-256",
        ),
    ] {
        let mut gateway = gateway(directory.path(), &table("mainflux", &url, trust))?;
        gateway.start()?;
        let message = wait_message(&gateway, named)?;
        assert!(message.contains("cannot be trusted"), "{message}");
        assert!(core.peer.said().is_empty());
        gateway.terminate()?;
    }
    Ok(())
}

/// `bootstrap run` asks at once, `reset` begins anew.
#[test]
fn a_person_can_ask_and_begin_anew() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let reply = json!({"thing_id": "t", "thing_key": PLANTED_SECRET, "content": "[buffer]\n"});
    let other = json!({"key": "another-key-0123456789", "reply": reply});
    let core = Core::start(directory.path(), "magistrala-0.15", &other, &[])?;
    let mut gateway = gateway(directory.path(), &mainflux(core.port, ""))?;
    gateway.start()?;
    wait_state(&gateway, "denied")?;
    // The operator of the core puts the key right; nobody wants to wait for the next attempt.
    core.change(&json!({"key": KEY, "reply": reply}))?;
    gateway.json(&["bootstrap", "run"])?;
    wait_state(&gateway, "ready")?;
    let requests = core.peer.said().len();
    let output = gateway.cli(&["bootstrap", "reset"])?;
    assert!(!output.status.success(), "it wants --yes");
    gateway.json(&["bootstrap", "reset", "--yes"])?;
    wait_for("another request", STEP, || {
        let again = !core.peer.said().is_empty();
        again.then_some(())
    })?;
    assert!(requests > 0);
    wait_state(&gateway, "ready")?;
    Ok(())
}
