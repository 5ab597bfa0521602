//! A connection that can be cut.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// A TCP connection between driver and server that can be cut.
pub(crate) struct Link {
    address: SocketAddr,
    connections: Arc<Mutex<JoinSet<()>>>,
}

impl Link {
    pub(crate) async fn to(url: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listener");
        let address = listener.local_addr().expect("address");
        let target = authority(url);
        let connections: Arc<Mutex<JoinSet<()>>> = Arc::default();
        let spawned = connections.clone();
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let target = target.clone();
                spawned.lock().expect("connections").spawn(async move {
                    if let Ok(mut far) = TcpStream::connect(target).await {
                        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                    }
                });
            }
        });
        Self {
            address,
            connections,
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
}

fn authority(url: &str) -> String {
    let rest = url.trim_start_matches("opc.tcp://");
    rest.split('/').next().unwrap_or(rest).to_owned()
}
