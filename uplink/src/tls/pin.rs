//! Brokers that are known by their key: the SHA-256 of the public key (SPKI) in their certificate.
//!
//! Without `ca_file` the key alone decides: name and dates of the certificate mean nothing then, as with brokers that
//! sign for themselves. With one, both must hold. The handshake proves in either case that the broker has the key.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{SHA256, digest};
use rustls::client::danger::ServerCertVerified;
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, Error, OtherError};
use rustls_pki_types::CertificateDer;

use super::trust::{Shown, Trust};
use super::unset_clock::UnsetClock;

/// The SHA-256 of a public key (SPKI, DER).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Pin([u8; 32]);

/// Why a text is no pin: write 64 hexadecimal digits or base64 of 32 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "64 hexadecimal digits, or base64 of 32 bytes, are expected: the SHA-256 of the public key"
)]
pub struct PinError;

impl FromStr for Pin {
    type Err = PinError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.strip_prefix("sha256/").unwrap_or(text);
        let hex: String = text.chars().filter(|c| *c != ':').collect();
        let digits = |at: usize| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok();
        let bytes: Option<Vec<u8>> = match hex.len() == 64 && hex.is_ascii() {
            true => (0..64).step_by(2).map(digits).collect(),
            false => STANDARD.decode(text).ok(),
        };
        let bytes = bytes.ok_or(PinError)?;
        Ok(Self(bytes.try_into().map_err(|_| PinError)?))
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Pin {
    /// The pin of the key in a certificate.
    pub(crate) fn of(certificate: &CertificateDer<'_>) -> Result<Self, Error> {
        let spki = ParsedCertificate::try_from(certificate)?.subject_public_key_info();
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, spki.as_ref()).as_ref());
        Ok(Self(bytes))
    }
}

/// The broker has another key than the pinned ones.
#[derive(Debug, thiserror::Error)]
#[error("the broker's key is sha256 {found}, and none of the pinned ones")]
pub(crate) struct OtherKey {
    pub(crate) found: Pin,
}

/// Takes a broker by its key, and by its chain where there is one to hold it against.
#[derive(Debug)]
pub(crate) struct PinnedKeys {
    pub(crate) pins: Vec<Pin>,
    pub(crate) chain: Option<UnsetClock>,
}

impl Trust for PinnedKeys {
    fn judge(&self, shown: Shown<'_>) -> Result<ServerCertVerified, Error> {
        let found = Pin::of(shown.certificate)?;
        if !self.pins.contains(&found) {
            let other = OtherError(Arc::new(OtherKey { found }));
            return Err(Error::InvalidCertificate(CertificateError::Other(other)));
        }
        match &self.chain {
            None => Ok(ServerCertVerified::assertion()),
            Some(chain) => chain.judge(shown),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_writings_are_the_same_pin() {
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let pin: Pin = hex.parse().unwrap();
        assert_eq!(pin.to_string(), hex);
        let base64 = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
        assert_eq!(base64.parse::<Pin>().unwrap(), pin);
        assert_eq!(format!("sha256/{base64}").parse::<Pin>().unwrap(), pin);
        let colons = hex
            .as_bytes()
            .chunks(2)
            .map(|two| std::str::from_utf8(two).unwrap().to_uppercase())
            .collect::<Vec<_>>()
            .join(":");
        assert_eq!(colons.parse::<Pin>().unwrap(), pin);
        for wrong in [
            "",
            "e3b0",
            "sha256/",
            &hex[2..],
            "z3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        ] {
            assert_eq!(wrong.parse::<Pin>(), Err(PinError), "{wrong}");
        }
    }
}
