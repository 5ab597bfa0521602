//! Each way in which an OPC UA session can fail has a sentence of its own, and `trust` and `status` say the same one.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use millrace_tests::agent::{Gateway, program};
use millrace_tests::checkout;
use millrace_tests::peer::Peer;
use millrace_tests::ports::free_port;
use millrace_tests::wait::{STEP, wait_for};
use serde_json::Value;

/// A device that gets no session, and the part of the sentence that names the cause.
struct Case {
    name: &'static str,
    address: String,
    /// Further keys of the device.
    keys: &'static str,
    cause: &'static str,
}

/// Starts an agent with all of them and holds `status` and `trust` against the causes.
fn check(gateway: &mut Gateway, cases: &[Case]) -> Result<()> {
    let mut devices = String::new();
    for case in cases {
        write!(
            devices,
            "[[device]]\nname = \"{}\"\ndriver = \"opcua\"\naddress = \"{}\"\ntimeout = \"3s\"\n{}\n\
             tag = [{{ name = \"level\", address = \"ns=1;s=Level\" }}]\n\n",
            case.name, case.address, case.keys
        )?;
    }
    gateway.configure(&devices)?;
    gateway.start()?;
    let errors = wait_for("an error of every device", STEP, || {
        let status = gateway.json(&["status"]).ok()?;
        let devices = status["devices"].as_array()?;
        let all = devices.iter().map(|device| device["error"].as_str());
        all.map(|error| error.map(str::to_owned))
            .collect::<Option<Vec<String>>>()
    })?;
    let screen = gateway.cli(&["status"])?;
    let screen = words(&screen.stdout);
    let mut told = BTreeSet::new();
    for (case, error) in cases.iter().zip(errors) {
        let Case { name, cause, .. } = case;
        ensure!(error.contains(cause), "status of {name}: {error}");
        ensure!(screen.contains(cause), "status of {name}: {screen}");
        let config = gateway.config_path();
        let config = config.to_str().context("a path in UTF-8")?;
        let trust = gateway.cli(&["trust", name, "--config", config, "--timeout", "2s"])?;
        ensure!(!trust.status.success(), "{name} is not well");
        let said = words(&[trust.stdout, trust.stderr].concat());
        ensure!(said.contains(cause), "trust of {name}: {said}");
        ensure!(told.insert(*cause), "{cause} is told of two cases");
    }
    Ok(())
}

/// The text without its line breaks.
fn words(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    text.split_whitespace().collect::<Vec<&str>>().join(" ")
}

/// A port that takes connections, reads the first word and does what it is told with it.
fn strange(answer: impl Fn(std::net::TcpStream) + Send + 'static) -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = format!("opc.tcp://{}", listener.local_addr()?);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            answer(stream);
        }
    });
    Ok(address)
}

fn hang_up(mut stream: std::net::TcpStream) {
    let _ = stream.read(&mut [0; 64]);
}

