//! What an X.509 certificate says, and whether another one signed it.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use millrace_tags::Timestamp;
use opcua::crypto::X509;
use rustls::crypto::ring::default_provider;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_cert::crl::CertificateList;
use x509_cert::der::asn1::BitString;
use x509_cert::der::{DateTime, Decode, Encode, Header, Reader, SliceReader};
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAltName};
use x509_cert::name::Name;
use x509_cert::spki::{AlgorithmIdentifierOwned, ObjectIdentifier};
use x509_cert::time::Time;

use super::trust::TrustError;

/// No certificate, chain or revocation list of a plant comes near this; it keeps a wrong path from filling the memory.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Certificates of a chain that a server sends; more is nonsense.
const CHAIN_MAX: usize = 8;

const SERVER_AUTHENTICATION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.1");
const ANY_USE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.37.0");

/// A certificate, read.
#[derive(Debug, Clone)]
pub(super) struct Certificate {
    der: Vec<u8>,
    parsed: x509_cert::Certificate,
    /// The same for the library.
    pub(super) x509: X509,
}

impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        self.der == other.der
    }
}

/// Why a signature does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SignatureFault {
    /// The signer did not make it.
    Wrong,
    /// Made with an algorithm that is not accepted, such as SHA-1, or with a key below 2048 bits.
    Weak,
}

impl Certificate {
    /// From DER; what follows the certificate is not looked at.
    pub(super) fn from_der(der: &[u8]) -> Option<Self> {
        let der = chain(der).next()?.to_vec();
        let parsed = x509_cert::Certificate::from_der(&der).ok()?;
        let x509 = X509::from_der(&der).ok()?;
        Some(Self { der, parsed, x509 })
    }

    /// Reads DER or PEM.
    pub(super) fn read(path: &Path) -> Result<Self, TrustError> {
        let bytes = read_file(path)?;
        let from_pem = || {
            let der = CertificateDer::from_pem_slice(&bytes).ok()?;
            Self::from_der(&der)
        };
        Self::from_der(&bytes)
            .or_else(from_pem)
            .ok_or_else(|| TrustError::NoCertificate {
                origin: path.display().to_string(),
            })
    }

    pub(super) fn der(&self) -> &[u8] {
        &self.der
    }

    /// The SHA-1 in upper-case hexadecimal: what OPC UA programs show as its thumbprint.
    pub(super) fn thumbprint(&self) -> String {
        self.x509.thumbprint().as_hex_string().to_uppercase()
    }

    /// The SHA-256 in upper-case hexadecimal.
    pub(super) fn sha256(&self) -> String {
        use sha2::Digest;
        let digest = sha2::Sha256::digest(&self.der);
        digest.iter().map(|byte| format!("{byte:02X}")).collect()
    }

    pub(super) fn subject(&self) -> String {
        readable(&self.parsed.tbs_certificate.subject)
    }

    pub(super) fn issuer(&self) -> String {
        readable(&self.parsed.tbs_certificate.issuer)
    }

    pub(super) fn serial_number(&self) -> String {
        let serial = self.parsed.tbs_certificate.serial_number.as_bytes();
        serial.iter().map(|byte| format!("{byte:02X}")).collect()
    }

    pub(super) fn not_before(&self) -> CertificateTime {
        CertificateTime::of(self.parsed.tbs_certificate.validity.not_before)
    }

    pub(super) fn not_after(&self) -> CertificateTime {
        CertificateTime::of(self.parsed.tbs_certificate.validity.not_after)
    }

    /// The URIs that it is for: the application's.
    pub(super) fn uris(&self) -> Vec<String> {
        let names = self.alternative_names().into_iter();
        let uris = names.filter_map(|name| match name {
            GeneralName::UniformResourceIdentifier(uri) => Some(uri.to_string()),
            _ => None,
        });
        uris.collect()
    }

    /// The host names and addresses that it is for.
    pub(super) fn hosts(&self) -> Vec<String> {
        let names = self.alternative_names().into_iter();
        let hosts = names.filter_map(|name| match name {
            GeneralName::DnsName(host) => Some(host.to_string()),
            GeneralName::IpAddress(bytes) => address(bytes.as_bytes()).map(|ip| ip.to_string()),
            _ => None,
        });
        hosts.collect()
    }

