//! Versions that come, go, fail and burn time, on a clock that stands still unless a sample comes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use millrace_buffer::{Buffer, Item, Outbox, Settings, Start, TagSpec};
use millrace_inference::{
    CalibrationRule, Column, DecisionRule, Fill, Input, ScoreError, ScoreFunction, Scored, Source,
    Threshold, Window, WindowView,
};
use millrace_tags::{Moment, Sample, SourceKind, TestClock, Value, ValueType};

use super::*;
use crate::events::EventLog;
use crate::live::LiveTable;

/// From one row to the next.
const GRID: Duration = Duration::from_millis(100);
/// Rows of a window.
const LEN: usize = 5;
/// A machine that has much else to do.
const PATIENCE: Duration = Duration::from_secs(60);

struct Bench {
    running: RunningModels,
    model: Arc<Model>,
    tap: ModelTap,
    buffer: Buffer,
    outbox: Outbox,
    events: Arc<EventLog>,
    clock: Arc<TestClock>,
    verdicts: Arc<Mutex<Vec<Verdict>>>,
    offered: u64,
    score: TagId,
    _dir: tempfile::TempDir,
}

impl Bench {
    fn new(cpu_percent: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(TestClock::new(1, None));
        let buffer = Buffer::open(Settings::new(dir.path()), clock.clone()).unwrap();
        let outbox = buffer.outbox("cloud", Start::Oldest);
        let spec = |name: &str| TagSpec {
            name: name.into(),
            value_type: ValueType::F64,
            unit: None,
        };
        let specs = [spec("score"), spec("ratio")];
        let registered = buffer.register("watch", SourceKind::Model, &specs);
        let events = Arc::new(EventLog::new(clock.clone()));
        let mut models = Models::new(cpu_percent, clock.clone());
        let publisher = Publisher {
            name: "watch".to_owned(),
            tags: ModelTags {
                source: registered.source,
                score: registered.tags[0],
                ratio: registered.tags[1],
                others: Mutex::default(),
            },
            buffer: buffer.clone(),
            live: Arc::new(LiveTable::default()),
            events: events.clone(),
        };
        let model = models.add(Plan {
            name: "watch".to_owned(),
            roles: vec!["level".to_owned()],
            bounds: Bounds {
                trial: Duration::from_secs(60),
                window_budget: Duration::from_millis(5),
                events: 2,
            },
            publisher,
        });
        let tap = model.tap([(TagId(900), vec![0])].into());
        let verdicts = Arc::new(Mutex::new(Vec::new()));
        let keep = verdicts.clone();
        let running = models
            .start(Box::new(move |_, verdict| {
                keep.lock().unwrap().push(verdict);
            }))
            .unwrap();
        Self {
            running,
            model,
            tap,
            buffer,
            outbox,
            events,
            clock,
            verdicts,
            offered: 0,
            score: registered.tags[0],
            _dir: dir,
        }
    }

    /// The next sample comes, a grid step later.
    fn offer(&mut self, value: f64) {
        self.clock.advance(GRID);
        self.offered += 1;
        let sample = Sample::good(TagId(900), Value::F64(value), self.clock.now());
        self.tap.offer(&[sample]);
    }

