//! What is fuzzed. Each function takes any bytes and panics where a promise does not hold.
//!
//! The programs in `targets/` hand these functions to cargo-fuzz (`make soak-fuzz`); the test in `tests/` replays the
//! corpus and mutates it, with any compiler. What cargo-fuzz finds becomes a file of the corpus.

mod address;
mod link;
mod mbap;
mod rtu;
mod tape;

pub use address::address;
pub use mbap::mbap;
pub use rtu::rtu;
pub use tape::tape;

/// Takes any bytes, and panics where a promise does not hold.
pub type Target = fn(&[u8]);

/// Every function with the name of its corpus.
pub const TARGETS: [(&str, Target); 4] = [
    ("rtu", rtu),
    ("mbap", mbap),
    ("address", address),
    ("tape", tape),
];
