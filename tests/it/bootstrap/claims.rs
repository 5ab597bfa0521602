//! What an installer brings: a claim in the data directory, taken in order or named for what is wrong with it, and
//! never shown.

use std::os::unix::fs::DirBuilderExt;

use super::scene::ClaimCore;
use super::*;

/// The directory that the root unit puts claims into, as it makes it.
fn claim_directory(gateway: &Gateway) -> Result<std::path::PathBuf> {
    let directory = gateway.data_dir().join("claim");
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(&directory)?;
    Ok(directory)
}

/// Puts a claim there as a whole.
fn bring(gateway: &Gateway, name: &str, text: &str) -> Result<()> {
    let directory = claim_directory(gateway)?;
    let fresh = directory.join(format!(".{name}.new"));
    std::fs::write(&fresh, text)?;
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o600))?;
    Ok(std::fs::rename(
        fresh,
        directory.join(format!("{name}.toml")),
    )?)
}

/// Waits until `bootstrap status` says this of a claim.
fn wait_claim(gateway: &Gateway, named: &str) -> Result<String> {
    let mut last = Value::Null;
    wait_for(&format!("a claim with {named:?}"), STEP, || {
        last = gateway.json(&["bootstrap", "status"]).ok()?;
        let said = last["claim"].as_str()?;
        said.contains(named).then(|| said.to_owned())
    })
    .with_context(|| format!("{last}\n{}", gateway.log()))
}

/// What the agent shows to anybody: its log, its arguments, its environment, what its commands print.
fn shown(gateway: &mut Gateway) -> Result<String> {
    let pid = gateway.pid().context("the agent runs")?;
    let mut all = gateway.log();
    for name in ["cmdline", "environ"] {
        all += &String::from_utf8_lossy(&std::fs::read(format!("/proc/{pid}/{name}"))?);
    }
    for args in [
        &["status", "--json"][..],
        &["status"],
        &["bootstrap", "status"],
        &["bootstrap", "status", "--json"],
        &["config", "show", "--json"],
        &["events", "--json"],
    ] {
        let output = gateway.cli(args)?;
        all += &String::from_utf8_lossy(&output.stdout);
        all += &String::from_utf8_lossy(&output.stderr);
    }
    Ok(all)
}

/// Every file below the data directory that has this in it.
fn files_with(gateway: &Gateway, secret: &str) -> Result<Vec<std::path::PathBuf>> {
    let (mut found, mut open) = (Vec::new(), vec![gateway.data_dir()]);
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(&directory)? {
            let path = entry?.path();
            if path.is_dir() && !path.is_symlink() {
                open.push(path);
            } else if path.is_file()
                && String::from_utf8_lossy(&std::fs::read(&path)?).contains(secret)
            {
                found.push(path);
            }
        }
    }
    Ok(found)
}

