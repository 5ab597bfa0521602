//! What the handles, the outboxes and the buffer's thread share.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use millrace_tags::{Clock, Timestamp};

use crate::core::Core;
use crate::recovery::Recovery;

pub(crate) struct Shared {
    core: Mutex<Core>,
    /// There is work for the buffer's thread.
    pub(crate) work: Condvar,
    pub(crate) clock: Arc<dyn Clock>,
    hooks: Mutex<Vec<Arc<dyn Fn() + Send + Sync>>>,
    pub(crate) recovery: Recovery,
}

impl Shared {
    pub(crate) fn new(core: Core, clock: Arc<dyn Clock>, recovery: Recovery) -> Self {
        Self {
            core: Mutex::new(core),
            work: Condvar::new(),
            clock,
            hooks: Mutex::default(),
            recovery,
        }
    }

    /// A caller's panic in a wake function must not take the buffer with it.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Now, where the clock is set.
    pub(crate) fn utc(&self) -> Option<Timestamp> {
        self.clock.timebase().utc(self.clock.now())
    }

    pub(crate) fn add_hook(&self, hook: Box<dyn Fn() + Send + Sync>) {
        let mut hooks = self.hooks.lock().unwrap_or_else(PoisonError::into_inner);
        hooks.push(hook.into());
    }

    /// Calls every hook; no lock is held meanwhile.
    pub(crate) fn call_hooks(&self) {
        let hooks = self
            .hooks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        for hook in hooks {
            hook();
        }
    }
}
