//! Files for functions that take paths, and calls whose panics are caught inside.

use std::panic;
use std::path::Path;

use tempfile::TempDir;

/// An empty directory, in memory where the system has such a place.
pub(crate) struct Scratch(TempDir);

impl Scratch {
    /// With one file.
    pub(crate) fn new(name: &str, bytes: &[u8]) -> Self {
        let memory = Path::new("/dev/shm");
        let made = if memory.is_dir() {
            TempDir::new_in(memory)
        } else {
            TempDir::new()
        };
        let scratch = Self(made.expect("a directory"));
        scratch.write(name, bytes);
        scratch
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.0.path().join(name), bytes).expect("a file");
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

/// The fuzzer ends the program at any panic, also at those that the callee catches; while this runs, it does not hear of them.
pub(crate) fn quietly<T>(call: impl FnOnce() -> T) -> T {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let result = call();
    panic::set_hook(hook);
    result
}
