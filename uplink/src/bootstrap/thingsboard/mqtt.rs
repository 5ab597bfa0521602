//! The same provisioning by MQTT, at the broker that the gateway then delivers to: as user `provision`, who may do nothing
//! else.

use serde_json::Value;

use crate::bootstrap::dialogue::{Dialogue, settings_of};
use crate::bootstrap::{BootstrapError, Contact};
use crate::secret::{Secret, SecretSource};
use crate::session::SessionSettings;

/// The user of whoever has no credentials yet.
const USER: &str = "provision";
const REQUEST: &str = "/provision/request";
const RESPONSE: &str = "/provision/response";

/// The broker.
#[derive(Debug)]
pub(super) struct Broker {
    settings: SessionSettings,
}

impl Broker {
    /// `None` where the URL is none of MQTT.
    pub(super) fn of(contact: &Contact) -> Result<Option<Self>, BootstrapError> {
        if !contact.url.starts_with("mqtt") {
            return Ok(None);
        }
        let settings = settings_of(contact)?;
        if !settings.endpoint.scheme.is_tls() {
            tracing::warn!(
                url = %settings.endpoint,
                "the bootstrap is not encrypted; anybody on the network can listen"
            );
        }
        Ok(Some(Self { settings }))
    }

    /// Where it is, as `[[uplink]]` has it.
    pub(super) fn url(&self) -> String {
        self.settings.endpoint.to_string()
    }

    async fn log_in(&self, token: Secret) -> Result<Dialogue, BootstrapError> {
        let mut settings = self.settings.clone();
        settings.token_as_username = true;
        settings.password = Some(SecretSource::Given(token).into());
        Dialogue::begin(&settings).await
    }

    /// Whether there is a device that this token opens.
    pub(super) async fn opens(&self, token: &Secret) -> Result<bool, BootstrapError> {
        match self.log_in(token.clone()).await {
            Ok(dialogue) => {
                dialogue.end().await;
                Ok(true)
            }
            Err(BootstrapError::Denied { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Asks, and brings the answer.
    pub(super) async fn ask(&self, question: &Value) -> Result<Value, BootstrapError> {
        let mut dialogue = self.log_in(Secret::new(USER)).await?;
        let outcome = converse(&mut dialogue, question).await;
        dialogue.end().await;
        outcome
    }
}

async fn converse(dialogue: &mut Dialogue, question: &Value) -> Result<Value, BootstrapError> {
    let answers = [RESPONSE.to_owned()];
    dialogue.listen(&answers).await?;
    let (_, body) = dialogue.ask(REQUEST, question, &answers).await?;
    Ok(body)
}
