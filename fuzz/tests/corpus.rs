//! The corpus, replayed and mutated, with any compiler.
//!
//! `MILLRACE_SEED` repeats a run; `MILLRACE_FUZZ_SECONDS` makes it a long one. What makes a function panic is printed, and
//! belongs into the corpus.

// A test that cannot set itself up has failed.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use millrace_fuzz::{TARGETS, Target};

/// Mutations of a short run, of each function.
const ROUNDS: u64 = 20_000;

const SEED: u64 = 4;

const BYTES_MAX: usize = 600;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(name);
    let mut files: Vec<_> = fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files.iter().map(|path| fs::read(path).unwrap()).collect()
}

fn check(name: &str, function: Target, input: &[u8]) {
    let checked = catch_unwind(AssertUnwindSafe(|| function(input)));
    assert!(checked.is_ok(), "{name} fails with {input:02X?}");
}

#[test]
fn corpus_holds() {
    for (name, function) in TARGETS {
        let corpus = corpus(name);
        assert!(corpus.len() > 5, "{name} has hardly a corpus");
        corpus.iter().for_each(|input| check(name, function, input));
    }
}

#[test]
fn mutations_hold() {
    let seed = number("MILLRACE_SEED").unwrap_or(SEED);
    let span = number("MILLRACE_FUZZ_SECONDS").map(Duration::from_secs);
    for (name, function) in TARGETS {
        let mut rng = fastrand::Rng::with_seed(seed);
        let corpus = corpus(name);
        let (begun, mut rounds) = (Instant::now(), 0_u64);
        while match span {
            Some(span) => begun.elapsed() < span,
            None => rounds < ROUNDS,
        } {
            let input = mutated(&corpus, &mut rng);
            check(name, function, &input);
            rounds += 1;
        }
        println!(
            "{name}: seed {seed}, {rounds} mutations of {} inputs",
            corpus.len()
        );
    }
}

/// Some inputs, changed a little or spliced; now and then with a checksum that is right.
fn mutated(corpus: &[Vec<u8>], rng: &mut fastrand::Rng) -> Vec<u8> {
    let mut input = corpus[rng.usize(..corpus.len())].clone();
    for _ in 0..rng.usize(..6) {
        let at = rng.usize(..=input.len());
        match rng.u8(..8) {
            0 => input.insert(at, rng.u8(..)),
            1 => input.truncate(at),
            2 => {
                let other = &corpus[rng.usize(..corpus.len())];
                input.extend_from_slice(&other[rng.usize(..=other.len())..]);
            }
            3 => {
                let other = &corpus[rng.usize(..corpus.len())];
                input.splice(..at, other.iter().copied());
            }
            kind if at < input.len() => match kind {
                4 => input[at] ^= 1 << rng.u8(..8),
                5 => drop(input.remove(at)),
                6 => input[at] = [0, 1, 0x7F, 0x80, 0xFF][rng.usize(..5)],
                _ => input[at] = rng.u8(..),
            },
            _ => {}
        }
    }
    input.truncate(BYTES_MAX);
    if rng.u8(..4) == 0 && input.len() > 4 {
        let begin = rng.usize(2..input.len());
        let sum = millrace_drivers::modbus::frame::rtu::crc(&input[begin..]);
        input.extend_from_slice(&sum.to_le_bytes());
    }
    input
}
