//! The corpus, replayed and mutated, with any compiler.
//!
//! `MILLRACE_SEED` repeats a run; `MILLRACE_FUZZ_SECONDS` makes it a long one, `MILLRACE_FUZZ_ONLY` one of a single function. What makes a function panic is printed, and
//! belongs into the corpus.

// A test that cannot set itself up has failed.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use millrace_fuzz::{Fuzzed, TARGETS};

const SEED: u64 = 4;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// The corpus, and the seeds that are short enough.
fn corpus(of: &Fuzzed) -> Vec<Vec<u8>> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut directories = vec![here.join("corpus").join(of.name)];
    if !of.seeds.is_empty() {
        directories.push(here.join(of.seeds));
    }
    let mut files: Vec<_> = directories
        .iter()
        .filter_map(|directory| fs::read_dir(directory).ok())
        .flat_map(|entries| entries.map(|entry| entry.unwrap().path()))
        .collect();
    files.sort();
    let inputs = files.iter().map(|path| fs::read(path).unwrap());
    inputs.filter(|input| input.len() <= of.bytes_max).collect()
}

fn check(of: &Fuzzed, input: &[u8]) {
    let checked = catch_unwind(AssertUnwindSafe(|| (of.function)(input)));
    assert!(checked.is_ok(), "{} fails with {input:02X?}", of.name);
}

#[test]
fn corpus_holds() {
    for of in TARGETS {
        let corpus = corpus(&of);
        assert!(corpus.len() > 5, "{} has hardly a corpus", of.name);
        corpus.iter().for_each(|input| check(&of, input));
    }
}

#[test]
fn mutations_hold() {
    let seed = number("MILLRACE_SEED").unwrap_or(SEED);
    let span = number("MILLRACE_FUZZ_SECONDS").map(Duration::from_secs);
    let only = std::env::var("MILLRACE_FUZZ_ONLY").ok();
    for of in TARGETS {
        if only.as_ref().is_some_and(|only| only != of.name) {
            continue;
        }
        let mut rng = fastrand::Rng::with_seed(seed);
        let corpus = corpus(&of);
        let (begun, mut rounds) = (Instant::now(), 0_u64);
        while match span {
            Some(span) => begun.elapsed() < span,
            None => rounds < of.rounds,
        } {
            let input = mutated(&corpus, of.bytes_max, &mut rng);
            check(&of, &input);
            rounds += 1;
        }
        println!(
            "{}: seed {seed}, {rounds} mutations of {} inputs",
            of.name,
            corpus.len()
        );
    }
}

/// Some inputs, changed a little or spliced; now and then with a checksum that is right.
fn mutated(corpus: &[Vec<u8>], bytes_max: usize, rng: &mut fastrand::Rng) -> Vec<u8> {
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
    input.truncate(bytes_max);
    if rng.u8(..4) == 0 && input.len() > 4 {
        let begin = rng.usize(2..input.len());
        let sum = millrace_drivers::modbus::frame::rtu::crc(&input[begin..]);
        input.extend_from_slice(&sum.to_le_bytes());
    }
    input
}
