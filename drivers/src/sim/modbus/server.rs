//! Conversations of a simulated device: over TCP one task that takes connections and one for each of
//! them, on a serial line one in all.

mod connection;
mod question;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::bank::Bank;
use super::faults::Fault;
use super::frame::Framing;
pub(super) use connection::Connection;

/// After a connection or a port that could not be had.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// What the tasks of a device share.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) units: Arc<Units>,
    pub(super) framing: Framing,
    pub(super) outages: mpsc::Sender<Duration>,
    pub(super) stop: CancellationToken,
}

/// The banks behind one address.
pub(super) struct Units {
    /// Answers every unit id that has none of its own.
    pub(super) any: Option<Mutex<Bank>>,
    pub(super) by_id: BTreeMap<u8, Mutex<Bank>>,
}

impl Units {
    pub(super) fn find(&self, unit: u8) -> Option<&Mutex<Bank>> {
        self.by_id.get(&unit).or(self.any.as_ref())
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (Option<u8>, MutexGuard<'_, Bank>)> {
        let own = self.by_id.iter().map(|(id, bank)| (Some(*id), lock(bank)));
        own.chain(self.any.iter().map(|bank| (None, lock(bank))))
    }
}

pub(super) fn lock(bank: &Mutex<Bank>) -> MutexGuard<'_, Bank> {
    // A bank is whole between any two statements that could panic.
    bank.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Closes all connections, and takes none for so long.
    pub(super) fn begin_outage(&self, fault: Fault) {
        let (Fault::Refuse(pause) | Fault::Reboot(pause)) = fault else {
            return;
        };
        if matches!(fault, Fault::Reboot(_)) {
            self.units.all().for_each(|(_, mut bank)| bank.reboot());
        }
        // A full queue means that an outage is under way already.
        let _ = self.outages.try_send(pause);
    }
}

/// Listens on a socket of the standard library, so that no runtime is needed to find a port taken.
pub(super) fn listen(address: impl std::net::ToSocketAddrs) -> io::Result<std::net::TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Takes connections until it is told to stop.
pub(super) async fn serve(
    listener: TcpListener,
    address: SocketAddr,
    shared: Shared,
    mut outages: mpsc::Receiver<Duration>,
) {
    let mut listener = Some(listener);
    while let Some(open) = listener.take() {
        let connections = shared.stop.child_token();
        let outage = take_connections(&open, &shared, &connections, &mut outages).await;
        connections.cancel();
        drop(open);
        let Some(outage) = outage else { return };
        listener = tokio::select! {
            reopened = reopen(address, outage) => Some(reopened),
            () = shared.stop.cancelled() => None,
        };
    }
}

/// Until the next outage, whose length it returns, or the end.
async fn take_connections(
    listener: &TcpListener,
    shared: &Shared,
    connections: &CancellationToken,
    outages: &mut mpsc::Receiver<Duration>,
) -> Option<Duration> {
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else {
                    // The client is gone again, or there are too many: others may fare better.
                    tokio::time::sleep(RETRY_PAUSE).await;
                    continue;
                };
                // A reply that waits for more to come would be late.
                let _ = stream.set_nodelay(true);
                let mut connection = Connection::new(stream, shared.clone());
                let stop = connections.clone();
                tokio::spawn(async move {
                    // A connection ends when its client goes; there is nobody to tell.
                    let _ = stop.run_until_cancelled(connection.run()).await;
                });
            }
            outage = outages.recv() => return outage,
            () = shared.stop.cancelled() => return None,
        }
    }
}

async fn reopen(address: SocketAddr, outage: Duration) -> TcpListener {
    tokio::time::sleep(outage).await;
    loop {
        if let Ok(listener) = listen(address).and_then(TcpListener::from_std) {
            return listener;
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

/// Answers on one line until it is told to stop. The line is never closed: it falls silent instead.
pub(super) async fn serve_line<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    shared: Shared,
    mut outages: mpsc::Receiver<Duration>,
) {
    let stop = shared.stop.clone();
    let mut connection = Connection::new(stream, shared);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            outage = outages.recv() => {
                tokio::time::sleep(outage.unwrap_or_default()).await;
                connection.forget().await;
            }
            ended = connection.run() => if ended.is_err() {
                return;
            }
        }
    }
}
