//! Our own application instance certificate: made at first use, the same from then on, renewable with the same key.

use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use opcua::crypto::{CertificateStore, PrivateKey, X509, X509Data};

use super::certificate::{Certificate, CertificateTime};
use super::trust::{TrustError, file_error};

/// It is renewed by command: replacing it means trusting it anew at every server.
const CERTIFICATE_DAYS: u32 = 3650;

/// The smallest key that every current policy takes.
const KEY_BITS: u32 = 2048;

/// Servers have to trust the next one before this one ends.
const ENDS_SOON_DAYS: u64 = 60;

const CERTIFICATE: &str = "own/cert.der";
const KEY: &str = "private/private.pem";

/// Who we are on a secure channel.
pub(super) struct OwnCertificate {
    /// What the server has to trust.
    pub(super) certificate: Certificate,
    /// Proves that the certificate is ours.
    pub(super) key: PrivateKey,
    /// The name of this application; the certificate holds it too.
    pub(super) application_uri: String,
}

impl OwnCertificate {
    /// Where it ends soon, or has ended: what to do.
    pub(super) fn remark(&self, now: Option<CertificateTime>) -> Option<String> {
        let (now, until) = (now?, self.certificate.not_after());
        (now > until || until.days_since(now) < ENDS_SOON_DAYS).then(|| {
            format!(
                "the gateway's own certificate ends on {until}: renew it with millrace trust --own --renew and trust the new one at the servers"
            )
        })
    }
}

/// Our certificate, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnReport {
    /// Where it lies.
    pub path: PathBuf,
    /// Whose it is.
    pub subject: String,
    /// The application's URI in it.
    pub application_uri: String,
    /// SHA-1, upper-case hexadecimal.
    pub thumbprint: String,
    /// SHA-256, upper-case hexadecimal.
    pub sha256: String,
    /// From when to when it holds, RFC 3339.
    pub validity: (String, String),
}

/// Two devices of one gateway may open at once for the first time.
static MAKING: Mutex<()> = Mutex::new(());

/// Our certificate and key in `pki_dir`, made now if they are not there yet. Takes seconds the first time.
pub(super) fn own_certificate(pki_dir: &Path) -> Result<OwnCertificate, TrustError> {
    let _one_at_a_time = MAKING
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let key = own_key(pki_dir)?;
    let path = pki_dir.join(CERTIFICATE);
    if !path.exists() {
        make_certificate(&key, &host(), pki_dir)?;
    }
    let certificate = Certificate::read(&path)?;
    let application_uri = uri_of(&certificate);
    Ok(OwnCertificate {
        certificate,
        key,
        application_uri,
    })
}

/// Our certificate, made now if it is not there yet.
///
/// # Errors
/// Where it can neither be read nor made.
pub fn own_report(pki_dir: &Path) -> Result<OwnReport, TrustError> {
    let own = own_certificate(pki_dir)?;
    let certificate = &own.certificate;
    Ok(OwnReport {
        path: pki_dir.join(CERTIFICATE),
        subject: certificate.subject(),
        application_uri: own.application_uri,
        thumbprint: certificate.thumbprint(),
        sha256: certificate.sha256(),
        validity: (
            certificate.not_before().to_string(),
            certificate.not_after().to_string(),
        ),
    })
}

/// Makes a new certificate with the same key and the same application URI. The old one is kept beside it, named by its
/// thumbprint. Servers that trust by certificate have to trust the new one.
///
/// # Errors
/// Where it can neither be read nor made.
pub fn renew_own(pki_dir: &Path) -> Result<OwnReport, TrustError> {
    let own = own_certificate(pki_dir)?;
    let old = own.certificate;
    let kept = pki_dir.join(format!("own/{}.der", old.thumbprint()));
    write_whole(pki_dir, &kept, old.der())?;
    let name = common_name(&old);
    let host = name.rsplit('@').next().unwrap_or(&name).to_owned();
    make_certificate(&own.key, &host, pki_dir)?;
    own_report(pki_dir)
}

fn own_key(pki_dir: &Path) -> Result<PrivateKey, TrustError> {
    let path = pki_dir.join(KEY);
    if !path.exists() {
        make_key(pki_dir, &path)?;
    }
    let bytes = std::fs::read(&path).map_err(|error| file_error("read", &path, error))?;
    PrivateKey::from_pem(&bytes)
        .map_err(|_| TrustError::Make(format!("{} holds no RSA key in PEM", path.display())))
}

/// Linking fails where another process was faster; its key is then the one that counts.
fn make_key(pki_dir: &Path, key_path: &Path) -> Result<(), TrustError> {
    let dir = pki_dir.join("private");
    create_dir(pki_dir, &dir, 0o700)?;
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
        _ => {
            give_away(pki_dir, key_path);
            Ok(())
        }
    }
}

