//! What a server offers, for people.

use std::time::Duration;

use millrace_tags::{Clock, Timestamp};
use opcua::types::{DateTime, EndpointDescription, UserTokenPolicy, UserTokenType};

use super::certificate::{Certificate, CertificateTime};
use super::endpoint::{Offered, get_endpoints, mode_name, policy_of, refused, with_cause};
use super::judge::{Judgement, judge};
use super::settings::Settings;
use crate::SessionError;

/// One endpoint of a server, as it describes itself. Nothing of this is proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointReport {
    /// The address that the server gives.
    pub url: String,
    /// The policy's name, `None` for none; its URI where we do not speak it.
    pub policy: String,
    /// `none`, `sign` or `sign-and-encrypt`.
    pub mode: String,
    /// Whether this driver speaks the policy.
    pub spoken: bool,
    /// Ways to log in: `anonymous`, `user-name`, `certificate`, `issued-token`.
    pub user_tokens: Vec<String>,
    /// The server's own order of its endpoints; higher is better.
    pub security_level: u8,
    /// The server application's URI.
    pub application_uri: String,
    /// SHA-1 of the certificate, upper-case hexadecimal, as OPC UA programs show it.
    pub thumbprint: Option<String>,
    /// Whose certificate it is.
    pub subject: Option<String>,
    /// From when to when the certificate holds, RFC 3339.
    pub validity: Option<(String, String)>,
    /// The certificate, for [`super::pin`].
    pub certificate: Option<Vec<u8>>,
}

/// A server's certificate, and what we make of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateReport {
    /// SHA-1, upper-case hexadecimal, as OPC UA programs show it.
    pub thumbprint: String,
    /// SHA-256, upper-case hexadecimal.
    pub sha256: String,
    /// Whose it is.
    pub subject: String,
    /// Who signed it, where that is somebody else.
    pub issuer: Option<String>,
    /// The application URIs that it is for.
    pub uris: Vec<String>,
    /// The host names and addresses that it is for.
    pub hosts: Vec<String>,
    /// From when to when it holds, RFC 3339.
    pub validity: (String, String),
    /// Bits of its RSA key.
    pub rsa_bits: Option<usize>,
    /// Why it is trusted, where it is.
    pub trusted_by: Option<String>,
    /// What forbids a session.
    pub faults: Vec<Finding>,
    /// What is worth knowing and forbids nothing.
    pub remarks: Vec<String>,
    /// The certificate, for [`super::pin`].
    pub der: Vec<u8>,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// One word for it, for programs.
    pub cause: &'static str,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: String,
}

/// Everything that can be learned of a server before a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// What it offers.
    pub endpoints: Vec<EndpointReport>,
    /// The certificates that it shows, each once.
    pub certificates: Vec<CertificateReport>,
    /// How far its clock is ahead of ours, in milliseconds; `None` where we do not know the time.
    pub clock_ahead_ms: Option<i64>,
}

/// Asks a server what it offers; needs neither trust nor a session.
///
/// # Errors
/// Where there is no server, or it does not answer in time.
pub async fn inspect(url: &str, timeout: Duration) -> Result<Vec<EndpointReport>, SessionError> {
    let offer = get_endpoints(url, url, timeout).await?;
    Ok(offer.endpoints.iter().map(report).collect())
}

/// Asks a server what it offers, and looks at its certificates as a session with these settings would.
///
/// # Errors
/// Where there is no server, it does not answer in time, or our own files cannot be read.
pub async fn examine(settings: &Settings, clock: &dyn Clock) -> Result<Inspection, SessionError> {
    let offer = get_endpoints(&settings.device, &settings.url, settings.timeout).await?;
    let now = clock.timebase().utc(clock.now());
    let mut certificates: Vec<CertificateReport> = Vec::new();
    // An endpoint in clear asks nothing of a key: the secured ones come first.
    let mut by_strength: Vec<&EndpointDescription> = offer.endpoints.iter().collect();
    by_strength.sort_by_key(|endpoint| policy_of(endpoint) == Offered::Clear);
    for endpoint in by_strength {
        let found = judge(settings, endpoint, now.and_then(CertificateTime::from_utc))
            .map_err(|error| refused(settings, with_cause(&error), "see to the file"))?;
        let Some(certificate) = &found.certificate else {
            continue;
        };
        if certificates
            .iter()
            .all(|seen| seen.der != certificate.der())
        {
            certificates.push(certificate_report(certificate, &found, settings));
        }
    }
    Ok(Inspection {
        endpoints: offer.endpoints.iter().map(report).collect(),
        certificates,
        clock_ahead_ms: now.map(|now| ahead_ms(offer.answered_at, now)),
    })
}

fn ahead_ms(theirs: DateTime, ours: Timestamp) -> i64 {
    theirs.as_chrono().timestamp_millis() - ours.0 / 1_000_000
}

fn certificate_report(
    certificate: &Certificate,
    found: &Judgement,
    settings: &Settings,
) -> CertificateReport {
    let faults = found.faults.iter().map(|fault| Finding {
        cause: fault.name(),
        message: fault.to_string(),
        hint: fault.hint(&settings.url),
    });
    CertificateReport {
        thumbprint: certificate.thumbprint(),
        sha256: certificate.sha256(),
        subject: certificate.subject(),
        issuer: (!certificate.is_self_signed()).then(|| certificate.issuer()),
        uris: certificate.uris(),
        hosts: certificate.hosts(),
        validity: validity(certificate),
        rsa_bits: certificate.rsa_bits(),
        trusted_by: found.trusted_by.clone(),
        faults: faults.collect(),
        remarks: found.remarks.clone(),
        der: certificate.der().to_vec(),
    }
}

fn report(endpoint: &EndpointDescription) -> EndpointReport {
    let certificate = Certificate::from_der(endpoint.server_certificate.as_ref());
    let tokens = endpoint.user_identity_tokens.iter().flatten();
    let policy = policy_of(endpoint);
    EndpointReport {
        url: endpoint.endpoint_url.to_string(),
        policy: match policy {
            Offered::Clear => "None".to_owned(),
            Offered::Spoken(policy) => policy.name().to_owned(),
            Offered::Other => endpoint.security_policy_uri.to_string(),
        },
        mode: mode_name(endpoint).to_owned(),
        spoken: policy != Offered::Other,
        user_tokens: token_names(tokens),
        security_level: endpoint.security_level,
        application_uri: endpoint.server.application_uri.to_string(),
        thumbprint: certificate.as_ref().map(Certificate::thumbprint),
        subject: certificate.as_ref().map(Certificate::subject),
        validity: certificate.as_ref().map(validity),
        certificate: certificate.map(|certificate| certificate.der().to_vec()),
    }
}

fn validity(certificate: &Certificate) -> (String, String) {
    (
        certificate.not_before().to_string(),
        certificate.not_after().to_string(),
    )
}

/// Each way to log in once, although a server may have it for several policies.
fn token_names<'a>(tokens: impl Iterator<Item = &'a UserTokenPolicy>) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for token in tokens {
        let name = match token.token_type {
            UserTokenType::Anonymous => "anonymous",
            UserTokenType::UserName => "user-name",
            UserTokenType::Certificate => "certificate",
            UserTokenType::IssuedToken => "issued-token",
        };
        if names.iter().all(|seen| seen != name) {
            names.push(name.to_owned());
        }
    }
    names
}
