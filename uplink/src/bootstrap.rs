//! First contact with a core: a key in, credentials and configuration (the enrolment) out.
//!
//! A [`Provider`] asks once and says how it went: an [`Enrolment`], or an error whose
//! [outcome](BootstrapError::outcome) is pending, denied or transient; [`Cadence`] says when to ask again. Whoever
//! keeps the enrolment tells the provider by [`Provider::confirm`] once it has proved itself: only then is a one-time
//! key burnt at the core.
//!
//! What a request carries of our own (key pair, certificate request, token) is an [`Attempt`], made once and
//! kept until the confirm: a reply that was lost is asked for again with the very same request.

mod attempt;
mod aws_claim;
mod azure_dps;
mod cadence;
mod certificate;
mod claim;
mod claim_string;
mod dialogue;
mod document;
mod est;
mod file_drop;
pub mod mainflux;
mod proof;
mod secure;
mod thingsboard;

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;

use crate::http::{Answer, Ask, HttpError, HttpUrl, Trust, exchange};
use crate::secret::Secret;
use crate::tls::{self, TlsSetupError};

pub use crate::http::REPLY_BYTES_MAX;
pub use attempt::{Attempt, AttemptError};
pub use aws_claim::{AwsClaim, Fleet};
pub use azure_dps::{AzureDps, DpsKey};
pub use cadence::{Cadence, FIRST_SPREAD_DEFAULT, Outcome, first_draw};
pub use certificate::Life;
pub use claim::HmacClaim;
pub use claim_string::{ClaimString, ClaimStringError, parse_sha256};
pub use est::Est;
pub use file_drop::FileDrop;
pub use mainflux::{Generation, Mainflux};
pub use proof::MagistralaProof;
pub use thingsboard::ThingsBoard;

/// Where and as whom to ask.
#[derive(Debug, Clone)]
pub struct Contact {
    /// Base URL, for example `https://core.example/things/bootstrap`.
    pub url: String,
    /// The name that the operator gave the gateway at the core.
    pub external_id: String,
    /// The key that goes with it; `None` where it is spent.
    pub external_key: Option<Secret>,
    /// Whom to trust.
    pub trust: Trust,
}

/// One way to get an enrolment.
#[async_trait]
pub trait Provider: Send + Sync {
    /// Asks once.
    ///
    /// # Errors
    /// [`BootstrapError::outcome`] says whether to ask again soon or slowly.
    async fn ask(&self, attempt: &Attempt) -> Result<Enrolment, BootstrapError>;

    /// The enrolment has proved itself: a one-time key may be burnt. Saying it twice does no harm.
    ///
    /// # Errors
    /// As [`Provider::ask`].
    async fn confirm(&self, receipt: &str) -> Result<(), BootstrapError> {
        let _ = receipt;
        Ok(())
    }

    /// Asks for an enrolment that follows the one whose certificate and key are in these PEM files. Providers
    /// that know no renewal ask as at first.
    ///
    /// # Errors
    /// As [`Provider::ask`].
    async fn renew(
        &self,
        attempt: &Attempt,
        own: Option<&(PathBuf, PathBuf)>,
    ) -> Result<Enrolment, BootstrapError> {
        let _ = own;
        self.ask(attempt).await
    }

    /// Whether [`Provider::renew`] needs the certificate and no external key.
    fn renews_by_certificate(&self) -> bool {
        false
    }
}

/// How an enrolment's key logs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Login {
    /// As the password beside the id.
    #[default]
    Password,
    /// As a token, which takes the place of the user name.
    Token,
    /// It signs tokens in Azure's form; it is never sent itself.
    AzureSas,
}

