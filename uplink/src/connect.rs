//! From an endpoint to an accepted connection.

mod error;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite;

use crate::endpoint::Endpoint;
use crate::link::{AnyWire, Link};
use crate::message::Message;
use crate::packet::{Connect, Goodbye, Packet, PacketError, Protocol, Reason, Terms};
use crate::proxy::{self, Pass, Proxy};
use crate::secret::Secret;
use crate::session::{ProtocolChoice, SessionSettings};
use crate::token::PasswordError;
use crate::{tls, ws};

pub use error::ConnectError;
pub(crate) use error::{chain, said};

/// A host that does not answer a SYN in this time is not there; the next address is tried.
const TCP_TIMEOUT: Duration = Duration::from_secs(5);
/// Name service, TLS handshake and CONNACK each: slow links take seconds, not tens of them.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// The step after the CONNECT.
const WAITING_FOR_CONNACK: &str = "waiting for the CONNACK";

/// How a connection test went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionReport {
    /// Which of the endpoints it is.
    pub endpoint: Endpoint,
    /// When the broker's certificate ends, and when ours does.
    pub certificates_end: [Option<SystemTime>; 2],
    /// The address that took the connection; with a proxy, the proxy's.
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

/// What was learned of the brokers, for the next connection.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// The endpoint that took the last connection.
    at: usize,
    /// The endpoint to come back to: the first, until the feed walks on from there.
    home: usize,
    /// They said that they do not speak MQTT 5.
    only_v311: HashSet<Endpoint>,
    /// The client id that the broker gave us.
    client_id: Option<String>,
}

impl Memory {
    /// The version to try, and the one to try where the broker does not know it.
    fn protocols(
        &self,
        choice: ProtocolChoice,
        endpoint: &Endpoint,
    ) -> (Protocol, Option<Protocol>) {
        match choice {
            ProtocolChoice::Only(protocol) => (protocol, None),
            ProtocolChoice::Auto if self.only_v311.contains(endpoint) => (Protocol::V311, None),
            ProtocolChoice::Auto => (Protocol::V5, Some(Protocol::V311)),
        }
    }

    /// The endpoint to come back to, where the last connection was to another one.
    pub(crate) fn away_from(&self, settings: &SessionSettings) -> Option<Endpoint> {
        let home = settings.endpoints().get(self.home).copied();
        home.filter(|_| self.at != self.home).cloned()
    }

    /// Begins with the endpoint to come back to the next time.
    pub(crate) fn come_back(&mut self) {
        self.at = self.home;
    }

    /// Begins with the endpoint behind the last one the next time, and comes back to it.
    pub(crate) fn walk_on(&mut self, settings: &SessionSettings) {
        self.at = (self.at + 1) % settings.endpoints().len();
        self.home = self.at;
    }
}

/// Connects to the endpoint that took the last connection, else to the others in turn.
pub(crate) async fn open(
    settings: &SessionSettings,
    memory: &mut Memory,
    will: Option<&Message>,
) -> Result<Opened, ConnectError> {
    let endpoints = settings.endpoints();
    let mut failed = Vec::new();
    for turn in 0..endpoints.len() {
        let nth = (memory.at + turn) % endpoints.len();
        match open_one(settings, endpoints[nth], memory, will).await {
            Ok(opened) => {
                memory.at = nth;
                return Ok(opened);
            }
            Err(error) if endpoints.len() == 1 || error.is_our_own() => return Err(error),
            Err(error) => {
                tracing::debug!(%error, "trying the next endpoint");
                failed.push(error);
            }
        }
    }
    Err(ConnectError::Several(failed))
}

/// Looks the name up, connects, shakes hands and is accepted, in an older version of the protocol where the broker
/// does not know the newest.
async fn open_one(
    settings: &SessionSettings,
    endpoint: &Endpoint,
    memory: &mut Memory,
    will: Option<&Message>,
) -> Result<Opened, ConnectError> {
    let (newest, older) = memory.protocols(settings.protocol, endpoint);
    let opened = match attempt(settings, endpoint, memory, newest, will).await {
        Ok(opened) => opened,
        Err(error) => match (older, error.blames_version()) {
            (Some(older), Some(says_so)) => {
                tracing::debug!(%error, "trying an older version of MQTT");
                let opened = match attempt(settings, endpoint, memory, older, will).await {
                    Ok(opened) => opened,
                    // The broker had our CONNECT, and the will in it.
                    Err(before) if !before.is_after_connect() => return Err(error),
                    Err(other) => return Err(other),
                };
                if says_so {
                    memory.only_v311.insert(endpoint.clone());
                }
                // One that only hung up may have had another reason: it is asked again the next time.
                opened
            }
            _ => return Err(error),
        },
    };
    memory.client_id.clone_from(&opened.report.terms.client_id);
    Ok(opened)
}

/// A connection below MQTT.
struct Road {
    wire: AnyWire,
    address: SocketAddr,
    tls: Option<String>,
    broker_ends: Option<SystemTime>,
    tcp_took: Duration,
    tls_took: Duration,
}

async fn attempt(
    settings: &SessionSettings,
    endpoint: &Endpoint,
    memory: &Memory,
    protocol: Protocol,
    will: Option<&Message>,
) -> Result<Opened, ConnectError> {
    let password = settings.password.as_ref().map(|p| p.load()).transpose()?;
    let good_for = password.as_ref().and_then(|password| password.good_for);
    let password = password.as_ref().map(|password| &password.secret);
    let connect = introduction(settings, memory, password, will)?;
    let road = travel(settings, endpoint).await?;
    let started = Instant::now();
    let mut link = Link::over(road.wire);
    link.protocol = protocol;
    link.send(connect).map_err(|source| ConnectError::NotMqtt {
        endpoint: endpoint.clone(),
        source,
    })?;
    let waiting = accepted(settings, endpoint, &mut link);
    let terms = within(WAITING_FOR_CONNACK, endpoint, waiting).await??;
    let own = settings
        .tls
        .cert_file
        .as_deref()
        .and_then(tls::file_expires);
    let report = ConnectionReport {
        endpoint: endpoint.clone(),
        certificates_end: [road.broker_ends, own.filter(|_| road.tls.is_some())],
        address: road.address,
        terms,
        tls: road.tls,
        tcp_took: road.tcp_took,
        tls_took: road.tls_took,
        connack_took: started.elapsed(),
    };
    Ok(Opened {
        link,
        report,
        good_for,
    })
}

