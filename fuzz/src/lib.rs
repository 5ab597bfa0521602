//! What is fuzzed. Each function takes any bytes and panics where a promise does not hold.
//!
//! The programs in `targets/` hand these functions to cargo-fuzz (`make soak-fuzz`); the test in `tests/` replays the
//! corpus and mutates it, with any compiler. What cargo-fuzz finds becomes a file of the corpus.

mod address;
mod bundle;
mod link;
mod mbap;
mod model;
mod rtu;
mod scratch;
mod tape;

pub use address::address;
pub use bundle::bundle;
pub use mbap::mbap;
pub use model::model;
pub use rtu::rtu;
pub use tape::tape;

/// Takes any bytes, and panics where a promise does not hold.
pub type Target = fn(&[u8]);

/// A function that is fuzzed.
#[derive(Debug, Clone, Copy)]
pub struct Fuzzed {
    /// Its name, and that of its corpus.
    pub name: &'static str,
    /// The function.
    pub function: Target,
    /// Further inputs to begin with, beside this crate; empty where there are none.
    pub seeds: &'static str,
    /// Mutations of a short run.
    pub rounds: u64,
    /// Longer inputs are no use.
    pub bytes_max: usize,
}

const fn decoder(name: &'static str, function: Target) -> Fuzzed {
    Fuzzed {
        name,
        function,
        seeds: "",
        rounds: 20_000,
        bytes_max: 600,
    }
}

/// Every function.
pub const TARGETS: [Fuzzed; 6] = [
    decoder("rtu", rtu),
    decoder("mbap", mbap),
    decoder("address", address),
    decoder("tape", tape),
    // Building a model costs milliseconds.
    Fuzzed {
        seeds: "../inference/tests/zoo",
        rounds: 150,
        bytes_max: 30_000,
        ..decoder("model", model)
    },
    Fuzzed {
        rounds: 1_000,
        bytes_max: 6_000,
        ..decoder("bundle", bundle)
    },
];
