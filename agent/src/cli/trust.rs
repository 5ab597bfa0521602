//! `millrace trust`: who an OPC UA server is, and pinning its certificate.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use millrace_drivers::opcua::{self, EndpointReport};
use serde_json::json;

use super::client::block_on;
use super::table::Table;
use super::{Failure, Global, output};

/// Show who an OPC UA server is and what it offers; pin its certificate
///
/// Without --pin nothing changes. Compare the thumbprint with the one that the server itself shows before
/// you pin it. The agent trusts pinned certificates in DATA_DIR/pki/trusted.
#[derive(Debug, Args)]
pub(crate) struct TrustArgs {
    /// The server: opc.tcp://HOST:PORT
    endpoint: String,
    /// Trust the server's certificate from now on
    #[arg(long)]
    pin: bool,
    /// Pin only this thumbprint
    #[arg(long, value_name = "HEX", requires = "pin")]
    thumbprint: Option<String>,
    /// How long the server may take
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

impl TrustArgs {
    pub(super) fn run(&self, global: &Global) -> anyhow::Result<ExitCode> {
        if !self.endpoint.starts_with("opc.tcp://") {
            return Err(
                Failure::usage(format!("{} is no OPC UA server", self.endpoint))
                    .hint("write opc.tcp://HOST:PORT; for MQTT brokers set `ca_file` of the uplink")
                    .into(),
            );
        }
        let endpoints = block_on(async {
            let asked = opcua::inspect(&self.endpoint, self.timeout).await;
            Ok(asked.map_err(|e| Failure::new("the server was not asked").because(e))?)
        })?;
        let pinned = if self.pin {
            Some(self.pin(&endpoints, global)?)
        } else {
            None
        };
        if global.json {
            output::json(&document(&endpoints, pinned.as_deref()))?;
        } else {
            output::text(&render(&endpoints, pinned.as_deref()))?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn pin(&self, endpoints: &[EndpointReport], global: &Global) -> anyhow::Result<String> {
        let certificates = certificates(endpoints);
        let asked = self.thumbprint.as_deref().map(plain_hex);
        let mut fitting = certificates.iter().filter(|endpoint| {
            let shown = endpoint.thumbprint.as_deref().map(plain_hex);
            asked.is_none() || shown == asked
        });
        let certificate = match (fitting.next(), fitting.next()) {
            (Some(one), None) => one.certificate.as_deref().unwrap_or_default(),
            (None, _) => {
                return Err(Failure::new(match &self.thumbprint {
                    Some(thumbprint) => format!("the server shows no certificate {thumbprint}"),
                    None => "the server shows no certificate".into(),
                })
                .hint("without --pin this command lists what the server shows")
                .into());
            }
            (Some(_), Some(_)) => {
                return Err(Failure::new("the server shows several certificates")
                    .hint("choose one with --thumbprint HEX")
                    .into());
            }
        };
        let pinned = opcua::pin(&global.pki_dir(), certificate);
        Ok(pinned.map_err(|e| Failure::new("the certificate was not pinned").because(e))?)
    }
}

fn plain_hex(thumbprint: &str) -> String {
    let digits = thumbprint.chars().filter(char::is_ascii_hexdigit);
    digits.map(|c| c.to_ascii_uppercase()).collect()
}

/// The endpoints that show a certificate, each certificate once.
fn certificates(endpoints: &[EndpointReport]) -> Vec<&EndpointReport> {
    let mut seen: Vec<&EndpointReport> = Vec::new();
    for endpoint in endpoints.iter().filter(|e| e.certificate.is_some()) {
        if seen
            .iter()
            .all(|other| other.certificate != endpoint.certificate)
        {
            seen.push(endpoint);
        }
    }
    seen
}

fn document(endpoints: &[EndpointReport], pinned: Option<&str>) -> serde_json::Value {
    let endpoints: Vec<serde_json::Value> = endpoints
        .iter()
        .map(|e| {
            json!({
                "url": e.url, "policy": e.policy, "mode": e.mode, "spoken": e.spoken,
                "user_tokens": e.user_tokens, "security_level": e.security_level,
                "application_uri": e.application_uri, "thumbprint": e.thumbprint,
                "subject": e.subject,
                "valid_from": e.validity.as_ref().map(|v| &v.0),
                "valid_to": e.validity.as_ref().map(|v| &v.1),
            })
        })
        .collect();
    json!({"endpoints": endpoints, "pinned": pinned})
}

fn render(endpoints: &[EndpointReport], pinned: Option<&str>) -> String {
    let mut text = String::new();
    for endpoint in certificates(endpoints) {
        let _ = writeln!(text, "application  {}", endpoint.application_uri);
        let _ = writeln!(text, "subject      {}", known(endpoint.subject.as_deref()));
        let _ = writeln!(
            text,
            "thumbprint   {}",
            known(endpoint.thumbprint.as_deref())
        );
        if let Some((from, to)) = &endpoint.validity {
            let _ = writeln!(text, "valid        {from} to {to}");
        }
        text.push('\n');
    }
    let mut table = Table::new(["POLICY", "MODE", ">LEVEL", "USABLE", "LOGINS"]);
    for endpoint in endpoints {
        table.row([
            endpoint.policy.clone(),
            endpoint.mode.clone(),
            endpoint.security_level.to_string(),
            if endpoint.spoken { "yes" } else { "no" }.into(),
            endpoint.user_tokens.join(", "),
        ]);
    }
    text.push_str(&table.render(""));
    match pinned {
        Some(thumbprint) => {
            let _ = writeln!(
                text,
                "\npinned {thumbprint}: the agent trusts this server now"
            );
        }
        None => text.push_str("\nNothing was pinned; `--pin` trusts the certificate above.\n"),
    }
    text
}

fn known(text: Option<&str>) -> &str {
    text.unwrap_or("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(policy: &str, mode: &str, certificate: &[u8]) -> EndpointReport {
        EndpointReport {
            url: "opc.tcp://tank-farm:4840".into(),
            policy: policy.into(),
            mode: mode.into(),
            spoken: policy != "Basic128Rsa15",
            user_tokens: vec!["anonymous".into(), "user-name".into()],
            security_level: 1,
            application_uri: "urn:tank-farm".into(),
            thumbprint: Some("AB12".into()),
            subject: Some("CN=tank-farm".into()),
            validity: Some(("2026-01-01T00:00:00Z".into(), "2036-01-01T00:00:00Z".into())),
            certificate: Some(certificate.to_vec()),
        }
    }

    #[test]
    fn certificate_first_then_what_is_offered() {
        let endpoints = [
            endpoint("None", "none", b"one"),
            endpoint("Basic256Sha256", "sign-and-encrypt", b"one"),
            endpoint("Basic128Rsa15", "sign", b"one"),
        ];
        let text = render(&endpoints, None);
        insta::assert_snapshot!(text);
    }

    #[test]
    fn one_of_several_certificates_must_be_chosen() {
        let endpoints = [
            endpoint("None", "none", b"one"),
            endpoint("x", "sign", b"two"),
        ];
        let args = TrustArgs {
            endpoint: "opc.tcp://h:1".into(),
            pin: true,
            thumbprint: None,
            timeout: Duration::from_secs(1),
        };
        let error = args.pin(&endpoints, &Global::default()).unwrap_err();
        assert!(error.to_string().contains("several"), "{error}");
        let error = args.pin(&[], &Global::default()).unwrap_err();
        assert!(error.to_string().contains("no certificate"), "{error}");
    }

    #[test]
    fn thumbprints_compare_without_colons_and_case() {
        assert_eq!(plain_hex("ab:12"), plain_hex("AB12"));
    }
}