    /// Waits until this is so.
    async fn until(&self, what: &str, is_so: impl Fn(&ModelStatus) -> bool) -> ModelStatus {
        let begin = Instant::now();
        loop {
            let status = self.model.report();
            if is_so(&status) {
                return status;
            }
            assert!(begin.elapsed() < PATIENCE, "{what}: {status:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Windows that there must have been: from the first whole one to the newest row.
    fn windows(&self) -> u64 {
        // The newest sample's row waits for others that may come late.
        self.offered - 1 - (LEN as u64 - 1)
    }

    /// Waits until every window is told or counted as shed.
    async fn all_told(&self) -> ModelStatus {
        let windows = self.windows();
        self.until("all windows", |status| {
            status.windows_total + status.windows_shed_total >= windows
        })
        .await
    }

    /// Ends everything; the scores that were kept, with the times of their windows.
    async fn end(mut self) -> Vec<(Moment, f64)> {
        assert!(self.running.stop(PATIENCE).await);
        self.buffer.commit().unwrap();
        let budget = millrace_buffer::Budget {
            records: 10_000,
            backlog: true,
        };
        let mut scores = Vec::new();
        let begin = Instant::now();
        while self.buffer.ledger().devices["watch"].acquired > 2 * scores.len() as u64 {
            assert!(begin.elapsed() < PATIENCE);
            let Some(offer) = self.outbox.next(budget) else {
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            };
            if let Item::Parcel(parcel) = &offer.item
                && let millrace_tags::Records::Samples(samples) = &parcel.records
            {
                for sample in samples.iter().filter(|it| it.tag == self.score) {
                    let score = sample.value.as_ref().and_then(Value::as_f64);
                    scores.push((sample.gateway_time, score.unwrap()));
                }
            }
            self.outbox.acked(offer.id);
        }
        self.buffer.close().unwrap();
        // The newest are sent first.
        scores.sort_by_key(|(at, _)| *at);
        scores
    }
}

/// Each window once, none missing.
fn assert_whole(scores: &[(Moment, f64)]) {
    for pair in scores.windows(2) {
        let step = pair[1].0.0 - pair[0].0.0;
        assert_eq!(step, GRID.as_nanos() as i64, "{pair:?}");
    }
}

/// A version whose threshold is 10.
fn spec(name: &str, len: usize) -> ModelSpec {
    ModelSpec {
        name: "watch".to_owned(),
        version: name.to_owned(),
        sha256: format!("sha-{name}"),
        inputs: vec![Input {
            role: "level".to_owned(),
            unit: String::new(),
            fill: Fill::Hold,
            range: None,
            required: true,
            max_gap: None,
        }],
        columns: vec![Column {
            role: "level".to_owned(),
            source: Source::Input(0),
        }],
        window: Window {
            len,
            stride: 1,
            grid: Grid::Every(GRID),
            lateness: GRID,
            max_gap: Duration::from_secs(2),
            min_good_share: 0.5,
            normalisation: None,
        },
        output: None,
        threshold: Threshold::Fixed(10.0),
        decision: DecisionRule {
            smoothing: 1,
            on: 1,
            on_of: 1,
            off: 1,
            off_ratio: 0.9,
            cooldown: Duration::ZERO,
            severity: Vec::new(),
        },
        asset: String::new(),
        scores_gaps: false,
    }
}

/// A version of that kind, and how it scores.
fn version(
    name: &str,
    score: impl Fn(WindowView<'_>) -> Result<f64, ScoreError> + Send + Sync + 'static,
) -> Built {
    let spec = spec(name, LEN);
    let function = ScoreFunction::new(move |window| {
        Ok(Scored {
            score: score(window)?,
            contribution: None,
            values: Vec::new(),
        })
    });
    Built::new(&spec, function, Some(name.to_owned()))
}

/// Scores with the newest value of the window.
fn newest(window: WindowView<'_>) -> Result<f64, ScoreError> {
    Ok(f64::from(window.values[window.values.len() - 1]))
}

/// A version that always gives this number.
fn constant(name: &str, number: f64) -> Built {
    version(name, move |_| Ok(number))
}

fn burn(time: Duration) {
    let begin = priority::used();
    while priority::used() - begin < time {
        std::hint::spin_loop();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_swaps_under_load_lose_no_window() {
    let mut bench = Bench::new(400);
    bench.model.begin(constant("0", 0.0), false);
    for _ in 0..20 {
        bench.offer(1.0);
    }
    let mut expected = "0".to_owned();
    for number in 1..=100u32 {
        let name = number.to_string();
        // Some windows of the new version are there already when the one before is still at work.
        let swap = match number % 10 {
            3 => version(&name, |_| Err(ScoreError::NotANumber { output: "score" })),
            5 => version(&name, |_| panic!("a mistake in a model")),
            7 => {
                let score = f64::from(number) / 1000.0;
                version(&name, move |_| {
                    std::thread::sleep(Duration::from_millis(3));
                    Ok(score)
                })
            }
            _ => constant(&name, f64::from(number) / 1000.0),
        };
        let fails = matches!(number % 10, 3 | 5);
        let model = bench.model.clone();
        let swapping = tokio::spawn(async move { model.swap(swap, true).await });
        for _ in 0..number % 7 {
            bench.offer(1.0);
            tokio::task::yield_now().await;
        }
        // A version that fails beside the one before is refused, else it is taken back.
        let swapped = swapping.await.unwrap();
        assert!(
            fails || swapped == Ok(Swapped::Scores),
            "{number}: {swapped:?}"
        );
        if !fails {
            expected.clone_from(&name);
        }
        for _ in 0..5 {
            bench.offer(1.0);
        }
        let version = expected.clone();
        bench
            .until(&format!("version {expected} after {number}"), |status| {
                status.version.as_deref() == Some(&version) && status.next.is_none()
            })
            .await;
        if number % 9 == 0 {
            bench.all_told().await;
        }
    }
    let windows = bench.windows();
    let status = bench.all_told().await;
    assert_eq!(status.windows_shed_total, 0, "{status:?}");
    let told = bench.verdicts.lock().unwrap().len();
    let scores = bench.end().await;
    assert_whole(&scores);
    assert_eq!(scores.len() as u64, windows);
    let versions: std::collections::BTreeSet<u64> = scores
        .iter()
        .map(|(_, score)| (score * 1000.0).round() as u64)
        .collect();
    assert_eq!(
        versions.len(),
        81,
        "each version that works has told windows"
    );
    assert!(told <= 20, "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_fails_in_its_trial_is_taken_back() {
    let burning = Arc::new(AtomicBool::new(true));
    let still = burning.clone();
    let from = Moment(3_000_000_000);
    let later = move |window: WindowView<'_>| window.times[LEN - 1] > from;
    let nan = version("nan", move |window| match later(window) {
        true => Err(ScoreError::NotANumber { output: "score" }),
        false => Ok(2.0),
    });
    let panicking = version("panicking", move |window| match later(window) {
        true => panic!("index out of bounds"),
        false => Ok(2.0),
    });
    let endless = version("endless", move |window| {
        while later(window) && still.load(Ordering::Relaxed) {
            burn(Duration::from_millis(1));
        }
        Ok(2.0)
    });
    let events = version("nervous", move |window| {
        let odd = window.times[LEN - 1].0 / 100_000_000 % 2 == 1;
        Ok(if later(window) && odd { 20.0 } else { 2.0 })
    });
    for (bad, why) in [
        (nan, "score"),
        (panicking, "panic: index out of bounds"),
        (endless, "does not end"),
        (events, "trial_events is 2"),
    ] {
        let name = bad.id().version.clone();
        let mut bench = Bench::new(400);
        bench.model.begin(version("good", newest), false);
        for _ in 0..10 {
            bench.offer(1.0);
        }
        bench.all_told().await;
        assert_eq!(bench.model.swap(bad, true).await, Ok(Swapped::Scores));
        for _ in 0..15 {
            bench.offer(1.0);
        }
        let status = bench.all_told().await;
        let trial = status.trial.unwrap();
        assert_eq!(trial.previous.as_deref(), Some("good"), "{name}");
        assert_eq!(status.version.as_deref(), Some(name.as_str()));
        for _ in 0..15 {
            bench.offer(1.0);
        }
        let status = bench.until(&name, |it| it.taken_back.is_some()).await;
        let taken_back = status.taken_back.unwrap();
        assert!(taken_back.reason.contains(why), "{taken_back:?}");
        assert_eq!(taken_back.version, name);
        assert_eq!(status.version.as_deref(), Some("good"));
        let status = bench.all_told().await;
        assert_eq!((status.state.as_str(), status.error), ("running", None));
        let rows = bench.events.report();
        let alarm = rows.iter().rfind(|row| row.kind == "alarm").unwrap();
        let said = alarm.detail["message"].as_str().unwrap();
        assert!(
            said.contains("good goes on") && said.contains(why),
            "{said}"
        );
        assert!(!status.anomaly, "{name}");
        let anomalies: Vec<&str> = rows
            .iter()
            .filter(|row| row.kind == "anomaly")
            .map(|row| row.state.as_str())
            .collect();
        let begun = anomalies.iter().filter(|it| **it == "begin").count();
        assert_eq!(
            anomalies.len(),
            2 * begun,
            "each that begins ends: {anomalies:?}"
        );
        let verdicts = bench.verdicts.lock().unwrap().clone();
        let [
            Verdict::TakenBack {
                failed, goes_on, ..
            },
        ] = verdicts.as_slice()
        else {
            panic!("{verdicts:?}");
        };
        assert_eq!(failed.shelf.as_deref(), Some(name.as_str()));
        assert_eq!(goes_on.as_ref().unwrap().version, "good");
        let windows = bench.windows();
        burning.store(false, Ordering::Relaxed);
        let scores = bench.end().await;
        assert_whole(&scores);
        assert_eq!(scores.len() as u64, windows, "{name}");
        assert_eq!(scores.last().unwrap().1, 1.0);
        burning.store(true, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_version_is_taken_back_and_a_good_one_stays() {
    let mut bench = Bench::new(400);
    bench.model.begin(constant("good", 1.0), false);
    for _ in 0..10 {
        bench.offer(1.0);
    }
    // Not measured by the machine's clock: what others do does not count.
    bench
        .model
        .swap(constant("better", 2.0), true)
        .await
        .unwrap();
    for _ in 0..10 {
        bench.offer(1.0);
    }
    bench.all_told().await;
    bench.clock.advance(Duration::from_secs(60));
    let status = bench
        .until("the end of the trial", |it| it.trial.is_none())
        .await;
    assert_eq!(status.version.as_deref(), Some("better"));
    assert!(status.taken_back.is_none());
    let verdicts = bench.verdicts.lock().unwrap().clone();
    assert!(matches!(&verdicts[..], [Verdict::Proved(id)] if id.version == "better"));

    let bounds = Bounds {
        window_budget: Duration::from_millis(5),
        trial: Duration::from_secs(60),
        events: 0,
    };
    let mut trial = trial::Trial::new(bounds, Moment(0));
    let mut told = Vec::new();
    for ms in [1, 9, 1, 9, 1, 1, 6] {
        told.push(trial.time(Duration::from_millis(ms)));
    }
    assert!(told[..6].iter().all(Option::is_none), "{told:?}");
    assert!(
        told[6].as_ref().unwrap().contains("window_budget, 5 ms"),
        "{told:?}"
    );
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_ten_times_over_its_budget_sheds_counted_windows() {
    let mut bench = Bench::new(2);
    // 20 ms each 100 ms is 20 % of a core.
    bench.model.begin(
        version("slow", |_| {
            burn(Duration::from_millis(20));
            Ok(1.0)
        }),
        false,
    );
    for _ in 0..300 {
        bench.offer(1.0);
        if bench.offered.is_multiple_of(50) {
            bench.all_told().await;
        }
    }
    let windows = bench.windows();
    let status = bench.all_told().await;
    assert_eq!(status.windows_total + status.windows_shed_total, windows);
    // A tenth of them, and what was saved up; a busy machine makes a window cost more, or spreads them.
    assert!((15..=75).contains(&status.windows_total), "{status:?}");
    assert_eq!(status.samples_shed_total, 0);
    assert_eq!(status.state, "running");
    assert!(status.window_ms.unwrap() >= 20.0, "{status:?}");
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn outside_a_trial_a_version_that_only_fails_is_stopped_and_another_can_be_promoted() {
    let mut bench = Bench::new(400);
    bench.model.begin(
        version("broken", |window| {
            match window.times[LEN - 1].0 > 1_500_000_000 {
                true => Err(ScoreError::NotANumber { output: "score" }),
                false => Ok(11.0),
            }
        }),
        false,
    );
    for _ in 0..40 {
        bench.offer(1.0);
    }
    let told = || bench.events.report().len() == 3;
    let status = bench
        .until("a stopped model", |it| it.state == "failed" && told())
        .await;
    assert!(status.error.unwrap().contains("10 windows in a row"));
    assert!(!status.anomaly);
    let rows = bench.events.report();
    let states: Vec<&str> = rows.iter().map(|row| row.state.as_str()).collect();
    assert_eq!(
        states,
        ["begin", "end", "end"],
        "the anomaly, and that it is stopped"
    );
    let before = bench.model.report().windows_total;
    assert_eq!(
        bench.model.swap(constant("repaired", 1.0), true).await,
        Ok(Swapped::Scores)
    );
    for _ in 0..10 {
        bench.offer(1.0);
    }
    let status = bench
        .until("scores again", |it| it.windows_total >= before + 9)
        .await;
    assert_eq!(status.state, "running");
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shadow_is_compared_tells_nothing_and_takes_over_with_its_event() {
    let mut bench = Bench::new(400);
    bench.model.begin(version("live", newest), false);
    for _ in 0..10 {
        bench.offer(1.0);
    }
    bench.all_told().await;
    bench
        .model
        .shadow(version("shadow", |window| Ok(newest(window)? + 4.0)));
    bench.until("a shadow", |it| it.shadow.is_some()).await;
    for value in [2.0, 3.0, 7.0, 8.0, 8.0, 8.0] {
        bench.offer(value);
    }
    bench.all_told().await;
    let compared = |status: &ModelStatus| {
        status
            .shadow
            .as_ref()
            .is_some_and(|it| it.windows_compared >= 6)
    };
    let status = bench.until("compared windows", compared).await;
    let shadow = status.shadow.unwrap();
    assert_eq!(
        (
            shadow.version.as_str(),
            shadow.events_shadow,
            shadow.events_live
        ),
        ("shadow", 1, 0)
    );
    assert_eq!(shadow.score_difference_max, Some(4.0));
    assert!(shadow.alarms_only_shadow >= 2 && shadow.alarms_only_live == 0);
    assert!(bench.events.report().is_empty(), "a shadow tells nothing");
    assert_eq!(status.windows_total, bench.windows());

    let swapped = bench.model.swap(version("shadow", newest), true).await;
    assert_eq!(swapped, Ok(Swapped::Scores));
    let told = || bench.events.report().len() == 1;
    bench
        .until("the event", |it| {
            it.anomaly && it.shadow.is_none() && told()
        })
        .await;
    let rows = bench.events.report();
    assert_eq!((rows.len(), rows[0].state.as_str()), (1, "begin"));
    assert_eq!(rows[0].detail["version"], "shadow");
    bench.offer(1.0);
    bench.offer(1.0);
    bench.until("the end of the event", |it| !it.anomaly).await;
    assert_eq!(bench.events.report().last().unwrap().state, "end");

    bench.model.shadow(constant("other", 1.0));
    assert_eq!(bench.model.stop_shadow().await.unwrap().version, "other");
    assert_eq!(bench.model.stop_shadow().await, None);
    let windows = bench.windows();
    bench.all_told().await;
    let scores = bench.end().await;
    assert_whole(&scores);
    assert_eq!(scores.len() as u64, windows);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_with_longer_windows_fills_them_beside_the_one_before() {
    let mut bench = Bench::new(400);
    bench.model.begin(constant("short", 1.0), false);
    for _ in 0..10 {
        bench.offer(1.0);
    }
    bench.all_told().await;
    let two = ScoreFunction::new(|_| {
        Ok(Scored {
            score: 2.0,
            contribution: None,
            values: Vec::new(),
        })
    });
    let long = Built::new(&spec("long", 60), two, None);
    assert_eq!(bench.model.swap(long, false).await, Ok(Swapped::Filling));
    let status = bench.model.report();
    assert_eq!(status.version.as_deref(), Some("short"));
    assert_eq!(status.next.unwrap().version, "long");
    for _ in 0..80 {
        bench.offer(1.0);
    }
    bench
        .until("the longer one", |it| it.version.as_deref() == Some("long"))
        .await;
    for _ in 0..5 {
        bench.offer(1.0);
    }
    bench.all_told().await;
    let windows = bench.windows();
    let scores = bench.end().await;
    assert_whole(&scores);
    assert_eq!(scores.len() as u64, windows);
    let first = scores.iter().position(|(_, score)| *score == 2.0).unwrap();
    // 60 rows are there after 50 windows at the earliest; how much later it is depends on who is scheduled.
    assert!((50..=windows as usize - 1).contains(&first), "{first}");
    assert!(scores[first..].iter().all(|(_, score)| *score == 2.0));
}

/// A version that learns its threshold, over a restart; then it learns anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_version_learns_its_threshold_and_keeps_it() {
    let dir = tempfile::tempdir().unwrap();
    let built = || {
        let rule = CalibrationRule {
            q: 0.9,
            factor: 2.0,
            windows: 20,
        };
        let spec = ModelSpec {
            threshold: Threshold::Quantile(rule),
            ..spec("learner", LEN)
        };
        let newest = ScoreFunction::new(|window: WindowView<'_>| {
            Ok(Scored {
                score: f64::from(*window.values.last().unwrap()),
                contribution: None,
                values: vec![],
            })
        });
        Built::new(&spec, newest, None).keep(dir.path(), &spec, "watch")
    };
    let state = |it: &ModelStatus| it.calibration.clone().map(|it| it.state);
    let mut bench = Bench::new(400);
    bench.model.begin(built(), false);
    for _ in 0..LEN + 10 {
        bench.offer(1.0);
    }
    bench.all_told().await;
    let status = bench.model.report();
    assert_eq!((status.state.as_str(), status.ratio), ("calibrating", None));
    let windows = status.calibration.unwrap().windows.unwrap();
    assert!((5..20).contains(&windows), "{windows}");
    bench.end().await;

    // After the restart it goes on, and then a score far above is an event.
    let mut bench = Bench::new(400);
    bench.model.begin(built(), false);
    for _ in 0..LEN + 20 - windows + 2 {
        bench.offer(1.0);
    }
    let done = bench
        .until("the threshold", |it| state(it).as_deref() == Some("done"))
        .await;
    assert_eq!(done.calibration.unwrap().threshold, Some(2.0));
    for _ in 0..5 {
        bench.offer(9.0);
    }
    bench.until("the event", |it| it.anomaly).await;

    assert!(bench.model.learn_anew().await);
    let anew = bench
        .until("learning anew", |it| {
            state(it).as_deref() == Some("calibrating")
        })
        .await;
    assert!(!anew.anomaly, "its event has ended");
    assert_eq!(bench.events.report().last().unwrap().state, "end");
    bench.end().await;

    let mut bench = Bench::new(400);
    bench.model.begin(constant("fixed", 1.0), false);
    for _ in 0..LEN + 2 {
        bench.offer(1.0);
    }
    bench.all_told().await;
    assert!(!bench.model.learn_anew().await, "nothing to learn");
    bench.end().await;
}