#[test]
fn every_fault_before_a_session_has_its_own_sentence() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut gateway = Gateway::new(directory.path());
    let pki = gateway.data_dir().join("pki");
    let pki = pki.to_str().context("a path in UTF-8")?;
    let server = Peer::start("opcua_faults.py", &[pki], directory.path())?;
    let port = server.ready["port"].as_u64().context("a port")?;
    let closed = free_port()?;
    // They are held open, and nobody ever answers.
    let (keep, _kept) = std::sync::mpsc::channel();
    let silent = strange(move |stream| {
        let _ = keep.send(stream);
    })?;
    let fault = |name, cause| Case {
        name,
        address: format!("opc.tcp://127.0.0.1:{port}/{name}"),
        keys: "",
        cause,
    };
    let mut cases = vec![
        fault(
            "untrusted",
            "(CN=untrusted) is not trusted here; another one of urn:millrace:faults,",
        ),
        fault(
            "unknown-authority",
            "(CN=unknown-authority) is signed by CN=Other CA, which is not trusted here",
        ),
        fault(
            "wrong-signature",
            "says that CN=Plant CA signed it, but that signature is wrong",
        ),
        fault("expired", "the certificate of CN=expired was valid until"),
        fault(
            "not-yet-valid",
            "the certificate of CN=not-yet-valid is valid from",
        ),
        fault(
            "revoked",
            "CN=Plant CA revoked the certificate of CN=revoked (serial number 1267) on",
        ),
        fault(
            "wrong-host",
            "its certificate is for plc-7, not for the host 127.0.0.1",
        ),
        fault(
            "wrong-application",
            "its certificate is for the application urn:somebody:else, but it calls itself urn:millrace:faults",
        ),
        fault(
            "wrong-usage",
            "its certificate may not be used for server authentication",
        ),
        fault(
            "key-size",
            "the key of its certificate has 1024 bits; Basic256Sha256 takes 2048 to 4096",
        ),
        fault("no-certificate", "it shows no certificate"),
        fault(
            "no-common-login",
            "takes no anonymous login; set username and password_file",
        ),
        fault(
            "clock-off",
            "it finds the gateway's clock too far from its own (BadInvalidTimestamp at GetEndpoints)",
        ),
    ];
    let mut policy = fault(
        "policy",
        "it offers Basic256Sha256 sign-and-encrypt, which does not include Aes128Sha256RsaOaep sign",
    );
    policy.keys = "security = \"Aes128Sha256RsaOaep\"\nmode = \"sign\"";
    cases.push(policy);
    let other = |name, address, cause| Case {
        name,
        address,
        keys: "",
        cause,
    };
    cases.extend([
        other(
            "closed",
            format!("opc.tcp://127.0.0.1:{closed}"),
            "the host is there and nothing listens on this port",
        ),
        other(
            "strange",
            strange(hang_up)?,
            "hung up at the first word: another protocol's port",
        ),
        other(
            "silent",
            silent,
            "did not answer the first word of OPC UA (is this the right port?) within",
        ),
    ]);
    check(&mut gateway, &cases)
}

/// node-opcua, strict with certificates and logins. It ends with its input.
struct Node {
    child: Child,
    port: u16,
}