#[test]
fn a_bad_claim_is_named_and_its_token_is_nowhere() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut gateway = Gateway::new(directory.path());
    gateway.configure("")?;
    gateway.start()?;
    let url = "url = \"https://core.example/claim\"\n";
    let token = format!("token = \"{KEY}\"\n");
    for (text, named) in [
        (
            format!("{url}token = \"{KEY}"),
            "line 2: this is not TOML, or it was cut off",
        ),
        (url.to_owned(), "token is missing"),
        (token.clone(), "url is missing"),
        (
            format!("{url}{token}ca_sha256 = \"{KEY}\"\n"),
            "line 3: ca_sha256 does not fit; 64 hexadecimal digits",
        ),
        (
            format!("{url}{token}kind = \"once\"\n"),
            "kind does not fit; one-time or static is expected",
        ),
        (format!("{url}{token}uri = \"x\"\n"), "did you mean url?"),
        (
            format!("url = \"https://core.example/#token={KEY}\"\n"),
            "without query or fragment",
        ),
    ] {
        bring(&gateway, "usb", &text)?;
        wait_claim(&gateway, named)?;
    }
    // What is wrong with a key for the provider is said of the claim's own keys, too.
    bring(
        &gateway,
        "usb",
        &format!("{url}token = \"{}\"\n", &KEY[..12]),
    )?;
    wait_for("a token that is too short", STEP, || {
        let status = gateway.json(&["bootstrap", "status"]).ok()?;
        let named = "usb.toml: token holds a key that is too short; expected at least 20";
        status.to_string().contains(named).then_some(())
    })
    .with_context(|| gateway.log())?;
    bring(&gateway, "usb", &token)?;
    wait_claim(&gateway, "url is missing")?;
    let status = gateway.json(&["status"])?;
    assert!(
        status["problems"][0]
            .as_str()
            .unwrap_or_default()
            .contains("usb.toml"),
        "{status}"
    );
    bring(&gateway, "etc", &format!("{url}{token}"))?;
    let said = wait_claim(&gateway, "2 claims")?;
    assert!(
        said.contains("etc.toml") && said.contains("usb.toml"),
        "{said}"
    );
    assert!(
        gateway.log().contains("claims, and only one can be meant"),
        "{}",
        gateway.log()
    );
    assert!(!shown(&mut gateway)?.contains(KEY));
    for path in files_with(&gateway, KEY)? {
        assert!(
            path.starts_with(gateway.data_dir().join("claim")),
            "{}",
            path.display()
        );
        assert_eq!(
            std::fs::metadata(&path)?.permissions().mode() & 0o077,
            0,
            "{}",
            path.display()
        );
    }
    gateway.terminate()?;
    Ok(())
}

/// A stick that is put in while the agent runs without any configuration: devices and uplink come from the core. The token is
/// destroyed; brought once more it is called used; a static one stays, in private.
#[test]
fn a_claim_brings_a_gateway_to_its_core() -> Result<()> {
    let mut scene = ClaimCore::start(&[])?;
    let (sha256, port) = (scene.ca_sha256().to_owned(), scene.core.port);
    let claim = |port: u16, kind: &str| {
        format!(
            "url = \"https://localhost:{port}/claim\"\nca_sha256 = \"{sha256}\"\ntoken = \"{KEY}\"\n\
             kind = \"{kind}\"\nexternal_id = \"gw-1\"\nspread = \"0s\"\ninterface = \"no-such-if0\"\n"
        )
    };
    let mut gateway = Gateway::new(scene.directory.path());
    gateway.configure("")?;
    gateway.start()?;

    // Nobody is there at first: it waits, and says what the way looks like.
    let nobody = millrace_tests::ports::free_port()?;
    bring(&gateway, "usb", &claim(nobody, "one-time"))?;
    wait_message(&gateway, "no-such-if0, which the claim names, is not there")?;

    bring(&gateway, "usb", &claim(port, "one-time"))?;
    scene
        .subscriber
        .wait("data", STEP, |got| got.count("pump") > 10)?;
    wait_state(&gateway, "ready")?;
    wait_for("the end of the claim", STEP, || {
        (!gateway.data_dir().join("claim/usb.toml").exists()).then_some(())
    })?;
    assert_eq!(files_with(&gateway, KEY)?, Vec::<std::path::PathBuf>::new());
    assert!(!shown(&mut gateway)?.contains(KEY));

    // What is known of the core outlives the token.
    gateway.terminate()?;
    gateway.start()?;
    wait_state(&gateway, "ready")?;
    bring(&gateway, "usb", &claim(port, "one-time"))?;
    wait_claim(&gateway, "a one-time token that was used already")?;
    wait_state(&gateway, "ready")?;

    // The operator gives another one, for good.
    let second = "static-token-of-the-fleet-0123456789";
    scene.change_token(second)?;
    bring(&gateway, "usb", &claim(port, "static").replace(KEY, second))?;
    let kept = gateway.data_dir().join("secrets/bootstrap.key");
    wait_for("the static token at its place", STEP, || {
        kept.exists().then_some(())
    })
    .with_context(|| gateway.log())?;
    wait_state(&gateway, "ready")?;
    assert_eq!(files_with(&gateway, second)?, vec![kept.clone()]);
    assert_eq!(
        std::fs::metadata(&kept)?.permissions().mode() & 0o777,
        0o600
    );
    assert!(!shown(&mut gateway)?.contains(second));
    gateway.terminate()?;
    Ok(())
}
