//! Why there is no connection, and what to do about it.

use std::time::Duration;

use tokio_tungstenite::tungstenite;

use super::WAITING_FOR_CONNACK;
use crate::endpoint::Endpoint;
use crate::packet::{PacketError, Reason};
use crate::proxy::ProxyError;
use crate::tls::TlsSetupError;
use crate::token::PasswordError;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The host name is not known, or the name service cannot be asked.
    #[error("cannot find the address of {host}; check the name and the gateway's DNS server")]
    Dns {
        /// Which host.
        host: String,
        /// What the resolver said.
        #[source]
        source: std::io::Error,
    },
    /// No address of the host took the connection.
    #[error("cannot open a TCP connection to {address}{}", tcp_hint(source))]
    Tcp {
        /// The last address that was tried.
        address: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The proxy cannot be reached.
    #[error("the proxy {proxy} cannot be reached")]
    NoProxy {
        /// Which proxy.
        proxy: String,
        /// Why.
        #[source]
        source: Box<ConnectError>,
    },
    /// The proxy does not let us through.
    #[error("the proxy {proxy} gives no connection to {endpoint}")]
    Proxy {
        /// Which proxy.
        proxy: String,
        /// To whom.
        endpoint: Endpoint,
        /// What it said.
        #[source]
        source: ProxyError,
    },
    /// The server does not speak WebSockets there, or no MQTT over them.
    #[error("no WebSocket at {endpoint}: {hint}")]
    WebSocket {
        /// Where.
        endpoint: Endpoint,
        /// What to do about it.
        hint: String,
        /// What it answered.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No endpoint takes the connection; each has its reason.
    #[error("no endpoint takes the connection: {}", each(.0))]
    Several(Vec<ConnectError>),
    /// A step took too long.
    #[error("{step} with {endpoint} took longer than {} s", after.as_secs())]
    Timeout {
        /// What was waited for.
        step: &'static str,
        /// With whom.
        endpoint: Endpoint,
        /// The limit.
        after: Duration,
    },
    /// The certificate files cannot be used.
    #[error("the TLS settings cannot be used")]
    TlsSetup(#[from] TlsSetupError),
    /// The handshake failed.
    #[error("no TLS connection to {endpoint}: {hint}")]
    Tls {
        /// With whom.
        endpoint: Endpoint,
        /// What to do about it.
        hint: &'static str,
        /// What rustls said.
        #[source]
        source: std::io::Error,
    },
    /// The password file cannot be used, or no token can be made.
    #[error("there is no password")]
    Password(#[from] PasswordError),
    /// A setting does not fit into a CONNECT packet.
    #[error("{what} is longer than the 65535 bytes that MQTT can carry")]
    TooLong {
        /// Which one.
        what: &'static str,
    },
    /// The broker answered and refuses us.
    #[error("{endpoint} refuses the connection: {}", said(*reason, text.as_deref(), reference.as_deref()))]
    Refused {
        /// Who.
        endpoint: Endpoint,
        /// The reason in the CONNACK; those of MQTT 3.1.1 are translated.
        reason: Reason,
        /// What the broker says to people.
        text: Option<String>,
        /// The server that it sends us to.
        reference: Option<String>,
    },
    /// The broker takes nothing at QoS 1: nothing that it gets would be acknowledged.
    #[error(
        "{endpoint} takes messages at QoS 0 only: nothing that it gets would be acknowledged, so that nothing is sent; allow QoS 1 at the broker"
    )]
    NoAcknowledgements {
        /// Who.
        endpoint: Endpoint,
    },
    /// The connection was closed instead of a CONNACK: some cores do that on wrong credentials.
    #[error(
        "{endpoint} closed the connection before it answered; if the broker is up, check user name, password and client_id"
    )]
    Closed {
        /// Who.
        endpoint: Endpoint,
        /// What the system said, if anything.
        #[source]
        source: Option<std::io::Error>,
    },
    /// The answer is no CONNACK.
    #[error("{endpoint} does not answer as an MQTT broker does")]
    NotMqtt {
        /// Who.
        endpoint: Endpoint,
        /// What came.
        #[source]
        source: PacketError,
    },
}

