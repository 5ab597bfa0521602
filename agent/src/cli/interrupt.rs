//! Being asked to end.

use tokio::signal::unix::{SignalKind, signal};

/// A future that is ready at Ctrl-C, SIGTERM, or when the terminal is closed. From this call on none of
/// them ends the process by itself.
///
/// # Errors
/// Where the system lets no signal be caught.
pub(crate) fn interrupted() -> std::io::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    })
}
