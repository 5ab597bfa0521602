//! One question to the core: for an enrolment, which is kept, or whether it heard that one has proved itself.

use std::path::{Path, PathBuf};
use std::time::Duration;

use millrace_uplink::bootstrap::{BootstrapError, Contact, Enrolment, Outcome};

use super::enrolment::{self, EnrolmentError, Kept};
use super::key;
use super::store::{State, Store, StoreError};
use super::watch::Reason;
use super::{Bootstrap, renewal};
use crate::config::{self, BootstrapSettingsError, KnownContact};

/// Asking brought nothing that could be kept.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error(transparent)]
    Provider(#[from] BootstrapError),
    #[error(transparent)]
    Settings(#[from] BootstrapSettingsError),
    #[error("the core's enrolment cannot be used")]
    Enrolment(#[from] EnrolmentError),
    #[error("the core's enrolment does not go together with the local configuration:\n{0}")]
    Together(config::Problems),
    /// `ca_file` went away since the core was asked with it.
    #[error("cannot read {}, which is to vouch for the broker, too", .path.display())]
    Authorities {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl AskError {
    pub(super) fn outcome(&self) -> Outcome {
        match self {
            AskError::Provider(error)
            | AskError::Settings(BootstrapSettingsError::Provider(error)) => error.outcome(),
            AskError::Enrolment(EnrolmentError::NoContent) => Outcome::Pending,
            AskError::Enrolment(_)
            | AskError::Together(_)
            | AskError::Authorities { .. }
            | AskError::Settings(_)
            | AskError::Store(_) => Outcome::Denied,
        }
    }

    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            AskError::Provider(error) => error.retry_after(),
            _ => None,
        }
    }
}

/// What an answer of the core changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Brought {
    /// An enrolment that is not in force yet: the configuration is to be applied.
    New,
    /// The one in force.
    Same,
}

impl Bootstrap {
    /// Id and key as they are now; a one-time key that was used is none.
    pub(super) fn contact(
        &self,
        store: &Store,
        state: &State,
    ) -> Result<Contact, BootstrapSettingsError> {
        if self.settings.provider == "file" {
            return Ok(Contact {
                url: String::new(),
                external_id: self.gateway.clone(),
                external_key: None,
                trust: millrace_uplink::Trust::default(),
            });
        }
        let known = state.contact.as_ref();
        let mut contact = self.settings.contact(&store.kept_key(), known)?;
        contact.external_key = contact
            .external_key
            .filter(|key| state.spent.as_deref() != Some(key::fingerprint(key).as_str()));
        Ok(contact)
    }

    pub(super) fn key(&self, store: &Store, state: &State) -> Option<millrace_uplink::Secret> {
        self.contact(store, state).ok()?.external_key
    }

    pub(super) async fn tell(
        &self,
        store: &Store,
        state: &State,
        receipt: &str,
    ) -> Result<(), AskError> {
        let contact = self.contact(store, state)?;
        let provider = (self.make_provider)(&self.settings, contact, state.generation)?;
        Ok(provider.confirm(receipt).await?)
    }

    /// Asks the core once, and keeps what it gives.
    pub(super) async fn ask(
        &self,
        store: &Store,
        state: &mut State,
        why: Reason,
    ) -> Result<Brought, AskError> {
        // Anew for each attempt: somebody may just have brought the key.
        let contact = self.contact(store, state)?;
        let known = KnownContact::of(&contact);
        let without_key = contact.external_key.is_none();
        let asked_with = contact.external_key.as_ref().map(key::fingerprint);
        let ca_file = contact.trust.ca_file.clone();
        let provider = (self.make_provider)(&self.settings, contact, state.generation)?;
        let attempt = store.attempt(&known.external_id)?;
        let own = own_certificate(store).filter(|_| provider.renews_by_certificate());
        let renewed = own.is_some() && (why == Reason::Renewal || without_key);
        let mut enrolment = match renewed {
            true => provider.renew(&attempt, own.as_ref()).await?,
            false => provider.ask(&attempt).await?,
        };
        // Until it is on disk; from then on that says that it is on trial.
        let _turn = self.desk.turn().await;
        let kept = match enrolment.content.is_none() && enrolment.uplink.is_empty() && renewed {
            true => self.carried_over(store, state, &enrolment)?,
            false => {
                if let (None, Some(path)) = (&enrolment.ca_cert, ca_file) {
                    enrolment.ca_cert = Some(authorities(&path)?);
                }
                enrolment::kept(&enrolment, &self.settings.uplink, &store.current())?
            }
        };
        state.contact = Some(known);
        state.asked_with = asked_with.or(state.asked_with.take());
        state.generation = enrolment.generation;
        self.keep(store, state, kept, enrolment.receipt)
    }

    /// A new certificate alone: all else stays.
    fn carried_over(
        &self,
        store: &Store,
        state: &State,
        enrolment: &Enrolment,
    ) -> Result<Kept, AskError> {
        let mut kept = Kept {
            layer: store.cloud_layer().unwrap_or_default(),
            files: enrolment::credentials(enrolment),
        };
        for (name, text) in store.files(state)? {
            if !kept.files.iter().any(|(known, _)| *known == name) {
                kept.files.push((name, text));
            }
        }
        Ok(kept)
    }

    fn keep(
        &self,
        store: &Store,
        state: &mut State,
        kept: Kept,
        receipt: Option<String>,
    ) -> Result<Brought, AskError> {
        if store.is_in_force(state, &kept.layer, &kept.files) {
            store.save(state)?;
            return Ok(Brought::Same);
        }
        config::check_cloud_layer(self.config.as_deref(), &self.data_dir, &kept.layer)
            .map_err(AskError::Together)?;
        state.renew_at = renewal(&kept.files);
        state.receipt = receipt;
        store.put(state, &kept.layer, &kept.files)?;
        Ok(Brought::New)
    }
}

/// Who vouches for the core vouches for its broker, where the core names nobody else. A copy, since the cloud layer
/// may name files in the data directory only.
fn authorities(path: &Path) -> Result<String, AskError> {
    let bytes = std::fs::read(path).map_err(|source| AskError::Authorities {
        path: path.to_owned(),
        source,
    })?;
    // Comments between certificates may be in any encoding.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Certificate and key of the enrolment in force, where it has them.
fn own_certificate(store: &Store) -> Option<(PathBuf, PathBuf)> {
    let (certificate, key) = (
        store.current().join("client.pem"),
        store.current().join("client.key"),
    );
    (certificate.exists() && key.exists()).then_some((certificate, key))
}
