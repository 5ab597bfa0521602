//! A way to a broker that breaks: bytes go through, until it is cut; or slowly.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What a slow way carries at once, and how often.
const SIP: usize = 4 * 1024;
const SIP_PAUSE: Duration = Duration::from_millis(2);

/// Listens on loopback; ends with its drop.
pub(crate) struct Cutter {
    pub(crate) port: u16,
    cuts: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Cutter {
    /// To the broker on this port. Each connection is cut after up to `bytes_max` bytes from the client; 0: none is.
    pub(crate) async fn start(to: u16, bytes_max: u64, slow: bool, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let cuts = Arc::<AtomicU64>::default();
        let counted = Arc::clone(&cuts);
        let task = tokio::spawn(async move {
            let mut dice = fastrand::Rng::with_seed(seed);
            while let Ok((client, _)) = listener.accept().await {
                let fuse = match bytes_max {
                    0 => u64::MAX,
                    most => dice.u64(1..=most),
                };
                let counted = Arc::clone(&counted);
                tokio::spawn(async move {
                    if carry(client, to, fuse, slow).await {
                        counted.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
        Self { port, cuts, task }
    }

    pub(crate) fn cuts(&self) -> u64 {
        self.cuts.load(Ordering::SeqCst)
    }
}

impl Drop for Cutter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Carries bytes both ways; true when it was cut.
async fn carry(mut client: TcpStream, to: u16, mut fuse: u64, slow: bool) -> bool {
    let address = SocketAddr::from(([127, 0, 0, 1], to));
    let Ok(mut broker) = TcpStream::connect(address).await else {
        return false;
    };
    let _ = (client.set_nodelay(true), broker.set_nodelay(true));
    let (mut up, mut down) = (vec![0; 16 * 1024], vec![0; 16 * 1024]);
    let up_max = if slow { SIP } else { up.len() };
    loop {
        tokio::select! {
            came = client.read(&mut up[..up_max]) => {
                let Ok(count @ 1..) = came else { return false };
                let whole = (count as u64).min(fuse) as usize;
                if broker.write_all(&up[..whole]).await.is_err() {
                    return false;
                }
                fuse -= whole as u64;
                if fuse == 0 {
                    return true;
                }
                if slow {
                    tokio::time::sleep(SIP_PAUSE).await;
                }
            }
            came = broker.read(&mut down) => {
                let Ok(count @ 1..) = came else { return false };
                if client.write_all(&down[..count]).await.is_err() {
                    return false;
                }
            }
        }
    }
}
