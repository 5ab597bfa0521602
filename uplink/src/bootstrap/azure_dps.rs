//! Azure's Device Provisioning Service with a symmetric key, over HTTPS: which hub, and as which device.
//!
//! The service is asked to register and then how that goes, in the rhythm that it gives. The key signs a token
//! and is never sent. A gateway whose clock was never set takes the time for the token from the verified server.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::Method;
use ring::hmac;
use serde::Deserialize;
use serde_json::json;

use super::proof::json_of;
use super::{Attempt, BootstrapError, Contact, Enrolment, Login, Provider, Said};
use crate::http::{Answer, Ask, HttpUrl, percent_encoded};
use crate::secret::Secret;
use crate::tls::unset_clock::wall_clock;
use crate::token::azure_sas;

const API_VERSION: &str = "2021-06-01";
/// How long a token of the registration is good for: longer than it takes.
const TOKEN_LIFE: Duration = Duration::from_secs(3600);
/// Between two looks at a registration, where the service names no time.
const POLL_PAUSE: Duration = Duration::from_secs(3);
/// The shortest and the longest of them that are obeyed within one attempt.
const POLL_PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));
/// After so many looks the attempt ends; the next one finds the registration as far as it is then.
const POLLS_MAX: u32 = 40;

const MEANINGS: &[(u16, &str)] = &[
    (
        401,
        "external_id (the registration id), id_scope or the key is wrong, or the enrolment is disabled",
    ),
    (403, "the enrolment is disabled"),
    (
        404,
        "id_scope or external_id (the registration id) is not known",
    ),
];

/// Whose key the external key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DpsKey {
    /// That of this device: of an individual enrolment, or derived for it already.
    #[default]
    Device,
    /// That of an enrolment group, from which this device's is derived. Better keep it off the gateway.
    Group,
}

/// The service.
#[derive(Debug)]
pub struct AzureDps {
    contact: Contact,
    base: HttpUrl,
    id_scope: String,
    key: DpsKey,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Operation {
    operation_id: Option<String>,
    status: Option<String>,
    registration_state: Option<Registration>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Registration {
    status: Option<String>,
    assigned_hub: Option<String>,
    device_id: Option<String>,
    error_message: Option<String>,
}

impl AzureDps {
    /// `url` is `https://global.azure-devices-provisioning.net` outside of tests and sovereign clouds.
    ///
    /// # Errors
    /// Where the settings cannot be used.
    pub fn new(contact: Contact, id_scope: String, key: DpsKey) -> Result<Self, BootstrapError> {
        let base = contact.base(false)?;
        let provider = Self {
            contact,
            base,
            id_scope,
            key,
        };
        if provider.contact.external_key.is_some() {
            provider.device_key()?;
        }
        Ok(provider)
    }

    fn device_key(&self) -> Result<Secret, BootstrapError> {
        let wrong = || BootstrapError::Settings {
            key: "external_key_file",
            problem: "holds no base64; expected the primary or secondary key of the enrolment"
                .into(),
        };
        let key = self.contact.key()?;
        match self.key {
            DpsKey::Device => STANDARD
                .decode(key)
                .map(|_| Secret::new(key))
                .map_err(|_| wrong()),
            DpsKey::Group => derived(key, &self.contact.external_id).ok_or_else(wrong),
        }
    }

    /// The path of the registration, below the scope.
    fn resource(&self) -> String {
        let scope = percent_encoded(&self.id_scope);
        let id = percent_encoded(&self.contact.external_id);
        format!("{scope}/registrations/{id}")
    }

    async fn send(
        &self,
        method: Method,
        url: &HttpUrl,
        body: Option<String>,
        token: Option<&Secret>,
    ) -> Result<Answer, BootstrapError> {
        let mut headers = vec![("accept", "application/json".to_owned())];
        headers.extend(token.map(|token| ("authorization", token.expose().to_owned())));
        let ask = Ask {
            method,
            url,
            headers: &headers,
            body: body.map(|body| ("application/json; charset=utf-8", body.into_bytes())),
        };
        self.contact.exchange(ask).await
    }

    /// Now: ours, or that of the service where ours was never set.
    async fn now(&self) -> Result<SystemTime, BootstrapError> {
        if let Some(now) = wall_clock() {
            return Ok(now);
        }
        let url = self.base.join(&format!("/{}", self.resource()));
        let answer = self.send(Method::GET, &url, None, None).await?;
        answer.date.ok_or_else(|| BootstrapError::Malformed {
            url: url.to_string(),
            place: "the header Date".into(),
            problem: "is missing".into(),
            hint: "the gateway's clock is not set, and the service does not tell the time",
        })
    }

    async fn token(&self) -> Result<Secret, BootstrapError> {
        let ends = self.now().await? + TOKEN_LIFE;
        let key = self.device_key()?;
        let resource = format!(
            "{}/registrations/{}",
            self.id_scope, self.contact.external_id
        );
        azure_sas(&key, &resource, Some("registration"), ends).ok_or_else(|| {
            BootstrapError::Settings {
                key: "external_key_file",
                problem: "holds no base64".into(),
            }
        })
    }
}

/// The key of a device of an enrolment group.
pub(super) fn derived(group_key: &str, registration_id: &str) -> Option<Secret> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, &STANDARD.decode(group_key).ok()?);
    let tag = hmac::sign(&key, registration_id.as_bytes());
    Some(Secret::new(STANDARD.encode(tag)))
}

