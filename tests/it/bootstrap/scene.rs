//! What several tests need together: a core, a broker that wants certificates of it, a device, a subscriber.

use millrace_tests::ports::free_port;

use super::*;

/// mosquitto with TLS, which admits holders of a certificate of the core's CA.
pub(super) fn broker_of(directory: &Path) -> Result<(Broker, u16)> {
    let port = free_port()?;
    let pki = directory.join("pki");
    let lines = format!(
        "listener {port} 127.0.0.1\ncafile {0}/ca.pem\ncertfile {0}/broker.pem\nkeyfile {0}/broker.key\n\
         require_certificate true\nuse_identity_as_username true",
        pki.display()
    );
    Ok((Broker::start_with(directory, &lines)?, port))
}

/// A core of kind hmac-claim that gives `gw-1` a device and an uplink, to a broker that admits holders of its
/// certificates.
pub(super) struct ClaimCore {
    pub(super) core: Core,
    pub(super) subscriber: Subscriber,
    known: Value,
    _broker: Broker,
    _pump: Peer,
    pub(super) directory: tempfile::TempDir,
}

/// A configuration that is a claim string, in the file `claim`.
pub(super) const CLAIM_STRING: &str =
    "[bootstrap]\nprovider = \"hmac-claim\"\nclaim_file = \"claim\"\nspread = \"0s\"\n";

impl ClaimCore {
    pub(super) fn start(more: &[&str]) -> Result<ClaimCore> {
        let directory = tempfile::tempdir()?;
        let mut known = json!({"key": KEY, "reply": {}});
        let args = [&["--base", "/claim", "--tls", "pki"][..], more].concat();
        let core = Core::start(directory.path(), "hmac-claim", &known, &args)?;
        let (broker, tls_port) = broker_of(directory.path())?;
        let subscriber = Subscriber::start(broker.port)?;
        let (pump, pump_port) = plant::start_pump(directory.path(), &[])?;
        // No uplink in the content: what the core says of it beside that is used.
        known["reply"] = json!({
            "id": "gw-1",
            "content_type": "application/toml",
            "content": plant::small_pump_config(pump_port, &[0]),
            "uplink": {"url": format!("mqtts://localhost:{tls_port}"), "profile": "generic"},
        });
        core.change(&known)?;
        Ok(ClaimCore {
            core,
            subscriber,
            known,
            _broker: broker,
            _pump: pump,
            directory,
        })
    }

    /// From now on another token is good.
    pub(super) fn change_token(&mut self, token: &str) -> Result<()> {
        self.known["key"] = json!(token);
        self.core.change(&self.known)
    }

    pub(super) fn ca_sha256(&self) -> &str {
        let ready = &self.core.peer.ready;
        ready["ca_sha256"].as_str().unwrap_or_default()
    }

    /// All in one line.
    pub(super) fn claim_string(&self) -> String {
        format!(
            "https://localhost:{}/claim#sha256={}&id=gw-1&token={KEY}\n",
            self.core.port,
            self.ca_sha256()
        )
    }

    /// A gateway that has it.
    pub(super) fn gateway(&self) -> Result<Gateway> {
        let gateway = Gateway::new(self.directory.path());
        gateway.write("claim", &self.claim_string())?;
        gateway.configure(CLAIM_STRING)?;
        Ok(gateway)
    }
}
