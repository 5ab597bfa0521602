//! `millrace trust`: who an OPC UA server is, why there is no session with it, and pinning its certificate.
//!
//! It asks and judges as the agent does, with the settings of the device where one is configured, and opens a session for a
//! moment: what it says of a failure is what `millrace status` says.

mod key;
mod own;
mod report;

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use millrace_drivers::opcua::{self, CertificateReport, Inspection, Settings};
use millrace_tags::SystemClock;

use super::client::block_on;
use super::{Failure, Global, output};
use crate::config::{self, Config, Connection};
use crate::device::chain;
use report::{Findings, Tried};

/// Show who an OPC UA server is, what it offers and why there is no session; pin its certificate
///
/// The server is asked as the agent asks it: with the settings of the device where one has this name or address. Compare
/// the thumbprint with the one that the server itself shows before you pin it; on a terminal one key does that. Pinned
/// certificates lie in DATA_DIR/pki/trusted. The certificate of an authority put there is trusted with all that it signed;
/// its revocation list belongs in DATA_DIR/pki/trusted/crl.
#[derive(Debug, Args)]
pub(crate) struct TrustArgs {
    /// The server: opc.tcp://HOST:PORT, or the name of a configured device
    #[arg(required_unless_present = "own")]
    endpoint: Option<String>,
    /// Trust the server's certificate from now on, without a question
    #[arg(long)]
    pin: bool,
    /// Pin only this thumbprint (SHA-1 or SHA-256)
    #[arg(long, value_name = "HEX", requires = "pin")]
    thumbprint: Option<String>,
    /// Show the gateway's own certificate, which servers have to trust
    #[arg(long, conflicts_with_all = ["endpoint", "pin"])]
    own: bool,
    /// Make a new one with the same key; servers have to trust it anew
    #[arg(long, requires = "own")]
    renew: bool,
    /// How long the server may take
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

impl TrustArgs {
    pub(super) fn run(&self, global: &Global) -> anyhow::Result<ExitCode> {
        let Some(endpoint) = &self.endpoint else {
            return own::run(self.renew, &global.pki_dir(), global.json);
        };
        let asked = Asked::find(endpoint, self.timeout, global)?;
        let mut inspection = inspect(&asked.settings)?;
        if self.pin {
            let pinned = pin(&asked.settings, self.choose(&inspection.certificates)?)?;
            inspection = inspect(&asked.settings)?;
            return self.tell(&asked, &inspection, Some(pinned), global);
        }
        let untrusted = inspection
            .certificates
            .iter()
            .filter(|certificate| certificate.trusted_by.is_none());
        let untrusted: Vec<&CertificateReport> = untrusted.collect();
        if let [certificate] = untrusted.as_slice()
            && !global.json
            && key::can_ask()
        {
            output::text(&report::server(&asked.findings(&inspection)))?;
            let question = format!(
                "\nDoes the server itself show the thumbprint {}?\nPress p to trust this certificate from now on, any other key to leave it: ",
                certificate.thumbprint
            );
            if !key::pressed(&question, 'p')? {
                return Ok(ExitCode::FAILURE);
            }
            let pinned = pin(&asked.settings, certificate)?;
            let tried = shake_hands(&asked.settings)?;
            output::text(&report::outcome(&tried, Some(&pinned)))?;
            return Ok(tried.exit_code());
        }
        self.tell(&asked, &inspection, None, global)
    }

    /// Everything that was found, and whether a session opens.
    fn tell(
        &self,
        asked: &Asked,
        inspection: &Inspection,
        pinned: Option<String>,
        global: &Global,
    ) -> anyhow::Result<ExitCode> {
        let findings = asked.findings(inspection);
        let tried = shake_hands(&asked.settings)?;
        if global.json {
            output::json(&report::document(&findings, &tried, pinned.as_deref()))?;
        } else {
            output::text(&report::server(&findings))?;
            output::text(&report::outcome(&tried, pinned.as_deref()))?;
        }
        Ok(match pinned {
            Some(_) => ExitCode::SUCCESS,
            None => tried.exit_code(),
        })
    }

