//! Mainflux and Magistrala up to 0.30: one plain GET with the external key.
//!
//! The generations differ in the spelling of the `Authorization` header and in the names of the JSON
//! members; all of them are understood. The operator gives the base URL, the external id is appended.
//! Redirects are not followed: the key goes nowhere but to the URL that was configured.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use ureq::tls::{Certificate, RootCerts, TlsConfig, TlsProvider};

use crate::bootstrap::{BootstrapError, Channel, Enrolment, REPLY_BYTES_MAX};
use crate::secret::Secret;
use crate::tls;

/// The whole exchange; bootstrap services answer in milliseconds, bad links in seconds.
const EXCHANGE_LIMIT: Duration = Duration::from_secs(30);
/// Connecting and the TLS handshake.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// Where and as whom to ask.
#[derive(Debug, Clone)]
pub struct MainfluxSettings {
    /// Base URL, for example `https://core.example/things/bootstrap`. Plain `http://` is taken where it is
    /// written so: cores on the plant's own network often have no certificate. It is logged as a warning.
    pub url: String,
    /// The name that the operator gave the gateway at the core.
    pub external_id: String,
    /// The key that goes with it.
    pub external_key: Secret,
    /// PEM certificates to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// The spelling of the `Authorization` header.
    pub authorization: Authorization,
}

/// Spellings of the `Authorization` header by generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Authorization {
    /// Try them, most likely first, until one is not refused.
    #[default]
    Auto,
    /// The key alone: Mainflux 0.8 to 0.12.
    Raw,
    /// `Thing <key>`: Mainflux 0.13 to Magistrala 0.15.
    Thing,
    /// `Client <key>`: Magistrala 0.16 to 0.30.
    Client,
}

impl Authorization {
    /// The spellings to try, in order. The path of the URL tells the generation, mostly.
    fn candidates(self, url: &str) -> &'static [Authorization] {
        use Authorization::{Auto, Client, Raw, Thing};
        match self {
            Auto if url.contains("/clients/") => &[Client, Thing, Raw],
            Auto => &[Thing, Raw, Client],
            Raw => &[Raw],
            Thing => &[Thing],
            Client => &[Client],
        }
    }

    fn header(self, key: &Secret) -> String {
        match self {
            Authorization::Thing => format!("Thing {}", key.expose()),
            Authorization::Client => format!("Client {}", key.expose()),
            Authorization::Raw | Authorization::Auto => key.expose().to_owned(),
        }
    }
}

/// Asks for the enrolment once. Blocking.
///
/// # Errors
/// [`BootstrapError::outcome`] says whether to ask again soon or slowly.
pub fn fetch(settings: &MainfluxSettings) -> Result<Enrolment, BootstrapError> {
    let url = device_url(settings)?;
    let agent = http_agent(settings)?;
    let mut denied = None;
    for authorization in settings.authorization.candidates(&settings.url) {
        match ask(&agent, &url, *authorization, &settings.external_key) {
            Err(BootstrapError::Denied { url, status }) => {
                // 401 says only that the spelling is wrong; another status is closer to the cause.
                if denied.is_none_or(|earlier| earlier == 401) {
                    denied = Some(status);
                }
                tracing::debug!(url, status, ?authorization, "bootstrap refused");
            }
            other => return other,
        }
    }
    Err(BootstrapError::Denied {
        url,
        status: denied.unwrap_or(401),
    })
}

/// `base/external_id`, the id percent-encoded.
fn device_url(settings: &MainfluxSettings) -> Result<String, BootstrapError> {
    let base = settings.url.trim_end_matches('/');
    let wrong = |problem: &str| BootstrapError::Settings {
        key: "url",
        problem: format!("is `{}`; {problem}", settings.url),
    };
    let rest = base
        .strip_prefix("https://")
        .or_else(|| base.strip_prefix("http://"))
        .ok_or_else(|| {
            wrong("expected https://host[:port]/path (or http:// on a network of your own)")
        })?;
    if rest.is_empty() || rest.contains(['?', '#', '@']) || rest.contains(char::is_whitespace) {
        return Err(wrong(
            "expected host and path only, without query or credentials",
        ));
    }
    if settings.external_id.is_empty() {
        return Err(BootstrapError::Settings {
            key: "external_id",
            problem: "is empty; expected the name of this gateway at the core".into(),
        });
    }
    if base.starts_with("http://") {
        tracing::warn!(
            url = base,
            "the bootstrap is not encrypted; anybody on the network can read the key"
        );
    }
    Ok(format!("{base}/{}", percent_encoded(&settings.external_id)))
}

fn percent_encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~:".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

fn http_agent(settings: &MainfluxSettings) -> Result<ureq::Agent, BootstrapError> {
    let plain = settings.url.starts_with("http://");
    // Without TLS no roots are needed, and a machine without any must not fail for it.
    let trusted = match plain {
        true => Vec::new(),
        false => tls::trusted(settings.ca_file.as_deref())?,
    };
    let trusted: Vec<_> = trusted
        .iter()
        .map(|certificate| Certificate::from_der(certificate).to_owned())
        .collect();
    let tls = TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .unversioned_rustls_crypto_provider(tls::provider())
        .root_certs(RootCerts::new_with_certs(&trusted))
        .build();
    Ok(ureq::Agent::config_builder()
        .tls_config(tls)
        .https_only(!plain)
        .http_status_as_error(false)
        .max_redirects(0)
        .timeout_global(Some(EXCHANGE_LIMIT))
        .timeout_connect(Some(CONNECT_LIMIT))
        .user_agent(concat!("millrace/", env!("CARGO_PKG_VERSION")))
        .build()
        .new_agent())
}

