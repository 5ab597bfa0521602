//! What one window costs: builds the bundles that it is given and prints the fastest and the middle of many runs.
//!
//! `cargo run --release -p millrace-inference --example speed -- BUNDLE...`; `tests/zoo/speed.py` does the same with onnxruntime.

use std::error::Error;
use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use millrace_inference::{Bundle, Detector};

const RUNS: usize = 3000;

fn main() -> Result<(), Box<dyn Error>> {
    for path in std::env::args().skip(1) {
        let bundle = Bundle::load(Path::new(&path))?;
        let begun = Instant::now();
        let detector = Detector::build(&bundle)?;
        let built = begun.elapsed();
        let len = bundle.window().len * bundle.inputs().len();
        let window: Vec<f32> = (0..len).map(|i| (i as f32 * 0.37).sin()).collect();
        let mut times: Vec<Duration> = Vec::with_capacity(RUNS);
        for _ in 0..RUNS {
            let begun = Instant::now();
            black_box(detector.score(black_box(&window))?);
            times.push(begun.elapsed());
        }
        times.sort();
        let micros = |time: Duration| time.as_secs_f64() * 1e6;
        println!(
            "{:<28} {:8.1} us fastest {:8.1} us median {:8.1} ms to build",
            bundle.name(),
            micros(times[0]),
            micros(times[RUNS / 2]),
            micros(built) / 1e3
        );
    }
    Ok(())
}
