//! What people see of an uplink: written by its session and its delivery, read by the local API.

use std::sync::{Arc, Mutex, PoisonError};

use millrace_uplink::{SessionCounters, SessionState};
use tokio::time::Instant;

use crate::bootstrap::Refusals;
use crate::config;
use crate::report::UplinkStatus;

/// One uplink's state, as the local API shows it.
pub(crate) struct Uplink {
    /// Written by the session.
    pub(crate) counters: Arc<SessionCounters>,
    status: Mutex<UplinkStatus>,
    /// Since the last connection.
    refusals: Mutex<Option<Refusals>>,
}

impl Uplink {
    /// An uplink that has not connected yet.
    pub(crate) fn new(settings: &config::Uplink) -> Arc<Self> {
        let status = UplinkStatus {
            name: settings.name.clone(),
            url: settings.endpoint.to_string(),
            profile: settings.profile.definition().name.clone(),
            state: "connecting".to_owned(),
            ..UplinkStatus::default()
        };
        Arc::new(Self {
            counters: Arc::default(),
            status: Mutex::new(status),
            refusals: Mutex::default(),
        })
    }

    /// How the broker has refused us since the last connection.
    pub(crate) fn refusals(&self) -> Option<Refusals> {
        *self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn note_refusals(&self, state: &SessionState) {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        match state {
            SessionState::Connected => *refusals = None,
            SessionState::Down { refused: true, .. } => {
                *refusals = Some(Refusals::one_more(*refusals, Instant::now()));
            }
            _ => {}
        }
    }

    /// The state as it is now.
    pub(crate) fn report(&self) -> UplinkStatus {
        let mut status = self
            .status
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        status.connects_total = self.counters.connects_total();
        status.messages_acked_total = self.counters.messages_acked_total();
        status.unheard_total = self.counters.unheard_total();
        status
    }

    /// There is no session, for this reason.
    pub(crate) fn down(&self, error: String) {
        self.update(|status| {
            status.state = "down".to_owned();
            status.error = Some(error);
        });
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut UplinkStatus)) {
        change(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
