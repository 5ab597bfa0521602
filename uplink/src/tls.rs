//! TLS settings, made anew for each connection so that renewed certificates need no restart.
//!
//! The peer is always verified: against `ca_file` where there is one, else against the system's
//! roots. Before the clock is set, validity is judged as `unset_clock.rs` says. The crypto provider is ring,
//! named explicitly, so that no other crate can change it.

pub(crate) mod pinned_ca;
pub(crate) mod unset_clock;

mod expiry;
mod pin;
mod trust;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WantsClientCert;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::{CertificateError, ClientConfig, ConfigBuilder, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

pub(crate) use expiry::{expires, file_expires};
pub use pin::{Pin, PinError};
use unset_clock::UnsetClock;

/// The files of a TLS client.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// PEM certificates to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// PEM certificate chain that the client shows.
    pub cert_file: Option<PathBuf>,
    /// PEM private key of `cert_file`.
    pub key_file: Option<PathBuf>,
    /// The broker must have one of these keys; without `ca_file` that is all that is asked of it.
    pub pins: Vec<Pin>,
}

/// Why the TLS settings cannot be used. Nothing has been sent yet.
#[derive(Debug, thiserror::Error)]
pub enum TlsSetupError {
    /// A PEM file cannot be read or understood.
    #[error("cannot use {} as {role}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What it should hold.
        role: &'static str,
        /// What is wrong with it.
        #[source]
        source: rustls_pki_types::pem::Error,
    },
    /// A PEM file holds no certificate.
    #[error("{} holds no certificate; expected {role} in PEM form", path.display())]
    NoCertificate {
        /// Which file.
        path: PathBuf,
        /// What it should hold.
        role: &'static str,
    },
    /// Only one of the two files of a client certificate is there.
    #[error("a client certificate needs both cert_file and key_file; only {present} is given")]
    HalfClient {
        /// The key that is there.
        present: &'static str,
    },
    /// The system has no trusted roots.
    #[error(
        "the system has no CA certificates; install the package ca-certificates or give ca_file"
    )]
    NoSystemRoots,
    /// The certificates do not fit together.
    #[error("certificate and key cannot be used together")]
    Unusable(#[source] rustls::Error),
}

/// The provider that everything in this crate uses.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Client settings from the files as they are now.
pub(crate) fn client_config(files: &TlsFiles) -> Result<Arc<ClientConfig>, TlsSetupError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(TlsSetupError::Unusable)?
        .dangerous()
        .with_custom_certificate_verifier(verifier(files)?);
    Ok(Arc::new(with_client(builder, files)?))
}

/// Adds the client certificate, where there is one.
fn with_client(
    builder: ConfigBuilder<ClientConfig, WantsClientCert>,
    files: &TlsFiles,
) -> Result<ClientConfig, TlsSetupError> {
    match (&files.cert_file, &files.key_file) {
        (None, None) => Ok(builder.with_no_client_auth()),
        (Some(cert), Some(key)) => {
            let chain = certificates(cert, "the client certificate")?;
            let key = private_key(key)?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(TlsSetupError::Unusable)
        }
        (Some(_), None) => Err(TlsSetupError::HalfClient {
            present: "cert_file",
        }),
        (None, Some(_)) => Err(TlsSetupError::HalfClient {
            present: "key_file",
        }),
    }
}

fn roots(files: &TlsFiles) -> Result<RootCertStore, TlsSetupError> {
    let mut roots = RootCertStore::empty();
    for certificate in trusted(files.ca_file.as_deref())? {
        // A root that rustls cannot parse verifies nothing; the others still count.
        if let Err(error) = roots.add(certificate) {
            tracing::debug!(%error, "skipped a CA certificate");
        }
    }
    Ok(roots)
}

fn verifier(files: &TlsFiles) -> Result<Arc<dyn ServerCertVerifier>, TlsSetupError> {
    if files.pins.is_empty() {
        return Ok(trust::verifier(UnsetClock::new(roots(files)?)?));
    }
    let chain = match files.ca_file {
        None => None,
        Some(_) => Some(UnsetClock::new(roots(files)?)?),
    };
    Ok(trust::verifier(pin::PinnedKeys {
        pins: files.pins.clone(),
        chain,
    }))
}

/// The certificates to trust: of the file, or of the system.
pub(crate) fn trusted(
    ca_file: Option<&Path>,
) -> Result<Vec<CertificateDer<'static>>, TlsSetupError> {
    match ca_file {
        Some(path) => certificates(path, "CA certificates"),
        None => {
            let found = rustls_native_certs::load_native_certs();
            if found.certs.is_empty() {
                return Err(TlsSetupError::NoSystemRoots);
            }
            Ok(found.certs)
        }
    }
}

fn certificates(
    path: &Path,
    role: &'static str,
) -> Result<Vec<CertificateDer<'static>>, TlsSetupError> {
    let fail = |source| TlsSetupError::File {
        path: path.to_owned(),
        role,
        source,
    };
    let certificates = CertificateDer::pem_file_iter(path)
        .map_err(fail)?
        .collect::<Result<Vec<_>, _>>()
        .map_err(fail)?;
    if certificates.is_empty() {
        return Err(TlsSetupError::NoCertificate {
            path: path.to_owned(),
            role,
        });
    }
    Ok(certificates)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsSetupError> {
    PrivateKeyDer::from_pem_file(path).map_err(|source| TlsSetupError::File {
        path: path.to_owned(),
        role: "the client's private key",
        source,
    })
}

/// The TLS failure inside an I/O error, if there is one.
pub(crate) fn failure(error: &std::io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref::<rustls::Error>()
}

/// What a TLS failure means for the person who has to fix it.
pub(crate) fn hint(error: &rustls::Error) -> &'static str {
    match error {
        rustls::Error::InvalidCertificate(problem) => certificate_hint(problem),
        rustls::Error::AlertReceived(_) => {
            "the broker refused our side of the handshake; check cert_file and key_file, and that the broker trusts their CA"
        }
        rustls::Error::InvalidMessage(_) => {
            "the peer does not speak TLS on this port; use mqtt:// or the broker's TLS port"
        }
        rustls::Error::PeerIncompatible(_) => {
            "the peer supports neither TLS 1.2 nor TLS 1.3 with a current cipher"
        }
        _ => "the TLS handshake failed",
    }
}

fn certificate_hint(problem: &CertificateError) -> &'static str {
    match problem {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "the certificate has expired, or the gateway's clock is wrong"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the certificate is not valid yet; the gateway's clock is probably wrong"
        }
        // A bad signature is what another CA of the same name gives.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "the certificate is not signed by a CA that we trust; set ca_file to the CA of the server"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "the certificate is for another name; the host of the url must be one that the certificate names"
        }
        CertificateError::Other(_) => {
            "the broker has another key than pin_sha256 names; if that is right, write the new one there"
        }
        CertificateError::Revoked => "the certificate was revoked",
        _ => "the certificate cannot be verified",
    }
}
