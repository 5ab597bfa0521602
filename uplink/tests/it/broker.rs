//! The small broker as real clients see it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use millrace_uplink::sim::Broker;
use rumqttc::QoS;
use tokio::time::timeout;

use crate::subscriber::Subscriber;

const PATIENCE: Duration = Duration::from_secs(60);

async fn broker() -> (Broker, u16) {
    let broker = Broker::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let port = broker.local_addr().port();
    (broker, port)
}

#[tokio::test]
async fn wildcards_retained_messages_and_both_qualities() {
    let (broker, port) = broker().await;
    let tapped = Arc::<Mutex<Vec<String>>>::default();
    let log = Arc::clone(&tapped);
    broker.tap(move |message| log.lock().unwrap().push(message.topic.clone()));
    let all = Subscriber::new(port, "plant/#").await;
    let one_level = Subscriber::new(port, "plant/+/a").await;
    let publish = async |topic: &str, qos, retain| {
        all.client.publish(topic, qos, retain, topic).await.unwrap();
    };
    publish("plant/1/a", QoS::AtLeastOnce, true).await;
    publish("plant/1/b", QoS::AtMostOnce, false).await;
    publish("other/1/a", QoS::AtLeastOnce, false).await;
    publish("plant/2/a", QoS::AtLeastOnce, false).await;
    timeout(PATIENCE, all.wait_for(3)).await.unwrap();
    timeout(PATIENCE, one_level.wait_for(2)).await.unwrap();
    let topics = |subscriber: &Subscriber| -> Vec<String> {
        subscriber.messages().into_iter().map(|m| m.topic).collect()
    };
    assert_eq!(topics(&all), ["plant/1/a", "plant/1/b", "plant/2/a"]);
    assert_eq!(topics(&one_level), ["plant/1/a", "plant/2/a"]);
    assert_eq!(
        *tapped.lock().unwrap(),
        ["plant/1/a", "plant/1/b", "other/1/a", "plant/2/a"]
    );

    let late = Subscriber::new(port, "plant/1/a").await;
    timeout(PATIENCE, late.wait_for(1)).await.unwrap();
    assert!(late.messages()[0].retain);
    // An empty retained message forgets.
    late.client
        .publish("plant/1/a", QoS::AtLeastOnce, true, "")
        .await
        .unwrap();
    timeout(PATIENCE, late.wait_for(2)).await.unwrap();
    assert_eq!(broker.retained("plant/1/a"), None);
}

#[tokio::test]
async fn a_cut_refuses_and_a_heal_takes_again() {
    let (broker, port) = broker().await;
    let address = broker.local_addr();
    for _ in 0..5 {
        broker.cut().await;
        assert!(tokio::net::TcpStream::connect(address).await.is_err());
        broker.heal().await;
        let subscriber = Subscriber::new(port, "x").await;
        subscriber
            .client
            .publish("x", QoS::AtLeastOnce, false, "y")
            .await
            .unwrap();
        timeout(PATIENCE, subscriber.wait_for(1)).await.unwrap();
    }
    assert_eq!(broker.connects_total(), 5);
    broker.shutdown();
    let gone = async {
        while tokio::net::TcpStream::connect(address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, gone).await.unwrap();
}
