//! What is found out about a bundle before it may run: signature, digests, size, operators, shapes, golden windows through the
//! way of production, then how long a window takes and how much memory.
//!
//! It runs in a process of its own (see [`super::inspector`]), because only the end of a process ends a model that never
//! ends and gives back what a model takes.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::Duration;

use millrace_inference::{Bundle, Column, Detector, PublicKey, Signed, Source, Trust};
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::device::chain;

/// Windows that are scored to measure; fewer where they take too long. Time is that of the processor: whoever is examined stands back.
const PROBE_WINDOWS: usize = 200;
const PROBE_TIME: Duration = Duration::from_millis(500);
/// Windows that are made up where a bundle has no golden ones.
const MADE_UP_WINDOWS: usize = 32;
/// An answer is for people; what is longer than this is cut.
const ANSWER_CHARS_MAX: usize = 4_000;

/// What is to be examined, and what it may cost.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Question {
    /// Directory or tar.
    pub(crate) bundle: PathBuf,
    keys: Vec<String>,
    revoked: Vec<String>,
    required: bool,
    /// Time of the processor.
    pub(crate) time: Duration,
    /// Bytes.
    pub(crate) memory: u64,
}

/// What a model that runs here is like.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Examined {
    /// Its version.
    pub(crate) version: String,
    /// SHA-256 of its model.toml.
    pub(crate) digest: String,
    /// SHA-256 of its model file.
    pub(crate) sha256: String,
    /// `unsigned`, `unverified`, or the fingerprint of the key.
    pub(crate) signature: String,
    /// Its inputs.
    pub(crate) roles: Vec<String>,
    /// What it costs.
    pub(crate) probe: Probe,
}

/// What a model costs, as measured on this gateway: time of the processor, and memory.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Probe {
    /// Windows that were scored.
    pub(crate) windows: usize,
    /// Half of them took no longer.
    pub(crate) p50_us: f64,
    /// 99 of 100 took no longer.
    pub(crate) p99_us: f64,
    /// Memory that building and scoring took.
    pub(crate) memory_bytes: u64,
}

/// What is found, or why it may not run.
pub(crate) type Answer = Result<Examined, String>;

impl Question {
    /// Asks about a bundle.
    pub(crate) fn new(bundle: PathBuf, trust: &Trust, time: Duration, memory: u64) -> Self {
        let text = |keys: &[PublicKey]| keys.iter().map(|key| key.to_base64()).collect();
        Self {
            bundle,
            keys: text(&trust.keys),
            revoked: text(&trust.revoked),
            required: trust.required,
            time,
            memory,
        }
    }

    fn trust(&self) -> Result<Trust, String> {
        let keys = |texts: &[String]| -> Result<Vec<PublicKey>, String> {
            let keys = texts.iter().map(|text| PublicKey::parse(text));
            keys.collect::<Result<_, _>>()
                .map_err(|error| error.to_string())
        };
        Ok(Trust {
            keys: keys(&self.keys)?,
            revoked: keys(&self.revoked)?,
            required: self.required,
        })
    }
}

/// Examines a bundle.
pub(crate) fn answer(question: &Question) -> Answer {
    let found = catch_unwind(AssertUnwindSafe(|| examined(question)));
    let found = found.unwrap_or_else(|_| Err("it broke the examination down".to_owned()));
    found.map_err(|sentence| sentence.chars().take(ANSWER_CHARS_MAX).collect())
}

fn examined(question: &Question) -> Answer {
    let before = own_memory("self").unwrap_or_default();
    let bundle = Bundle::load_trusted(&question.bundle, &question.trust()?)
        .map_err(|error| chain(&error))?;
    let detector = Detector::build(&bundle).map_err(|error| chain(&error))?;
    let mut probe = probe(&bundle, &detector)?;
    probe.memory_bytes = own_memory("self")
        .unwrap_or_default()
        .saturating_sub(before);
    let roles = bundle.inputs().iter().map(|input| input.role.clone());
    Ok(Examined {
        version: bundle.version().to_owned(),
        digest: bundle.digest().to_owned(),
        sha256: bundle.sha256().to_owned(),
        signature: match bundle.signed() {
            Signed::No => "unsigned".to_owned(),
            Signed::Unverified => "unverified".to_owned(),
            Signed::By(key) => key.fingerprint(),
        },
        roles: roles.collect(),
        probe,
    })
}

/// Scores windows until enough is known.
fn probe(bundle: &Bundle, detector: &Detector) -> Result<Probe, String> {
    let windows = match bundle.golden() {
        Some(golden) => golden.windows.iter().map(|it| it.values.clone()).collect(),
        None => made_up(bundle),
    };
    let (mut times, mut failure) = (Vec::new(), None);
    let began = used();
    for window in windows
        .iter()
        .cycle()
        .take(PROBE_WINDOWS.max(windows.len()))
    {
        let start = used();
        match detector.score(window) {
            Ok(_) => times.push(used().saturating_sub(start)),
            Err(error) => failure = Some(error),
        }
        if used().saturating_sub(began) > PROBE_TIME {
            break;
        }
    }
    if let (Some(error), true) = (&failure, times.is_empty()) {
        return Err(format!(
            "it scores none of {} plausible windows: {}",
            windows.len(),
            chain(error)
        ));
    }
    times.sort_unstable();
    let at = |share: f64| {
        let index = ((times.len() as f64 * share) as usize).min(times.len().saturating_sub(1));
        times.get(index).copied().unwrap_or_default().as_secs_f64() * 1e6
    };
    Ok(Probe {
        windows: times.len(),
        p50_us: at(0.5),
        p99_us: at(0.99),
        memory_bytes: 0,
    })
}

/// Windows within the ranges of the inputs; the same ones each time.
fn made_up(bundle: &Bundle) -> Vec<Vec<f32>> {
    let mut random = fastrand::Rng::with_seed(7);
    let normalisation = bundle.window().normalisation.as_ref();
    let columns = &bundle.manifest().columns;
    let mut value = |index: usize, column: &Column| -> f32 {
        let range = match column.source {
            Source::Input(input) => bundle.inputs().get(input).and_then(|it| it.range),
            _ => None,
        };
        let (low, high) = match (range, normalisation) {
            (Some(range), _) => range,
            (None, Some(it)) => {
                let (mean, scale) = (it.mean[index], it.scale[index]);
                (mean - scale, mean + scale)
            }
            (None, None) => (-1.0, 1.0),
        };
        (low + (high - low) * random.f64()) as f32
    };
    let mut window = || -> Vec<f32> {
        let rows = 0..bundle.manifest().window_rows();
        rows.flat_map(|_| columns.iter().enumerate())
            .map(|(index, column)| value(index, column))
            .collect()
    };
    (0..MADE_UP_WINDOWS).map(|_| window()).collect()
}

/// What this thread has used of the processor.
fn used() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// Memory of a process that is its own, without its program: `self`, or a process id.
pub(super) fn own_memory(process: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}
