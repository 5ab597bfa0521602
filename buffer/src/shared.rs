//! What the handles, the outboxes and the buffer's thread share.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use millrace_tags::{Clock, Timestamp};

use crate::core::Core;
use crate::recovery::Recovery;

/// What to call when there is room for sources that wait, or no more.
type RoomHook = Arc<dyn Fn(bool) + Send + Sync>;

pub(crate) struct Shared {
    core: Mutex<Core>,
    /// There is work for the buffer's thread.
    pub(crate) work: Condvar,
    pub(crate) clock: Arc<dyn Clock>,
    hooks: Mutex<Vec<Arc<dyn Fn() + Send + Sync>>>,
    room_hooks: Mutex<Vec<RoomHook>>,
    pub(crate) recovery: Recovery,
}

impl Shared {
    pub(crate) fn new(core: Core, clock: Arc<dyn Clock>, recovery: Recovery) -> Self {
        Self {
            core: Mutex::new(core),
            work: Condvar::new(),
            clock,
            hooks: Mutex::default(),
            room_hooks: Mutex::default(),
            recovery,
        }
    }

    /// A caller's panic in a wake function must not take the buffer with it.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Core> {
        lock(&self.core)
    }

    /// Now, where the clock is set.
    pub(crate) fn utc(&self) -> Option<Timestamp> {
        self.clock.timebase().utc(self.clock.now())
    }

    pub(crate) fn add_hook(&self, hook: Box<dyn Fn() + Send + Sync>) {
        lock(&self.hooks).push(hook.into());
    }

    pub(crate) fn add_room_hook(&self, hook: Box<dyn Fn(bool) + Send + Sync>) {
        lock(&self.room_hooks).push(hook.into());
    }

    /// Tells everybody whether there is room; no lock is held meanwhile.
    pub(crate) fn call_room_hooks(&self, room: bool) {
        let hooks = lock(&self.room_hooks).clone();
        for hook in hooks {
            guarded(|| hook(room));
        }
    }

    /// Calls every hook; no lock is held meanwhile.
    pub(crate) fn call_hooks(&self) {
        let hooks = lock(&self.hooks).clone();
        for hook in hooks {
            guarded(&*hook);
        }
    }
}

/// Calls what others have given us: their panic is no failure of the buffer.
pub(crate) fn guarded(call: impl Fn()) {
    if catch_unwind(AssertUnwindSafe(call)).is_err() {
        tracing::error!("a hook of the buffer panicked");
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
