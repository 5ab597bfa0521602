//! What a simulated tag is worth over time.
//!
//! A signal is written as words: `sine 50 10 30s 0.5`. Everything random comes from a seed, so that a run
//! repeats.

use std::f64::consts::TAU;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// A random walk takes its steps this often.
const WALK_STEP: Duration = Duration::from_millis(100);

/// Noise changes this often: two reads of one moment agree.
const NOISE_STEP_MS: u128 = 1;

/// The course of a simulated value.
#[derive(Debug, Clone, PartialEq)]
pub enum Signal {
    /// `constant 5`
    Constant(f64),
    /// `counter`: how often the value was served before, from 0.
    Counter,
    /// `unique`: a number of 32 bits that is another with each request, in no order: by it one can tell
    /// which request a value answers.
    Unique,
    /// `tick 100ms`: how many periods have passed, from 0.
    Tick(Duration),
    /// `meter 65000 3.5 65536`: counts from the first number on, so many a second, and is 0 again when it gets to
    /// the third: a counter that rolls over.
    Meter {
        /// The first value.
        start: f64,
        /// Counts a second.
        rate: f64,
        /// The first number that it does not reach.
        rollover: f64,
    },
    /// `ramp 0 100 60s`: from the first to the second number, again and again.
    Ramp {
        /// The value at the beginning of a period.
        from: f64,
        /// The value at its end.
        to: f64,
        /// From one beginning to the next.
        period: Duration,
    },
    /// `sine 50 10 30s`, or with noise `sine 50 10 30s 0.5`: mean, amplitude, period, standard deviation.
    Sine {
        /// The middle.
        mean: f64,
        /// From the middle to the top.
        amplitude: f64,
        /// The time of one wave.
        period: Duration,
        /// Standard deviation of the noise on it.
        noise: f64,
    },
    /// `square 0 1 10s`: half a period the first number, half a period the second.
    Square {
        /// The first half.
        low: f64,
        /// The second half.
        high: f64,
        /// Both halves together.
        period: Duration,
    },
    /// `walk 50 0.5 0 100`: a random walk from a start, by steps of at most so much, between two limits.
    Walk {
        /// The first value.
        start: f64,
        /// The longest step, up or down.
        step: f64,
        /// It never gets below.
        low: f64,
        /// It never gets above.
        high: f64,
    },
    /// `text PUMP-01`
    Text(Arc<str>),
    /// Recorded values, one each period, from the beginning again after the last. Made by code only.
    Recorded {
        /// The values.
        values: Arc<[f64]>,
        /// How long each lasts.
        period: Duration,
    },
}

/// Why words are no signal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignalError {
    /// The first word names none.
    #[error("{given:?} is not a signal")]
    Unknown {
        /// The words.
        given: String,
    },
    /// The words after the name do not fit it.
    #[error("signal {given:?} is not of the form {form:?}")]
    Form {
        /// The words.
        given: String,
        /// How it is written.
        form: &'static str,
    },
}

impl SignalError {
    /// What to write instead.
    pub fn hint(&self) -> String {
        match self {
            SignalError::Unknown { .. } => format!("the signals are: {}", FORMS.join(", ")),
            SignalError::Form { form, .. } => {
                format!("write it as {form}; durations have a unit: 100ms, 5s, 2m, 1h")
            }
        }
    }
}

const FORMS: [&str; 10] = [
    "constant VALUE",
    "counter",
    "unique",
    "tick PERIOD",
    "meter START RATE ROLLOVER",
    "ramp FROM TO PERIOD",
    "sine MEAN AMPLITUDE PERIOD [NOISE]",
    "square LOW HIGH PERIOD",
    "walk START STEP LOW HIGH",
    "text WORDS",
];

impl FromStr for Signal {
    type Err = SignalError;

    fn from_str(given: &str) -> Result<Self, SignalError> {
        let given = given.trim();
        let (name, rest) = given.split_once(' ').unwrap_or((given, ""));
        let form = FORMS
            .into_iter()
            .find(|form| form.split(' ').next() == Some(name))
            .ok_or_else(|| SignalError::Unknown {
                given: given.to_owned(),
            })?;
        if name == "text" {
            return Ok(Signal::Text(rest.trim().into()));
        }
        let words: Vec<&str> = rest.split_whitespace().collect();
        of_words(name, &words).ok_or_else(|| SignalError::Form {
            given: given.to_owned(),
            form,
        })
    }
}

