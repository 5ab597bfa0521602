//! From the table to a provider, with id and keys as they are at this moment.

use std::path::Path;

use millrace_uplink::bootstrap::{
    AwsClaim, AzureDps, BootstrapError, ClaimString, ClaimStringError, Contact, Est, FileDrop,
    Generation, HmacClaim, MagistralaProof, Mainflux, Provider, ThingsBoard,
};
use millrace_uplink::{Secret, SecretError, SecretSource, Trust};
use serde::{Deserialize, Serialize};

use super::{Bootstrap, ExternalId, ExternalIdError};

/// Where devices of Azure's public cloud are provisioned.
const AZURE: &str = "https://global.azure-devices-provisioning.net";

/// Why the core cannot be asked yet.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BootstrapSettingsError {
    /// The machine does not tell its name.
    #[error("the external id is not known")]
    ExternalId(#[from] ExternalIdError),
    /// The key cannot be had.
    #[error("the external key cannot be read")]
    ExternalKey(#[source] SecretError),
    /// The claim string cannot be had.
    #[error("the claim string cannot be read")]
    ClaimFile(#[source] SecretError),
    /// The key of `/secure/` cannot be had.
    #[error("the key of secure_key_file cannot be read")]
    SecureKey(#[source] SecretError),
    /// The claim string is none.
    #[error("claim_file holds no claim string")]
    Claim(#[from] ClaimStringError),
    /// The provider does not take the settings.
    #[error(transparent)]
    Provider(#[from] BootstrapError),
}

/// What stays known of a contact whose one-time key is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KnownContact {
    pub(crate) url: String,
    pub(crate) external_id: String,
    pub(crate) ca_sha256: Option<[u8; 32]>,
}

impl KnownContact {
    pub(crate) fn of(contact: &Contact) -> Self {
        Self {
            url: contact.url.clone(),
            external_id: contact.external_id.clone(),
            ca_sha256: contact.trust.ca_sha256,
        }
    }
}

impl Bootstrap {
    /// Whom to ask, and as whom, as it is now. The key is that of the configuration, else the one that was moved to
    /// `kept`; where it is gone and an enrolment made the contact `known`, it has none.
    ///
    /// # Errors
    /// Where the machine does not tell its id, or there is no key and never was.
    pub(crate) fn contact(
        &self,
        kept: &Path,
        known: Option<&KnownContact>,
    ) -> Result<Contact, BootstrapSettingsError> {
        let kept = SecretSource::File(kept.to_owned());
        let load = |source: &SecretSource| match (
            source
                .load()
                .or_else(|error| kept.load().map_err(|_| error)),
            known,
        ) {
            (Ok(secret), _) => Ok(Some(secret)),
            (Err(_), Some(_)) => Ok(None),
            (Err(error), None) => Err(error),
        };
        let claim = match &self.claim {
            None => None,
            Some(source) => load(source).map_err(BootstrapSettingsError::ClaimFile)?,
        };
        let claim = claim.as_ref().map(ClaimString::parse).transpose()?;
        let external_key = match (&claim, &self.external_key) {
            (Some(claim), _) => Some(claim.token.clone()),
            (None, Some(source)) => load(source).map_err(BootstrapSettingsError::ExternalKey)?,
            (None, None) => None,
        };
        let known = known.filter(|_| claim.is_none() && self.claim.is_some());
        let claimed_id = claim
            .as_ref()
            .and_then(|claim| claim.external_id.clone())
            .or_else(|| known.map(|known| known.external_id.clone()));
        let external_id = match (&self.external_id, claimed_id) {
            (Some(id), _) => id.resolve()?,
            (None, Some(id)) => id,
            (None, None) => ExternalId::MachineId.resolve()?,
        };
        let url = claim
            .as_ref()
            .map(|claim| claim.url.clone())
            .or_else(|| known.map(|known| known.url.clone()))
            .or_else(|| self.url.clone());
        let ca_sha256 = match (&claim, known) {
            (Some(claim), _) => claim.ca_sha256,
            (None, Some(known)) => known.ca_sha256,
            (None, None) => self.ca_sha256,
        };
        Ok(Contact {
            url: url.unwrap_or_else(|| AZURE.to_owned()),
            external_id,
            external_key,
            trust: Trust {
                ca_file: self.ca_file.clone(),
                ca_sha256,
                client: None,
                proxy: self.proxy.clone(),
            },
        })
    }

    /// The provider for this contact; `worked` is the generation that answered before.
    ///
    /// # Errors
    /// Where the settings cannot be used.
    pub(crate) fn provider(
        &self,
        contact: Contact,
        worked: Option<Generation>,
    ) -> Result<Box<dyn Provider>, BootstrapSettingsError> {
        Ok(match self.provider {
            "magistrala-proof" => Box::new(MagistralaProof::new(contact)?),
            "hmac-claim" => Box::new(HmacClaim::new(contact)?),
            "est" => Box::new(Est::new(contact)?),
            "thingsboard" => Box::new(ThingsBoard::new(contact)?),
            "azure-dps" => {
                let scope = self.id_scope.clone().unwrap_or_default();
                Box::new(AzureDps::new(contact, scope, self.dps_key)?)
            }
            "aws-claim" => Box::new(AwsClaim::new(
                contact,
                self.fleet.clone().unwrap_or_default(),
            )?),
            "file" => Box::new(FileDrop::new(self.file.clone().unwrap_or_default())),
            _ => {
                let secure = self.secure_key.as_ref().map(SecretSource::load).transpose();
                let secure: Option<Secret> = secure.map_err(BootstrapSettingsError::SecureKey)?;
                Box::new(Mainflux::new(contact, self.generation.or(worked), secure)?)
            }
        })
    }
}