#[async_trait]
impl Provider for AzureDps {
    async fn ask(&self, _: &Attempt) -> Result<Enrolment, BootstrapError> {
        let token = self.token().await?;
        let resource = self.resource();
        let register = format!("/{resource}/register?api-version={API_VERSION}");
        let mut url = self.base.join(&register);
        let body = json!({"registrationId": self.contact.external_id}).to_string();
        let mut answer = self
            .send(Method::PUT, &url, Some(body), Some(&token))
            .await?;
        for _ in 0..POLLS_MAX {
            if !matches!(answer.status, 200 | 202) {
                return Err(self.contact.refusal(&url, &answer, MEANINGS));
            }
            let operation: Operation = json_of(&url, &answer)?;
            let state = operation.registration_state.unwrap_or_default();
            let status = state.status.as_deref().or(operation.status.as_deref());
            match (status, &state.assigned_hub, &state.device_id) {
                (Some("assigned"), Some(hub), Some(device)) => {
                    return self.assigned(hub, device);
                }
                (Some("assigning" | "unassigned"), ..) => {}
                (Some("failed" | "disabled"), ..) => {
                    let words = state.error_message.unwrap_or_default();
                    return Err(BootstrapError::Denied {
                        url: url.to_string(),
                        status: answer.status,
                        why: "the registration failed, or the enrolment is disabled",
                        said: Said::of(words.as_bytes(), &[]),
                        retry_after: None,
                    });
                }
                _ => {
                    return Err(BootstrapError::Malformed {
                        url: url.to_string(),
                        place: "registrationState".into(),
                        problem: "says neither assigned nor assigning".into(),
                        hint: "check bootstrap.url",
                    });
                }
            }
            let pause = answer.retry_after.unwrap_or(POLL_PAUSE);
            tokio::time::sleep(pause.clamp(POLL_PAUSES.0, POLL_PAUSES.1)).await;
            let id = percent_encoded(&operation.operation_id.unwrap_or_default());
            url = self.base.join(&format!(
                "/{resource}/operations/{id}?api-version={API_VERSION}"
            ));
            answer = self.send(Method::GET, &url, None, Some(&token)).await?;
        }
        Err(BootstrapError::Pending {
            url: url.to_string(),
            why: "the registration is still being worked on".into(),
            retry_after: answer.retry_after,
        })
    }
}

impl AzureDps {
    fn assigned(&self, hub: &str, device: &str) -> Result<Enrolment, BootstrapError> {
        let uplink = json!({
            "profile": "azure-iot-hub",
            "url": format!("mqtts://{hub}:8883"),
            "client_id": device,
            "vars": {"hub": hub, "device": device},
        });
        Ok(Enrolment {
            id: String::new(),
            key: Some(self.device_key()?),
            login: Login::AzureSas,
            uplink: uplink.as_object().cloned().unwrap_or_default(),
            ..Enrolment::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The documented example of the vendor.
    #[test]
    fn the_key_of_a_device_comes_from_that_of_its_group() {
        let group = "8isrFI1sGsIlvvFSSFRiMfCNzv21fjbE/+ah/lSh3lF8e2YG1Te7w1KpZhJFFXJrqYKi9yegxkqIChbqOS9Egw==";
        let key = derived(group, "sn-007-888-abc-mac-a1-b2-c3-d4-e5-f6").unwrap();
        assert_eq!(key.expose(), "Jsm0lyGpjaVYVP2g3FnmnmG9dI/9qU24wNoykUmermc=");
        assert!(derived("no base64!", "gw").is_none());
    }
}
