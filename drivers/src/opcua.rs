//! OPC UA devices: secure sessions, subscriptions that are acknowledged only when the samples are on
//! disk, polling, and trust on request.
//!
//! [`Settings`] and [`Item`]s make an [`OpcuaDriver`]; opening it looks up the server's endpoints, checks its
//! certificate against what is pinned ([`inspect`], [`pin`]), logs in, and subscribes. `README.md` beside
//! these files draws the way of a value.
//!
//! A person asks through an [`OpcuaTool`].

/// Prefixes of log targets of the OPC UA library. It reports as errors what is ordinary here (a connection
/// that ends, a server that refuses), and everything that matters comes back as a
/// [`SessionError`](crate::SessionError): a log filter should turn these off by default.
pub const LIBRARY_LOG_TARGETS: [&str; 5] = [
    "opcua_client",
    "opcua_core",
    "opcua_crypto",
    "opcua_server",
    "opcua_types",
];

mod acks;
mod address;
mod backfill;
mod browse;
mod call;
mod certificate;
mod channel;
mod clock;
mod decode;
mod delivered;
mod driver;
mod encode;
mod endpoint;
mod events;
mod fallback;
mod fault;
mod filling;
mod history;
mod identity;
mod inspect;
mod intake;
mod json;
mod judge;
mod locate;
mod login;
mod notes;
mod own;
mod path;
mod poll;
mod publish;
mod range;
mod references;
mod remedy;
mod resume;
mod sequence;
mod server;
mod session;
mod settings;
mod status;
mod subscribed;
mod subscription;
mod tool;
mod trust;
mod types;
mod user;
mod write;

pub use address::{NodeAddress, NodeAddressError};
pub use browse::{BrowseOptions, Browsed, BrowsedNode};
pub use call::{CallError, Called};
pub use delivered::{Cursor, Fnv, Memory, OpenAlarm};
pub use driver::{OpcuaDriver, shake_hands};
pub use identity::Identity;
pub use inspect::{CertificateReport, EndpointReport, Finding, Inspection, examine, inspect};
pub use own::{OwnReport, own_report, renew_own};
pub use settings::{
    Auth, Collect, Discard, Item, KEEP_ALIVE_DEFAULT, Mode, PUBLISH_INTERVAL_DEFAULT, Policy,
    QUEUE_SIZE_DEFAULT, Security, SecurityError, ServerDeadband, Settings, TIMEOUT_DEFAULT,
    Tolerance,
};
pub use tool::{OpcuaTool, ReadOnce, read_once};
pub use trust::{TrustError, pin};
