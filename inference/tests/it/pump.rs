//! The bundle of the demo on the pump of its README.

use millrace_inference::{Bundle, Detector, Monitor, Output};
use millrace_tags::{Event, EventDetail, EventState};

use crate::fixture::{ms, repository, sample};

const POLL_MS: i64 = 200;

/// Normal noise of mean 0 and sigma 1 from a fixed seed.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
    }

    fn uniform(&mut self) -> f64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// The pump of models/pump-anomaly/README.md.
struct Pump {
    noise: Noise,
    heat: f64,
}

impl Pump {
    fn poll(&mut self, t: f64, fault: Option<(f64, f64)>) -> [f64; 5] {
        let load = 0.7 + 0.2 * (std::f64::consts::TAU * t / 60.0).sin();
        let f = fault.map_or(0.0, |(begin, end)| {
            ((t - begin) / 2.0).clamp(0.0, 1.0) - ((t - end) / 2.0).clamp(0.0, 1.0)
        });
        self.heat += (46.0 + 6.0 * load + 2.5 * f - self.heat) * (POLL_MS as f64 / 1e3) / 10.0;
        [
            6.2 - 1.6 * load - 0.8 * f + 0.03 * self.noise.next(),
            60.0 * load * (1.0 - 0.12 * f) + 0.6 * self.noise.next(),
            8.0 + 14.0 * load
                + 2.0 * f * (std::f64::consts::TAU * 0.9 * t).sin()
                + 0.15 * self.noise.next(),
            (1.2 + 1.0 * load) * (1.0 + 2.0 * f) + 0.08 * self.noise.next(),
            self.heat + 0.25 * self.noise.next(),
        ]
    }
}

/// Runs the pump; gives the number of scores, the highest ratio and the events.
fn run(seconds: i64, seed: u64, fault: Option<(f64, f64)>) -> (usize, f64, Vec<Event>) {
    let bundle = Bundle::load(&repository().join("models/pump-anomaly")).unwrap();
    let detector = Detector::build(&bundle).unwrap();
    let mut monitor = Monitor::new(&bundle, detector);
    let mut pump = Pump {
        noise: Noise(seed),
        heat: 50.2,
    };
    let (mut scores, mut highest, mut events) = (0, 0.0f64, Vec::new());
    for poll in 0..seconds * 1_000 / POLL_MS {
        let at = poll * POLL_MS;
        for (input, value) in pump.poll(at as f64 / 1e3, fault).into_iter().enumerate() {
            monitor.feed(input, &sample(at, value));
        }
        for output in monitor.advance(ms(at)) {
            match output {
                Output::Score { ratio, .. } => {
                    scores += 1;
                    highest = highest.max(ratio.unwrap());
                }
                Output::NotScored { .. } => assert!(at < 5_000),
                Output::Event(event) => events.push(event),
            }
        }
    }
    (scores, highest, events)
}

#[test]
fn normal_operation_gives_no_event() {
    let (scores, highest, events) = run(600, 1, None);
    assert_eq!(events, []);
    assert!(scores > 2_300);
    assert!(highest < 0.9, "{highest}");
}

#[test]
fn a_fault_gives_one_event() {
    for seed in [2, 3, 4] {
        let (_, highest, events) = run(90, seed, Some((30.0, 45.0)));
        assert!(highest > 5.0);
        let begin = events.first().unwrap();
        assert_eq!(begin.state, EventState::Begin);
        assert!(
            begin.start > ms(30_000) && begin.at < ms(35_000),
            "{begin:?}"
        );
        let end = events.last().unwrap();
        assert_eq!(end.state, EventState::End);
        assert!(end.at > ms(45_000) && end.at < ms(60_000), "{end:?}");
        let between = &events[1..events.len() - 1];
        assert!(
            between
                .iter()
                .all(|event| event.state == EventState::Update)
        );
        let EventDetail::Anomaly { top, .. } = &end.detail else {
            panic!("not an anomaly");
        };
        assert_eq!(top[0].role, "vibration");
    }
}