fn make_certificate(key: &PrivateKey, host: &str, pki_dir: &Path) -> Result<(), TrustError> {
    let certificate = X509::from_pkey(key, &own_data(host)).map_err(TrustError::Make)?;
    let der = certificate
        .to_der()
        .map_err(|error| TrustError::Make(error.to_string()))?;
    let path = pki_dir.join(CERTIFICATE);
    create_dir(pki_dir, &pki_dir.join("own"), 0o755)?;
    write_whole(pki_dir, &path, &der)
}

fn own_data(host: &str) -> X509Data {
    let name = format!("millrace@{host}");
    let addresses = Some(vec![host.to_owned()]);
    let alt_host_names =
        X509Data::alt_host_names(&application_uri(&name), addresses, false, false, false);
    X509Data {
        key_size: KEY_BITS,
        common_name: name,
        organization: "Millrace".to_owned(),
        organizational_unit: String::new(),
        country: String::new(),
        state: String::new(),
        alt_host_names,
        certificate_duration_days: CERTIFICATE_DAYS,
    }
}

/// What the certificate says, whoever made it: servers compare the two.
fn uri_of(certificate: &Certificate) -> String {
    let uri = certificate.uris().into_iter().next();
    uri.unwrap_or_else(|| application_uri(&common_name(certificate)))
}

/// Follows from the certificate's common name, so that a host that is renamed later keeps the URI of the
/// certificate that it has.
fn application_uri(common_name: &str) -> String {
    let host = common_name.rsplit('@').next().unwrap_or(common_name);
    format!("urn:{host}:millrace")
}

fn common_name(certificate: &Certificate) -> String {
    let name = certificate.x509.common_name().unwrap_or_default();
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

/// Writes a file of `pki_dir` so that it is there whole or not at all.
pub(super) fn write_whole(pki_dir: &Path, path: &Path, bytes: &[u8]) -> Result<(), TrustError> {
    let draft = path.with_extension(format!("draft-{}", std::process::id()));
    std::fs::write(&draft, bytes)
        .and_then(|()| std::fs::rename(&draft, path))
        .map_err(|error| file_error("write", path, error))?;
    give_away(pki_dir, path);
    Ok(())
}

pub(super) fn create_dir(pki_dir: &Path, dir: &Path, mode: u32) -> Result<(), TrustError> {
    let is_new = !pki_dir.exists();
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(dir)
        .map_err(|error| file_error("create", dir, error))?;
    if is_new {
        give_away(pki_dir, pki_dir);
    }
    give_away(pki_dir, dir);
    Ok(())
}

/// What root makes here, by `sudo millrace trust`, belongs to the owner of the data directory: the agent must be able
/// to read its key. Anybody else may not give files away, and need not.
fn give_away(pki_dir: &Path, made: &Path) {
    if let Some(owner) = pki_dir.parent().and_then(|dir| std::fs::metadata(dir).ok()) {
        let _ = std::os::unix::fs::chown(made, Some(owner.uid()), Some(owner.gid()));
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
        assert_eq!(first.certificate, again.certificate);
        assert!(first.application_uri.starts_with("urn:"));
        assert_eq!(first.certificate.uris(), [first.application_uri]);
        let key = dir.path().join(KEY);
        let mode = std::fs::metadata(key).expect("key").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let files = std::fs::read_dir(dir.path().join("private")).expect("private");
        assert_eq!(files.count(), 1, "no draft is left behind");
    }

    #[test]
    fn a_renewed_certificate_keeps_key_and_application() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let old = own_certificate(dir.path()).expect("made");
        // Validity is counted in seconds: without a pause both would be equal.
        std::thread::sleep(std::time::Duration::from_millis(1100));
        let new = renew_own(dir.path()).expect("renewed");
        let read = own_certificate(dir.path()).expect("read");
        assert_eq!(read.certificate.thumbprint(), new.thumbprint);
        assert_ne!(new.thumbprint, old.certificate.thumbprint());
        assert_eq!(new.application_uri, old.application_uri);
        let key = |own: &OwnCertificate| own.key.to_der().expect("key").as_bytes().to_vec();
        assert_eq!(key(&read), key(&old));
        let kept = dir
            .path()
            .join(format!("own/{}.der", old.certificate.thumbprint()));
        assert_eq!(Certificate::read(&kept).expect("kept"), old.certificate);
    }

    #[test]
    fn an_end_that_comes_near_is_remarked() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let own = own_certificate(dir.path()).expect("made");
        let at = |year_ns: i64| {
            CertificateTime::from_utc(millrace_tags::Timestamp(year_ns * 1_000_000_000))
        };
        assert_eq!(own.remark(at(1_800_000_000)), None);
        let remark = own.remark(at(4_000_000_000)).expect("a remark");
        assert!(remark.contains("--renew"), "{remark}");
        assert_eq!(own.remark(None), None);
    }
}
