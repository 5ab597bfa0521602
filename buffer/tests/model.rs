//! Random sequences of all that can happen to a buffer, against a model of it in memory: what every number of
//! every line stands for, and what became of it on the other side of each uplink.
//!
//! `MILLRACE_MODEL_CASES` asks for more than a quick run, `MILLRACE_MODEL_SEED` for another first seed. Every
//! case has a seed of its own, so that one of many can be run again alone.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

#[path = "model/line.rs"]
mod line;
#[path = "model/peer.rs"]
mod peer;
#[path = "model/step.rs"]
mod step;
#[path = "model/world.rs"]
mod world;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};
use world::World;

/// The first seed, where none is given.
const SEED: u64 = 20_261_121;

/// How many cases a quick run has.
const CASES: u64 = 16;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |n| n.parse().unwrap())
}

#[test]
fn the_buffer_is_what_its_model_is() {
    let seed = number("MILLRACE_MODEL_SEED", SEED);
    let cases = number("MILLRACE_MODEL_CASES", CASES);
    println!("{cases} cases from seed {seed}");
    for seed in seed..seed + cases {
        run(seed);
    }
}

fn run(seed: u64) {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config {
        cases: 1,
        max_shrink_iters: number("MILLRACE_MODEL_SHRINK", 300) as u32,
        failure_persistence: None,
        ..Config::default()
    };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let steps = prop::collection::vec(step::step(), 1..80);
    let result = runner.run(
        &(step::setup(), steps, any::<bool>()),
        |(setup, steps, reconnect)| {
            let mut world = World::new(setup);
            for step in &steps {
                world.step(step);
            }
            world.finish(reconnect);
            Ok(())
        },
    );
    match result {
        Ok(()) => {}
        Err(TestError::Fail(why, steps)) => panic!(
            "{why}\nMILLRACE_MODEL_SEED={seed} MILLRACE_MODEL_CASES=1 has it again; the shortest way to it:\n{steps:#?}"
        ),
        Err(why) => panic!("{why}"),
    }
}
