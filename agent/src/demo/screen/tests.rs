use std::collections::BTreeMap;

use serde_json::json;

use super::*;
use crate::report::{BufferStatus, DeviceStatus, ModelStatus, UplinkStatus};

fn status() -> Status {
    Status {
        devices: vec![
            DeviceStatus {
                name: "pump-station".into(),
                driver: "modbus-tcp".into(),
                state: DeviceState::Online,
                tags: 45,
                tags_good: 45,
                reads_total: 123,
                ..DeviceStatus::default()
            },
            DeviceStatus {
                name: "tank-farm".into(),
                driver: "opcua".into(),
                state: DeviceState::Offline,
                tags: 30,
                ..DeviceStatus::default()
            },
        ],
        models: vec![ModelStatus {
            name: "pump-anomaly".into(),
            state: "running".into(),
            score: Some(2.44),
            ratio: Some(1.5),
            anomaly: true,
            ..ModelStatus::default()
        }],
        uplinks: vec![UplinkStatus {
            name: "cloud".into(),
            state: "down".into(),
            records_acked_total: 5_535,
            ..UplinkStatus::default()
        }],
        buffer: BufferStatus {
            bytes: 524_288,
            queued: BTreeMap::from([("cloud".into(), 1_234)]),
            ..BufferStatus::default()
        },
        ..Status::default()
    }
}

fn shown(of: fn(&View<'_>) -> String) -> String {
    let timeline = Timeline::new(60);
    let status = status();
    let pump = [
        TagRow {
            tag: "pump-station/vibration".into(),
            value: json!(5.561_23),
            unit: Some("mm/s".into()),
            quality: "good".into(),
            age_ms: Some(93.0),
            ..TagRow::default()
        },
        TagRow {
            tag: "pump-station/flow".into(),
            quality: "bad".into(),
            reason: Some("timeout".into()),
            age_ms: Some(1_400.0),
            ..TagRow::default()
        },
    ];
    of(&View {
        at: Duration::from_millis(25_400),
        timeline: &timeline,
        headline: headline(Phase::FaultInOutage),
        status: &status,
        pump: &pump,
        served: 6_769,
    })
}

#[test]
fn picture_of_the_worst_moment() {
    let text = shown(picture);
    assert!(
        text.lines().all(|line| line.chars().count() <= 80),
        "{text}"
    );
    insta::assert_snapshot!(text);
}

#[test]
fn line_of_the_worst_moment() {
    let text = shown(line);
    insta::assert_snapshot!(text);
}

#[test]
fn the_bar_is_always_as_long() {
    for ratio in [-1.0, 0.0, 0.5, 1.0, 1.5, 2.0, 1e9, f64::NAN] {
        assert_eq!(bar(ratio).len(), BAR_COLUMNS + 3, "{ratio}");
    }
    assert!(bar(1.0).ends_with(&format!("#|{}]", " ".repeat(20))));
}

#[test]
fn the_story_is_told_first() {
    let text = announcement(&Timeline::new(60));
    insta::assert_snapshot!(text);
}
