//! What is ours in an attempt to enrol: made once, kept until the confirm, so that a retry is the same request.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateParams, DnType, KeyPair};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use x509_cert::Certificate;
use x509_cert::der::Decode;

use super::random_bytes;
use crate::secret::Secret;

/// The first member of its text.
const FORMAT: &str = "millrace-attempt";
/// The form of its text. Another one is refused.
const VERSION: u32 = 1;

/// A key pair of P-256, the certificate request for it, and a token. The private key never leaves the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    external_id: String,
    key_pem: Secret,
    csr_der: Vec<u8>,
    token: Secret,
}

/// Why there is no attempt.
#[derive(Debug, thiserror::Error)]
pub enum AttemptError {
    /// The system gives no random numbers, or the id fits into no certificate.
    #[error("cannot make a key pair and a certificate request for `{0}`")]
    Make(String, #[source] Option<rcgen::Error>),
    /// The text is not one of ours, or was damaged: make a new one.
    #[error("it is no attempt that this version can read")]
    Text,
}

#[derive(Serialize, Deserialize)]
struct Written {
    format: String,
    version: u32,
    external_id: String,
    key_pem: String,
    csr: String,
    token: String,
}

impl Attempt {
    /// A new one for a gateway of this name.
    ///
    /// # Errors
    /// Where the system gives no random numbers.
    pub fn new(external_id: &str) -> Result<Self, AttemptError> {
        let fail = |error| AttemptError::Make(external_id.to_owned(), Some(error));
        let key = KeyPair::generate().map_err(fail)?;
        let mut params = CertificateParams::new(Vec::<String>::new()).map_err(fail)?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, external_id);
        let csr = params.serialize_request(&key).map_err(fail)?;
        let token: [u8; 16] =
            random_bytes().map_err(|_| AttemptError::Make(external_id.to_owned(), None))?;
        Ok(Self {
            external_id: external_id.to_owned(),
            key_pem: Secret::new(key.serialize_pem()),
            csr_der: csr.der().to_vec(),
            token: Secret::new(hex(&token)),
        })
    }

    /// Its text, which holds the private key.
    pub fn to_text(&self) -> Secret {
        let written = Written {
            format: FORMAT.to_owned(),
            version: VERSION,
            external_id: self.external_id.clone(),
            key_pem: self.key_pem.expose().to_owned(),
            csr: STANDARD.encode(&self.csr_der),
            token: self.token.expose().to_owned(),
        };
        // Plain texts always have a form in JSON.
        Secret::new(serde_json::to_string(&written).unwrap_or_default())
    }

    /// The attempt of this text, where it is for a gateway of this name.
    ///
    /// # Errors
    /// Where it is for another, or no text of ours.
    pub fn from_text(text: &Secret, external_id: &str) -> Result<Self, AttemptError> {
        let written: Written =
            serde_json::from_str(text.expose()).map_err(|_| AttemptError::Text)?;
        let ours = written.format == FORMAT
            && written.version == VERSION
            && written.external_id == external_id;
        let csr_der = STANDARD
            .decode(&written.csr)
            .ok()
            .filter(|_| ours)
            .ok_or(AttemptError::Text)?;
        Ok(Self {
            external_id: written.external_id,
            key_pem: Secret::new(written.key_pem),
            csr_der,
            token: Secret::new(written.token),
        })
    }

    /// The private key, PEM.
    pub fn key_pem(&self) -> &Secret {
        &self.key_pem
    }

    /// The PKCS#10 certificate request, DER.
    pub fn csr_der(&self) -> &[u8] {
        &self.csr_der
    }

    /// 128 random bits in hexadecimal digits.
    pub fn token(&self) -> &Secret {
        &self.token
    }

    /// What tells this key pair from another: the SHA-256 of the request.
    pub(super) fn csr_sha256(&self) -> String {
        hex(ring::digest::digest(&ring::digest::SHA256, &self.csr_der).as_ref())
    }

    /// Whether the certificate is for our key.
    pub(super) fn owns(&self, certificate: &Certificate) -> bool {
        let public = KeyPair::from_pem(self.key_pem.expose()).ok();
        let shown = &certificate.tbs_certificate.subject_public_key_info;
        public.is_some_and(|key| {
            rcgen::PublicKeyData::der_bytes(&key) == shown.subject_public_key.raw_bytes()
        })
    }

    /// Whether the first certificate of the PEM is for our key.
    pub(super) fn owns_pem(&self, pem: &str) -> bool {
        CertificateDer::from_pem_slice(pem.as_bytes())
            .ok()
            .and_then(|der| Certificate::from_der(&der).ok())
            .is_some_and(|certificate| self.owns(&certificate))
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_makes_the_same_request() {
        let attempt = Attempt::new("gw-1").unwrap();
        let again = Attempt::from_text(&attempt.to_text(), "gw-1").unwrap();
        assert_eq!(attempt, again);
        assert_eq!(attempt.token().expose().len(), 32);
        assert!(Attempt::from_text(&attempt.to_text(), "gw-2").is_err());
        assert!(Attempt::from_text(&Secret::new("{}"), "gw-1").is_err());
        let shown = format!("{attempt:?}");
        assert!(!shown.contains("PRIVATE KEY"), "{shown}");
        assert!(!shown.contains(attempt.token().expose()), "{shown}");
    }

    #[test]
    fn a_certificate_of_another_key_is_not_ours() {
        let (one, other) = (Attempt::new("gw-1").unwrap(), Attempt::new("gw-1").unwrap());
        let key = KeyPair::from_pem(one.key_pem().expose()).unwrap();
        let params = CertificateParams::new(vec!["gw-1".to_owned()]).unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        assert!(one.owns_pem(&pem));
        assert!(!other.owns_pem(&pem));
        assert!(!other.owns_pem("no certificate"));
    }
}
