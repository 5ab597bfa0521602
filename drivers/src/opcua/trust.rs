//! What we trust: pinned server certificates, authorities, and what those took back.
//!
//! The directory is laid out as other OPC UA programs do it:
//!
//! ```text
//! pki/own/cert.der               our application instance certificate, to be trusted at the server
//! pki/private/private.pem        its key, 0600
//! pki/trusted/<thumbprint>.der   pinned server certificates, and authorities whose servers are all trusted
//! pki/trusted/crl/               revocation lists of those authorities
//! pki/issuers/                   authorities between a server and a trusted one; trusted for nothing by themselves
//! pki/issuers/crl/               revocation lists of these
//! ```
//!
//! `trusted/certs` and `issuers/certs` are read, too. Files are DER or PEM, whatever they are called. All of it is read again
//! at each connection. Nothing is trusted on first sight.

use std::io;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use millrace_tags::Timestamp;
use opcua::types::ByteString;

use super::certificate::{Certificate, CertificateTime, RevocationList, chain};
use super::own::{create_dir, write_whole};

/// Files that are read in one directory: far more than a plant has authorities.
const FILES_MAX: usize = 1000;

/// What can go wrong with certificates on our side.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// A file or directory cannot be read or written: see to its permissions.
    #[error("cannot {action} {}", .path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The bytes are no X.509 certificate.
    #[error("{origin} holds no X.509 certificate in DER or PEM")]
    NoCertificate {
        /// Where the bytes come from.
        origin: String,
    },
    /// The file is no revocation list.
    #[error("{} holds no revocation list in DER or PEM", .path.display())]
    NoRevocationList {
        /// The file.
        path: PathBuf,
    },
    /// A key or certificate could not be made.
    #[error("cannot make our own certificate: {0}")]
    Make(String),
}

/// The certificate that a server shows; the first one, where it sends a chain.
pub(super) fn leaf(bytes: &ByteString) -> ByteString {
    ByteString::from(chain(bytes.as_ref()).next().unwrap_or_default())
}

/// Everything that we trust, and what we know of authorities.
pub(super) struct Authorities {
    pki_dir: PathBuf,
    trusted: Vec<Certificate>,
    issuers: Vec<Certificate>,
    lists: Vec<RevocationList>,
    remarks: Vec<String>,
}

impl Authorities {
    /// Reads `pki_dir`, and `server_cert_file` as one more that is trusted. A file that cannot be read there is remarked
    /// and left out; that one file has to be whole.
    pub(super) fn read(
        pki_dir: &Path,
        server_cert_file: Option<&Path>,
    ) -> Result<Self, TrustError> {
        let mut found = Self {
            pki_dir: pki_dir.to_owned(),
            trusted: Vec::new(),
            issuers: Vec::new(),
            lists: Vec::new(),
            remarks: Vec::new(),
        };
        for dir in ["trusted", "trusted/certs"] {
            let (certificates, bad) = read_all(&pki_dir.join(dir), Certificate::read)?;
            found.trusted.extend(certificates);
            found.remarks.extend(bad);
        }
        for dir in ["issuers", "issuers/certs"] {
            let (certificates, bad) = read_all(&pki_dir.join(dir), Certificate::read)?;
            found.issuers.extend(certificates);
            found.remarks.extend(bad);
        }
        for dir in ["trusted/crl", "issuers/crl"] {
            let (lists, bad) = read_all(&pki_dir.join(dir), RevocationList::read)?;
            found.lists.extend(lists);
            found.remarks.extend(bad);
        }
        if let Some(path) = server_cert_file {
            found.trusted.push(Certificate::read(path)?);
        }
        Ok(found)
    }

    /// Whether this very certificate is trusted.
    pub(super) fn is_trusted(&self, certificate: &Certificate) -> bool {
        self.trusted.contains(certificate)
    }

    /// Another certificate that is trusted for what this one says that it is for, and since when: the server's was
    /// changed, or somebody pretends to be it.
    pub(super) fn pinned_instead(&self, certificate: &Certificate) -> Option<String> {
        let application = certificate.uris().into_iter().next()?;
        let is_same = |trusted: &&Certificate| trusted.uris().contains(&application);
        let pinned = self.trusted.iter().find(is_same)?.thumbprint();
        let file = self.pki_dir.join(format!("trusted/{pinned}.der"));
        let since = std::fs::metadata(file)
            .and_then(|meta| meta.modified())
            .ok();
        let since = since.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let since = since.and_then(|since| {
            CertificateTime::from_utc(Timestamp(i64::try_from(since.as_nanos()).ok()?))
        });
        let since = since.map_or_else(String::new, |since| format!(" since {since}"));
        Some(format!(
            "another one of {application}, {pinned}, is pinned{since}: the server's was changed, or this is not that server"
        ))
    }

    /// All that are known here, trusted or not.
    pub(super) fn all(&self) -> impl Iterator<Item = &Certificate> {
        self.trusted.iter().chain(&self.issuers)
    }