impl Node {
    /// `None` where it is not installed.
    fn start(directory: &Path) -> Result<Option<Node>> {
        let home = checkout().join("drivers/tests/peers/node");
        if !home.join("node_modules/node-opcua").is_dir() {
            eprintln!("skipped: node-opcua is not installed (tests/setup.sh)");
            return Ok(None);
        }
        let port = free_port()?;
        let mut child = Command::new("node")
            .arg(home.join("server.js"))
            .args(["--port", &port.to_string(), "--dir"])
            .arg(directory)
            .args(["--user", "gateway", "--password", "correct horse"])
            .args([
                "--strict",
                "--policies",
                "None,Basic256Sha256",
                "--many",
                "0",
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let said = child.stdout.take().context("a pipe")?;
        let node = Node { child, port };
        let mut line = String::new();
        BufReader::new(said).read_line(&mut line)?;
        ensure!(line.trim() == "ready", "{line:?}");
        Ok(Some(node))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn what_a_server_refuses_has_its_own_sentence() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let Some(server) = Node::start(directory.path())? else {
        return Ok(());
    };
    let port = server.port;
    let mut gateway = Gateway::new(directory.path());
    gateway.write("password", "wrong horse")?;
    for user in ["anna", "berta"] {
        let made = Command::new("openssl")
            .args([
                "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30",
            ])
            .args(["-subj", &format!("/CN={user}")])
            .args([
                "-keyout",
                &format!("{user}.key"),
                "-out",
                &format!("{user}.pem"),
            ])
            .current_dir(directory.path())
            .output()?;
        ensure!(made.status.success(), "openssl");
    }
    let case = |name, keys, cause| Case {
        name,
        address: format!("opc.tcp://127.0.0.1:{port}/peer"),
        keys,
        cause,
    };
    check(
        &mut gateway,
        &[
            case(
                "distrusted",
                "server_cert_file = \"cert.der\"",
                "it does not trust the gateway's certificate",
            ),
            case(
                "password",
                "security = \"None\"\nusername = \"gateway\"\npassword_file = \"password\"",
                "it does not let user gateway with this password in (BadUserAccessDenied at ActivateSession)",
            ),
            case(
                "user-certificate",
                "security = \"None\"\nuser_cert_file = \"anna.pem\"\nuser_key_file = \"anna.key\"",
                "it does not let the user of the certificate",
            ),
            case(
                "user-key",
                "security = \"None\"\nuser_cert_file = \"anna.pem\"\nuser_key_file = \"berta.key\"",
                "is not that of the certificate in",
            ),
        ],
    )
}

/// Runs `trust` on a terminal, which `script` makes, and presses a key at its question; what it said.
fn press(gateway: &Gateway, url: &str, key: &str) -> Result<String> {
    let config = gateway.config_path();
    let command = format!(
        "{} trust {url} --timeout 1s --config {}",
        program()?.display(),
        config.display()
    );
    let mut child = Command::new("timeout")
        .args(["60", "script", "-qfec", &command, "/dev/null"])
        .env("NO_COLOR", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut keyboard = child.stdin.take().context("a pipe")?;
    let mut screen = child.stdout.take().context("a pipe")?;
    let mut said = Vec::new();
    let mut bytes = [0; 1024];
    loop {
        let length = screen.read(&mut bytes)?;
        if length == 0 {
            break;
        }
        said.extend_from_slice(&bytes[..length]);
        let asks = String::from_utf8_lossy(&said).ends_with("any other key to leave it: ");
        if asks {
            keyboard.write_all(key.as_bytes())?;
            keyboard.flush()?;
        }
    }
    child.wait()?;
    Ok(words(&said))
}

#[test]
fn one_key_pins_and_every_other_one_does_not() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let gateway = Gateway::new(directory.path());
    gateway.configure("")?;
    let trusted = gateway.data_dir().join("pki/trusted");
    let pki = gateway.data_dir().join("pki");
    let pki = pki.to_str().context("a path in UTF-8")?;
    let server = Peer::start("opcua_faults.py", &[pki], directory.path())?;
    let url = format!("opc.tcp://127.0.0.1:{}/untrusted", server.ready["port"]);
    let pins = || -> Result<usize> { Ok(std::fs::read_dir(&trusted)?.count()) };
    let before = pins()?;
    let said = press(&gateway, &url, "n")?;
    assert!(!said.contains("trusts this server now"), "{said}");
    assert_eq!(pins()?, before);
    let said = press(&gateway, &url, "p")?;
    assert!(said.contains("trusts this server now"), "{said}");
    assert_eq!(pins()?, before + 1);
    Ok(())
}

#[test]
fn a_certificate_is_pinned_by_its_thumbprint_and_the_own_one_is_renewed() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let gateway = Gateway::new(directory.path());
    gateway.configure("")?;
    let pki = gateway.data_dir().join("pki");
    let pki = pki.to_str().context("a path in UTF-8")?;
    let server = Peer::start("opcua_faults.py", &[pki], directory.path())?;
    let url = format!("opc.tcp://127.0.0.1:{}/untrusted", server.ready["port"]);
    let config = gateway.config_path();
    let config = config.to_str().context("a path in UTF-8")?;
    let trust = |more: &[&str]| -> Result<Value> {
        let args = [
            &[
                "trust",
                &url,
                "--config",
                config,
                "--timeout",
                "1s",
                "--json",
            ],
            more,
        ]
        .concat();
        let output = gateway.cli(&args)?;
        serde_json::from_slice(&output.stdout).with_context(|| words(&output.stderr))
    };
    let shown = trust(&[])?;
    let certificate = &shown["certificates"][0];
    assert_eq!(certificate["faults"][0]["cause"], "untrusted");
    assert_eq!(certificate["trusted_by"], Value::Null);
    let sha256 = certificate["sha256"].as_str().context("a fingerprint")?;
    let wrong = gateway.cli(&[
        "trust",
        &url,
        "--config",
        config,
        "--pin",
        "--thumbprint",
        "AB12",
    ])?;
    assert!(words(&wrong.stderr).contains("the server shows no certificate AB12"));
    let pinned = trust(&["--pin", "--thumbprint", sha256])?;
    assert_eq!(pinned["pinned"], certificate["thumbprint"]);
    assert_eq!(pinned["certificates"][0]["trusted_by"], "pinned here");
    assert_eq!(
        pinned["certificates"][0]["faults"],
        Value::Array(Vec::new())
    );

    let own = gateway.json(&["trust", "--own", "--config", config])?;
    let again = gateway.json(&["trust", "--own", "--config", config])?;
    assert_eq!(own, again, "it is stable");
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let renewed = gateway.json(&["trust", "--own", "--renew", "--config", config])?;
    assert_ne!(renewed["thumbprint"], own["thumbprint"]);
    assert_eq!(renewed["application_uri"], own["application_uri"]);
    Ok(())
}
