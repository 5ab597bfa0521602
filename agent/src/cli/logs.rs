//! Logs of the process: to stderr, at the level of `MILLRACE_LOG`.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Names what is logged, for example `debug` or `millrace_drivers=trace,info`.
const LOG_VARIABLE: &str = "MILLRACE_LOG";

/// Starts logging to stderr; `default` is the filter where `MILLRACE_LOG` says nothing.
pub(crate) fn init(default: &str) {
    let filter = EnvFilter::try_from_env(LOG_VARIABLE).unwrap_or_else(|_| EnvFilter::new(default));
    // A second start, as in tests, keeps the first.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .try_init();
}
