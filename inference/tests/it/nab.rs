//! A recorded series, replayed a row a scan: data and labels in tests/data/nab.

use millrace_inference::{Bundle, Detector, Monitor, Output};
use millrace_tags::EventState;

use crate::fixture::{ms, repository, sample};

const MINUTES_PER_ROW: i64 = 5;

/// The windows that the benchmark labels.
const LABELS: [(&str, &str); 4] = [
    ("2013-12-10 06:25:00", "2013-12-12 05:35:00"),
    ("2013-12-15 17:50:00", "2013-12-17 17:00:00"),
    ("2014-01-27 14:20:00", "2014-01-29 13:30:00"),
    ("2014-02-07 14:55:00", "2014-02-09 14:05:00"),
];

#[test]
fn raises_events_in_labelled_windows_only() {
    let bundle = Bundle::load(&repository().join("models/nab-machine-temperature")).unwrap();
    let detector = Detector::build(&bundle).unwrap();
    let mut monitor = Monitor::new(&bundle, detector);
    let data = repository().join("tests/data/nab/machine_temperature_system_failure.csv");
    let rows: Vec<(String, f64)> = csv::Reader::from_path(data)
        .unwrap()
        .deserialize()
        .map(Result::unwrap)
        .collect();
    assert_eq!(rows.len(), 22_695);

    let mut begun = Vec::new();
    for (i, (time, value)) in rows.iter().enumerate() {
        let at = i as i64 * MINUTES_PER_ROW * 60_000;
        monitor.feed(0, &sample(at, *value));
        for output in monitor.end_scan(ms(at)) {
            if let Output::Event(event) = output
                && event.state == EventState::Begin
            {
                begun.push(time.as_str());
            }
        }
    }
    // Times in this form sort as text. The third label is a slow fall that the model does not see.
    let hit = |label: &(&str, &str)| begun.iter().any(|time| (label.0..=label.1).contains(time));
    let hits: Vec<bool> = LABELS.iter().map(hit).collect();
    assert_eq!(hits, [true, true, false, true], "{begun:?}");
    assert_eq!(begun.len(), 3, "{begun:?}");
}
