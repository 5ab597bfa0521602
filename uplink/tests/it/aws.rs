//! Fleet provisioning as AWS IoT documents it, played over a real mosquitto; openssl is the authority.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use millrace_uplink::Trust;
use millrace_uplink::bootstrap::{
    Attempt, AwsClaim, BootstrapError, Contact, Enrolment, Fleet, Outcome, Provider,
};
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::mosquitto::Mosquitto;

const CREATE: &str = "$aws/certificates/create-from-csr/json";
const PROVISION: &str = "$aws/provisioning-templates/pumps/provision/json";
const PATIENCE: Duration = Duration::from_secs(60);

/// Signs a request as an authority of the account would.
fn signed(directory: &Path, request: &str) -> String {
    let csr = directory.join("request.pem");
    std::fs::write(&csr, request).unwrap();
    let key = directory.join("account.key");
    let ca = directory.join("account.pem");
    let openssl = |arguments: &[&str]| {
        let mut command = Command::new("openssl");
        let done = command.args(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(done.status.success(), "openssl: {said}");
        String::from_utf8(done.stdout).unwrap()
    };
    let [key, ca, csr] = [&key, &ca, &csr].map(|path| path.to_str().unwrap());
    openssl(&[
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=account",
        "-keyout",
        key,
        "-out",
        ca,
    ]);
    openssl(&[
        "x509",
        "-req",
        "-in",
        csr,
        "-CA",
        ca,
        "-CAkey",
        key,
        "-days",
        "2",
        "-set_serial",
        "7",
    ])
}

/// What the service says to the first question, and to the second.
#[derive(Clone, Copy, PartialEq)]
enum Mood {
    Kind,
    WrongCertificate,
    UnknownTemplate,
    Throttling,
    NoJson,
}

/// The service; ends with the test.
async fn service(broker: &Mosquitto, mood: Mood) {
    let mut options = MqttOptions::new("service", "127.0.0.1", broker.plain);
    options.set_keep_alive(Duration::from_secs(30));
    let (client, mut events) = AsyncClient::new(options, 100);
    client.subscribe(CREATE, QoS::AtLeastOnce).await.unwrap();
    client.subscribe(PROVISION, QoS::AtLeastOnce).await.unwrap();
    let listening = Arc::new(Notify::new());
    let (ready, directory) = (Arc::clone(&listening), broker.pki.directory().to_owned());
    tokio::spawn(async move {
        let mut subscribed = 0;
        while let Ok(event) = events.poll().await {
            let publish = match event {
                Event::Incoming(Packet::SubAck(_)) => {
                    subscribed += 1;
                    if subscribed == 2 {
                        ready.notify_one();
                    }
                    continue;
                }
                Event::Incoming(Packet::Publish(publish)) => publish,
                _ => continue,
            };
            let asked: Value = serde_json::from_slice(&publish.payload).unwrap();
            let (how, answer) = answer(&directory, &publish.topic, &asked, mood);
            let topic = format!("{}/{how}", publish.topic);
            client
                .publish(topic, QoS::AtLeastOnce, false, answer)
                .await
                .unwrap();
        }
    });
    timeout(PATIENCE, listening.notified()).await.unwrap();
}

fn answer(directory: &Path, topic: &str, asked: &Value, mood: Mood) -> (&'static str, String) {
    let rejected = |status: u16, code: &str| {
        let said = json!({"statusCode": status, "errorCode": code, "errorMessage": "as asked for"});
        ("rejected", said.to_string())
    };
    if topic == CREATE {
        let request = asked["certificateSigningRequest"].as_str().unwrap();
        let certificate = match mood {
            Mood::Throttling => return rejected(429, "Throttling"),
            Mood::NoJson => return ("accepted", "<html>".to_owned()),
            Mood::WrongCertificate => std::fs::read_to_string(directory.join("gw-1.pem")).unwrap(),
            _ => signed(directory, request),
        };
        let said = json!({
            "certificateOwnershipToken": "a token of one hour",
            "certificateId": "7", "certificatePem": certificate,
        });
        return ("accepted", said.to_string());
    }
    assert_eq!(asked["certificateOwnershipToken"], "a token of one hour");
    let expected = json!({"SerialNumber": "gw 1", "Site": "north"});
    match mood == Mood::Kind && asked["parameters"] == expected {
        true => {
            let configured = json!({"content": "[gateway]\nname = \"pump-7\"\n"});
            let said = json!({"thingName": "pump-7", "deviceConfiguration": configured});
            ("accepted", said.to_string())
        }
        false => rejected(400, "InvalidParameters"),
    }
}

async fn enrol(broker: &Mosquitto, mood: Mood) -> Result<(Enrolment, Attempt), BootstrapError> {
    service(broker, mood).await;
    let contact = Contact {
        url: format!("mqtts://localhost:{}", broker.tls),
        external_id: "gw 1".into(),
        external_key: None,
        trust: Trust {
            ca_file: Some(broker.pki.ca_file()),
            ..Trust::default()
        },
    };
    let fleet = Fleet {
        claim: (broker.pki.file("gw-1.pem"), broker.pki.file("gw-1.key")),
        template: "pumps".into(),
        parameters: [("Site".to_owned(), json!("north"))].into_iter().collect(),
    };
    let attempt = Attempt::new("gw 1").unwrap();
    let provider = AwsClaim::new(contact, fleet)?;
    let enrolment = timeout(PATIENCE, provider.ask(&attempt)).await.unwrap()?;
    Ok((enrolment, attempt))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_certificate_gets_one_of_its_own() {
    let Some(broker) = Mosquitto::start().await else {
        return;
    };
    let (enrolment, attempt) = enrol(&broker, Mood::Kind).await.unwrap();
    assert_eq!(enrolment.client_key.as_ref(), Some(attempt.key_pem()));
    let certificate = enrolment.client_cert.unwrap();
    assert!(certificate.contains("BEGIN CERTIFICATE"), "{certificate}");
    assert_eq!(enrolment.uplink["profile"], "aws-iot");
    assert_eq!(enrolment.uplink["client_id"], "pump-7");
    assert_eq!(enrolment.uplink["vars"]["thing"], "pump-7");
    assert_eq!(
        enrolment.content.as_deref(),
        Some("[gateway]\nname = \"pump-7\"\n")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_service_says_against_it_sets_the_rhythm() {
    for (mood, outcome, words) in [
        (
            Mood::WrongCertificate,
            Outcome::Denied,
            "is not for our key",
        ),
        (
            Mood::UnknownTemplate,
            Outcome::Denied,
            "InvalidParameters as asked for",
        ),
        (Mood::Throttling, Outcome::Transient, "Throttling"),
        (Mood::NoJson, Outcome::Denied, "carries no JSON"),
    ] {
        let Some(broker) = Mosquitto::start().await else {
            return;
        };
        let error = enrol(&broker, mood).await.unwrap_err();
        assert_eq!(error.outcome(), outcome, "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_trusted_gets_no_claim_and_plain_text_is_not_spoken() {
    let Some(broker) = Mosquitto::start().await else {
        return;
    };
    let contact = |url: String| Contact {
        url,
        external_id: "gw 1".into(),
        external_key: None,
        trust: Trust::default(),
    };
    let fleet = || Fleet {
        claim: (broker.pki.file("gw-1.pem"), broker.pki.file("gw-1.key")),
        template: "pumps".into(),
        ..Fleet::default()
    };
    let plain = AwsClaim::new(
        contact(format!("mqtt://127.0.0.1:{}", broker.plain)),
        fleet(),
    );
    let said = plain.unwrap_err().to_string();
    assert!(said.contains("mqtts:// only"), "{said}");
    let stranger = contact(format!("mqtts://localhost:{}", broker.tls));
    let asked = AwsClaim::new(stranger, fleet()).unwrap();
    let error = asked.ask(&Attempt::new("gw 1").unwrap()).await.unwrap_err();
    assert!(
        matches!(
            error,
            BootstrapError::Untrusted { .. } | BootstrapError::Tls(_)
        ),
        "{error}"
    );
}
