//! Certificates before the clock is set: a gateway without a battery starts in 1970 and must reach its core
//! (docs/decisions/0011-certificates-before-the-clock.md).
//!
//! Name, signatures and authorities are always verified. Only the time that the certificate is judged at
//! differs: where our clock was never set, it is the moment when the certificate became valid. So one that is
//! too new for a clock of 1970 is taken, and one that ended before this program was written is not.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_cert::Certificate;
use x509_cert::der::Decode;

use super::trust::{Shown, Trust};
use super::{TlsSetupError, provider};

/// A wall clock before 2025-01-01 was never set: Millrace is younger than that.
const CLOCK_FLOOR: Duration = Duration::from_secs(1_735_689_600);

/// Now, where the clock was set at all.
pub(crate) fn wall_clock() -> Option<SystemTime> {
    let now = SystemTime::now();
    (now >= SystemTime::UNIX_EPOCH + CLOCK_FLOOR).then_some(now)
}

/// Trusts what its authorities have signed, whatever the clock says.
#[derive(Debug)]
pub(crate) struct UnsetClock {
    inner: Arc<WebPkiServerVerifier>,
}

impl UnsetClock {
    pub(crate) fn new(roots: RootCertStore) -> Result<Self, TlsSetupError> {
        let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .map_err(|error| TlsSetupError::Unusable(rustls::Error::General(error.to_string())))?;
        Ok(Self { inner })
    }
}

impl Trust for UnsetClock {
    fn judge(&self, shown: Shown<'_>) -> Result<ServerCertVerified, rustls::Error> {
        self.inner.verify_server_cert(
            shown.certificate,
            shown.intermediates,
            shown.name,
            shown.ocsp_response,
            judged_at(shown.certificate, shown.now),
        )
    }
}

/// The time to judge a certificate at.
fn judged_at(certificate: &CertificateDer<'_>, now: UnixTime) -> UnixTime {
    if now.as_secs() >= CLOCK_FLOOR.as_secs() {
        return now;
    }
    let begins = Certificate::from_der(certificate)
        .map(|certificate| certificate.tbs_certificate.validity.not_before)
        .map_or(CLOCK_FLOOR, |time| time.to_unix_duration());
    UnixTime::since_unix_epoch(begins.max(CLOCK_FLOOR))
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
    use rustls::CertificateError;
    use rustls_pki_types::ServerName;

    use super::*;

    const IN_1970: Duration = Duration::from_secs(100);
    /// 2026-06-01.
    const SET: Duration = Duration::from_secs(1_780_272_000);

    /// A certificate for `localhost` that is valid in these years, and the CA that signed it.
    fn certificate(from: i32, to: i32) -> (CertificateDer<'static>, RootCertStore) {
        let ca_key = KeyPair::generate().unwrap();
        let mut ca = CertificateParams::new(Vec::<String>::new()).unwrap();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.not_before = date_time_ymd(2020, 1, 1);
        let root = ca.self_signed(&ca_key).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(root.der().clone()).unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_before = date_time_ymd(from, 1, 1);
        params.not_after = date_time_ymd(to, 1, 1);
        let key = KeyPair::generate().unwrap();
        let signed = params.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap();
        (signed.der().clone(), roots)
    }

    fn judge(from: i32, to: i32, now: Duration, name: &str) -> Result<(), rustls::Error> {
        let (certificate, roots) = certificate(from, to);
        judge_by(roots, &certificate, now, name)
    }

    fn judge_by(
        roots: RootCertStore,
        certificate: &CertificateDer<'_>,
        now: Duration,
        name: &str,
    ) -> Result<(), rustls::Error> {
        let shown = Shown {
            certificate,
            intermediates: &[],
            name: &ServerName::try_from(name).unwrap(),
            ocsp_response: &[],
            now: UnixTime::since_unix_epoch(now),
        };
        UnsetClock::new(roots).unwrap().judge(shown).map(|_| ())
    }

    #[test]
    fn a_clock_of_1970_takes_what_is_too_new_for_it_and_nothing_else() {
        judge(2026, 2027, IN_1970, "localhost").unwrap();
        judge(2022, 2027, IN_1970, "localhost").unwrap();
        let expired = judge(2022, 2024, IN_1970, "localhost").unwrap_err();
        assert!(
            matches!(
                expired,
                rustls::Error::InvalidCertificate(CertificateError::ExpiredContext { .. })
            ),
            "{expired:?}"
        );
        judge(2026, 2027, IN_1970, "elsewhere").unwrap_err();
        let (certificate, _) = certificate(2026, 2027);
        let (_, stranger) = self::certificate(2026, 2027);
        judge_by(stranger, &certificate, IN_1970, "localhost").unwrap_err();
    }

    #[test]
    fn a_clock_that_is_set_decides() {
        judge(2026, 2027, SET, "localhost").unwrap();
        judge(2027, 2028, SET, "localhost").unwrap_err();
        judge(2024, 2025, SET, "localhost").unwrap_err();
    }
}