fn of_words(name: &str, words: &[&str]) -> Option<Signal> {
    Some(match (name, words) {
        ("constant", [value]) => Signal::Constant(number(value)?),
        ("counter", []) => Signal::Counter,
        ("unique", []) => Signal::Unique,
        ("tick", [period]) => Signal::Tick(duration(period)?),
        ("meter", [start, rate, rollover]) => Signal::Meter {
            start: number(start).filter(|start| *start >= 0.0)?,
            rate: number(rate).filter(|rate| *rate >= 0.0)?,
            rollover: number(rollover).filter(|rollover| *rollover >= 1.0)?,
        },
        ("ramp", [from, to, period]) => Signal::Ramp {
            from: number(from)?,
            to: number(to)?,
            period: duration(period)?,
        },
        ("sine", [mean, amplitude, period, noise @ ..]) if noise.len() < 2 => Signal::Sine {
            mean: number(mean)?,
            amplitude: number(amplitude)?,
            period: duration(period)?,
            noise: noise.first().map_or(Some(0.0), |noise| number(noise))?,
        },
        ("square", [low, high, period]) => Signal::Square {
            low: number(low)?,
            high: number(high)?,
            period: duration(period)?,
        },
        ("walk", [start, step, low, high]) => Signal::Walk {
            start: number(start)?,
            step: number(step)?,
            low: number(low)?,
            high: number(high).filter(|high| number(low).is_some_and(|low| low <= *high))?,
        },
        _ => return None,
    })
}

fn number(word: &str) -> Option<f64> {
    word.parse().ok().filter(|number: &f64| number.is_finite())
}

/// `100ms`, `5s`, `2m`, `1h`; never zero, since signals divide by it.
pub(crate) fn duration(word: &str) -> Option<Duration> {
    let unit_at = word.find(|c: char| c.is_ascii_alphabetic())?;
    let (count, unit) = word.split_at(unit_at);
    let seconds = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(number(count)? * seconds)
        .ok()
        .filter(|duration| !duration.is_zero())
}

/// A signal that runs.
#[derive(Debug, Clone)]
pub struct Generator {
    signal: Signal,
    seed: u64,
    /// How often [`Generator::served`] was called.
    served: u64,
    /// How often [`Generator::asked`] was called.
    asked: u64,
    walked: Walked,
}

/// How far a random walk has come.
#[derive(Debug, Clone)]
struct Walked {
    rng: fastrand::Rng,
    steps: u128,
    value: f64,
}

impl Generator {
    /// The signal from its beginning; equal seeds give equal courses.
    pub fn new(signal: Signal, seed: u64) -> Self {
        let value = match &signal {
            Signal::Walk { start, .. } => *start,
            _ => 0.0,
        };
        Self {
            signal,
            seed,
            served: 0,
            asked: 0,
            walked: Walked {
                rng: fastrand::Rng::with_seed(seed),
                steps: 0,
                value,
            },
        }
    }

    /// Another request came.
    pub fn asked(&mut self) {
        self.asked += 1;
    }

    /// The number that the signal is worth `elapsed` after its beginning; 0 for a text.
    pub fn number(&mut self, elapsed: Duration) -> f64 {
        match &self.signal {
            Signal::Constant(value) => *value,
            Signal::Counter => self.served as f64,
            Signal::Unique => f64::from((scatter(self.seed ^ scatter(self.asked)) >> 32) as u32),
            Signal::Tick(period) => periods(elapsed, *period) as f64,
            Signal::Meter {
                start,
                rate,
                rollover,
            } => (start + rate * elapsed.as_secs_f64()).floor() % rollover,
            Signal::Ramp { from, to, period } => from + (to - from) * phase(elapsed, *period),
            Signal::Sine {
                mean,
                amplitude,
                period,
                noise,
            } => {
                let wave = (TAU * phase(elapsed, *period)).sin();
                mean + amplitude * wave + noise * self.noise(elapsed)
            }
            Signal::Square { low, high, period } => {
                if phase(elapsed, *period) < 0.5 {
                    *low
                } else {
                    *high
                }
            }
            Signal::Walk {
                step, low, high, ..
            } => {
                let (step, low, high) = (*step, *low, *high);
                self.walked.to(elapsed, step, low, high)
            }
            Signal::Text(_) => 0.0,
            Signal::Recorded { values, period } => {
                let row = periods(elapsed, *period) % (values.len().max(1) as u128);
                values.get(row as usize).copied().unwrap_or(0.0)
            }
        }
    }