fn ask(
    agent: &ureq::Agent,
    url: &str,
    authorization: Authorization,
    key: &Secret,
) -> Result<Enrolment, BootstrapError> {
    let mut response = agent
        .get(url)
        .header("Authorization", authorization.header(key))
        .header("Accept", "application/json")
        .call()
        .map_err(|error| failure(url, error))?;
    let status = response.status().as_u16();
    match status {
        200 => {}
        401 | 403 | 404 => {
            return Err(BootstrapError::Denied {
                url: url.into(),
                status,
            });
        }
        300..=499 if status != 408 && status != 429 => {
            return Err(BootstrapError::Malformed {
                url: url.into(),
                place: format!("the status {status}"),
                problem: "is none that a bootstrap service gives to a right request".into(),
                hint: "check bootstrap.url: the base URL without the external id",
            });
        }
        _ => {
            return Err(BootstrapError::Unavailable {
                url: url.into(),
                status,
            });
        }
    }
    let body = response
        .body_mut()
        .with_config()
        .limit(REPLY_BYTES_MAX)
        .read_to_vec()
        .map_err(|error| failure(url, error))?;
    parse(url, &body, authorization)
}

fn failure(url: &str, error: ureq::Error) -> BootstrapError {
    let malformed = |problem: String, hint| BootstrapError::Malformed {
        url: url.into(),
        place: "the body".into(),
        problem,
        hint,
    };
    let hint = match &error {
        ureq::Error::Rustls(cause) => Some(tls::hint(cause)),
        ureq::Error::Io(cause) => tls::failure(cause).map(tls::hint),
        ureq::Error::BodyExceedsLimit(limit) => {
            return malformed(
                format!("has more than {limit} bytes"),
                "large configurations belong into tags_file, or into several enrolments",
            );
        }
        _ => None,
    };
    match hint {
        Some(hint) => BootstrapError::Untrusted {
            url: url.into(),
            hint,
            source: Box::new(error),
        },
        None => BootstrapError::Network {
            url: url.into(),
            source: Box::new(error),
        },
    }
}

/// Every generation's members at once.
#[derive(Deserialize)]
struct Reply {
    #[serde(alias = "mainflux_id", alias = "thing_id", alias = "client_id")]
    id: Option<String>,
    #[serde(alias = "mainflux_key", alias = "thing_key", alias = "client_secret")]
    key: Option<String>,
    #[serde(alias = "mainflux_channels")]
    channels: Option<Vec<Channel>>,
    content: Option<serde_json::Value>,
    client_cert: Option<String>,
    client_key: Option<String>,
    ca_cert: Option<String>,
}

fn parse(
    url: &str,
    body: &[u8],
    authorization: Authorization,
) -> Result<Enrolment, BootstrapError> {
    let malformed = |place: String, problem: String, hint| BootstrapError::Malformed {
        url: url.into(),
        place,
        problem,
        hint,
    };
    let reply: Reply = serde_json::from_slice(body).map_err(|error| {
        malformed(
            format!("line {}, column {}", error.line(), error.column()),
            problem_text(&error),
            "expected the JSON of a Mainflux or Magistrala bootstrap service; check bootstrap.url",
        )
    })?;
    let id = text(reply.id).ok_or_else(|| {
        malformed(
            "the member mainflux_id, thing_id, client_id or id".into(),
            "is missing or empty".into(),
            "check bootstrap.url, and that the configuration at the core is bound to a thing or client",
        )
    })?;
    let content = match reply.content {
        None | Some(serde_json::Value::Null) => None,
        Some(serde_json::Value::String(text)) => Some(text),
        // Some proxies unwrap the JSON text; as text again it is the same configuration.
        Some(other) => Some(other.to_string()),
    };
    Ok(Enrolment {
        id,
        key: text(reply.key).map(Secret::new),
        channels: reply.channels.unwrap_or_default(),
        content: content.filter(|text| !text.trim().is_empty()),
        client_cert: text(reply.client_cert),
        client_key: text(reply.client_key).map(Secret::new),
        ca_cert: text(reply.ca_cert),
        authorization,
    })
}

/// Absent and empty mean the same in every generation.
fn text(member: Option<String>) -> Option<String> {
    member.filter(|text| !text.is_empty())
}

/// What serde says, without the position that is told beside it, and without quoting values: they may
/// be secrets.
fn problem_text(error: &serde_json::Error) -> String {
    match error.classify() {
        serde_json::error::Category::Data => "has a member of another type".into(),
        serde_json::error::Category::Eof => "ends in the middle of the JSON".into(),
        serde_json::error::Category::Syntax | serde_json::error::Category::Io => {
            "is no JSON".into()
        }
    }
}
