//! The TCP front of a simulated server: what the library cannot do with its connections happens here.
//!
//! Clients connect to the front, which carries their bytes to the server behind it. It cuts connections without
//! a word, keeps them silent, closes the port, and sets the times of replies that go in clear.

mod stamp;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use stamp::Stamper;

/// As much as one chunk of most servers.
const CARRIED_BYTES: usize = 65_536;

/// After a connection that could not be taken.
const RETRY_PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

/// A port that can be open, closed or silent.
pub(super) struct Front {
    carrier: Carrier,
    accepting: Mutex<Option<JoinHandle<()>>>,
    silence: watch::Sender<bool>,
}

/// What each connection needs.
#[derive(Clone)]
struct Carrier {
    silent: watch::Receiver<bool>,
    /// Cancelled and replaced when all connections are cut.
    cut: Arc<Mutex<CancellationToken>>,
    /// Milliseconds that the times in replies are moved by.
    ahead_ms: i64,
}

impl Drop for Front {
    fn drop(&mut self) {
        if let Some(task) = self.accepting() {
            task.abort();
        }
    }
}

impl Front {
    pub(super) fn new(ahead_ms: i64) -> Self {
        let silence = watch::Sender::new(false);
        Self {
            carrier: Carrier {
                silent: silence.subscribe(),
                cut: Arc::default(),
                ahead_ms,
            },
            accepting: Mutex::default(),
            silence,
        }
    }

    fn accepting(&self) -> Option<JoinHandle<()>> {
        self.accepting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// Takes connections from this listener and carries them to the server at `inner`.
    pub(super) fn open(&self, listener: TcpListener, inner: SocketAddr) {
        let task = tokio::spawn(accept(listener, inner, self.carrier.clone()));
        let mut accepting = self
            .accepting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(former) = accepting.replace(task) {
            former.abort();
        }
    }

    /// Closes all connections and the port.
    pub(super) async fn close(&self) {
        if let Some(task) = self.accepting() {
            task.abort();
            // The port is closed when the task has gone.
            let _ = task.await;
        }
    }

    /// Closes all connections.
    pub(super) fn cut(&self) {
        let mut cut = lock(&self.carrier.cut);
        std::mem::take(&mut *cut).cancel();
    }

    /// Connections stay, new ones are taken, and nothing is carried; or it is again.
    pub(super) fn silence(&self, silent: bool) {
        self.silence.send_replace(silent);
    }
}

fn lock(cut: &Mutex<CancellationToken>) -> std::sync::MutexGuard<'_, CancellationToken> {
    cut.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Connections end with this task.
async fn accept(listener: TcpListener, inner: SocketAddr, carrier: Carrier) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => {
                    let cut = lock(&carrier.cut).clone();
                    let carrier = carrier.clone();
                    connections.spawn(async move {
                        // A connection ends when its client or its server goes; there is nobody to tell.
                        let _ = cut.run_until_cancelled(carrier.carry(client, inner)).await;
                    });
                }
                Err(_) => tokio::time::sleep(RETRY_PAUSE).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

impl Carrier {
    async fn carry(mut self, client: TcpStream, inner: SocketAddr) -> io::Result<()> {
        client.set_nodelay(true)?;
        self.until_heard().await;
        let server = TcpStream::connect(inner).await?;
        server.set_nodelay(true)?;
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        let stamper = (self.ahead_ms != 0).then(|| Stamper::new(self.ahead_ms));
        tokio::select! {
            ended = self.clone().pass(from_client, to_server, None) => ended,
            ended = self.pass(from_server, to_client, stamper) => ended,
        }
    }

    async fn pass(
        mut self,
        mut from: OwnedReadHalf,
        mut to: OwnedWriteHalf,
        mut stamper: Option<Stamper>,
    ) -> io::Result<()> {
        let mut bytes = vec![0; CARRIED_BYTES];
        loop {
            let count = from.read(&mut bytes).await?;
            if count == 0 {
                return Ok(());
            }
            self.until_heard().await;
            match &mut stamper {
                None => to.write_all(&bytes[..count]).await?,
                Some(stamper) => to.write_all(&stamper.stamp(&bytes[..count])).await?,
            }
        }
    }

    async fn until_heard(&mut self) {
        // The front is gone, then, and this connection goes, too.
        let _ = self.silent.wait_for(|silent| !silent).await;
    }
}
