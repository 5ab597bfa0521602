//! When certificates end.

use std::path::Path;
use std::time::SystemTime;

use rustls_pki_types::CertificateDer;
use x509_cert::Certificate;
use x509_cert::der::Decode;

/// When the certificate ends; `None` where that cannot be read.
pub(crate) fn expires(certificate: &CertificateDer<'_>) -> Option<SystemTime> {
    let certificate = Certificate::from_der(certificate).ok()?;
    let end = certificate.tbs_certificate.validity.not_after;
    Some(end.to_system_time())
}

/// When the first certificate of a PEM file ends.
pub(crate) fn file_expires(path: &Path) -> Option<SystemTime> {
    let chain = super::certificates(path, "the client certificate").ok()?;
    expires(chain.first()?)
}
