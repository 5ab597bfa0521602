//! A subscriber with a persistent session: what the broker has acknowledged to the agent reaches it, outages or not.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Result;
use rumqttc::{Client, Connection, Event, MqttOptions, Packet, QoS};

use crate::agent::GATEWAY;
use crate::received::Received;
use crate::wait::{STEP, wait_for};

const RECONNECT_PAUSE: Duration = Duration::from_millis(100);
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// Collects everything of the gateway from a broker on loopback; stops on drop.
pub struct Subscriber {
    client: Client,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    received: Mutex<Received>,
    subscribed: AtomicBool,
    stopping: AtomicBool,
}

impl Subscriber {
    /// Connects, and waits until the broker has confirmed the subscription.
    ///
    /// # Errors
    /// When the broker does not.
    pub fn start(port: u16) -> Result<Subscriber> {
        Subscriber::start_as(port, None)
    }

    /// As this user, whose password is the same.
    ///
    /// # Errors
    /// When the broker does not confirm it.
    pub fn start_as(port: u16, user: Option<&str>) -> Result<Subscriber> {
        let mut options = MqttOptions::new("millrace-tests", "127.0.0.1", port);
        if let Some(user) = user {
            options.set_credentials(user, user);
        }
        options
            .set_clean_session(false)
            .set_max_packet_size(MESSAGE_BYTES_MAX, MESSAGE_BYTES_MAX);
        let (client, connection) = Client::new(options, 16);
        let shared = Arc::new(Shared::default());
        let listener = (client.clone(), Arc::clone(&shared));
        let thread = std::thread::spawn(move || listen(&listener.0, connection, &listener.1));
        let subscriber = Subscriber {
            client,
            shared,
            thread: Some(thread),
        };
        wait_for("the subscription", STEP, || {
            subscriber
                .shared
                .subscribed
                .load(Ordering::Acquire)
                .then_some(())
        })?;
        Ok(subscriber)
    }

    /// Looks at what has come so far.
    pub fn look<T>(&self, ask: impl FnOnce(&Received) -> T) -> T {
        ask(&self
            .shared
            .received
            .lock()
            .unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until `ask` is content with what has come.
    ///
    /// # Errors
    /// After `limit`.
    pub fn wait(&self, what: &str, limit: Duration, ask: impl Fn(&Received) -> bool) -> Result<()> {
        wait_for(what, limit, || self.look(&ask).then_some(()))
    }

    /// Disconnects and hands over the account.
    pub fn stop(mut self) -> Received {
        self.close();
        std::mem::take(
            &mut self
                .shared
                .received
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    fn close(&mut self) {
        self.shared.stopping.store(true, Ordering::Release);
        // Fails only if the connection has ended already.
        let _ = self.client.try_disconnect();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.close();
    }
}

/// Drives the connection; the session survives at the broker while it is down.
fn listen(client: &Client, mut connection: Connection, shared: &Shared) {
    for event in connection.iter() {
        match event {
            Ok(Event::Incoming(Packet::ConnAck(_))) => {
                let filter = format!("millrace/{GATEWAY}/#");
                let _ = client.try_subscribe(filter, QoS::AtLeastOnce);
            }
            Ok(Event::Incoming(Packet::SubAck(_))) => {
                shared.subscribed.store(true, Ordering::Release)
            }
            Ok(Event::Incoming(Packet::Publish(publish))) => {
                let mut received = shared
                    .received
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                received.take(&publish.topic, &publish.payload);
            }
            Ok(_) => {}
            Err(_) if shared.stopping.load(Ordering::Acquire) => break,
            Err(_) => std::thread::sleep(RECONNECT_PAUSE),
        }
    }
}
