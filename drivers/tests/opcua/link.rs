//! A connection that can be cut, or go silent.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// A TCP connection between driver and server.
pub(crate) struct Link {
    address: SocketAddr,
    connections: Arc<Mutex<JoinSet<()>>>,
    silent: watch::Sender<bool>,
    down: Arc<AtomicBool>,
}

impl Link {
    pub(crate) async fn to(url: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listener");
        let address = listener.local_addr().expect("address");
        let target = authority(url);
        let connections: Arc<Mutex<JoinSet<()>>> = Arc::default();
        let silent = watch::Sender::new(false);
        let down: Arc<AtomicBool> = Arc::default();
        let (spawned, silence, closed) = (connections.clone(), silent.subscribe(), down.clone());
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                if closed.load(Ordering::Relaxed) {
                    continue;
                }
                let connection = carry(near, target.clone(), silence.clone());
                spawned.lock().expect("connections").spawn(connection);
            }
        });
        Self {
            address,
            connections,
            silent,
            down,
        }
    }

    /// The server's address, by way of this link.
    pub(crate) fn url(&self) -> String {
        format!("opc.tcp://{}", self.address)
    }

    /// Breaks every connection that there is; new ones can be made.
    pub(crate) fn cut(&self) {
        self.connections.lock().expect("connections").abort_all();
    }

    /// Breaks every connection and takes no new ones, or takes them again.
    pub(crate) fn down(&self, down: bool) {
        self.down.store(down, Ordering::Relaxed);
        self.cut();
    }

    /// Keeps every connection and carries nothing, or carries again on new ones.
    pub(crate) fn silence(&self, silent: bool) {
        self.silent.send_replace(silent);
    }
}

/// Carries bytes until one side ends, and nothing more once there was silence.
async fn carry(mut near: TcpStream, target: String, mut silence: watch::Receiver<bool>) {
    let Ok(mut far) = TcpStream::connect(target).await else {
        return;
    };
    let silenced = async {
        let _ = silence.wait_for(|silent| *silent).await;
    };
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => return,
        () = silenced => {}
    }
    std::future::pending().await
}

fn authority(url: &str) -> String {
    let rest = url.trim_start_matches("opc.tcp://");
    rest.split('/').next().unwrap_or(rest).to_owned()
}
