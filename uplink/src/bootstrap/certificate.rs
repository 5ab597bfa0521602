//! How long a certificate lives, and when the next one is asked for; the certificates of a PKCS #7 answer.

use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cms::cert::CertificateChoices;
use cms::content_info::ContentInfo;
use cms::signed_data::SignedData;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_cert::Certificate;
use x509_cert::der::{Decode, Encode};

/// Renewal begins here, and up to [`RENEWAL_SPREAD`] of the life later: a fleet that was enrolled together does
/// not come together.
const RENEWAL_AT: f64 = 2.0 / 3.0;
const RENEWAL_SPREAD: f64 = 0.1;

/// From when to when a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// The first second.
    pub begins: SystemTime,
    /// The last one.
    pub ends: SystemTime,
}

impl Life {
    /// Of the first certificate of this PEM text, where it is one.
    pub fn of_pem(pem: &str) -> Option<Self> {
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
        let certificate = Certificate::from_der(&der).ok()?;
        let validity = certificate.tbs_certificate.validity;
        Some(Self {
            begins: SystemTime::UNIX_EPOCH + validity.not_before.to_unix_duration(),
            ends: SystemTime::UNIX_EPOCH + validity.not_after.to_unix_duration(),
        })
    }

    /// When to ask for the next one; `draw` is uniform in 0..1.
    pub fn renew_at(&self, draw: f64) -> SystemTime {
        let life = self
            .ends
            .duration_since(self.begins)
            .unwrap_or(Duration::ZERO);
        self.begins + life.mul_f64(RENEWAL_AT + RENEWAL_SPREAD * draw.clamp(0.0, 1.0))
    }
}

/// The certificates of a degenerate PKCS #7, given as DER or as base64 of it; `None` where it is none.
pub(super) fn of_pkcs7(body: &[u8]) -> Option<Vec<Certificate>> {
    let der = match body.first()? {
        0x30 => body.to_vec(),
        _ => {
            let text: Vec<u8> = body
                .iter()
                .copied()
                .filter(|byte| !byte.is_ascii_whitespace())
                .collect();
            STANDARD.decode(text).ok()?
        }
    };
    let outer = ContentInfo::from_der(&der).ok()?;
    let signed: SignedData = outer.content.decode_as().ok()?;
    let set = signed.certificates?;
    let certificates = set.0.iter().filter_map(|choice| match choice {
        CertificateChoices::Certificate(certificate) => Some(certificate.clone()),
        CertificateChoices::Other(_) => None,
    });
    Some(certificates.collect())
}

/// Certificates as one PEM text, in their order.
pub(super) fn to_pem<'c>(certificates: impl IntoIterator<Item = &'c Certificate>) -> String {
    let ders = certificates.into_iter().filter_map(|c| c.to_der().ok());
    ders.map(|der| pem("CERTIFICATE", &der)).collect()
}

/// One PEM text (RFC 7468).
pub(super) fn pem(label: &str, der: &[u8]) -> String {
    let mut pem = format!("-----BEGIN {label}-----\n");
    let text = STANDARD.encode(der);
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = more;
    }
    pem.push_str(&format!("-----END {label}-----\n"));
    pem
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    #[test]
    fn renewal_begins_at_two_thirds_and_is_spread() {
        let mut params = CertificateParams::new(vec!["gw".to_owned()]).unwrap();
        params.not_before = date_time_ymd(2026, 1, 1);
        params.not_after = date_time_ymd(2026, 4, 1);
        let pem = params
            .self_signed(&KeyPair::generate().unwrap())
            .unwrap()
            .pem();
        let life = Life::of_pem(&pem).unwrap();
        let day = |at: SystemTime| at.duration_since(life.begins).unwrap().as_secs() / 86_400;
        assert_eq!(day(life.ends), 90);
        assert_eq!((day(life.renew_at(0.0)), day(life.renew_at(1.0))), (60, 69));
        assert_eq!(Life::of_pem("nothing"), None);
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let again = to_pem([&Certificate::from_der(&der).unwrap()]);
        assert_eq!(Life::of_pem(&again), Some(life));
    }

    #[test]
    fn what_is_no_pkcs7_has_no_certificates() {
        for body in [&b""[..], b"<html>", b"MIIB", &[0x30, 0x82, 0xff, 0xff]] {
            assert!(of_pkcs7(body).is_none());
        }
    }
}
