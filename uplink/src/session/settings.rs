//! What a session needs to know.

use std::sync::Arc;
use std::time::Duration;

use crate::backoff::ReconnectPolicy;
use crate::endpoint::Endpoint;
use crate::message::Message;
use crate::packet::Protocol;
use crate::proxy::Proxy;
use crate::session::SessionCounters;
use crate::tls::TlsFiles;
use crate::token::PasswordSource;

/// Messages in flight by default: 2,000 a second at 50 ms of round trip, and no broker's queue is hurt.
pub const INFLIGHT_DEFAULT: usize = 100;
/// More in flight than this would not leave the id ring room to keep late acks apart.
pub const INFLIGHT_MAX: usize = 10_000;
/// Bytes in flight: what a slow link carries within a keep-alive, so that pings are answered in time.
pub const INFLIGHT_BYTES_MAX: usize = 1024 * 1024;
/// The largest message by default: what the tightest of the common cloud cores takes.
pub const MESSAGE_BYTES_DEFAULT: usize = 128 * 1024;
/// From one packet to the next on an idle connection, by default.
pub const KEEP_ALIVE_DEFAULT: Duration = Duration::from_secs(30);
/// A shorter keep-alive costs more than it finds.
pub const KEEP_ALIVE_MIN: Duration = Duration::from_secs(5);

/// Which version of the protocol a session speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ProtocolChoice {
    /// MQTT 5, and 3.1.1 with a broker that refuses it.
    #[default]
    Auto,
    /// This one.
    Only(Protocol),
}

impl ProtocolChoice {
    /// The words of profiles and configuration.
    pub const WORDS: [(&'static str, ProtocolChoice); 3] = [
        ("auto", ProtocolChoice::Auto),
        ("5", ProtocolChoice::Only(Protocol::V5)),
        ("3.1.1", ProtocolChoice::Only(Protocol::V311)),
    ];
}

/// What the session needs to know; checked by the configuration.
#[derive(Debug, Clone)]
pub struct SessionSettings {
    /// Where the broker is; its name is looked up again at each connect.
    pub endpoint: Endpoint,
    /// Where else the broker is: tried in order while the first does not answer.
    pub fallbacks: Vec<Endpoint>,
    /// The way out.
    pub proxy: Option<Proxy>,
    /// Our name at the broker; an empty one has the broker choose.
    pub client_id: String,
    /// The version to speak.
    pub protocol: ProtocolChoice,
    /// User name, where the broker wants one.
    pub username: Option<String>,
    /// Password; a file is read again and a token made anew at each connect, and there is a new connect before a
    /// token ends. MQTT 3.1.1 has no password without a user name.
    pub password: Option<PasswordSource>,
    /// The password is a token that goes as user name, and nothing goes as password.
    pub token_as_username: bool,
    /// Certificates; read again at each connect.
    pub tls: TlsFiles,
    /// Longest silence on the connection; at least [`KEEP_ALIVE_MIN`].
    pub keep_alive: Duration,
    /// Messages that may wait for their PUBACK.
    pub max_inflight: usize,
    /// Largest packet that the broker takes.
    pub max_message: usize,
    /// What the broker says for us when we vanish.
    pub will: Option<Message>,
    /// Topic filters to subscribe at QoS 1.
    pub subscribe: Vec<String>,
    /// Sent before a clean goodbye.
    pub farewell: Vec<Message>,
    /// Consignments go at QoS 0, strictly in the order in which they come. The answer to a ping that was sent after
    /// them stands for their PUBACK: the broker has read them.
    pub unacked: bool,
    /// Pauses between attempts.
    pub reconnect: ReconnectPolicy,
    /// What the session counts, shared with whoever shows it.
    pub counters: Arc<SessionCounters>,
}

impl SessionSettings {
    /// Where the broker is, the first first.
    pub(crate) fn endpoints(&self) -> Vec<&Endpoint> {
        std::iter::once(&self.endpoint)
            .chain(&self.fallbacks)
            .collect()
    }

    /// Settings with every default.
    pub fn new(endpoint: Endpoint, client_id: impl Into<String>) -> Self {
        Self {
            endpoint,
            fallbacks: Vec::new(),
            proxy: None,
            client_id: client_id.into(),
            protocol: ProtocolChoice::Auto,
            username: None,
            password: None,
            token_as_username: false,
            tls: TlsFiles::default(),
            keep_alive: KEEP_ALIVE_DEFAULT,
            max_inflight: INFLIGHT_DEFAULT,
            max_message: MESSAGE_BYTES_DEFAULT,
            will: None,
            subscribe: Vec::new(),
            farewell: Vec::new(),
            unacked: false,
            reconnect: ReconnectPolicy::default(),
            counters: Arc::default(),
        }
    }
}