fn each(errors: &[ConnectError]) -> String {
    let texts: Vec<String> = errors.iter().map(|error| chain(error)).collect();
    texts.join("; ")
}

/// The error and its causes, once each.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let line = error.to_string();
        if !text.ends_with(&line) {
            text.push_str(": ");
            text.push_str(&line);
        }
        cause = error.source();
    }
    text
}

/// What the answer to the request for a WebSocket means.
pub(super) fn web_hint(error: &tungstenite::Error) -> String {
    match error {
        tungstenite::Error::Http(response) => match response.status().as_u16() {
            401 | 403 | 407 => "the server wants another login than that of MQTT".to_owned(),
            404 => "there is nothing at this path; correct the path of the url".to_owned(),
            status => {
                format!("the server answers {status}; is it the broker's port for WebSockets?")
            }
        },
        tungstenite::Error::Protocol(
            tungstenite::error::ProtocolError::SecWebSocketSubProtocolError(_),
        ) => "the server speaks WebSockets and no MQTT over them at this path".to_owned(),
        _ => "what answers speaks no WebSockets; is it the broker's port for them?".to_owned(),
    }
}

fn tcp_hint(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => {
            "; nothing listens there, or a firewall refuses it"
        }
        std::io::ErrorKind::TimedOut => "; no answer, a firewall may swallow it",
        _ => "",
    }
}

/// The reason, what the broker adds to it, and where it sends us.
pub(crate) fn said(reason: Reason, text: Option<&str>, reference: Option<&str>) -> String {
    let mut said = reason.to_string();
    if let Some(text) = text {
        let text: String = text.chars().filter(|c| !c.is_control()).take(200).collect();
        said.push_str(&format!("; it says: {text}"));
    }
    if let Some(reference) = reference {
        let reference: String = reference
            .chars()
            .filter(|c| !c.is_control())
            .take(200)
            .collect();
        said.push_str(&format!(
            "; it names the server {reference}: write it into url if that is right"
        ));
    }
    said
}

impl ConnectError {
    /// Whether the broker had our CONNECT when it came to this.
    pub(crate) fn is_after_connect(&self) -> bool {
        match self {
            ConnectError::Timeout { step, .. } => *step == WAITING_FOR_CONNACK,
            ConnectError::Refused { .. }
            | ConnectError::NoAcknowledgements { .. }
            | ConnectError::Closed { .. }
            | ConnectError::NotMqtt { .. } => true,
            ConnectError::Several(errors) => errors.iter().any(ConnectError::is_after_connect),
            _ => false,
        }
    }

    /// Whether trying again soon is pointless: a person has to change something first.
    pub fn is_refusal(&self) -> bool {
        match self {
            ConnectError::Refused { reason, .. } => reason.is_lasting(),
            ConnectError::NoAcknowledgements { .. } => true,
            ConnectError::Several(errors) => errors.iter().all(ConnectError::is_refusal),
            _ => false,
        }
    }

    /// Whether it has nothing to do with the endpoint.
    pub(super) fn is_our_own(&self) -> bool {
        matches!(
            self,
            ConnectError::TlsSetup(_) | ConnectError::Password(_) | ConnectError::TooLong { .. }
        )
    }

    /// Whether it is what a broker does that does not know the version of MQTT; `None`: it is not, `Some(true)`: it
    /// says so.
    pub(super) fn blames_version(&self) -> Option<bool> {
        match self {
            ConnectError::Refused { reason, .. } if *reason == Reason::UNSUPPORTED_PROTOCOL => {
                Some(true)
            }
            // 1 is the old code for it; the others come from parsers that know the old form only.
            ConnectError::Refused { reason, .. } if matches!(reason.0, 0x01 | 0x81 | 0x82) => {
                Some(true)
            }
            ConnectError::Closed { .. } | ConnectError::NotMqtt { .. } => Some(false),
            _ => None,
        }
    }
}
