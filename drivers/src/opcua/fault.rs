//! What can be wrong with a server's certificate: each with its sentence and its way out.

use super::certificate::CertificateTime;
use super::settings::Tolerance;

/// One thing that is wrong with a server's certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    /// The endpoint promises security and shows no certificate.
    #[error("it shows no certificate")]
    Missing,
    /// Neither pinned nor signed by anybody.
    #[error(
        "its certificate with thumbprint {thumbprint} ({subject}) is not trusted here{}",
        .pinned.as_ref().map_or_else(String::new, |pinned| format!("; {pinned}"))
    )]
    Untrusted {
        thumbprint: String,
        subject: String,
        /// What is known of another one of the same application.
        pinned: Option<String>,
    },
    /// Signed, and the signer is not there or not trusted.
    #[error(
        "its certificate with thumbprint {thumbprint} ({subject}) is signed by {issuer}, which is not trusted here"
    )]
    UnknownAuthority {
        thumbprint: String,
        subject: String,
        issuer: String,
    },
    /// A certificate that names an authority which did not sign it.
    #[error(
        "the certificate of {subject} says that {issuer} signed it, but that signature is wrong"
    )]
    WrongSignature { subject: String, issuer: String },
    /// SHA-1, or a small key.
    #[error("{issuer} signed the certificate of {subject} in a way that is not safe any more")]
    WeakSignature { subject: String, issuer: String },
    /// By the gateway's clock.
    #[error(
        "the certificate of {subject} was valid until {until}; now it is {now} by the gateway's clock"
    )]
    Expired {
        subject: String,
        until: CertificateTime,
        now: CertificateTime,
    },
    /// By the gateway's clock.
    #[error(
        "the certificate of {subject} is valid from {from} on; now it is {now} by the gateway's clock"
    )]
    NotYetValid {
        subject: String,
        from: CertificateTime,
        now: CertificateTime,
    },
    /// The authority took it back.
    #[error("{issuer} revoked the certificate of {subject} (serial number {serial}) on {since}")]
    Revoked {
        subject: String,
        issuer: String,
        serial: String,
        since: CertificateTime,
    },
    /// The address names another host.
    #[error("its certificate is for {}, not for the host {host}", list(.names))]
    WrongHost { host: String, names: Vec<String> },
    /// Certificate and application name different applications.
    #[error("its certificate is for the application {}, but it calls itself {application}", list(.names))]
    WrongApplication {
        application: String,
        names: Vec<String>,
    },
    /// The certificate says what it is for, and this is not among it.
    #[error("its certificate may not be used for {}", .lacking.join(" and "))]
    WrongUsage { lacking: Vec<&'static str> },
    /// Too small or too large a key for the policy.
    #[error("the key of its certificate has {bits} bits; {policy} takes 2048 to 4096")]
    KeySize { bits: usize, policy: &'static str },
    /// No RSA.
    #[error("its certificate has no RSA key, which {policy} asks for")]
    KeyKind { policy: &'static str },
}

fn list(names: &[String]) -> String {
    match names {
        [] => "nobody in particular".to_owned(),
        names => names.join(", "),
    }
}

impl Fault {
    /// What to do about it; `url` is the server's.
    pub(super) fn hint(&self, url: &str) -> String {
        match self {
            Fault::Missing => "give the server a certificate".to_owned(),
            Fault::Untrusted { .. } => format!(
                "compare the thumbprint with the one that the server shows, then pin it: millrace trust {url}, \
                 or name the certificate in server_cert_file"
            ),
            Fault::UnknownAuthority { .. } => format!(
                "copy the authority's certificate into pki/trusted of the data directory and its revocation list into \
                 pki/trusted/crl, or pin this one certificate: millrace trust {url}"
            ),
            Fault::WrongSignature { .. } => {
                "the certificate is damaged or forged: have a new one made for the server".to_owned()
            }
            Fault::WeakSignature { .. } => {
                format!("have it signed with SHA-256, or pin this one certificate: millrace trust {url}")
            }
            Fault::Expired { .. } => {
                "make a new certificate at the server, then trust that; tolerate = [\"validity\"] goes on meanwhile"
                    .to_owned()
            }
            Fault::NotYetValid { .. } => {
                "set the clocks of gateway (timedatectl) and server; tolerate = [\"validity\"] goes on meanwhile".to_owned()
            }
            Fault::Revoked { .. } => {
                "somebody else may have its key: have a new certificate made for the server".to_owned()
            }
            Fault::WrongHost { .. } => {
                "write one of these names into address, have the certificate made for this host, or set check_host = \
                 false"
                    .to_owned()
            }
            Fault::WrongApplication { .. } => {
                "make the server's certificate again, now that it has this name; tolerate = [\"application\"] goes on \
                 meanwhile"
                    .to_owned()
            }
            Fault::WrongUsage { .. } => {
                "have the certificate made for an OPC UA server; tolerate = [\"usage\"] goes on meanwhile".to_owned()
            }
            Fault::KeySize { .. } | Fault::KeyKind { .. } => {
                "make the server's certificate again, with an RSA key of 2048 bits or more".to_owned()
            }
        }
    }

    /// The word by which the configuration accepts it, where that is possible.
    pub(super) fn tolerance(&self) -> Option<Tolerance> {
        match self {
            Fault::Expired { .. } | Fault::NotYetValid { .. } => Some(Tolerance::Validity),
            Fault::WrongApplication { .. } => Some(Tolerance::Application),
            Fault::WrongUsage { .. } => Some(Tolerance::Usage),
            _ => None,
        }
    }

    /// For programs: one word for the cause.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Fault::Missing => "no-certificate",
            Fault::Untrusted { .. } => "untrusted",
            Fault::UnknownAuthority { .. } => "unknown-authority",
            Fault::WrongSignature { .. } => "wrong-signature",
            Fault::WeakSignature { .. } => "weak-signature",
            Fault::Expired { .. } => "expired",
            Fault::NotYetValid { .. } => "not-yet-valid",
            Fault::Revoked { .. } => "revoked",
            Fault::WrongHost { .. } => "wrong-host",
            Fault::WrongApplication { .. } => "wrong-application",
            Fault::WrongUsage { .. } => "wrong-usage",
            Fault::KeySize { .. } => "key-size",
            Fault::KeyKind { .. } => "key-kind",
        }
    }
}
