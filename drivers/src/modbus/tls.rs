//! Modbus Security (MB-TCP-Security V21): Modbus TCP inside of TLS, both sides with a certificate.
//!
//! A certificate may carry a role (extension 1.3.6.1.4.1.50316.802.1), by which the server decides what we
//! may do. It is read from both certificates and shown, since a missing role is why a server answers
//! everything with exception 01.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls_pki_types::pem::PemObject;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use x509_cert::der::Decode;
use x509_cert::der::asn1::{ObjectIdentifier, Utf8StringRef};

use super::link::Transport;
use crate::SessionError;

/// The role of a certificate's holder.
const ROLE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.50316.802.1");

/// The files of a Modbus Security client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    /// PEM: the authorities, or the server's own certificate, that are trusted.
    pub ca_file: PathBuf,
    /// PEM: our certificate, with its chain.
    pub cert_file: PathBuf,
    /// PEM: its key.
    pub key_file: PathBuf,
    /// The name in the server's certificate, where it is not the host of the address.
    pub server_name: Option<String>,
}

/// Why the files cannot be used.
#[derive(Debug, thiserror::Error)]
enum TlsFileError {
    #[error("{path}")]
    Unreadable {
        path: String,
        #[source]
        source: rustls_pki_types::pem::Error,
    },
    #[error("{path} holds no certificate")]
    Empty { path: String },
    #[error("{0}")]
    Unusable(#[from] rustls::Error),
}

impl TlsSettings {
    /// Shakes hands; brings the stream and what is to be said of the roles.
    pub(crate) async fn handshake(
        &self,
        device: &str,
        address: &str,
        stream: TcpStream,
    ) -> Result<(Box<dyn Transport>, Vec<String>), SessionError> {
        let refused = |message: String, hint: &str| SessionError::Refused {
            device: device.to_owned(),
            message,
            hint: hint.to_owned(),
        };
        let (config, our_role) = self.config().map_err(|error| {
            refused(
                chain(&error),
                "correct ca_file, cert_file and key_file: PEM files that the service can read",
            )
        })?;
        let name = self.server_name.as_deref().unwrap_or_else(|| host(address));
        let name = ServerName::try_from(name.to_owned()).map_err(|_| {
            refused(
                format!("{name} is no name that a certificate can have"),
                "set server_name",
            )
        })?;
        let connected = TlsConnector::from(Arc::new(config)).connect(name, stream);
        let stream = connected.await.map_err(|source| match tls_error(&source) {
            // Certificates do not become right by trying again.
            Some(error) => refused(
                error.to_string(),
                "check the server's certificate, ours, and the clock",
            ),
            None => SessionError::Connect {
                address: address.to_owned(),
                source,
            },
        })?;
        let server = stream.get_ref().1.peer_certificates();
        let server = server.and_then(|chain| chain.first());
        let server_role = server.and_then(|certificate| role(certificate));
        let remarks = vec![
            show_role("our certificate", our_role),
            show_role("the server's certificate", server_role),
        ];
        Ok((Box::new(stream), remarks))
    }

    /// The configuration of the client, and the role of our certificate. Read anew at each handshake, so
    /// that renewed files are taken without a restart.
    fn config(&self) -> Result<(rustls::ClientConfig, Option<String>), TlsFileError> {
        let mut roots = rustls::RootCertStore::empty();
        for authority in certificates(&self.ca_file)? {
            roots.add(authority)?;
        }
        let ours = certificates(&self.cert_file)?;
        let key = PrivateKeyDer::from_pem_file(&self.key_file)
            .map_err(|source| unreadable(&self.key_file, source))?;
        let our_role = ours.first().and_then(|certificate| role(certificate));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(ours, key)?;
        Ok((config, our_role))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsFileError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let certificates: Vec<_> = read.map_err(|source| unreadable(path, source))?;
    if certificates.is_empty() {
        return Err(TlsFileError::Empty {
            path: path.display().to_string(),
        });
    }
    Ok(certificates)
}

fn unreadable(path: &Path, source: rustls_pki_types::pem::Error) -> TlsFileError {
    TlsFileError::Unreadable {
        path: path.display().to_string(),
        source,
    }
}

/// The host of `host:port`.
fn host(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// The role in a certificate, where it has one.
fn role(certificate: &CertificateDer<'_>) -> Option<String> {
    let certificate = x509_cert::Certificate::from_der(certificate).ok()?;
    let extensions = certificate.tbs_certificate.extensions?;
    let role = extensions.iter().find(|e| e.extn_id == ROLE)?;
    let text = Utf8StringRef::from_der(role.extn_value.as_bytes()).ok()?;
    Some(text.as_str().to_owned())
}

fn show_role(whose: &str, role: Option<String>) -> String {
    match role {
        Some(role) => format!("{whose} has the role {role:?}"),
        None => format!("{whose} has no role"),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests;
