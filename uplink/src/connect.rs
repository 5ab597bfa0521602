//! From an endpoint to an accepted connection.

mod error;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::endpoint::{Endpoint, Scheme};
use crate::link::Link;
use crate::message::Message;
use crate::packet::{Connect, Goodbye, Packet, PacketError, Protocol, Reason, Terms};
use crate::secret::Secret;
use crate::session::{ProtocolChoice, SessionSettings};
use crate::tls;

pub use error::ConnectError;
pub(crate) use error::said;

/// A host that does not answer a SYN in this time is not there; the next address is tried.
const TCP_TIMEOUT: Duration = Duration::from_secs(5);
/// Name service, TLS handshake and CONNACK each: slow links take seconds, not tens of them.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// The step after the CONNECT.
const WAITING_FOR_CONNACK: &str = "waiting for the CONNACK";

/// How a connection test went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionReport {
    /// The address that took the connection.
    pub address: SocketAddr,
    /// What the broker granted.
    pub terms: Terms,
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
    let mut opened = open(settings, &mut Memory::default(), None).await?;
    if opened
        .link
        .send(Packet::Disconnect(Goodbye::default()))
        .is_ok()
    {
        opened.link.close(Duration::from_secs(1)).await;
    }
    Ok(opened.report)
}

/// A connection that the broker accepted.
pub(crate) struct Opened {
    pub(crate) link: Link,
    pub(crate) report: ConnectionReport,
    /// How long the password is good for, where it is a token.
    pub(crate) good_for: Option<Duration>,
}

/// What was learned of a broker, for the next connection.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// It said that it does not speak MQTT 5.
    only_v311: bool,
    /// The client id that it gave us.
    client_id: Option<String>,
}

impl Memory {
    /// The version to try, and the one to try where the broker does not know it.
    fn protocols(&self, choice: ProtocolChoice) -> (Protocol, Option<Protocol>) {
        match choice {
            ProtocolChoice::Only(protocol) => (protocol, None),
            ProtocolChoice::Auto if self.only_v311 => (Protocol::V311, None),
            ProtocolChoice::Auto => (Protocol::V5, Some(Protocol::V311)),
        }
    }
}

/// Looks the name up, connects, shakes hands and is accepted, in an older version of the protocol where the broker
/// does not know the newest.
pub(crate) async fn open(
    settings: &SessionSettings,
    memory: &mut Memory,
    will: Option<&Message>,
) -> Result<Opened, ConnectError> {
    let (newest, older) = memory.protocols(settings.protocol);
    let opened = match attempt(settings, memory, newest, will).await {
        Ok(opened) => opened,
        Err(error) => match (older, error.blames_version()) {
            (Some(older), Some(says_so)) => {
                tracing::debug!(%error, "trying an older version of MQTT");
                let opened = match attempt(settings, memory, older, will).await {
                    Ok(opened) => opened,
                    // The broker had our CONNECT, and the will in it.
                    Err(before) if !before.is_after_connect() => return Err(error),
                    Err(other) => return Err(other),
                };
                // One that only hung up may have had another reason: it is asked again the next time.
                memory.only_v311 |= says_so;
                opened
            }
            _ => return Err(error),
        },
    };
    memory.client_id.clone_from(&opened.report.terms.client_id);
    Ok(opened)
}

async fn attempt(
    settings: &SessionSettings,
    memory: &Memory,
    protocol: Protocol,
    will: Option<&Message>,
) -> Result<Opened, ConnectError> {
    let endpoint = &settings.endpoint;
    let password = settings.password.as_ref().map(|p| p.load()).transpose()?;
    let good_for = password.as_ref().and_then(|password| password.good_for);
    let password = password.as_ref().map(|password| &password.secret);
    let connect = introduction(settings, memory, password, will)?;
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
    link.protocol = protocol;
    link.send(connect).map_err(|source| ConnectError::NotMqtt {
        endpoint: endpoint.clone(),
        source,
    })?;
    let terms = timeout(STEP_TIMEOUT, accepted(settings, &mut link))
        .await
        .map_err(|_| ConnectError::Timeout {
            step: WAITING_FOR_CONNACK,
            endpoint: endpoint.clone(),
            after: STEP_TIMEOUT,
        })??;
    let report = ConnectionReport {
        address,
        terms,
        tls: tls_text,
        tcp_took,
        tls_took,
        connack_took: started.elapsed(),
    };
    Ok(Opened {
        link,
        report,
        good_for,
    })
}

fn introduction(
    settings: &SessionSettings,
    memory: &Memory,
    password: Option<&Secret>,
    will: Option<&Message>,
) -> Result<Packet, ConnectError> {
    let password = password.map(|password| password.expose().to_owned());
    let (username, password) = match settings.token_as_username {
        true => (password, None),
        false => (settings.username.clone(), password),
    };
    let client_id = match (settings.client_id.as_str(), &memory.client_id) {
        ("", Some(given)) => given.clone(),
        (own, _) => own.to_owned(),
    };
    let connect = Connect {
        client_id,
        username,
        password,
        keep_alive_s: u16::try_from(settings.keep_alive.as_secs()).unwrap_or(u16::MAX),
        will: will.cloned(),
    };
    match connect.too_long() {
        Some(what) => Err(ConnectError::TooLong { what }),
        None => Ok(Packet::Connect(Box::new(connect))),
    }
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
async fn accepted(settings: &SessionSettings, link: &mut Link) -> Result<Terms, ConnectError> {
    let endpoint = &settings.endpoint;
    let not_mqtt = |source| ConnectError::NotMqtt {
        endpoint: endpoint.clone(),
        source,
    };
    loop {
        if let Some(packet) = link.take_packet().map_err(not_mqtt)? {
            return match packet {
                Packet::ConnAck(ack) if ack.reason != Reason::SUCCESS => {
                    Err(ConnectError::Refused {
                        endpoint: endpoint.clone(),
                        reason: ack.reason,
                        text: ack.text,
                        reference: ack.reference,
                    })
                }
                Packet::ConnAck(ack) if !ack.terms.takes_qos1 && !settings.unacked => {
                    Err(ConnectError::NoAcknowledgements {
                        endpoint: endpoint.clone(),
                    })
                }
                Packet::ConnAck(ack) => {
                    // A broker may answer in the older form and mean it.
                    link.protocol = ack.terms.protocol;
                    Ok(ack.terms)
                }
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