    /// Whether it is for this host. Case does not count; a dot at the end of a full name does not, either.
    pub(super) fn is_for_host(&self, host: &str) -> bool {
        let plain = |host: &str| {
            let host = host.trim_start_matches('[').trim_end_matches([']', '.']);
            match IpAddr::from_str(host) {
                Ok(ip) => ip.to_string(),
                Err(_) => host.to_ascii_lowercase(),
            }
        };
        let wanted = plain(host);
        self.hosts().iter().any(|host| plain(host) == wanted)
    }

    /// The bits of its RSA key; `None` where it has another kind of key.
    pub(super) fn rsa_bits(&self) -> Option<usize> {
        self.x509.key_length().ok()
    }

    /// What a server's certificate has to be good for and this one is not, where it says what it is for.
    pub(super) fn lacking_uses(&self) -> Vec<&'static str> {
        let mut lacking = Vec::new();
        if let Some(usage) = self.extension::<KeyUsage>() {
            if !usage.digital_signature() {
                lacking.push("digital signature");
            }
            if !usage.key_encipherment() && !usage.data_encipherment() {
                lacking.push("key encipherment");
            }
        }
        if let Some(ExtendedKeyUsage(uses)) = self.extension()
            && !uses.contains(&SERVER_AUTHENTICATION)
            && !uses.contains(&ANY_USE)
        {
            lacking.push("server authentication");
        }
        lacking
    }

    /// Whether it may sign others, with this many authorities between itself and the server.
    pub(super) fn is_authority(&self, between: usize) -> bool {
        let may_sign = self.extension::<KeyUsage>();
        let may_sign = may_sign.is_none_or(|usage| usage.key_cert_sign());
        let constraints = self.extension::<BasicConstraints>();
        may_sign
            && constraints.is_some_and(|constraints| {
                let deepest = constraints.path_len_constraint;
                constraints.ca && deepest.is_none_or(|deepest| between <= usize::from(deepest))
            })
    }

    pub(super) fn is_self_signed(&self) -> bool {
        self.parsed.tbs_certificate.issuer == self.parsed.tbs_certificate.subject
    }

    /// Whether it names this one as its issuer. That proves nothing; [`Self::check_signed_by`] does.
    pub(super) fn names_issuer(&self, issuer: &Certificate) -> bool {
        self.parsed.tbs_certificate.issuer == issuer.parsed.tbs_certificate.subject
    }

    pub(super) fn check_signed_by(&self, issuer: &Certificate) -> Result<(), SignatureFault> {
        let certificate = &self.parsed;
        issuer.check_signature(
            &self.der,
            &certificate.signature_algorithm,
            &certificate.signature,
        )
    }

    /// Whether this certificate's key signed the first part of `der`.
    fn check_signature(
        &self,
        der: &[u8],
        algorithm: &AlgorithmIdentifierOwned,
        signature: &BitString,
    ) -> Result<(), SignatureFault> {
        let key = &self.parsed.tbs_certificate.subject_public_key_info;
        let (key_kind, signed_by) = (content(&key.algorithm), content(algorithm));
        let message = signed_part(der).ok_or(SignatureFault::Wrong)?;
        let provider = default_provider();
        let mut known = provider.signature_verification_algorithms.all.iter();
        let verifier = known
            .find(|known| {
                known.public_key_alg_id().as_ref() == key_kind
                    && known.signature_alg_id().as_ref() == signed_by
            })
            .ok_or(SignatureFault::Weak)?;
        let is_weak = self.rsa_bits().is_some_and(|bits| bits < 2048);
        let signature = signature.as_bytes().unwrap_or_default();
        verifier
            .verify_signature(key.subject_public_key.raw_bytes(), message, signature)
            .map_err(|_| match is_weak {
                true => SignatureFault::Weak,
                false => SignatureFault::Wrong,
            })
    }

    fn alternative_names(&self) -> Vec<GeneralName> {
        let names = self.extension::<SubjectAltName>();
        names.map(|SubjectAltName(names)| names).unwrap_or_default()
    }

    fn extension<'a, T: Decode<'a> + x509_cert::der::oid::AssociatedOid>(&'a self) -> Option<T> {
        let found = self.parsed.tbs_certificate.get::<T>().ok().flatten();
        found.map(|(_, value)| value)
    }
}

