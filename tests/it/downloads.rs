//! What a gateway fetches by command: configurations and models, over https only, from hosts that are allowed, with a digest.

use anyhow::{Context, Result};
use millrace_tests::agent::Gateway;
use millrace_tests::broker::Broker;
use millrace_tests::bundle::sha256;
use millrace_tests::certificates::Certificates;
use millrace_tests::commander::Commander;
use millrace_tests::peer::Peer;
use millrace_tests::ports::free_port;
use millrace_tests::wait::{STEP, wait_for};
use serde_json::{Value, json};

use crate::plant;

/// A gateway that is connected over TLS, and a server of files that its authority vouches for.
pub(crate) struct Scene {
    pub(crate) gateway: Gateway,
    core: Commander,
    port: u16,
    pump: u16,
    _files: Peer,
    _pump: Peer,
    pub(crate) broker: Broker,
    _directory: tempfile::TempDir,
}

const RIGHTS: &str = "[local]\ncommands = [\"config.apply\"]\n";

impl Scene {
    /// `more` comes into the configuration: `[local]`, and models over `pump/t0`.
    pub(crate) fn start(more: &str) -> Result<Scene> {
        Self::start_in(tempfile::tempdir()?, more)
    }

    /// In a directory that holds what the configuration names.
    pub(crate) fn start_in(directory: tempfile::TempDir, more: &str) -> Result<Scene> {
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
        let device = plant::small_pump_config(pump, &[0]);
        gateway.configure(&format!("{uplink}{device}{more}"))?;
        gateway.start()?;
        let scene = Scene {
            gateway,
            core,
            port,
            pump,
            _files: files,
            _pump: pump_peer,
            broker,
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

    pub(crate) fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.port)
    }

    /// The reply to a command, whenever it comes.
    pub(crate) fn outcome(&self, id: &str, op: &str, args: &Value) -> Result<Value> {
        let command = json!({"id": id, "op": op, "args": args});
        self.core.publish(&command.to_string(), false)?;
        wait_for(&format!("the outcome of {id}"), 3 * STEP, || {
            self.core.replies(id).first().cloned()
        })
        .with_context(|| self.gateway.log())
    }
}

#[test]
fn a_configuration_comes_by_url_only_where_everything_is_right() -> Result<()> {
    let scene = Scene::start(RIGHTS)?;
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