    /// The text that the signal is worth, where it is one.
    pub fn text(&self) -> Option<&str> {
        match &self.signal {
            Signal::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The value was handed out: a [`Signal::Counter`] goes on by one.
    pub fn served(&mut self) {
        self.served += 1;
    }

    /// Roughly normal, from -3.5 to 3.5, standard deviation 1; a function of seed and time alone.
    fn noise(&self, elapsed: Duration) -> f64 {
        let moment = (elapsed.as_millis() / NOISE_STEP_MS) as u64;
        let mut rng =
            fastrand::Rng::with_seed(self.seed ^ moment.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        // The sum of twelve uniform numbers has variance 1.
        (0..12).map(|_| rng.f64()).sum::<f64>() - 6.0
    }
}

impl Walked {
    fn to(&mut self, elapsed: Duration, step: f64, low: f64, high: f64) -> f64 {
        let steps = periods(elapsed, WALK_STEP);
        while self.steps < steps {
            let by = (self.rng.f64() * 2.0 - 1.0) * step;
            self.value = (self.value + by).max(low).min(high);
            self.steps += 1;
        }
        self.value
    }
}

/// A number that looks random, another for each other one (SplitMix64).
fn scatter(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

/// Whole periods in `elapsed`.
fn periods(elapsed: Duration, period: Duration) -> u128 {
    elapsed.as_nanos() / period.as_nanos().max(1)
}

/// How much of the running period has passed, 0 to 1.
fn phase(elapsed: Duration, period: Duration) -> f64 {
    let period = period.as_nanos().max(1);
    (elapsed.as_nanos() % period) as f64 / period as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(words: &str, seed: u64, times_ms: &[u64]) -> Vec<f64> {
        let mut generator = Generator::new(words.parse().unwrap(), seed);
        let times = times_ms.iter().map(|ms| Duration::from_millis(*ms));
        times.map(|at| generator.number(at)).collect()
    }

    #[test]
    fn courses() {
        assert_eq!(run("constant -1.5", 0, &[0, 9]), [-1.5, -1.5]);
        assert_eq!(
            run("tick 100ms", 0, &[0, 99, 100, 1050]),
            [0.0, 0.0, 1.0, 10.0]
        );
        assert_eq!(
            run("meter 98 10 100", 0, &[0, 100, 200, 10_200]),
            [98.0, 99.0, 0.0, 0.0]
        );
        assert_eq!(run("ramp 0 10 1s", 0, &[0, 500, 1000]), [0.0, 5.0, 0.0]);
        assert_eq!(
            run("square 2 7 1s", 0, &[0, 499, 500, 999]),
            [2.0, 2.0, 7.0, 7.0]
        );
        assert_eq!(
            run("sine 50 10 4s", 0, &[0, 1000, 3000]),
            [50.0, 60.0, 40.0]
        );
    }

    #[test]
    fn counter_counts_what_was_served() {
        let mut counter = Generator::new(Signal::Counter, 0);
        assert_eq!(counter.number(Duration::ZERO), 0.0);
        counter.served();
        assert_eq!(counter.number(Duration::ZERO), 1.0);
    }

    #[test]
    fn seed_repeats_a_run() {
        let times: Vec<u64> = (0..200).map(|i| i * 130).collect();
        for words in ["sine 0 1 3s 0.5", "walk 50 2 45 55"] {
            let first = run(words, 7, &times);
            assert_eq!(first, run(words, 7, &times));
            assert_ne!(first, run(words, 8, &times));
        }
        let walk = run("walk 50 2 45 55", 7, &times);
        assert!(walk.iter().all(|value| (45.0..=55.0).contains(value)));
    }

    #[test]
    fn wrong_words_are_refused_with_the_form() {
        let error = "sinus 1 2".parse::<Signal>().unwrap_err();
        assert!(error.hint().contains("sine MEAN"), "{}", error.hint());
        for words in [
            "tick",
            "tick 0s",
            "tick 5",
            "ramp 0 1",
            "meter 0 -1 10",
            "sine 1 2 3s 4 5",
            "walk 0 1 5 4",
        ] {
            let error = words.parse::<Signal>().unwrap_err();
            assert!(matches!(error, SignalError::Form { .. }), "{words}");
        }
    }
}