/// The certificates of a chain, which stand one after the other.
pub(super) fn chain(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = match *rest {
            [] => return None,
            [0x30, 0x83, a, b, c, ..] => {
                5 + (usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c))
            }
            [0x30, 0x82, a, b, ..] => 4 + usize::from(u16::from_be_bytes([a, b])),
            [0x30, 0x81, a, ..] => 3 + usize::from(a),
            _ => rest.len(),
        };
        let (first, others) = rest.split_at(length.min(rest.len()));
        rest = others;
        Some(first)
    })
    .take(CHAIN_MAX)
}

/// Certificates that an authority has taken back.
#[derive(Debug, Clone)]
pub(super) struct RevocationList {
    der: Vec<u8>,
    parsed: CertificateList,
}

impl RevocationList {
    /// Reads DER or PEM.
    pub(super) fn read(path: &Path) -> Result<Self, TrustError> {
        let bytes = read_file(path)?;
        let der = match CertificateRevocationListDer::from_pem_slice(&bytes) {
            Ok(der) => der.to_vec(),
            Err(_) => bytes,
        };
        match CertificateList::from_der(&der) {
            Ok(parsed) => Ok(Self { der, parsed }),
            Err(_) => Err(TrustError::NoRevocationList {
                path: path.to_owned(),
            }),
        }
    }

    /// Whether this authority made it.
    pub(super) fn is_by(&self, authority: &Certificate) -> bool {
        let list = &self.parsed;
        list.tbs_cert_list.issuer == authority.parsed.tbs_certificate.subject
            && authority
                .check_signature(&self.der, &list.signature_algorithm, &list.signature)
                .is_ok()
    }

    /// Since when this certificate of the authority is revoked.
    pub(super) fn revoked(&self, certificate: &Certificate) -> Option<CertificateTime> {
        let serial = &certificate.parsed.tbs_certificate.serial_number;
        let revoked = self.parsed.tbs_cert_list.revoked_certificates.iter();
        let mut entries = revoked.flatten();
        let entry = entries.find(|entry| entry.serial_number == *serial)?;
        Some(CertificateTime::of(entry.revocation_date))
    }

    /// When the authority wanted to have made the next one.
    pub(super) fn next_update(&self) -> Option<CertificateTime> {
        self.parsed
            .tbs_cert_list
            .next_update
            .map(CertificateTime::of)
    }
}

/// A time in a certificate, to the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct CertificateTime(DateTime);

impl CertificateTime {
    fn of(time: Time) -> Self {
        Self(time.to_date_time())
    }

    /// The gateway's time, for comparing. Before 1970 there is none.
    pub(super) fn from_utc(time: Timestamp) -> Option<Self> {
        let seconds = u64::try_from(time.0 / 1_000_000_000).ok()?;
        let since_1970 = std::time::Duration::from_secs(seconds);
        DateTime::from_unix_duration(since_1970).ok().map(Self)
    }

    /// Whole days from `earlier` to this time.
    pub(super) fn days_since(self, earlier: Self) -> u64 {
        let (late, early) = (self.0.unix_duration(), earlier.0.unix_duration());
        late.saturating_sub(early).as_secs() / 86_400
    }
}

impl fmt::Display for CertificateTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A file of moderate size.
fn read_file(path: &Path) -> Result<Vec<u8>, TrustError> {
    let read = |path: &Path| {
        if std::fs::metadata(path)?.len() > FILE_BYTES_MAX {
            return Err(std::io::Error::other("too large for a certificate"));
        }
        std::fs::read(path)
    };
    read(path).map_err(|source| TrustError::File {
        action: "read",
        path: PathBuf::from(path),
        source,
    })
}

/// What was signed in a certificate or revocation list: the first part, byte for byte as it came.
fn signed_part(der: &[u8]) -> Option<&[u8]> {
    let mut reader = SliceReader::new(der).ok()?;
    Header::decode(&mut reader).ok()?;
    reader.tlv_bytes().ok()
}

/// An algorithm's identifier without the header of its sequence.
fn content(algorithm: &AlgorithmIdentifierOwned) -> Vec<u8> {
    let der = algorithm.to_der().unwrap_or_default();
    match der.as_slice() {
        [0x30, length, content @ ..] if usize::from(*length) == content.len() => content.to_vec(),
        _ => Vec::new(),
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::from(v4));
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

/// A name for messages: what a stranger wrote must not steer a terminal.
fn readable(name: &Name) -> String {
    name.to_string()
        .chars()
        .filter(|c| !c.is_control())
        .collect()
}
