//! Logs of the process: to stderr, at the level of `MILLRACE_LOG`, or at another one for a while.

use std::io::IsTerminal;
use std::sync::{Mutex, OnceLock, PoisonError};

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload::Handle;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use crate::audit::AuditLayer;

/// Names what is logged, for example `debug` or `millrace_drivers=trace,info`.
const LOG_VARIABLE: &str = "MILLRACE_LOG";

/// The OPC UA library calls it an error when there is no certificate where none is needed. What fails for
/// want of one is said by our own errors.
const NOT_NEWS: &str =
    "opcua_crypto::certificate_store=off,opcua_core::comms::secure_channel=off,opcua_server=error";

/// The filter that can be changed, and what it was at the start.
struct Changeable {
    handle: Handle<EnvFilter, Registry>,
    default: String,
    /// How often it was changed: only the newest change ends by itself.
    turn: Mutex<u64>,
}

static CHANGEABLE: OnceLock<Changeable> = OnceLock::new();

/// Starts logging to stderr; `default` is the filter where `MILLRACE_LOG` says nothing.
pub(crate) fn init(default: &str) {
    let default = format!("{default},{NOT_NEWS}");
    let told = std::env::var(LOG_VARIABLE).ok();
    let told = told.filter(|told| EnvFilter::try_new(told).is_ok());
    let default = told.unwrap_or(default);
    let (filter, handle) = reload::Layer::new(EnvFilter::new(&default));
    let printed = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_filter(filter);
    // A second start, as in tests, keeps the first.
    let begun = tracing_subscriber::registry()
        .with(printed)
        .with(AuditLayer)
        .try_init();
    if begun.is_ok() {
        let _ = CHANGEABLE.set(Changeable {
            handle,
            default,
            turn: Mutex::new(0),
        });
    }
}

/// Logs at this level; the number of the change is for [`restore`].
///
/// # Errors
/// Where it is no level.
pub(crate) fn set_level(level: &str) -> Result<u64, String> {
    if !["error", "warn", "info", "debug", "trace"].contains(&level) {
        return Err(format!(
            "level is {level:?}; expected error, warn, info, debug or trace"
        ));
    }
    let Some(changeable) = CHANGEABLE.get() else {
        return Err("this process does not log".to_owned());
    };
    let mut turn = changeable
        .turn
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let filter = EnvFilter::new(format!("{level},{NOT_NEWS}"));
    changeable
        .handle
        .reload(filter)
        .map_err(|error| error.to_string())?;
    *turn += 1;
    Ok(*turn)
}

/// Logs as at the start again, unless the level was changed once more since that change.
pub(crate) fn restore(change: u64) {
    let Some(changeable) = CHANGEABLE.get() else {
        return;
    };
    let turn = changeable
        .turn
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    if *turn == change {
        // It only fails where nobody logs any more.
        let _ = changeable
            .handle
            .reload(EnvFilter::new(&changeable.default));
    }
}
