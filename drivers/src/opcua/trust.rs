//! Certificates: the one we show, and the server certificates that we trust.
//!
//! The directory is laid out as other OPC UA programs do it:
//!
//! ```text
//! pki/own/cert.der           our application instance certificate, to be trusted at the server
//! pki/private/private.pem    its key, 0600
//! pki/trusted/<thumbprint>.der   pinned server certificates
//! ```
//!
//! A server is trusted when the certificate of its endpoint is, byte for byte, one that is pinned here or
//! named in the configuration. Nothing is trusted on first sight, and nothing is trusted because some
//! authority signed it: chains and revocation lists are not read.

use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use opcua::crypto::{CertificateStore, PrivateKey, X509, X509Data};
use opcua::types::ByteString;

/// Our certificate is renewed by hand: replacing it means trusting it anew at every server.
const OWN_CERTIFICATE_DAYS: u32 = 3650;

/// The smallest key that every current policy takes.
const OWN_KEY_BITS: u32 = 2048;

/// No certificate comes near this; it keeps a wrong path from filling the memory.
const CERTIFICATE_BYTES_MAX: u64 = 64 * 1024;

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
    /// A key or certificate could not be made.
    #[error("cannot make our own certificate: {0}")]
    Make(String),
}

/// Who we are on a secure channel.
pub(super) struct OwnCertificate {
    /// What the server has to trust.
    pub(super) certificate: X509,
    /// Proves that the certificate is ours.
    pub(super) key: PrivateKey,
    /// The name of this application; the certificate holds it too.
    pub(super) application_uri: String,
}

/// Two devices of one gateway may open at once for the first time.
static MAKING: Mutex<()> = Mutex::new(());

/// Our certificate and key in `pki_dir`, made now if they are not there yet. Takes seconds the first time.
pub(super) fn own_certificate(pki_dir: &Path) -> Result<OwnCertificate, TrustError> {
    let _one_at_a_time = MAKING
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let store = CertificateStore::new(pki_dir);
    let key_path = pki_dir.join("private/private.pem");
    if !key_path.exists() {
        make_key(pki_dir, &key_path)?;
    }
    let key = store.read_own_pkey().map_err(TrustError::Make)?;
    let cert_path = pki_dir.join("own/cert.der");
    if !cert_path.exists() {
        make_certificate(&key, &cert_path)?;
    }
    let certificate = read_certificate(&cert_path)?;
    let application_uri = application_uri(&common_name(&certificate));
    Ok(OwnCertificate {
        certificate,
        key,
        application_uri,
    })
}

/// Linking fails where another process was faster; its key is then the one that counts.
fn make_key(pki_dir: &Path, key_path: &Path) -> Result<(), TrustError> {
    let dir = pki_dir.join("private");
    create_dir(&dir, 0o700)?;
    let draft = dir.join(format!("draft-{}.pem", std::process::id()));
    let draft_cert = dir.join(format!("draft-{}.der", std::process::id()));
    CertificateStore::create_certificate_and_key(&own_data(&host()), true, &draft_cert, &draft)
        .map_err(TrustError::Make)?;
    let placed = std::fs::set_permissions(&draft, std::fs::Permissions::from_mode(0o600))
        .and_then(|()| std::fs::hard_link(&draft, key_path));
    // What is left of a draft holds nothing that the key does not.
    let _ = std::fs::remove_file(&draft);
    let _ = std::fs::remove_file(&draft_cert);
    match placed {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(file_error("write", key_path, error))
        }
        _ => Ok(()),
    }
}

fn make_certificate(key: &PrivateKey, cert_path: &Path) -> Result<(), TrustError> {
    let certificate = X509::from_pkey(key, &own_data(&host())).map_err(TrustError::Make)?;
    let der = certificate
        .to_der()
        .map_err(|error| TrustError::Make(error.to_string()))?;
    write_whole(cert_path, &der)
}

fn own_data(host: &str) -> X509Data {
    let name = format!("millrace@{host}");
    let addresses = Some(vec![host.to_owned()]);
    let alt_host_names =
        X509Data::alt_host_names(&application_uri(&name), addresses, false, false, false);
    X509Data {
        key_size: OWN_KEY_BITS,
        common_name: name,
        organization: "Millrace".to_owned(),
        organizational_unit: String::new(),
        country: String::new(),
        state: String::new(),
        alt_host_names,
        certificate_duration_days: OWN_CERTIFICATE_DAYS,
    }
}

/// Follows from the certificate's common name, so that a host that is renamed later keeps the URI of the
/// certificate that it has.
fn application_uri(common_name: &str) -> String {
    let host = common_name.rsplit('@').next().unwrap_or(common_name);
    format!("urn:{host}:millrace")
}

fn common_name(certificate: &X509) -> String {
    let name = certificate.common_name().unwrap_or_default();
    name.strip_prefix("CN=").unwrap_or(&name).to_owned()
}

fn host() -> String {
    let host: String = opcua::crypto::hostname()
        .unwrap_or_default()
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.'))
        .collect();
    if host.is_empty() {
        "gateway".to_owned()
    } else {
        host
    }
}

/// The SHA-1 of a certificate in upper-case hexadecimal: what OPC UA programs show as its thumbprint.
pub(super) fn thumbprint(certificate: &X509) -> String {
    certificate.thumbprint().as_hex_string().to_uppercase()
}

