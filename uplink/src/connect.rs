//! From an endpoint to an accepted connection, and what can go wrong on the way.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::endpoint::{Endpoint, Scheme};
use crate::link::Link;
use crate::message::Message;
use crate::packet::{self, ConnectReturnCode, Introduction, Packet, PacketError};
use crate::secret::{Secret, SecretError};
use crate::session::SessionSettings;
use crate::tls::{self, TlsSetupError};

/// A host that does not answer a SYN in this time is not there; the next address is tried.
const TCP_TIMEOUT: Duration = Duration::from_secs(5);
/// Name service, TLS handshake and CONNACK each: slow links take seconds, not tens of them.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// The step after the CONNECT.
const WAITING_FOR_CONNACK: &str = "waiting for the CONNACK";

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
    /// The password file cannot be used.
    #[error("the password cannot be loaded")]
    Password(#[from] SecretError),
    /// A setting does not fit into a CONNECT packet.
    #[error("{what} is longer than the 65535 bytes that MQTT can carry")]
    TooLong {
        /// Which one.
        what: &'static str,
    },
    /// The broker answered and refuses us.
    #[error("{endpoint} refuses the connection: {}", refusal_text(*code))]
    Refused {
        /// Who.
        endpoint: Endpoint,
        /// The return code of the CONNACK, 1 to 5.
        code: u8,
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
    #[error("{endpoint} does not answer as an MQTT 3.1.1 broker does")]
    NotMqtt {
        /// Who.
        endpoint: Endpoint,
        /// What came.
        #[source]
        source: PacketError,
    },
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

fn refusal_text(code: u8) -> &'static str {
    match code {
        1 => "it does not speak MQTT 3.1.1",
        2 => "it does not accept the client_id",
        3 => "the service is unavailable for now",
        4 => "wrong user name or password",
        5 => "the client is not authorised; check user name, password, client_id and certificate",
        _ => "it gives no known reason",
    }
}

impl ConnectError {
    /// Whether the broker had our CONNECT when it came to this.
    pub(crate) fn is_after_connect(&self) -> bool {
        match self {
            ConnectError::Timeout { step, .. } => *step == WAITING_FOR_CONNACK,
            ConnectError::Refused { .. }
            | ConnectError::Closed { .. }
            | ConnectError::NotMqtt { .. } => true,
            _ => false,
        }
    }

    /// Whether trying again soon is pointless: a person has to change something first.
    pub fn is_refusal(&self) -> bool {
        matches!(self, ConnectError::Refused { code, .. } if *code != 3)
    }
}

/// How a connection test went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionReport {
    /// The address that took the connection.
    pub address: SocketAddr,
    /// TLS version and cipher suite, where TLS is used.
    pub tls: Option<String>,
    /// Name service and TCP.
    pub tcp_took: Duration,
    /// TLS handshake; zero without TLS.
    pub tls_took: Duration,
    /// From CONNECT to CONNACK.
    pub connack_took: Duration,
}

/// Connects, is accepted, and says goodbye. No will is left, nothing is published or subscribed.
///
/// A running session under the same `client_id` is thrown out by the broker and reconnects.
///
/// # Errors
/// Names the step that failed and the likely cause.
pub async fn test_connection(settings: &SessionSettings) -> Result<ConnectionReport, ConnectError> {
    let mut opened = open(settings, None).await?;
    if packet::write(&mut opened.link.outbound, &Packet::Disconnect).is_ok() {
        opened.link.close(Duration::from_secs(1)).await;
    }
    Ok(opened.report)
}

/// A connection that the broker accepted.
pub(crate) struct Opened {
    pub(crate) link: Link,
    pub(crate) report: ConnectionReport,
}

/// Looks the name up, connects, shakes hands and is accepted.
pub(crate) async fn open(
    settings: &SessionSettings,
    will: Option<&Message>,
) -> Result<Opened, ConnectError> {
    let endpoint = &settings.endpoint;
    let password = settings.password.as_ref().map(|p| p.load()).transpose()?;
    let connect = introduction(settings, password.as_ref(), will)?;
    // Files are read before anything is sent: a wrong path should not look like a network problem.
    let tls_config = match endpoint.scheme {
        Scheme::Mqtt => None,
        Scheme::Mqtts => Some(tls::client_config(&settings.tls)?),
    };

    let started = Instant::now();
    let (stream, address) = dial(endpoint).await?;
    let tcp_took = started.elapsed();

    let started = Instant::now();
    let (mut link, tls_text) = match tls_config {
        None => (Link::new(stream), None),
        Some(config) => shake_hands(endpoint, stream, config).await?,
    };
    let tls_took = tls_text
        .as_ref()
        .map_or(Duration::ZERO, |_| started.elapsed());

    let started = Instant::now();
    packet::write(&mut link.outbound, &connect).map_err(|source| ConnectError::NotMqtt {
        endpoint: endpoint.clone(),
        source,
    })?;
    timeout(STEP_TIMEOUT, accepted(endpoint, &mut link))
        .await
        .map_err(|_| ConnectError::Timeout {
            step: WAITING_FOR_CONNACK,
            endpoint: endpoint.clone(),
            after: STEP_TIMEOUT,
        })??;
    let report = ConnectionReport {
        address,
        tls: tls_text,
        tcp_took,
        tls_took,
        connack_took: started.elapsed(),
    };
    Ok(Opened { link, report })
}

