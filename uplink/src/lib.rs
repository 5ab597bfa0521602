//! The MQTT session, cloud profiles, codecs and bootstrap providers.
//!
//! [`session`] is one connection to a broker that never loses or falsely settles a message; what it
//! sends comes from a [`session::Feed`]. A [`profile`] and its [`codec`] turn parcels, events and gaps into messages
//! and commands back into [`millrace_tags::Command`]. [`bootstrap`] is the first contact with a core:
//! a key in, credentials and configuration out. With the feature `sim` there is a small
//! [broker](sim::Broker) for demonstrations and tests.
//!
//! Promises: a consignment is acked only when every message of it got its PUBACK; TLS peers are always
//! verified; secrets never show in `Debug` output or errors.

mod backoff;
pub mod bootstrap;
pub mod codec;
pub mod command;
mod connect;
mod endpoint;
pub mod fetch;
mod http;
mod link;
mod message;
mod packet;
pub mod profile;
mod proxy;
mod secret;
pub mod session;
#[cfg(feature = "sim")]
pub mod sim;
mod tls;
mod token;
pub mod topic;
mod ws;

pub use backoff::ReconnectPolicy;
pub use command::{CommandError, Garbled, Incoming};
pub use connect::{ConnectError, ConnectionReport, test_connection};
pub use endpoint::{Endpoint, EndpointError, PORT_PLAIN, PORT_TLS, Scheme};
pub use http::Trust;
pub use message::{Inbound, Message, PUBLISH_OVERHEAD, Properties, STRING_BYTES_MAX};
pub use packet::{PacketError, Protocol, Reason, Terms};
pub use profile::{Definition, EncodeError, Profile, ProfileError, SetupError};
pub use proxy::{Proxy, ProxyAddress, ProxyError, ProxyKind};
pub use secret::{Secret, SecretError, SecretSource};
pub use session::{
    Consignment, Feed, Listening, Parting, ProtocolChoice, Refusal, SessionCounters,
    SessionSettings, SessionState, Window, run,
};
pub use tls::{Pin, PinError, TlsFiles, TlsSetupError};
pub use token::{Password, PasswordError, PasswordSource};
