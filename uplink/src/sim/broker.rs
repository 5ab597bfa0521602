//! A small broker for MQTT 3.1.1 and 5, QoS 0 and 1, in memory.
//!
//! For demonstrations and tests, not for plants: every session is a clean one, a subscriber that does
//! not keep up is thrown out, nothing outlives the process. What it promises: a PUBACK is sent only
//! after every tap has seen the message, and taps see messages in the order in which custody was taken.

mod client;
mod exchange;
mod faults;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::link::Link;
use crate::packet::Terms;
use exchange::Exchange;

pub use faults::Faults;

/// How often a healed broker tries to get its port back, and how often.
const REBIND_PAUSE: Duration = Duration::from_millis(20);
const REBIND_TRIES: u32 = 250;

/// A message that the broker has taken custody of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tapped {
    /// Where it was published.
    pub topic: String,
    /// What was published.
    pub payload: Bytes,
    /// Whether it is kept.
    pub retain: bool,
    /// Who published it.
    pub client_id: Arc<str>,
}

/// The broker; dropping it ends it.
pub struct Broker {
    address: SocketAddr,
    exchange: Arc<Exchange>,
    /// Whether connections are taken.
    open: watch::Sender<bool>,
    /// What the listener has made of it.
    listening: watch::Receiver<bool>,
    stop: CancellationToken,
}

impl Broker {
    /// Listens on the address; port 0 takes a free one.
    ///
    /// # Errors
    /// When the address cannot be had.
    pub async fn bind(address: SocketAddr) -> io::Result<Broker> {
        Self::start(address, None).await
    }

    /// Like [`Broker::bind`], over TLS.
    ///
    /// # Errors
    /// When the address cannot be had.
    pub async fn bind_tls(
        address: SocketAddr,
        config: Arc<rustls::ServerConfig>,
    ) -> io::Result<Broker> {
        Self::start(address, Some(TlsAcceptor::from(config))).await
    }

    async fn start(address: SocketAddr, tls: Option<TlsAcceptor>) -> io::Result<Broker> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let exchange = Arc::new(Exchange::default());
        let stop = CancellationToken::new();
        let (open, wanted) = watch::channel(true);
        let (state, listening) = watch::channel(true);
        let gate = Gate {
            address,
            tls,
            exchange: Arc::clone(&exchange),
            wanted,
            state,
            stop: stop.clone(),
        };
        tokio::spawn(gate.run(listener));
        Ok(Broker {
            address,
            exchange,
            open,
            listening,
            stop,
        })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Calls `tap` for every message that the broker takes custody of from now on, in order. It runs
    /// inside the broker: it must be quick and must not call the broker.
    pub fn tap(&self, tap: impl Fn(&Tapped) + Send + Sync + 'static) {
        self.exchange.add_tap(Box::new(tap));
    }

    /// Accepts only this user name and password from now on.
    pub fn require_login(&self, username: impl Into<String>, password: impl Into<String>) {
        self.exchange
            .require_login(Some((username.into(), password.into())));
    }

    /// Misbehaves on every connection made from now on; `None` behaves again.
    pub fn set_faults(&self, faults: Option<Faults>) {
        self.exchange.set_faults(faults);
    }

    /// What clients that speak MQTT 5 are granted from now on; `None` refuses MQTT 5.
    pub fn set_terms(&self, terms: Option<Terms>) {
        self.exchange.set_terms(terms);
    }

    /// What is retained on the topic.
    pub fn retained(&self, topic: &str) -> Option<Bytes> {
        self.exchange.retained(topic)
    }

    /// How many connections were accepted since the start.
    pub fn connects_total(&self) -> u64 {
        self.exchange.connects_total()
    }

    /// Drops every connection and refuses new ones, as if the broker's machine were off. Wills are
    /// published.
    pub async fn cut(&self) {
        self.open.send_replace(false);
        let mut listening = self.listening.clone();
        // The gate cannot be gone while we hold its channel, unless the broker was stopped.
        let _ = listening.wait_for(|listening| !listening).await;
        self.exchange.kick_all();
    }

    /// Takes connections again, on the same address.
    pub async fn heal(&self) {
        self.open.send_replace(true);
        let mut listening = self.listening.clone();
        let _ = listening.wait_for(|listening| *listening).await;
    }

    /// Ends it. The same as dropping it.
    pub fn shutdown(self) {}
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.stop.cancel();
        self.exchange.kick_all();
    }
}

/// The task that listens.
struct Gate {
    address: SocketAddr,
    tls: Option<TlsAcceptor>,
    exchange: Arc<Exchange>,
    wanted: watch::Receiver<bool>,
    state: watch::Sender<bool>,
    stop: CancellationToken,
}

impl Gate {
    async fn run(mut self, mut listener: TcpListener) {
        let stop = self.stop.clone();
        loop {
            tokio::select! {
                () = self.accept_until_cut(&listener) => {}
                () = stop.cancelled() => return,
            }
            drop(listener);
            self.state.send_replace(false);
            let reopened = tokio::select! {
                reopened = self.reopen() => reopened,
                () = stop.cancelled() => return,
            };
            match reopened {
                Some(new) => listener = new,
                None => return,
            }
            self.state.send_replace(true);
        }
    }

    async fn accept_until_cut(&self, listener: &TcpListener) {
        let mut wanted = self.wanted.clone();
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    if let Ok((stream, _)) = accepted {
                        self.greet(stream);
                    }
                }
                // An error means that the broker was dropped: the caller sees that too.
                _ = wanted.wait_for(|open| !open) => return,
            }
        }
    }

    fn greet(&self, stream: TcpStream) {
        let exchange = Arc::clone(&self.exchange);
        let era = exchange.era();
        let tls = self.tls.clone();
        tokio::spawn(async move {
            // Without Nagle's delay; a socket that cannot do that still works.
            let _ = stream.set_nodelay(true);
            match tls {
                None => client::serve(Link::new(stream), exchange, era).await,
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => client::serve(Link::new(stream), exchange, era).await,
                    Err(error) => tracing::debug!(%error, "a client failed the TLS handshake"),
                },
            }
        });
    }

    async fn reopen(&mut self) -> Option<TcpListener> {
        self.wanted.wait_for(|open| *open).await.ok()?;
        for _ in 0..REBIND_TRIES {
            match TcpListener::bind(self.address).await {
                Ok(listener) => return Some(listener),
                Err(error) => tracing::debug!(%error, "the broker's port is not free yet"),
            }
            tokio::time::sleep(REBIND_PAUSE).await;
        }
        tracing::error!(address = %self.address, "the broker cannot get its port back");
        None
    }
}
