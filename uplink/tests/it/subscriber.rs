//! A subscriber that we did not write: rumqttc's client.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rumqttc::{AsyncClient, Event, MqttOptions, Packet, Publish, QoS};
use tokio::time::timeout;

/// Collects what arrives on its filter.
pub(crate) struct Subscriber {
    pub(crate) client: AsyncClient,
    got: Arc<Mutex<Vec<Publish>>>,
}

impl Subscriber {
    /// Is subscribed when it returns.
    pub(crate) async fn new(port: u16, filter: &str) -> Self {
        let id = format!("subscriber-{}", fastrand::u32(..));
        let mut options = MqttOptions::new(id, "127.0.0.1", port);
        options.set_keep_alive(Duration::from_secs(30));
        let (client, mut events) = AsyncClient::new(options, 1000);
        client.subscribe(filter, QoS::AtLeastOnce).await.unwrap();
        let got = Arc::<Mutex<Vec<Publish>>>::default();
        let log = Arc::clone(&got);
        let (ready, subscribed) = tokio::sync::oneshot::channel();
        tokio::spawn(async move {
            let mut ready = Some(ready);
            while let Ok(event) = events.poll().await {
                match event {
                    Event::Incoming(Packet::SubAck(_)) => {
                        let _ = ready.take().map(|ready| ready.send(()));
                    }
                    Event::Incoming(Packet::Publish(publish)) => log.lock().unwrap().push(publish),
                    _ => {}
                }
            }
        });
        timeout(Duration::from_secs(60), subscribed)
            .await
            .unwrap()
            .unwrap();
        Self { client, got }
    }

    pub(crate) fn messages(&self) -> Vec<Publish> {
        self.got.lock().unwrap().clone()
    }

    pub(crate) async fn wait_for(&self, count: usize) {
        while self.got.lock().unwrap().len() < count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