/// The certificate that a server shows; the first one, where it sends a chain.
pub(super) fn server_certificate(bytes: &ByteString) -> Result<X509, TrustError> {
    X509::from_byte_string(&leaf(bytes)).map_err(|_| TrustError::NoCertificate {
        origin: "the server's endpoint".to_owned(),
    })
}

/// A chain is certificates one after the other; each says in its header how long it is.
pub(super) fn leaf(bytes: &ByteString) -> ByteString {
    let der = bytes.as_ref();
    let length = match der {
        [0x30, 0x82, high, low, ..] => 4 + usize::from(u16::from_be_bytes([*high, *low])),
        [0x30, 0x81, length, ..] => 3 + usize::from(*length),
        _ => der.len(),
    };
    ByteString::from(&der[..length.min(der.len())])
}

/// Whether the certificate is pinned in `pki_dir`, or is the one in `server_cert_file`.
pub(super) fn is_trusted(
    certificate: &X509,
    pki_dir: &Path,
    server_cert_file: Option<&Path>,
) -> Result<bool, TrustError> {
    let same = |path: &Path| -> Result<bool, TrustError> {
        Ok(read_certificate(path)?.as_byte_string() == certificate.as_byte_string())
    };
    if let Some(path) = server_cert_file
        && same(path)?
    {
        return Ok(true);
    }
    let pinned = pinned_path(pki_dir, certificate);
    if pinned.exists() {
        same(&pinned)
    } else {
        Ok(false)
    }
}

/// Trusts a server certificate from now on, and says under which thumbprint.
///
/// # Errors
/// Where the bytes are no certificate, or the directory cannot be written.
pub fn pin(pki_dir: &Path, der: &[u8]) -> Result<String, TrustError> {
    let certificate = X509::from_der(leaf(&ByteString::from(der)).as_ref()).map_err(|_| {
        TrustError::NoCertificate {
            origin: "what was to be pinned".to_owned(),
        }
    })?;
    let path = pinned_path(pki_dir, &certificate);
    write_whole(&path, certificate.as_byte_string().as_ref())?;
    Ok(thumbprint(&certificate))
}

fn pinned_path(pki_dir: &Path, certificate: &X509) -> PathBuf {
    pki_dir
        .join("trusted")
        .join(format!("{}.der", thumbprint(certificate)))
}

fn read_certificate(path: &Path) -> Result<X509, TrustError> {
    let read = |path: &Path| -> io::Result<Vec<u8>> {
        if std::fs::metadata(path)?.len() > CERTIFICATE_BYTES_MAX {
            return Err(io::Error::other("too large for a certificate"));
        }
        std::fs::read(path)
    };
    let bytes = read(path).map_err(|error| file_error("read", path, error))?;
    X509::from_der(&bytes)
        .or_else(|_| X509::from_pem(&bytes))
        .map_err(|_| TrustError::NoCertificate {
            origin: path.display().to_string(),
        })
}

fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), TrustError> {
    if let Some(dir) = path.parent() {
        create_dir(dir, 0o755)?;
    }
    let draft = path.with_extension(format!("draft-{}", std::process::id()));
    std::fs::write(&draft, bytes)
        .and_then(|()| std::fs::rename(&draft, path))
        .map_err(|error| file_error("write", path, error))
}

fn create_dir(dir: &Path, mode: u32) -> Result<(), TrustError> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(dir)
        .map_err(|error| file_error("create", dir, error))
}

fn file_error(action: &'static str, path: &Path, source: io::Error) -> TrustError {
    TrustError::File {
        action,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_certificate_is_made_once_and_its_key_is_private() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let first = own_certificate(dir.path()).expect("made");
        let again = own_certificate(dir.path()).expect("read");
        assert_eq!(
            first.certificate.as_byte_string(),
            again.certificate.as_byte_string()
        );
        assert!(first.application_uri.starts_with("urn:"));
        first
            .certificate
            .is_application_uri_valid(&first.application_uri)
            .expect("the certificate names the application");
        let key = dir.path().join("private/private.pem");
        let mode = std::fs::metadata(key).expect("key").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let files = std::fs::read_dir(dir.path().join("private")).expect("private");
        assert_eq!(files.count(), 1, "no draft is left behind");
    }

    #[test]
    fn only_what_is_pinned_is_trusted() {
        let (ours, theirs) = (tempfile::tempdir(), tempfile::tempdir());
        let (ours, theirs) = (ours.expect("dir"), theirs.expect("dir"));
        let server = own_certificate(theirs.path()).expect("made").certificate;
        assert!(!is_trusted(&server, ours.path(), None).expect("checked"));

        let file = theirs.path().join("own/cert.der");
        assert!(is_trusted(&server, ours.path(), Some(&file)).expect("checked"));

        let der = std::fs::read(file).expect("certificate");
        assert_eq!(pin(ours.path(), &der).expect("pinned"), thumbprint(&server));
        assert!(is_trusted(&server, ours.path(), None).expect("checked"));

        let chain: Vec<u8> = [der.as_slice(), der.as_slice()].concat();
        assert_eq!(leaf(&ByteString::from(&chain)).as_ref(), der.as_slice());
    }

    #[test]
    fn a_file_that_is_no_certificate_is_named() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let error = pin(dir.path(), b"nonsense").expect_err("no certificate");
        assert!(error.to_string().contains("no X.509"), "{error}");
        let missing = dir.path().join("missing.der");
        let error = read_certificate(&missing).expect_err("no file");
        assert!(error.to_string().contains("missing.der"), "{error}");
    }
}