fn introduction(
    settings: &SessionSettings,
    password: Option<&Secret>,
    will: Option<&Message>,
) -> Result<Packet, ConnectError> {
    let password = password.map(Secret::expose);
    let (username, password) = match settings.token_as_username {
        true => (password, None),
        false => (settings.username.as_deref(), password),
    };
    packet::connect(&Introduction {
        client_id: &settings.client_id,
        username,
        password,
        keep_alive_s: u16::try_from(settings.keep_alive.as_secs()).unwrap_or(u16::MAX),
        will,
    })
    .map_err(|what| ConnectError::TooLong { what })
}

async fn dial(endpoint: &Endpoint) -> Result<(TcpStream, SocketAddr), ConnectError> {
    let no_address = |source| ConnectError::Dns {
        host: endpoint.host.clone(),
        source,
    };
    let lookup = tokio::net::lookup_host((endpoint.host.as_str(), endpoint.port));
    let addresses = timeout(STEP_TIMEOUT, lookup)
        .await
        .map_err(|_| no_address(std::io::ErrorKind::TimedOut.into()))?
        .map_err(no_address)?;
    let mut failed = no_address(std::io::ErrorKind::NotFound.into());
    for address in addresses {
        let outcome = match timeout(TCP_TIMEOUT, TcpStream::connect(address)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(std::io::ErrorKind::TimedOut.into()),
        };
        match outcome {
            Ok(stream) => {
                // Small acks and commands must not wait for Nagle; we write in large pieces anyway.
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "cannot set TCP_NODELAY");
                }
                return Ok((stream, address));
            }
            Err(source) => {
                failed = ConnectError::Tcp {
                    address: address.to_string(),
                    source,
                }
            }
        }
    }
    Err(failed)
}

async fn shake_hands(
    endpoint: &Endpoint,
    stream: TcpStream,
    config: Arc<rustls::ClientConfig>,
) -> Result<(Link, Option<String>), ConnectError> {
    let name = ServerName::try_from(endpoint.host.clone()).map_err(|error| ConnectError::Dns {
        host: endpoint.host.clone(),
        source: std::io::Error::new(std::io::ErrorKind::InvalidInput, error),
    })?;
    let handshake = tokio_rustls::TlsConnector::from(config).connect(name, stream);
    let stream = timeout(STEP_TIMEOUT, handshake)
        .await
        .map_err(|_| ConnectError::Timeout {
            step: "the TLS handshake",
            endpoint: endpoint.clone(),
            after: STEP_TIMEOUT,
        })?
        .map_err(|source| tls_failure(endpoint, source))?;
    let (_, session) = stream.get_ref();
    let version = session.protocol_version().and_then(|v| v.as_str());
    let suite = session
        .negotiated_cipher_suite()
        .and_then(|s| s.suite().as_str());
    let text = format!("{} {}", version.unwrap_or("TLS"), suite.unwrap_or("?"));
    Ok((Link::new(stream), Some(text)))
}

fn tls_failure(endpoint: &Endpoint, source: std::io::Error) -> ConnectError {
    let hint = tls::failure(&source).map_or(
        "the peer ended the handshake; perhaps it does not speak TLS on this port",
        tls::hint,
    );
    ConnectError::Tls {
        endpoint: endpoint.clone(),
        hint,
        source,
    }
}

/// Waits until the broker has answered the CONNECT.
async fn accepted(endpoint: &Endpoint, link: &mut Link) -> Result<(), ConnectError> {
    let not_mqtt = |source| ConnectError::NotMqtt {
        endpoint: endpoint.clone(),
        source,
    };
    loop {
        if let Some(packet) = link.take_packet().map_err(not_mqtt)? {
            return match packet {
                Packet::ConnAck(ack) if ack.code == ConnectReturnCode::Success => Ok(()),
                Packet::ConnAck(ack) => Err(ConnectError::Refused {
                    endpoint: endpoint.clone(),
                    code: ack.code as u8,
                }),
                other => Err(not_mqtt(PacketError::Malformed(format!(
                    "expected a CONNACK, got {other:?}"
                )))),
            };
        }
        if let Err(error) = link.exchange().await {
            // With TLS 1.3 the broker's verdict on a client certificate comes only now.
            return Err(match tls::failure(&error) {
                Some(_) => tls_failure(endpoint, error),
                None => ConnectError::Closed {
                    endpoint: endpoint.clone(),
                    source: Some(error),
                },
            });
        }
    }
}
