//! Trust in one certificate that is known by its SHA-256 alone, as a claim string carries it.
//!
//! The server sends the certificate along: that of its CA, or its own where it signed that itself. Everything
//! else is verified as always, with this one as the only authority.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::{TlsFiles, TlsSetupError, provider, unset_clock, with_client};

/// Client settings that trust this certificate only.
pub(crate) fn client_config(
    files: &TlsFiles,
    sha256: [u8; 32],
) -> Result<Arc<ClientConfig>, TlsSetupError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(TlsSetupError::Unusable)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(PinnedCa { sha256 }));
    Ok(Arc::new(with_client(builder, files)?))
}

#[derive(Debug)]
struct PinnedCa {
    sha256: [u8; 32],
}

impl ServerCertVerifier for PinnedCa {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let pinned = intermediates
            .iter()
            .chain([end_entity])
            .find(|shown| ring::digest::digest(&ring::digest::SHA256, shown).as_ref() == self.sha256)
            .ok_or_else(|| {
                rustls::Error::General(
                    "the server shows no certificate with the SHA-256 that was given; it must send its CA along"
                        .to_owned(),
                )
            })?;
        let mut roots = RootCertStore::empty();
        roots.add(pinned.clone().into_owned())?;
        unset_clock::verifier(roots)
            .map_err(|error| rustls::Error::General(error.to_string()))?
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            cert,
            dss,
            &provider().signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &provider().signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