/// Credentials and configuration, as a provider gave them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Enrolment {
    /// The gateway's id at the core (thing or client id): the MQTT user name. Empty where it has none.
    pub id: String,
    /// Its key. `None` where the core puts it into `content`, or logs in by certificate.
    pub key: Option<Secret>,
    /// What the key is.
    pub login: Login,
    /// Channels that it may use.
    pub channels: Vec<Channel>,
    /// What the core says of the uplink, by the keys of `[[uplink]]`: profile, url, vars and so on.
    pub uplink: serde_json::Map<String, serde_json::Value>,
    /// Configuration text in whatever format the core holds it: TOML, JSON or YAML.
    pub content: Option<String>,
    /// Client certificate and what leads to its CA, PEM.
    pub client_cert: Option<String>,
    /// Key of the client certificate, PEM.
    pub client_key: Option<Secret>,
    /// CA of the core, PEM.
    pub ca_cert: Option<String>,
    /// The core's generation, where the answer told it.
    pub generation: Option<Generation>,
    /// What [`Provider::confirm`] wants.
    pub receipt: Option<String>,
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
    /// The CA file or our own certificate cannot be used.
    #[error("the TLS settings of the bootstrap cannot be used")]
    Tls(#[from] TlsSetupError),
    /// The core knows us and has nothing for us yet. Ask again in its rhythm.
    #[error("{url} has nothing for this gateway yet: {why}")]
    Pending {
        /// Where.
        url: String,
        /// What it waits for.
        why: String,
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// The core does not know us, or not with this key. Ask again slowly: an operator may still be adding us.
    #[error("{url} answers {status}: {why}{said}")]
    Denied {
        /// Where.
        url: String,
        /// HTTP status.
        status: u16,
        /// What that means there.
        why: &'static str,
        /// The server's own words, where it has any.
        said: Said,
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// The core is there and cannot answer now. Ask again with back-off.
    #[error("{url} answers {status}: {why}{said}")]
    Unavailable {
        /// Where.
        url: String,
        /// HTTP status.
        status: u16,
        /// What that means there.
        why: &'static str,
        /// The server's own words, where it has any.
        said: Said,
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// No answer. Ask again with back-off.
    #[error("no answer from {url}")]
    Network {
        /// Where.
        url: String,
        /// What happened.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The server's certificate cannot be verified. Ask again slowly; it is never accepted unverified.
    #[error("{url} cannot be trusted: {hint}")]
    Untrusted {
        /// Where.
        url: String,
        /// What to do.
        hint: &'static str,
        /// What the handshake said.
        #[source]
        source: std::io::Error,
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
            BootstrapError::Pending { .. } => Outcome::Pending,
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

    /// How long the core wants to be left alone.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            BootstrapError::Pending { retry_after, .. }
            | BootstrapError::Denied { retry_after, .. }
            | BootstrapError::Unavailable { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// A server's own words: shortened, of one line, and without the keys that we sent. For people only.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Said(String);

/// The longest text of a server that people are shown.
const SAID_CHARS_MAX: usize = 160;

impl Said {
    fn of(body: &[u8], secrets: &[&str]) -> Self {
        let text = String::from_utf8_lossy(&body[..body.len().min(4096)]).into_owned();
        if secrets.iter().any(|secret| text.contains(secret)) {
            return Self::default();
        }
        let plain = |c: char| if c.is_control() { ' ' } else { c };
        let text: String = text.trim().chars().map(plain).collect();
        let words: Vec<&str> = text.split_whitespace().collect();
        Self(words.join(" ").chars().take(SAID_CHARS_MAX).collect())
    }
}

impl std::fmt::Display for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.is_empty() {
            true => Ok(()),
            false => write!(f, "; it says: {}", self.0),
        }
    }
}

impl Contact {
    /// The base URL; plain HTTP only where `plain` allows it, and then with a warning in the log.
    fn base(&self, plain: bool) -> Result<HttpUrl, BootstrapError> {
        let wrong = |problem: &str| BootstrapError::Settings {
            key: "url",
            problem: format!("is `{}`; {problem}", self.url),
        };
        let url = HttpUrl::parse(&self.url).map_err(|error| wrong(&error.to_string()))?;
        if self.external_id.is_empty() {
            return Err(BootstrapError::Settings {
                key: "external_id",
                problem: "is empty; expected the name of this gateway at the core".into(),
            });
        }
        match (url.is_tls(), plain) {
            (true, _) => {}
            (false, true) => tracing::warn!(
                %url,
                "the bootstrap is not encrypted; anybody on the network can listen"
            ),
            (false, false) => return Err(wrong("this provider asks over https:// only")),
        }
        Ok(url)
    }

    fn key(&self) -> Result<&str, BootstrapError> {
        self.external_key.as_ref().map(Secret::expose).ok_or_else(|| BootstrapError::Settings {
            key: "external_key_file",
            problem: "holds no key that could still be used; the one-time key was used, ask the operator for a new one"
                .into(),
        })
    }

    async fn exchange(&self, ask: Ask<'_>) -> Result<Answer, BootstrapError> {
        self.exchange_as(ask, &self.trust).await
    }

    async fn exchange_as(&self, ask: Ask<'_>, trust: &Trust) -> Result<Answer, BootstrapError> {
        let url = ask.url.to_string();
        exchange(ask, trust)
            .await
            .map_err(|error| failure(url, error))
    }

    /// What a status other than 200 means; `meanings` says what is special at this provider.
    fn refusal(
        &self,
        url: &HttpUrl,
        answer: &Answer,
        meanings: &[(u16, &'static str)],
    ) -> BootstrapError {
        let (url, status) = (url.to_string(), answer.status);
        let secret = self.external_key.as_ref().map(Secret::expose);
        let secrets: Vec<&str> = secret.into_iter().collect();
        let said = Said::of(&answer.body, &secrets);
        let retry_after = answer.retry_after;
        let special = meanings.iter().find(|(known, _)| *known == status);
        let meaning = |usual| special.map_or(usual, |(_, meaning)| *meaning);
        match status {
            202 => BootstrapError::Pending {
                url,
                why: meaning("an operator has to approve it").to_owned(),
                retry_after,
            },
            401 | 403 | 404 | 410 => BootstrapError::Denied {
                url,
                status,
                why: meaning("this external_id is not enrolled yet, or the external key is wrong"),
                said,
                retry_after,
            },
            408 | 425 | 429 => BootstrapError::Unavailable {
                url,
                status,
                why: meaning("it wants to be asked less often"),
                said,
                retry_after,
            },
            500.. => BootstrapError::Unavailable {
                url,
                status,
                why: meaning("the service is in trouble"),
                said,
                retry_after,
            },
            _ => BootstrapError::Malformed {
                url,
                place: format!("the status {status}"),
                problem: format!("is none that such a service gives to a right request{said}"),
                hint: meaning("check bootstrap.url: the base URL without the external id"),
            },
        }
    }
}

fn failure(url: String, error: HttpError) -> BootstrapError {
    match error {
        HttpError::TlsSetup(error) => BootstrapError::Tls(error),
        HttpError::Handshake(source) => match tls::failure(&source) {
            Some(cause) => BootstrapError::Untrusted {
                hint: tls::hint(cause),
                url,
                source,
            },
            None => BootstrapError::Network {
                url,
                source: Box::new(source),
            },
        },
        HttpError::TooLarge => BootstrapError::Malformed {
            url,
            place: "the body".into(),
            problem: format!("has more than {REPLY_BYTES_MAX} bytes"),
            hint: "large configurations belong into tags_file, or into several enrolments",
        },
        HttpError::Header => BootstrapError::Settings {
            key: "external_key_file",
            problem: "holds characters that cannot be sent in an HTTP header".into(),
        },
        error => BootstrapError::Network {
            url,
            source: Box::new(error),
        },
    }
}

/// What tells one external key from another without showing it: its SHA-256 in hexadecimal digits.
pub fn fingerprint(key: &Secret) -> String {
    attempt::hex(ring::digest::digest(&ring::digest::SHA256, key.expose().as_bytes()).as_ref())
}

/// Text that a request may carry to be told from others.
fn random_bytes<const N: usize>() -> Result<[u8; N], BootstrapError> {
    use ring::rand::SecureRandom;
    let mut bytes = [0; N];
    ring::rand::SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| BootstrapError::Settings {
            key: "provider",
            problem: "needs random numbers, and the system has none".into(),
        })?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_quoted_on_one_line_and_never_with_our_key() {
        let said = |body: &str| Said::of(body.as_bytes(), &["s3cret"]).to_string();
        assert_eq!(
            said("{\"error\":\r\n \"no\"}\n"),
            "; it says: {\"error\": \"no\"}"
        );
        assert_eq!(said("bad key s3cret"), "");
        assert_eq!(said(""), "");
        assert_eq!(
            said(&"x".repeat(5000)).len(),
            SAID_CHARS_MAX + "; it says: ".len()
        );
    }
}
