//! The certificate of a user, and its key.

use std::path::Path;

use opcua::crypto::{KeySize, PrivateKey};

use super::certificate::Certificate;
use super::endpoint::{refused, with_cause};
use super::settings::Settings;
use crate::SessionError;

/// What proves who the user is.
pub(super) struct UserCertificate {
    pub(super) certificate: Certificate,
    pub(super) key: PrivateKey,
}

impl UserCertificate {
    /// Reads both files, and finds out whether they belong together before a server has to.
    pub(super) fn read(
        settings: &Settings,
        cert_file: &Path,
        key_file: &Path,
    ) -> Result<Self, SessionError> {
        let certificate = Certificate::read(cert_file).map_err(|error| {
            let message = format!("user_cert_file: {}", with_cause(&error));
            refused(settings, message, "name a certificate in DER or PEM")
        })?;
        let key = read_key(settings, key_file)?;
        if !belong_together(&certificate, &key) {
            return Err(refused(
                settings,
                format!(
                    "the key in {} is not that of the certificate in {} ({})",
                    key_file.display(),
                    cert_file.display(),
                    certificate.subject()
                ),
                "user_key_file must hold the key with which user_cert_file was made",
            ));
        }
        Ok(Self { certificate, key })
    }
}

fn read_key(settings: &Settings, path: &Path) -> Result<PrivateKey, SessionError> {
    let bytes = std::fs::read(path).map_err(|error| {
        refused(
            settings,
            format!("user_key_file {} cannot be read: {error}", path.display()),
            "make the file readable for the user that runs millrace",
        )
    })?;
    PrivateKey::from_pem(&bytes).map_err(|_| {
        refused(
            settings,
            format!("user_key_file {} holds no RSA key in PEM", path.display()),
            "write the key unencrypted as PKCS 8: openssl pkcs8 -topk8 -nocrypt -in KEY -out FILE",
        )
    })
}

fn belong_together(certificate: &Certificate, key: &PrivateKey) -> bool {
    const MESSAGE: &[u8] = b"millrace";
    let mut signature = vec![0; key.size()];
    let Ok(public) = certificate.x509.public_key() else {
        return false;
    };
    key.sign_sha256(MESSAGE, &mut signature).is_ok()
        && public.verify_sha256(MESSAGE, &signature).unwrap_or(false)
}
