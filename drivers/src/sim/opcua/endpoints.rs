//! How the library's server is set up: endpoints, logins, limits.

use std::net::SocketAddr;

use opcua::crypto::SecurityPolicy;
use opcua::types::MessageSecurityMode;
use opcua_server::diagnostics::DiagnosticsNodeManagerBuilder;
use opcua_server::{ANONYMOUS_USER_TOKEN_ID, ServerBuilder, ServerEndpoint, ServerUserToken};

use super::SimOpcuaSettings;
use super::core;

/// Below the pki directory.
pub(super) const CERTIFICATE: &str = "own/cert.der";

/// Below the pki directory.
pub(super) const PRIVATE_KEY: &str = "private/private.pem";

/// Room for a client that falls behind by minutes: a simulator that drops values by itself cannot be
/// compared with anything.
const QUEUED_MAX: usize = 100_000;

/// A directory that cannot be made: the server goes on without a store.
const NO_PKI_DIR: &str = "/dev/null/pki";

/// Messages as large as a notification of all that is queued.
const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Publishing at 10 ms keeps up with what the settings of a device can ask for.
const PUBLISH_MIN_MS: u32 = 10;

/// A server for clients that connect to `address`.
pub(super) fn builder(settings: &SimOpcuaSettings, address: SocketAddr) -> ServerBuilder {
    let mut tokens = vec![ANONYMOUS_USER_TOKEN_ID.to_owned()];
    let mut builder = ServerBuilder::new()
        .with_node_manager(core::builder(settings.faults.clock_ahead_ms))
        .with_node_manager(DiagnosticsNodeManagerBuilder)
        .application_name("Millrace simulated server")
        .application_uri("urn:millrace:sim:server")
        .product_uri("urn:millrace:sim")
        .host(address.ip().to_string())
        .port(address.port())
        .discovery_urls(vec!["/".to_owned()])
        .trust_client_certs(true)
        .diagnostics_enabled(true)
        .subscription_poll_interval_ms(PUBLISH_MIN_MS.into())
        .max_message_size(MESSAGE_BYTES_MAX)
        .max_chunk_count(MESSAGE_BYTES_MAX / 8192)
        .max_array_length(QUEUED_MAX);
    if let Some((user, password)) = &settings.user {
        builder = builder.add_user_token("user", ServerUserToken::user_pass(user, password));
        tokens.push("user".to_owned());
    }
    builder = builder.add_endpoint("none", ServerEndpoint::new_none("/", &tokens));
    builder = match &settings.pki_dir {
        Some(pki_dir) => secured(builder.pki_dir(pki_dir), &tokens),
        // The library would leave a store of certificates in the working directory, which nobody reads.
        None => builder.pki_dir(NO_PKI_DIR),
    };
    limit(&mut builder, settings);
    builder
}

fn limit(builder: &mut ServerBuilder, settings: &SimOpcuaSettings) {
    let faults = &settings.faults;
    let limits = builder.limits_mut();
    let publish_min = faults.publish_min.map(|time| time.as_secs_f64() * 1000.0);
    let subscriptions = &mut limits.subscriptions;
    subscriptions.min_sampling_interval_ms = 0.0;
    subscriptions.min_publishing_interval_ms = publish_min.unwrap_or(PUBLISH_MIN_MS.into());
    subscriptions.max_monitored_items_per_sub = faults.items_max.unwrap_or(QUEUED_MAX);
    subscriptions.max_monitored_item_queue_size = QUEUED_MAX;
    subscriptions.max_queued_notifications = QUEUED_MAX;
    if faults.without_subscriptions {
        subscriptions.max_subscriptions_per_session = 0;
    }
    let operations = &mut limits.operational;
    if let Some(most) = faults.item_calls_max {
        operations.max_monitored_items_per_call = most;
    }
    if let Some(most) = faults.reads_max {
        operations.max_nodes_per_read = most;
    }
}

fn secured(builder: ServerBuilder, tokens: &[String]) -> ServerBuilder {
    let builder = builder
        .create_sample_keypair(true)
        .certificate_path(CERTIFICATE)
        .private_key_path(PRIVATE_KEY);
    [
        SecurityPolicy::Basic256Sha256,
        SecurityPolicy::Aes128Sha256RsaOaep,
        SecurityPolicy::Aes256Sha256RsaPss,
    ]
    .into_iter()
    .fold(builder, |builder, policy| {
        let endpoint = |mode| ServerEndpoint::new("/", policy, mode, tokens);
        builder
            .add_endpoint(
                format!("{policy} sign"),
                endpoint(MessageSecurityMode::Sign),
            )
            .add_endpoint(
                format!("{policy} sign and encrypt"),
                endpoint(MessageSecurityMode::SignAndEncrypt),
            )
    })
}