/// Waits for a step, and not for ever.
async fn within<T>(
    step: &'static str,
    endpoint: &Endpoint,
    work: impl Future<Output = T>,
) -> Result<T, ConnectError> {
    timeout(STEP_TIMEOUT, work)
        .await
        .map_err(|_| ConnectError::Timeout {
            step,
            endpoint: endpoint.clone(),
            after: STEP_TIMEOUT,
        })
}

/// TCP, through a proxy where there is one, then TLS, then WebSockets, as far as the endpoint wants them.
async fn travel(settings: &SessionSettings, endpoint: &Endpoint) -> Result<Road, ConnectError> {
    // Files are read before anything is sent: a wrong path should not look like a network problem.
    let tls_config = match endpoint.scheme.is_tls() {
        false => None,
        true => Some(tls::client_config(&settings.tls)?),
    };
    let started = Instant::now();
    let (stream, address) = match &settings.proxy {
        None => dial(&endpoint.host, endpoint.port).await?,
        Some(proxy) => detour(proxy, endpoint).await?,
    };
    let tcp_took = started.elapsed();
    let started = Instant::now();
    let mut road = Road {
        wire: Box::new(stream),
        address,
        tls: None,
        broker_ends: None,
        tcp_took,
        tls_took: Duration::ZERO,
    };
    if let Some(config) = tls_config {
        let stream = shake_hands(endpoint, road.wire, config).await?;
        let (_, session) = stream.get_ref();
        let version = session.protocol_version().and_then(|v| v.as_str());
        let suite = session
            .negotiated_cipher_suite()
            .and_then(|s| s.suite().as_str());
        let text = format!("{} {}", version.unwrap_or("TLS"), suite.unwrap_or("?"));
        let chain = session.peer_certificates().and_then(|chain| chain.first());
        road.broker_ends = chain.and_then(tls::expires);
        road.tls = Some(text);
        road.tls_took = started.elapsed();
        road.wire = Box::new(stream);
    }
    if endpoint.scheme.is_web() {
        let upgrading = ws::upgrade(endpoint, road.wire);
        let upgraded = within("the WebSocket handshake", endpoint, upgrading).await?;
        let web = upgraded.map_err(|source| match source {
            // With TLS 1.3 the verdict on a client certificate comes only now.
            tungstenite::Error::Io(source) if tls::failure(&source).is_some() => {
                tls_failure(endpoint, source)
            }
            source => ConnectError::WebSocket {
                endpoint: endpoint.clone(),
                hint: error::web_hint(&source),
                source: Box::new(source),
            },
        })?;
        road.wire = Box::new(web);
    }
    Ok(road)
}

/// A connection to the endpoint through the proxy.
async fn detour(
    proxy: &Proxy,
    endpoint: &Endpoint,
) -> Result<(TcpStream, SocketAddr), ConnectError> {
    let password = proxy.password.as_ref().map(|p| p.load()).transpose();
    let password = password.map_err(PasswordError::from)?;
    let pass = proxy.username.as_deref().map(|username| Pass {
        username,
        password: password.as_ref(),
    });
    let to = &proxy.address;
    let (stream, address) =
        dial(&to.host, to.port)
            .await
            .map_err(|source| ConnectError::NoProxy {
                proxy: to.to_string(),
                source: Box::new(source),
            })?;
    let asking = proxy::through(to.kind, stream, pass, &endpoint.host, endpoint.port);
    let stream = within("the proxy's connection", endpoint, asking).await?;
    let stream = stream.map_err(|source| ConnectError::Proxy {
        proxy: to.to_string(),
        endpoint: endpoint.clone(),
        source,
    })?;
    Ok((stream, address))
}

/// Whether something listens at the endpoint, as far as TCP shows.
pub(crate) async fn answers(settings: &SessionSettings, endpoint: &Endpoint) -> bool {
    match &settings.proxy {
        None => dial(&endpoint.host, endpoint.port).await.is_ok(),
        Some(proxy) => detour(proxy, endpoint).await.is_ok(),
    }
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

/// Looks the name up anew, and tries all of its addresses.
async fn dial(host: &str, port: u16) -> Result<(TcpStream, SocketAddr), ConnectError> {
    let no_address = |source| ConnectError::Dns {
        host: host.to_owned(),
        source,
    };
    let lookup = tokio::net::lookup_host((host, port));
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
    stream: AnyWire,
    config: Arc<rustls::ClientConfig>,
) -> Result<TlsStream<AnyWire>, ConnectError> {
    let name = ServerName::try_from(endpoint.host.clone()).map_err(|error| ConnectError::Dns {
        host: endpoint.host.clone(),
        source: std::io::Error::new(std::io::ErrorKind::InvalidInput, error),
    })?;
    let handshake = tokio_rustls::TlsConnector::from(config).connect(name, stream);
    within("the TLS handshake", endpoint, handshake)
        .await?
        .map_err(|source| tls_failure(endpoint, source))
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
async fn accepted(
    settings: &SessionSettings,
    endpoint: &Endpoint,
    link: &mut Link,
) -> Result<Terms, ConnectError> {
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
