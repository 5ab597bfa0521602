//! Where the rest of the program meets the bootstrap: what it says, and what it is asked to do.

use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::report::BootstrapStatus;

/// What a person, or the core by command, wants of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Wish {
    /// Ask the core now.
    Run,
    /// Forget the enrolment, and begin anew.
    Reset,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Desk {
    status: Mutex<Option<BootstrapStatus>>,
    claim: Mutex<Option<String>>,
    wish: Mutex<Option<Wish>>,
    rung: Notify,
}

impl Desk {
    /// How far it is; `None` where no bootstrap is configured.
    pub(crate) fn status(&self) -> Option<BootstrapStatus> {
        let status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        let claim = self.claim.lock().unwrap_or_else(PoisonError::into_inner);
        Some(BootstrapStatus {
            claim: claim.clone(),
            ..status.clone()?
        })
    }

    /// What is wrong with what an installer brought. Something new is logged.
    pub(crate) fn say_claim(&self, problem: Option<String>) {
        let mut claim = self.claim.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(problem) = problem
            .as_ref()
            .filter(|said| Some(*said) != claim.as_ref())
        {
            tracing::error!(problem = %problem, "a claim");
        }
        *claim = problem;
    }

    pub(crate) fn say(&self, status: Option<BootstrapStatus>) {
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = status;
    }

    /// Has it done soon. False where no bootstrap is configured.
    pub(crate) fn ask_for(&self, wish: Wish) -> bool {
        if self.status().is_none() {
            return false;
        }
        *self.wish.lock().unwrap_or_else(PoisonError::into_inner) = Some(wish);
        self.rung.notify_one();
        true
    }

    /// Waits until something is wanted.
    pub(super) async fn wished(&self) -> Wish {
        loop {
            let wish = self
                .wish
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            match wish {
                Some(wish) => return wish,
                None => self.rung.notified().await,
            }
        }
    }
}
