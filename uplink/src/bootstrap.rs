//! First contact with a core: a key in, credentials and configuration (the enrolment) out.
//!
//! A provider asks once and says how it went; [`Cadence`] says when to ask again. Everything here is
//! blocking and meant for a thread of its own.

mod cadence;
pub mod mainflux;

pub use cadence::{Cadence, Outcome};
pub use mainflux::{Authorization, MainfluxSettings};

use crate::secret::Secret;
use crate::tls::TlsSetupError;

/// Credentials and configuration, as a provider gave them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolment {
    /// The gateway's id at the core (thing or client id): the MQTT user name.
    pub id: String,
    /// Its key: the MQTT password. `None` where the core puts it into `content`.
    pub key: Option<Secret>,
    /// Channels that it may use.
    pub channels: Vec<Channel>,
    /// Configuration text in whatever format the core holds it: TOML, JSON or YAML.
    pub content: Option<String>,
    /// Client certificate, PEM.
    pub client_cert: Option<String>,
    /// Key of the client certificate, PEM.
    pub client_key: Option<Secret>,
    /// CA of the core, PEM.
    pub ca_cert: Option<String>,
    /// The spelling of the `Authorization` header that the core took.
    pub authorization: Authorization,
}

/// A channel of the core.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
pub struct Channel {
    /// Its id: part of the topics.
    pub id: String,
    /// Its name, if it has one.
    #[serde(default)]
    pub name: Option<String>,
    /// Whatever the core keeps with it.
    #[serde(default)]
    pub metadata: serde_json::Value,
}

/// Why there is no enrolment.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BootstrapError {
    /// The settings cannot be used; nothing was sent. Fix the table `[bootstrap]`.
    #[error("bootstrap.{key} {problem}")]
    Settings {
        /// Which key of the table.
        key: &'static str,
        /// What is wrong, and what was expected.
        problem: String,
    },
    /// The CA file cannot be used.
    #[error("the TLS settings of the bootstrap cannot be used")]
    Tls(#[from] TlsSetupError),
    /// The core does not know us, or not with this key. Ask again slowly: an operator may still be adding us.
    #[error(
        "{url} answers {status}: this external_id is not enrolled yet, or the external key is wrong"
    )]
    Denied {
        /// Where.
        url: String,
        /// HTTP status.
        status: u16,
    },
    /// The core is there and cannot answer now. Ask again with back-off.
    #[error("{url} answers {status}")]
    Unavailable {
        /// Where.
        url: String,
        /// HTTP status.
        status: u16,
    },
    /// No answer. Ask again with back-off.
    #[error("cannot reach {url}")]
    Network {
        /// Where.
        url: String,
        /// What happened.
        #[source]
        source: Box<ureq::Error>,
    },
    /// The server's certificate cannot be verified. Ask again slowly; it is never accepted unverified.
    #[error("{url} cannot be trusted: {hint}")]
    Untrusted {
        /// Where.
        url: String,
        /// What to do.
        hint: &'static str,
        /// What rustls said.
        #[source]
        source: Box<ureq::Error>,
    },
    /// The answer is no enrolment. Ask again slowly: an operator has to correct it.
    #[error("the answer of {url} is no enrolment: {place} {problem}; {hint}")]
    Malformed {
        /// Where it came from.
        url: String,
        /// Which part of it.
        place: String,
        /// What is wrong with it.
        problem: String,
        /// What to do.
        hint: &'static str,
    },
}

impl BootstrapError {
    /// What it means for the [`Cadence`].
    pub fn outcome(&self) -> Outcome {
        match self {
            BootstrapError::Denied { .. }
            | BootstrapError::Malformed { .. }
            | BootstrapError::Untrusted { .. }
            | BootstrapError::Tls(_)
            | BootstrapError::Settings { .. } => Outcome::Denied,
            BootstrapError::Unavailable { .. } | BootstrapError::Network { .. } => {
                Outcome::Transient
            }
        }
    }
}

/// The largest answer: a configuration of 10,000 tags inline has about 2 MB.
pub const REPLY_BYTES_MAX: u64 = 8 * 1024 * 1024;
