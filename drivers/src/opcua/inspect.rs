//! What a server offers, for people.

use std::time::Duration;

use opcua::crypto::X509;
use opcua::types::{EndpointDescription, UserTokenPolicy, UserTokenType};

use super::endpoint::{Offered, get_endpoints, mode_name, policy_of};
use super::trust;
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

/// Asks a server what it offers; needs neither trust nor a session.
///
/// # Errors
/// Where there is no server, or it does not answer in time.
pub async fn inspect(url: &str, timeout: Duration) -> Result<Vec<EndpointReport>, SessionError> {
    let endpoints = get_endpoints(url, url, timeout).await?;
    Ok(endpoints.iter().map(report).collect())
}

fn report(endpoint: &EndpointDescription) -> EndpointReport {
    let certificate = trust::server_certificate(&endpoint.server_certificate).ok();
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
        user_tokens: tokens.map(|token| token_name(token).to_owned()).collect(),
        security_level: endpoint.security_level,
        application_uri: endpoint.server.application_uri.to_string(),
        thumbprint: certificate.as_ref().map(trust::thumbprint),
        subject: certificate.as_ref().map(X509::subject_name),
        validity: certificate.as_ref().and_then(validity),
        certificate: certificate.and_then(|certificate| certificate.to_der().ok()),
    }
}

fn validity(certificate: &X509) -> Option<(String, String)> {
    let (from, to) = (
        certificate.not_before().ok()?,
        certificate.not_after().ok()?,
    );
    Some((from.to_rfc3339(), to.to_rfc3339()))
}

fn token_name(token: &UserTokenPolicy) -> &'static str {
    match token.token_type {
        UserTokenType::Anonymous => "anonymous",
        UserTokenType::UserName => "user-name",
        UserTokenType::Certificate => "certificate",
        UserTokenType::IssuedToken => "issued-token",
    }
}