    /// Whether there is a revocation list of this authority.
    pub(super) fn list_of(&self, authority: &Certificate) -> Option<&RevocationList> {
        self.lists.iter().find(|list| list.is_by(authority))
    }

    /// Since when a certificate is revoked by the authority that signed it.
    pub(super) fn revoked(
        &self,
        certificate: &Certificate,
        authority: &Certificate,
    ) -> Option<CertificateTime> {
        let mut lists = self.lists.iter().filter(|list| list.is_by(authority));
        lists.find_map(|list| list.revoked(certificate))
    }

    /// Files that are no certificates.
    pub(super) fn remarks(&self) -> impl Iterator<Item = String> {
        self.remarks.iter().cloned()
    }
}

/// What the files of a directory hold, and which of them are not readable. A directory that is not there is empty.
fn read_all<T>(
    dir: &Path,
    read: impl Fn(&Path) -> Result<T, TrustError>,
) -> Result<(Vec<T>, Vec<String>), TrustError> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok((Vec::new(), Vec::new()));
        }
        Err(error) => return Err(file_error("read", dir, error)),
    };
    let (mut found, mut bad) = (Vec::new(), Vec::new());
    for entry in entries.take(FILES_MAX) {
        let path = entry
            .map_err(|error| file_error("read", dir, error))?
            .path();
        let is_draft = path
            .extension()
            .is_some_and(|extension| extension.to_string_lossy().starts_with("draft-"));
        if is_draft || !path.is_file() {
            continue;
        }
        match read(&path) {
            Ok(whole) => found.push(whole),
            Err(error) => bad.push(format!("{error}: it is left out")),
        }
    }
    Ok((found, bad))
}

/// Trusts a server certificate from now on, and says under which thumbprint.
///
/// # Errors
/// Where the bytes are no certificate, or the directory cannot be written.
pub fn pin(pki_dir: &Path, der: &[u8]) -> Result<String, TrustError> {
    let certificate = Certificate::from_der(der).ok_or_else(|| TrustError::NoCertificate {
        origin: "what was to be pinned".to_owned(),
    })?;
    let thumbprint = certificate.thumbprint();
    let dir = pki_dir.join("trusted");
    create_dir(pki_dir, &dir, 0o755)?;
    let path = dir.join(format!("{thumbprint}.der"));
    write_whole(pki_dir, &path, certificate.der())?;
    Ok(thumbprint)
}

pub(super) fn file_error(action: &'static str, path: &Path, source: io::Error) -> TrustError {
    TrustError::File {
        action,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::super::own::own_certificate;
    use super::*;

    #[test]
    fn only_what_is_pinned_is_trusted() {
        let (ours, theirs) = (tempfile::tempdir(), tempfile::tempdir());
        let (ours, theirs) = (ours.expect("dir"), theirs.expect("dir"));
        own_certificate(theirs.path()).expect("made");
        let file = theirs.path().join("own/cert.der");
        let server = Certificate::read(&file).expect("certificate");
        let trusts = |file: Option<&Path>| {
            let known = Authorities::read(ours.path(), file).expect("read");
            known.is_trusted(&server)
        };
        assert!(!trusts(None));
        assert!(trusts(Some(&file)));
        let thumbprint = pin(ours.path(), server.der()).expect("pinned");
        assert_eq!(thumbprint, server.thumbprint());
        assert!(trusts(None));
    }

    #[test]
    fn a_chain_begins_with_its_leaf() {
        let dir = tempfile::tempdir().expect("dir");
        own_certificate(dir.path()).expect("made");
        let der = std::fs::read(dir.path().join("own/cert.der")).expect("certificate");
        let chain = [der.as_slice(), der.as_slice()].concat();
        assert_eq!(leaf(&ByteString::from(&chain)).as_ref(), der.as_slice());
        assert!(leaf(&ByteString::null()).as_ref().is_empty());
        assert_eq!(leaf(&ByteString::from(b"\x30\x82")).as_ref(), b"\x30\x82");
    }

    #[test]
    fn a_file_that_is_no_certificate_is_named() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let error = pin(dir.path(), b"nonsense").expect_err("no certificate");
        assert!(error.to_string().contains("no X.509"), "{error}");
        let missing = dir.path().join("missing.der");
        let error = Authorities::read(dir.path(), Some(&missing))
            .err()
            .expect("no file");
        assert!(error.to_string().contains("missing.der"), "{error}");
        let trusted = dir.path().join("trusted");
        std::fs::create_dir(&trusted).expect("directory");
        std::fs::write(trusted.join("notes.txt"), "call Anna").expect("a file");
        let known = Authorities::read(dir.path(), None).expect("read");
        let remarks: Vec<String> = known.remarks().collect();
        assert!(remarks[0].contains("notes.txt"), "{remarks:?}");
    }
}
