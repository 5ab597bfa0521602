//! ThingsBoard's device provisioning, by HTTP or MQTT (`mqtt.rs`): key and secret of a device profile, an access token out.
//!
//! The token is our own proposal and kept before it is sent. ThingsBoard makes a device once and refuses its name
//! the second time; where our token opens that device, the first request did arrive, and its reply was lost.

mod mqtt;

use async_trait::async_trait;
use hyper::Method;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::proof::json_of;
use super::{Attempt, BootstrapError, Contact, Enrolment, Login, Provider, Said};
use crate::http::{Ask, HttpUrl, percent_encoded};
use crate::secret::Secret;

/// Where ThingsBoard has it.
const PATH: &str = "/api/v1/provision";

/// A ThingsBoard.
#[derive(Debug)]
pub struct ThingsBoard {
    contact: Contact,
    way: Way,
}

/// How it is asked.
#[derive(Debug)]
enum Way {
    Http(HttpUrl),
    Mqtt(Box<mqtt::Broker>),
}

#[derive(Deserialize)]
struct Reply {
    #[serde(alias = "provisionDeviceStatus")]
    status: Option<String>,
    #[serde(alias = "credentialsType")]
    credentials_type: Option<String>,
    #[serde(alias = "credentialsValue", alias = "accessToken")]
    credentials_value: Option<Value>,
    #[serde(alias = "errorMsg")]
    error: Option<String>,
}

impl ThingsBoard {
    /// `url` is that of the server, or of its broker.
    ///
    /// # Errors
    /// Where the settings cannot be used; the external key is the profile's key and secret with a colon between.
    pub fn new(contact: Contact) -> Result<Self, BootstrapError> {
        let way = match mqtt::Broker::of(&contact)? {
            Some(broker) => Way::Mqtt(Box::new(broker)),
            None => Way::Http(server(&contact)?),
        };
        let provider = Self { contact, way };
        if provider.contact.external_key.is_some() {
            provider.profile()?;
        }
        Ok(provider)
    }

    /// Key and secret of the device profile.
    fn profile(&self) -> Result<(&str, &str), BootstrapError> {
        let pair = self.contact.key()?.split_once(':');
        pair.filter(|(key, secret)| !key.is_empty() && !secret.is_empty())
            .ok_or_else(|| BootstrapError::Settings {
                key: "external_key_file",
                problem: "must hold provision key and provision secret of the device profile, as KEY:SECRET".into(),
            })
    }

    /// Whether there is a device that this token opens.
    async fn opens(&self, token: &Secret) -> Result<bool, BootstrapError> {
        let base = match &self.way {
            Way::Http(base) => base,
            Way::Mqtt(broker) => return broker.opens(token).await,
        };
        let token = percent_encoded(token.expose());
        // The query hides the token from messages: they show URLs without it.
        let url = base.join(&format!("/api/v1/{token}/attributes"));
        let shown = base.join("/api/v1/…/attributes");
        let ask = Ask {
            method: Method::GET,
            url: &url,
            headers: &[],
            body: None,
        };
        let answer = self
            .contact
            .exchange(ask)
            .await
            .map_err(|error| match error {
                BootstrapError::Network { source, .. } => BootstrapError::Network {
                    url: shown.to_string(),
                    source,
                },
                error => error,
            })?;
        match answer.status {
            200 => Ok(true),
            401 | 403 | 404 => Ok(false),
            _ => Err(self.contact.refusal(&shown, &answer, &[])),
        }
    }

    fn enrolment(&self, token: &str) -> Enrolment {
        let mut uplink = Map::new();
        uplink.insert("profile".to_owned(), json!("thingsboard"));
        if let Way::Mqtt(broker) = &self.way {
            uplink.insert("url".to_owned(), json!(broker.url()));
        }
        Enrolment {
            key: Some(Secret::new(token)),
            login: Login::Token,
            uplink,
            ..Enrolment::default()
        }
    }

    /// Asks by whichever way: where that was, and what came.
    async fn provision(&self, question: &Value) -> Result<(String, Reply), BootstrapError> {
        let base = match &self.way {
            Way::Http(base) => base,
            Way::Mqtt(broker) => {
                let answer = broker.ask(question).await?;
                let reply = Reply::deserialize(answer)
                    .map_err(|error| malformed(&broker.url(), "the answer", &error.to_string()))?;
                return Ok((broker.url(), reply));
            }
        };
        let url = base.join(PATH);
        let answer = self
            .contact
            .exchange(Ask {
                method: Method::POST,
                url: &url,
                headers: &[("accept", "application/json".to_owned())],
                body: Some(("application/json", question.to_string().into_bytes())),
            })
            .await?;
        if answer.status != 200 {
            return Err(self.contact.refusal(&url, &answer, &[]));
        }
        Ok((url.to_string(), json_of(&url, &answer)?))
    }
}

/// The server of a URL that may name the path, too.
fn server(contact: &Contact) -> Result<HttpUrl, BootstrapError> {
    let url = contact.base(true)?;
    match url.path().strip_suffix(PATH) {
        None => Ok(url),
        Some(_) => HttpUrl::parse(contact.url.trim_end_matches('/').trim_end_matches(PATH))
            .map_err(|error| BootstrapError::Settings {
                key: "url",
                problem: format!("is `{}`; {error}", contact.url),
            }),
    }
}

fn malformed(url: &str, place: &str, problem: &str) -> BootstrapError {
    BootstrapError::Malformed {
        url: url.to_owned(),
        place: place.to_owned(),
        problem: problem.to_owned(),
        hint: "expected status SUCCESS with an access token",
    }
}

#[async_trait]
impl Provider for ThingsBoard {
    async fn ask(&self, attempt: &Attempt) -> Result<Enrolment, BootstrapError> {
        let (key, secret) = self.profile()?;
        let question = json!({
            "deviceName": self.contact.external_id,
            "provisionDeviceKey": key,
            "provisionDeviceSecret": secret,
            "credentialsType": "ACCESS_TOKEN",
            "token": attempt.token().expose(),
            "gateway": true,
        });
        let (url, reply) = self.provision(&question).await?;
        let denied = |why| BootstrapError::Denied {
            url: url.clone(),
            // That of every answer to a question that was understood.
            status: 200,
            why,
            said: Said::of(
                reply.error.as_deref().unwrap_or_default().as_bytes(),
                &[secret, key],
            ),
            retry_after: None,
        };
        let malformed = |place, problem| malformed(&url, place, problem);
        match reply.status.as_deref() {
            Some("SUCCESS") => {
                let kind = reply.credentials_type.as_deref().unwrap_or("ACCESS_TOKEN");
                let token = reply.credentials_value.as_ref().and_then(Value::as_str);
                match token.filter(|token| kind == "ACCESS_TOKEN" && !token.is_empty()) {
                    Some(token) => Ok(self.enrolment(token)),
                    None => Err(malformed("credentialsValue", "is no access token")),
                }
            }
            Some("FAILURE") if self.opens(attempt.token()).await? => {
                Ok(self.enrolment(attempt.token().expose()))
            }
            Some("FAILURE") => Err(denied(
                "the device cannot be provisioned: its name may be taken, or the profile wants devices that were made \
                 before",
            )),
            Some("NOT_FOUND") => Err(denied(
                "no device profile has this key and secret, or its provisioning is disabled",
            )),
            _ => Err(malformed(
                "status",
                "is neither SUCCESS nor FAILURE nor NOT_FOUND",
            )),
        }
    }
}
