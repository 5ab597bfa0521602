//! AWS IoT fleet provisioning by claim: a certificate that a whole fleet shares gets each gateway one of its own.
//!
//! Asked over MQTT (`$aws/certificates/create-from-csr`, then `$aws/provisioning-templates/NAME/provision`), logged in
//! by the claim certificate. The private key is made here and stays here. A reply that was lost costs nothing: AWS
//! deletes a certificate that no template has registered.

use std::path::PathBuf;

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::certificate::pem;
use super::dialogue::{Dialogue, settings_of};
use super::{Attempt, BootstrapError, Contact, Enrolment, Provider, Said};
use crate::session::SessionSettings;

const CREATE: &str = "$aws/certificates/create-from-csr/json";

/// The provisioning service of an account of AWS IoT.
#[derive(Debug)]
pub struct AwsClaim {
    settings: SessionSettings,
    external_id: String,
    template: String,
    parameters: Map<String, Value>,
}

/// What a claim brings along, beside the [`Contact`].
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Fleet {
    /// PEM files of the claim certificate and its key.
    pub claim: (PathBuf, PathBuf),
    /// The provisioning template.
    pub template: String,
    /// Parameters of the template beside `SerialNumber`, which is the external id.
    pub parameters: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Created {
    certificate_ownership_token: String,
    certificate_pem: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Registered {
    thing_name: Option<String>,
    #[serde(default)]
    device_configuration: Map<String, Value>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Rejected {
    status_code: u16,
    error_code: String,
    error_message: String,
}

impl AwsClaim {
    /// `url` is the endpoint of the account, such as `mqtts://…-ats.iot.eu-central-1.amazonaws.com`.
    ///
    /// # Errors
    /// Where the settings cannot be used; it is mqtts only.
    pub fn new(contact: Contact, fleet: Fleet) -> Result<Self, BootstrapError> {
        let mut settings = settings_of(&contact)?;
        if !settings.endpoint.scheme.is_tls() {
            return Err(BootstrapError::Settings {
                key: "url",
                problem: format!(
                    "is `{}`; this provider asks over mqtts:// only",
                    contact.url
                ),
            });
        }
        settings.tls.cert_file = Some(fleet.claim.0);
        settings.tls.key_file = Some(fleet.claim.1);
        Ok(Self {
            settings,
            external_id: contact.external_id,
            template: fleet.template,
            parameters: fleet.parameters,
        })
    }

    fn url(&self) -> String {
        self.settings.endpoint.to_string()
    }

    /// What a rejection means for the cadence.
    fn refusal(&self, body: Value) -> BootstrapError {
        let rejected: Rejected = serde_json::from_value(body).unwrap_or_default();
        let words = format!("{} {}", rejected.error_code, rejected.error_message);
        let (url, status) = (self.url(), rejected.status_code);
        let said = Said::of(words.as_bytes(), &[]);
        match status {
            429 | 500.. => BootstrapError::Unavailable {
                url,
                status,
                why: "the provisioning service cannot answer now",
                said,
                retry_after: None,
            },
            _ => BootstrapError::Denied {
                url,
                status,
                why: "template, parameters or claim certificate are not what the account expects",
                said,
                retry_after: None,
            },
        }
    }

    fn understood<T: for<'de> Deserialize<'de>>(
        &self,
        place: &str,
        body: Value,
    ) -> Result<T, BootstrapError> {
        serde_json::from_value(body).map_err(|error| self.malformed(place, &error.to_string()))
    }

    fn malformed(&self, place: &str, problem: &str) -> BootstrapError {
        BootstrapError::Malformed {
            url: self.url(),
            place: place.to_owned(),
            problem: problem.to_owned(),
            hint: "expected what fleet provisioning of AWS IoT answers; check bootstrap.url",
        }
    }

    /// Asks one question.
    async fn accepted(
        &self,
        dialogue: &mut Dialogue,
        topic: &str,
        question: &Value,
    ) -> Result<Value, BootstrapError> {
        let answers = answers(topic);
        let (answer, body) = dialogue.ask(topic, question, &answers).await?;
        match answer == answers[0] {
            true => Ok(body),
            false => Err(self.refusal(body)),
        }
    }

    async fn converse(
        &self,
        dialogue: &mut Dialogue,
        provision: &str,
        attempt: &Attempt,
    ) -> Result<Enrolment, BootstrapError> {
        dialogue
            .listen(&[answers(CREATE), answers(provision)].concat())
            .await?;
        let request = pem("CERTIFICATE REQUEST", attempt.csr_der());
        let question = json!({ "certificateSigningRequest": request });
        let created = self.accepted(dialogue, CREATE, &question).await?;
        let created: Created = self.understood(CREATE, created)?;
        if !attempt.owns_pem(&created.certificate_pem) {
            return Err(self.malformed("certificatePem", "is not for our key"));
        }
        let mut parameters = self.parameters.clone();
        parameters.insert("SerialNumber".into(), json!(self.external_id));
        let question = json!({
            "certificateOwnershipToken": created.certificate_ownership_token,
            "parameters": parameters,
        });
        let registered = self.accepted(dialogue, provision, &question).await?;
        let registered: Registered = self.understood(provision, registered)?;
        let thing = registered
            .thing_name
            .unwrap_or_else(|| self.external_id.clone());
        let content = registered
            .device_configuration
            .get("content")
            .and_then(Value::as_str);
        let uplink = [
            ("profile", json!("aws-iot")),
            ("url", json!(self.url())),
            ("client_id", json!(thing)),
            ("vars", json!({ "thing": thing })),
        ];
        Ok(Enrolment {
            id: String::new(),
            client_cert: Some(created.certificate_pem),
            client_key: Some(attempt.key_pem().clone()),
            uplink: uplink
                .into_iter()
                .map(|(key, value)| (key.to_owned(), value))
                .collect(),
            content: content.map(str::to_owned),
            ..Enrolment::default()
        })
    }
}

/// Where AWS answers a question: accepted, rejected.
fn answers(topic: &str) -> [String; 2] {
    ["accepted", "rejected"].map(|how| format!("{topic}/{how}"))
}

#[async_trait]
impl Provider for AwsClaim {
    async fn ask(&self, attempt: &Attempt) -> Result<Enrolment, BootstrapError> {
        let provision = format!(
            "$aws/provisioning-templates/{}/provision/json",
            self.template
        );
        let mut dialogue = Dialogue::begin(&self.settings).await?;
        let outcome = self.converse(&mut dialogue, &provision, attempt).await;
        dialogue.end().await;
        outcome
    }
}
