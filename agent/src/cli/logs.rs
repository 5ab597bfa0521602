//! Logs of the process: to stderr, at the level of `MILLRACE_LOG`.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Names what is logged, for example `debug` or `millrace_drivers=trace,info`.
const LOG_VARIABLE: &str = "MILLRACE_LOG";

/// The OPC UA library calls it an error when there is no certificate where none is needed. What fails for
/// want of one is said by our own errors.
const NOT_NEWS: &str =
    "opcua_crypto::certificate_store=off,opcua_core::comms::secure_channel=off,opcua_server=error";

/// Starts logging to stderr; `default` is the filter where `MILLRACE_LOG` says nothing.
pub(crate) fn init(default: &str) {
    let filter = EnvFilter::try_from_env(LOG_VARIABLE)
        .unwrap_or_else(|_| EnvFilter::new(format!("{default},{NOT_NEWS}")));
    // A second start, as in tests, keeps the first.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .try_init();
}
