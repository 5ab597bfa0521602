//! What a gateway fetches by command: configurations and models, over https only, from hosts that are allowed, with a digest.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use millrace_tests::agent::Gateway;
use millrace_tests::broker::Broker;
use millrace_tests::certificates::Certificates;
use millrace_tests::commander::Commander;
use millrace_tests::peer::Peer;
use millrace_tests::ports::free_port;
use millrace_tests::wait::{STEP, wait_for};
use serde_json::{Value, json};

use crate::plant;

/// A gateway that is connected over TLS, and a server of files that its authority vouches for.
struct Scene {
    gateway: Gateway,
    core: Commander,
    port: u16,
    pump: u16,
    _files: Peer,
    _pump: Peer,
    _broker: Broker,
    _directory: tempfile::TempDir,
}

const RIGHTS: &str = "[local]\ncommands = [\"status\", \"config.apply\", \"model.install\", \"model.promote\", \"model.rollback\"]\n";

impl Scene {
    fn start(model: bool) -> Result<Scene> {
        let directory = tempfile::tempdir()?;
        let certificates = Certificates::make(directory.path())?;
        let broker = Broker::start_tls(directory.path(), &certificates)?;
        let core = Commander::start(broker.port)?;
        let (pump_peer, pump) = plant::start_pump(directory.path(), &[])?;
        let port = free_port()?;
        std::fs::create_dir(directory.path().join("files"))?;
        let text = |path: std::path::PathBuf| path.display().to_string();
        let (cert, key) = (text(certificates.server()), text(certificates.server_key()));
        let port_text = port.to_string();
        let args = [
            "--port", &port_text, "--cert", &cert, "--key", &key, "--files", "files",
        ];
        let files = Peer::start("file_server.py", &args, directory.path())?;
        let mut gateway = Gateway::new(directory.path());
        let uplink = format!(
            "[[uplink]]\nname = \"cloud\"\nurl = \"mqtts://localhost:{}\"\nca_file = \"{}\"\ncert_file = \"{}\"\nkey_file = \"{}\"\n\n",
            broker.tls_port,
            certificates.ca().display(),
            certificates.client().display(),
            certificates.client_key().display()
        );
        let bundle = millrace_tests::checkout().join("models/pump-anomaly");
        let model = match model {
            true => format!(
                "[[model]]\nname = \"watch\"\nbundle = \"{}\"\n[model.inputs]\n{}\n",
                bundle.display(),
                roles()?
                    .iter()
                    .map(|role| format!("{role} = \"pump/t0\"\n"))
                    .collect::<String>()
            ),
            false => String::new(),
        };
        let device = plant::small_pump_config(pump, &[0]);
        gateway.configure(&format!("{uplink}{RIGHTS}{device}{model}"))?;
        gateway.start()?;
        let scene = Scene {
            gateway,
            core,
            port,
            pump,
            _files: files,
            _pump: pump_peer,
            _broker: broker,
            _directory: directory,
        };
        scene.is_up()?;
        Ok(scene)
    }

    fn is_up(&self) -> Result<()> {
        wait_for("a connected uplink and a good value", STEP, || {
            let status = self.gateway.json(&["status"]).ok()?;
            let good = status["devices"][0]["tags_good"].as_u64() > Some(0);
            (status["uplinks"][0]["state"] == "connected" && good).then_some(())
        })
        .with_context(|| self.gateway.log())
    }

    fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.port)
    }

    /// The reply to a command, whenever it comes.
    fn outcome(&self, id: &str, op: &str, args: &Value) -> Result<Value> {
        let command = json!({"id": id, "op": op, "args": args});
        self.core.publish(&command.to_string(), false)?;
        wait_for(&format!("the outcome of {id}"), 3 * STEP, || {
            self.core.replies(id).first().cloned()
        })
        .with_context(|| self.gateway.log())
    }

    fn version(&self) -> Result<String> {
        let status = self.gateway.json(&["status"])?;
        Ok(status["models"][0]["version"].to_string())
    }
}

/// Lines of the bundle's manifest.
fn manifest() -> Result<String> {
    let path = millrace_tests::checkout().join("models/pump-anomaly/model.toml");
    Ok(std::fs::read_to_string(path)?)
}

fn roles() -> Result<Vec<String>> {
    let text = manifest()?;
    let lines = text.lines().filter_map(|line| line.strip_prefix("role = "));
    Ok(lines
        .map(|role| role.trim_matches('"').to_owned())
        .collect())
}

fn sha256(path: &Path) -> Result<String> {
    let output = Command::new("sha256sum").arg(path).output()?;
    ensure!(output.status.success());
    let text = String::from_utf8(output.stdout)?;
    Ok(text
        .split_whitespace()
        .next()
        .context("a digest")?
        .to_owned())
}

