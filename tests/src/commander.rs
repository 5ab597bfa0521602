//! A core that sends commands and keeps the replies.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use rumqttc::{Client, Connection, Event, MqttOptions, Packet, QoS};
use serde_json::Value;

use crate::agent::GATEWAY;
use crate::wait::{STEP, wait_for};

const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// Speaks to the gateway over a broker on loopback; stops on drop.
pub struct Commander {
    client: Client,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    subscribed: Mutex<bool>,
    replies: Mutex<Vec<(String, Value)>>,
}

impl Commander {
    /// Connects, and waits until the broker has confirmed the subscription to replies.
    ///
    /// # Errors
    /// When the broker does not.
    pub fn start(port: u16) -> Result<Commander> {
        let mut options = MqttOptions::new("millrace-commander", "127.0.0.1", port);
        options.set_max_packet_size(MESSAGE_BYTES_MAX, MESSAGE_BYTES_MAX);
        let (client, connection) = Client::new(options, 64);
        client.subscribe(format!("millrace/{GATEWAY}/cmd/+"), QoS::AtLeastOnce)?;
        let shared = Arc::new(Shared::default());
        let listener = Arc::clone(&shared);
        let thread = std::thread::spawn(move || listen(connection, &listener));
        let commander = Commander {
            client,
            shared,
            thread: Some(thread),
        };
        wait_for("the subscription", STEP, || {
            lock(&commander.shared.subscribed).then_some(())
        })?;
        Ok(commander)
    }

    /// Publishes a payload on the command topic.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn publish(&self, payload: &str, retain: bool) -> Result<()> {
        let topic = format!("millrace/{GATEWAY}/cmd");
        Ok(self
            .client
            .publish(topic, QoS::AtLeastOnce, retain, payload)?)
    }

    /// Sends a command and waits for the reply to it that comes from now on.
    ///
    /// # Errors
    /// When none comes.
    pub fn ask(&self, command: &Value) -> Result<Value> {
        let id = command["id"].as_str().context("the command has no id")?;
        let before = self.replies(id).len();
        self.publish(&command.to_string(), false)?;
        wait_for(&format!("a reply to {command}"), STEP, || {
            self.replies(id).get(before).cloned()
        })
    }

    /// Waits for a reply to this id.
    ///
    /// # Errors
    /// When none comes.
    pub fn reply(&self, id: &str) -> Result<Value> {
        wait_for(&format!("a reply to {id}"), STEP, || {
            self.replies(id).first().cloned()
        })
    }

    /// The replies to this id so far.
    pub fn replies(&self, id: &str) -> Vec<Value> {
        let replies = lock(&self.shared.replies);
        let of_id = replies.iter().filter(|(answered, _)| answered == id);
        of_id.map(|(_, reply)| reply.clone()).collect()
    }

    /// Forgets all replies so far.
    pub fn forget(&self) {
        lock(&self.shared.replies).clear();
    }
}

impl Drop for Commander {
    fn drop(&mut self) {
        // Fails only if the connection has ended already.
        let _ = self.client.disconnect();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Drives the connection until it ends.
fn listen(mut connection: Connection, shared: &Shared) {
    for event in connection.iter() {
        match event {
            Ok(Event::Incoming(Packet::SubAck(_))) => *lock(&shared.subscribed) = true,
            Ok(Event::Incoming(Packet::Publish(publish))) => {
                let id = publish.topic.rsplit('/').next().unwrap_or_default();
                let reply = serde_json::from_slice(&publish.payload).unwrap_or_default();
                lock(&shared.replies).push((id.to_owned(), reply));
            }
            Ok(_) => {}
            Err(_) => break,
        }
    }
}