    fn choose<'a>(
        &self,
        certificates: &'a [CertificateReport],
    ) -> Result<&'a CertificateReport, Failure> {
        let asked = self.thumbprint.as_deref().map(plain_hex);
        let mut fitting = certificates.iter().filter(|certificate| {
            asked
                .as_ref()
                .is_none_or(|asked| [&certificate.thumbprint, &certificate.sha256].contains(&asked))
        });
        match (fitting.next(), fitting.next()) {
            (Some(one), None) => Ok(one),
            (None, _) => Err(Failure::new(match &self.thumbprint {
                Some(thumbprint) => format!("the server shows no certificate {thumbprint}"),
                None => "the server shows no certificate".into(),
            })
            .hint("without --pin this command lists what the server shows")),
            (Some(_), Some(_)) => Err(Failure::new("the server shows several certificates")
                .hint("choose one with --thumbprint HEX")),
        }
    }
}

/// Whom we ask, and as whom.
struct Asked {
    /// The device that is configured so.
    device: Option<String>,
    settings: Settings,
}

impl Asked {
    fn find(endpoint: &str, timeout: Duration, global: &Global) -> Result<Self, Failure> {
        let is_url = endpoint.starts_with("opc.tcp://");
        let loaded = config::load(global.config.as_deref(), global.data_dir.as_deref());
        let config = match loaded {
            Ok(loaded) => Some(loaded.config),
            // A server can be asked on a machine that has no configuration.
            Err(_) if is_url => None,
            Err(problems) => {
                return Err(Failure::usage(format!(
                    "{endpoint} is no OPC UA server, and there is no configuration that could name a device so"
                ))
                .hint("write opc.tcp://HOST:PORT; for MQTT brokers set `ca_file` of the uplink")
                .because(problems));
            }
        };
        let configured = config
            .as_ref()
            .and_then(|config| configured(config, endpoint));
        let (device, mut settings) = match configured {
            Some((name, settings)) => (Some(name), settings),
            None if is_url => {
                let pki_dir = config.map_or_else(|| global.pki_dir(), |config| config.pki_dir());
                (None, Settings::new("the server", endpoint, pki_dir))
            }
            None => {
                return Err(Failure::usage(format!("{endpoint} is no OPC UA server"))
                    .hint("write opc.tcp://HOST:PORT, or the name of a device with driver = \"opcua\""));
            }
        };
        settings.timeout = timeout;
        Ok(Self { device, settings })
    }

    fn findings<'a>(&'a self, inspection: &'a Inspection) -> Findings<'a> {
        Findings {
            device: self.device.as_deref(),
            inspection,
        }
    }
}

/// The OPC UA device of this name or address.
fn configured(config: &Config, endpoint: &str) -> Option<(String, Settings)> {
    let plain = |url: &str| url.trim_end_matches('/').to_ascii_lowercase();
    config
        .devices
        .iter()
        .find_map(|device| match &device.connection {
            Connection::Opcua(settings)
                if device.name == endpoint || plain(&settings.url) == plain(endpoint) =>
            {
                Some((device.name.clone(), settings.clone()))
            }
            _ => None,
        })
}

fn inspect(settings: &Settings) -> Result<Inspection, Failure> {
    let asked = block_on(async { Ok(opcua::examine(settings, &SystemClock::new()).await) });
    asked
        .map_err(|error| Failure::new("the server was not asked").because(error))?
        .map_err(|error| Failure::new("the server does not say who it is").because(error))
}

fn pin(settings: &Settings, certificate: &CertificateReport) -> Result<String, Failure> {
    opcua::pin(&settings.pki_dir, &certificate.der)
        .map_err(|error| Failure::new("the certificate was not pinned").because(error))
}

fn shake_hands(settings: &Settings) -> anyhow::Result<Tried> {
    let settings = settings.clone();
    block_on(async {
        let opened = opcua::shake_hands(settings, &SystemClock::new()).await;
        Ok(Tried(opened.map_err(|error| chain(&error))))
    })
}

fn plain_hex(thumbprint: &str) -> String {
    let digits = thumbprint.chars().filter(char::is_ascii_hexdigit);
    digits.map(|c| c.to_ascii_uppercase()).collect()
}

#[cfg(test)]
mod tests;