#[test]
fn a_configuration_comes_by_url_only_where_everything_is_right() -> Result<()> {
    let scene = Scene::start(false)?;
    let two = plant::small_pump_config(scene.pump, &[0, 1]).replace("\"pump\"", "\"second\"");
    scene.gateway.write("files/layer", &two)?;
    let digest = sha256(&scene.gateway.path("files/layer"))?;
    let wrong = "0".repeat(64);
    for (id, url, digest, status, said) in [
        (
            "d",
            scene.url("/layer"),
            wrong.as_str(),
            "failed",
            "was asked for",
        ),
        (
            "n",
            scene.url("/layer"),
            "abc",
            "rejected",
            "64 hexadecimal digits",
        ),
        (
            "h",
            "https://127.0.0.1:1/layer".to_owned(),
            digest.as_str(),
            "rejected",
            "fetch_hosts",
        ),
        (
            "p",
            scene.url("/layer").replace("https", "http"),
            digest.as_str(),
            "rejected",
            "https",
        ),
        (
            "away",
            scene.url("/away"),
            digest.as_str(),
            "rejected",
            "evil.example",
        ),
        (
            "plain",
            scene.url("/plain"),
            digest.as_str(),
            "rejected",
            "expected https",
        ),
        (
            "round",
            scene.url("/round"),
            digest.as_str(),
            "failed",
            "redirected more than",
        ),
        (
            "gone",
            scene.url("/nothing"),
            digest.as_str(),
            "failed",
            "404",
        ),
        (
            "endless",
            scene.url("/endless"),
            digest.as_str(),
            "failed",
            "more than 8388608 bytes",
        ),
    ] {
        let reply = scene.outcome(id, "config.apply", &json!({"url": url, "sha256": digest}))?;
        assert_eq!(reply["status"], status, "{id}: {reply}");
        assert!(reply["error"].to_string().contains(said), "{id}: {reply}");
    }
    let bare = scene.outcome("bare", "config.apply", &json!({"url": scene.url("/layer")}))?;
    assert_eq!(bare["status"], "rejected", "{bare}");
    let args = json!({"url": scene.url("/here/layer"), "sha256": digest, "watch": "5s"});
    let kept = scene.outcome("right", "config.apply", &args)?;
    assert_eq!(kept["status"], "done", "{kept}");
    assert_eq!(kept["result"]["sha256"], digest.as_str(), "{kept}");
    let status = scene.gateway.json(&["status"])?;
    assert_eq!(
        status["devices"].as_array().map(Vec::len),
        Some(2),
        "{status}"
    );
    Ok(())
}

#[test]
fn a_model_is_installed_promoted_and_gone_back_from() -> Result<()> {
    let mut scene = Scene::start(true)?;
    let own = scene.version()?;
    let text = manifest()?;
    let line = text
        .lines()
        .find(|line| line.starts_with("version = "))
        .context("a version")?;
    let bundle = scene.gateway.path("bundle");
    std::fs::create_dir(&bundle)?;
    let source = millrace_tests::checkout().join("models/pump-anomaly");
    for name in ["model.onnx", "golden.json"] {
        std::fs::copy(source.join(name), bundle.join(name))?;
    }
    std::fs::write(
        bundle.join("model.toml"),
        text.replace(line, "version = \"99.0.0\""),
    )?;
    let tar = scene.gateway.path("files/model.tar");
    let status = Command::new("tar")
        .arg("-C")
        .arg(&bundle)
        .arg("-cf")
        .arg(&tar)
        .arg(".")
        .status()?;
    ensure!(status.success());
    let args = json!({"name": "watch", "url": scene.url("/model.tar"), "sha256": sha256(&tar)?});
    let installed = scene.outcome("i-1", "model.install", &args)?;
    assert_eq!(installed["result"]["version"], "99.0.0", "{installed}");
    assert_eq!(scene.version()?, own, "installed is not promoted");

    // What is no bundle is not admitted, and disturbs nothing.
    scene.gateway.write("files/junk", "junk")?;
    let junk = sha256(&scene.gateway.path("files/junk"))?;
    let refused = scene.outcome(
        "i-2",
        "model.install",
        &json!({"url": scene.url("/junk"), "sha256": junk}),
    )?;
    assert!(
        refused["error"].to_string().contains("not admitted"),
        "{refused}"
    );

    let unknown = scene.outcome(
        "p-1",
        "model.promote",
        &json!({"name": "watch", "version": "1.2.3"}),
    )?;
    assert!(
        unknown["error"].to_string().contains("there are: 99.0.0"),
        "{unknown}"
    );
    let promoted = scene.outcome(
        "p-2",
        "model.promote",
        &json!({"name": "watch", "version": "99.0.0"}),
    )?;
    assert_eq!(promoted["result"]["version"], "99.0.0", "{promoted}");
    assert_eq!(scene.version()?, "\"99.0.0\"");
    scene.gateway.terminate()?;
    scene.gateway.start()?;
    scene.is_up()?;
    assert_eq!(scene.version()?, "\"99.0.0\"", "it wins after a restart");
    let back = scene.outcome("r-1", "model.rollback", &json!({"name": "watch"}))?;
    assert_eq!(back["status"], "done", "{back}");
    assert_eq!(scene.version()?, own);
    Ok(())
}
