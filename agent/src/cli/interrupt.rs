//! Being asked to end.

use tokio::signal::unix::{SignalKind, signal};

/// Returns at Ctrl-C, SIGTERM, or when the terminal is closed.
///
/// # Errors
/// Where the system lets no signal be caught.
pub(crate) async fn interrupted() -> std::io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
    Ok(())
}
