//! Trust in one certificate that is known by its SHA-256 alone, as a claim string carries it.
//!
//! The server sends the certificate along: that of its CA, or its own where it signed that itself. Everything
//! else is verified as always, with this one as the only authority.

use std::sync::Arc;

use rustls::client::danger::ServerCertVerified;
use rustls::{ClientConfig, RootCertStore};

use super::trust::{self, Shown, Trust};
use super::unset_clock::UnsetClock;
use super::{TlsFiles, TlsSetupError, provider, with_client};

/// Client settings that trust this certificate only.
pub(crate) fn client_config(
    files: &TlsFiles,
    sha256: [u8; 32],
) -> Result<Arc<ClientConfig>, TlsSetupError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(TlsSetupError::Unusable)?
        .dangerous()
        .with_custom_certificate_verifier(trust::verifier(PinnedCa { sha256 }));
    Ok(Arc::new(with_client(builder, files)?))
}

#[derive(Debug)]
struct PinnedCa {
    sha256: [u8; 32],
}

impl Trust for PinnedCa {
    fn judge(&self, shown: Shown<'_>) -> Result<ServerCertVerified, rustls::Error> {
        let pinned = shown
            .intermediates
            .iter()
            .chain([shown.certificate])
            .find(|shown| ring::digest::digest(&ring::digest::SHA256, shown).as_ref() == self.sha256)
            .ok_or_else(|| {
                rustls::Error::General(
                    "the server shows no certificate with the SHA-256 that was given; it must send its CA along"
                        .to_owned(),
                )
            })?;
        let mut roots = RootCertStore::empty();
        roots.add(pinned.clone().into_owned())?;
        UnsetClock::new(roots)
            .map_err(|error| rustls::Error::General(error.to_string()))?
            .judge(shown)
    }
}
