//! Binding the socket and serving it.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::Group;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

use super::peer::Peer;
use super::routes::{self, Door};

/// Owner and group may connect; the role decides further.
const SOCKET_MODE: u32 = 0o660;

/// The local API cannot be offered: the agent runs on without it and says so.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {}", .path.display())]
pub(crate) struct SocketError {
    path: PathBuf,
    #[source]
    source: std::io::Error,
}

/// Requests that are under way at a stop get their answer within this; a follower never ends by itself.
const LAST_ANSWERS_MAX: Duration = Duration::from_secs(1);

/// Listens on `path` until `shutdown`. A socket file that nobody serves any more is replaced.
///
/// # Errors
/// Where another agent serves the socket, or it cannot be made.
pub(crate) fn serve(
    path: &Path,
    door: Door,
    shutdown: CancellationToken,
) -> Result<tokio::task::JoinHandle<()>, SocketError> {
    let listener = bind(path).map_err(|source| SocketError {
        path: path.to_owned(),
        source,
    })?;
    let service = routes::router(door).into_make_service_with_connect_info::<Peer>();
    let path = path.to_owned();
    Ok(tokio::spawn(async move {
        let serving = axum::serve(listener, service)
            .with_graceful_shutdown(shutdown.clone().cancelled_owned())
            .into_future();
        let too_late = async {
            shutdown.cancelled().await;
            tokio::time::sleep(LAST_ANSWERS_MAX).await;
        };
        tokio::select! {
            served = serving => if let Err(error) = served {
                tracing::error!(error = %error, "the local API ended");
            },
            () = too_late => {}
        }
        // Somebody may have removed it already.
        let _ = std::fs::remove_file(&path);
    }))
}

fn bind(path: &Path) -> std::io::Result<UnixListener> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        let message = "another agent serves this socket; stop it, or give this one --socket";
        return Err(std::io::Error::new(std::io::ErrorKind::AddrInUse, message));
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(SOCKET_MODE))?;
    if let Ok(Some(group)) = Group::from_name("millrace") {
        // Without the right to give it away, the socket stays with the service user's own group.
        let _ = std::os::unix::fs::chown(path, None, Some(group.gid.as_raw()));
    }
    Ok(listener)
}
