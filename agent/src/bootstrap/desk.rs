//! Where the rest of the program meets the bootstrap: what it says, and what it is asked to do.

use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

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
#[derive(Debug)]
pub(crate) struct Desk {
    /// Who may put another configuration into force on trial: the main loop, or the bootstrap.
    turn: Arc<Semaphore>,
    status: Mutex<Option<BootstrapStatus>>,
    claim: Mutex<Option<String>>,
    wish: Mutex<Option<Wish>>,
    rung: Notify,
}

/// The right to put another configuration into force on trial; the next one has it when this goes.
pub(crate) type Turn = OwnedSemaphorePermit;

impl Default for Desk {
    fn default() -> Self {
        Self {
            turn: Arc::new(Semaphore::new(1)),
            status: Mutex::default(),
            claim: Mutex::default(),
            wish: Mutex::default(),
            rung: Notify::default(),
        }
    }
}

impl Desk {
    /// The turn, where nobody has it.
    pub(crate) fn try_turn(&self) -> Option<Turn> {
        self.turn.clone().try_acquire_owned().ok()
    }

    /// Waits until no configuration is on trial.
    pub(super) async fn turn(&self) -> Option<Turn> {
        // It is never closed.
        self.turn.clone().acquire_owned().await.ok()
    }

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

    /// The core is asked because somebody wants it: where the asking is cut off, it is wanted still.
    pub(super) fn serves_wish(&self) -> Serves<'_> {
        Serves {
            desk: self,
            served: false,
        }
    }

    /// Waits until something is wanted.
    pub(super) async fn wished(&self) -> Wish {
        loop {
            let is_there = || self.wish.lock().unwrap_or_else(PoisonError::into_inner);
            while is_there().is_none() {
                self.rung.notified().await;
            }
            // What is done of it would be on disk amid the trial of a configuration, and lost with this task.
            let _turn = self.turn().await;
            if let Some(wish) = is_there().take() {
                return wish;
            }
        }
    }
}

/// A wish that is being served.
pub(super) struct Serves<'a> {
    desk: &'a Desk,
    served: bool,
}

impl Serves<'_> {
    pub(super) fn served(mut self) {
        self.served = true;
    }
}

impl Drop for Serves<'_> {
    fn drop(&mut self) {
        if !self.served {
            self.desk.ask_for(Wish::Run);
        }
    }
}
