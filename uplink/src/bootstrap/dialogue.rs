//! Questions and answers over MQTT, for cores that enrol by it.

use std::time::Duration;

use serde_json::Value;
use tokio::time::timeout;

use super::{BootstrapError, Contact, Said};
use crate::connect::{ConnectError, Memory, open};
use crate::endpoint::Endpoint;
use crate::link::Link;
use crate::message::Message;
use crate::packet::{Goodbye, Packet, Protocol, Publish, Reason};
use crate::session::{ProtocolChoice, SessionSettings};
use crate::tls;

/// From a question to its answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// The goodbye is not waited for any longer.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// How the broker of a core is reached. By version 3.1.1: every core has it, and nothing is asked that needs more.
pub(super) fn settings_of(contact: &Contact) -> Result<SessionSettings, BootstrapError> {
    let endpoint: Endpoint = contact.url.parse().map_err(|error| {
        let problem = format!("is `{}`; {error}", contact.url);
        BootstrapError::Settings {
            key: "url",
            problem,
        }
    })?;
    if contact.trust.ca_sha256.is_some() {
        return Err(BootstrapError::Settings {
            key: "ca_sha256",
            problem: "works with https:// only; write ca_file".into(),
        });
    }
    let mut settings = SessionSettings::new(endpoint, &contact.external_id);
    settings.protocol = ProtocolChoice::Only(Protocol::V311);
    settings.proxy = contact.trust.proxy.clone();
    settings.tls.ca_file = contact.trust.ca_file.clone();
    Ok(settings)
}

/// A connection on which questions are asked one at a time.
pub(super) struct Dialogue {
    link: Link,
    url: String,
    next_id: u16,
}

impl Dialogue {
    /// Connects and logs in.
    pub(super) async fn begin(settings: &SessionSettings) -> Result<Self, BootstrapError> {
        let url = settings.endpoint.to_string();
        let opened = open(settings, &mut Memory::default(), None)
            .await
            .map_err(|error| no_connection(&url, error))?;
        Ok(Self {
            link: opened.link,
            url,
            next_id: 1,
        })
    }

    /// Subscribes to answers.
    pub(super) async fn listen(&mut self, answers: &[String]) -> Result<(), BootstrapError> {
        let id = self.id();
        let what = format!("subscribing to {}", answers.join(", "));
        let filters = answers.to_vec();
        self.send(Packet::Subscribe { id, filters })?;
        loop {
            if let Packet::SubAck { id: of, reasons } = self.packet(&what).await?
                && of == id
            {
                let refused = reasons.iter().find(|reason| reason.is_failure());
                return refused.map_or(Ok(()), |reason| Err(self.not_permitted(*reason)));
            }
        }
    }

    /// Asks, and waits for what comes on one of these topics: which, and what it carries.
    pub(super) async fn ask(
        &mut self,
        topic: &str,
        question: &Value,
        answers: &[String],
    ) -> Result<(String, Value), BootstrapError> {
        let id = self.id();
        let message = Message::new(topic, question.to_string());
        self.send(Packet::Publish(Publish::new(message, id)))?;
        loop {
            match self.packet(topic).await? {
                Packet::PubAck { id: of, reason } if of == id && reason.is_failure() => {
                    return Err(self.not_permitted(reason));
                }
                Packet::Publish(answer) if answers.contains(&answer.topic) => {
                    return match serde_json::from_slice(&answer.payload) {
                        Ok(body) => Ok((answer.topic, body)),
                        Err(_) => Err(BootstrapError::Malformed {
                            url: self.url.clone(),
                            place: answer.topic,
                            problem: "carries no JSON".into(),
                            hint: "check bootstrap.url: it must be the core that enrols",
                        }),
                    };
                }
                _ => {}
            }
        }
    }

    /// Says goodbye.
    pub(super) async fn end(mut self) {
        if self.send(Packet::Disconnect(Goodbye::default())).is_ok() {
            self.link.close(CLOSE_LIMIT).await;
        }
    }

    fn id(&mut self) -> u16 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }

    fn send(&mut self, packet: Packet) -> Result<(), BootstrapError> {
        let sent = self.link.send(packet);
        sent.map_err(|error| self.network(Box::new(error)))
    }

    /// The next packet; what has to be acknowledged is.
    async fn packet(&mut self, what: &str) -> Result<Packet, BootstrapError> {
        loop {
            let taken = self.link.take_packet();
            if let Some(packet) = taken.map_err(|error| self.network(Box::new(error)))? {
                if let Packet::Publish(Publish { id: Some(id), .. }) = packet {
                    let reason = Reason::SUCCESS;
                    self.send(Packet::PubAck { id, reason })?;
                }
                if let Packet::Disconnect(parting) = &packet {
                    return Err(self.not_permitted(parting.reason));
                }
                return Ok(packet);
            }
            let moved = timeout(ANSWER_LIMIT, self.link.exchange()).await;
            let moved = moved.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
            moved.map_err(|source| {
                // Cores of this kind give no reason on the wire.
                let closed = source.kind() == std::io::ErrorKind::UnexpectedEof;
                let hint = match closed {
                    true => "the connection was closed: the core may not allow this login to ask",
                    false => "no answer",
                };
                self.network(format!("{what}: {hint} ({source})").into())
            })?;
        }
    }

    fn network(&self, source: Box<dyn std::error::Error + Send + Sync>) -> BootstrapError {
        BootstrapError::Network {
            url: self.url.clone(),
            source,
        }
    }

    fn not_permitted(&self, reason: Reason) -> BootstrapError {
        BootstrapError::Denied {
            url: self.url.clone(),
            status: u16::from(reason.0),
            why: "the login must be allowed to publish the questions and to subscribe to their answers",
            said: Said::default(),
            retry_after: None,
        }
    }
}

/// What a connection that was not made means for the cadence.
fn no_connection(url: &str, error: ConnectError) -> BootstrapError {
    let url = url.to_owned();
    match error {
        ConnectError::TlsSetup(error) => BootstrapError::Tls(error),
        ConnectError::Tls { source, .. } if tls::failure(&source).is_some() => {
            BootstrapError::Untrusted {
                hint: tls::failure(&source).map_or("the TLS handshake failed", tls::hint),
                url,
                source,
            }
        }
        ConnectError::Refused { reason, .. } => BootstrapError::Denied {
            url,
            status: u16::from(reason.0),
            why: "it refuses the login",
            said: Said::default(),
            retry_after: None,
        },
        error => BootstrapError::Network {
            url,
            source: Box::new(error),
        },
    }
}
